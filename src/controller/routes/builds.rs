//! `apps/<app>/builds/`

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use uuid::Uuid;

use crate::{
    api::{valid::Refusal, wire},
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, Caller},
        page::Paging,
    },
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

/// An image by its name would have to be fetched from a registry outside of the platform.
pub(super) async fn create(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    if !fields
        .get("image")
        .is_some_and(serde_json::Value::is_string)
    {
        return Err(Refusal::field("image", "This field is required.").into());
    }
    Err(ApiError::NotImplemented(format!(
        "This platform can't deploy images by name yet. Push {name} with git instead: \
         an app with a Dockerfile is built as an image."
    )))
}
