//! Who leads while no controller does: the leader is a loop in the controllers, and the controllers
//! are units that a leader places. Until one of them runs, this program runs the same loop itself.

use std::time::Duration;

use futures_util::{FutureExt, future::LocalBoxFuture};
use tokio::time::{Instant, timeout};

use super::{
    fleet::Fleet,
    platform::{Instance, Part},
};
use crate::{
    leader,
    model::{Desired, Phase, ProcessState, UnitTarget},
    plan::{World, world::Said},
    store::Store,
};

/// What it calls itself in `/deis/leader`.
const NAME: &str = "deisctl";
/// How long handing over may take; the lease ends by itself soon after.
const HAND_OVER: Duration = Duration::from_secs(5);

/// The loop, when it had to be started. It only goes on inside [`Self::beside`] and [`Self::end`].
#[derive(Default)]
pub struct Substitute {
    work: Option<LocalBoxFuture<'static, ()>>,
}

impl Substitute {
    /// Whether nobody leads and nobody will soon: no leader, no controller that is registered.
    #[must_use]
    pub fn is_needed(&self, fleet: &Fleet) -> bool {
        let controllers = fleet.registered.get(&Part::Controller);
        self.work.is_none()
            && fleet.leader.is_none()
            && controllers.is_none_or(std::collections::BTreeSet::is_empty)
    }

    /// Leads until a controller can take over, or nothing is left to do.
    pub fn begin(&mut self, store: Store, deadline: Instant) {
        let patience = deadline.saturating_duration_since(Instant::now());
        let work = async move {
            // How it ends is no news: whoever waits sees the units.
            if let Err(error) = leader::bootstrap(store, NAME, is_dispensable, patience).await {
                tracing::debug!(%error, "stopped leading");
            }
        };
        self.work = Some(work.boxed_local());
    }

    /// Waits for something, leading meanwhile.
    pub async fn beside(&mut self, wait: impl Future) {
        let Some(work) = &mut self.work else {
            wait.await;
            return;
        };
        tokio::select! {
            _ = wait => {}
            () = work => self.work = None,
        }
    }

    /// Gives the leadership back if it can be done quickly; else it runs out by itself.
    pub async fn end(self) {
        if let Some(work) = self.work {
            // Too late is no harm: the lease ends soon.
            let _ = timeout(HAND_OVER, work).await;
        }
    }
}

/// Whether a controller runs that will lead, or, when none is wanted, all units are where they
/// should be.
fn is_dispensable(world: &World) -> bool {
    let controller = |unit: &str| {
        Instance::of_unit(unit).is_some_and(|instance| instance.part == Part::Controller)
    };
    let launched = || {
        let units = world.units().iter();
        units.filter(|(_, unit)| unit.value.target == UnitTarget::Launched)
    };
    if launched().any(|(name, _)| controller(name.as_str())) {
        return launched()
            .filter(|(name, _)| controller(name.as_str()))
            .any(|(name, _)| is_up(world, name.as_str()));
    }
    let wanted = || {
        let units = world.units().iter();
        units.filter(|(_, unit)| unit.value.target != UnitTarget::Inactive)
    };
    let stray = world.hosts().values().any(|host| {
        host.presence.machine().is_some()
            && host
                .units
                .keys()
                .any(|assigned| !wanted().any(|(wanted, _)| wanted == assigned))
    });
    !stray && wanted().all(|(name, unit)| is_done(world, name.as_str(), unit.value.target))
}

/// Whether a host that is present reports the unit up.
fn is_up(world: &World, name: &str) -> bool {
    is_reported(world, name, Desired::Run, |state| state.phase == Phase::Up)
}

/// Whether a host that is present has done with the unit what is wanted.
fn is_done(world: &World, name: &str, target: UnitTarget) -> bool {
    let desired = match target {
        UnitTarget::Launched => Desired::Run,
        UnitTarget::Loaded | UnitTarget::Inactive => Desired::Load,
    };
    is_reported(world, name, desired, |state| {
        state.phase == Phase::Up || state.unit.as_ref().is_some_and(|unit| unit.done == target)
    })
}

fn is_reported(
    world: &World,
    name: &str,
    desired: Desired,
    test: impl Fn(&ProcessState) -> bool,
) -> bool {
    world.hosts().values().any(|host| {
        let assigned = host.units.iter().find(|(unit, _)| unit.as_str() == name);
        host.presence.machine().is_some()
            && assigned.is_some_and(|(_, assignment)| {
                assignment.value.desired == desired
                    && matches!(
                        host.said(name, assignment.value.uuid),
                        Said::State(state) if test(state)
                    )
            })
    })
}
