//! The PROXY protocol, versions 1 and 2: what a load balancer says of its client before the client's
//! own bytes. Read from its first bytes on, as often as more have come.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, line break included.
const LINE_MAX: usize = 107;
/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and options of version 2 that are borne; the longest sensible ones have 216 bytes and a
/// certificate's name.
const REST_MAX: usize = 2048;
/// More is never waited for.
pub const MOST: usize = 16 + REST_MAX;

/// A header, read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length: the client's bytes come after it.
    pub length: usize,
    /// The client; none when the load balancer speaks for itself (its health checks).
    pub client: Option<SocketAddr>,
}

/// Bytes that are no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the connection doesn't begin with a PROXY protocol header: does the load balancer send them?"
)]
pub struct NoProxyHeader;

/// Reads the header; none while more bytes have to come.
///
/// # Errors
/// When it will not become one, whatever comes.
pub fn read(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let begins = |whole: &[u8]| {
        let length = bytes.len().min(whole.len());
        bytes[..length] == whole[..length]
    };
    if begins(&SIGNATURE) {
        read_binary(bytes)
    } else if begins(b"PROXY ") {
        read_line(bytes)
    } else {
        Err(NoProxyHeader)
    }
}

fn read_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let within = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        let open = bytes.len() < LINE_MAX && !within.contains(&b'\n');
        return if open { Ok(None) } else { Err(NoProxyHeader) };
    };
    // Refused when it came last, so also when more has come with it.
    if bytes[..end].contains(&b'\n') {
        return Err(NoProxyHeader);
    }
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| NoProxyHeader)?;
    let length = end + 2;
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words.as_slice() {
        // Whatever follows says nothing.
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, destination, port, to] => {
            let source = address(family, source)?;
            address(family, destination)?;
            number(to)?;
            Some(SocketAddr::new(source, number(port)?))
        }
        _ => return Err(NoProxyHeader),
    };
    Ok(Some(ProxyHeader { length, client }))
}

fn address(family: &str, text: &str) -> Result<IpAddr, NoProxyHeader> {
    match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6),
        _ => return Err(NoProxyHeader),
    }
    .map_err(|_| NoProxyHeader)
}

/// A port in digits, without a sign or zeros before it.
fn number(text: &str) -> Result<u16, NoProxyHeader> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain
        .then(|| text.parse().ok())
        .flatten()
        .ok_or(NoProxyHeader)
}

fn read_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else {
        return Ok(None);
    };
    let (command, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > REST_MAX || !matches!(command, 0x20 | 0x21) {
        return Err(NoProxyHeader);
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let client = match (command, family) {
        (0x20, _) | (_, 0x00) => None,
        (_, 0x11) => {
            let [a, b, c, d, _, _, _, _, high, low, ..] = *rest else {
                return Err(NoProxyHeader);
            };
            if length < 12 {
                return Err(NoProxyHeader);
            }
            let port = u16::from_be_bytes([high, low]);
            Some(SocketAddr::from(([a, b, c, d], port)))
        }
        (_, 0x21) => {
            let (Some(source), Some(port), true) =
                (rest.first_chunk::<16>(), rest.get(32..34), length >= 36)
            else {
                return Err(NoProxyHeader);
            };
            let port = u16::from_be_bytes([port[0], port[1]]);
            Some(SocketAddr::from((Ipv6Addr::from(*source), port)))
        }
        // Datagrams and unix sockets lead to no HTTP router.
        _ => return Err(NoProxyHeader),
    };
    Ok(Some(ProxyHeader {
        length: 16 + length,
        client,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut all = SIGNATURE.to_vec();
        all.extend([command, family]);
        all.extend(u16::try_from(rest.len()).expect("length").to_be_bytes());
        all.extend(rest);
        all
    }

    #[test]
    fn headers_of_both_versions() {
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x04, 0xd2, 0, 80];
        let mut six = [0; 36];
        six[0..2].copy_from_slice(&[0x20, 0x01]);
        six[15] = 1;
        six[32..34].copy_from_slice(&[0x04, 0xd2]);
        let long = [&four[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        for (bytes, client) in [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n".to_vec(),
                Some("192.0.2.7:1234"),
            ),
            (
                b"PROXY TCP6 2001::1 ::1 1234 443\r\n".to_vec(),
                Some("[2001::1]:1234"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN a b c\r\n".to_vec(), None),
            (binary(0x21, 0x11, &four), Some("192.0.2.7:1234")),
            (binary(0x21, 0x11, &long), Some("192.0.2.7:1234")),
            (binary(0x21, 0x21, &six), Some("[2001::1]:1234")),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &four), None),
        ] {
            let length = bytes.len();
            let client = client.map(|text| text.parse().expect("address"));
            let want = ProxyHeader { length, client };
            let more = [bytes.as_slice(), b"GET /"].concat();
            assert_eq!(read(&more), Ok(Some(want)), "{}", bytes.escape_ascii());
            for short in 0..length {
                let shown = bytes[..short].escape_ascii();
                assert_eq!(read(&bytes[..short]), Ok(None), "{shown}");
            }
        }
    }

    #[test]
    fn whatever_else_is_refused() {
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1234\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 01 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7  10.0.0.1 1 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 80\r\n".to_vec(),
            b"PROXY UNKNOWN a\nb\r\n".to_vec(),
            endless,
            binary(0x31, 0x11, &[0; 12]),
            binary(0x22, 0x11, &[0; 12]),
            binary(0x21, 0x12, &[0; 12]),
            binary(0x21, 0x11, &[0; 11]),
            binary(0x21, 0x21, &[0; 35]),
            [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
        ] {
            assert_eq!(read(&bytes), Err(NoProxyHeader), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        /// It never panics, never asks for more than there may be, and more bytes don't change its mind.
        #[test]
        fn what_is_read_stays(
            start in prop_oneof![
                Just(b"PROXY TCP4 ".to_vec()), Just(SIGNATURE.to_vec()), Just(Vec::new()),
            ],
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            more in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let bytes = [start, bytes].concat();
            let all = [bytes.as_slice(), &more].concat();
            match read(&bytes) {
                Ok(Some(header)) => {
                    prop_assert!(header.length <= bytes.len());
                    prop_assert_eq!(read(&all), Ok(Some(header)));
                }
                Ok(None) => prop_assert!(bytes.len() < MOST),
                Err(_) => prop_assert!(read(&all).is_err()),
            }
        }
    }
}
