//! `apps/<app>/perms/`: who may use an app besides its owner.

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;

use crate::{
    api::{valid, wire},
    controller::{
        self,
        access::{Wish, allowed},
        auth,
        error::ApiError,
        extract::{Body, By, Caller},
    },
    model::{Action, Username},
    ops,
    store::Txn,
};

type Ctl = State<controller::State>;

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
) -> Result<Json<wire::Perms>, ApiError> {
    let (_, app) = ctl.app(&user, &app, Wish::Use).await?;
    let users = app.collaborators.iter().map(ToString::to_string).collect();
    Ok(Json(wire::Perms { users }))
}

pub(super) async fn grant(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Own).await?;
    let other = valid::user(&fields)?;
    auth::user(&ctl.store, &other)
        .await?
        .ok_or(ApiError::NotFound)?;
    let note = by.note(Action::PermsGrant, other.as_str());
    ops::app::update_with(&ctl.store, &name, |app| {
        let new = app.owner != other && app.collaborators.insert(other.clone());
        Ok(if new {
            note.clone().of_app(&name)
        } else {
            Txn::new()
        })
    })
    .await?;
    Ok(StatusCode::CREATED)
}

/// Owners take it back; whoever has it may give it back.
pub(super) async fn revoke(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path((app, other)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    let other: Username = other.parse().map_err(|_| ApiError::NotFound)?;
    if other != user.username && !allowed(&user, &app, Wish::Own) {
        return Err(ApiError::Forbidden);
    }
    if !app.collaborators.contains(&other) {
        return Err(ApiError::Forbidden);
    }
    let note = by.note(Action::PermsRevoke, other.as_str());
    ops::app::update_with(&ctl.store, &name, |app| {
        app.collaborators.remove(&other);
        Ok(note.clone().of_app(&name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
