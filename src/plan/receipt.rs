//! What routers count of an app, release by release; what the receipt of a deploy says of that, and
//! whether a release that is watched does well. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::{Receipt, ReleaseNumber, RolloutPolicy, Tally};

/// Classes of latency: two for each doubling, from 64 µs to nine minutes.
pub const CLASSES: usize = 48;

/// A policy's share of errors is not looked at before there are so many: one alone is chance.
const LEAST_BAD: u64 = 3;

/// The class of a latency.
#[must_use]
pub fn class_of(micros: u64) -> usize {
    let units = micros >> 5;
    if units < 2 {
        return 0;
    }
    let doublings = units.ilog2();
    let upper_half = (units >> (doublings - 1)) & 1;
    let class = 2 * u64::from(doublings) - 1 + upper_half;
    usize::try_from(class).map_or(CLASSES - 1, |class| class.min(CLASSES - 1))
}

/// What all latencies of a class are below, in microseconds.
#[must_use]
pub const fn bound_of(class: usize) -> u64 {
    if class == 0 {
        return 64;
    }
    let (doublings, upper_half) = (class.div_ceil(2), (class + 1) % 2);
    ((3 + upper_half as u64) << (doublings - 1)) << 5
}

/// What a router has counted of one release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Of the answers, those with a status from 500 on of the app's own.
    pub errors: u64,
    /// Requests that had to wait for a process.
    pub held: u64,
    /// Tries at another process or connection.
    pub retried: u64,
    /// Requests without an answer of the app, or without all of it.
    pub failed: u64,
    /// Answers by class of latency.
    pub latency: Vec<u64>,
}

impl Counts {
    /// Answers of the app.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.latency.iter().sum()
    }

    /// With others.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// Since these were counted.
    #[must_use]
    pub fn since(&self, base: &Self) -> Self {
        self.with(base, u64::saturating_sub)
    }

    fn with(&self, other: &Self, op: impl Fn(u64, u64) -> u64) -> Self {
        let at = |all: &[u64], class: usize| all.get(class).copied().unwrap_or(0);
        let classes = self.latency.len().max(other.latency.len());
        let latency =
            (0..classes).map(|class| op(at(&self.latency, class), at(&other.latency, class)));
        Self {
            errors: op(self.errors, other.errors),
            held: op(self.held, other.held),
            retried: op(self.retried, other.retried),
            failed: op(self.failed, other.failed),
            latency: latency.collect(),
        }
    }

    /// So many thousandths of the answers took at most so many microseconds.
    fn quantile(&self, permille: u64) -> Option<u64> {
        let served = self.served();
        let rank = (served * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let class = self.latency.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        (served > 0).then(|| bound_of(class))
    }

    /// For people.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            served: self.served(),
            errors: self.errors,
            held: self.held,
            retried: self.retried,
            failed: self.failed,
            p50_us: self.quantile(500),
            p99_us: self.quantile(990),
        }
    }
}

/// What a router says of an app since its newest release appeared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppCounts {
    /// How long ago that was, in milliseconds.
    pub since_ms: u64,
    /// By release.
    pub releases: BTreeMap<ReleaseNumber, Counts>,
    /// Requests that no release got.
    pub unserved: Counts,
}

/// The answers of all routers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gathered {
    /// When they were asked, on the leader's monotonic clock.
    pub at: Duration,
    /// By address; none: it didn't answer in time.
    pub answers: BTreeMap<String, Option<AppCounts>>,
}

impl Gathered {
    /// What all routers together have counted of a release.
    #[must_use]
    pub fn of(&self, release: ReleaseNumber) -> Counts {
        let answers = self.answers.values().flatten();
        let counts = answers.filter_map(|answer| answer.releases.get(&release));
        counts.fold(Counts::default(), |sum, counts| sum.plus(counts))
    }

    /// The receipt of the switch to a release; none when no router has seen anything of that.
    #[must_use]
    pub fn receipt(&self, release: ReleaseNumber) -> Option<Receipt> {
        let has_seen = |answer: &&AppCounts| answer.releases.contains_key(&release);
        let answers = || self.answers.values().flatten().filter(has_seen);
        answers().next()?;
        let mut releases: BTreeMap<ReleaseNumber, Counts> = BTreeMap::new();
        for (release, counts) in answers().flat_map(|answer| &answer.releases) {
            let sum = releases.entry(*release).or_default();
            *sum = sum.plus(counts);
        }
        let unserved = answers().fold(Counts::default(), |sum, answer| sum.plus(&answer.unserved));
        let silent = self.answers.iter().filter(|(_, answer)| answer.is_none());
        let releases = releases.into_iter();
        Some(Receipt {
            millis: answers().map(|answer| answer.since_ms).max().unwrap_or(0),
            routers: u32::try_from(answers().count()).unwrap_or(u32::MAX),
            silent: silent.map(|(ip, _)| ip.clone()).collect(),
            releases: releases
                .map(|(release, counts)| (release, counts.tally()))
                .filter(|(_, tally)| *tally != Tally::default())
                .collect(),
            unserved: unserved.tally(),
        })
    }
}

/// Why a release that is watched is to be given up; none as long as it does well.
#[must_use]
pub fn verdict(policy: &RolloutPolicy, new: &Counts, old: &Counts) -> Option<String> {
    if new.failed > u64::from(policy.failed) {
        let (failed, most) = (new.failed, policy.failed);
        return Some(format!(
            "{failed} requests got no answer from it, and the policy allows {most}"
        ));
    }
    let bad = |counts: &Counts| counts.errors + counts.failed;
    let all = |counts: &Counts| counts.served() + counts.failed;
    // By cross products: a share of nothing is none.
    let is_above = bad(new) * 100 > u64::from(policy.errors_percent) * all(new);
    let is_worse = bad(new) * all(old) > bad(old) * all(new) || all(old) == 0;
    if bad(new) < LEAST_BAD || !is_above || !is_worse {
        return None;
    }
    let words = |counts: &Counts| format!("{} of {}", bad(counts), all(counts));
    Some(format!(
        "{} answers were errors (of the release before {}), and the policy allows {} %",
        words(new),
        words(old),
        policy.errors_percent
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(served: u64, errors: u64, failed: u64) -> Counts {
        Counts {
            errors,
            failed,
            latency: vec![0, served],
            ..Counts::default()
        }
    }

    #[test]
    fn verdicts() {
        let policy = |errors_percent, failed| RolloutPolicy {
            errors_percent,
            failed,
            ..RolloutPolicy::default()
        };
        let none = counts(0, 0, 0);
        // What it is called, policy, new, old, whether it is well.
        let cases = [
            (
                "no request at all",
                policy(5, 0),
                none.clone(),
                none.clone(),
                true,
            ),
            (
                "nothing is wrong",
                policy(5, 0),
                counts(100, 0, 0),
                counts(100, 0, 0),
                true,
            ),
            (
                "one error is chance",
                policy(5, 0),
                counts(10, 1, 0),
                counts(100, 0, 0),
                true,
            ),
            (
                "so are two",
                policy(0, 0),
                counts(2, 2, 0),
                counts(100, 0, 0),
                true,
            ),
            (
                "below the threshold",
                policy(5, 0),
                counts(100, 5, 0),
                counts(100, 0, 0),
                true,
            ),
            (
                "above it",
                policy(5, 0),
                counts(100, 6, 0),
                counts(100, 0, 0),
                false,
            ),
            (
                "all are errors",
                policy(5, 0),
                counts(3, 3, 0),
                counts(100, 0, 0),
                false,
            ),
            (
                "no worse than before",
                policy(5, 0),
                counts(100, 20, 0),
                counts(50, 10, 0),
                true,
            ),
            (
                "worse than before",
                policy(5, 0),
                counts(100, 21, 0),
                counts(50, 10, 0),
                false,
            ),
            (
                "nothing to compare",
                policy(5, 0),
                counts(10, 9, 0),
                none.clone(),
                false,
            ),
            (
                "one without an answer",
                policy(5, 0),
                counts(1000, 0, 1),
                none.clone(),
                false,
            ),
            (
                "so many are allowed",
                policy(5, 2),
                counts(1000, 0, 2),
                none.clone(),
                true,
            ),
            (
                "they count as errors",
                policy(5, 9),
                counts(9, 0, 3),
                none,
                false,
            ),
        ];
        for (what, policy, new, old, is_well) in cases {
            let verdict = verdict(&policy, &new, &old);
            assert_eq!(verdict.is_none(), is_well, "{what}: {verdict:?}");
        }
    }

    #[test]
    fn a_receipt_adds_up() {
        let answer = |served, failed| {
            Some(AppCounts {
                since_ms: served,
                releases: [(ReleaseNumber(2), counts(served, 1, failed))].into(),
                unserved: counts(0, 0, 1),
            })
        };
        let answers = [
            ("10.0.0.1", answer(5, 0)),
            ("10.0.0.2", answer(7, 1)),
            ("10.0.0.3", None),
        ];
        let gathered = Gathered {
            at: Duration::ZERO,
            answers: answers.map(|(ip, answer)| (ip.to_owned(), answer)).into(),
        };
        let receipt = gathered.receipt(ReleaseNumber(2)).expect("a receipt");
        assert_eq!((receipt.millis, receipt.routers), (7, 2));
        assert_eq!(receipt.silent, ["10.0.0.3"]);
        let tally = receipt.releases[&ReleaseNumber(2)];
        assert_eq!((tally.served, tally.errors, tally.failed), (12, 2, 1));
        assert_eq!((tally.p50_us, tally.p99_us), (Some(96), Some(96)));
        assert_eq!((receipt.unserved.failed, receipt.failed()), (2, 3));
        assert_eq!(
            gathered.receipt(ReleaseNumber(3)),
            None,
            "it was never published"
        );
    }

    proptest! {
        #[test]
        fn a_class_holds_its_latencies(micros in 0u64..600_000_000) {
            let class = class_of(micros);
            prop_assert!(micros < bound_of(class) || class == CLASSES - 1);
            prop_assert!(class == 0 || micros >= bound_of(class - 1));
        }

        #[test]
        fn a_quantile_is_near(micros in prop::collection::vec(64u64..100_000_000, 1..200)) {
            let mut counts = Counts { latency: vec![0; CLASSES], ..Counts::default() };
            micros.iter().for_each(|m| counts.latency[class_of(*m)] += 1);
            let mut sorted = micros.clone();
            sorted.sort_unstable();
            let truth = sorted[(sorted.len() * 99).div_ceil(100) - 1];
            let said = counts.quantile(990).expect("some");
            prop_assert!(said > truth && said <= truth * 3 / 2 + 64, "{said} for {truth}");
        }
    }
}
