//! The routes of API v1, one file per kind of thing; `table` lists them.

mod apps;
mod audit;
mod builds;
mod certs;
mod config;
mod containers;
mod domains;
mod fleet;
mod hooks;
mod keys;
mod logs;
mod perms;
mod releases;
mod run;
mod sessions;
mod switch;
mod table;
mod tokens;
mod users;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use tracing::info;

pub(super) use self::table::router;
#[cfg(test)]
pub(super) use self::table::table;
use super::{Shared, error::ApiError, extract::Caller};
use crate::{
    api,
    model::{AppName, OutcomeResult, ReleaseNumber},
    ops::{self, change::Change},
};

/// `GET /healthz`
async fn health() -> &'static str {
    "OK"
}

/// `GET /v1/openapi.json`
async fn openapi() -> Json<Value> {
    Json(document())
}

/// The API as a document.
pub(super) fn document() -> Value {
    let table = table::table();
    api::openapi::document(table.iter().map(|row| &row.operation))
}

/// `GET /v1/`: 401 tells clients that this is a controller.
async fn root(_: Caller) -> Json<Value> {
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
    /// Writes into an app's log what somebody did, as v1's controller did. Nobody waits for a logger.
    fn tell(&self, app: &AppName, what: &str) {
        self.teller.say(app, what);
    }

    /// The same of a release: its summary says who made it, and what it is.
    fn tell_release(&self, app: &AppName, change: &Change) {
        self.teller.say_release(app, change.release);
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
        let reason = ended
            .reason
            .unwrap_or_else(|| "the change was given up".to_owned());
        let mut why = match ended.result {
            // v1's words, which scripts know; it never said why.
            OutcomeResult::Failed => {
                format!("aborting, failed to create some containers: {reason}")
            }
            _ => reason,
        };
        for line in &ended.log {
            why.push('\n');
            why.push_str(line);
        }
        Err(ApiError::Failed(why))
    }
}
