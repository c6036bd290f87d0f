//! Types marked *single*: never two processes of one slot. The old one drains, stops and is forgotten
//! before a new one is placed; one on a lost host counts as running until its agent must have
//! stopped it. One that was not known to be single there when its host was last heard of counts as
//! running until that host is back, or a person says that it is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mode, Others, Step, Timer};
use crate::{
    model::*,
    plan::{
        round::{LazyPool, Plan},
        schedule::{Resources, Wanted},
        standing::Proc,
        waiting::NoPlace,
    },
    store::{Txn, keys},
};

/// What stop-first means for the slots that want a process.
#[derive(Debug, Default)]
pub(super) struct StopFirst {
    /// Something still is in them: nothing is placed there.
    pub taken: BTreeSet<ProcessId>,
    /// Of these, the ones whose turn it is to be emptied.
    pub yielding: BTreeSet<ProcessId>,
}

impl<'w> Step<'_, 'w> {
    pub(super) fn is_single(&self, kind: &ProcessType) -> bool {
        self.record.value.single.contains(kind)
    }

    /// Tells hosts which of their processes are of single types; true when one had to be told. The
    /// process stays what it is. A host that is away can't hear it, and is told when it is back.
    pub(super) fn tell_hosts(&mut self, procs: &[Proc<'w>]) -> bool {
        let mut told = false;
        for proc in procs {
            let wanted = self.is_single(&proc.name.kind);
            let mut assignment = proc.assignment.value.clone();
            let Work::Process { single, marks, .. } = &mut assignment.work else {
                continue;
            };
            if *single == wanted || proc.host.presence.is_absent() {
                continue;
            }
            *single = wanted;
            *marks += 1;
            let key = keys::assignment(proc.machine, &proc.name.to_string());
            let txn = Txn::new()
                .unchanged(&key, proc.assignment.mod_revision)
                .put(&key, &assignment);
            let what = if wanted { "single" } else { "no longer single" };
            self.batch.add(format!("{} is {what}", proc.name), txn);
            told = true;
        }
        told
    }

    /// Whether a process on a lost host may still be running, and blocks its slot.
    pub(super) fn may_still_run(&mut self, proc: &Proc<'_>, plan: &mut Plan) -> bool {
        if !self.is_single(&proc.name.kind) {
            return false;
        }
        if self.is_unstoppable(proc) {
            let host = proc.host.name(proc.machine);
            self.waiting.push(format!(
                "{}: its host is lost, and had not said yet that it knows of the type being single, so \
                 it may run on there: it is replaced when {host} is back, or when you say that \
                 {host} is gone: deisctl declare-lost {host}",
                proc.label()
            ));
            return true;
        }
        let Some(at) = self.losses.fenced.get(proc.machine).copied() else {
            return false;
        };
        if self.cx.now >= at {
            return false;
        }
        plan.wake_at(at);
        let left = (at - self.cx.now).as_secs() + 1;
        self.waiting.push(format!(
            "{}: its host is lost, and the type is single: it can be replaced in {left} s, when it \
             must have stopped there",
            proc.label()
        ));
        true
    }

    /// Whether a process of a single type runs on a host that is lost for all that is known, and nothing
    /// stops it there.
    pub(super) fn is_unstoppable(&self, proc: &Proc<'_>) -> bool {
        proc.lost
            && self.is_single(&proc.name.kind)
            && !proc.is_behind_fence()
            && !proc.is_declared_lost()
    }

    /// Which of the slots without a keeper have to wait, and which of those are emptied now: going
    /// forward, or off a host, one of each type at a time, and none before there is a place for its
    /// successor.
    pub(super) fn stop_first(
        &mut self,
        missing: &BTreeSet<&ProcessId>,
        keepers: &BTreeMap<ProcessId, Proc<'w>>,
        settled: &BTreeSet<ProcessId>,
        others: &Others<'w>,
        pool: &mut LazyPool<'_>,
        plan: &mut Plan,
    ) -> StopFirst {
        let mut slots = StopFirst::default();
        let mut busy: BTreeSet<&ProcessType> = keepers
            .iter()
            .filter(|(slot, keeper)| self.goal.belongs(keeper) && !settled.contains(*slot))
            .map(|(slot, _)| &slot.kind)
            .collect();
        let mut waiting_turn = Vec::new();
        for slot in missing {
            if !self.is_single(&slot.kind) {
                continue;
            }
            let in_slot = others.get(*slot).into_iter().flatten();
            let there: Vec<&Proc<'w>> = in_slot
                .filter(|proc| !proc.lost || self.may_still_run(proc, plan))
                .collect();
            if there.is_empty() {
                busy.insert(&slot.kind);
                continue;
            }
            slots.taken.insert((*slot).clone());
            if let Some(proc) = there.iter().find(|proc| self.is_unstoppable(proc))
                && self.mode() == Mode::Forward
                && self.waited(Timer::Place, self.cx.policy.total, plan)
            {
                let why = format!("{} may still run, and its host is lost", proc.label());
                self.failure.get_or_insert((why, vec![]));
            }
            let leaves = |proc: &&Proc<'_>| proc.lost || proc.desired() != Desired::Run;
            let moves = there.iter().any(|proc| self.has_to_leave(proc));
            let is_leaving = there.iter().any(leaves);
            if self.mode() != Mode::Forward && !moves {
                if is_leaving || self.may_leave_gap(slot, plan) {
                    slots.yielding.insert((*slot).clone());
                }
            } else if is_leaving {
                busy.insert(&slot.kind);
                slots.yielding.insert((*slot).clone());
            } else {
                waiting_turn.push((*slot, there));
            }
        }
        for (slot, there) in waiting_turn {
            if !busy.contains(&slot.kind)
                && self.has_successor(slot, &there, pool, plan)
                && self.may_leave_gap(slot, plan)
            {
                busy.insert(&slot.kind);
                slots.yielding.insert(slot.clone());
            }
        }
        slots
    }

    /// Whether the process that is to come after these has a place, at the latest when they are gone.
    fn has_successor(
        &mut self,
        slot: &ProcessId,
        there: &[&Proc<'w>],
        pool: &mut LazyPool<'_>,
        plan: &mut Plan,
    ) -> bool {
        let Some(needs) = self.needs() else {
            return false;
        };
        let wanted = Wanted {
            needs: needs.of(&slot.kind),
            tags: &needs.tags,
            peers: &BTreeMap::new(),
        };
        let then = pool.get();
        let own = |proc: &Proc<'_>| Resources::of(&proc.assignment.value.work);
        for proc in there {
            then.release(proc.machine, own(proc));
        }
        let place = then.place(&wanted, 1);
        let refused = place
            .is_empty()
            .then(|| (then.shortage(&wanted), then.chance(&wanted)));
        // It was only a question: all is as it was.
        for id in &place {
            then.release(id, wanted.needs);
        }
        for proc in there {
            then.take_back(proc.machine, own(proc));
        }
        let Some((shortage, chance)) = refused else {
            return true;
        };
        let drained = there.iter().find(|proc| proc.host.drain().is_some());
        let why = NoPlace {
            slots: vec![slot.clone()],
            stay_on: drained.map(|proc| proc.host.name(proc.machine).to_owned()),
            shortage,
            old_ones_stay: true,
        };
        self.no_place(why, chance, plan);
        false
    }
}
