//! One-off processes whose controller is gone have nobody who removes them when they have ended: the
//! controllers that are there do. (Their sidecars have ended the processes themselves by then, see
//! [`crate::session`].)

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::ApiError;
use crate::{
    model::Work,
    session::ALONE,
    store::{CommitError, Store, Txn, keys},
};

/// So long a controller may be away: its lease may have run out in an outage of the store, with all
/// its sessions alive.
const GRACE: Duration = ALONE;

/// Removes the one-off processes that a former life of the controller at `address` waited for.
pub(super) async fn former_life(store: &Store, address: SocketAddr) -> Result<(), ApiError> {
    sweep(store, |attach| attach == address.to_string()).await
}

/// Removes those of other controllers that are gone, until `stop`.
pub(super) async fn others(store: Store, stop: CancellationToken) {
    let controllers = keys::parts("controller");
    let mut feed = store.follow(controllers.as_str());
    loop {
        let update = tokio::select! {
            () = stop.cancelled() => return,
            update = feed.next() => update,
        };
        // What went before the first look is not mentioned in it.
        if !update.first && update.changes.iter().all(|change| change.entry.is_some()) {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(GRACE) => {}
        }
        if let Err(error) = of_absent(&store).await {
            warn!(%error, "one-off processes of a lost controller not removed; the next loss tries again");
        }
    }
}

pub(super) async fn of_absent(store: &Store) -> Result<(), ApiError> {
    let controllers = keys::parts("controller");
    let there = store.list_keys(&controllers).await?;
    let present: BTreeSet<String> = there
        .iter()
        .filter_map(|key| keys::last_part(key, controllers.as_str()))
        .map(str::to_owned)
        .collect();
    sweep(store, |attach| {
        attach
            .parse::<SocketAddr>()
            .is_ok_and(|address| !present.contains(&address.ip().to_string()))
    })
    .await
}

/// Removes the one-off processes for whose controller `is_gone` holds.
async fn sweep(store: &Store, is_gone: impl Fn(&str) -> bool) -> Result<(), ApiError> {
    let listing = store.list_readable(&keys::schedule()).await?;
    for (key, assignment) in listing.entries {
        let Work::Run {
            attach: Some(attach),
            ..
        } = &assignment.value.work
        else {
            continue;
        };
        if !is_gone(attach) {
            continue;
        }
        if let Some((machine, name)) = keys::parse_assignment(&key) {
            let key = keys::assignment(&machine, name);
            let txn = Txn::new()
                .unchanged(&key, assignment.mod_revision)
                .delete(&key);
            match store.commit(txn).await {
                Ok(_) => info!(
                    process = name,
                    attach, "one-off process of a lost controller removed"
                ),
                // Another controller was quicker.
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
