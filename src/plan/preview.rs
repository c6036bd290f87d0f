//! What the leader would do now, and what the cluster would survive: the rounds' own functions on a
//! picture that is read once, and nothing is committed.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{
    fleet,
    hosts::Losses,
    round::{Context, Memory, Plan, Policy, round},
    schedule::{Pool, Resources, Wanted},
    waiting::Waiting,
    world::World,
};
use crate::model::*;

/// Where the preview's monotonic clock stands: nothing is older.
const NOW: Duration = Duration::from_secs(3600);

/// Calls `work` with what a leader with nothing to remember would be told.
fn with_context<T>(world: &World, wall: Timestamp, work: impl FnOnce(&Context<'_>) -> T) -> T {
    let policy = Policy::of(world);
    let ids = Cell::new(0_u128);
    // Nothing of it is written: any ids will do.
    let new_id = || {
        ids.set(ids.get() + 1);
        Uuid::from_u128(ids.get())
    };
    work(&Context {
        now: NOW,
        wall,
        view_since: Duration::ZERO,
        fence: world.leader().map_or(0, |leader| leader.create_revision),
        policy: &policy,
        counts: None,
        new_id: &new_id,
    })
}

/// The next round of a leader that has just been elected.
#[must_use]
pub fn next_round(world: &World, wall: Timestamp) -> Plan {
    with_context(world, wall, |cx| {
        round(world, &Default::default(), &mut Memory::default(), cx)
    })
}

/// What the loss of some hosts would mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survival {
    /// What would be lost: `host deis-01`, `zone a`.
    pub without: String,
    /// How many processes and units would have to move.
    pub moved: usize,
    /// Those that would find no place, and why.
    pub homeless: Vec<Homeless>,
}

/// Something that would find no place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Homeless {
    /// `blog web.1`, a unit.
    pub what: String,
    /// Why.
    pub why: String,
}

impl From<Waiting> for Homeless {
    fn from(Waiting { what, why }: Waiting) -> Self {
        Self {
            what,
            why: why.to_string(),
        }
    }
}

/// Which processes and units would find no place, were any one host lost, or any one failure domain.
#[must_use]
pub fn survivals(world: &World, wall: Timestamp) -> Vec<Survival> {
    let label = Policy::of(world).placing.domain_label;
    let mut domains: BTreeMap<String, BTreeSet<MachineId>> = BTreeMap::new();
    let mut losses: Vec<(String, BTreeSet<MachineId>)> = Vec::new();
    for (id, view) in world.hosts() {
        let Some(machine) = view.presence.machine() else {
            continue;
        };
        losses.push((format!("host {}", view.name(id)), [id.clone()].into()));
        if let Some(domain) = super::schedule::labels(view, machine).remove(&label) {
            domains.entry(domain).or_default().insert(id.clone());
        }
    }
    losses.sort();
    // A domain of one host is that host.
    let domains = domains.into_iter().filter(|(_, hosts)| hosts.len() > 1);
    losses.extend(domains.map(|(name, hosts)| (format!("{label} {name}"), hosts)));
    with_context(world, wall, |cx| {
        let without = |(what, lost)| survival(world, what, lost, cx);
        losses.into_iter().map(without).collect()
    })
}

fn survival(
    world: &World,
    without: String,
    lost: BTreeSet<MachineId>,
    cx: &Context<'_>,
) -> Survival {
    let mut pool = Pool::of(world, &cx.policy.placing, &lost);
    let mut survival = Survival {
        without,
        moved: 0,
        homeless: Vec::new(),
    };
    let views = lost.iter().filter_map(|id| world.hosts.get(id));
    let apps: BTreeSet<&AppName> = views
        .clone()
        .flat_map(|view| view.processes.iter().map(|process| &process.app))
        .collect();
    for app in apps {
        move_app(world, app, &lost, &mut pool, &mut survival);
    }
    let units: BTreeSet<&UnitFileName> = views.flat_map(|view| view.units.keys()).collect();
    let losses = Losses {
        lost,
        ..Losses::default()
    };
    let mut plan = Plan::default();
    fleet::step(world, &losses, cx, &mut plan);
    let global = |name: &UnitFileName| {
        let unit = world.units.get(name);
        let options = unit.map(|unit| fleet::options::XFleet::parse(name, &unit.value.text));
        matches!(options, Some(Ok(options)) if options.global)
    };
    survival.moved += units.iter().filter(|name| !global(name)).count();
    let of_these = |waiting: &Waiting| units.iter().any(|name| name.as_str() == waiting.what);
    let waiting = plan.waiting.into_iter().filter(of_these);
    survival.homeless.extend(waiting.map(Homeless::from));
    survival
}

/// Places an app's processes on lost hosts anew.
fn move_app(
    world: &World,
    app: &AppName,
    lost: &BTreeSet<MachineId>,
    pool: &mut Pool,
    survival: &mut Survival,
) {
    let Some(view) = world.apps.get(app) else {
        return;
    };
    // By type, release and needs: the slots that are lost, and the hosts of those that stay.
    let mut kinds: BTreeMap<(&ProcessType, ReleaseNumber), (Resources, BTreeSet<u32>)> =
        BTreeMap::new();
    let mut peers: BTreeMap<&ProcessType, BTreeMap<MachineId, u32>> = BTreeMap::new();
    let mut kept: BTreeSet<ProcessId> = BTreeSet::new();
    let runs = view.placed.iter().filter(|(_, assignment)| {
        assignment.value.desired == Desired::Run
            && matches!(assignment.value.work, Work::Process { .. })
    });
    for ((name, machine), _) in runs.clone() {
        if !lost.contains(machine) {
            kept.insert(name.id());
            let hosts = peers.entry(&name.kind).or_default();
            *hosts.entry(machine.clone()).or_default() += 1;
        }
    }
    for ((name, _), assignment) in runs {
        if !kept.contains(&name.id()) {
            let needs = Resources::of(&assignment.value.work);
            let kind = kinds.entry((&name.kind, name.release));
            kind.or_insert((needs, BTreeSet::new()))
                .1
                .insert(name.number);
        }
    }
    let (no_tags, no_peers) = (BTreeMap::new(), BTreeMap::new());
    for ((kind, release), (needs, numbers)) in kinds {
        let wanted = Wanted {
            needs,
            tags: view.needs(release).map_or(&no_tags, |needs| &needs.tags),
            peers: peers.get(kind).unwrap_or(&no_peers),
        };
        let placed = pool.place(&wanted, numbers.len()).len();
        survival.moved += numbers.len();
        let why = (placed < numbers.len()).then(|| pool.shortage(&wanted).to_string());
        let homeless = numbers.iter().skip(placed).zip(why.iter().cycle());
        survival
            .homeless
            .extend(homeless.map(|(number, why)| Homeless {
                what: format!("{app} {kind}.{number}"),
                why: why.clone(),
            }));
    }
}
