//! `apps/<app>/audit/` and `audit/`: who changed what.

use axum::{
    Json,
    extract::{Path, State},
};

use crate::{
    api::wire,
    controller::{
        self,
        access::{self, Wish},
        error::ApiError,
        extract::Caller,
        page::Paging,
    },
    ops::audit,
};

type Ctl = State<controller::State>;

pub(super) async fn of_app(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Audit>>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let entries = audit::of_app(&ctl.store, &name).await?;
    Ok(Json(
        paging.cut(entries.iter().map(wire::Audit::from).collect())?,
    ))
}

pub(super) async fn of_platform(
    State(ctl): Ctl,
    Caller(user): Caller,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Audit>>, ApiError> {
    access::administrator(&user)?;
    let entries = audit::of_platform(&ctl.store).await?;
    Ok(Json(
        paging.cut(entries.iter().map(wire::Audit::from).collect())?,
    ))
}
