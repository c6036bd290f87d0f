//! How often something may be written: a few times at once, then at a steady pace.

use std::time::Duration;

use tokio::time::Instant;

/// So many at once, each of which is paid for by a pause; what is saved up is never more than all.
#[derive(Debug)]
pub struct Burst {
    pause: Duration,
    most: u32,
    /// Until when what was spent is paid for.
    owed: Instant,
}

impl Burst {
    /// `most` (at least one) at once, then one per `pause`.
    #[must_use]
    pub fn new(most: u32, pause: Duration) -> Self {
        Self {
            pause,
            most,
            owed: Instant::now(),
        }
    }

    /// From when on one more is allowed.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        let saved = self.pause * (self.most - 1);
        self.owed.checked_sub(saved).unwrap_or(self.owed)
    }

    /// One was done now, allowed or not.
    pub fn spend(&mut self, now: Instant) {
        let longest = now + self.pause * self.most;
        self.owed = (self.owed.max(now) + self.pause).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_at_once_then_one_per_pause() {
        let mut burst = Burst::new(3, Duration::from_secs(2));
        let begun = Instant::now();
        let mut at = Vec::new();
        for _ in 0..6 {
            tokio::time::sleep_until(burst.ready_at()).await;
            burst.spend(Instant::now());
            at.push(begun.elapsed().as_secs());
        }
        assert_eq!(at, [0, 0, 0, 2, 4, 6]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let rested = Instant::now();
        for _ in 0..4 {
            tokio::time::sleep_until(burst.ready_at()).await;
            burst.spend(Instant::now());
        }
        assert_eq!(
            rested.elapsed().as_secs(),
            2,
            "no more than three are saved up"
        );
    }
}
