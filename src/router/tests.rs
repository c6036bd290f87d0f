//! The router as a whole: a store in memory, real sockets on loopback, bytes as clients send them.

use std::{net::Ipv4Addr, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::{
    model::{AppName, Record, Revision},
    store::{Faults, Key, MemoryStore, Txn},
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

struct Cluster {
    memory: MemoryStore,
    store: Store,
    router: Router,
    state: tempfile::TempDir,
}

fn options(state: &Path) -> RouterOptions {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    RouterOptions {
        ip: Ipv4Addr::LOCALHOST.into(),
        http: any,
        https: any,
        git: any,
        health: any,
        state: state.to_owned(),
        tls: state.to_owned(),
        workers: 2,
        etcd_patience: Duration::from_millis(300),
    }
}

impl Cluster {
    async fn start() -> Self {
        Self::with_domain("localhost").await
    }

    async fn with_domain(domain: &str) -> Self {
        let (memory, state) = (MemoryStore::new(), tempfile::tempdir().expect("dir"));
        let store = Store::from_memory(&memory);
        store
            .commit(Txn::new().put(&keys::platform("domain"), &domain.to_owned()))
            .await
            .expect("put");
        let router = start(options(state.path()), store.clone())
            .await
            .expect("router");
        Self {
            memory,
            store,
            router,
            state,
        }
    }

    async fn put<T: Record>(&self, key: &Key<T>, value: &T) -> Revision {
        self.store
            .commit(Txn::new().put(key, value))
            .await
            .expect("put")
    }

    /// Puts a process's address, and waits until it is routed.
    async fn publish(&self, process: &str, address: SocketAddr) -> Revision {
        let revision = self.put(&service(process), &address.to_string()).await;
        self.acked(|p| p.applied >= revision).await;
        revision
    }

    async fn withdraw(&self, process: &str) -> Revision {
        let txn = Txn::new().delete(&service(process));
        self.store.commit(txn).await.expect("delete")
    }

    async fn presence(&self) -> RouterPresence {
        let key = keys::router("127.0.0.1");
        self.store
            .get(&key)
            .await
            .expect("read")
            .expect("registered")
            .value
    }

    /// Waits for an acknowledgement as the leader does.
    async fn acked(&self, enough: impl Fn(&RouterPresence) -> bool) -> RouterPresence {
        let mut feed = self.store.follow(keys::routers().as_str());
        let waiting = async {
            loop {
                for change in feed.next().await.changes {
                    if let Some(entry) = change.entry {
                        let presence: RouterPresence = entry.decode().expect("presence");
                        if enough(&presence) {
                            return presence;
                        }
                    }
                }
            }
        };
        timeout(PATIENCE, waiting)
            .await
            .expect("acknowledged in time")
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.router.http).await.expect("connect")
    }

    /// Sends bytes and gives back all that comes until the router closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .expect("answered")
            .expect("read");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, host: &str) -> String {
        self.raw(&get(host)).await
    }

    async fn health(&self) -> String {
        let mut stream = TcpStream::connect(self.router.health)
            .await
            .expect("connect");
        let request = "GET /health-check HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        answer
    }
}

fn get(host: &str) -> String {
    format!("GET /path?query=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn service(process: &str) -> Key<String> {
    let name: crate::model::ProcessName = process.parse().expect("process");
    keys::service(&name.app.clone(), &name)
}

fn app(name: &str) -> AppName {
    name.parse().expect("app")
}

/// Reads until the bytes end with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !seen.ends_with(end.as_bytes()) {
            seen.push(
                stream
                    .read_u8()
                    .await
                    .unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&seen))),
            );
        }
    };
    if timeout(PATIENCE, reading).await.is_err() {
        panic!(
            "{end:?} never came, but {:?}",
            String::from_utf8_lossy(&seen)
        );
    }
    String::from_utf8(seen).expect("text")
}

/// A backend whose connections are handed to the test.
async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("bind");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

/// A backend that answers each request with `answer` of its head, and tells of each connection.
async fn backend(
    answer: impl Fn(String) -> String + Send + Sync + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<&'static str>) {
    let (listener, address) = listener().await;
    let (sender, events) = mpsc::unbounded_channel();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, sender) = (Arc::clone(&answer), sender.clone());
            tokio::spawn(async move {
                let _ = sender.send("open");
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8(std::mem::take(&mut head)).expect("head");
                        if stream.write_all(answer(text).as_bytes()).await.is_err() {
                            break;
                        }
                    }
                }
                let _ = sender.send("closed");
            });
        }
    });
    (address, events)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An address that refuses connections.
async fn dead() -> SocketAddr {
    listener().await.1
}

#[tokio::test]
async fn host_names_lead_to_apps_and_to_clear_refusals() {
    let cluster = Cluster::start().await;
    let (blog, _) = backend(|_| ok("blog")).await;
    let (shop, _) = backend(|_| ok("shop")).await;
    let route = |maintenance| crate::model::Route {
        schema: 1,
        maintenance,
    };
    cluster
        .put(&keys::route(&app("empty")), &route(false))
        .await;
    cluster.put(&keys::route(&app("shut")), &route(true)).await;
    cluster.publish("shut_v1.web.1", shop).await;
    cluster.publish("blog_v1.web.1", blog).await;
    cluster.publish("shop_v1.web.1", shop).await;
    let cases = [
        (get("blog.localhost"), "HTTP/1.1 200 OK", "\r\n\r\nblog"),
        (get("SHOP.localhost:8080"), "HTTP/1.1 200 OK", "\r\n\r\nshop"),
        (get("nobody.localhost"), "HTTP/1.1 404 Not Found", "404 Not Found\n"),
        (get("empty.localhost"), "HTTP/1.1 503 Service Unavailable", "no process"),
        (get("shut.localhost"), "HTTP/1.1 503 Service Unavailable", "maintenance"),
        (get("deis.localhost"), "HTTP/1.1 503 Service Unavailable", "no process"),
        (get("blog..localhost"), "HTTP/1.1 400 Bad Request", "no valid host"),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".into(), "HTTP/1.1 400 Bad Request", "no valid host"),
        (
            "GET / HTTP/1.1\r\nHost: blog.localhost\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n".into(),
            "HTTP/1.1 400 Bad Request",
            "no valid host",
        ),
        (
            "GET http://shop.localhost/x HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\n\r\n".into(),
            "HTTP/1.1 200 OK",
            "shop",
        ),
        (
            "CONNECT blog.localhost:80 HTTP/1.1\r\nHost: blog.localhost:80\r\nConnection: close\r\n\r\n".into(),
            "HTTP/1.1 405 Method Not Allowed",
            "no forward proxy",
        ),
        ("GET / HTTP/1.0\r\nHost: blog.localhost\r\n\r\n".into(), "HTTP/1.0 200 OK", "blog"),
    ];
    for (request, status, text) in cases {
        let answer = cluster.raw(&request).await;
        assert!(
            answer.starts_with(status) && answer.contains(text),
            "{request}: {answer}"
        );
        assert!(answer.contains("X-Request-Id: "), "{request}: {answer}");
    }
    assert!(
        cluster.health().await.starts_with("HTTP/1.1 200"),
        "registered and serving"
    );
    cluster.router.stop().await;
    let gone = cluster
        .store
        .get(&keys::router("127.0.0.1"))
        .await
        .expect("read");
    assert!(gone.is_none(), "a clean goodbye");
}

#[tokio::test]
async fn heads_pass_as_they_should() {
    let cluster = Cluster::start().await;
    let answer = |head: String| {
        format!(
            "HTTP/1.1 404 NOT FOUND\r\nContent-Length: {}\r\nConnection: keep-alive, X-Secret\r\n\
             X-Secret: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5\r\n\r\n{head}",
            head.len()
        )
    };
    let (address, _) = backend(answer).await;
    let part = crate::model::PartPresence {
        schema: 1,
        id: Uuid::nil(),
        address: address.to_string(),
    };
    cluster
        .put(&keys::part("controller", "10.0.0.1"), &part)
        .await;
    let request = "GET /v1/x?y=%20z HTTP/1.1\r\nHost: DEIS.localhost:8080\r\nConnection: close, X-Drop\r\n\
                   X-Drop: 1\r\nTE: trailers\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: gopher\r\n\
                   X-Request-Id: mine-1\r\nExpect: 100-continue\r\n\r\n";
    let answer = loop {
        // The controllers' feed has no acknowledgement to wait for.
        let answer = cluster.raw(request).await;
        if !answer.contains("no process") {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    let (head, body) = answer.split_once("\r\n\r\n").expect("body");
    assert!(
        head.starts_with("HTTP/1.1 404 NOT FOUND\r\n"),
        "reason phrase: {head}"
    );
    for wanted in ["Set-Cookie: a=1", "Set-Cookie: b=2", "X-Request-Id: mine-1"] {
        assert!(head.contains(wanted), "{wanted}: {head}");
    }
    for unwanted in ["X-Secret", "Keep-Alive"] {
        assert!(!head.contains(unwanted), "{unwanted}: {head}");
    }
    let port = format!("X-Forwarded-Port: {}", cluster.router.http.port());
    for wanted in [
        "GET /v1/x?y=%20z HTTP/1.1\r\n",
        "Host: DEIS.localhost:8080",
        "X-Forwarded-For: 1.2.3.4, 127.0.0.1",
        "X-Forwarded-Proto: http\r\n",
        &port,
        "X-Request-Id: mine-1",
    ] {
        assert!(body.contains(wanted), "{wanted}: {body}");
    }
    for unwanted in ["X-Drop", "Te:", "Expect", "gopher", "Connection"] {
        assert!(!body.contains(unwanted), "{unwanted}: {body}");
    }
}

#[tokio::test]
async fn a_dead_backend_costs_nobody_a_request() {
    let cluster = Cluster::start().await;
    let (alive, _) = backend(|_| ok("alive")).await;
    cluster.publish("blog_v1.web.1", dead().await).await;
    cluster.publish("blog_v1.web.2", alive).await;
    for n in 0..20 {
        let answer = cluster.get("blog.localhost").await;
        assert!(answer.ends_with("alive"), "GET {n}: {answer}");
        let post = "POST / HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let answer = cluster.raw(post).await;
        assert!(answer.ends_with("alive"), "POST {n}: {answer}");
    }
    // The last one is tried although it is not trusted.
    cluster.publish("dead_v1.web.1", dead().await).await;
    for _ in 0..2 {
        let answer = cluster.get("dead.localhost").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
    }
    let (back, _) = backend(|_| ok("back")).await;
    cluster.publish("dead_v1.web.1", back).await;
    assert!(cluster.get("dead.localhost").await.ends_with("back"));
}

#[tokio::test]
async fn a_kept_connection_that_breaks_is_replaced_unless_that_could_do_harm() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("blog_v1.web.1", address).await;
    // Answers the first request of each connection and breaks off at the second.
    let (sender, mut heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let head = read_until(&mut stream, "\r\n\r\n").await;
                let _ = sender.send(head);
                stream
                    .write_all(ok("first").as_bytes())
                    .await
                    .expect("answer");
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
            });
        }
    });
    let mut client = cluster.connect().await;
    let request = |method: &str| format!("{method} / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n");
    for n in 0..3 {
        client
            .write_all(request("GET").as_bytes())
            .await
            .expect("send");
        let answer = read_until(&mut client, "first").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "GET {n}: {answer}");
        assert!(heads.recv().await.is_some());
    }
    // It may have done its work: nobody but the client can know whether to send it again.
    client
        .write_all(request("POST").as_bytes())
        .await
        .expect("send");
    let answer = read_until(&mut client, "answered.\n").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "POST: {answer}");
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("blog_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    let head = "POST /up HTTP/1.1\r\nHost: blog.localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    // Each side sees a part before the next one is sent.
    client.write_all(b"3\r\none\r\n").await.expect("send");
    read_until(&mut stream, "one\r\n").await;
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nun \r\n";
    stream.write_all(head).await.expect("answer");
    read_until(&mut client, "un \r\n").await;
    client
        .write_all(b"3\r\ntwo\r\n0\r\n\r\n")
        .await
        .expect("send");
    read_until(&mut stream, "two\r\n0\r\n\r\n").await;
    stream
        .write_all(b"4\r\ndeux\r\n0\r\n\r\n")
        .await
        .expect("answer");
    read_until(&mut client, "deux\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn drained_waits_for_the_slow_request_and_idle_connections_close_at_once() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    let (idle, mut events) = backend(|_| ok("fast")).await;
    cluster.publish("fast_v1.web.1", idle).await;
    assert!(cluster.get("fast.localhost").await.ends_with("fast"));
    assert_eq!(events.recv().await, Some("open"));
    let gone = cluster.withdraw("fast_v1.web.1").await;
    cluster
        .acked(|p| p.applied >= gone && p.drained >= gone)
        .await;
    let closed = timeout(Duration::from_secs(2), events.recv()).await;
    assert_eq!(closed, Ok(Some("closed")), "its idle connection");

    cluster.publish("slow_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    client
        .write_all(get("slow.localhost").as_bytes())
        .await
        .expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        .await
        .expect("half");
    read_until(&mut client, "half").await;

    let gone = cluster.withdraw("slow_v1.web.1").await;
    let presence = cluster.acked(|p| p.applied >= gone).await;
    assert!(presence.drained < gone, "a request holds it: {presence:?}");
    // Others go on; a later withdrawal that nobody holds doesn't move it either.
    let (other, _) = backend(|_| ok("other")).await;
    cluster.publish("other_v1.web.1", other).await;
    assert!(cluster.get("other.localhost").await.ends_with("other"));
    assert!(
        cluster
            .get("slow.localhost")
            .await
            .contains("404 Not Found"),
        "no new request"
    );
    assert!(cluster.presence().await.drained < gone);

    stream.write_all(b"half").await.expect("rest");
    read_until(&mut client, "half").await;
    cluster.acked(|p| p.drained >= gone).await;
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_backend() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("slow_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    client
        .write_all(get("slow.localhost").as_bytes())
        .await
        .expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    let gone = cluster.withdraw("slow_v1.web.1").await;
    assert!(cluster.acked(|p| p.applied >= gone).await.drained < gone);
    drop(client);
    cluster.acked(|p| p.drained >= gone).await;
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("told");
    assert_eq!(read.ok(), Some(0), "the backend is told too");
}

#[tokio::test]
async fn a_websocket_passes_and_counts_as_in_flight() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("chat_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    let request = "GET /ws HTTP/1.1\r\nHost: chat.localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    let head = read_until(&mut stream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(
        head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
        "{head}"
    );
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    stream.write_all(answer).await.expect("answer");
    let head = read_until(&mut client, "\r\n\r\nhello").await;
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("Upgrade: websocket"),
        "{head}"
    );
    client.write_all(b"ping").await.expect("send");
    read_until(&mut stream, "ping").await;
    stream.write_all(b"pong").await.expect("send");
    read_until(&mut client, "pong").await;

    let gone = cluster.withdraw("chat_v1.web.1").await;
    assert!(cluster.acked(|p| p.applied >= gone).await.drained < gone);
    client.write_all(b"still").await.expect("send");
    read_until(&mut stream, "still").await;
    drop(client);
    drop(stream);
    cluster.acked(|p| p.drained >= gone).await;
}

#[tokio::test]
async fn an_outage_of_etcd_is_not_noticed_and_a_start_in_it_serves_the_saved_table() {
    let mut cluster = Cluster::start().await;
    let (blog, _) = backend(|_| ok("blog")).await;
    cluster.publish("blog_v1.web.1", blog).await;
    let saved = async {
        loop {
            let records = saved::load(cluster.state.path()).unwrap_or_default();
            if records.iter().any(|r| r.value == blog.to_string()) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, saved).await.expect("saved");
    cluster.memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    cluster.memory.break_watches();
    assert!(
        cluster.get("blog.localhost").await.ends_with("blog"),
        "etcd is away"
    );

    let former = cluster.router;
    cluster.router = start(options(cluster.state.path()), cluster.store.clone())
        .await
        .expect("start");
    assert!(
        cluster.get("blog.localhost").await.ends_with("blog"),
        "from the saved table"
    );
    assert!(
        cluster.health().await.starts_with("HTTP/1.1 503"),
        "not registered"
    );
    former.stop().await;

    cluster.memory.set_faults(Faults::default());
    let (more, _) = backend(|_| ok("more")).await;
    cluster.publish("more_v1.web.1", more).await;
    assert!(cluster.get("more.localhost").await.ends_with("more"));
    assert!(cluster.get("blog.localhost").await.ends_with("blog"));
    let gone = cluster.withdraw("blog_v1.web.1").await;
    cluster.acked(|p| p.drained >= gone).await;
    assert!(
        cluster.health().await.starts_with("HTTP/1.1 200"),
        "registered again"
    );
}

#[tokio::test]
async fn tcp_goes_to_the_first_builder_that_answers() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    for (ip, address) in [("10.0.0.1", dead().await), ("10.0.0.2", address)] {
        let part = crate::model::PartPresence {
            schema: 1,
            id: Uuid::nil(),
            address: address.to_string(),
        };
        cluster.put(&keys::part("builder", ip), &part).await;
    }
    let (mut client, mut stream) = loop {
        // The builders' feed has no acknowledgement to wait for.
        let mut client = TcpStream::connect(cluster.router.git)
            .await
            .expect("connect");
        tokio::select! {
            accepted = listener.accept() => break (client, accepted.expect("accept").0),
            closed = client.read_u8() => assert!(closed.is_err()),
        }
    };
    client.write_all(b"pack").await.expect("send");
    client.shutdown().await.expect("half-close");
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("read");
    assert_eq!(all, "pack");
    stream.write_all(b"report").await.expect("send");
    drop(stream);
    let mut all = String::new();
    client.read_to_string(&mut all).await.expect("read");
    assert_eq!(all, "report");
}

#[tokio::test]
async fn https_says_so_to_the_app() {
    let cluster = Cluster::with_domain("example.com").await;
    let (address, _) = backend(|head| ok(&head)).await;
    cluster.publish("blog_v1.web.1", address).await;
    let https = cluster.router.https.expect("openssl made a certificate");
    let pem = std::fs::read(cluster.state.path().join("self-signed-example.com.crt"))
        .expect("certificate");
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("certificate")])
        .no_proxy()
        .resolve("blog.example.com", https)
        .build()
        .expect("client");
    let url = format!("https://blog.example.com:{}/", https.port());
    let body = client
        .get(url)
        .send()
        .await
        .expect("sent")
        .text()
        .await
        .expect("body");
    assert!(body.contains("X-Forwarded-Proto: https\r\n"), "{body}");
}

#[tokio::test]
async fn ambiguous_framing_reaches_no_app() {
    let cluster = Cluster::start().await;
    let (address, mut events) = backend(|head| ok(&head)).await;
    cluster.publish("blog_v1.web.1", address).await;
    let post = |framing: &str| {
        let head = "POST / HTTP/1.1\r\nHost: blog.localhost\r\n";
        format!(
            "{head}{framing}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: blog.localhost\r\n\r\n"
        )
    };
    for framing in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Content-Length: 3, 3",
        "Transfer-Encoding: chunked, identity\r\nConnection: close",
        "Transfer-Encoding: gzip, chunked\r\nConnection: close",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nConnection: close",
        "Transfer-Encoding: xchunked\r\nConnection: close",
        "Transfer-Encoding : chunked\r\nConnection: close",
    ] {
        let answer = cluster.raw(&post(framing)).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{framing}: {answer}");
    }
    assert!(events.try_recv().is_err(), "no connection was made");
    // RFC 9112, 6.3: chunked wins, the length goes, and nothing else is read from there.
    for framing in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 300",
    ] {
        let answer = cluster.raw(&post(framing)).await;
        assert!(
            answer.contains("Transfer-Encoding: chunked"),
            "{framing}: {answer}"
        );
        assert!(!answer.contains("smuggled"), "{framing}: {answer}");
        assert_eq!(
            answer.matches("Content-Length").count(),
            1,
            "the answer's own: {answer}"
        );
    }
}

/// A deploy after the other under load: the protocol as the leader runs it. Each process refuses
/// everything once it is stopped; nobody may notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_processes_are_replaced() {
    const DEPLOYS: usize = 25;
    let cluster = Arc::new(Cluster::start().await);
    let over = CancellationToken::new();
    let mut clients = tokio::task::JoinSet::new();
    let mut release = Process::start("web").await;
    cluster.publish("blog_v1.web.1", release.address).await;
    for n in 0..6 {
        let (cluster, over) = (Arc::clone(&cluster), over.clone());
        clients.spawn(async move {
            let mut sent = 0;
            let mut kept = cluster.connect().await;
            while !over.is_cancelled() {
                // Kept and new connections, with and without a body.
                let answer = if n % 2 == 0 {
                    let body =
                        "POST / HTTP/1.1\r\nHost: blog.localhost\r\nContent-Length: 4\r\n\r\nbody";
                    kept.write_all(body.as_bytes()).await.expect("send");
                    read_until(&mut kept, "web").await
                } else {
                    cluster.get("blog.localhost").await
                };
                assert!(
                    answer.starts_with("HTTP/1.1 200 OK"),
                    "request {sent}: {answer}"
                );
                sent += 1;
            }
            sent
        });
    }
    for n in 2..DEPLOYS + 2 {
        let next = Process::start("web").await;
        cluster
            .publish(&format!("blog_v{n}.web.1"), next.address)
            .await;
        let gone = cluster.withdraw(&format!("blog_v{}.web.1", n - 1)).await;
        cluster
            .acked(|p| p.applied >= gone && p.drained >= gone)
            .await;
        std::mem::replace(&mut release, next).stop();
    }
    over.cancel();
    let sent: usize = clients.join_all().await.into_iter().sum();
    assert!(sent > DEPLOYS, "there was load: {sent}");
}

/// A process that serves HTTP until it is stopped, and is gone at once then.
struct Process {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Process {
    async fn start(text: &'static str) -> Self {
        let (listener, address) = listener().await;
        let task = tokio::spawn(async move {
            // Dropped with this task: connections break off.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let service =
                        hyper::service::service_fn(move |request: http::Request<_>| async move {
                            let body = http_body_util::BodyExt::collect(request.into_body()).await;
                            body.map(|_: http_body_util::Collected<bytes::Bytes>| {
                                http::Response::new(http_body_util::Full::new(bytes::Bytes::from(
                                    text,
                                )))
                            })
                        });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(io, service).await;
                });
            }
        });
        Self { address, task }
    }

    fn stop(self) {
        self.task.abort();
    }
}
