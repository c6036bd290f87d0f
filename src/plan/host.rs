//! The host that a request names.

use std::borrow::Cow;

/// A `Host` header that names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Host header names no valid host")]
pub struct InvalidHost;

/// The host of a `Host` header: lower case, without port and trailing dot.
///
/// # Errors
/// When it is no host name. An address is one (nobody answers to it).
pub fn parse_host(header: &str) -> Result<Cow<'_, str>, InvalidHost> {
    let (host, port) = match header.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']').ok_or(InvalidHost)?;
            let plain = inner
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
            if !plain || inner.is_empty() {
                return Err(InvalidHost);
            }
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or(InvalidHost)?),
            };
            (inner, port)
        }
        None => {
            let (host, port) = match header.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (header, None),
            };
            let host = host.strip_suffix('.').unwrap_or(host);
            let label = |l: &str| {
                (1..=63).contains(&l.len())
                    && l.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if host.len() > 253 || !host.split('.').all(label) {
                return Err(InvalidHost);
            }
            (host, port)
        }
    };
    if port.is_some_and(|p| p.len() > 5 || !p.bytes().all(|b| b.is_ascii_digit())) {
        return Err(InvalidHost);
    }
    Ok(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}
