//! Placement: which host takes a process. Least loaded first, memory honoured, types spread out.
//!
//! A [`Pool`] holds the hosts of one planning round in the order of their load; what it gives out is
//! reserved at once, so that two apps of one round can't get the same memory. A batch of equal
//! processes costs one walk over the least loaded hosts, not one walk per process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::world::{HostView, World};
use crate::model::{Machine, MachineId};

/// Something that waits, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    /// What waits: an app's process, a unit, a host.
    pub what: String,
    /// Why, in words for people.
    pub why: String,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// How full a host is: parts per million of its memory reserved, then number of processes.
type Load = (u64, u32);

#[derive(Debug, Clone)]
struct Host {
    id: MachineId,
    memory_bytes: u64,
    reserved_bytes: u64,
    processes: u32,
    cordoned: bool,
    labels: BTreeMap<String, String>,
}

impl Host {
    fn load(&self) -> Load {
        let parts =
            u128::from(self.reserved_bytes) * 1_000_000 / u128::from(self.memory_bytes.max(1));
        (u64::try_from(parts).unwrap_or(u64::MAX), self.processes)
    }

    fn has(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.iter()
            .all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// The reason why it can't take the process; none when it can.
    fn refuses(&self, wanted: &Wanted<'_>) -> Option<Refusal> {
        if self.cordoned {
            return Some(Refusal::Cordoned);
        }
        if !self.has(wanted.tags) {
            return Some(Refusal::Tags);
        }
        let free = self.memory_bytes.saturating_sub(self.reserved_bytes);
        (free < wanted.memory_bytes).then_some(Refusal::Memory)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Cordoned,
    Tags,
    Memory,
}

/// What may come of waiting for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chance {
    /// A host that could take it may get room.
    Room,
    /// Only a host that is away might be able to.
    Away,
    /// No host could take it even if it were empty.
    None,
}

/// What a batch of equal processes needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Memory that each reserves, in bytes.
    pub memory_bytes: u64,
    /// Labels that the host must have.
    pub tags: &'a BTreeMap<String, String>,
    /// Hosts that have processes of the same type of the same app that will stay, and how many.
    pub peers: &'a BTreeMap<MachineId, u32>,
}

/// The hosts of one planning round.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    hosts: Vec<Host>,
    /// A host is known of that isn't there, or can't be read: what it could take is not known.
    incomplete: bool,
    index: HashMap<MachineId, u32>,
    order: BTreeSet<(Load, u32)>,
}

/// What people call a host's labels: those of its durable record win over those of its presence.
#[must_use]
pub fn labels(view: &HostView, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = machine.metadata.clone();
    if let Some(record) = &view.record {
        labels.extend(record.value.labels.clone());
    }
    labels
}

impl Pool {
    /// The hosts that are there.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let mut pool = Self::default();
        for (id, view) in world.hosts() {
            let Some(machine) = view.presence.machine() else {
                pool.incomplete = true;
                continue;
            };
            let cordoned = view
                .record
                .as_ref()
                .is_some_and(|record| record.value.cordoned);
            pool.add(Host {
                id: id.clone(),
                memory_bytes: machine.memory_bytes,
                reserved_bytes: view.reserved_bytes,
                processes: u32::try_from(view.processes.len()).unwrap_or(u32::MAX),
                // What can't be read may be a process that needs memory, or a cordon.
                cordoned: cordoned || !view.unreadable.is_empty(),
                labels: labels(view, machine),
            });
        }
        pool
    }

    fn add(&mut self, host: Host) {
        let at = u32::try_from(self.hosts.len()).expect("invariant: fewer than 2^32 hosts");
        self.index.insert(host.id.clone(), at);
        self.order.insert((host.load(), at));
        self.hosts.push(host);
    }

    /// Chooses hosts for up to `count` equal processes and reserves their memory.
    ///
    /// No host gets a second process of the type while another that could take one has none; among
    /// equals the least loaded is taken. Gives fewer than `count` only when no host can take more.
    pub fn place(&mut self, wanted: &Wanted<'_>, count: usize) -> Vec<MachineId> {
        let mut chosen = self.place_on_free(wanted, count);
        let spread_out = chosen.len();
        if spread_out < count {
            self.place_beside(wanted, count, &mut chosen);
        }
        chosen
            .into_iter()
            .map(|at| self.hosts[at as usize].id.clone())
            .collect()
    }

    /// Takes hosts without such a process, each once: one walk in the order of load.
    fn place_on_free(&mut self, wanted: &Wanted<'_>, count: usize) -> Vec<u32> {
        let free = |at: &u32| {
            let host = &self.hosts[*at as usize];
            !wanted.peers.contains_key(&host.id) && host.refuses(wanted).is_none()
        };
        let chosen: Vec<u32> = self
            .order
            .iter()
            .map(|(_, at)| *at)
            .filter(free)
            .take(count)
            .collect();
        for at in &chosen {
            self.reserve(*at, wanted.memory_bytes);
        }
        chosen
    }

    /// Takes hosts that have such processes already, those with the fewest first.
    fn place_beside(&mut self, wanted: &Wanted<'_>, count: usize, chosen: &mut Vec<u32>) {
        let mut peers: HashMap<u32, u32> = HashMap::new();
        for (id, number) in wanted.peers {
            if let Some(at) = self.index.get(id) {
                peers.insert(*at, *number);
            }
        }
        for at in &*chosen {
            *peers.entry(*at).or_default() += 1;
        }
        let mut queue: BTreeSet<(u32, Load, u32)> = peers
            .into_iter()
            .map(|(at, number)| (number, self.hosts[at as usize].load(), at))
            .collect();
        while chosen.len() < count
            && let Some((number, _, at)) = queue.pop_first()
        {
            // One that can't take this one can't take the next, equal one either.
            if self.hosts[at as usize].refuses(wanted).is_some() {
                continue;
            }
            self.reserve(at, wanted.memory_bytes);
            queue.insert((number + 1, self.hosts[at as usize].load(), at));
            chosen.push(at);
        }
    }

    fn reserve(&mut self, at: u32, memory_bytes: u64) {
        let host = &mut self.hosts[at as usize];
        self.order.remove(&(host.load(), at));
        host.reserved_bytes = host.reserved_bytes.saturating_add(memory_bytes);
        host.processes += 1;
        self.order.insert((host.load(), at));
    }

    /// Gives back the memory of a process that is about to go.
    pub fn release(&mut self, id: &MachineId, memory_bytes: u64) {
        let Some(&at) = self.index.get(id) else {
            return;
        };
        let host = &mut self.hosts[at as usize];
        self.order.remove(&(host.load(), at));
        host.reserved_bytes = host.reserved_bytes.saturating_sub(memory_bytes);
        host.processes = host.processes.saturating_sub(1);
        self.order.insert((host.load(), at));
    }

    /// What waiting for a place may bring, when there is none now.
    #[must_use]
    pub fn chance(&self, wanted: &Wanted<'_>) -> Chance {
        let could = |host: &Host| host.has(wanted.tags) && host.memory_bytes >= wanted.memory_bytes;
        if self.hosts.is_empty() || self.hosts.iter().any(could) {
            Chance::Room
        } else if self.incomplete {
            Chance::Away
        } else {
            Chance::None
        }
    }

    /// Says why no host takes such a process, and what would help.
    #[must_use]
    pub fn shortage(&self, wanted: &Wanted<'_>) -> String {
        let (mut cordoned, mut tags, mut full) = (0, 0, 0);
        for host in &self.hosts {
            match host.refuses(wanted) {
                Some(Refusal::Cordoned) => cordoned += 1,
                Some(Refusal::Tags) => tags += 1,
                Some(Refusal::Memory) => full += 1,
                None => {}
            }
        }
        if self.hosts.is_empty() {
            return "no host is there; start one with deis-agent.service".to_owned();
        }
        let wants: Vec<String> = wanted
            .tags
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let parts = [
            (
                full,
                format!(
                    "lack {} MiB of free memory",
                    wanted.memory_bytes.div_ceil(1 << 20)
                ),
            ),
            (tags, format!("don't have the tags {}", wants.join(" "))),
            (cordoned, "are cordoned".to_owned()),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| format!("{number} {what}"))
            .collect();
        format!(
            "no host can take it: of {} {}",
            self.hosts.len(),
            parts.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: usize) -> MachineId {
        format!("{n:032x}").parse().expect("machine id")
    }

    fn host(n: usize, memory: u64, reserved: u64) -> Host {
        Host {
            id: id(n),
            memory_bytes: memory,
            reserved_bytes: reserved,
            processes: 0,
            cordoned: false,
            labels: BTreeMap::new(),
        }
    }

    fn pool(hosts: impl IntoIterator<Item = Host>) -> Pool {
        let mut pool = Pool::default();
        hosts.into_iter().for_each(|host| pool.add(host));
        pool
    }

    fn numbers(ids: &[MachineId]) -> Vec<usize> {
        ids.iter()
            .map(|id| usize::from_str_radix(id.as_str(), 16).expect("hex"))
            .collect()
    }

    #[test]
    fn table() {
        let ssd: BTreeMap<_, _> = [("disk".to_owned(), "ssd".to_owned())].into();
        let none = BTreeMap::new();
        let tagged = |n| Host {
            labels: ssd.clone(),
            ..host(n, 100, 90)
        };
        let cordoned = |n| Host {
            cordoned: true,
            ..host(n, 100, 0)
        };
        type Case<'a> = (
            &'a str,
            Vec<Host>,
            u64,
            &'a BTreeMap<String, String>,
            &'a [(usize, u32)],
            usize,
            &'a [usize],
        );
        let cases: [Case<'_>; 8] = [
            (
                "least loaded",
                vec![host(1, 100, 50), host(2, 100, 10)],
                10,
                &none,
                &[],
                1,
                &[2],
            ),
            (
                "by share of memory",
                vec![host(1, 100, 50), host(2, 1000, 90)],
                10,
                &none,
                &[],
                1,
                &[2],
            ),
            (
                "spread before load",
                vec![host(1, 100, 50), host(2, 100, 0)],
                10,
                &none,
                &[(2, 1)],
                1,
                &[1],
            ),
            (
                "second round",
                vec![host(1, 100, 0), host(2, 100, 5)],
                10,
                &none,
                &[],
                4,
                &[1, 2, 1, 2],
            ),
            (
                "full hosts",
                vec![host(1, 100, 95), host(2, 100, 0)],
                10,
                &none,
                &[],
                3,
                &[2, 2, 2],
            ),
            (
                "tags",
                vec![host(1, 100, 0), tagged(2)],
                10,
                &ssd,
                &[],
                2,
                &[2],
            ),
            (
                "cordoned",
                vec![cordoned(1), host(2, 100, 99)],
                1,
                &none,
                &[],
                2,
                &[2],
            ),
            ("nobody", vec![], 1, &none, &[], 1, &[]),
        ];
        for (name, hosts, memory_bytes, tags, peers, count, want) in cases {
            let peers = peers.iter().map(|(n, count)| (id(*n), *count)).collect();
            let wanted = Wanted {
                memory_bytes,
                tags,
                peers: &peers,
            };
            assert_eq!(numbers(&pool(hosts).place(&wanted, count)), want, "{name}");
        }
    }

    #[test]
    fn a_shortage_is_explained() {
        let tags = [("disk".to_owned(), "ssd".to_owned())].into();
        let peers = BTreeMap::new();
        let wanted = Wanted {
            memory_bytes: 512 << 20,
            tags: &tags,
            peers: &peers,
        };
        let full = Host {
            labels: tags.clone(),
            ..host(1, 100 << 20, 0)
        };
        let cordoned = Host {
            cordoned: true,
            ..host(2, 1 << 30, 0)
        };
        let pool = pool([full, cordoned, host(3, 1 << 30, 0)]);
        assert_eq!(
            pool.shortage(&wanted),
            "no host can take it: of 3 1 lack 512 MiB of free memory, 1 don't have the tags \
             disk=ssd, 1 are cordoned"
        );
    }

    #[test]
    fn what_no_empty_host_could_take_has_no_chance() {
        let ssd: BTreeMap<String, String> = [("disk".to_owned(), "ssd".to_owned())].into();
        let (none, peers) = (BTreeMap::new(), BTreeMap::new());
        let tagged = Host {
            labels: ssd.clone(),
            ..host(1, 4, 4)
        };
        let cordoned = Host {
            cordoned: true,
            ..tagged.clone()
        };
        let away = Pool {
            incomplete: true,
            ..pool([host(1, 4, 0)])
        };
        let cases = [
            (
                "full, but it could get free",
                pool([tagged.clone()]),
                4,
                &ssd,
                Chance::Room,
            ),
            (
                "cordoned, but not for ever",
                pool([cordoned]),
                4,
                &ssd,
                Chance::Room,
            ),
            ("no such tag", pool([host(2, 4, 0)]), 1, &ssd, Chance::None),
            (
                "too big for the one with the tag",
                pool([tagged, host(2, 8, 0)]),
                8,
                &ssd,
                Chance::None,
            ),
            (
                "too big for all",
                pool([host(1, 4, 0)]),
                5,
                &none,
                Chance::None,
            ),
            (
                "the host that is away may have it",
                away,
                1,
                &ssd,
                Chance::Away,
            ),
            (
                "no host at all: one may come",
                pool([]),
                1,
                &none,
                Chance::Room,
            ),
        ];
        for (name, pool, memory_bytes, tags, want) in cases {
            let peers = &peers;
            let wanted = Wanted {
                memory_bytes,
                tags,
                peers,
            };
            assert_eq!(pool.chance(&wanted), want, "{name}");
        }
    }

    proptest! {
        /// Memory is honoured, nothing fits any more when fewer were placed than asked for, and a host
        /// with free memory never has none while another has got two.
        #[test]
        fn laws(
            hosts in prop::collection::vec((1u64..40, 0u64..40), 0..12),
            peers in prop::collection::btree_map(0usize..12, 1u32..4, 0..5),
            need in 1u64..12, count in 0usize..30,
        ) {
            let before = pool(hosts.iter().enumerate().map(|(n, (size, used))| host(n, *size, *used)));
            let peers: BTreeMap<_, _> = peers.into_iter().map(|(n, count)| (id(n), count)).collect();
            let tags = BTreeMap::new();
            let wanted = Wanted { memory_bytes: need, tags: &tags, peers: &peers };
            let mut after = before.clone();
            let placed = after.place(&wanted, count);
            prop_assert!(placed.len() <= count);
            let mut numbers: BTreeMap<MachineId, u32> = peers.clone();
            for id in &placed { *numbers.entry(id.clone()).or_default() += 1; }
            for (was, is) in before.hosts.iter().zip(&after.hosts) {
                if is.reserved_bytes > was.reserved_bytes {
                    prop_assert!(is.reserved_bytes <= is.memory_bytes);
                }
                let fits = is.refuses(&wanted).is_none();
                if placed.len() < count { prop_assert!(!fits, "it still fits on {}", is.id); }
                let here = numbers.get(&is.id).copied().unwrap_or(0);
                let most = placed.iter().map(|id| numbers[id]).max().unwrap_or(0);
                if fits { prop_assert!(here + 1 >= most, "{} has {here}, another {most}", is.id); }
            }
            prop_assert_eq!(after.order.len(), after.hosts.len());
        }

        /// The answer depends on the hosts, not on the order in which they are named.
        #[test]
        fn deterministic(hosts in prop::collection::vec((1u64..40, 0u64..40), 1..8), count in 0usize..12) {
            let all: Vec<Host> = hosts.iter().enumerate().map(|(n, (size, used))| host(n, *size, *used)).collect();
            let (tags, peers) = (BTreeMap::new(), BTreeMap::new());
            let wanted = Wanted { memory_bytes: 3, tags: &tags, peers: &peers };
            let once = pool(all.clone()).place(&wanted, count);
            prop_assert_eq!(once, pool(all).place(&wanted, count));
        }
    }
}
