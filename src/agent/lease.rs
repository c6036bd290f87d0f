//! The host's lease, as processes of single types see it: held or run out, by the host's own
//! monotonic clock. It is written down for the fence (`sidecar::fence`) and for the agent's next life.

use std::io;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::paths::{Durability, Paths, remove, write_atomic};
use crate::{
    outside::uptime,
    plan::units::Lease,
    sidecar::fence::{lease_text, read_lease},
};

/// The unit that stops processes of single types when nobody else can.
pub const FENCE_UNIT: &str = "deis-fence.service";

/// Until when the lease holds that a former life of the agent has had; none when it is over.
#[must_use]
pub fn inherited(paths: &Paths) -> Option<Instant> {
    let left = read_lease(&paths.lease())?.checked_sub(uptime().ok()?)?;
    Some(Instant::now() + left)
}

/// Says `lease` when the lease is held and when it has run out, and writes each renewal down. `until`
/// is told of renewals; ends with its sender.
pub async fn keep(
    paths: Paths,
    mut until: watch::Receiver<Option<Instant>>,
    lease: watch::Sender<Lease>,
) {
    let mut written = None;
    loop {
        let end = *until.borrow_and_update();
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.filter(|left| !left.is_zero());
        if let Some(left) = left
            && written != end
        {
            match note(&paths, Instant::now() + left) {
                Ok(()) => written = end,
                // The fence then sees an earlier end, and is right to.
                Err(error) => warn!(%error, "the host's lease can't be written down for the fence"),
            }
        }
        let now = left.map_or(Lease::Expired, |_| Lease::Held);
        let flipped = lease.send_if_modified(|lease| std::mem::replace(lease, now) != now);
        match (flipped, now) {
            (true, Lease::Held) => info!("the host's lease is held"),
            (true, Lease::Expired) => {
                warn!(
                    "the host's lease has run out: processes of single types stop until it is back"
                );
            }
            (false, _) => {}
        }
        let end = end.filter(|_| left.is_some());
        let renewed = tokio::select! {
            biased;
            changed = until.changed() => changed.is_ok(),
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => true,
        };
        if !renewed {
            return;
        }
    }
}

/// Writes down until when the lease holds.
///
/// # Errors
/// When the file can't be written.
pub fn note(paths: &Paths, until: Instant) -> io::Result<()> {
    let text = lease_text(uptime()? + until.saturating_duration_since(Instant::now()));
    write_atomic(&paths.lease(), text.as_bytes(), 0o600, Durability::Runtime)
}

/// Puts a process behind the fence, or takes it out; by which of its assignment's marks is written there.
///
/// # Errors
/// When the file can't be made or removed.
pub fn set_fenced(paths: &Paths, name: &str, fenced: Option<u32>) -> io::Result<()> {
    let file = paths.fenced().join(name);
    match (fenced, fenced_by(paths, name)) {
        (fenced, there) if fenced == there => Ok(()),
        (Some(mark), _) => {
            let text = mark.to_string();
            write_atomic(&file, text.as_bytes(), 0o600, Durability::Runtime)
        }
        (None, _) => remove(&file),
    }
}

/// Whether a process is behind the fence, and by which of its assignment's marks. What can't be read
/// there was written by a former agent, which knew of none.
#[must_use]
pub fn fenced_by(paths: &Paths, name: &str) -> Option<u32> {
    let file = paths.fenced().join(name);
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => String::new(),
    };
    Some(text.trim().parse().unwrap_or(0))
}
