//! Placement: which host takes a process.
//!
//! Processes of a type are spread over failure domains first, then over hosts, then the least loaded
//! host is taken; memory and CPU are honoured. A [`Pool`] holds the hosts of one planning round in the
//! order of their load; what it gives out is reserved at once, so that two apps of one round can't get
//! the same memory. A batch of equal processes costs one walk over the hosts that may come next, not
//! one walk per process.

mod search;
#[cfg(test)]
mod tests;
mod why;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::{
    settings::Placing,
    world::{HostView, World},
};
use crate::model::{HostRecord, Machine, MachineId, Work};

use search::Search;
pub use why::{Chance, Ranked, Refusal};

/// A load of a whole host.
pub(super) const PPM: u64 = 1_000_000;

/// Shares of one CPU.
pub const CPU_SHARES: u64 = 1024;

/// What a process reserves, or a host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Resources {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// CPU in shares; 1024 are one CPU.
    pub cpu_shares: u64,
}

impl Resources {
    /// What an assignment reserves. Units reserve nothing: what they need is not known.
    #[must_use]
    pub fn of(work: &Work) -> Self {
        match *work {
            Work::Process {
                memory_bytes,
                cpu_shares,
                ..
            }
            | Work::Run {
                memory_bytes,
                cpu_shares,
                ..
            } => Self {
                memory_bytes,
                cpu_shares: cpu_shares.into(),
            },
            Work::Unit { .. } => Self::default(),
        }
    }

    /// What a host offers: all that it has, times the overcommit.
    #[must_use]
    pub fn offered(machine: &Machine, placing: &Placing) -> Self {
        let share = |all: u64, percent: u64| {
            u64::try_from(u128::from(all) * u128::from(percent) / 100).unwrap_or(u64::MAX)
        };
        let cpu_shares = u64::from(machine.cpus) * CPU_SHARES;
        Self {
            memory_bytes: share(machine.memory_bytes, placing.memory_percent),
            cpu_shares: share(cpu_shares, placing.cpu_percent),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            cpu_shares: self.cpu_shares.saturating_add(other.cpu_shares),
        }
    }

    /// What is left without the other.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            cpu_shares: self.cpu_shares.saturating_sub(other.cpu_shares),
        }
    }
}

/// Why a host takes nothing new, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Closed {
    /// An operator has cordoned it.
    Cordoned,
    /// It is being emptied, or has been.
    Draining,
    /// A record of it can't be read: it may hold a process that needs memory, or a cordon.
    Unreadable,
}

impl Closed {
    /// What closes a host, if anything does.
    #[must_use]
    pub fn of(view: &HostView) -> Option<Self> {
        let record = view.record.as_ref().map(|record| &record.value);
        let unreadable = || (!view.unreadable.is_empty()).then_some(Self::Unreadable);
        record.and_then(Self::of_record).or_else(unreadable)
    }

    /// What in its record closes a host.
    #[must_use]
    pub fn of_record(record: &HostRecord) -> Option<Self> {
        let draining = record.drain.as_ref().map(|_| Self::Draining);
        draining.or_else(|| record.cordoned.then_some(Self::Cordoned))
    }
}

/// All labels of a host: those of its durable record win over those of its presence.
#[must_use]
pub fn labels(view: &HostView, machine: &Machine) -> BTreeMap<String, String> {
    let record = view.record.as_ref().map(|record| &record.value);
    merged(record, machine)
}

/// The same of the two records.
#[must_use]
pub fn merged(record: Option<&HostRecord>, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = machine.metadata.clone();
    if let Some(record) = record {
        labels.extend(record.labels.clone());
    }
    labels
}

/// How many processes are assigned to a host.
fn count(view: &HostView) -> u32 {
    u32::try_from(view.processes.len()).unwrap_or(u32::MAX)
}

/// A host as placement sees it.
#[derive(Debug, Clone)]
pub struct Room {
    /// Its id.
    pub id: MachineId,
    /// Its name for people.
    pub name: String,
    /// What it offers.
    pub offered: Resources,
    /// What of that is reserved.
    pub reserved: Resources,
    /// How many processes are assigned to it.
    pub processes: u32,
    /// Why it takes nothing new.
    pub closed: Option<Closed>,
    /// Its labels: those of its durable record win over those of its presence.
    pub labels: BTreeMap<String, String>,
}

/// How full a host is: parts per million reserved of what it is shortest of, then number of processes.
type Load = (u64, u32);

impl Room {
    /// A host that is there.
    fn of(id: &MachineId, view: &HostView, machine: &Machine, placing: &Placing) -> Self {
        Self {
            id: id.clone(),
            name: view.name(id).to_owned(),
            offered: Resources::offered(machine, placing),
            reserved: view.reserved,
            processes: count(view),
            closed: Closed::of(view),
            labels: labels(view, machine),
        }
    }

    fn load(&self) -> Load {
        let parts = |reserved: u64, offered: u64| {
            let parts = u128::from(reserved) * u128::from(PPM) / u128::from(offered.max(1));
            u64::try_from(parts).unwrap_or(u64::MAX)
        };
        let memory = parts(self.reserved.memory_bytes, self.offered.memory_bytes);
        let cpu = parts(self.reserved.cpu_shares, self.offered.cpu_shares);
        (memory.max(cpu), self.processes)
    }

    /// Whether it has all of these labels.
    fn has(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.iter()
            .all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// What is free.
    fn free(&self) -> Resources {
        self.offered.minus(self.reserved)
    }

    /// The reason why it can't take the process; none when it can.
    fn refuses(&self, wanted: &Wanted<'_>) -> Option<Refusal> {
        if let Some(closed) = self.closed {
            return Some(Refusal::Closed(closed));
        }
        if !self.has(wanted.tags) {
            return Some(Refusal::Tags);
        }
        let free = self.free();
        if free.memory_bytes < wanted.needs.memory_bytes {
            Some(Refusal::Memory)
        } else if free.cpu_shares < wanted.needs.cpu_shares {
            Some(Refusal::Cpu)
        } else {
            None
        }
    }
}

#[derive(Debug, Clone)]
struct Host {
    room: Room,
    domain: u32,
    load: Load,
}

/// Where a host stands among the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Its failure domain.
    pub domain: u32,
    /// Parts per million reserved of what it is shortest of.
    pub load: u64,
}

/// The hosts of one failure domain.
#[derive(Debug, Clone, Default)]
struct Domain {
    /// Its name; none for a host that is a domain by itself.
    name: Option<String>,
    /// Its hosts, the least loaded first.
    order: BTreeSet<(Load, u32)>,
}

/// What a batch of equal processes needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What each reserves.
    pub needs: Resources,
    /// Labels that the host must have.
    pub tags: &'a BTreeMap<String, String>,
    /// Hosts that have processes of the same type of the same app that will stay, and how many.
    pub peers: &'a BTreeMap<MachineId, u32>,
}

/// The hosts in the order in which they are to be taken.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// By id.
    hosts: Vec<Host>,
    domains: Vec<Domain>,
    /// Each domain's least loaded host.
    fronts: BTreeSet<(Load, u32)>,
    /// A host is known of that isn't there, or can't be read: what it could take is not known.
    incomplete: bool,
    /// Hosts on which it has given places, or taken them back, since it was like the world.
    touched: Vec<u32>,
}

impl Pool {
    /// The hosts that are there, but for those that are lost.
    #[must_use]
    pub fn of(world: &World, placing: &Placing, lost: &BTreeSet<MachineId>) -> Self {
        let (mut rooms, mut incomplete) = (Vec::with_capacity(world.hosts().len()), false);
        for (id, view) in world.hosts() {
            match view.presence.machine() {
                Some(machine) if !lost.contains(id) => {
                    rooms.push(Room::of(id, view, machine, placing));
                }
                Some(_) | None => incomplete = true,
            }
        }
        Self {
            incomplete,
            ..Self::new(rooms, &placing.domain_label)
        }
    }

    /// Makes it like the world again, of which nothing has changed but what is assigned to the hosts
    /// `changed`: as if it were made anew, without looking at the other hosts.
    pub(super) fn refresh(&mut self, world: &World, changed: &BTreeSet<MachineId>) {
        let mut stale = std::mem::take(&mut self.touched);
        stale.extend(changed.iter().filter_map(|id| self.find(id)));
        stale.sort_unstable();
        stale.dedup();
        for at in stale {
            let Some(view) = world.hosts().get(&self.hosts[at as usize].room.id) else {
                continue;
            };
            self.change(at, |room| {
                room.reserved = view.reserved;
                room.processes = count(view);
                room.closed = Closed::of(view);
            });
        }
        self.touched.clear();
    }

    /// These hosts; those with the same value of the label `domain` are one failure domain, those
    /// without it are one each.
    #[must_use]
    pub fn new(mut rooms: Vec<Room>, domain: &str) -> Self {
        rooms.sort_by(|one, other| one.id.cmp(&other.id));
        let mut pool = Self::default();
        let mut named: HashMap<String, u32> = HashMap::new();
        let mut orders: Vec<Vec<(Load, u32)>> = Vec::new();
        for (at, room) in rooms.into_iter().enumerate() {
            let at = u32::try_from(at).expect("invariant: fewer than 2^32 hosts");
            let name = room.labels.get(domain);
            let mut fresh = || {
                pool.domains.push(Domain {
                    name: name.cloned(),
                    ..Domain::default()
                });
                orders.push(Vec::new());
                u32::try_from(orders.len() - 1).expect("invariant: no more domains than hosts")
            };
            let domain = match name {
                Some(name) => match named.get(name).copied() {
                    Some(domain) => domain,
                    None => *named.entry(name.clone()).or_insert_with(fresh),
                },
                None => fresh(),
            };
            let load = room.load();
            orders[domain as usize].push((load, at));
            pool.hosts.push(Host { room, domain, load });
        }
        for (domain, order) in pool.domains.iter_mut().zip(orders) {
            domain.order = order.into_iter().collect();
        }
        pool.fronts = pool
            .domains
            .iter()
            .filter_map(|domain| domain.order.first().copied())
            .collect();
        pool
    }

    /// Chooses hosts for up to `count` equal processes and reserves what they need.
    ///
    /// No failure domain gets a process while another that could take it has fewer of the type; the
    /// same for the hosts of a domain; among equals the least loaded is taken. Gives fewer than
    /// `count` only when no host can take more.
    pub fn place(&mut self, wanted: &Wanted<'_>, count: usize) -> Vec<MachineId> {
        let mut search = Search::new(self, wanted);
        let mut chosen = Vec::new();
        while chosen.len() < count
            && let Some(at) = search.next(self)
        {
            self.reserve(at, wanted.needs);
            search.took(self, at);
            chosen.push(self.hosts[at as usize].room.id.clone());
        }
        chosen
    }

    /// Gives back what was placed on a host.
    pub fn release(&mut self, id: &MachineId, needs: Resources) {
        if let Some(at) = self.find(id) {
            self.change(at, |room| {
                room.reserved = room.reserved.minus(needs);
                room.processes = room.processes.saturating_sub(1);
            });
        }
    }

    /// Reserves again what was [given back](Self::release).
    pub(super) fn take_back(&mut self, id: &MachineId, needs: Resources) {
        if let Some(at) = self.find(id) {
            self.reserve(at, needs);
        }
    }

    /// Where a host stands.
    pub(super) fn standing(&self, id: &MachineId) -> Option<Standing> {
        let host = &self.hosts[self.find(id)? as usize];
        Some(Standing {
            domain: host.domain,
            load: host.load.0,
        })
    }

    /// Whether a host has less load without such a process.
    pub(super) fn sheds(&self, id: &MachineId, needs: Resources) -> bool {
        self.find(id).is_some_and(|at| {
            let mut room = self.hosts[at as usize].room.clone();
            let before = room.load();
            room.reserved = room.reserved.minus(needs);
            room.load().0 < before.0
        })
    }

    fn reserve(&mut self, at: u32, needs: Resources) {
        self.change(at, |room| {
            room.reserved = room.reserved.plus(needs);
            room.processes = room.processes.saturating_add(1);
        });
    }

    /// Changes a host, and its place in the order.
    fn change(&mut self, at: u32, change: impl FnOnce(&mut Room)) {
        let host = &mut self.hosts[at as usize];
        let domain = &mut self.domains[host.domain as usize];
        let before = domain.order.first().copied();
        domain.order.remove(&(host.load, at));
        change(&mut host.room);
        host.load = host.room.load();
        self.touched.push(at);
        domain.order.insert((host.load, at));
        let after = domain.order.first().copied();
        if before != after {
            before.map(|front| self.fronts.remove(&front));
            self.fronts.extend(after);
        }
    }

    fn find(&self, id: &MachineId) -> Option<u32> {
        let found = self.hosts.binary_search_by(|host| host.room.id.cmp(id));
        found.ok().and_then(|at| u32::try_from(at).ok())
    }
}
