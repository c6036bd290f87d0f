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
    /// What the routers counted.
    pub receipt: Option<Receipt>,
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
            let entry = change.entry.as_ref();
            // Deleted, or another one's: ours has ended, maybe within the same update.
            current = entry
                .and_then(|entry| entry.decode::<Rollout>().ok())
                .filter(|there| there.id == id);
            gone = current.is_none();
            if let Some(ours) = &current
                && ours.change == RolloutKind::Release
            {
                release = Some(ours.release);
            }
        }
        if let Some(current) = current {
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
        (Some(end), outcome) => {
            let (log, receipt) = outcome.map(|o| (o.log, o.receipt)).unwrap_or_default();
            Ended {
                result: end.result,
                reason: end.reason,
                log,
                receipt,
            }
        }
        (None, Some(outcome)) => Ended {
            result: outcome.result,
            reason: outcome.reason,
            log: outcome.log,
            receipt: outcome.receipt,
        },
        (None, None) => Ended {
            result: OutcomeResult::Superseded,
            reason: Some("another change took over".to_owned()),
            log: Vec::new(),
            receipt: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::Txn;
    use jiff::Timestamp;

    /// What is too quick to be seen step by step arrives as one update.
    #[tokio::test]
    async fn an_end_right_after_a_change_is_seen() {
        let store = Store::memory();
        let (name, user): (AppName, Username) =
            ("blog".parse().expect("app"), "ada".parse().expect("user"));
        let rollout = Rollout {
            schema: SCHEMA,
            id: Uuid::from_u128(1),
            change: RolloutKind::Scale,
            release: ReleaseNumber(2),
            previous: ReleaseNumber(2),
            structure: Structure::new(),
            previous_structure: Structure::new(),
            phase: RolloutPhase::Forward,
            command: None,
            watch: None,
            waiting: None,
            by: user.clone(),
            started: Timestamp::UNIX_EPOCH,
        };
        let failed = RolloutEnd {
            id: rollout.id,
            result: OutcomeResult::Failed,
            reason: Some("no host can take it".to_owned()),
        };
        let app = App {
            schema: SCHEMA,
            uuid: Uuid::from_u128(2),
            owner: user,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            latest: ReleaseNumber(2),
            active: ReleaseNumber(2),
            structure: Structure::new(),
            collaborators: BTreeSet::new(),
            single: Default::default(),
            last_rollout: Some(failed),
            policy: None,
            destroying: false,
        };
        let key = keys::rollout(&name);
        let put = |waiting: Option<String>| {
            let rollout = Rollout {
                waiting,
                ..rollout.clone()
            };
            Txn::new().put(&key, &rollout)
        };
        let begun = put(None).put(&keys::app(&name), &app);
        store.commit(begun).await.expect("begun");

        let mut said = Vec::new();
        let mut say = |what: &str| said.push(what.to_owned());
        let act = async {
            // The follower has the first state and waits for the next.
            tokio::task::yield_now().await;
            let quick = put(Some("web.1: starting".to_owned()));
            store.commit(quick).await.expect("changed");
            let end = Txn::new().delete(&key);
            store.commit(end).await.expect("ended");
        };
        let limit = Duration::from_secs(5);
        let (ended, ()) = tokio::join!(wait(&store, &name, rollout.id, limit, &mut say), act);
        assert_eq!(ended.expect("an end").result, OutcomeResult::Failed);
    }
}
