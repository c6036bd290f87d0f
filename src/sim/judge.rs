//! The laws: looked at whenever the store or a process changes. The judge keeps a mirror of its own,
//! and sees the store as it is, whatever the nodes believe.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use uuid::Uuid;

use super::{
    sky::{Node, Role, lock},
    units::Temper,
};
use crate::{
    model::*,
    outside::simulated,
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
}

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
    /// Every process that was ever assigned.
    assigned: BTreeSet<(String, String, Uuid)>,
    floors: BTreeMap<AppName, Structure>,
    tempers: BTreeMap<(AppName, ReleaseNumber), Temper>,
    /// When each router's presence went or came last, and whether it is there.
    routers: BTreeMap<String, (f64, bool, bool)>,
    /// Nothing is lost in this story: the floor holds.
    gentle: bool,
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
        };
        book.units.insert((host, process.to_string()), sight);
        book.at_most_one_single(process);
    }

    pub fn healthy(&self, host: usize, process: &ProcessName, healthy: bool) {
        let mut book = lock(&self.0);
        book.note("word", &format!("{process} on {host} {healthy}"));
        if let Some(sight) = book.units.get_mut(&(host, process.to_string())) {
            sight.healthy = healthy;
        }
    }

    /// It is not up any more: it crashed, its host went, or it is being stopped.
    pub fn down(&self, host: usize, process: &ProcessName) {
        let mut book = lock(&self.0);
        book.note("down", &format!("{process} on {host}"));
        if let Some(sight) = book.units.get_mut(&(host, process.to_string())) {
            (sight.up, sight.healthy) = (false, false);
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
    }

    /// An agent has a process stopped; `routers` is what each router would do now.
    pub fn stops(&self, host: usize, process: &ProcessName, uuid: Uuid, routers: &[RouterSight]) {
        let mut book = lock(&self.0);
        book.note("stop", &format!("{process} on {host}"));
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
            if router.held.iter().any(|endpoint| ours(&endpoint)) {
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
        let bytes = at.to_le_bytes();
        for byte in bytes.iter().chain(what.as_bytes()).chain(text.as_bytes()) {
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

    fn stored(&mut self, writer: Option<Node>, revision: Revision, changes: &[Change]) {
        let mut before = Vec::new();
        for change in changes {
            let old = match &change.entry {
                Some(entry) => self.keys.insert(
                    change.key.clone(),
                    (entry.value.clone(), entry.mod_revision),
                ),
                None => self.keys.remove(&change.key),
            };
            before.push(old.map(|(value, _)| value));
        }
        for (change, old) in changes.iter().zip(before) {
            let key = change.key.as_str();
            let verb = if change.entry.is_some() { "put" } else { "del" };
            self.note(verb, &format!("{revision} {key}"));
            let new = change.entry.as_ref().map(|entry| entry.value.as_slice());
            if self.trace
                && let Some(text) = new.map(String::from_utf8_lossy)
            {
                println!("           {}", text.chars().take(300).collect::<String>());
            }
            self.changed(writer, key, old.as_deref(), new);
        }
        self.floors_hold(&format!("revision {revision}"));
    }

    fn changed(&mut self, writer: Option<Node>, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) {
        let Some(path) = key.strip_prefix(keys::ROOT) else {
            return;
        };
        let parts: Vec<&str> = path.split('/').collect();
        let volatile = matches!(parts[..], ["machines" | "router" | "leader", ..]);
        if !volatile {
            self.last_write = now();
        }
        match parts[..] {
            ["schedule", machine, name] => self.assignment(writer, machine, name, old, new),
            ["services", app, process] => self.service(writer, app, process, old, new),
            ["apps", app] => self.app(app, old, new),
            ["apps", app, "rollout"] => self.rollout(app, new),
            ["apps", app, "releases", version] => {
                self.release(app, version, old.is_some(), new.is_some());
            }
            ["apps", app, "outcomes", version] if old.is_some() && new.is_some() => {
                self.accuse(format!("the outcome of {app} {version} is written twice"));
            }
            ["machines", id] => {
                if new.is_some() {
                    self.absent.remove(id);
                } else {
                    self.absent.insert(id.to_owned(), now());
                }
            }
            ["hosts", id] => self.host(id, old, new),
            ["router", "hosts", ip] => {
                let before = self.routers.get(ip).copied();
                let is_here = before.is_some_and(|(_, here, _)| here);
                if new.is_some() != is_here {
                    self.routers
                        .insert(ip.to_owned(), (now(), new.is_some(), before.is_some()));
                }
            }
            _ => {}
        }
    }

    /// A host is found lost only after its grace; from then on the floor is off.
    fn host(&mut self, id: &str, old: Option<&[u8]>, new: Option<&[u8]>) {
        let lost = |bytes: Option<&[u8]>| {
            let record = bytes.and_then(|b| HostRecord::decode(b).ok());
            record.is_some_and(|record| record.lost_since.is_some())
        };
        if lost(old) || !lost(new) {
            return;
        }
        self.gentle = false;
        self.note("lost", id);
        let away = self.absent.get(id).map(|since| now() - since);
        if away.is_none_or(|away| away < HOST_GRACE) {
            self.accuse(format!("host {id} is found lost after {away:?} s"));
        }
    }

    fn by_the_leader(&mut self, writer: Option<Node>, what: &str) {
        let leader = self.read::<Leader>(keys::leader().as_str());
        let address = writer
            .filter(|writer| writer.role == Role::Controller)
            .map(|writer| ip(writer.host));
        if leader.as_ref().map(|leader| &leader.address) != address.as_ref() {
            let who = leader.map_or("nobody".to_owned(), |leader| leader.address);
            self.accuse(format!("{what} by {writer:?}, and {who} leads"));
        }
    }

    fn assignment(
        &mut self,
        writer: Option<Node>,
        machine: &str,
        name: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) {
        self.by_the_leader(writer, &format!("{name} on {machine} is changed"));
        let decode = |bytes: Option<&[u8]>| bytes.and_then(|b| Assignment::decode(b).ok());
        let (old, new) = (decode(old), decode(new));
        let id: MachineId = machine.parse().expect("a machine id");
        let here = self.keys.contains_key(keys::machine(&id).as_str());
        match (old, new) {
            (None, Some(new)) => {
                if !here {
                    self.accuse(format!(
                        "{name} is assigned to {machine}, which is not there"
                    ));
                }
                let suffix = format!("/{name}");
                let schedule = keys::schedule();
                let all = self.keys.range(schedule.as_str().to_owned()..);
                let twins = all
                    .take_while(|(key, _)| key.starts_with(schedule.as_str()))
                    .filter(|(key, _)| key.ends_with(&suffix));
                if name.parse::<ProcessName>().is_ok() && twins.count() > 1 {
                    self.accuse(format!("{name} is assigned twice"));
                }
                if !self
                    .assigned
                    .insert((machine.to_owned(), name.to_owned(), new.uuid))
                {
                    self.accuse(format!(
                        "{name} is assigned to {machine} again with its old uuid"
                    ));
                }
            }
            (Some(old), None) => {
                if here && old.desired != Desired::Stop {
                    self.accuse(format!(
                        "{name} is taken from {machine} without being stopped"
                    ));
                }
                let sight = self.units.get(&(host_of(&id), name.to_owned()));
                if here && sight.is_some_and(|sight| sight.up && sight.uuid == old.uuid) {
                    self.accuse(format!("{name} is forgotten while it runs on {machine}"));
                }
            }
            (Some(old), Some(new)) if old.uuid != new.uuid => {
                self.accuse(format!("{name} on {machine} gets another uuid"));
            }
            (Some(old), Some(new)) => {
                if old.desired == Desired::Stop && new.desired != Desired::Stop {
                    self.accuse(format!(
                        "{name} on {machine} is wanted again after its stop"
                    ));
                }
            }
            (None, None) => {}
        }
    }

    fn service(
        &mut self,
        writer: Option<Node>,
        app: &str,
        process: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) {
        let host = |bytes: Option<&[u8]>| -> Option<usize> {
            let text = std::str::from_utf8(bytes?).ok()?;
            let (ip, _) = text.rsplit_once(':')?;
            ip.rsplit_once('.')?.1.parse().ok()
        };
        if let Some(host) = host(new) {
            let by = Node {
                host,
                role: Role::Agent,
            };
            if writer != Some(by) {
                self.accuse(format!(
                    "{process} is published on host {host} by {writer:?}"
                ));
            }
            let key = keys::assignment(&machine(host), process);
            let assignment = self.read::<Assignment>(key.as_str());
            if assignment.is_none_or(|assignment| assignment.desired != Desired::Run) {
                self.accuse(format!(
                    "{process} is published on host {host}, and is not to run"
                ));
            }
        } else if let Some(host) = host(old) {
            let by_agent = writer.is_some_and(|w| w.role == Role::Agent && w.host == host);
            let here = self
                .keys
                .contains_key(keys::machine(&machine(host)).as_str());
            let app_is_gone = app
                .parse()
                .is_ok_and(|app| !self.keys.contains_key(keys::app(&app).as_str()));
            if !by_agent && here && !app_is_gone {
                self.accuse(format!(
                    "{process} is withdrawn by {writer:?} while its host {host} is there"
                ));
            }
        }
    }

    fn app(&mut self, app: &str, old: Option<&[u8]>, new: Option<&[u8]>) {
        let decode = |bytes: Option<&[u8]>| bytes.and_then(|b| App::decode(b).ok());
        let (old, new) = (decode(old), decode(new));
        let Ok(name) = app.parse::<AppName>() else {
            return;
        };
        let Some(new) = new else {
            self.floors.remove(&name);
            self.tempers.retain(|(app, _), _| *app != name);
            return;
        };
        if old.as_ref().is_some_and(|old| new.latest < old.latest) {
            self.accuse(format!("{app}'s release numbers go back"));
        }
        let outcome = self.read::<Outcome>(keys::outcome(&name, new.active).as_str());
        if outcome.is_none_or(|outcome| outcome.result != OutcomeResult::Succeeded) {
            self.accuse(format!(
                "{app} {} is active and has not succeeded",
                new.active
            ));
        }
        if new.destroying {
            self.floors.remove(&name);
            return;
        }
        let ended = old.is_some_and(|old| old.last_rollout != new.last_rollout);
        if ended {
            let went_well = new
                .last_rollout
                .is_some_and(|end| end.result == OutcomeResult::Succeeded);
            let floor = self.floors.entry(name).or_default();
            if went_well {
                *floor = new.structure;
            } else {
                lower(floor, &new.structure);
            }
        }
    }

    fn rollout(&mut self, app: &str, new: Option<&[u8]>) {
        let (Ok(name), Some(rollout)) = (
            app.parse::<AppName>(),
            new.and_then(|b| Rollout::decode(b).ok()),
        ) else {
            return;
        };
        if let Some(floor) = self.floors.get_mut(&name) {
            lower(floor, &rollout.structure);
            lower(floor, &rollout.previous_structure);
        }
    }

    fn release(&mut self, app: &str, version: &str, was: bool, is: bool) {
        let Ok(name) = app.parse::<AppName>() else {
            return;
        };
        let owned = self.keys.contains_key(keys::app(&name).as_str());
        if was && is {
            self.accuse(format!("{app} {version} is written twice"));
        }
        if !is && owned {
            self.accuse(format!("{app} {version} is deleted"));
        }
        let number = |text: &str| text.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
        let before = number(version).map(|n| ReleaseNumber(n - 1));
        if let Some(before) = before.filter(|before| is && before.0 > 0)
            && !self
                .keys
                .contains_key(keys::release(&name, before).as_str())
        {
            self.accuse(format!("{app} has {version} and not {before}"));
        }
    }

    /// While nothing is lost, no type has fewer serving processes than both old and new want.
    fn floors_hold(&mut self, when: &str) {
        if !self.gentle || self.verdict.is_some() {
            return;
        }
        let mut broken = None;
        for (app, floor) in &self.floors {
            for (kind, floor) in floor {
                let serving = self.units.values().filter(|sight| {
                    sight.process.app == *app
                        && sight.process.kind == *kind
                        && sight.up
                        && sight.healthy
                        && (!kind.is_routable()
                            || self
                                .keys
                                .contains_key(keys::service(app, &sight.process).as_str()))
                });
                let serving = serving.count();
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
    fn at_most_one_single(&mut self, process: &ProcessName) {
        let app = self.read::<App>(keys::app(&process.app).as_str());
        if !app.is_some_and(|app| app.single.contains(&process.kind)) {
            return;
        }
        let slot = process.id();
        let all = self.units.values().filter(|sight| {
            sight.process.app == process.app && sight.process.id() == slot && sight.up
        });
        let names: Vec<String> = all.map(|sight| sight.process.to_string()).collect();
        if names.len() > 1 {
            self.accuse(format!(
                "{} run at a time, of a single type",
                names.join(" and ")
            ));
        }
    }
}

/// Lowers a floor to what is wanted from now on.
fn lower(floor: &mut Structure, wanted: &Structure) {
    for (kind, count) in floor.iter_mut() {
        *count = (*count).min(wanted.get(kind).copied().unwrap_or(0));
    }
}

impl Judge {
    /// Whether what users asked for last is what runs.
    pub fn are_active(&self, expected: &BTreeMap<AppName, ReleaseNumber>) -> Result<(), String> {
        let book = lock(&self.0);
        for (name, version) in expected {
            let app = book.read::<App>(keys::app(name).as_str());
            let active = app.map(|app| app.active);
            if active != Some(*version) {
                return Err(format!(
                    "{name} {version} was asked for, {active:?} is active"
                ));
            }
        }
        Ok(())
    }
}

/// The end: one release per app, the wanted numbers, and no trace of anything else.
impl Judge {
    /// Whether everything is as it should be; why not.
    pub fn is_settled(&self, on: &BTreeSet<usize>, routers: &[RouterSight]) -> Result<(), String> {
        let book = lock(&self.0);
        let mut wanted: BTreeMap<(String, ProcessType), u32> = BTreeMap::new();
        for key in book.keys.keys() {
            let Some(path) = key.strip_prefix("/deis/apps/") else {
                continue;
            };
            if path.ends_with("/rollout") {
                return Err(format!("{key} goes on"));
            }
            if path.contains('/') {
                continue;
            }
            let app = book.read::<App>(key).ok_or("an app that can't be read")?;
            let name: AppName = path.parse().map_err(|_| "an app's name")?;
            if app.destroying {
                return Err(format!("{key} is being destroyed"));
            }
            for version in 1..=app.latest.0 {
                let version = ReleaseNumber(version);
                if !book
                    .keys
                    .contains_key(keys::release(&name, version).as_str())
                {
                    return Err(format!("{name} has no {version}"));
                }
                if !book
                    .keys
                    .contains_key(keys::outcome(&name, version).as_str())
                {
                    return Err(format!("{name} {version} has no outcome"));
                }
            }
            for (kind, count) in app.structure {
                if count > 0 {
                    wanted.insert((path.to_owned(), kind), count);
                }
            }
        }
        let mut there: BTreeMap<(String, ProcessType), u32> = BTreeMap::new();
        let mut running: BTreeSet<(usize, String, Uuid)> = BTreeSet::new();
        let mut services: BTreeSet<String> = BTreeSet::new();
        for key in book.keys.keys() {
            let Some((id, name)) = keys::parse_assignment(key) else {
                continue;
            };
            let assignment = book.read::<Assignment>(key).ok_or("an assignment")?;
            let process: ProcessName = name.parse().map_err(|_| format!("{key}: a name"))?;
            let app = book.read::<App>(keys::app(&process.app).as_str());
            let host = host_of(&id);
            let is = book.units.get(&(host, name.to_owned()));
            if assignment.desired != Desired::Run
                || app.is_none_or(|app| app.active != process.release)
            {
                return Err(format!("{key} is {:?}", assignment.desired));
            }
            if !is.is_some_and(|is| is.up && is.healthy && is.uuid == assignment.uuid) {
                return Err(format!("{key} ({}) is {is:?}", assignment.uuid));
            }
            let state = book.read::<MachineState>(keys::state(&id).as_str());
            let state = state.and_then(|state| state.processes.get(name).cloned());
            if !state.as_ref().is_some_and(|state| state.ready) {
                return Err(format!("{key} is reported as {state:?}"));
            }
            let of = (process.app.to_string(), process.kind.clone());
            *there.entry(of).or_default() += 1;
            running.insert((host, name.to_owned(), assignment.uuid));
            if process.kind.is_routable() {
                services.insert(keys::service(&process.app, &process).to_string());
            }
        }
        if there != wanted {
            return Err(format!("{there:?} are there, {wanted:?} are wanted"));
        }
        let really = book.units.iter();
        let really: BTreeSet<_> = really
            .map(|((host, name), sight)| (*host, name.clone(), sight.uuid))
            .collect();
        if let Some(more) = really.difference(&running).next() {
            return Err(format!("{more:?} runs, and is not assigned"));
        }
        let prefix = keys::services();
        let published: BTreeSet<String> = book
            .keys
            .keys()
            .filter(|key| key.starts_with(prefix.as_str()))
            .cloned()
            .collect();
        if published != services {
            return Err(format!("{published:?} are published, not {services:?}"));
        }
        for host in on {
            let id = machine(*host);
            let state = book.read::<MachineState>(keys::state(&id).as_str());
            let reported = state.map(|state| state.processes).unwrap_or_default();
            if let Some(name) = reported
                .keys()
                .find(|name| !running.iter().any(|(of, n, _)| of == host && n == *name))
            {
                return Err(format!("host {host} still reports {name}"));
            }
        }
        for router in routers {
            let table: BTreeSet<String> = router.table.iter().map(|e| e.key.clone()).collect();
            if !router.serves || table != services {
                return Err(format!("router {} knows {table:?}", router.ip));
            }
        }
        Ok(())
    }
}
