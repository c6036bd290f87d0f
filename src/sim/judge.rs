//! The laws: looked at whenever the store or a process changes. The judge keeps a mirror of its own,
//! and sees the store as it is, whatever the nodes believe.

mod raw;
mod records;
mod rest;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use uuid::Uuid;

use super::{
    sky::{Node, lock},
    units::Temper,
};
use crate::{
    model::*,
    outside::{self, simulated},
    plan::routes::Endpoint,
    store::{Change, keys},
};

/// A router that was away may come back with what it knew then: it counts after so long, in seconds.
const ROUTER_BACK: f64 = 30.0;
/// So long after its lease a router may still serve what it knew last, in seconds.
const ROUTER_LINGER: f64 = 10.0;

/// A process as it is on its host, whatever anybody says.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    pub process: ProcessName,
    pub uuid: Uuid,
    pub up: bool,
    pub healthy: bool,
    /// Its main process is there: also while it takes its time to stop.
    pub runs: bool,
}

/// So long after a host was closed a leader may not know of it, in seconds.
const CLOSING: f64 = 30.0;

/// How long routers have to let go of a process before the deadline of its host's drain counts, in seconds.
const ROUTER_SILENCE: f64 = 30.0;

/// How long a host has to be away before anything is moved, in seconds.
const HOST_GRACE: f64 = 2.9;

/// What a router would do at this moment.
#[derive(Debug, Clone)]
pub(super) struct RouterSight {
    pub ip: String,
    pub serves: bool,
    pub table: Vec<Endpoint>,
    pub held: Vec<Endpoint>,
}

#[derive(Debug, Default)]
struct Book {
    keys: BTreeMap<String, (Vec<u8>, Revision)>,
    units: BTreeMap<(usize, String), Sight>,
    /// The raw units that run, and which assignment each is.
    raw: BTreeMap<(usize, String), Uuid>,
    /// When raw units that were not to run were last wanted again: their agents have to hear of it.
    resumed: BTreeMap<Uuid, f64>,
    /// Every process that was ever assigned.
    assigned: BTreeSet<(String, String, Uuid)>,
    floors: BTreeMap<AppName, Structure>,
    tempers: BTreeMap<(AppName, ReleaseNumber), Temper>,
    /// When each router's presence went or came last, and whether it is there.
    routers: BTreeMap<String, (f64, bool, bool)>,
    /// Processes whose assignments have said at some time that their type is single, and those that
    /// said so from the first.
    singles: BTreeSet<Uuid>,
    born_single: BTreeSet<Uuid>,
    /// Processes that were moved away from a host that went before their type was single: what may be
    /// left of them there nobody can know.
    left_before: BTreeSet<Uuid>,
    /// Types of which the fence has stopped something, until as many serve again as are wanted.
    fenced: BTreeSet<(AppName, ProcessType)>,
    /// Since when processes are to be drained.
    draining: BTreeMap<Uuid, f64>,
    /// One-off processes that were started.
    once: BTreeSet<Uuid>,
    /// Releases that have a command to be run first, and those whose command has ended well.
    commands: BTreeSet<(AppName, ReleaseNumber)>,
    commanded: BTreeSet<(AppName, ReleaseNumber)>,
    /// Nothing is lost in this story: the floor holds.
    gentle: bool,
    /// Since when hosts are closed to new processes.
    closed: BTreeMap<String, f64>,
    /// Since when hosts' presence is gone.
    absent: BTreeMap<String, f64>,
    verdict: Option<String>,
    hash: u64,
    events: u64,
    last_write: f64,
    trace: bool,
    seen: BTreeMap<&'static str, u64>,
}

/// Keeps the books and finds who breaks a law.
#[derive(Debug, Default)]
pub(super) struct Judge(Mutex<Book>);

pub(super) fn machine(host: usize) -> MachineId {
    format!("{host:032x}").parse().expect("machine id")
}

pub(super) fn ip(host: usize) -> String {
    format!("10.0.0.{host}")
}

fn host_of(machine: &MachineId) -> usize {
    usize::from_str_radix(machine.as_str(), 16).unwrap_or(0)
}

fn now() -> f64 {
    simulated::elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

impl Judge {
    pub fn new(gentle: bool, trace: bool) -> Self {
        Self(Mutex::new(Book {
            gentle,
            trace,
            hash: 0xcbf2_9ce4_8422_2325,
            ..Book::default()
        }))
    }

    /// The first law that was broken.
    pub fn verdict(&self) -> Option<String> {
        lock(&self.0).verdict.clone()
    }

    /// What happened, as a number, and how much.
    pub fn trace(&self) -> (u64, u64) {
        let book = lock(&self.0);
        (book.hash, book.events)
    }

    /// How often what happened.
    pub fn seen(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.0).seen.clone()
    }

    /// When the store was changed last, in seconds, but for leases and what routers say.
    pub fn last_write(&self) -> f64 {
        lock(&self.0).last_write
    }

    pub fn note(&self, what: &'static str, text: &str) {
        lock(&self.0).note(what, text);
    }

    /// Prints what the store holds and what runs, in a story that is told.
    pub fn print(&self) {
        let book = lock(&self.0);
        if !book.trace {
            return;
        }
        for (key, (value, revision)) in &book.keys {
            let text = String::from_utf8_lossy(value);
            println!("{key} at {revision}: {text}");
        }
        for ((host, name), sight) in &book.units {
            println!("{name} on {host}: {sight:?}");
        }
    }

    pub fn accuse(&self, text: String) {
        lock(&self.0).accuse(text);
    }

    pub fn temper(&self, process: &ProcessName) -> Temper {
        lock(&self.0).temper(process)
    }

    /// The store has changed.
    pub fn stored(&self, writer: Option<Node>, revision: Revision, changes: &[Change]) {
        lock(&self.0).stored(writer, revision, changes);
    }

    /// systemd has been asked to start a process.
    pub fn starts(&self, host: usize, process: &ProcessName, uuid: Uuid) {
        let mut book = lock(&self.0);
        book.note("start", &format!("{process} on {host} ({uuid})"));
        let known = (machine(host).to_string(), process.to_string(), uuid);
        if !book.assigned.contains(&known) {
            book.accuse(format!(
                "{process} is started on host {host} as {uuid}, which was never assigned there"
            ));
        }
        if process.kind.is_one_off() && !book.once.insert(uuid) {
            book.accuse(format!("{process} is started on {host} a second time"));
        }
        let release = keys::release(&process.app, process.release);
        let app = keys::app(&process.app);
        if !book.keys.contains_key(release.as_str()) && book.keys.contains_key(app.as_str()) {
            book.accuse(format!(
                "{process} is started and its release does not exist"
            ));
        }
        let sight = Sight {
            process: process.clone(),
            uuid,
            up: false,
            healthy: false,
            runs: false,
        };
        book.units.insert((host, process.to_string()), sight);
    }

    pub fn up(&self, host: usize, process: &ProcessName, uuid: Uuid) {
        let mut book = lock(&self.0);
        book.note("up", &format!("{process} on {host}"));
        let sight = Sight {
            process: process.clone(),
            uuid,
            up: true,
            healthy: false,
            runs: true,
        };
        book.units.insert((host, process.to_string()), sight);
        book.at_most_one_single(process, uuid);
        book.at_most_one_command(process);
    }

    /// A one-off process has ended by itself.
    pub fn ended(&self, host: usize, process: &ProcessName, code: i32) {
        let mut book = lock(&self.0);
        book.note("ended", &format!("{process} on {host}: {code}"));
        book.units.remove(&(host, process.to_string()));
        if code == 0 && process.kind == ProcessType::release() {
            let of = (process.app.clone(), process.release);
            book.commanded.insert(of);
        }
    }

    pub fn healthy(&self, host: usize, process: &ProcessName, healthy: bool) {
        let mut book = lock(&self.0);
        book.note("word", &format!("{process} on {host} {healthy}"));
        if let Some(sight) = book.units.get_mut(&(host, process.to_string())) {
            sight.healthy = healthy;
        }
    }

    /// It is being stopped, and runs on until it is gone.
    pub fn stopping(&self, host: usize, process: &ProcessName) {
        self.goes(host, process, true);
    }

    /// It is not up any more: it crashed, or its host went.
    pub fn down(&self, host: usize, process: &ProcessName) {
        self.goes(host, process, false);
    }

    fn goes(&self, host: usize, process: &ProcessName, runs: bool) {
        let mut book = lock(&self.0);
        book.note("down", &format!("{process} on {host}"));
        if let Some(sight) = book.units.get_mut(&(host, process.to_string())) {
            (sight.up, sight.healthy, sight.runs) = (false, false, runs);
        }
        book.floors_hold(&format!("{process} on {host} went down"));
    }

    pub fn gone(&self, host: usize, process: &ProcessName) {
        let mut book = lock(&self.0);
        book.note("gone", &format!("{process} on {host}"));
        book.units.remove(&(host, process.to_string()));
    }

    pub fn host_is_off(&self, host: usize) {
        let mut book = lock(&self.0);
        book.units.retain(|(of, _), _| *of != host);
        book.raw.retain(|(of, _), _| *of != host);
    }

    /// A process is being stopped; `lease_is_out` when it is behind its host's fence and the lease has
    /// run out, `routers` is what each router would do now.
    pub fn stops(
        &self,
        host: usize,
        process: &ProcessName,
        uuid: Uuid,
        lease_is_out: bool,
        routers: &[RouterSight],
    ) {
        let mut book = lock(&self.0);
        book.note("stop", &format!("{process} on {host}"));
        if lease_is_out {
            // Its type is single, and it may be replaced elsewhere: the one thing that goes before all
            // else. Whatever was put behind the fence was told to be.
            book.note("fence", &format!("{process} on {host}"));
            let kind = (process.app.clone(), process.kind.clone());
            book.fenced.insert(kind);
            if !book.singles.contains(&uuid) {
                book.accuse(format!(
                    "{process} on host {host} is stopped by the fence, and was never single"
                ));
            }
            return;
        }
        let key = keys::assignment(&machine(host), &process.to_string());
        let assignment = book.read::<Assignment>(key.as_str());
        let assignment = assignment.filter(|assignment| assignment.uuid == uuid);
        let moved = assignment.is_none();
        if let Some(assignment) = assignment.filter(|a| a.desired != Desired::Stop) {
            book.accuse(format!(
                "{process} on host {host} is stopped, and nobody asked for it: it is to {:?}",
                assignment.desired
            ));
        }
        if moved || !process.kind.is_routable() {
            // Its host was lost, and it is elsewhere by now.
            return;
        }
        let key = keys::service(&process.app, process).to_string();
        let ours = |endpoint: &&Endpoint| {
            endpoint.key == key && endpoint.address.ip().to_string() == ip(host)
        };
        for router in routers {
            if !book.counts(router) {
                continue;
            }
            if router.table.iter().any(|endpoint| ours(&endpoint)) {
                book.accuse(format!(
                    "{process} on host {host} is stopped while router {} sends requests there",
                    router.ip
                ));
            }
            let is_held = router.held.iter().any(|endpoint| ours(&endpoint));
            if is_held && !book.has_had_its_time(host, uuid) {
                book.accuse(format!(
                    "{process} on host {host} is stopped while router {} has a request with it",
                    router.ip
                ));
            }
        }
    }

    /// A process's address has been withdrawn: enough others must be known everywhere.
    pub fn routers_know_enough(&self, routers: &[RouterSight]) {
        let mut book = lock(&self.0);
        if !book.gentle {
            return;
        }
        let floors: Vec<(AppName, usize)> = book
            .floors
            .iter()
            .map(|(app, floor)| {
                let web = floor.iter().filter(|(kind, _)| kind.is_routable());
                (app.clone(), web.map(|(_, count)| *count as usize).sum())
            })
            .collect();
        for router in routers {
            if !book.counts(router) {
                continue;
            }
            for (app, floor) in &floors {
                let prefix = keys::services_of(app);
                let known = router.table.iter().filter(|endpoint| {
                    let process = keys::parse_service(&endpoint.key);
                    endpoint.key.starts_with(prefix.as_str())
                        && process.is_some_and(|process| book.is_up(&process))
                });
                let known = known.count();
                if known < *floor {
                    book.accuse(format!(
                        "router {} knows {known} processes of {app}, and {floor} must serve",
                        router.ip
                    ));
                }
            }
        }
    }
}

impl Book {
    fn note(&mut self, what: &'static str, text: &str) {
        *self.seen.entry(what).or_default() += 1;
        let at = (now() * 1000.0) as u64;
        if self.trace {
            println!("{:>10.3} {what} {text}", at as f64 / 1000.0);
        }
        self.events += 1;
        self.mix(&at.to_le_bytes());
        self.mix(what.as_bytes());
        self.mix(text.as_bytes());
    }

    /// Adds to the hash of all that happened.
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn accuse(&mut self, text: String) {
        if self.verdict.is_none() {
            let text = format!("after {:.3} s: {text}", now());
            if self.trace {
                println!("VIOLATION {text}");
            }
            self.verdict = Some(text);
        }
    }

    fn read<T: Record>(&self, key: &str) -> Option<T> {
        T::decode(&self.keys.get(key)?.0).ok()
    }

    fn temper(&mut self, process: &ProcessName) -> Temper {
        let of = (process.app.clone(), process.release);
        if let Some(temper) = self.tempers.get(&of) {
            return *temper;
        }
        let release = self.read::<Release>(keys::release(&of.0, of.1).as_str());
        let build = release.and_then(|release| release.build);
        let build = build.and_then(|id| self.read::<Build>(keys::build(&of.0, id).as_str()));
        let temper = build.map_or(Temper::Good, |build| Temper::parse(&build.sha));
        self.tempers.insert(of, temper);
        temper
    }

    fn is_up(&self, process: &ProcessName) -> bool {
        let name = process.to_string();
        let mut units = self.units.iter();
        units.any(|((_, of), sight)| *of == name && sight.up)
    }

    /// Whether a router's acknowledgement is waited for.
    fn counts(&self, router: &RouterSight) -> bool {
        if !router.serves {
            return false;
        }
        match self.routers.get(&router.ip) {
            // It was here, and may serve on for a while.
            Some((since, false, _)) => now() - since < ROUTER_LINGER,
            Some((since, true, again)) => !again || now() - since > ROUTER_BACK,
            None => false,
        }
    }

    /// How many processes of a type serve.
    fn serving(&self, app: &AppName, kind: &ProcessType) -> usize {
        let serving = self.units.values().filter(|sight| {
            let service = || keys::service(app, &sight.process);
            sight.process.app == *app
                && sight.process.kind == *kind
                && sight.up
                && sight.healthy
                && (!kind.is_routable() || self.keys.contains_key(service().as_str()))
        });
        serving.count()
    }

    /// Whether the deadline of its host's drain is over, and routers have had their time to let go of it.
    fn has_had_its_time(&self, host: usize, uuid: Uuid) -> bool {
        let record = self.read::<HostRecord>(keys::host(&machine(host)).as_str());
        let deadline = record.and_then(|record| record.drain?.deadline);
        let since = self.draining.get(&uuid);
        deadline.is_some_and(|deadline| deadline <= outside::now())
            && since.is_some_and(|since| now() - since >= ROUTER_SILENCE)
    }

    /// While nothing is lost, no type has fewer serving processes than both old and new want.
    fn floors_hold(&mut self, when: &str) {
        if !self.gentle || self.verdict.is_some() {
            return;
        }
        let mut broken = None;
        for (app, floor) in &self.floors {
            for (kind, floor) in floor {
                let serving = self.serving(app, kind);
                if serving < *floor as usize {
                    broken = Some(format!(
                        "{serving} {kind} of {app} serve, and {floor} must ({when})"
                    ));
                }
            }
        }
        if let Some(broken) = broken {
            self.accuse(broken);
        }
    }

    /// Two processes of one single slot never run at a time.
    ///
    /// Those that ran two before their type was marked run on; so what counts is one that was single
    /// from its assignment on: it may come up only when no other is, but for what was moved from a lost
    /// host while its type was none of those.
    fn at_most_one_single(&mut self, process: &ProcessName, uuid: Uuid) {
        let app = self.read::<App>(keys::app(&process.app).as_str());
        let is_single = app.is_some_and(|app| app.single.contains(&process.kind));
        if !is_single || !self.born_single.contains(&uuid) {
            return;
        }
        let slot = process.id();
        let all = self.units.values().filter(|sight| {
            sight.process.app == process.app
                && sight.process.id() == slot
                && sight.runs
                && !self.left_before.contains(&sight.uuid)
        });
        let names: Vec<String> = all.map(|sight| sight.process.to_string()).collect();
        if names.len() > 1 {
            self.accuse(format!(
                "{} run at a time, of a single type",
                names.join(" and ")
            ));
        }
    }

    /// Two commands of releases of one app never run at a time, unless a host was lost with one.
    fn at_most_one_command(&mut self, process: &ProcessName) {
        if !self.gentle || process.kind != ProcessType::release() {
            return;
        }
        let all = self.units.values().filter(|sight| {
            sight.process.app == process.app && sight.process.kind == process.kind && sight.runs
        });
        let names: Vec<String> = all.map(|sight| sight.process.to_string()).collect();
        if names.len() > 1 {
            self.accuse(format!("{} run at a time", names.join(" and ")));
        }
    }
}
