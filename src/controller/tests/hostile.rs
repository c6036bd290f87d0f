//! What no client should send, and some do: the server answers or hangs up, and serves the next one.

use std::time::Duration;

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::contract::{holes::Holes, stage::Stage};
use crate::controller::testing::Site;

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends bytes and closes its side; all that comes back, whatever it is.
async fn send(site: &Site, bytes: &[u8]) -> Vec<u8> {
    let socket = TcpStream::connect(site.address).await.expect("connect");
    let (mut reader, mut writer) = socket.into_split();
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(
        async {
            // The server may have hung up meanwhile: that is its right.
            let _ = writer.write_all(bytes).await;
            let _ = writer.shutdown().await;
        },
        timeout(PATIENCE, reader.read_to_end(&mut answer)),
    );
    let _ = read.expect("the server answers or hangs up");
    answer
}

async fn lives(site: &Site) {
    let reply = site.call("", "GET", "/healthz", Value::Null).await;
    assert_eq!((reply.status(), reply.body.as_str()), (200, "OK"));
}

fn status_line(answer: &[u8]) -> String {
    let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

#[tokio::test]
async fn noise() {
    let site = Site::start().await;
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(any::<u8>(), 0..400);
    for _ in 0..300 {
        let mut bytes = strategy.new_tree(&mut runner).expect("bytes").current();
        let answer = send(&site, &bytes).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{answer:?}"
        );
        // The same, as what comes after a good beginning.
        bytes.splice(..0, *b"GET /v1/ HTTP/1.1\r\nHost: x\r\nX-Noise: ");
        bytes.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
        let answer = send(&site, &bytes).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{answer:?}"
        );
    }
    lives(&site).await;
}

#[tokio::test]
async fn heads_have_a_limit() {
    let site = Site::start().await;
    let long = format!(
        "GET /v1/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "a".repeat(2 << 20)
    );
    let many = format!(
        "GET /v1/ HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X: 1\r\n".repeat(10_000)
    );
    let path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    for (what, request) in [("long", long), ("many", many), ("path", path)] {
        let line = status_line(&send(&site, request.as_bytes()).await);
        let refused = ["", "HTTP/1.1 431 ", "HTTP/1.1 414 ", "HTTP/1.1 400 "];
        assert!(
            refused
                .iter()
                .any(|r| line == *r || (!r.is_empty() && line.starts_with(r))),
            "{what}: {line}"
        );
    }
    lives(&site).await;
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let site = Site::start().await;
    let token = site.user("ada", false).await;
    let head = |rest: &str| {
        format!(
            "POST /v1/apps/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: token {token}\r\n{rest}\r\n\r\n"
        )
    };
    let size = 10 << 20;
    let mut whole = head(&format!("Content-Length: {size}")).into_bytes();
    whole.resize(whole.len() + size, b' ');
    let mut pieces = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..(size >> 16) {
        pieces.extend_from_slice(b"10000\r\n");
        pieces.resize(pieces.len() + (1 << 16), b' ');
        pieces.extend_from_slice(b"\r\n");
    }
    pieces.extend_from_slice(b"0\r\n\r\n");
    for (what, request) in [("whole", whole), ("pieces", pieces)] {
        // Not by `send`: whoever closes his half at the end of the body has given up on the answer.
        let line = site.raw(&request).await.line;
        assert_eq!(line, "HTTP/1.1 413 REQUEST ENTITY TOO LARGE", "{what}");
        lives(&site).await;
    }
}

#[tokio::test]
async fn clients_go_away_at_any_point() {
    let site = Site::start().await;
    let token = site.user("ada", false).await;
    let request = format!(
        "POST /v1/apps/ HTTP/1.1\r\nHost: x\r\nAuthorization: token {token}\r\n\
         Content-Length: 15\r\n\r\n{{\"id\":\"shop\"}}  "
    );
    for end in 0..request.len() {
        let mut socket = TcpStream::connect(site.address).await.expect("connect");
        socket
            .write_all(&request.as_bytes()[..end])
            .await
            .expect("sent");
        drop(socket);
    }
    lives(&site).await;
    // None of them was taken for a whole one.
    let reply = site.call(&token, "GET", "/v1/apps/", Value::Null).await;
    assert_eq!(reply.json()["count"], 0);
    assert_eq!(
        status_line(&send(&site, request.as_bytes()).await),
        "HTTP/1.1 201 CREATED"
    );
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let site = Site::start().await;
    let mut socket = TcpStream::connect(site.address).await.expect("connect");
    let _ = socket.set_nodelay(true);
    for byte in b"GET /v1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" {
        socket.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .expect("in time")
        .expect("answer");
    assert_eq!(status_line(&answer), "HTTP/1.1 401 UNAUTHORIZED");
}

#[tokio::test]
async fn several_requests_in_one_go_are_answered_in_order() {
    let site = Site::start().await;
    let token = site.user("ada", false).await;
    let authorization = format!("Authorization: token {token}");
    let one = |method: &str, path: &str, rest: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{rest}\r\n\r\n")
    };
    let requests = [
        one("GET", "/healthz", "X: 1"),
        one("GET", "/v1/", "X: 1"),
        one(
            "POST",
            "/v1/apps/",
            &format!("{authorization}\r\nContent-Length: 13"),
        ) + r#"{"id":"shop"}"#,
        one("GET", "/v1/apps/shop/", &authorization),
        one("GET", "/nothing", "Connection: close"),
    ];
    let answer = send(&site, requests.concat().as_bytes()).await;
    let answer = String::from_utf8(answer).expect("text");
    let lines: Vec<&str> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|a| a.lines().next().expect("line"))
        .collect();
    assert_eq!(
        lines,
        [
            "200 OK",
            "401 UNAUTHORIZED",
            "201 CREATED",
            "200 OK",
            "404 NOT FOUND"
        ]
    );
}

#[tokio::test]
async fn lengths_that_contradict_each_other() {
    let site = Site::start().await;
    for lengths in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: -1",
        "Content-Length: 2x",
        "Transfer-Encoding: chunked, gzip",
    ] {
        let request = format!("POST /v1/apps/ HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n{{}}");
        let line = status_line(&send(&site, request.as_bytes()).await);
        assert!(
            line.is_empty() || line.starts_with("HTTP/1.1 400 "),
            "{lengths:?}: {line}"
        );
    }
    lives(&site).await;
}

/// Texts in a path that are no names: always JSON, never more than a 4xx.
#[tokio::test]
async fn paths_that_are_none() {
    let site = Site::start().await;
    let token = site.user("ada", true).await;
    for name in [
        "%ff",
        "%00",
        "%2e%2e",
        "..",
        "%2fetc%2fpasswd",
        "a%20b",
        "%c3%28",
        "é",
        "blog;x",
        "*",
        "%",
        "%zz",
    ] {
        for path in [
            format!("/v1/apps/{name}/"),
            format!("/v1/apps/{name}/config/"),
            format!("/v1/apps/blog/containers/{name}/{name}/"),
            format!("/v1/apps/blog/releases/{name}/"),
            format!("/v1/keys/{name}"),
            format!("/v1/apps/blog/perms/{name}"),
        ] {
            let method = if path.contains("perms") {
                "DELETE"
            } else {
                "GET"
            };
            let reply = site.call(&token, method, &path, Value::Null).await;
            let json: Result<Value, _> = serde_json::from_str(&reply.body);
            assert!(
                reply.status() == 404 || reply.status() == 400,
                "{path}: {}",
                reply.line
            );
            // What is no request at all is refused before it is one.
            assert!(
                json.is_ok() || reply.header("X-Request-Id").is_none(),
                "{path}: {}",
                reply.body
            );
        }
    }
}

/// Any JSON.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "web", "ada", "blog", "1", "-1", "512M", "{}", "*.a.b", "v1"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z_]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Requests of the right form with the wrong contents: whatever they say, that is the client's fault.
#[tokio::test]
async fn whatever_a_body_says_it_is_no_fault_of_ours() {
    let (mut stage, mut holes) = (Stage::empty().await, Holes::default());
    for set_up in [
        "user ada admin",
        "app blog ada",
        "push blog ada web",
        "logger",
    ] {
        let words: Vec<&str> = set_up.split(' ').collect();
        stage.set_up(&words, &mut holes).await.expect(set_up);
    }
    let token = holes.get("token:ada").expect("token").to_owned();
    let routes = [
        (
            "POST",
            "/v1/auth/register/",
            "username password email first_name",
        ),
        ("POST", "/v1/auth/login/", "username password"),
        ("POST", "/v1/auth/passwd/", "username password"),
        ("POST", "/v1/apps/", "id"),
        ("POST", "/v1/apps/blog/", "owner"),
        ("POST", "/v1/apps/blog/config/", "values memory cpu tags"),
        ("POST", "/v1/apps/blog/builds/", "sha procfile dockerfile"),
        ("POST", "/v1/apps/blog/releases/rollback/", "version"),
        ("POST", "/v1/apps/blog/scale/", "web worker cmd"),
        ("POST", "/v1/apps/blog/domains/", "domain"),
        ("POST", "/v1/apps/blog/perms/", "username"),
        ("POST", "/v1/keys/", "id public"),
        ("POST", "/v1/admin/perms/", "username"),
    ];
    let mut runner = TestRunner::deterministic();
    for _ in 0..25 {
        for (method, path, names) in routes {
            let values = prop::collection::vec(prop::option::of(json()), names.split(' ').count());
            let values = values.new_tree(&mut runner).expect("values").current();
            let fields = names.split(' ').zip(values);
            let body: Value = fields
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let reply = stage.site().call(&token, method, path, body.clone()).await;
            assert!(
                reply.status() < 500,
                "{method} {path} {body}: {} {}",
                reply.line,
                reply.body
            );
            if !reply.body.is_empty() {
                reply.json();
            }
        }
    }
    lives(stage.site()).await;
}
