//! `apps/<app>/maintenance/` and `apps/<app>/rollout/`: what visitors see meanwhile, and how new releases
//! are watched.

use axum::{
    Json,
    extract::{Path, State},
};

use crate::{
    api::{valid, wire},
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, By, Caller},
    },
    ops,
};

type Ctl = State<controller::State>;

pub(super) async fn maintenance(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
) -> Result<Json<wire::Maintenance>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let route = ops::maintenance::get(&ctl.store, &name).await?;
    Ok(Json(route.into()))
}

pub(super) async fn set_maintenance(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Json<wire::Maintenance>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let (on, page) = valid::maintenance(&fields)?;
    let route = ops::maintenance::set(&ctl.store, &name, by, on, page).await?;
    let word = if on { "on" } else { "off" };
    ctl.tell(
        &name,
        &format!("{} switched maintenance {word}", user.username),
    );
    Ok(Json(route.into()))
}

pub(super) async fn policy(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
) -> Result<Json<wire::Policy>, ApiError> {
    let (_, app) = ctl.app(&user, &app, Wish::Use).await?;
    Ok(Json(wire::Policy::of(&app)))
}

pub(super) async fn set_policy(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Json<wire::Policy>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let change = valid::policy(&fields)?;
    let app = ops::policy::set(&ctl.store, &name, by, change).await?;
    let word = if change.is_some() { "set" } else { "removed" };
    ctl.tell(
        &name,
        &format!("{} {word} the rollout policy", user.username),
    );
    Ok(Json(wire::Policy::of(&app)))
}
