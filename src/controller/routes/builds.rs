//! `apps/<app>/builds/`

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use uuid::Uuid;

use super::{Shared, created, with_release};
use crate::{
    api::{
        valid::{self, BuildRequest},
        wire,
    },
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, Caller},
        page::Paging,
    },
    model::{App, AppName, Build, ReleaseNumber, User},
    ops::change,
    store::keys,
};

type Ctl = State<controller::State>;

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Build>>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let listing = ctl.store.list(&keys::builds(&name)).await?;
    let mut builds: Vec<_> = listing
        .entries
        .into_iter()
        .map(|(_, build)| build.value)
        .collect();
    builds.sort_by_key(|build| std::cmp::Reverse(build.created));
    Ok(Json(
        paging.cut(builds.iter().map(wire::Build::from).collect())?,
    ))
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path((app, id)): Path<(String, String)>,
) -> Result<Json<wire::Build>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let id: Uuid = id.parse().map_err(|_| ApiError::NotFound)?;
    let build = ctl.store.get(&keys::build(&name, id)).await?;
    let build = build.ok_or(ApiError::NotFound)?;
    Ok(Json(wire::Build::from(&build.value)))
}

/// Deploys an image by its name. Answers when it is deployed.
pub(super) async fn create(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    let request = valid::build(&fields)?;
    let (release, build) = ctl.launch(&name, &app, &user, &request).await?;
    Ok(with_release(created(wire::Build::from(&build)), release))
}

impl Shared {
    /// Deploys an image and waits until it runs; tells the release and its build.
    pub(super) async fn launch(
        self: &Arc<Self>,
        name: &AppName,
        app: &App,
        user: &User,
        request: &BuildRequest,
    ) -> Result<(ReleaseNumber, Build), ApiError> {
        let change = self.deploy_image(name, app, user, request).await?;
        self.tell_release(name, &change);
        self.settle(name, &change).await?;
        let found = change::contents(&self.store, name, change.release).await?;
        let build = found.and_then(|(_, _, build)| build);
        Ok((change.release, build.ok_or(ApiError::NotFound)?))
    }
}
