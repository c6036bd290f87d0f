//! Which headers pass, and which are made here. No IO.

use core::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, CONTENT_TYPE, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
        TE, TRANSFER_ENCODING, UPGRADE,
    },
};

use super::live::random;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");
/// Names a request, in logs on both sides.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that are about one connection, besides those that `Connection` names.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    TE,
    TRANSFER_ENCODING,
];

/// Whether a request's body is framed in a way that everybody reads alike. hyper has refused most
/// of what is not (and lets `chunked` win over a length); codings besides `chunked` would be lost on
/// the way, because the header that names them stays behind.
#[must_use]
pub fn is_framing_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Headers that `Connection` can't take away: what the message means depends on them.
fn is_protected(name: &HeaderName) -> bool {
    [
        HOST,
        http::header::CONTENT_LENGTH,
        http::header::AUTHORIZATION,
        http::header::COOKIE,
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        X_FORWARDED_PORT,
        X_FORWARDED_SSL,
        X_REQUEST_ID,
    ]
    .contains(name)
}

/// Takes out what is about the connection that the message came over. Gives back the protocol that
/// it asks (or agrees) to change to.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    // Most have none, and comparing names is cheaper than looking for each.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return None;
    }
    let mut upgrade = false;
    if headers.contains_key(CONNECTION) {
        let mut named: Vec<HeaderName> = Vec::new();
        for value in headers.get_all(CONNECTION) {
            for option in value.as_bytes().split(|b| *b == b',') {
                match HeaderName::from_bytes(option.trim_ascii()) {
                    Ok(name) if name == UPGRADE => upgrade = true,
                    Ok(name) if !is_protected(&name) => named.push(name),
                    _ => {}
                }
            }
        }
        for name in named {
            headers.remove(name);
        }
    }
    let protocol = headers.remove(UPGRADE);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    protocol.filter(|_| upgrade)
}

/// Whether the client takes trailers. Over HTTP/1 that is about the connection, and only counts when
/// `Connection` says so, too.
#[must_use]
pub fn takes_trailers(headers: &HeaderMap, version: Version) -> bool {
    let names = |header: HeaderName, wanted: &[u8]| {
        let mut values = headers.get_all(header).iter();
        values.any(|value| {
            let mut words = value.as_bytes().split(|b| *b == b',');
            words.any(|word| word.trim_ascii().eq_ignore_ascii_case(wanted))
        })
    };
    names(TE, b"trailers") && (version == Version::HTTP_2 || names(CONNECTION, b"te"))
}

/// Whether a request is gRPC's own: it means what it says only in HTTP/2 from end to end. gRPC-Web is
/// something else.
#[must_use]
pub fn is_grpc(headers: &HeaderMap, version: Version) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    version == Version::HTTP_2
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Asks the backend for trailers, in HTTP/2.
pub fn set_trailers(headers: &mut HeaderMap) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
}

/// Asks the backend for trailers.
pub fn ask_for_trailers(headers: &mut HeaderMap) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONNECTION, HeaderValue::from_static("te"));
}

/// HTTP/2 may split cookies over several headers; HTTP/1 has one.
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(_)) = (cookies.next(), cookies.next()) {
        let mut text = first.as_bytes().to_vec();
        for cookie in headers.get_all(COOKIE).iter().skip(1) {
            text.extend_from_slice(b"; ");
            text.extend_from_slice(cookie.as_bytes());
        }
        if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Says that the connection changes to another protocol.
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Who the client is and how it came.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// Its address.
    pub client: HeaderValue,
    /// `http` or `https`.
    pub proto: HeaderValue,
    /// The port that it came to.
    pub port: HeaderValue,
}

/// What a load balancer that is trusted says of its client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Whether it came over TLS.
    pub secure: Option<bool>,
    /// The port that it came to.
    pub port: Option<u16>,
}

/// Reads what the proxy nearest to us has added: the last of each list is its word, the rest is what
/// it was told itself.
#[must_use]
pub fn told(headers: &HeaderMap) -> Told {
    let last = |name: HeaderName| {
        let value = headers.get_all(name).iter().next_back()?;
        Some(value.to_str().ok()?.rsplit(',').next()?.trim())
    };
    let secure = last(X_FORWARDED_PROTO).and_then(|proto| match proto {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    });
    Told {
        client: last(X_FORWARDED_FOR)
            .and_then(|text| text.parse().ok())
            .map(|client: IpAddr| client.to_canonical()),
        secure,
        port: last(X_FORWARDED_PORT)
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse().ok()),
    }
}

/// Tells the backend who the client is. What proxies before us said stays in front.
pub fn set_forwarded(headers: &mut HeaderMap, from: &Forwarded, id: &HeaderValue) {
    let chain = join(headers.get_all(X_FORWARDED_FOR).iter(), &from.client);
    headers.insert(
        X_FORWARDED_FOR,
        chain.unwrap_or_else(|| from.client.clone()),
    );
    headers.insert(X_FORWARDED_PROTO, from.proto.clone());
    headers.insert(X_FORWARDED_PORT, from.port.clone());
    let ssl = if from.proto == "https" { "on" } else { "off" };
    headers.insert(X_FORWARDED_SSL, HeaderValue::from_static(ssl));
    headers.insert(X_REQUEST_ID, id.clone());
    // Answered here, as soon as the backend wants the body.
    headers.remove(EXPECT);
}

fn join<'v>(
    before: impl Iterator<Item = &'v HeaderValue>,
    last: &HeaderValue,
) -> Option<HeaderValue> {
    let mut text: Vec<u8> = Vec::new();
    for value in before {
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b", ");
    }
    if text.is_empty() {
        return None;
    }
    text.extend_from_slice(last.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

/// The client's own id of the request if it is a harmless one, else a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let harmless = |id: &&HeaderValue| {
        (1..=128).contains(&id.len())
            && id
                .as_bytes()
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
    };
    if let Some(id) = headers.get(X_REQUEST_ID).filter(harmless) {
        return id.clone();
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let number = u128::from(random()) << 64 | u128::from(random());
    let mut text = [0; 32];
    for (at, digit) in text.iter_mut().enumerate() {
        *digit = DIGITS[(number >> (at * 4)) as usize & 15];
    }
    HeaderValue::from_bytes(&text).expect("invariant: hexadecimal digits are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in rows {
            map.append(
                name.parse::<HeaderName>().expect("name"),
                value.parse().expect("value"),
            );
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_about_a_connection_stays_behind() {
        let mut headers = map(&[
            ("host", "a"),
            ("accept", "*/*"),
            ("connection", "keep-alive, X-Private"),
            (
                "connection",
                "host, content-length, x-forwarded-for, not a name",
            ),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
        ]);
        assert_eq!(
            remove_hop_by_hop(&mut headers),
            None,
            "Connection names no upgrade"
        );
        assert_eq!(names(&headers), ["accept", "content-length", "host"]);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = map(&[
            ("connection", "Keep-Alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        let protocol = remove_hop_by_hop(&mut headers).expect("upgrade");
        assert_eq!(protocol, "websocket");
        assert!(headers.is_empty());
        assert_eq!(
            remove_hop_by_hop(&mut map(&[("connection", "upgrade")])),
            None
        );
    }

    #[test]
    fn trailers_need_to_be_asked_for() {
        for (rows, version, want) in [
            (&[("te", "trailers")][..], Version::HTTP_2, true),
            (&[("te", "trailers")][..], Version::HTTP_11, false),
            (
                &[("te", "gzip, Trailers"), ("connection", "close, TE")][..],
                Version::HTTP_11,
                true,
            ),
            (
                &[("te", "gzip"), ("connection", "te")][..],
                Version::HTTP_11,
                false,
            ),
        ] {
            assert_eq!(takes_trailers(&map(rows), version), want, "{rows:?}");
        }
    }

    #[test]
    fn grpc_is_known_by_its_type_and_version() {
        for (kind, version, want) in [
            ("application/grpc", Version::HTTP_2, true),
            ("application/grpc+proto", Version::HTTP_2, true),
            ("application/grpc;charset=utf-8", Version::HTTP_2, true),
            ("application/grpc", Version::HTTP_11, false),
            ("application/grpc-web", Version::HTTP_2, false),
            ("application/grpc-web+proto", Version::HTTP_2, false),
            ("application/json", Version::HTTP_2, false),
        ] {
            let headers = map(&[("content-type", kind)]);
            assert_eq!(is_grpc(&headers, version), want, "{kind} {version:?}");
        }
    }

    #[test]
    fn cookies_are_put_together() {
        for (rows, want) in [
            (
                &[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")][..],
                "a=1; b=2; c=3; d=4",
            ),
            (&[("cookie", "a=1")][..], "a=1"),
        ] {
            let mut headers = map(rows);
            join_cookies(&mut headers);
            let all: Vec<_> = headers.get_all(COOKIE).iter().collect();
            assert_eq!(all, [want]);
        }
    }

    #[test]
    fn a_load_balancer_s_word_is_the_last_one() {
        let all = told(&map(&[
            ("x-forwarded-for", "6.6.6.6, 192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2,  ::ffff:192.0.2.7"),
            ("x-forwarded-proto", "http, https"),
            ("x-forwarded-port", "8443"),
        ]));
        let want = Told {
            client: Some("192.0.2.7".parse().expect("address")),
            secure: Some(true),
            port: Some(8443),
        };
        assert_eq!(all, want);
        let none = told(&map(&[
            ("x-forwarded-for", "unknown"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-port", "+1"),
        ]));
        assert_eq!(none, Told::default());
    }

    #[test]
    fn the_client_is_added_behind_earlier_proxies() {
        let from = Forwarded {
            client: HeaderValue::from_static("10.0.0.9"),
            proto: HeaderValue::from_static("https"),
            port: HeaderValue::from_static("443"),
        };
        let id = HeaderValue::from_static("1");
        for (before, want) in [
            (&[][..], "10.0.0.9"),
            (&[("x-forwarded-for", "1.2.3.4")][..], "1.2.3.4, 10.0.0.9"),
            (
                &[
                    ("x-forwarded-for", "1.2.3.4, 5.6.7.8"),
                    ("x-forwarded-for", "::1"),
                ][..],
                "1.2.3.4, 5.6.7.8, ::1, 10.0.0.9",
            ),
        ] {
            let mut headers = map(before);
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("gopher"));
            set_forwarded(&mut headers, &from, &id);
            let values: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
            assert_eq!(values, [want]);
            assert_eq!(headers[X_FORWARDED_PROTO], "https");
        }
    }

    #[test]
    fn request_ids() {
        let given = |id| request_id(&map(&[("x-request-id", id)]));
        assert_eq!(given("abc-123"), "abc-123");
        assert_eq!(given("a b\"").len(), 32, "not a harmless one");
        assert_eq!(given(&"x".repeat(129)).len(), 32, "too long");
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
