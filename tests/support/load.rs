//! A steady load on an app.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::http::Connection;

/// A steady load on an app: half on new connections, half on kept ones.
pub struct Load {
    pub begun: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    sent: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Drop for Load {
    /// A test that failed leaves no traffic behind.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What came of a load.
#[derive(Debug)]
pub struct Loaded {
    pub sent: usize,
    /// When after the start, and what.
    pub failures: Vec<(Duration, String)>,
}

impl Load {
    /// About `rate` requests a second, through the entry point.
    pub fn start(app: &str, rate: u32) -> Self {
        Self::of(app, "/", rate, &["127.0.0.1:80".to_owned()])
    }

    /// The same for a page, through these addresses in turns.
    pub fn of(app: &str, path: &'static str, rate: u32, addresses: &[String]) -> Self {
        let begun = Instant::now();
        let mut load = Self {
            begun,
            stop: Arc::default(),
            threads: Vec::new(),
            sent: Arc::default(),
            failures: Arc::default(),
        };
        let workers = 10;
        let pause = Duration::from_secs(1) * workers / rate;
        let threads = (0..workers).map(|worker| {
            let (stop, sent) = (load.stop.clone(), load.sent.clone());
            let failures = load.failures.clone();
            let host = format!("{app}.localhost");
            let address = addresses[worker as usize / 2 % addresses.len()].clone();
            thread::spawn(move || {
                let keep = worker % 2 == 0;
                let mut kept: Option<Connection> = None;
                thread::sleep(pause * worker / workers);
                let mut next = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    next += pause;
                    let connection = match kept.take() {
                        Some(connection) => Ok(connection),
                        None => Connection::open(&address),
                    };
                    let at = begun.elapsed();
                    let answer = connection.and_then(|mut connection| {
                        let answer = connection.get(&host, path)?;
                        Ok((connection, answer))
                    });
                    sent.fetch_add(1, Ordering::Relaxed);
                    let failure = match answer {
                        Ok((connection, answer)) if answer.status == 200 => {
                            if keep && !answer.head.to_lowercase().contains("connection: close") {
                                kept = Some(connection);
                            }
                            None
                        }
                        Ok((_, answer)) => Some(format!("{} {}", answer.status, answer.body)),
                        Err(error) => Some(error),
                    };
                    if let Some(failure) = failure {
                        let kind = if keep { "kept" } else { "new" };
                        failures
                            .lock()
                            .expect("lock")
                            .push((at, format!("{kind}, {address}: {failure}")));
                    }
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            })
        });
        load.threads = threads.collect();
        load
    }

    pub fn finish(mut self) -> Loaded {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().expect("load");
        }
        let failures = std::mem::take(&mut *self.failures.lock().expect("lock"));
        Loaded {
            sent: self.sent.load(Ordering::Relaxed),
            failures,
        }
    }
}
