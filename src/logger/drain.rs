//! The drain: a copy of every line to a syslog server of the operator's
//! (`deisctl config logs set drain=syslog://logs.example.com:514`).
//!
//! Nothing waits for it. Lines go into a bounded queue after they have been kept; what doesn't fit is
//! dropped and counted, and the count is told: to the server itself as soon as it takes lines again,
//! in our own journal, and under `GET /drain`.

mod syslog;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket, lookup_host},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use syslog::{InvalidTarget, Target};
use syslog::{Line, Transport};

use crate::{
    backoff::{Backoff, random},
    model::AppName,
    sidecar::wire::Source,
    store::{Store, keys},
};

/// The setting's name below `/deis/logs/`.
pub const SETTING: &str = "drain";
/// Portions of lines that may wait.
const QUEUE: usize = 16 * 1024;
/// Bytes that may wait.
const QUEUE_BYTES: usize = 16 << 20;
/// A server must accept within this time, and take a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Where copies of lines go in.
#[derive(Debug)]
pub struct Drain {
    queue: mpsc::Sender<Portion>,
    /// Somebody wants the lines.
    wanted: AtomicBool,
    queued: AtomicUsize,
    counts: Counts,
}

/// What has become of lines since the logger's start.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
    connected: AtomicBool,
}

/// The same, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Report {
    /// A drain is set.
    pub set: bool,
    /// It takes lines at this moment.
    pub connected: bool,
    /// Lines sent.
    pub sent: u64,
    /// Lines dropped.
    pub dropped: u64,
}

/// What one voice said.
#[derive(Debug, Clone)]
struct Portion {
    app: AppName,
    source: Source,
    time_ms: u64,
    bytes: Bytes,
}

impl Portion {
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let ended = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        ended.split(|b| *b == b'\n')
    }
}

/// The other end of the queue.
#[derive(Debug)]
pub struct Outlet(mpsc::Receiver<Portion>);

impl Drain {
    /// A drain, and the end of it for [`run`].
    #[must_use]
    pub fn new() -> (Arc<Self>, Outlet) {
        let (queue, out) = mpsc::channel(QUEUE);
        let drain = Self {
            queue,
            wanted: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            counts: Counts::default(),
        };
        (Arc::new(drain), Outlet(out))
    }

    /// Copies lines that were kept. Never waits.
    pub fn offer(&self, app: &AppName, source: &Source, time_ms: u64, bytes: &[u8]) {
        if bytes.is_empty() || !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let portion = Portion {
            app: app.clone(),
            source: source.clone(),
            time_ms,
            bytes: Bytes::copy_from_slice(bytes),
        };
        let full = self.queued.load(Ordering::Relaxed) + bytes.len() > QUEUE_BYTES;
        // Counted first: the other side may take it out before this one goes on.
        self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        if full || self.queue.try_send(portion.clone()).is_err() {
            self.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
            self.dropped(&portion);
        }
    }

    fn dropped(&self, portion: &Portion) {
        let lines = portion.lines().count() as u64;
        self.counts.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// What has become of lines.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            set: self.wanted.load(Ordering::Relaxed),
            connected: self.counts.connected.load(Ordering::Relaxed),
            sent: self.counts.sent.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
        }
    }
}

/// Brings lines to wherever the setting in the store says, until `stop`.
pub async fn run(
    store: Store,
    drain: Arc<Drain>,
    outlet: Outlet,
    host: String,
    stop: CancellationToken,
) {
    let (sender, target) = watch::channel(None);
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow(&store, &drain, sender) => {}
        () = bring(&drain, outlet, target, &host) => {}
    }
}

/// Follows the setting.
async fn follow(store: &Store, drain: &Drain, sender: watch::Sender<Option<Target>>) {
    let key = keys::setting(super::PART, SETTING);
    let mut feed = store.follow(key.as_str());
    loop {
        for change in feed.next().await.changes {
            if change.key != key.as_str() {
                continue;
            }
            let text = change.entry.and_then(|entry| entry.decode::<String>().ok());
            let target = text.and_then(|text| match text.parse::<Target>() {
                Ok(target) => Some(target),
                Err(error) => {
                    warn!(%error, "no drain: the setting can't be read");
                    None
                }
            });
            match &target {
                Some(target) => info!(%target, "lines are copied to a drain"),
                None => info!("no drain is set"),
            }
            drain.wanted.store(target.is_some(), Ordering::Relaxed);
            sender.send_replace(target);
        }
    }
}

/// Takes lines out of the queue, and sends them.
async fn bring(
    drain: &Drain,
    mut outlet: Outlet,
    mut target: watch::Receiver<Option<Target>>,
    host: &str,
) {
    // What could not be sent when the connection broke is sent by the next one.
    let mut left: Option<Portion> = None;
    let mut told_dropped = 0;
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut failing = false;
    loop {
        let Some(to) = target.borrow_and_update().clone() else {
            drain.counts.connected.store(false, Ordering::Relaxed);
            left = None;
            // What still waits was for a drain that is no more.
            while outlet.take(drain).is_some() {}
            if target.changed().await.is_err() {
                return;
            }
            continue;
        };
        let sending = async {
            let mut socket = Socket::connect(&to).await?;
            drain.counts.connected.store(true, Ordering::Relaxed);
            if std::mem::take(&mut failing) {
                info!(target = %to, "the drain takes lines again");
            }
            backoff.reset();
            send(
                drain,
                &mut outlet,
                &mut left,
                &mut told_dropped,
                &to,
                host,
                &mut socket,
            )
            .await
        };
        let result: io::Result<()> = tokio::select! {
            result = sending => result,
            changed = target.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        drain.counts.connected.store(false, Ordering::Relaxed);
        if let Err(error) = result
            && !std::mem::replace(&mut failing, true)
        {
            let dropped = drain.counts.dropped.load(Ordering::Relaxed);
            warn!(target = %to, %error, dropped, "the drain takes no lines, trying on");
        }
        tokio::select! {
            () = sleep(backoff.next(random())) => {}
            _ = target.changed() => {}
        }
    }
}

impl Outlet {
    fn take(&mut self, drain: &Drain) -> Option<Portion> {
        let portion = self.0.try_recv().ok()?;
        drain
            .queued
            .fetch_sub(portion.bytes.len(), Ordering::Relaxed);
        Some(portion)
    }

    async fn next(&mut self, drain: &Drain) -> Option<Portion> {
        let portion = self.0.recv().await?;
        drain
            .queued
            .fetch_sub(portion.bytes.len(), Ordering::Relaxed);
        Some(portion)
    }
}

/// Sends over one connection until it breaks.
async fn send(
    drain: &Drain,
    outlet: &mut Outlet,
    left: &mut Option<Portion>,
    told_dropped: &mut u64,
    to: &Target,
    host: &str,
    socket: &mut Socket,
) -> io::Result<()> {
    loop {
        let portion = match left.take() {
            Some(portion) => portion,
            None => tokio::select! {
                portion = outlet.next(drain) => match portion {
                    Some(portion) => portion,
                    None => return Ok(()),
                },
                error = socket.closed() => return Err(error),
            },
        };
        let dropped = drain.counts.dropped.load(Ordering::Relaxed);
        if dropped > *told_dropped {
            let count = dropped - *told_dropped;
            let text = format!("{count} lines were dropped: the drain did not take them in time");
            warn!(target = %to, dropped = count, "lines were dropped");
            let line = Line {
                app: "deis",
                source: "logger",
                time_ms: super::shelf::now_ms(),
                text: text.as_bytes(),
            };
            if let Err(error) = socket.write(&[to.message(host, &line)]).await {
                *left = Some(portion);
                return Err(error);
            }
            *told_dropped = dropped;
        }
        let messages: Vec<Vec<u8>> = portion
            .lines()
            .map(|text| {
                let line = Line {
                    app: portion.app.as_str(),
                    source: portion.source.as_str(),
                    time_ms: portion.time_ms,
                    text,
                };
                to.message(host, &line)
            })
            .collect();
        if let Err(error) = socket.write(&messages).await {
            *left = Some(portion);
            return Err(error);
        }
        let count = messages.len() as u64;
        drain.counts.sent.fetch_add(count, Ordering::Relaxed);
    }
}

/// A way to the server.
enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Socket {
    async fn connect(to: &Target) -> io::Result<Self> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
        let address = (to.host.as_str(), to.port);
        let found = timeout(PATIENCE, lookup_host(address))
            .await
            .map_err(late)??;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
        for address in found {
            let connected = match to.transport {
                Transport::Udp => Self::udp(address).await,
                Transport::Tcp => match timeout(PATIENCE, TcpStream::connect(address)).await {
                    Ok(stream) => stream.map(Self::Tcp),
                    Err(elapsed) => Err(late(elapsed)),
                },
            };
            match connected {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn udp(address: std::net::SocketAddr) -> io::Result<Self> {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        Ok(Self::Udp(socket))
    }

    async fn write(&mut self, messages: &[Vec<u8>]) -> io::Result<()> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it takes nothing any more");
        match self {
            Self::Udp(socket) => {
                for message in messages {
                    timeout(PATIENCE, socket.send(message))
                        .await
                        .map_err(late)??;
                }
                Ok(())
            }
            Self::Tcp(stream) => {
                let bytes = messages.concat();
                timeout(PATIENCE, stream.write_all(&bytes))
                    .await
                    .map_err(late)?
            }
        }
    }

    /// Returns when the server has hung up: what is written then is lost without an error.
    async fn closed(&mut self) -> io::Error {
        match self {
            Self::Udp(_) => std::future::pending().await,
            Self::Tcp(stream) => {
                let mut nothing = [0; 256];
                loop {
                    match stream.read(&mut nothing).await {
                        Ok(0) => {
                            return io::Error::new(
                                io::ErrorKind::ConnectionReset,
                                "it has hung up",
                            );
                        }
                        // A syslog server has nothing to say.
                        Ok(_) => {}
                        Err(error) => return error,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
