//! How often something may be tried. Pure: time is an argument.
//!
//! Each key has a bucket of `burst` tries that fills again by one per `every`. Of a bucket only the
//! moment when it will be full is kept (the generic cell rate algorithm), so that one which is full is
//! the same as none at all and is forgotten. The number of buckets is bounded: when all are in use,
//! the one that is closest to full goes.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// So many tries at once, and then one at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Tries at once.
    pub(super) burst: u32,
    /// Time until there is one more.
    pub(super) every: Duration,
}

/// Buckets, by key.
#[derive(Debug)]
pub(super) struct Throttle<K> {
    rate: Rate,
    /// Most buckets.
    most: usize,
    /// When each bucket will be full.
    full_at: HashMap<K, Duration>,
}

impl<K: Hash + Eq + Clone> Throttle<K> {
    pub(super) fn new(rate: Rate, most: usize) -> Self {
        Self {
            rate,
            most,
            full_at: HashMap::new(),
        }
    }

    /// Takes a try at `now`, a time since some start.
    ///
    /// # Errors
    /// How long to wait for one.
    pub(super) fn take(&mut self, key: &K, now: Duration) -> Result<(), Duration> {
        let empty_until = now + self.rate.every * self.rate.burst;
        let known = self.full_at.get(key);
        let next = known.map_or(now, |full| now.max(*full)) + self.rate.every;
        if next > empty_until {
            return Err(next - empty_until);
        }
        if known.is_none() {
            self.make_room(now);
        }
        self.full_at.insert(key.clone(), next);
        Ok(())
    }

    /// Gives a try back that turned out to be a good one.
    pub(super) fn give_back(&mut self, key: &K) {
        if let Some(full) = self.full_at.get_mut(key) {
            *full = full.saturating_sub(self.rate.every);
        }
    }

    fn make_room(&mut self, now: Duration) {
        if self.full_at.len() < self.most {
            return;
        }
        self.full_at.retain(|_, full| *full > now);
        if self.full_at.len() >= self.most {
            let first = self.full_at.iter().min_by_key(|(_, full)| **full);
            if let Some(key) = first.map(|(key, _)| key.clone()) {
                self.full_at.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        burst: 3,
        every: Duration::from_secs(10),
    };

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let mut throttle = Throttle::new(RATE, 10);
        let steps = [
            (0, Ok(())),
            (0, Ok(())),
            (0, Ok(())),
            (0, Err(secs(10))),
            (9, Err(secs(1))),
            (10, Ok(())),
            (10, Err(secs(10))),
            (100, Ok(())),
        ];
        for (at, (now, want)) in steps.into_iter().enumerate() {
            assert_eq!(throttle.take(&"ada", secs(now)), want, "step {at}");
        }
        assert_eq!(throttle.take(&"bob", secs(0)), Ok(()));
    }

    #[test]
    fn good_tries_cost_nothing() {
        let mut throttle = Throttle::new(RATE, 10);
        for _ in 0..100 {
            assert_eq!(throttle.take(&"ada", secs(5)), Ok(()));
            throttle.give_back(&"ada");
        }
        throttle.give_back(&"unknown");
    }

    /// Whoever is being guessed at stays limited, however many other names are tried.
    #[test]
    fn the_emptiest_bucket_stays() {
        let mut throttle = Throttle::new(RATE, 10);
        for _ in 0..3 {
            assert_eq!(throttle.take(&0, secs(0)), Ok(()));
        }
        for other in 1..1000 {
            assert_eq!(throttle.take(&other, secs(0)), Ok(()));
        }
        assert!(throttle.take(&0, secs(0)).is_err());
    }

    proptest! {
        /// In any stretch of time no more gets through than a burst and what has filled again; what is
        /// refused gets through exactly after the wait that was told; and memory is bounded.
        #[test]
        fn never_more_than_promised(
            steps in prop::collection::vec((0..8u64, 0..30u64), 1..200),
            keys in 1..8usize,
        ) {
            let mut throttle = Throttle::new(RATE, keys.min(5));
            let mut now = secs(0);
            let mut taken: HashMap<u64, Vec<Duration>> = HashMap::new();
            for (key, wait) in steps {
                let key = key % keys as u64;
                now += secs(wait);
                match throttle.take(&key, now) {
                    Ok(()) => taken.entry(key).or_default().push(now),
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= RATE.every);
                        prop_assert!(throttle.take(&key, now + wait - Duration::from_nanos(1)).is_err());
                        let known = throttle.full_at.clone();
                        prop_assert!(throttle.take(&key, now + wait).is_ok());
                        throttle.full_at = known;
                    }
                }
                prop_assert!(throttle.full_at.len() <= keys.min(5));
            }
            // Without evictions.
            if keys <= 5 {
                for times in taken.values() {
                    for (at, from) in times.iter().enumerate() {
                        for (n, to) in times[at..].iter().enumerate() {
                            let filled = (*to - *from).as_secs() / RATE.every.as_secs();
                            prop_assert!((n as u64) < u64::from(RATE.burst) + filled);
                        }
                    }
                }
            }
        }
    }
}
