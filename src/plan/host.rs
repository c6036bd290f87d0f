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
            if host.len() > 253 || !has_labels(host.as_bytes()) {
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

/// Whether a name is labels with dots between. In one pass, because each request is asked this twice.
fn has_labels(host: &[u8]) -> bool {
    let mut length = 0;
    for byte in host {
        match byte {
            b'.' if (1..=63).contains(&length) => length = 0,
            b'-' | b'_' => length += 1,
            byte if byte.is_ascii_alphanumeric() => length += 1,
            _ => return false,
        }
    }
    (1..=63).contains(&length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_name_is_labels_with_dots_between(name in "([a-zA-Z0-9_-]{0,3}|[a-z]{62,65}|[.]|[ -~é])(|[.])([a-z]{0,2}|[a-z]{63,64}|[.])") {
            let is_label = |label: &str| {
                let known = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
                (1..=63).contains(&label.len()) && label.bytes().all(known)
            };
            prop_assert_eq!(has_labels(name.as_bytes()), name.split('.').all(is_label));
        }
    }
}
