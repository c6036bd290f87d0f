//! The routes of API v1, one file per kind of thing.

mod apps;
mod builds;
mod config;
mod containers;
mod domains;
mod keys;
mod logs;
mod perms;
mod releases;
mod run;
mod sessions;
mod users;

use std::sync::Arc;

use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{HeaderValue, Method, StatusCode};
use serde_json::json;
use tracing::{debug, info};

use super::{Shared, State, error::ApiError, extract::Caller};
use crate::{
    logger::client,
    model::{AppName, OutcomeResult, ReleaseNumber},
    ops::{self, change::Change},
};

/// All routes; a slash at their end has been removed before.
pub(super) fn router(state: State) -> Router {
    let app = "/v1/apps/{app}";
    let of = |rest: &str| format!("{app}/{rest}");
    Router::new()
        .route("/healthz", get(async || "OK"))
        .route("/v1", get(root))
        .route("/v1/auth/register", post(sessions::register))
        .route("/v1/auth/login", post(sessions::login))
        .route("/v1/auth/cancel", delete(sessions::cancel))
        .route("/v1/auth/passwd", post(sessions::passwd))
        .route("/v1/auth/tokens", post(sessions::tokens))
        .route("/v1/apps", get(apps::list).post(apps::create))
        .route(
            app,
            get(apps::get).post(apps::transfer).delete(apps::destroy),
        )
        .route(&of("config"), get(config::get).post(config::set))
        .route(&of("builds"), get(builds::list).post(builds::create))
        .route(&of("builds/{uuid}"), get(builds::get))
        .route(&of("releases"), get(releases::list))
        .route(&of("releases/rollback"), post(releases::rollback))
        .route(&of("releases/{version}"), get(releases::get))
        .route(&of("containers"), get(containers::list))
        .route(&of("containers/restart"), post(containers::restart))
        .route(&of("containers/{kind}"), get(containers::list_type))
        .route(
            &of("containers/{kind}/restart"),
            post(containers::restart_type),
        )
        .route(&of("containers/{kind}/{number}"), get(containers::get))
        .route(
            &of("containers/{kind}/{number}/restart"),
            post(containers::restart_one),
        )
        .route(&of("scale"), post(containers::scale))
        .route(&of("logs"), get(logs::get))
        .route(&of("run"), post(run::run).get(run::attach))
        .route(&of("domains"), get(domains::list).post(domains::add))
        .route(&of("domains/{domain}"), delete(domains::remove))
        .route(&of("perms"), get(perms::list).post(perms::grant))
        .route(&of("perms/{user}"), delete(perms::revoke))
        .route("/v1/keys", get(keys::list).post(keys::add))
        .route("/v1/keys/{id}", get(keys::get).delete(keys::remove))
        .route("/v1/users", get(users::list))
        .route(
            "/v1/admin/perms",
            get(users::administrators).post(users::promote),
        )
        .route("/v1/admin/perms/{user}", delete(users::demote))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async |method: Method| ApiError::Method(method.to_string()))
        .with_state(state)
}

/// `GET /v1/`: 401 tells clients that this is a controller.
async fn root(_: Caller) -> Json<serde_json::Value> {
    Json(json!({}))
}

/// A shape with 201.
fn created<T: serde::Serialize>(shape: T) -> Response {
    (StatusCode::CREATED, Json(shape)).into_response()
}

/// Adds which release a request made.
fn with_release(mut response: Response, release: ReleaseNumber) -> Response {
    for name in ["deis-release", "x-deis-release"] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from(release.0));
    }
    response
}

impl Shared {
    /// Writes into an app's log what somebody did, as v1's controller did. Best effort: nobody waits
    /// for a logger.
    fn tell(self: &Arc<Self>, app: &AppName, what: String) {
        let (shared, app) = (self.clone(), app.clone());
        self.tasks.spawn(async move {
            if let Err(error) = client::event(&shared.store, &app, &what).await {
                debug!(%app, %error, "event not logged");
            }
        });
    }

    /// Waits until a change has come about.
    async fn settle(&self, app: &AppName, change: &Change) -> Result<(), ApiError> {
        let Some(rollout) = change.rollout else {
            return Ok(());
        };
        let mut say =
            |waiting: &str| info!(%app, release = %change.release, waiting, "rollout waits");
        let ended =
            ops::follow::wait(&self.store, app, rollout, ops::follow::LIMIT, &mut say).await?;
        if ended.result == OutcomeResult::Succeeded {
            return Ok(());
        }
        let mut why = ended
            .reason
            .unwrap_or_else(|| "the change was given up".to_owned());
        for line in &ended.log {
            why.push('\n');
            why.push_str(line);
        }
        Err(ApiError::Unavailable(why))
    }
}
