//! HTTP/2: what passes to apps that speak HTTP/1.1, and what never does.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

async fn client<B>(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("handshake");
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_is_spoken_to_clients_and_http1_to_apps() {
    let cluster = Cluster::start().await;
    let answer = |head: String| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\
             Connection: keep-alive\r\n\r\n{:x}\r\n{head}\r\n0\r\ngrpc-status: 7\r\n\r\n",
            head.len()
        )
    };
    let (address, _) = backend(answer).await;
    cluster.publish("blog_v1.web.1", address).await;
    let mut config = https::careless(&rustls::version::TLS13);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = cluster.handshake("blog.localhost", config).await;
    let tls = tls.expect("handshake");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    for (mut client, scheme) in [
        (client::<Empty<Bytes>>(tls).await, "https"),
        (client(cluster.connect().await).await, "http"),
    ] {
        // Many at once on one connection.
        let requests = (0..20).map(|n| {
            let request = Request::get(format!("{scheme}://blog.localhost/{n}?q"))
                .header("te", "trailers")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(Empty::new())
                .expect("request");
            client.send_request(request)
        });
        let answers = futures_util::future::join_all(requests).await;
        for (n, answer) in answers.into_iter().enumerate() {
            let answer = answer.expect("answered");
            assert_eq!(
                (answer.status().as_u16(), answer.version()),
                (200, Version::HTTP_2)
            );
            assert!(answer.headers().get("transfer-encoding").is_none());
            let body = answer.into_body().collect().await.expect("body");
            let trailers = body.trailers().expect("trailers");
            assert_eq!(trailers["grpc-status"], "7");
            let head = String::from_utf8(body.to_bytes().to_vec()).expect("text");
            for wanted in [
                format!("GET /{n}?q HTTP/1.1\r\n"),
                "Host: blog.localhost\r\n".into(),
                "Cookie: a=1; b=2\r\n".into(),
                "Te: trailers\r\n".into(),
                format!("X-Forwarded-Proto: {scheme}\r\n"),
            ] {
                assert!(head.contains(&wanted), "{wanted}: {head}");
            }
        }
    }
}

#[tokio::test]
async fn bodies_of_http2_pass_and_are_limited() {
    let cluster = Cluster::start().await;
    let process = Process::start("taken").await;
    cluster.publish("blog_v1.web.1", process.address).await;
    cluster.set("bodySize", "100k").await;
    let mut client = client::<Full<Bytes>>(cluster.connect().await).await;
    for (size, status) in [(0, 200), (100 << 10, 200), ((100 << 10) + 1, 413), (7, 200)] {
        let request = Request::post("http://blog.localhost/")
            .body(Full::new(Bytes::from(vec![b'x'; size])))
            .expect("request");
        let answer = client.send_request(request).await.expect("answered");
        assert_eq!(answer.status().as_u16(), status, "{size}");
    }
    let mut request = Request::get("http://blog.localhost/");
    for n in 0..200 {
        request = request.header(format!("x-{n}"), "1");
    }
    let request = request.body(Full::default()).expect("request");
    let answer = client.send_request(request).await.expect("answered");
    assert_eq!(answer.status().as_u16(), 431);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("length").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header, written out in full.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).expect("short"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Reads frames until the connection ends or `until` is among them; gives back their kinds and streams.
async fn frames(stream: &mut TcpStream, until: impl Fn(u8, u32, &[u8]) -> bool) -> Vec<(u8, u32)> {
    let mut seen = Vec::new();
    let reading = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                return;
            }
            seen.push((head[3], id));
            if until(head[3], id, &payload) {
                return;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("frames in time");
    seen
}

#[tokio::test]
async fn what_http2_could_smuggle_reaches_no_app() {
    let cluster = Cluster::start().await;
    let (address, mut events) = backend(|head| ok(&head)).await;
    cluster.publish("blog_v1.web.1", address).await;
    let usual = [
        literal(":method", "GET"),
        literal(":scheme", "http"),
        literal(":path", "/"),
        literal(":authority", "blog.localhost"),
    ];
    let with = |more: &[(&str, &str)]| {
        let more = more.iter().map(|(name, value)| literal(name, value));
        usual
            .iter()
            .cloned()
            .chain(more)
            .collect::<Vec<_>>()
            .concat()
    };
    let instead = |at: usize, name: &str, value: &str| {
        let mut all = usual.clone();
        all[at] = literal(name, value);
        all.concat()
    };
    for (what, block) in [
        (
            "a line break in a value",
            with(&[("x", "1\r\ntransfer-encoding: chunked")]),
        ),
        ("a line feed in a value", with(&[("x", "1\nhost: a")])),
        ("a zero in a value", with(&[("x", "1\x002")])),
        ("a colon in a name", with(&[("x: 1\r\ny", "2")])),
        ("capitals", with(&[("X-Capital", "2")])),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
        ),
        ("connection", with(&[("connection", "close")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te besides trailers", with(&[("te", "gzip")])),
        ("a length without a body", with(&[("content-length", "5")])),
        (
            "two lengths",
            with(&[("content-length", "0"), ("content-length", "5")]),
        ),
        (
            "a pseudo header behind others",
            with(&[("x", "1"), (":path", "/b")]),
        ),
        ("two paths", with(&[(":path", "/b")])),
        ("another host", with(&[("host", "shop.localhost")])),
        (
            "two hosts",
            with(&[("host", "blog.localhost"), ("host", "blog.localhost")]),
        ),
        (
            "a blank in the path",
            instead(2, ":path", "/ HTTP/1.1\r\nHost: a\r\n\r\nGET /"),
        ),
        ("no path", instead(2, ":path", "")),
        (
            "a blank in the method",
            instead(0, ":method", "GET / HTTP/1.1"),
        ),
        (
            "a user in the authority",
            instead(3, ":authority", "a@blog.localhost"),
        ),
        (
            "a line break in the authority",
            instead(3, ":authority", "blog.localhost\r\nx: 1"),
        ),
        ("a tunnel", instead(0, ":method", "CONNECT")),
    ] {
        let mut stream = cluster.connect().await;
        stream.write_all(OPENING).await.expect("send");
        let headers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        stream.write_all(&headers).await.expect("send");
        let refused = |kind: u8, id: u32, payload: &[u8]| {
            // In the static table 8 to 14 are statuses: 12 is 400, 13 is 404; others are spelt out.
            let status =
                kind == HEADERS && (payload[0] == 0x8c || payload[0] == 0x8d || payload[0] == 0x48);
            kind == GOAWAY || (id == 1 && (kind == RST_STREAM || status))
        };
        let seen = frames(&mut stream, refused).await;
        assert!(!seen.is_empty(), "{what}");
        assert!(events.try_recv().is_err(), "{what}: it reached the app");
    }
    // The same without any of it does.
    let mut stream = cluster.connect().await;
    stream.write_all(OPENING).await.expect("send");
    let headers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &with(&[]));
    stream.write_all(&headers).await.expect("send");
    frames(&mut stream, |kind, id, _| kind == HEADERS && id == 1).await;
    assert_eq!(events.recv().await, Some("open"));
}

/// CVE-2023-44487: streams that are opened and reset at once cost the client its connection.
#[tokio::test]
async fn rapid_resets_end_the_connection_and_nothing_else() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("blog_v1.web.1", address).await;
    // It takes connections and never answers.
    let process = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            all.push(stream);
        }
    });
    let block = [
        literal(":method", "GET"),
        literal(":scheme", "http"),
        literal(":path", "/"),
        literal(":authority", "blog.localhost"),
    ]
    .concat();
    let mut stream = cluster.connect().await;
    let mut bytes = OPENING.to_vec();
    for n in 0..5000 {
        let id = 2 * n + 1;
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, id, &block));
        bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    let (mut read, mut write) = stream.split();
    let sending = write.write_all(&bytes);
    let reading = async {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    };
    let (_, all) = timeout(PATIENCE, futures_util::future::join(sending, reading))
        .await
        .expect("ended in time");
    assert!(!all.is_empty(), "a goodbye");
    cluster.counted("deis_router_requests_in_flight 0").await;
    process.abort();
}
