//! `apps/<app>/logs`: what a logger has kept of the app.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use tracing::warn;

use crate::{
    controller::{self, access::Wish, error::ApiError, extract::Caller},
    logger::client,
};

type Ctl = State<controller::State>;

/// Lines unless the request says otherwise, and the most.
const LINES: (usize, usize) = (1000, 100_000);

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    uri: http::Uri,
) -> Result<Response, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let lines = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("log_lines="))
        .and_then(|text| text.parse().ok())
        .unwrap_or(LINES.0)
        .clamp(1, LINES.1);
    match client::tail(&ctl.store, &name, lines).await {
        Ok(Some(text)) => Ok(text.into_response()),
        Ok(None) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => {
            warn!(app = %name, %error, "log not read");
            let why = format!("Error accessing logs for {name}: {error}");
            Err(ApiError::Failed(why))
        }
    }
}
