//! Which images an app may need at any moment.

use std::collections::{BTreeMap, BTreeSet};

use super::release::rollback_target;
use crate::{
    model::{AppName, OutcomeResult, ReleaseNumber},
    store::{Store, StoreError, keys},
};

/// The images of the active release, of the one that a plain rollback goes to, and of the one that is
/// being rolled out.
///
/// # Errors
/// When the store can't be asked.
pub async fn images(store: &Store, app: &AppName) -> Result<BTreeSet<String>, StoreError> {
    let mut images = BTreeSet::new();
    let Some(record) = store.get(&keys::app(app)).await? else {
        return Ok(images);
    };
    let (outcomes, rollout) = (keys::outcomes(app), keys::rollout(app));
    let (outcomes, rollout) = tokio::try_join!(store.list(&outcomes), store.get(&rollout))?;
    let outcomes: BTreeMap<ReleaseNumber, OutcomeResult> = outcomes
        .entries
        .into_iter()
        .map(|(_, outcome)| (outcome.value.version, outcome.value.result))
        .collect();
    let active = record.value.active;
    let releases = [
        Some(active),
        rollback_target(active, &outcomes),
        rollout.map(|rollout| rollout.value.release),
    ];
    for version in releases.into_iter().flatten() {
        let Some(release) = store.get(&keys::release(app, version)).await? else {
            continue;
        };
        let Some(build) = release.value.build else {
            continue;
        };
        let build = store.get(&keys::build(app, build)).await?;
        images.extend(build.map(|build| build.value.image));
    }
    Ok(images)
}
