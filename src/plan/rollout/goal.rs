//! Where an app is going: which processes are wanted, and which of those that are there count.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::command;
use crate::{model::*, plan::standing::Proc, store::Versioned};

/// Where an app is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nowhere: what is wanted is kept.
    Steady,
    /// To the rollout's target.
    Forward,
    /// Back to where the rollout came from.
    Reverting,
}

pub(super) struct Goal<'w> {
    pub mode: Mode,
    pub release: ReleaseNumber,
    pub structure: &'w Structure,
    pub rollout: Option<&'w Versioned<Rollout>>,
}

impl<'w> Goal<'w> {
    pub fn of(app: &'w App, rollout: Option<&'w Versioned<Rollout>>) -> Self {
        // Before its release command has ended well, a release is nowhere.
        let begun = rollout.filter(|_| command::pending(rollout).is_none());
        let Some(versioned) = begun else {
            let (release, structure) = (app.active, &app.structure);
            return Self {
                mode: Mode::Steady,
                release,
                structure,
                rollout: begun,
            };
        };
        let value = &versioned.value;
        match value.phase {
            RolloutPhase::Forward => Self {
                mode: Mode::Forward,
                release: value.release,
                structure: &value.structure,
                rollout,
            },
            RolloutPhase::Reverting { .. } => Self {
                mode: Mode::Reverting,
                release: value.previous,
                structure: &value.previous_structure,
                rollout,
            },
        }
    }

    pub fn id(&self) -> Option<Uuid> {
        self.rollout.map(|rollout| rollout.value.id)
    }

    /// Whether a process is what the goal wants in its slot.
    pub fn is_current(&self, proc: &Proc<'_>) -> bool {
        let selected = match (self.mode, self.rollout.map(|rollout| &rollout.value.change)) {
            (Mode::Forward, Some(RolloutKind::Restart { only, number })) => {
                only.as_ref().is_none_or(|kind| *kind == proc.name.kind)
                    && number.is_none_or(|number| number == proc.name.number)
            }
            _ => false,
        };
        proc.name.release == self.release && (!selected || self.belongs(proc))
    }

    /// Whether this rollout has put it there.
    pub fn belongs(&self, proc: &Proc<'_>) -> bool {
        self.id().is_some() && proc.rollout() == self.id()
    }

    /// Whether nothing but the number of processes changes.
    pub fn is_scaling(&self) -> bool {
        let scale = |rollout: &Versioned<Rollout>| rollout.value.change == RolloutKind::Scale;
        self.mode == Mode::Forward && self.rollout.is_some_and(scale)
    }

    /// The numbers wanted of a type, given those that are there.
    ///
    /// The lowest stay. A scale-up counts on from the highest, as Deis v1 did; repairs and deploys
    /// fill gaps, so that a number survives the loss of its process.
    pub fn numbers(&self, there: &BTreeSet<u32>, count: u32) -> BTreeSet<u32> {
        let mut wanted: BTreeSet<u32> = there.iter().copied().take(count as usize).collect();
        let from = if self.is_scaling() {
            there.last().map_or(1, |highest| highest + 1)
        } else {
            1
        };
        let free = (from..).filter(|number| !there.contains(number));
        wanted.extend(free.take(count as usize - wanted.len()));
        wanted
    }
}
