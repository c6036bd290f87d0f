//! The live table: changes come in under the write lock, requests choose under the read lock.
//!
//! Choosing and counting a holder happen under one lock, so that whoever withdraws a backend knows
//! all of its holders. Nothing is copied per request.

use std::{
    cell::Cell,
    collections::BTreeMap,
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
    onward::Generation,
    tally::{AppTally, Tallies},
};
use crate::{
    model::{AppName, DomainName, Revision},
    plan::{
        front::{Fault, RouterSettings},
        host::parse_host,
        routes::{Applied, Endpoint, RecordChange, RouteTable, SavedRecord, Slot, Target},
    },
    store::{Update, keys},
};

type Table = RouteTable<Arc<Backend>>;

/// The router's own settings are below `/deis/router/`.
pub const PART: &str = "router";

/// Who asks, and on what terms.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'c> {
    /// The client's address.
    pub address: IpAddr,
    /// What operators want.
    pub settings: &'c RouterSettings,
    /// The value that chooses the process, if there is one.
    pub affinity: Option<&'c str>,
    /// What has answered on its connection.
    pub seen: Generation,
}

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

/// What operators have set, as it is and as it is used.
#[derive(Debug, Default)]
struct Settings {
    used: Arc<RouterSettings>,
    records: BTreeMap<String, (Revision, String)>,
    faults: Vec<Fault>,
}

/// Whose requests a host name's are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// An app's.
    App(AppName),
    /// The platform's own.
    Controller,
}

/// The route table as requests see it.
#[derive(Debug)]
pub struct Live {
    table: RwLock<Table>,
    /// The certificates that go with it.
    pub(super) certs: Arc<Certs>,
    settings: RwLock<Settings>,
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
            settings: RwLock::default(),
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
        if prefix == keys::settings(PART).as_str() {
            // Routers register there, too: that is no reason to save the table.
            if self.set(records, update.first) {
                self.version.send_modify(|version| *version += 1);
            }
            Vec::new()
        } else if prefix == keys::acme_challenges().as_str() {
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
        let prefix = keys::settings(PART);
        let (settings, records): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| record.key.starts_with(prefix.as_str()));
        self.set(settings, true);
        self.change(|table, make| table.apply(records, make));
    }

    /// Takes settings over; `first` has all that there are. Says whether anything is different now.
    fn set<'c>(&self, changes: impl IntoIterator<Item = RecordChange<'c>>, first: bool) -> bool {
        let prefix = keys::settings(PART);
        let mut settings = self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = settings.records.clone();
        if first {
            settings.records.clear();
        }
        for change in changes {
            let Some(name) = keys::last_part(change.key, prefix.as_str()) else {
                continue;
            };
            // Where routers register.
            if name.starts_with("hosts/") {
                continue;
            }
            match change.value {
                Some(value) => {
                    let text = String::from_utf8_lossy(value).into_owned();
                    let record = (change.revision, text);
                    settings.records.insert(name.to_owned(), record);
                }
                None => {
                    settings.records.remove(name);
                }
            }
        }
        if settings.records == before {
            return false;
        }
        let texts = settings.records.iter();
        let texts = texts.map(|(name, (_, text))| (name.as_str(), text.as_str()));
        let (used, faults) = RouterSettings::of(texts);
        for fault in faults.iter().filter(|new| !settings.faults.contains(new)) {
            warn!(setting = fault.name, why = fault.why, "setting not used");
        }
        info!(
            set = settings.records.len(),
            left_out = faults.len(),
            "settings changed"
        );
        settings.used = Arc::new(used);
        settings.faults = faults;
        true
    }

    /// What operators want.
    #[must_use]
    pub fn settings(&self) -> Arc<RouterSettings> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&settings.used)
    }

    /// How many settings are not used as they stand.
    #[must_use]
    pub fn settings_left_out(&self) -> usize {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        settings.faults.len()
    }

    /// Whose requests a host name's are, if anybody answers to it.
    #[must_use]
    pub fn owner(&self, host: &str) -> Option<Owner> {
        let host = parse_host(host).ok()?;
        match self.read().lookup(&host) {
            Target::App(name, _) => Some(Owner::App(name.clone())),
            Target::Controller(_) => Some(Owner::Controller),
            Target::Unknown => None,
        }
    }

    /// Whether an app is in the table.
    #[must_use]
    pub fn knows(&self, app: &AppName) -> bool {
        self.read().has_app(app)
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

    /// Chooses who takes a request, but none of `tried`: the less loaded of two at random. One
    /// of an older release than its connection has seen only when there is no other, and those that
    /// were not reachable lately only when there is none but them.
    #[must_use]
    pub fn choose(&self, host: &str, caller: &Caller<'_>, tried: &[Arc<Backend>]) -> Choice {
        let Ok(host) = parse_host(host) else {
            return Choice::InvalidHost;
        };
        let (client, settings) = (caller.address, caller.settings);
        let table = self.read();
        let slots = match table.lookup(&host) {
            Target::Unknown => return Choice::Unknown,
            Target::App(_, app) if !app.admits(client, settings.enforce_whitelist) => {
                return Choice::Forbidden;
            }
            Target::App(_, app) if app.in_maintenance() => {
                return Choice::Maintenance(app.page().map(str::to_owned));
            }
            Target::App(name, app) if app.slots().is_empty() && app.is_held() => {
                return Choice::Hold(self.tallies.app(name));
            }
            Target::App(_, app) => app.slots(),
            Target::Controller(_) if !settings.controller_admits(client) => {
                return Choice::Forbidden;
            }
            Target::Controller(slots) => slots,
        };
        if slots.is_empty() {
            return Choice::NoProcess;
        }
        let now = self.now();
        let untried = |at: usize| {
            let slot: &Slot<Arc<Backend>> = &slots[at];
            !tried.iter().any(|t| Arc::ptr_eq(t, &slot.backend))
        };
        let trusted = |at: usize| untried(at) && !slots[at].backend.is_ejected(now);
        let onward =
            |at: usize| slots[at].backend.generation().is_onward(caller.seen) && trusted(at);
        let load = |at: usize| slots[at].backend.in_flight();
        if let Some(value) = caller.affinity {
            let weight = |at: usize| affine(value, slots[at].backend.name());
            let heaviest = |eligible: &dyn Fn(usize) -> bool| {
                (0..slots.len())
                    .filter(|at| eligible(*at))
                    .max_by_key(|at| weight(*at))
            };
            return heaviest(&onward)
                .or_else(|| heaviest(&trusted))
                .or_else(|| heaviest(&untried))
                .map_or(Choice::Exhausted, |at| {
                    Choice::Backend(slots[at].backend.hold())
                });
        }
        let random = random();
        pick_two(slots.len(), random, onward, load)
            .or_else(|| pick_two(slots.len(), random, trusted, load))
            .or_else(|| pick_two(slots.len(), random, untried, load))
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
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let texts = settings.records.iter();
        records.extend(texts.map(|(name, (revision, value))| SavedRecord {
            key: keys::setting(PART, name).as_str().to_owned(),
            revision: *revision,
            value: value.clone(),
        }));
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

/// How well a value and a process go together, whatever other processes there are: when one comes or
/// goes, only the values change their process that go best with that one. What counts of its name is
/// type and number, so that a release keeps its visitors apart as the one before it did.
fn affine(value: &str, process: &str) -> u64 {
    let slot = process.split_once('.').map_or(process, |(_, slot)| slot);
    // FNV-1a: the same in every router, of whatever build.
    let bytes = value.bytes().chain([0]).chain(slot.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Its high bits depend on the last bytes too little.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
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
    fn a_value_keeps_its_process() {
        let all: Vec<String> = (1..=5).map(|n| format!("blog_v7.web.{n}")).collect();
        let chosen = |value: &str, among: &[String]| {
            let best = among.iter().max_by_key(|name| affine(value, name));
            best.expect("one").clone()
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for n in 0..5000 {
            let value = format!("user-{n}");
            let process = chosen(&value, &all);
            *counts.entry(process.clone()).or_default() += 1;
            // Without another process it stays where it is.
            let fewer: Vec<String> = all[1..].to_vec();
            if process != all[0] {
                assert_eq!(chosen(&value, &fewer), process);
            }
            let next: Vec<String> = all.iter().map(|name| name.replace("v7", "v8")).collect();
            assert_eq!(chosen(&value, &next), process.replace("v7", "v8"));
        }
        assert!(
            counts.len() == 5 && counts.values().all(|n| (800..1200).contains(n)),
            "{counts:?}"
        );
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
