//! Leaving a host that lives: because it is drained, or because the app is spread better elsewhere.
//!
//! A process that has to leave keeps no slot, so that its slot gets a second incarnation elsewhere; it
//! runs on until that one serves, and then goes as an old one does in a rollout. During a rollout that
//! waits, until the drain's deadline is over.

use std::time::Duration;

use super::{Mode, Step, Timer};
use crate::plan::standing::{Lag, Proc};

impl Step<'_, '_> {
    /// Whether a process is not to stay where it is.
    pub(super) fn has_to_leave(&self, proc: &Proc<'_>) -> bool {
        self.is_out_of_time(proc)
            || (self.mode() == Mode::Steady
                && (proc.host.drain().is_some() || self.mover == Some(proc.name)))
    }

    /// Whether its host is drained and the deadline is over: then it goes, replaced or not.
    pub(super) fn is_out_of_time(&self, proc: &Proc<'_>) -> bool {
        self.losses.overdue.contains(proc.machine)
    }

    /// Whether a process that was to take over has had all the time that a rollout would give it.
    pub(super) fn has_had_its_time(&self, proc: &Proc<'_>) -> bool {
        let uuid = proc.assignment.value.uuid;
        let over = |timer, bound: Duration| {
            let since = self.timers.get(&timer);
            since.is_some_and(|since| self.cx.now >= *since + bound)
        };
        let policy = self.cx.policy;
        match self.lag(proc) {
            None => false,
            Some(Lag::Broken { .. }) => true,
            Some(_) => {
                over(Timer::Total(uuid), policy.total)
                    || over(Timer::Ready(uuid), policy.ready)
                    || over(Timer::Unreported(uuid), policy.ready)
                    || over(Timer::Applied(uuid), policy.router_silence)
            }
        }
    }
}
