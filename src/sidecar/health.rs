//! When a process counts as healthy: the announcer's decisions. Pure.

use std::time::Duration;

use super::probe::Failure;

/// Successes in a row that make it healthy.
const HEALTHY_AFTER: u32 = 2;
/// Failures in a row that make it unhealthy again.
const UNHEALTHY_AFTER: u32 = 3;
/// What a probe counts that got no word at all: it has waited longer than one that was refused.
const SILENCE: u32 = 2;
/// Between probes while it is not healthy, or has just failed one. What has just been silent for a
/// probe's whole time is given so much more.
pub const FAST: Duration = Duration::from_millis(500);
/// Between probes of a healthy process. One that hangs is thereby out of the routers after this, the
/// time that an answer may take (a second, unless its owner says otherwise) and [`FAST`] at most.
pub const SLOW: Duration = Duration::from_secs(1);

/// What the agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It may take traffic.
    Healthy,
    /// It may not; the reason is for people.
    Unhealthy(String),
}

impl Word {
    /// The line that the agent reads.
    #[must_use]
    pub fn encode(&self) -> String {
        match self {
            Self::Healthy => "{\"healthy\":true}\n".to_owned(),
            Self::Unhealthy(reason) => {
                format!("{{\"healthy\":false,\"reason\":{}}}\n", json(reason))
            }
        }
    }
}

/// A text as a JSON string.
#[must_use]
pub fn json(text: &str) -> String {
    serde_json::to_string(text).expect("invariant: a text always serializes")
}

/// What is known of the process so far.
#[derive(Debug, Clone, Default)]
pub struct Health {
    successes: u32,
    failures: u32,
    said: Option<Word>,
}

impl Health {
    /// Takes in a probe's result; answers with a word when there is something new to say.
    pub fn observe(&mut self, probe: Result<(), Failure>) -> Option<Word> {
        let word = match probe {
            Ok(()) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                (self.successes >= HEALTHY_AFTER).then_some(Word::Healthy)
            }
            Err(Failure { reason, silent }) => {
                self.successes = 0;
                let weight = if silent { SILENCE } else { 1 };
                self.failures = self.failures.saturating_add(weight);
                (self.failures >= UNHEALTHY_AFTER).then_some(Word::Unhealthy(reason))
            }
        }?;
        if self.said.as_ref() == Some(&word) {
            return None;
        }
        self.said = Some(word.clone());
        Some(word)
    }

    /// The last word: what a new connection to the agent begins with.
    #[must_use]
    pub fn last_word(&self) -> Option<&Word> {
        self.said.as_ref()
    }

    /// How long after the begin of one probe the next is due.
    #[must_use]
    pub fn interval(&self) -> Duration {
        if self.said == Some(Word::Healthy) && self.failures == 0 {
            SLOW
        } else {
            FAST
        }
    }

    /// How long the next probe waits for its answer, of a process that is given `usual`.
    #[must_use]
    pub fn patience(&self, usual: Duration) -> Duration {
        if self.said == Some(Word::Healthy) && self.failures > 0 {
            usual.min(FAST)
        } else {
            usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs probes written as letters: `+` a success, any other a failure with it as the reason, in
    /// capitals when nothing was said.
    fn words(probes: &str) -> Vec<Option<Word>> {
        let mut health = Health::default();
        let mut observe = |c: char| health.observe(result(c));
        probes.chars().map(&mut observe).collect()
    }

    fn result(c: char) -> Result<(), Failure> {
        if c == '+' {
            return Ok(());
        }
        Err(Failure {
            reason: c.to_string(),
            silent: c.is_uppercase(),
        })
    }

    #[test]
    fn two_successes_in_a_row_are_needed_and_said_once() {
        let healthy = Some(Word::Healthy);
        assert_eq!(words("++++"), [None, healthy.clone(), None, None]);
        assert_eq!(words("+a+a+"), [None, None, None, None, None]);
        assert_eq!(words("a+a++"), [None, None, None, None, healthy]);
    }

    #[test]
    fn three_failures_in_a_row_end_it_with_the_reason() {
        let unhealthy = |c: &str| Some(Word::Unhealthy(c.to_owned()));
        assert_eq!(words("++aab")[4], unhealthy("b"));
        assert_eq!(
            words("++aa+aa"),
            [None, Some(Word::Healthy), None, None, None, None, None]
        );
        assert_eq!(words("++aaa++")[6], Some(Word::Healthy));
    }

    #[test]
    fn a_process_that_never_opens_says_why_once_per_reason() {
        let unhealthy = |c: &str| Some(Word::Unhealthy(c.to_owned()));
        assert_eq!(
            words("aaaabb"),
            [None, None, unhealthy("a"), None, unhealthy("b"), None]
        );
    }

    #[test]
    fn probes_are_slow_only_while_all_is_well() {
        let mut health = Health::default();
        assert_eq!(health.interval(), FAST);
        health.observe(Ok(()));
        health.observe(Ok(()));
        assert_eq!(health.interval(), SLOW);
        health.observe(result('x'));
        assert_eq!(health.interval(), FAST);
    }

    #[test]
    fn two_silences_end_it_and_the_second_is_short() {
        let unhealthy = Some(Word::Unhealthy("B".to_owned()));
        assert_eq!(words("++AB")[2..], [None, unhealthy.clone()]);
        assert_eq!(words("++aB")[2..], [None, unhealthy]);
        assert_eq!(words("++A+A+")[2..], [None, None, None, None]);
        let mut health = Health::default();
        let usual = Duration::from_secs(5);
        health.observe(result('A'));
        assert_eq!(
            health.patience(usual),
            usual,
            "it may take its time to start"
        );
        health.observe(Ok(()));
        health.observe(Ok(()));
        assert_eq!(health.patience(usual), usual);
        health.observe(result('A'));
        assert_eq!(health.patience(usual), FAST);
        health.observe(Ok(()));
        assert_eq!(health.patience(usual), usual);
    }

    #[test]
    fn reasons_cannot_break_out_of_their_line() {
        let word = Word::Unhealthy("a\"\n{\"healthy\":true}".into());
        assert_eq!(word.encode().lines().count(), 1);
    }
}
