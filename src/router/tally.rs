//! What is counted of each release, and where requests wait when an app has no process for a moment.
//!
//! Counting costs a request one addition. When a release appears that is newer than all of its app,
//! a switch begins: what is told from then on ([`Tallies::of_app`]) is counted from there, so that nobody
//! has to ask before it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    model::{AppName, ProcessName, ReleaseNumber},
    plan::receipt::{AppCounts, CLASSES, Counts, class_of},
};

/// Releases of an app that are remembered after their last process has gone.
const FORMER: usize = 3;
/// Apps below which nothing is tidied up.
const FEW: usize = 1024;
/// Requests of one app that may wait at a time.
const WAITING: usize = 256;
/// How long a request may wait for a process.
pub const LONGEST_HOLD: Duration = Duration::from_secs(30);
/// A waiting request looks around at least this often.
const LOOK: Duration = Duration::from_secs(1);

/// What is counted of one release.
#[derive(Debug)]
pub struct ReleaseTally {
    errors: AtomicU64,
    held: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    latency: [AtomicU32; CLASSES],
}

impl Default for ReleaseTally {
    fn default() -> Self {
        Self {
            errors: AtomicU64::default(),
            held: AtomicU64::default(),
            retried: AtomicU64::default(),
            failed: AtomicU64::default(),
            latency: [const { AtomicU32::new(0) }; CLASSES],
        }
    }
}

/// How a request went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    /// After that time the app's answer began.
    pub answered: Option<Duration>,
    /// Its answer was an error of its own.
    pub error: bool,
    /// The app gave no answer, or not all of it.
    pub failed: bool,
    /// It had to wait for a process.
    pub held: bool,
    /// Tries at another connection.
    pub retried: u32,
}

impl ReleaseTally {
    /// Counts a request that is over.
    pub fn count(&self, fate: Fate) {
        let add = |counter: &AtomicU64, n: u64| {
            if n > 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        };
        if let Some(after) = fate.answered {
            let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
            self.latency[class_of(micros)].fetch_add(1, Ordering::Relaxed);
        }
        add(&self.errors, fate.error.into());
        add(&self.failed, fate.failed.into());
        add(&self.held, fate.held.into());
        add(&self.retried, fate.retried.into());
    }

    fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let latency = self
            .latency
            .iter()
            .map(|n| n.load(Ordering::Relaxed).into());
        Counts {
            errors: of(&self.errors),
            held: of(&self.held),
            retried: of(&self.retried),
            failed: of(&self.failed),
            latency: latency.collect(),
        }
    }
}

/// What is counted of one app.
#[derive(Debug)]
pub struct AppTally {
    /// Requests that no release got.
    pub unserved: Arc<ReleaseTally>,
    releases: Mutex<Releases>,
    waiting: AtomicUsize,
    /// Told when the app gets a process.
    arrived: Notify,
}

#[derive(Debug)]
struct Releases {
    tallies: BTreeMap<ReleaseNumber, Arc<ReleaseTally>>,
    /// Since when the newest of them is there, and what was counted by then.
    since: Instant,
    before: BTreeMap<ReleaseNumber, Counts>,
    unserved_before: Counts,
}

impl AppTally {
    fn new() -> Self {
        Self {
            unserved: Arc::default(),
            releases: Mutex::new(Releases {
                tallies: BTreeMap::new(),
                since: Instant::now(),
                before: BTreeMap::new(),
                unserved_before: Counts::default(),
            }),
            waiting: AtomicUsize::new(0),
            arrived: Notify::new(),
        }
    }

    fn release(&self, number: ReleaseNumber) -> Arc<ReleaseTally> {
        let mut releases = lock(&self.releases);
        if let Some(tally) = releases.tallies.get(&number) {
            return Arc::clone(tally);
        }
        let newest = releases.tallies.last_key_value().map(|(newest, _)| *newest);
        if newest.is_none_or(|newest| newest < number) {
            releases.since = Instant::now();
            let counted = releases.tallies.iter();
            releases.before = counted.map(|(n, tally)| (*n, tally.counts())).collect();
            releases.unserved_before = self.unserved.counts();
        }
        let tally = Arc::<ReleaseTally>::default();
        releases.tallies.insert(number, Arc::clone(&tally));
        let gone: Vec<ReleaseNumber> = releases
            .tallies
            .iter()
            .rev()
            .filter(|(_, tally)| Arc::strong_count(tally) == 1)
            .map(|(number, _)| *number)
            .skip(FORMER)
            .collect();
        for number in gone {
            releases.tallies.remove(&number);
        }
        tally
    }

    fn counts(&self) -> AppCounts {
        let releases = lock(&self.releases);
        let since = |(number, tally): (&ReleaseNumber, &Arc<ReleaseTally>)| {
            let before = releases.before.get(number).cloned().unwrap_or_default();
            (*number, tally.counts().since(&before))
        };
        let elapsed = releases.since.elapsed().as_millis();
        AppCounts {
            since_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            releases: releases.tallies.iter().map(since).collect(),
            unserved: self.unserved.counts().since(&releases.unserved_before),
        }
    }

    fn is_used(&self) -> bool {
        let releases = lock(&self.releases);
        let mut tallies = releases.tallies.values();
        tallies.any(|tally| Arc::strong_count(tally) > 1) || Arc::strong_count(&self.unserved) > 1
    }

    /// A place among those that wait for a process of this app, if there is one left.
    #[must_use]
    pub fn wait(self: &Arc<Self>) -> Option<Waiting> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        // Given back when dropped, also now.
        let place = Waiting {
            app: Arc::clone(self),
            until: Instant::now() + LONGEST_HOLD,
        };
        (before < WAITING).then_some(place)
    }
}

/// A request that waits for a process.
#[derive(Debug)]
pub struct Waiting {
    app: Arc<AppTally>,
    until: Instant,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.app.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Waiting {
    /// Waits until `found` gives something, told of each process that comes; none when it takes too long.
    pub async fn until<T>(&self, mut found: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let mut arrived = std::pin::pin!(self.app.arrived.notified());
            // From here on none is missed.
            arrived.as_mut().enable();
            if let Some(found) = found() {
                return Some(found);
            }
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let _ = tokio::time::timeout(left.min(LOOK), arrived).await;
        }
    }
}

/// What is counted of all apps.
#[derive(Debug, Default)]
pub struct Tallies {
    apps: Mutex<Apps>,
}

#[derive(Debug, Default)]
struct Apps {
    by_name: HashMap<AppName, Arc<AppTally>>,
    /// Apps from which on it is tidied up.
    many: usize,
}

impl Tallies {
    /// What a process's requests are counted by. Who waits for a process is told of it.
    #[must_use]
    pub fn of_process(&self, process: &ProcessName) -> Arc<ReleaseTally> {
        let app = self.app(&process.app);
        app.arrived.notify_waiters();
        app.release(process.release)
    }

    /// What an app's requests are counted by that no release gets.
    #[must_use]
    pub fn app(&self, name: &AppName) -> Arc<AppTally> {
        let mut apps = lock(&self.apps);
        if let Some(app) = apps.by_name.get(name) {
            return Arc::clone(app);
        }
        if apps.by_name.len() >= apps.many.max(FEW) {
            apps.by_name
                .retain(|_, app| Arc::strong_count(app) > 1 || app.is_used());
            apps.many = 2 * apps.by_name.len();
        }
        let app = Arc::new(AppTally::new());
        apps.by_name.insert(name.clone(), Arc::clone(&app));
        app
    }

    /// What was counted of an app since its newest release appeared; nothing of one that is not known.
    #[must_use]
    pub fn of_app(&self, name: &AppName) -> AppCounts {
        let app = lock(&self.apps).by_name.get(name).cloned();
        app.map(|app| app.counts()).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there stays usable whatever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(text: &str) -> ProcessName {
        text.parse().expect("a process")
    }

    fn served() -> Fate {
        Fate {
            answered: Some(Duration::from_millis(1)),
            ..Fate::default()
        }
    }

    #[test]
    fn a_new_release_begins_a_new_count() {
        let tallies = Tallies::default();
        let app = "blog".parse().expect("app");
        let old = tallies.of_process(&process("blog_v2.web.1"));
        (0..5).for_each(|_| old.count(served()));
        let new = tallies.of_process(&process("blog_v3.web.1"));
        old.count(served());
        (0..2).for_each(|_| new.count(served()));
        new.count(Fate {
            failed: true,
            retried: 2,
            ..Fate::default()
        });
        let again = tallies.of_process(&process("blog_v2.web.2"));
        again.count(served());
        tallies.app(&app).unserved.count(Fate {
            failed: true,
            held: true,
            ..Fate::default()
        });
        let counts = tallies.of_app(&app);
        let (v2, v3) = (
            &counts.releases[&ReleaseNumber(2)],
            &counts.releases[&ReleaseNumber(3)],
        );
        assert_eq!((v2.served(), v2.failed), (2, 0), "only since v3 is there");
        assert_eq!((v3.served(), v3.failed, v3.retried), (2, 1, 2));
        assert_eq!((counts.unserved.failed, counts.unserved.held), (1, 1));
        assert_eq!(
            tallies.of_app(&"none".parse().expect("app")),
            AppCounts::default()
        );
    }

    #[test]
    fn what_is_long_gone_is_forgotten() {
        let tallies = Tallies::default();
        for n in 1..20 {
            drop(tallies.of_process(&process(&format!("blog_v{n}.web.1"))));
        }
        let counts = tallies.of_app(&"blog".parse().expect("app"));
        assert!(counts.releases.len() <= FORMER + 1, "{counts:?}");
        assert!(counts.releases.contains_key(&ReleaseNumber(19)));
        let kept = tallies.of_process(&process("blog_v20.web.1"));
        for n in 0..3 * FEW {
            drop(tallies.of_process(&process(&format!("a{n}_v1.web.1"))));
        }
        let apps = lock(&tallies.apps);
        assert!(apps.by_name.len() <= 2 * FEW, "{}", apps.by_name.len());
        assert!(apps.by_name.contains_key("blog"), "it has a process");
        drop(kept);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_process_that_comes() {
        let tallies = Arc::new(Tallies::default());
        let app = tallies.app(&"blog".parse().expect("app"));
        let there = Arc::new(Mutex::new(None));
        let waiting = app.wait().expect("a place");
        let look = Arc::clone(&there);
        let held = tokio::spawn(async move { waiting.until(|| *lock(&look)).await });
        tokio::task::yield_now().await;
        assert!(!held.is_finished());
        *lock(&there) = Some(7);
        let _ = tallies.of_process(&process("blog_v2.web.1"));
        assert_eq!(held.await.expect("no panic"), Some(7));
        assert_eq!(app.waiting.load(Ordering::Relaxed), 0, "its place is free");
    }

    #[test]
    fn only_so_many_wait() {
        let app = Arc::new(AppTally::new());
        let all: Vec<_> = (0..WAITING).map(|_| app.wait().expect("a place")).collect();
        assert!(app.wait().is_none());
        drop(all);
        assert!(app.wait().is_some());
    }
}
