//! What the daemons take from nowhere: wall time, ids, random numbers, and threads for what waits for
//! the disk. Nobody else draws them, so that the simulation can: there one seed gives them all, and
//! what happened once happens again.

use jiff::Timestamp;
use uuid::Uuid;

/// Now, for people. What is waited for is measured by the monotonic clock instead.
#[must_use]
pub fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Timestamp::now()
}

/// Time since the host's start, for what another process on it reads.
///
/// # Errors
/// When the kernel doesn't say.
pub fn uptime() -> std::io::Result<std::time::Duration> {
    #[cfg(test)]
    if let Some(uptime) = simulated::uptime() {
        return Ok(uptime);
    }
    crate::sidecar::fence::uptime()
}

/// A new id.
#[must_use]
pub fn uuid() -> Uuid {
    #[cfg(test)]
    if let Some(bits) = simulated::bits() {
        return uuid::Builder::from_random_bytes(bits).into_uuid();
    }
    Uuid::new_v4()
}

/// A random number; it need not be a good one.
#[must_use]
pub fn random() -> u64 {
    #[cfg(test)]
    if let Some(bits) = simulated::bits() {
        return u128::from_ne_bytes(bits) as u64;
    }
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}

/// Does work that waits for the disk, where it holds nobody else up.
///
/// # Errors
/// When the work panics.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    #[cfg(test)]
    if simulated::is_on() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// The outside world of a simulation, which has its thread to itself.
#[cfg(test)]
pub(crate) mod simulated {
    use std::{cell::RefCell, time::Duration};

    use jiff::{SignedDuration, Timestamp};
    use tokio::time::Instant;

    struct Outside {
        begun: Instant,
        state: u64,
    }

    thread_local!(static OUTSIDE: RefCell<Option<Outside>> = const { RefCell::new(None) });

    /// From now on this thread's outside world comes from a seed. Call it on paused time.
    pub(crate) fn begin(seed: u64) {
        let begun = Instant::now();
        OUTSIDE.set(Some(Outside { begun, state: seed }));
    }

    /// Back to the real one.
    pub(crate) fn end() {
        OUTSIDE.set(None);
    }

    pub(super) fn uptime() -> Option<Duration> {
        OUTSIDE.with_borrow(|outside| outside.as_ref().map(|outside| outside.begun.elapsed()))
    }

    pub(super) fn is_on() -> bool {
        OUTSIDE.with_borrow(Option::is_some)
    }

    /// How long the simulation has been running, by its own clock.
    pub(crate) fn elapsed() -> Option<Duration> {
        OUTSIDE.with_borrow(|outside| outside.as_ref().map(|outside| outside.begun.elapsed()))
    }

    pub(super) fn now() -> Option<Timestamp> {
        let elapsed = SignedDuration::try_from(elapsed()?).ok()?;
        let start = Timestamp::from_second(1_800_000_000).ok()?;
        start.checked_add(elapsed).ok()
    }

    pub(super) fn bits() -> Option<[u8; 16]> {
        OUTSIDE.with_borrow_mut(|outside| {
            let outside = outside.as_mut()?;
            let (high, low) = (splitmix(&mut outside.state), splitmix(&mut outside.state));
            Some((u128::from(high) << 64 | u128::from(low)).to_ne_bytes())
        })
    }

    /// The next number of a sequence (splitmix64): small, good enough, the same everywhere.
    pub(crate) const fn splitmix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
