//! Moves that spread apps better, after a host has joined or returned.
//!
//! Off unless an operator allows some per minute: a move is a new process and the end of an old one, by
//! the same steps as a drain. Only an app that is at rest is touched, one process at a time, and never
//! while a host is away, lost or drained. Every move makes something strictly better in a fixed order
//! of preferences (domains, then hosts, then load by a clear margin), so moves come to an end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    round::{Context, LazyPool, Plan},
    schedule::{PPM, Pool, Wanted},
    world::{AppView, Changed, HostView, Said, World},
};
use crate::model::*;

/// How much fuller a host has to be than the one that takes a process from it, after the move.
const MARGIN: u64 = 3 * PPM / 10;

/// How long a process stays where it is after a move that came to nothing.
const PAUSE: Duration = Duration::from_secs(600);

/// What rounds remember.
#[derive(Debug, Default)]
pub(super) struct RebalanceMemory {
    /// No look before.
    next: Duration,
    /// Nothing was found, and nothing has changed since.
    idle: bool,
    /// The last process that was to move of each app, and when.
    tried: BTreeMap<AppName, (ProcessName, Duration)>,
}

/// The process that is to move now, if any is: of an app that is not in `busy`.
pub(super) fn choose(
    world: &World,
    changed: &Changed,
    memory: &mut RebalanceMemory,
    busy: &BTreeSet<AppName>,
    cx: &Context<'_>,
    pool: &mut LazyPool<'_>,
    plan: &mut Plan,
) -> Option<ProcessName> {
    let per_minute = cx.policy.placing.moves_per_minute;
    if per_minute == 0 {
        return None;
    }
    memory.idle &= !changed.hosts && changed.apps.is_empty();
    if memory.idle {
        return None;
    }
    if cx.now < memory.next {
        plan.wake_at(memory.next);
        return None;
    }
    memory.next = cx.now + Duration::from_secs(60) / per_minute;
    plan.wake_at(memory.next);
    memory
        .tried
        .retain(|app, (_, at)| world.apps.contains_key(app) && *at + PAUSE > cx.now);
    // A host that is lost or drained and has nothing left keeps nobody waiting.
    let at_rest = |view: &HostView| {
        let stays = view.presence.machine().is_some() && view.drain().is_none();
        stays || view.processes.is_empty()
    };
    if !world.hosts.values().all(at_rest) {
        return None;
    }
    let mover = world
        .apps
        .iter()
        .filter(|(app, _)| !busy.contains(*app))
        .find_map(|(app, view)| {
            let mover = of_app(world, view, pool.get())?;
            let again = memory
                .tried
                .get(app)
                .is_some_and(|(tried, _)| *tried == mover);
            (!again).then_some(mover)
        });
    match &mover {
        Some(mover) => {
            let tried = (mover.clone(), cx.now);
            memory.tried.insert(mover.app.clone(), tried);
        }
        None => memory.idle = busy.is_empty(),
    }
    mover
}

/// A process of an app at rest that ought to be elsewhere.
fn of_app(world: &World, view: &AppView, pool: &mut Pool) -> Option<ProcessName> {
    let record = &view.record.as_ref()?.value;
    if view.rollout.is_some() || record.destroying || !view.unreadable.is_empty() {
        return None;
    }
    let needs = view.needs(record.active)?;
    let mut kinds: BTreeMap<&ProcessType, BTreeMap<MachineId, u32>> = BTreeMap::new();
    for ((name, machine), assignment) in &view.placed {
        if matches!(assignment.value.work, Work::Run { .. }) {
            continue;
        }
        let said = world.hosts.get(machine)?;
        let said = said.said(&name.to_string(), assignment.value.uuid);
        let serves = matches!(said, Said::State(state) if state.ready);
        if name.release != record.active || assignment.value.desired != Desired::Run || !serves {
            return None;
        }
        let hosts = kinds.entry(&name.kind).or_default();
        *hosts.entry(machine.clone()).or_default() += 1;
    }
    for (kind, hosts) in kinds {
        if hosts.values().sum::<u32>() != record.structure.get(kind).copied().unwrap_or(0) {
            return None;
        }
        let wanted = Wanted {
            needs: needs.of(kind),
            tags: &needs.tags,
            peers: &hosts,
        };
        let Some((from, _)) = better(pool, &wanted) else {
            continue;
        };
        let there = view.placed.keys().rev();
        let mut there = there.filter(|(name, machine)| name.kind == *kind && *machine == from);
        return there.next().map(|(name, _)| name.clone());
    }
    None
}

/// The move of one of `wanted.peers` that makes the spread clearly better: from where, and where to.
pub(super) fn better(pool: &mut Pool, wanted: &Wanted<'_>) -> Option<(MachineId, MachineId)> {
    let mut domains: BTreeMap<u32, u32> = BTreeMap::new();
    for (host, number) in wanted.peers {
        *domains.entry(pool.standing(host)?.domain).or_default() += number;
    }
    let crowded = |host: &MachineId| {
        let standing = pool.standing(host)?;
        let peers = wanted.peers.get(host).copied().unwrap_or(0);
        Some((
            domains.get(&standing.domain).copied()?,
            peers,
            standing.load,
        ))
    };
    let from = wanted
        .peers
        .keys()
        .max_by_key(|host| crowded(host))?
        .clone();
    let mut others = wanted.peers.clone();
    match others.get_mut(&from) {
        Some(number) if *number > 1 => *number -= 1,
        _ => {
            others.remove(&from);
        }
    }
    let alone = Wanted {
        peers: &others,
        ..*wanted
    };
    let to = pool.place(&alone, 1).pop()?;
    let then = pool.standing(&to)?;
    pool.release(&to, wanted.needs);
    let now = pool.standing(&from)?;
    let peers_at = |host: &MachineId| wanted.peers.get(host).copied().unwrap_or(0);
    let gain = |here: u32, there: u32| i64::from(here) - i64::from(there);
    let by_host = gain(peers_at(&from), peers_at(&to));
    let by_domain = if now.domain == then.domain {
        1
    } else {
        let count = |domain: u32| domains.get(&domain).copied().unwrap_or(0);
        gain(count(now.domain), count(then.domain))
    };
    let lighter = now.load >= then.load + MARGIN && pool.sheds(&from, wanted.needs);
    // One process more there and one less here: a difference of one only changes sides.
    let is_better = from != to
        && (by_domain >= 2
            || (by_domain == 1 && by_host >= 2)
            || (by_domain == 1 && by_host == 1 && lighter));
    is_better.then_some((from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::schedule::{Resources, Room};

    type Labelled = (MachineId, BTreeMap<String, String>, u64);

    fn id(n: usize) -> MachineId {
        format!("{n:032x}").parse().expect("machine id")
    }

    /// Hosts with what they offer, and of each app how many processes are where.
    #[derive(Debug, Clone)]
    struct Cluster {
        hosts: Vec<Labelled>,
        apps: Vec<(u64, BTreeMap<MachineId, u32>)>,
    }

    impl Cluster {
        fn pool(&self) -> Pool {
            let rooms = self.hosts.iter().map(|(id, labels, memory)| {
                let on = |(need, hosts): &(u64, BTreeMap<MachineId, u32>)| {
                    need * u64::from(hosts.get(id).copied().unwrap_or(0))
                };
                Room {
                    id: id.clone(),
                    name: id.to_string(),
                    offered: needs(*memory),
                    reserved: needs(self.apps.iter().map(on).sum()),
                    processes: 0,
                    closed: None,
                    labels: labels.clone(),
                }
            });
            Pool::new(rooms.collect(), "zone")
        }

        /// Makes the first move that is better.
        fn step(&mut self) -> bool {
            let tags = BTreeMap::new();
            for at in 0..self.apps.len() {
                let (need, peers) = self.apps[at].clone();
                let wanted = Wanted {
                    needs: needs(need),
                    tags: &tags,
                    peers: &peers,
                };
                let Some((from, to)) = better(&mut self.pool(), &wanted) else {
                    continue;
                };
                let hosts = &mut self.apps[at].1;
                *hosts.get_mut(&from).expect("it was there") -= 1;
                hosts.retain(|_, number| *number > 0);
                *hosts.entry(to).or_default() += 1;
                return true;
            }
            false
        }

        /// What every move makes less, the first part first.
        fn disorder(&self) -> (u32, u32, Vec<u64>) {
            let zone = |host: &MachineId| {
                let (id, labels, _) = self
                    .hosts
                    .iter()
                    .find(|(id, ..)| id == host)
                    .expect("known");
                labels
                    .get("zone")
                    .cloned()
                    .unwrap_or_else(|| id.to_string())
            };
            let (mut domains, mut hosts) = (0, 0);
            for (_, peers) in &self.apps {
                let mut zones: BTreeMap<String, u32> = BTreeMap::new();
                for (host, number) in peers {
                    *zones.entry(zone(host)).or_default() += number;
                    hosts += number * number;
                }
                domains += zones.values().map(|number| number * number).sum::<u32>();
            }
            let pool = self.pool();
            let loads = self.hosts.iter().filter_map(|(id, ..)| pool.standing(id));
            let mut loads: Vec<u64> = loads.map(|standing| standing.load).collect();
            loads.sort_unstable_by(|a, b| b.cmp(a));
            (domains, hosts, loads)
        }
    }

    fn needs(memory_bytes: u64) -> Resources {
        Resources {
            memory_bytes,
            cpu_shares: 0,
        }
    }

    fn clusters() -> impl Strategy<Value = Cluster> {
        let hosts = prop::collection::vec((0u8..4, 40u64..100), 2..8);
        let apps = prop::collection::vec((1u64..8, prop::collection::vec(0usize..8, 1..9)), 1..6);
        (hosts, apps).prop_map(|(hosts, apps)| {
            let number = hosts.len();
            let labels = |zone: u8| {
                let zone = (zone > 0).then(|| ("zone".to_owned(), format!("z{zone}")));
                zone.into_iter().collect()
            };
            let hosts = hosts.into_iter().enumerate();
            let hosts = hosts
                .map(|(n, (zone, memory))| (id(n), labels(zone), memory))
                .collect();
            let spread = |at: Vec<usize>| {
                let mut peers = BTreeMap::new();
                for n in at {
                    *peers.entry(id(n % number)).or_default() += 1;
                }
                peers
            };
            let apps = apps
                .into_iter()
                .map(|(need, at)| (need, spread(at)))
                .collect();
            Cluster { hosts, apps }
        })
    }

    proptest! {
        /// Every move makes the disorder strictly less, so no process ever wanders to and fro; and it
        /// ends after a number of moves that is bounded by the number of processes.
        #[test]
        fn moves_come_to_an_end(mut cluster in clusters()) {
            let processes: u32 = cluster.apps.iter().flat_map(|(_, peers)| peers.values()).sum();
            let mut moves = 0;
            let mut before = cluster.disorder();
            while cluster.step() {
                let after = cluster.disorder();
                prop_assert!(after < before, "{before:?} -> {after:?}");
                before = after;
                moves += 1;
                prop_assert!(moves <= 4 * processes, "{moves} moves of {processes} processes");
            }
        }
    }

    #[test]
    fn a_host_that_joins_gets_its_share_and_no_more() {
        let host = |n| (id(n), BTreeMap::new(), 100);
        let web = [(id(1), 4), (id(2), 4)].into();
        let mut cluster = Cluster {
            hosts: vec![host(1), host(2), host(3)],
            apps: vec![(10, web)],
        };
        let mut moves = 0;
        while cluster.step() {
            moves += 1;
        }
        assert_eq!(moves, 2);
        let numbers: Vec<u32> = cluster.apps[0].1.values().copied().collect();
        assert_eq!(numbers, [3, 3, 2]);
    }

    #[test]
    fn load_alone_moves_only_what_is_clearly_better() {
        let host = |n| (id(n), BTreeMap::new(), 100);
        let single = |n| (10, BTreeMap::from([(id(n), 1)]));
        let moves = |apps: Vec<usize>| {
            let mut cluster = Cluster {
                hosts: vec![host(1), host(2)],
                apps: apps.into_iter().map(single).collect(),
            };
            std::iter::from_fn(|| cluster.step().then_some(())).count()
        };
        assert_eq!(
            moves(vec![1, 1, 1]),
            0,
            "30 % and nothing: 20 % and 10 % is not worth it"
        );
        assert_eq!(
            moves(vec![1, 1, 1, 1, 1]),
            1,
            "50 % and nothing becomes 40 % and 10 %"
        );
    }
}
