//! Waiting for a rollout, with a voice: the rollout itself lives in etcd and goes on without us.

use std::time::Duration;

use uuid::Uuid;

use super::{OpsError, app};
use crate::{
    model::*,
    store::{Store, keys},
};

/// How long callers wait for a rollout; the leader gives up much earlier.
pub const LIMIT: Duration = Duration::from_secs(1200);

/// How a rollout ended, for whoever waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its result.
    pub result: OutcomeResult,
    /// Why, unless it succeeded.
    pub reason: Option<String>,
    /// Last lines of the process that failed.
    pub log: Vec<String>,
}

/// Waits until a rollout has ended. `say` hears what it waits for, each time that changes.
///
/// Cancel safe: the rollout goes on.
///
/// # Errors
/// When the app is gone, the store fails, or it takes longer than `limit`.
pub async fn wait(
    store: &Store,
    name: &AppName,
    rollout: Uuid,
    limit: Duration,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Ended, OpsError> {
    match tokio::time::timeout(limit, watch(store, name, rollout, say)).await {
        Ok(result) => result,
        Err(_) => Err(OpsError::Timeout {
            what: format!("the change of {name}"),
            limit_secs: limit.as_secs(),
        }),
    }
}

async fn watch(
    store: &Store,
    name: &AppName,
    id: Uuid,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Ended, OpsError> {
    let key = keys::rollout(name);
    let mut feed = store.follow(key.as_str());
    let mut release = None;
    let mut said = None;
    loop {
        let update = feed.next().await;
        let mut current = None;
        let mut gone = update.first;
        for change in update
            .changes
            .iter()
            .filter(|change| change.key == key.as_str())
        {
            match change
                .entry
                .as_ref()
                .and_then(|entry| entry.decode::<Rollout>().ok())
            {
                Some(there) if there.id == id => {
                    gone = false;
                    current = Some(there);
                }
                // Deleted, or another one's: ours has ended.
                _ => gone = true,
            }
        }
        if let Some(current) = current {
            if current.change == RolloutKind::Release {
                release = Some(current.release);
            }
            if current.waiting != said {
                if let Some(waiting) = &current.waiting {
                    say(waiting);
                }
                said = current.waiting;
            }
        } else if gone {
            return ended(store, name, id, release).await;
        }
    }
}

async fn ended(
    store: &Store,
    name: &AppName,
    id: Uuid,
    release: Option<ReleaseNumber>,
) -> Result<Ended, OpsError> {
    let app = app::get(store, name).await?.value;
    let outcome = match release {
        Some(version) => store
            .get(&keys::outcome(name, version))
            .await?
            .map(|o| o.value),
        None => None,
    };
    let ours = app.last_rollout.filter(|end| end.id == id);
    Ok(match (ours, outcome) {
        (Some(end), outcome) => Ended {
            result: end.result,
            reason: end.reason,
            log: outcome.map(|o| o.log).unwrap_or_default(),
        },
        (None, Some(outcome)) => Ended {
            result: outcome.result,
            reason: outcome.reason,
            log: outcome.log,
        },
        (None, None) => Ended {
            result: OutcomeResult::Superseded,
            reason: Some("another change took over".to_owned()),
            log: Vec::new(),
        },
    })
}
