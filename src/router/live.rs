//! The live table: changes come in under the write lock, requests choose under the read lock.
//!
//! Choosing and counting a holder happen under one lock, so that whoever withdraws a backend knows
//! all of its holders. Nothing is copied per request.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{
    backend::{Backend, Held},
    certs::Certs,
    challenges::Challenges,
    tally::{AppTally, Tallies},
};
use crate::{
    model::DomainName,
    plan::{
        host::parse_host,
        routes::{Applied, Endpoint, RecordChange, RouteTable, SavedRecord, Slot, Target},
    },
    store::{Update, keys},
};

type Table = RouteTable<Arc<Backend>>;

/// Who takes a request.
#[derive(Debug)]
pub enum Choice {
    /// This backend.
    Backend(Held),
    /// There are backends, and each was tried.
    Exhausted,
    /// The app or controller is known and has no process.
    NoProcess,
    /// The same, and one is about to come.
    Hold(Arc<AppTally>),
    /// The app's owner has switched it off; visitors read this.
    Maintenance(Option<String>),
    /// The app's owner doesn't let this client in.
    Forbidden,
    /// Nobody answers to that name.
    Unknown,
    /// The name is none.
    InvalidHost,
}

/// The route table as requests see it.
#[derive(Debug)]
pub struct Live {
    table: RwLock<Table>,
    /// The certificates that go with it.
    pub(super) certs: Arc<Certs>,
    /// What is counted of each release.
    pub(super) tallies: Tallies,
    /// What authorities are answered.
    pub(super) challenges: Challenges,
    workers: usize,
    started: Instant,
    /// Told when the last holder of a withdrawn backend is gone.
    pub(super) released: Arc<Notify>,
    /// Counts changes.
    version: watch::Sender<u64>,
}

impl Live {
    /// An empty table for so many workers.
    #[must_use]
    pub fn new(workers: usize, certs: Certs) -> Self {
        Self {
            table: RwLock::default(),
            certs: Arc::new(certs),
            tallies: Tallies::default(),
            challenges: Challenges::default(),
            workers,
            started: Instant::now(),
            released: Arc::default(),
            version: watch::Sender::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds on the router's own clock.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Applies what a feed of `prefix` tells. Gives back the backends that took requests before and
    /// take none from now on, and that requests may still hold.
    pub fn update(&self, prefix: &str, update: &Update) -> Vec<Arc<Backend>> {
        let records = update.changes.iter().map(|change| RecordChange {
            key: &change.key,
            revision: change.mod_revision,
            value: change.entry.as_ref().map(|entry| entry.value.as_slice()),
        });
        if prefix == keys::acme_challenges().as_str() {
            self.challenges.update(update);
            Vec::new()
        } else if prefix == keys::certs().as_str() {
            self.certs
                .update(&records.collect::<Vec<_>>(), update.first);
            self.version.send_modify(|version| *version += 1);
            Vec::new()
        } else if update.first {
            // Of several changes to one key only the last counts; a first listing has one each.
            let records: Vec<_> = records.collect();
            self.change(|table, make| table.replace(prefix, &records, make))
        } else {
            self.change(|table, make| table.apply(records, make))
        }
    }

    /// Fills the table with what was kept on disk.
    pub fn restore(&self, saved: &[SavedRecord]) {
        let records = saved.iter().map(|record| RecordChange {
            key: &record.key,
            revision: record.revision,
            value: Some(record.value.as_bytes()),
        });
        let prefix = keys::certs();
        let (certs, records): (Vec<_>, Vec<_>) =
            records.partition(|record| record.key.starts_with(prefix.as_str()));
        self.certs.update(&certs, true);
        self.change(|table, make| table.apply(records, make));
    }

    fn change(
        &self,
        apply: impl FnOnce(
            &mut Table,
            &mut dyn FnMut(&Endpoint) -> Arc<Backend>,
        ) -> Applied<Arc<Backend>>,
    ) -> Vec<Arc<Backend>> {
        let mut make = |endpoint: &Endpoint| {
            let released = Arc::clone(&self.released);
            let process = endpoint.process();
            let tally = process.map(|process| self.tallies.of_process(&process));
            Arc::new(Backend::new(endpoint, self.workers, released, tally))
        };
        let applied = apply(&mut self.write(), &mut make);
        for record in &applied.bad {
            warn!(
                key = record.key,
                why = record.why,
                "record left out of the route table"
            );
        }
        for backend in applied.withdrawn.iter().chain(&applied.parts_gone) {
            info!(
                backend = backend.name(),
                in_flight = backend.in_flight(),
                "backend withdrawn"
            );
            backend.withdraw();
        }
        self.version.send_modify(|version| *version += 1);
        applied.withdrawn
    }

    /// Chooses who takes a request, but none of `tried`: the less loaded of two at random. Those
    /// that were not reachable lately only when there is no other.
    #[must_use]
    pub fn choose(&self, host: &str, client: IpAddr, tried: &[Arc<Backend>]) -> Choice {
        let Ok(host) = parse_host(host) else {
            return Choice::InvalidHost;
        };
        let table = self.read();
        let slots = match table.lookup(&host) {
            Target::Unknown => return Choice::Unknown,
            Target::App(_, app) if !app.admits(client) => return Choice::Forbidden,
            Target::App(_, app) if app.in_maintenance() => {
                return Choice::Maintenance(app.page().map(str::to_owned));
            }
            Target::App(name, app) if app.slots().is_empty() && app.is_held() => {
                return Choice::Hold(self.tallies.app(name));
            }
            Target::App(_, app) => app.slots(),
            Target::Controller(slots) => slots,
        };
        if slots.is_empty() {
            return Choice::NoProcess;
        }
        let now = self.now();
        let untried =
            |slot: &Slot<Arc<Backend>>| !tried.iter().any(|t| Arc::ptr_eq(t, &slot.backend));
        let trusted = |at: usize| untried(&slots[at]) && !slots[at].backend.is_ejected(now);
        let load = |at: usize| slots[at].backend.in_flight();
        let random = random();
        pick_two(slots.len(), random, trusted, load)
            .or_else(|| pick_two(slots.len(), random, |at| untried(&slots[at]), load))
            .map_or(Choice::Exhausted, |at| {
                Choice::Backend(slots[at].backend.hold())
            })
    }

    /// Where a request is counted that no release of its app gets.
    #[must_use]
    pub fn unserved(&self, host: &str) -> Option<Arc<AppTally>> {
        let host = parse_host(host).ok()?;
        match self.read().lookup(&host) {
            Target::App(name, _) => Some(self.tallies.app(name)),
            Target::Controller(_) | Target::Unknown => None,
        }
    }

    /// Where builders take connections, in the order in which to try them.
    #[must_use]
    pub fn builders(&self) -> Vec<SocketAddr> {
        self.read().builders().collect()
    }

    /// The platform's domain.
    #[must_use]
    pub fn platform_domain(&self) -> Option<DomainName> {
        self.read().platform_domain().cloned()
    }

    /// Tells of every change of the table.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The table as records.
    #[must_use]
    pub fn export(&self) -> Vec<SavedRecord> {
        let mut records = self.read().export();
        records.extend(self.certs.export());
        records
    }

    /// Numbers of apps and backends, and requests in flight.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let table = self.read();
        let (backends, in_flight) = table.backends().fold((0, 0), |(n, sum), backend| {
            (n + 1, sum + backend.in_flight())
        });
        (table.app_count(), backends, in_flight)
    }

    /// The apps' backends that requests may be sent to.
    #[cfg(test)]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let table = self.read();
        let mut all: Vec<_> = table.backends().map(|b| b.endpoint().clone()).collect();
        all.sort_unstable();
        all
    }

    /// Closes idle connections that are about to grow too old.
    pub fn reap(&self) {
        let table = self.read();
        for backend in table.backends() {
            backend.reap();
        }
    }
}

/// The less loaded of two eligible ones at random; the only eligible one if there is one.
fn pick_two(
    len: usize,
    random: u64,
    eligible: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> usize,
) -> Option<usize> {
    let less = |a, b| if load(b) < load(a) { b } else { a };
    let below = |n: usize, bits: u64| usize::try_from(bits % n as u64).unwrap_or(0);
    let (high, low) = (random >> 32, random & 0xffff_ffff);
    if len >= 2 {
        let first = below(len, high);
        let second = (first + 1 + below(len - 1, low)) % len;
        match (eligible(first), eligible(second)) {
            (true, true) => return Some(less(first, second)),
            (true, false) => return Some(first),
            (false, true) => return Some(second),
            (false, false) => {}
        }
    }
    // Rare: most are out. Begin anywhere, so that the first eligible one doesn't get everything.
    let start = if len == 0 {
        return None;
    } else {
        below(len, high)
    };
    let mut found = (0..len)
        .map(|i| (start + i) % len)
        .filter(|at| eligible(*at));
    let first = found.next()?;
    Some(found.next().map_or(first, |second| less(first, second)))
}

thread_local!(static RANDOM: Cell<u64> = Cell::new(seed()));

/// A random number, quick and not secret (xorshift64*, seeded once per thread).
pub(super) fn random() -> u64 {
    RANDOM.with(|state| {
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// Lets a simulation's requests go where its seed says.
#[cfg(test)]
pub(super) fn reseed(seed: u64) {
    RANDOM.set(seed | 1);
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without the kernel's randomness an address will do: it only spreads load.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = (std::ptr::from_ref(&bytes).addr() as u64).to_ne_bytes();
    }
    u64::from_ne_bytes(bytes) | 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn picks_an_eligible_one_if_there_is_one(
            eligible in prop::collection::vec(any::<bool>(), 0..9),
            loads in prop::collection::vec(0usize..5, 9),
            random in any::<u64>(),
        ) {
            let picked = pick_two(eligible.len(), random, |at| eligible[at], |at| loads[at]);
            prop_assert_eq!(picked.is_some(), eligible.contains(&true));
            if let Some(at) = picked {
                prop_assert!(eligible[at]);
                let all = eligible.iter().all(|e| *e);
                if eligible.len() == 2 && all {
                    prop_assert!(loads[at] <= loads[1 - at], "the less loaded of the two");
                }
            }
        }
    }

    #[test]
    fn load_is_spread() {
        let mut counts = [0; 5];
        for _ in 0..5000 {
            let at = pick_two(5, random(), |_| true, |_| 0).expect("one");
            counts[at] += 1;
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
    }
}
