//! `apps/<app>/releases/`

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};

use super::{created, with_release};
use crate::{
    api::{valid, wire},
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, By, Caller},
        page::Paging,
    },
    model::ReleaseNumber,
    ops,
    store::keys,
};

type Ctl = State<controller::State>;

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Release>>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let (releases, outcomes) = (keys::releases(&name), keys::outcomes(&name));
    let (releases, outcomes) =
        tokio::try_join!(ctl.store.list(&releases), ctl.store.list(&outcomes))?;
    let outcomes: BTreeMap<_, _> = outcomes
        .entries
        .into_iter()
        .map(|(_, outcome)| (outcome.value.version, outcome.value))
        .collect();
    let mut releases: Vec<_> = releases.entries.into_iter().map(|(_, r)| r.value).collect();
    releases.sort_by_key(|release| std::cmp::Reverse(release.version));
    let shapes = releases
        .iter()
        .map(|release| wire::Release::new(release, outcomes.get(&release.version)))
        .collect();
    Ok(Json(paging.cut(shapes)?))
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path((app, version)): Path<(String, String)>,
) -> Result<Json<wire::Release>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let number = version
        .strip_prefix('v')
        .and_then(|number| number.parse().ok());
    let version = ReleaseNumber(number.ok_or(ApiError::NotFound)?);
    let (release, outcome) = (keys::release(&name, version), keys::outcome(&name, version));
    let (release, outcome) = tokio::try_join!(ctl.store.get(&release), ctl.store.get(&outcome))?;
    let release = release.ok_or(ApiError::NotFound)?;
    let outcome = outcome.map(|outcome| outcome.value);
    Ok(Json(wire::Release::alone(&release.value, outcome.as_ref())))
}

pub(super) async fn rollback(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let to = valid::rollback(&fields)?;
    let change = ops::change::rollback(&ctl.store, &name, by, to).await?;
    ctl.tell_release(&name, &change);
    ctl.settle(&name, &change).await?;
    let reply = wire::RollbackReply {
        version: change.release.0,
    };
    Ok(with_release(created(reply), change.release))
}
