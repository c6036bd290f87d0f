//! The run-time half of a backend: who holds it, its idle connections, and whether it is trusted.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    body::RequestBody,
    metrics::{AppFigures, Metrics},
    onward::Generation,
    tally::ReleaseTally,
};
use crate::{plan::routes::Endpoint, store::keys};

/// How long an idle upstream connection may live, reaper's pause included.
pub const IDLE_MAX: Duration = Duration::from_secs(4);
/// How often idle connections are looked through.
pub const REAP_EVERY: Duration = Duration::from_secs(1);
/// A request that can't be sent twice uses a connection only while it is this fresh: meanwhile the
/// app may be about to close it, or its host may have gone without a word.
const FRESH: Duration = Duration::from_millis(250);
/// Idle connections kept per backend and worker.
const IDLE_KEPT: usize = 64;
/// A backend that can't be reached is left out for so long, times its failures in a row.
const EJECT_FOR: Duration = Duration::from_secs(2);
/// Failures in a row that are counted.
const EJECT_TIMES: u32 = 5;

/// Requests at once on one connection of HTTP/2. RFC 9113 (6.5.2) wants servers to allow as many; of
/// one that allows fewer the others wait.
pub const STREAMS: usize = 100;

/// A connection to a backend that can take a request.
#[derive(Debug)]
pub enum Sender {
    /// One request after the other.
    Http1(http1::SendRequest<RequestBody>),
    /// Many at once. Each holds `streams`, and so does the pool.
    Http2 {
        /// The connection's.
        sender: http2::SendRequest<RequestBody>,
        /// How many hold it is how many requests it has.
        streams: Arc<()>,
    },
}

impl Sender {
    /// A new connection of HTTP/2.
    #[must_use]
    pub fn http2(sender: http2::SendRequest<RequestBody>) -> Self {
        let streams = Arc::default();
        Self::Http2 { sender, streams }
    }

    /// Sends a request; gives it back when nothing of it was sent.
    ///
    /// # Errors
    /// When the connection broke, or the other side speaks something else.
    pub async fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2 { sender, .. } => sender.try_send_request(request).await,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2 { sender, .. } => sender.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2 { sender, .. } => sender.is_ready(),
        }
    }

    /// Whether a pool's connection has requests.
    fn is_used(&self) -> bool {
        matches!(self, Self::Http2 { streams, .. } if Arc::strong_count(streams) > 1)
    }

    /// For one request more on a connection that takes many at once.
    fn another(&self) -> Option<Self> {
        match self {
            Self::Http2 { sender, streams } if Arc::strong_count(streams) <= STREAMS => {
                Some(Self::Http2 {
                    sender: sender.clone(),
                    streams: Arc::clone(streams),
                })
            }
            _ => None,
        }
    }
}

/// What a connection is used for. Each sort keeps to itself, because their sockets differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Requests without a body.
    Heads,
    /// Requests with a body.
    Bodies,
    /// Requests that are passed on in HTTP/2, many at once.
    Streams,
}

impl Sort {
    const COUNT: usize = 3;
}

/// Where a connection is kept while it is idle.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The worker that drives it.
    pub worker: usize,
    /// What it is used for.
    pub sort: Sort,
}

impl Place {
    const fn index(self) -> usize {
        self.worker * Sort::COUNT + self.sort as usize
    }
}

/// A connection in a pool: idle, or one that takes many requests at once.
struct Idle {
    sender: Sender,
    /// When it was last seen to be used.
    since: Instant,
}

/// One incarnation of a process's address.
pub struct Backend {
    endpoint: Endpoint,
    /// Its process's name, for the access log.
    name: String,
    /// Whether the API is behind it, and no app.
    controller: bool,
    /// What its requests are counted by; none when it is a part of the platform.
    tally: Option<Arc<ReleaseTally>>,
    generation: Generation,
    /// What its app's requests are counted by.
    figures: OnceLock<Arc<AppFigures>>,
    in_flight: AtomicUsize,
    gone: AtomicBool,
    /// Cancelled when it leaves the table: tunnels begin their last seconds.
    pub(super) withdrawn: CancellationToken,
    /// Cancelled when even the longest drain is over: its connections are cut.
    pub(super) cut: CancellationToken,
    released: Arc<Notify>,
    failures: AtomicU32,
    /// Milliseconds on the router's own clock.
    ejected_until: AtomicU64,
    /// One pool per place: a connection stays on the thread that drives it.
    idle: Box<[Mutex<Vec<Idle>>]>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Backend").field(&self.endpoint).finish()
    }
}

impl Backend {
    /// A backend that nobody uses yet; `released` is told when the last holder of a withdrawn one
    /// is gone.
    #[must_use]
    pub fn new(
        endpoint: &Endpoint,
        workers: usize,
        released: Arc<Notify>,
        tally: Option<Arc<ReleaseTally>>,
    ) -> Self {
        let name = endpoint.key.rsplit('/').next().unwrap_or_default();
        Self {
            endpoint: endpoint.clone(),
            name: name.to_owned(),
            controller: endpoint.key.starts_with(keys::parts("controller").as_str()),
            tally,
            generation: endpoint
                .process()
                .map_or_else(Generation::default, |process| Generation::of(&process)),
            figures: OnceLock::new(),
            in_flight: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            withdrawn: CancellationToken::new(),
            cut: CancellationToken::new(),
            released,
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            idle: (0..workers * Sort::COUNT)
                .map(|_| Mutex::default())
                .collect(),
        }
    }

    /// Whether the API is behind it, and no app.
    #[must_use]
    pub const fn is_controller(&self) -> bool {
        self.controller
    }

    /// What its app's requests are counted by. Found once: an app that is forgotten by the metrics has
    /// no backend in the table.
    #[must_use]
    pub fn figures(&self, metrics: &Metrics) -> Option<&Arc<AppFigures>> {
        if let Some(there) = self.figures.get() {
            return Some(there);
        }
        let found = if self.controller {
            metrics.controller()
        } else {
            metrics.app(self.endpoint.process()?.app.as_str())?
        };
        Some(self.figures.get_or_init(|| found))
    }

    /// Its address and incarnation.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its process's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its app and release.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// What its requests are counted by.
    #[must_use]
    pub const fn tally(&self) -> Option<&Arc<ReleaseTally>> {
        self.tally.as_ref()
    }

    /// Requests and tunnels that hold it.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Takes it for a request. Only under the table's lock: who withdraws it there sees every
    /// holder.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Held {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        Held(Arc::clone(self))
    }

    /// It has left the table: idle connections close at once, tunnels begin their last seconds.
    pub fn withdraw(&self) {
        self.gone.store(true, Ordering::SeqCst);
        for pool in &self.idle {
            lock(pool).clear();
        }
        self.withdrawn.cancel();
    }

    /// Whether requests should go elsewhere for now.
    #[must_use]
    pub fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    /// It could not be reached.
    pub fn failed(&self, now: u64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let pause = EJECT_FOR * failures.min(EJECT_TIMES);
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.ejected_until.store(now + pause, Ordering::Relaxed);
    }

    /// It was reached.
    pub fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// An idle connection, the one used last; a fresh one if the request can't be
    /// sent twice.
    #[must_use]
    pub fn checkout(&self, place: Place, replayable: bool) -> Option<Sender> {
        if place.sort == Sort::Streams {
            return self.join(place);
        }
        let oldest = if replayable { IDLE_MAX } else { FRESH };
        let mut pool = lock(&self.idle[place.index()]);
        while let Some(idle) = pool.pop() {
            if idle.since.elapsed() > oldest {
                // The others are older still.
                if replayable {
                    pool.clear();
                } else {
                    pool.push(idle);
                }
                return None;
            }
            if idle.sender.is_ready() {
                return Some(idle.sender);
            }
        }
        None
    }

    /// A place on a connection that takes many requests at once. No request waits for how fresh it is:
    /// a server says goodbye before it closes one, and to which requests it has not listened.
    fn join(&self, place: Place) -> Option<Sender> {
        let mut pool = lock(&self.idle[place.index()]);
        pool.retain(|idle| !idle.sender.is_closed());
        pool.iter_mut()
            .filter(|idle| idle.sender.is_used() || idle.since.elapsed() < IDLE_MAX)
            .find_map(|idle| {
                let sender = idle.sender.another()?;
                idle.since = Instant::now();
                Some(sender)
            })
    }

    /// Lets other requests use a connection that takes many at once.
    pub fn share(&self, place: Place, sender: &Sender) {
        if let Some(sender) = sender.another() {
            self.keep(place, sender);
        }
    }

    /// Gives a connection back when its answer has been read.
    pub fn give_back(self: &Arc<Self>, place: Place, sender: Sender) {
        // A shared one is in its place already.
        let Sender::Http1(sender) = sender else {
            return;
        };
        if sender.is_closed() || self.gone.load(Ordering::SeqCst) {
            return;
        }
        if sender.is_ready() {
            return self.keep(place, Sender::Http1(sender));
        }
        // The request's last bytes may still be on their way: wait for that, not for long.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let backend = Arc::clone(self);
        runtime.spawn(async move {
            let mut sender = sender;
            let ready = tokio::time::timeout(Duration::from_secs(1), sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                backend.keep(place, Sender::Http1(sender));
            }
        });
    }

    fn keep(&self, place: Place, sender: Sender) {
        let mut pool = lock(&self.idle[place.index()]);
        // Looked at under the lock: `withdraw` sets it before it clears.
        if self.gone.load(Ordering::SeqCst) || pool.len() >= IDLE_KEPT {
            return;
        }
        pool.push(Idle {
            sender,
            since: Instant::now(),
        });
    }

    /// Closes connections that would grow too old before the next look.
    pub fn reap(&self) {
        let now = Instant::now();
        for pool in &self.idle {
            lock(pool).retain_mut(|idle| {
                if idle.sender.is_used() {
                    idle.since = now;
                }
                !idle.sender.is_closed() && now.duration_since(idle.since) < IDLE_MAX - REAP_EVERY
            });
        }
    }

    /// Drops the idle connections there: one of them turned out to be dead.
    pub fn drop_idle(&self, place: Place) {
        // The requests of a shared one say for themselves how they fare.
        lock(&self.idle[place.index()]).retain(|idle| idle.sender.is_used());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is in there stays usable whatever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's hold on a backend; dropped when the request is over.
#[derive(Debug)]
pub struct Held(Arc<Backend>);

impl std::ops::Deref for Held {
    type Target = Arc<Backend>;
    fn deref(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.0.gone.load(Ordering::SeqCst) {
            self.0.released.notify_one();
        }
    }
}
