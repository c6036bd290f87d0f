//! Hosts that are being emptied: which, how long that may take, and what is left there.
//!
//! A host that is drained takes nothing new. Processes get a second incarnation elsewhere and go as in a
//! rollout (`rollout`), units move once another host takes them (`fleet`); global ones, which may serve
//! the others, go last. One-off processes are waited for. What is left when the deadline is over is
//! withdrawn and stopped all the same.

use super::{
    round::{Context, Plan},
    world::{HostView, World},
};
use crate::model::*;

/// The hosts that are being drained; asks to be called again when a deadline is over.
pub(super) fn hosts<'w>(
    world: &'w World,
    cx: &Context<'_>,
    plan: &mut Plan,
) -> impl Iterator<Item = (&'w MachineId, &'w HostView)> {
    let drained = || {
        world
            .hosts
            .iter()
            .filter(|(_, view)| view.drain().is_some())
    };
    for (_, view) in drained() {
        let deadline = view.drain().and_then(|drain| drain.deadline);
        let left = deadline.map(|deadline| cx.wall.duration_until(deadline));
        if let Some(left) = left.filter(|left| left.is_positive()) {
            plan.wake_at(cx.now + left.unsigned_abs());
        }
    }
    drained()
}

/// Whether a drain's deadline is over.
pub(super) fn is_over(drain: Option<&HostDrain>, wall: jiff::Timestamp) -> bool {
    let deadline = drain.and_then(|drain| drain.deadline);
    deadline.is_some_and(|deadline| deadline <= wall)
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
