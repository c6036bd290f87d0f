//! How long to wait before the next try. Pure: the random part is an argument.

use std::time::Duration;

pub use crate::outside::random;

/// A try that takes so long was not refused.
const SLOW: Duration = Duration::from_secs(1);
/// How many times longer the longest wait is after slow failures.
const PATIENT: u32 = 5;

/// Doubling waits between tries, each shortened by a random part of its half: whoever lost the same
/// server in the same millisecond shall not come back in the same one.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The wait after another failure.
    pub fn next(&mut self, random: u64) -> Duration {
        let factor = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let full = self.first.saturating_mul(factor).min(self.longest);
        let half = u64::try_from(full.as_millis() / 2)
            .unwrap_or(u64::MAX)
            .max(1);
        full - Duration::from_millis(random % half)
    }

    /// The wait after a try that took so long. One that failed at once found nobody there, and may be
    /// repeated often; one that took its time found somebody overloaded, and a thousand that go on asking
    /// every other second would keep him so. Those wait up to [`PATIENT`] times as long.
    pub fn next_after(&mut self, took: Duration, random: u64) -> Duration {
        let longest = self.longest;
        if took >= SLOW {
            self.longest = longest.saturating_mul(PATIENT);
        }
        let wait = self.next(random);
        self.longest = longest;
        wait
    }

    /// It worked: begin anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_anew() {
        let first = Duration::from_millis(100);
        let mut backoff = Backoff::new(first, Duration::from_secs(5));
        let waits: Vec<_> = (0..9).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        let (quick, slow) = (Duration::from_millis(5), Duration::from_secs(5));
        assert_eq!(backoff.next_after(quick, 0).as_secs(), 5);
        assert_eq!(backoff.next_after(slow, 0).as_secs(), 25);
        assert_eq!(backoff.next(0).as_secs(), 5);
        backoff.reset();
        assert_eq!(backoff.next(49).as_millis(), 51);
        for random in 0..10_000 {
            assert!(backoff.next(random) >= first / 2);
        }
    }
}
