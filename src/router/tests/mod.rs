//! The router as a whole: a store in memory, real sockets on loopback, bytes as clients send them.

use std::{net::Ipv4Addr, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
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

mod backends;
mod grpc;
mod https;
mod protocols;
mod requests;
mod rollouts;
mod switch;
mod terms;

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
        drain: DRAIN,
    }
}

/// The cluster's key.
fn key() -> ClusterKey {
    ClusterKey::parse(&STANDARD.encode([7; 32])).expect("key")
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
        let router = start(options(state.path()), store.clone(), key())
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

    /// Sets what operators set, and waits until the router goes by it.
    async fn set(&self, name: &str, value: &str) {
        let key = keys::setting(live::PART, name);
        self.put(&key, &value.to_owned()).await;
        let mut versions = self.router.live.versions();
        versions.mark_changed();
        let taken = async {
            while versions.changed().await.is_ok() {
                let records = self.router.live.export();
                let there = |record: &crate::plan::routes::SavedRecord| {
                    record.key == key.as_str() && record.value == value
                };
                if records.iter().any(there) {
                    return;
                }
            }
        };
        timeout(PATIENCE, taken).await.expect("taken in time");
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
        self.inner("/health-check").await
    }

    async fn metrics(&self) -> String {
        self.inner("/metrics").await
    }

    /// What port 9090 says.
    async fn inner(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.router.health)
            .await
            .expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        answer
    }

    /// Waits until the metrics have this line.
    async fn counted(&self, line: &str) {
        let counted = async {
            while !self.metrics().await.lines().any(|there| there == line) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, counted).await.is_err() {
            panic!("no {line:?} in {}", self.metrics().await);
        }
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
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, sender) = (Arc::clone(&answer), sender.clone());
            tokio::spawn(async move {
                // A body that it wasn't interested in is read byte by byte, and may be large.
                let mut stream = tokio::io::BufReader::new(stream);
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
