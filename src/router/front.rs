//! Where clients come in: workers that accept connections and speak HTTP/1.1 and HTTP/2 on them.
//!
//! Each worker is a thread with a runtime and listeners of its own (the kernel spreads connections
//! over them), so that a request and its upstream connection stay on one thread.

use std::{
    convert::Infallible,
    future::{pending, ready},
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

use super::{
    called::Called,
    headers::Forwarded,
    onward::Seen,
    opening::Opened,
    pace::{Pace, Paced, Phase, has_lingered},
    proxy::{Client, HEAD_COUNT, Proxy, handle},
    sockets::{self, Peer},
    tls::Tls,
    wait::Patience,
    writes::Gathered,
};
use crate::plan::front::RouterSettings;

/// How long a client may keep a connection waiting. Idle for longer than the proxies of the big
/// clouds keep one (60 s), so that it is they who close.
const PACE: Pace = Pace {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    tick: Duration::from_secs(5),
};
/// After a stop a client may use its connection once more, if it does so that soon: what it has just
/// sent, or is about to send on a connection that it has just made, is on its way to nobody else. An
/// idle connection costs the old router next to nothing meanwhile.
const LAST_REQUEST: Pace = Pace {
    head: Duration::from_secs(2),
    idle: Duration::from_secs(2),
    tick: Duration::from_millis(200),
};
/// A TLS handshake may take so long, and a PROXY header before it.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES: u32 = 64 << 10;
/// Connections per worker.
const CONNECTIONS: usize = 16_384;

/// Streams of an HTTP/2 connection at once.
const STREAMS: u32 = 128;
/// What one stream may send before we have read it, and all of a connection's together: a slow app
/// holds up its own client only.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What we buffer of an answer for a stream whose client doesn't read.
const STREAM_SEND: usize = 64 << 10;
/// Streams that their client has reset and that wait to be forgotten (CVE-2023-44487), and resets that
/// its own errors cause: beyond that the connection ends.
const RESETS: usize = 32;
const ERROR_RESETS: usize = 64;
/// A silent HTTP/2 client is asked for a sign of life so often, and has so long to give it.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WAIT: Duration = Duration::from_secs(20);

/// One worker's half of the router.
#[derive(Debug, Clone)]
pub struct Front {
    /// What all requests share.
    pub proxy: Arc<Proxy>,
    /// Which worker.
    pub worker: usize,
    /// After a stop, requests under way may take so long.
    pub drain: Duration,
    /// No new connection, and an end to the others.
    pub stop: CancellationToken,
}

/// A listener of a worker, not yet served.
pub struct Bound {
    /// The socket.
    pub listener: std::net::TcpListener,
    /// What makes it HTTPS.
    pub tls: Option<Arc<Tls>>,
}

/// What all connections to a listener have in common.
struct Door {
    proto: &'static str,
    port: HeaderValue,
    tls: Option<Arc<Tls>>,
}

impl Front {
    /// Serves the listeners on a thread of its own until the stop, and the last request after it.
    ///
    /// # Errors
    /// When the thread can't be had.
    pub fn spawn(self, listeners: Vec<Bound>) -> io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name(format!("router-{}", self.worker))
            .spawn(move || {
                runtime.block_on(async move {
                    let serving = listeners.into_iter().map(|bound| self.clone().serve(bound));
                    futures_util::future::join_all(serving).await;
                });
            })
    }

    async fn serve(self, bound: Bound) {
        let listener = bound.listener.set_nonblocking(true);
        let listener = match listener.and_then(|()| TcpListener::from_std(bound.listener)) {
            Ok(listener) => listener,
            Err(error) => return error!(%error, "a worker can't use its listener"),
        };
        sockets::tune(&listener, Peer::Patient);
        let port = listener.local_addr().map_or(0, |address| address.port());
        let door = Arc::new(Door {
            proto: if bound.tls.is_some() { "https" } else { "http" },
            port: HeaderValue::from(port),
            tls: bound.tls,
        });
        let (tasks, room) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = accept(&listener, &room) => accepted,
            };
            let (stream, peer, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly: too many open files. Others may close theirs meanwhile.
                    warn!(%error, "can't accept a connection");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            self.proxy.metrics.connections.inc();
            let (front, door) = (self.clone(), Arc::clone(&door));
            let tunnels = tasks.clone();
            tasks.spawn(async move {
                let _room = permit;
                if let Err(error) = front.open(stream, peer, &door, tunnels).await {
                    front.proxy.metrics.bad_openings.inc();
                    debug!(%peer, %error, "connection closed at its beginning");
                }
            });
        }
        drop(listener);
        tasks.close();
        if timeout(self.drain, tasks.wait()).await.is_err() {
            warn!(
                connections = tasks.len(),
                "stopping with requests under way"
            );
        }
    }

    /// Finds out who is there and what is spoken, and serves the connection to its end.
    async fn open(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        door: &Door,
        tunnels: TaskTracker,
    ) -> io::Result<()> {
        let settings = self.proxy.live.settings();
        let mut stream = Opened::new(Gathered::new(stream));
        let peer_ip = peer.ip().to_canonical();
        let trusted = settings.is_proxy(peer_ip);
        let mut address = peer_ip;
        if settings.proxy_protocol && trusted {
            let told = stream.proxy_header(HANDSHAKE_WAIT).await?;
            address = told.map_or(peer_ip, |client| client.ip().to_canonical());
        }
        let client = Client {
            proxy: Arc::clone(&self.proxy),
            worker: self.worker,
            tunnels,
            phase: Phase::default(),
            address,
            secure: door.tls.is_some(),
            believed: trusted && settings.proxies_named && !settings.proxy_protocol,
            forwarded: Forwarded {
                client: address_value(address),
                proto: HeaderValue::from_static(door.proto),
                port: door.port.clone(),
            },
            seen: Seen::default(),
            patience: Patience::default(),
        };
        match &door.tls {
            None => {
                let silence = async {
                    self.stop.cancelled().await;
                    sleep(LAST_REQUEST.idle).await;
                };
                let http2 = tokio::select! {
                    biased;
                    http2 = stream.is_http2(PACE.idle, PACE.head) => http2?,
                    () = silence => return Ok(()),
                };
                self.speak(stream, client, http2, &settings).await;
            }
            Some(tls) => {
                let accepting = tls.acceptor(settings.only_tls13).accept(stream);
                let stream = timeout(HANDSHAKE_WAIT, accepting)
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.speak(stream, client, http2, &settings).await;
            }
        }
        Ok(())
    }

    /// Serves one connection to its end.
    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        client: Client,
        http2: bool,
        settings: &RouterSettings,
    ) {
        let phase = client.phase.clone();
        let client = Arc::new(client);
        if http2 {
            let service = service_fn(move |request| {
                let client = Arc::clone(&client);
                async move { Ok::<_, Infallible>(handle(&client, request).await) }
            });
            let connection = http2_builder().serve_connection(TokioIo::new(stream), service);
            let lingering = has_lingered(phase, PACE, settings.default_timeout);
            // No stream is lost by a GOAWAY.
            self.drive(pin!(connection), lingering, ready(())).await;
        } else {
            let stop = &self.stop;
            let service = service_fn(move |request| {
                let client = Arc::clone(&client);
                async move {
                    let mut answer = handle(&client, request).await;
                    if stop.is_cancelled() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(CONNECTION, close);
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            let stream = Paced::new(stream, PACE, phase.clone());
            let connection = http1_builder()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let quiet = has_lingered(phase, LAST_REQUEST, self.drain);
            self.drive(pin!(connection), pending(), quiet).await;
        }
    }

    /// Drives a connection until it ends, lingers, or, after a stop, is quiet or has had its time.
    async fn drive<C: Connection>(
        &self,
        mut connection: Pin<&mut C>,
        lingers: impl Future<Output = ()>,
        quiet: impl Future<Output = ()>,
    ) {
        let end = pin!(async {
            let goodbye = async {
                self.stop.cancelled().await;
                quiet.await;
            };
            tokio::select! {
                // Nothing is under way, or nothing moves: a moment for the goodbye.
                () = lingers => PACE.tick,
                () = goodbye => self.drain,
            }
        });
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            within = Called::new(end) => {
                connection.as_mut().end();
                match timeout(within, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return debug!("client connection cut: nothing moved"),
                }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "client connection ended");
        }
    }
}

/// A connection of either version.
trait Connection: Future<Output = hyper::Result<()>> {
    /// No further request; those under way are answered.
    fn end(self: Pin<&mut Self>);
}

impl<I, S> Connection for http1::UpgradeableConnection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S::ResBody: hyper::body::Body + 'static,
    <S::ResBody as hyper::body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, E> Connection for http2::Connection<I, S, E>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S::ResBody: hyper::body::Body + 'static,
    <S::ResBody as hyper::body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, S::ResBody>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(HEAD_BYTES as usize)
        .max_headers(HEAD_COUNT)
        .title_case_headers(true);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_SEND)
        .max_header_list_size(HEAD_BYTES)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WAIT);
    builder
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await;
    let permit = permit.map_err(|_| io::Error::other("the worker has ended"))?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

fn address_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&ip.to_string()).expect("invariant: an address is a header value")
}
