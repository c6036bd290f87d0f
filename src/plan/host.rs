//! The host that a request names.

use core::net::Ipv6Addr;
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
            // Anything less would make `[a.b]` another spelling of `a.b`.
            inner.parse::<Ipv6Addr>().map_err(|_| InvalidHost)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_for_addresses_only() {
        for (header, want) in [
            ("[::1]", Some("::1")),
            ("[2001:DB8::1]:80", Some("2001:db8::1")),
            ("[::ffff:10.0.0.1]", Some("::ffff:10.0.0.1")),
            ("[ab.de]", None),
            ("[10.0.0.1]:80", None),
            ("[]", None),
            ("[::1]80", None),
            ("ab.de:80", Some("ab.de")),
        ] {
            assert_eq!(parse_host(header).ok().as_deref(), want, "{header}");
        }
    }
}
