//! The load: requests that are due at fixed times, whatever became of those before them.
//!
//! Latency is counted from when a request was due: what waits behind a slow one is late, too. The
//! generator has a thread of its own; the requests on the way are bounded, and what was not sent for
//! that is told.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::JoinSet, time::sleep_until};

use super::client::{Connection, Tls};

/// Requests on the way at most.
const ON_THE_WAY: usize = 4096;
/// Idle connections that are kept per router and kind.
const KEPT: usize = 64;
/// Failures whose words are kept.
const WORDS: usize = 50;
/// Messages of a websocket, and the pause between them.
const MESSAGES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(400);

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On a connection that had requests before.
    Kept,
    /// On a connection of its own.
    New,
    /// Kept, over TLS.
    Tls,
    /// A connection of its own, over TLS.
    NewTls,
    /// Answered after a second.
    Slow,
    /// A tunnel with some messages.
    Websocket,
}

impl Kind {
    /// What comes when, of a hundred.
    const fn of(number: u64) -> Self {
        // Spread: the hundred are gone through in steps that meet each once.
        match number * 37 % 100 {
            0..50 => Self::Kept,
            50..70 => Self::New,
            70..90 => Self::Tls,
            90..95 => Self::NewTls,
            95..98 => Self::Slow,
            _ => Self::Websocket,
        }
    }

    /// Whether its latency is the routers' and the app's, and not its own.
    const fn is_quick(self) -> bool {
        !matches!(self, Self::Slow | Self::Websocket)
    }
}

/// What came of the load since it was asked last.
#[derive(Debug, Default)]
pub struct Counts {
    pub sent: u64,
    pub failed: u64,
    /// Answers of an older release than their connection had seen.
    pub went_back: u64,
    /// What was due while too much was on the way.
    pub left_out: u64,
    /// Milliseconds, of quick requests.
    pub latency: Vec<f64>,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    words: AtomicU64,
    stop: AtomicBool,
}

/// A load that goes on until it is dropped.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Load {
    /// So many requests a second for the host through these addresses in turns.
    pub fn start(host: &str, routers: &[std::net::IpAddr], rate: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let worker = Worker {
            shared: Arc::clone(&shared),
            host: host.into(),
            tls: Tls::new(),
            doors: routers
                .iter()
                .flat_map(|ip| [(*ip, 80), (*ip, 443)])
                .map(|(ip, port)| Door {
                    address: SocketAddr::new(ip, port),
                    idle: Mutex::default(),
                })
                .collect(),
            begun: Instant::now(),
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(Arc::new(worker).run(rate));
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// What has come of it since the last call.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut *self.shared.counts.lock().expect("lock"))
    }

    /// How many requests have failed since the last [`Self::take`], of how many.
    pub fn so_far(&self) -> (u64, u64) {
        let counts = self.shared.counts.lock().expect("lock");
        (counts.failed + counts.went_back, counts.sent)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One port of one router.
struct Door {
    address: SocketAddr,
    idle: Mutex<VecDeque<Connection>>,
}

struct Worker {
    shared: Arc<Shared>,
    host: Arc<str>,
    tls: Tls,
    /// In clear and over TLS, in turns.
    doors: Vec<Door>,
    begun: Instant,
}

impl Worker {
    async fn run(self: Arc<Self>, rate: usize) {
        let every = Duration::from_secs(1) / u32::try_from(rate).expect("a rate");
        let room = Arc::new(Semaphore::new(ON_THE_WAY));
        let mut tasks = JoinSet::new();
        let mut due = Instant::now();
        for number in 0_u64.. {
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            due += every;
            sleep_until(due.into()).await;
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                self.shared.counts.lock().expect("lock").left_out += 1;
                continue;
            };
            let worker = Arc::clone(&self);
            tasks.spawn(async move {
                worker.request(number, due).await;
                drop(permit);
            });
        }
        tasks.join_all().await;
    }

    async fn request(&self, number: u64, due: Instant) {
        let kind = Kind::of(number);
        let routers = self.doors.len() / 2;
        let router = usize::try_from(number / 100 + number).unwrap_or(0) % routers;
        let is_tls = matches!(kind, Kind::Tls | Kind::NewTls);
        let door = &self.doors[2 * router + usize::from(is_tls)];
        let result = match kind {
            Kind::Websocket => self.talk(door, number).await,
            Kind::Slow => self.ask(door, kind, "/slow?s=1").await,
            _ => self.ask(door, kind, "/").await,
        };
        let took = due.elapsed();
        let mut counts = self.shared.counts.lock().expect("lock");
        counts.sent += 1;
        match &result {
            Ok(went_back) => counts.went_back += u64::from(*went_back),
            Err(_) => counts.failed += 1,
        }
        if kind.is_quick() && result.is_ok() {
            counts.latency.push(took.as_secs_f64() * 1e3);
        }
        drop(counts);
        let word = match result {
            Ok(false) => return,
            Ok(true) => "an older release than before on this connection".to_owned(),
            Err(why) => why,
        };
        if self.shared.words.fetch_add(1, Ordering::Relaxed) < WORDS as u64 {
            let at = self.begun.elapsed().as_secs_f64();
            let begun = at - took.as_secs_f64();
            eprintln!(
                "  FAILED at {at:.3} s (due at {begun:.3} s), {kind:?} by {}: {word}",
                door.address
            );
        }
    }

    /// A request; whether its connection went back to an older release.
    async fn ask(&self, door: &Door, kind: Kind, path: &str) -> Result<bool, String> {
        let keeps = matches!(kind, Kind::Kept | Kind::Tls);
        let idle = || door.idle.lock().expect("lock");
        let kept = if keeps { idle().pop_front() } else { None };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.open(door).await?,
        };
        let answer = connection.get(&self.host, path).await?;
        if keeps && idle().len() < KEPT {
            // In turns: none of them gets old enough for the router to close it.
            idle().push_back(connection);
        }
        Ok(answer.went_back)
    }

    async fn talk(&self, door: &Door, number: u64) -> Result<bool, String> {
        let mut connection = self.open(door).await?;
        connection.upgrade(&self.host).await?;
        for message in 0..MESSAGES {
            connection
                .echo(format!("message {message} of {number}").as_bytes())
                .await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(false)
    }

    async fn open(&self, door: &Door) -> Result<Connection, String> {
        let tls = (door.address.port() == 443).then_some((&self.tls, &*self.host));
        Connection::open(door.address, tls).await
    }
}
