//! A release that is watched: a share of each type's processes comes first and is judged by what it does
//! with real requests. Then come the others, or the old release serves on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{AppMemory, Step, Timer};
use crate::{
    model::*,
    plan::{
        receipt::{self, Counts, Gathered},
        round::Plan,
        standing::Proc,
    },
    store::Txn,
};

/// Between two looks at what the routers have counted.
const LOOK: Duration = Duration::from_secs(1);

impl<'w> Step<'_, 'w> {
    /// The policy that has still to be met.
    fn watched(&self) -> Option<RolloutPolicy> {
        let rollout = &self.goal.rollout?.value;
        let watch = rollout.watch.filter(|watch| !watch.passed)?;
        (rollout.phase == RolloutPhase::Forward).then_some(watch.policy)
    }

    /// How many processes of a type come first.
    fn share(&self, policy: &RolloutPolicy, kind: &ProcessType) -> usize {
        let wanted = self.goal.structure.get(kind).copied().unwrap_or(0);
        let share = u64::from(wanted) * u64::from(policy.share_percent);
        usize::try_from(share.div_ceil(100)).unwrap_or(usize::MAX)
    }

    /// The missing slots that may be filled before the watch is over.
    pub(super) fn open<'m>(
        &self,
        missing: &BTreeSet<&'m ProcessId>,
        keepers: &BTreeMap<ProcessId, Proc<'w>>,
    ) -> BTreeSet<&'m ProcessId> {
        let Some(policy) = self.watched() else {
            return missing.clone();
        };
        let mut there: BTreeMap<&ProcessType, usize> = BTreeMap::new();
        for slot in keepers.keys() {
            *there.entry(&slot.kind).or_default() += 1;
        }
        let mut open = BTreeSet::new();
        for slot in missing {
            let there = there.entry(&slot.kind).or_default();
            if *there < self.share(&policy, &slot.kind) {
                *there += 1;
                open.insert(*slot);
            }
        }
        open
    }

    /// Watches the first processes once they are all there (`complete`). True while the rollout has to
    /// wait for that.
    pub(super) fn watch(&mut self, complete: bool, plan: &mut Plan) -> bool {
        let (Some(policy), Some(rollout)) = (self.watched(), self.goal.rollout) else {
            return false;
        };
        let rollout = rollout.value.clone();
        if !complete {
            return true;
        }
        let bound = Duration::from_secs(policy.watch_secs.into());
        let timer = Timer::Watch(rollout.id);
        let over = self.waited(timer, bound, plan);
        let until = self.next_timers.get(&timer).copied().unwrap_or(self.cx.now) + bound;
        let counts = self.cx.counts.map(|counts| counts.get(self.app));
        let looked = counts.flatten();
        let of = |release| looked.map_or_else(Counts::default, |all: &Gathered| all.of(release));
        let (new, old) = (of(rollout.release), of(rollout.previous));
        if let Some(why) = receipt::verdict(&policy, &new, &old) {
            let why = format!("it was watched and did badly: {why}");
            self.failure.get_or_insert((why, vec![]));
            return true;
        }
        // What counts is what was counted by the end. Routers that can't be asked keep nobody waiting.
        let is_last_look = looked.is_some_and(|looked| looked.at >= until);
        let late = self.cx.now >= until + self.cx.policy.receipt;
        if over && (is_last_look || late || counts.is_none()) {
            let watch = rollout.watch.map(|watch| Watch {
                passed: true,
                ..watch
            });
            let what = format!("{} was watched and does well", rollout.release);
            let next = Rollout {
                watch,
                waiting: None,
                ..rollout
            };
            self.turn = Some((what, Txn::new(), next));
            return true;
        }
        if counts.is_some() && looked.is_none_or(|looked| self.cx.now >= looked.at + LOOK) {
            plan.ask(self.app);
        }
        plan.wake_at(self.cx.now + LOOK);
        let (answers, bad) = (new.served() + new.failed, new.errors + new.failed);
        let release = rollout.release;
        // No figures in here: each change of the words is a write.
        let words = if answers == 0 {
            "nobody has asked it for anything yet"
        } else if bad == 0 {
            "all is well so far"
        } else {
            "there were errors"
        };
        self.waiting.push(format!(
            "the first processes of {release} are watched for {} s: {words}",
            policy.watch_secs
        ));
        true
    }

    /// What the routers say of the switch, once all is done; the outer none while they are being asked.
    pub(super) fn receipt(&self, own: &mut AppMemory, plan: &mut Plan) -> Option<Option<Receipt>> {
        let rollout = &self.goal.rollout?.value;
        let is_switch = rollout.change == RolloutKind::Release
            && !self.world.routers.is_empty()
            && rollout.structure.keys().any(ProcessType::is_routable);
        let Some(counts) = self.cx.counts.filter(|_| is_switch) else {
            return Some(None);
        };
        let done = *own.done.get_or_insert(self.cx.now);
        if let Some(gathered) = counts.get(self.app).filter(|all| all.at >= done) {
            return Some(gathered.receipt(rollout.release));
        }
        let until = done + self.cx.policy.receipt;
        if self.cx.now >= until {
            return Some(None);
        }
        plan.ask(self.app);
        plan.wake_at(until);
        None
    }
}
