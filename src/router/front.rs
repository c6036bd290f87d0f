//! Where clients come in: workers that accept connections and speak HTTP/1.1 on them.
//!
//! Each worker is a thread with a runtime and listeners of its own (the kernel spreads connections
//! over them), so that a request and its upstream connection stay on one thread.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

use super::{
    headers::Forwarded,
    pace::{Pace, Paced, Phase},
    proxy::{Client, Proxy, handle},
    sockets::{self, Peer},
};

/// How long a client may keep a connection waiting. Idle for longer than the proxies of the big
/// clouds keep one (60 s), so that it is they who close.
const PACE: Pace = Pace {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    tick: Duration::from_secs(5),
};
/// A TLS handshake may take so long.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes and in headers.
const HEAD_BYTES: usize = 64 << 10;
const HEAD_COUNT: usize = 128;
/// Connections per worker.
const CONNECTIONS: usize = 16_384;
/// After a stop, requests under way may take so long.
pub const STOP_WAIT: Duration = Duration::from_secs(20);

/// One worker's half of the router.
#[derive(Debug, Clone)]
pub struct Front {
    /// What all requests share.
    pub proxy: Arc<Proxy>,
    /// Which worker.
    pub worker: usize,
    /// No new connection, and an end to the others.
    pub stop: CancellationToken,
}

/// A listener of a worker, bound and not yet served.
pub struct Bound {
    /// The socket.
    listener: std::net::TcpListener,
    /// What makes it HTTPS.
    tls: Option<TlsAcceptor>,
}

/// Binds one listener per worker on one address.
///
/// # Errors
/// When the address can't be had.
pub fn bind(
    mut address: SocketAddr,
    workers: usize,
    tls: Option<&TlsAcceptor>,
) -> io::Result<(SocketAddr, Vec<Bound>)> {
    let mut all = Vec::with_capacity(workers);
    for _ in 0..workers {
        let listener = sockets::listen(address, true)?;
        // A test's port 0 is chosen by the first.
        address = listener.local_addr()?;
        let listener = listener.into_std()?;
        let tls = tls.cloned();
        all.push(Bound { listener, tls });
    }
    Ok((address, all))
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
        let listener = match TcpListener::from_std(bound.listener) {
            Ok(listener) => listener,
            Err(error) => return error!(%error, "a worker can't use its listener"),
        };
        let port = listener.local_addr().map_or(0, |address| address.port());
        let (proto, port) = match bound.tls {
            Some(_) => ("https", HeaderValue::from(port)),
            None => ("http", HeaderValue::from(port)),
        };
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
            sockets::tune(&stream, Peer::Patient);
            let client = Client {
                proxy: Arc::clone(&self.proxy),
                worker: self.worker,
                phase: Phase::default(),
                address: peer.ip().to_canonical(),
                forwarded: Forwarded {
                    client: address_value(peer.ip()),
                    proto: HeaderValue::from_static(proto),
                    port: port.clone(),
                },
            };
            let (tls, stop) = (bound.tls.clone(), self.stop.clone());
            tasks.spawn(async move {
                let _room = permit;
                match tls {
                    None => connection(stream, client, stop).await,
                    Some(tls) => match timeout(HANDSHAKE_WAIT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, client, stop).await,
                        Ok(Err(error)) => debug!(%peer, %error, "no TLS handshake"),
                        Err(_) => debug!(%peer, "TLS handshake timed out"),
                    },
                }
            });
        }
        drop(listener);
        tasks.close();
        if timeout(STOP_WAIT, tasks.wait()).await.is_err() {
            warn!(
                connections = tasks.len(),
                "stopping with requests under way"
            );
        }
    }
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
    // A v4 client on a v6 socket is a v4 client.
    HeaderValue::from_str(&ip.to_canonical().to_string())
        .expect("invariant: an address is a header value")
}

/// Serves one connection to its end.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    stop: CancellationToken,
) {
    let stream = Paced::new(stream, PACE, client.phase.clone());
    let client = Arc::new(client);
    let service = service_fn(|request| {
        let client = Arc::clone(&client);
        async move { Ok::<_, std::convert::Infallible>(handle(&client, request).await) }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(HEAD_BYTES)
        .max_headers(HEAD_COUNT)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(STOP_WAIT, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "client connection ended");
    }
}
