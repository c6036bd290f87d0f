//! Routers that hold requests while a type that is single has no process: its route says so before the
//! old one leaves, and no longer once the next one serves.

use std::collections::{BTreeMap, BTreeSet};

use super::{Step, Timer};
use crate::{
    model::*,
    plan::{round::Plan, standing::Proc},
    store::{Txn, keys},
};

impl<'w> Step<'_, 'w> {
    /// Brings the route in line with whether there is a gap, or is about to be.
    pub(super) fn hold(
        &mut self,
        wanted: &BTreeSet<ProcessId>,
        keepers: &BTreeMap<ProcessId, Proc<'w>>,
        settled: &BTreeSet<ProcessId>,
    ) {
        let route = self.view.route.as_ref();
        let holds = route.is_some_and(|route| route.value.hold);
        let has_gap = |slot: &&ProcessId| {
            let is_single = slot.kind.is_routable() && self.is_single(&slot.kind);
            // A process that has served and is ill is no gap: who asks for it is told so.
            is_single && !settled.contains(*slot) && (holds || !keepers.contains_key(*slot))
        };
        let has_gap = wanted.iter().any(|slot| has_gap(&slot));
        if has_gap == holds {
            return;
        }
        let key = keys::route(self.app);
        let (base, route) = match route {
            Some(there) => (
                Txn::new().unchanged(&key, there.mod_revision),
                there.value.clone(),
            ),
            None => (Txn::new().absent(&key), Route::new()),
        };
        let next = Route {
            hold: has_gap,
            ..route
        };
        let what = if has_gap {
            "routers hold requests"
        } else {
            "routers hold no requests"
        };
        self.batch.add(what.to_owned(), base.put(&key, &next));
    }

    /// Whether a process may leave a gap: all routers know that they have to hold requests meanwhile, or
    /// have had their time.
    pub(super) fn may_leave_gap(&mut self, slot: &ProcessId, plan: &mut Plan) -> bool {
        if !slot.kind.is_routable() {
            return true;
        }
        let route = self.view.route.as_ref();
        let Some(route) = route.filter(|route| route.value.hold) else {
            // Written in this round.
            return false;
        };
        let routers = self.world.routers.iter();
        let behind: Vec<String> = routers
            .filter(|(_, router)| !router.has_routes(route.mod_revision))
            .map(|(ip, _)| ip.clone())
            .collect();
        if behind.is_empty() {
            return true;
        }
        if self.waited(Timer::Hold, self.cx.policy.router_silence, plan) {
            return true;
        }
        self.waiting.push(format!(
            "{slot}: router {} doesn't know yet that requests are to wait",
            behind.join(", ")
        ));
        false
    }
}
