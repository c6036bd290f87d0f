//! How long to wait before the next try. Pure: the random part is an argument.

use std::time::Duration;

/// Doubling waits between tries, from 100 ms to 5 s, each shortened by a random part of its half
/// (a host's sidecars shall not all come back in the same millisecond).
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// First wait.
    const FIRST: Duration = Duration::from_millis(100);
    /// Longest wait.
    pub const LONGEST: Duration = Duration::from_secs(5);

    /// The wait after another failure.
    pub fn next(&mut self, random: u64) -> Duration {
        let factor = 1u32 << self.failures.min(6);
        self.failures = self.failures.saturating_add(1);
        let full = (Self::FIRST * factor).min(Self::LONGEST);
        let half = u64::try_from(full.as_millis() / 2)
            .unwrap_or(u64::MAX)
            .max(1);
        full - Duration::from_millis(random % half)
    }

    /// It worked: begin anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random number for [`Backoff::next`]; it need not be a good one.
#[must_use]
pub fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(49).as_millis(), 51);
        for random in 0..10_000 {
            assert!(backoff.next(random) >= Backoff::FIRST / 2);
        }
    }
}
