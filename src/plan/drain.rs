//! Hosts that are being emptied: which, how long that may take, and what is left there.
//!
//! A host that is drained takes nothing new. Processes get a second incarnation elsewhere and go as in a
//! rollout (`rollout`), units move once another host takes them (`fleet`); global ones, which may serve
//! the others, go last. One-off processes are waited for. What is left when the deadline is over is
//! withdrawn and stopped all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    round::{Context, Plan},
    world::World,
};
use crate::model::*;

/// Until when drains have time, on the leader's monotonic clock.
///
/// A leader that sees a drain begin gives it the whole time that the operator did, whatever any wall
/// clock says then. Only who comes to lead while it is under way has to ask the wall clock how much is
/// left, once, and never finds more than the whole.
#[derive(Debug, Default)]
pub(super) struct DrainMemory {
    /// None before the first look of a term.
    ends: Option<BTreeMap<MachineId, (HostDrain, Option<Duration>)>>,
}

/// The hosts that have had the time for their drain; asks to be called again when one has.
pub(super) fn overdue(
    world: &World,
    memory: &mut DrainMemory,
    cx: &Context<'_>,
    plan: &mut Plan,
) -> BTreeSet<MachineId> {
    let (is_first, mut before) = match memory.ends.take() {
        Some(ends) => (false, ends),
        None => (true, BTreeMap::new()),
    };
    let mut ends = BTreeMap::new();
    let mut overdue = BTreeSet::new();
    for id in &world.drained {
        let Some(drain) = world.hosts.get(id).and_then(|view| view.drain()) else {
            continue;
        };
        let end = match before.remove(id) {
            Some((same, end)) if same == *drain => end,
            _ => time_given(drain).map(|given| {
                let left = if is_first {
                    time_left(drain, cx.wall)
                } else {
                    given
                };
                cx.now + left.min(given)
            }),
        };
        match end {
            Some(end) if end <= cx.now => drop(overdue.insert(id.clone())),
            Some(end) => plan.wake_at(end),
            None => {}
        }
        ends.insert(id.clone(), (drain.clone(), end));
    }
    memory.ends = Some(ends);
    overdue
}

/// How long an operator has given a drain.
fn time_given(drain: &HostDrain) -> Option<Duration> {
    drain.deadline?;
    Some(time_left(drain, drain.since))
}

/// How long it is from a time of day until the deadline; nothing when that is past.
fn time_left(drain: &HostDrain, from: Timestamp) -> Duration {
    let left = drain.deadline.map(|deadline| deadline.duration_since(from));
    left.and_then(|left| Duration::try_from(left).ok())
        .unwrap_or_default()
}

/// What still has to leave a host.
#[must_use]
pub fn left(world: &World, id: &MachineId) -> Vec<String> {
    let Some(view) = world.hosts.get(id) else {
        return Vec::new();
    };
    let units = view.units.keys().map(ToString::to_string);
    let processes = view.processes.iter().map(ToString::to_string);
    processes.chain(units).collect()
}
