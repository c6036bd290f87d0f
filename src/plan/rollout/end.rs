//! What a step comes to: steps, a failure, the end of the rollout, or words about the wait.

use std::time::Duration;

use super::{AppMemory, Step};
use crate::{
    model::*,
    plan::{
        admission,
        round::{Plan, Saying, fenced},
    },
    store::{Txn, Versioned, keys},
};

/// Least time between two writes of what a rollout waits for.
const VOICE: Duration = Duration::from_secs(1);

impl Step<'_, '_> {
    /// Commits what was found out: the failure, the end, the steps, or what is waited for.
    pub(super) fn finish(mut self, is_done: bool, own: &mut AppMemory, plan: &mut Plan) {
        own.timers = std::mem::take(&mut self.next_timers);
        own.done = own.done.filter(|_| is_done);
        for why in self.waiting.iter() {
            plan.wait(self.app.as_str(), why.clone());
        }
        let app = keys::app(self.app);
        let key = keys::rollout(self.app);
        let base = fenced(self.cx).unchanged(&app, self.record.mod_revision);
        let Some(rollout) = self.view.rollout.as_ref() else {
            let base = base.absent(&key);
            self.batch.pack(self.app.as_str(), self.world, &base, plan);
            return;
        };
        let base = base.unchanged(&key, rollout.mod_revision);
        let id = &rollout.value;
        if let Some((reason, log)) = self.failure.take() {
            let what = format!("rollout of {} is given up: {reason}", id.release);
            let told = self.saying(given_up(&reason, id));
            let phase = RolloutPhase::Reverting { reason, log };
            let next = Rollout {
                phase,
                waiting: None,
                ..id.clone()
            };
            plan.act(self.app.as_str(), what, base.put(&key, &next));
            plan.tell([told]);
        } else if let Some((what, txn, next)) = self.turn.take() {
            plan.act(self.app.as_str(), what, base.and(txn).put(&key, &next));
        } else if !self.batch.is_empty() {
            self.batch.pack(self.app.as_str(), self.world, &base, plan);
        } else if is_done && self.goal.rollout.is_some() {
            let Some(receipt) = self.receipt(own, plan) else {
                return;
            };
            let mut told = ended(&rollout.value);
            if let Some(receipt) = &receipt {
                told = format!("{told} ({})", receipt.words());
            }
            let (what, txn) = self.end(rollout, receipt);
            plan.act(self.app.as_str(), what, base.and(txn));
            plan.tell([self.saying(told)]);
        } else {
            let waiting = self.waiting.summary();
            if waiting == id.waiting {
                return;
            }
            let at = own.voiced.map_or(self.cx.now, |last| last + VOICE);
            if self.cx.now < at {
                plan.wake_at(at);
                return;
            }
            own.voiced = Some(self.cx.now);
            let next = Rollout {
                waiting,
                ..id.clone()
            };
            plan.act(self.app.as_str(), "waiting", base.put(&key, &next));
        }
    }

    fn saying(&self, text: String) -> Saying {
        Saying {
            app: self.app.clone(),
            process: None,
            text,
        }
    }

    /// The end of a rollout, whichever way it went.
    fn end(&self, rollout: &Versioned<Rollout>, receipt: Option<Receipt>) -> (String, Txn) {
        let rollout = &rollout.value;
        let (result, reason, log) = match &rollout.phase {
            RolloutPhase::Forward => (OutcomeResult::Succeeded, None, vec![]),
            RolloutPhase::Reverting { reason, log } => {
                (OutcomeResult::Failed, Some(reason.clone()), log.clone())
            }
        };
        let app = App {
            active: self.goal.release,
            structure: self.goal.structure.clone(),
            updated: self.cx.wall,
            last_rollout: Some(RolloutEnd {
                id: rollout.id,
                result,
                reason: reason.clone(),
            }),
            ..self.record.value.clone()
        };
        let mut txn = Txn::new()
            .put(&keys::app(self.app), &app)
            .delete(&keys::rollout(self.app));
        if let Some(needs) = self.view.needs(self.goal.release) {
            let route = self.view.route.as_ref();
            txn = txn.and(admission::admit(self.app, route, &needs.whitelist));
        }
        let version = rollout.release;
        if rollout.change == RolloutKind::Release && !self.view.outcomes.contains(&version) {
            let finished = self.cx.wall;
            let outcome = Outcome {
                schema: SCHEMA,
                version,
                result,
                reason,
                log,
                receipt,
                finished,
            };
            let key = keys::outcome(self.app, version);
            txn = txn.absent(&key).put(&key, &outcome);
        }
        (
            format!("rollout of {version} has {result:?}").to_lowercase(),
            txn,
        )
    }
}

/// What an app's owner reads of a rollout that goes back.
fn given_up(reason: &str, rollout: &Rollout) -> String {
    let (release, previous) = (rollout.release, rollout.previous);
    match rollout.change {
        RolloutKind::Release => {
            format!("release {release} is given up, going back to {previous}: {reason}")
        }
        RolloutKind::Scale => format!("scaling is given up, and undone: {reason}"),
        RolloutKind::Restart { .. } => format!("the restart is given up: {reason}"),
    }
}

/// What an app's owner reads of a rollout that has ended.
fn ended(rollout: &Rollout) -> String {
    let (release, previous) = (rollout.release, rollout.previous);
    let went_well = rollout.phase == RolloutPhase::Forward;
    match (&rollout.change, went_well) {
        (RolloutKind::Release, true) => format!("release {release} is active"),
        (RolloutKind::Release, false) => {
            format!("release {release} has failed; {previous} is active")
        }
        (RolloutKind::Scale, true) => {
            let counts = rollout.structure.iter();
            let counts: Vec<String> = counts.map(|(kind, n)| format!("{kind}={n}")).collect();
            format!("scaled: {}", counts.join(" "))
        }
        (RolloutKind::Scale, false) => "scaling has failed".to_owned(),
        (RolloutKind::Restart { .. }, true) => "restarted".to_owned(),
        (RolloutKind::Restart { .. }, false) => "the restart has failed".to_owned(),
    }
}
