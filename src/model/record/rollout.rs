//! What goes with a change of an app: the command of a release, how a release is watched, and what the
//! routers say of the switch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{MachineId, ReleaseNumber};

/// How far the `release:` command of a release's Procfile is. It is begun at most once, whoever crashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ReleaseCommand {
    /// Not begun.
    Due,
    /// Assigned to a host.
    Running {
        /// Its process.
        uuid: Uuid,
        /// The host.
        machine: MachineId,
    },
    /// It ended well.
    Done,
}

/// How a release is judged by what its first processes do with real requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPolicy {
    /// Share of each type's processes that come first, in percent.
    pub share_percent: u32,
    /// How long they are watched, in seconds.
    pub watch_secs: u32,
    /// More bad answers than this, in percent, and more than those of the old release, end the rollout.
    pub errors_percent: u32,
    /// So many requests may get no answer from the new release.
    pub failed: u32,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        Self {
            share_percent: 25,
            watch_secs: 60,
            errors_percent: 5,
            failed: 0,
        }
    }
}

/// Longest watch, in seconds: a deploy waits so long.
const WATCH_MAX_SECS: u32 = 600;

/// A policy that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// Its share.
    #[error("a share of {0} % makes no sense: 1 to 100 do")]
    Share(u32),
    /// Its errors.
    #[error("{0} % of errors make no sense: 0 to 100 do")]
    Errors(u32),
    /// Its time.
    #[error("a watch of {0} s is not possible: 1 to {most} s are", most = WATCH_MAX_SECS)]
    Watch(u32),
}

/// Changes of a policy; what is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// Share of each type's processes that come first, in percent.
    pub share: Option<u32>,
    /// How long they are watched, in seconds.
    pub watch: Option<u32>,
    /// Errors that are allowed, in percent.
    pub errors: Option<u32>,
    /// Requests without an answer that are allowed.
    pub failed: Option<u32>,
}

impl RolloutPolicy {
    /// The policy after a change.
    ///
    /// # Errors
    /// When a value makes no sense.
    pub fn changed(self, change: &PolicyChange) -> Result<Self, InvalidPolicy> {
        let next = Self {
            share_percent: change.share.unwrap_or(self.share_percent),
            watch_secs: change.watch.unwrap_or(self.watch_secs),
            errors_percent: change.errors.unwrap_or(self.errors_percent),
            failed: change.failed.unwrap_or(self.failed),
        };
        match next {
            Self { share_percent, .. } if !(1..=100).contains(&share_percent) => {
                Err(InvalidPolicy::Share(share_percent))
            }
            Self { errors_percent, .. } if errors_percent > 100 => {
                Err(InvalidPolicy::Errors(errors_percent))
            }
            Self { watch_secs, .. } if !(1..=WATCH_MAX_SECS).contains(&watch_secs) => {
                Err(InvalidPolicy::Watch(watch_secs))
            }
            next => Ok(next),
        }
    }
}

/// The policy that a rollout goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// As it was when the rollout began.
    #[serde(flatten)]
    pub policy: RolloutPolicy,
    /// The first processes have been watched for their time, and were found well.
    #[serde(default)]
    pub passed: bool,
}

/// What a release did with requests, or what became of those that no release got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answered.
    pub served: u64,
    /// Of these, by a status from 500 on of the app's own.
    pub errors: u64,
    /// Requests that had to wait until there was a process.
    pub held: u64,
    /// Tries at another process or connection.
    pub retried: u64,
    /// Requests that got no answer of the app, or not all of it.
    pub failed: u64,
    /// Half of the answers began within so many microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// 99 of 100 answers did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
}

/// What the routers say of a switch from one release to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// How long it took, as the router saw it that saw it first, in milliseconds.
    pub millis: u64,
    /// Routers that said something.
    pub routers: u32,
    /// Those that didn't in time: what went through them is not counted here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// By release.
    pub releases: BTreeMap<ReleaseNumber, Tally>,
    /// Of requests that no release got.
    pub unserved: Tally,
}

impl Receipt {
    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let all = || self.releases.values().chain([&self.unserved]);
        let sum = |of: fn(&Tally) -> u64| all().map(of).sum::<u64>();
        let (seconds, tenths) = (self.millis / 1000, self.millis / 100 % 10);
        let mut words = format!(
            "{} requests in the {seconds}.{tenths} s of the switch, {} failed",
            sum(|tally| tally.served) + self.failed(),
            self.failed(),
        );
        for (what, n) in [("held", sum(|t| t.held)), ("retried", sum(|t| t.retried))] {
            if n > 0 {
                words = format!("{words}, {n} {what}");
            }
        }
        if !self.silent.is_empty() {
            words = format!("{words}; without router {}", self.silent.join(", "));
        }
        words
    }

    /// Requests that failed, whoever had them.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let all = self.releases.values().chain([&self.unserved]);
        all.map(|tally| tally.failed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_make_no_sense_are_refused() {
        let change = |share, watch, errors| PolicyChange {
            share,
            watch,
            errors,
            failed: None,
        };
        let default = RolloutPolicy::default();
        let cases = [
            (change(None, None, None), true),
            (change(Some(1), Some(1), Some(0)), true),
            (change(Some(100), Some(600), Some(100)), true),
            (change(Some(0), None, None), false),
            (change(Some(101), None, None), false),
            (change(None, Some(0), None), false),
            (change(None, Some(601), None), false),
            (change(None, None, Some(101)), false),
        ];
        for (change, is_good) in cases {
            assert_eq!(default.changed(&change).is_ok(), is_good, "{change:?}");
        }
        let next = default.changed(&change(Some(50), None, None));
        let want = RolloutPolicy {
            share_percent: 50,
            ..default
        };
        assert_eq!(next, Ok(want), "the rest stays");
    }

    #[test]
    fn a_receipt_in_one_line() {
        let tally = Tally {
            served: 10,
            held: 2,
            ..Tally::default()
        };
        let mut receipt = Receipt {
            millis: 1234,
            routers: 2,
            releases: [(ReleaseNumber(2), tally), (ReleaseNumber(3), tally)].into(),
            ..Receipt::default()
        };
        let said = "20 requests in the 1.2 s of the switch, 0 failed, 4 held";
        assert_eq!(receipt.words(), said);
        receipt.unserved.failed = 1;
        receipt.silent = vec!["10.0.0.3".into()];
        let said =
            "21 requests in the 1.2 s of the switch, 1 failed, 4 held; without router 10.0.0.3";
        assert_eq!(receipt.words(), said);
    }
}
