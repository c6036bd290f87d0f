//! The `release:` command of a Procfile: run once as a one-off of the new release, before anything else
//! of that starts. Until it has ended well, the release before it is what is kept running.
//!
//! That it was begun stands in the rollout's record, in the transaction that assigns it, and its host
//! starts a one-off at most once: so it is never run twice, and when nobody can tell how it ended, the
//! release has failed.

use std::collections::BTreeMap;

use super::{Step, Timer};
use crate::{
    model::*,
    plan::{
        round::{LazyPool, Plan},
        schedule::{Chance, Wanted},
        standing::Proc,
        waiting::{NoPlace, Reason},
    },
    store::{Txn, Versioned, keys},
};

/// The rollout, if its command has still to be run or to end.
pub(super) fn pending(rollout: Option<&Versioned<Rollout>>) -> Option<&Versioned<Rollout>> {
    rollout.filter(|rollout| {
        let rollout = &rollout.value;
        let command = rollout.command.as_ref();
        rollout.phase == RolloutPhase::Forward
            && command.is_some_and(|command| *command != ReleaseCommand::Done)
    })
}

/// Whether a process is the command that a rollout waits for.
pub(super) fn is_awaited(proc: &Proc<'_>, rollout: Option<&Versioned<Rollout>>) -> bool {
    let command = pending(rollout).and_then(|rollout| rollout.value.command.as_ref());
    matches!(command, Some(ReleaseCommand::Running { uuid, machine })
        if *uuid == proc.assignment.value.uuid && machine == proc.machine)
}

impl<'w> Step<'_, 'w> {
    /// The next step of the command that the rollout waits for.
    pub(super) fn command(&mut self, procs: &[Proc<'w>], pool: &mut LazyPool<'_>, plan: &mut Plan) {
        let Some(rollout) = pending(self.view.rollout.as_ref()) else {
            return;
        };
        if rollout.value.command == Some(ReleaseCommand::Due) {
            self.begin_command(&rollout.value, procs, pool, plan);
            return;
        }
        let awaited = procs
            .iter()
            .find(|proc| is_awaited(proc, Some(rollout)))
            .copied();
        let Some(proc) = awaited else {
            let why = "it was taken away from its host; whether it was carried out is not known";
            self.command_failed(why.to_owned(), vec![]);
            return;
        };
        if proc.lost {
            let host = proc.host.name(proc.machine);
            let why = format!("its host {host} is lost; whether it was carried out is not known");
            self.command_failed(why, vec![]);
            return;
        }
        let state = proc.state();
        let log = || state.map(|state| state.log.clone()).unwrap_or_default();
        let reason = state.and_then(|state| state.reason.clone());
        match state.map(|state| (state.phase, state.ready, state.exit_code)) {
            Some((_, true, Some(0))) => {
                let next = Rollout {
                    command: Some(ReleaseCommand::Done),
                    waiting: None,
                    ..rollout.value.clone()
                };
                let what = format!("the release command of {} is done", next.release);
                self.turn = Some((what, Txn::new(), next));
                return;
            }
            Some((_, true, _)) => {
                let why = reason.unwrap_or_else(|| "nobody saw how it ended".to_owned());
                self.command_failed(why, log());
                return;
            }
            Some((Phase::Error, ..)) => {
                let why = reason.unwrap_or_else(|| "it can't be started".to_owned());
                self.command_failed(why, log());
                return;
            }
            Some(_) | None => {}
        }
        let bound = self.cx.policy.command;
        if self.waited(Timer::Total(proc.assignment.value.uuid), bound, plan) {
            let why = format!("it has not ended within {} s", bound.as_secs());
            self.command_failed(why, log());
            return;
        }
        let what = match state.map(|state| state.phase) {
            None => "its agent has not taken it up yet",
            Some(Phase::Preparing) => "its image is being prepared",
            Some(_) => "the release command runs",
        };
        self.waiting.push(format!("{}: {what}", proc.label()));
    }

    /// Assigns it, and writes down that it was begun.
    fn begin_command(
        &mut self,
        rollout: &Rollout,
        procs: &[Proc<'w>],
        pool: &mut LazyPool<'_>,
        plan: &mut Plan,
    ) {
        let kind = ProcessType::release();
        // Never two of them at once, of whichever releases.
        let mut earlier = procs
            .iter()
            .filter(|proc| proc.is_one_off() && proc.name.kind == kind);
        if let Some(earlier) = earlier.next() {
            let of = earlier.name.release;
            let why = format!("{}: the command of {of} is being stopped", earlier.label());
            self.waiting.push(why);
            return;
        }
        let Some(needs) = self.view.needs(rollout.release) else {
            let why = format!(
                "release {} or its config is not in the store",
                rollout.release
            );
            self.failure.get_or_insert((why, vec![]));
            return;
        };
        let wanted = Wanted {
            needs: needs.of(&kind),
            tags: &needs.tags,
            peers: &BTreeMap::new(),
        };
        let Some(machine) = pool.get().place(&wanted, 1).pop() else {
            let why = NoPlace {
                slots: vec![ProcessId { kind, number: 1 }],
                stay_on: None,
                shortage: pool.get().shortage(&wanted),
                old_ones_stay: true,
            };
            let patience = match pool.get().chance(&wanted) {
                Chance::Room => self.cx.policy.total,
                Chance::Away => self.cx.policy.ready,
                Chance::None => std::time::Duration::ZERO,
            };
            if self.waited(Timer::Place, patience, plan) {
                self.failure.get_or_insert((why.to_string(), vec![]));
            }
            self.waiting.push(Reason::NoPlace(Box::new(why)));
            return;
        };
        let first = ProcessName::first(self.app.clone(), rollout.release, kind, 1);
        let process = self.view.next_incarnation(first);
        let uuid = (self.cx.new_id)();
        let assignment = Assignment {
            schema: SCHEMA,
            uuid,
            desired: Desired::Run,
            work: Work::Run {
                order: None,
                attach: None,
                memory_bytes: wanted.needs.memory_bytes,
                cpu_shares: u32::try_from(wanted.needs.cpu_shares).unwrap_or(u32::MAX),
            },
        };
        let key = keys::assignment(&machine, &process.to_string());
        let txn = Txn::new()
            .absent(&key)
            .present(&keys::machine(&machine))
            .put(&key, &assignment);
        let next = Rollout {
            command: Some(ReleaseCommand::Running { uuid, machine }),
            ..rollout.clone()
        };
        self.turn = Some((format!("{process}, the release command"), txn, next));
    }

    fn command_failed(&mut self, why: String, log: Vec<String>) {
        let why = format!("the release command failed: {why}");
        self.failure.get_or_insert((why, log));
    }
}
