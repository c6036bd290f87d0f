//! `apps/<app>/logs`: what a logger has kept of the app.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use tracing::warn;

use crate::{
    controller::{self, access::Wish, error::ApiError, extract::Caller},
    store::keys,
};

type Ctl = State<controller::State>;

/// Where loggers answer.
const PORT: u16 = 8088;

/// Lines unless the request says otherwise, and the most.
const LINES: (u32, u32) = (1000, 100_000);

/// How long a logger may take to begin its answer.
const LIMIT: Duration = Duration::from_secs(10);

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
    let prefix = keys::parts("logs");
    let loggers = ctl.store.list(&prefix).await?;
    let mut last = "no logger is up".to_owned();
    for (key, _) in &loggers.entries {
        let Some(host) = keys::last_part(key, prefix.as_str()) else {
            continue;
        };
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let url = format!("http://{host}:{PORT}/logs/{name}?lines={lines}");
        let answer = tokio::time::timeout(LIMIT, ctl.http.get(&url).send()).await;
        match answer {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => {
                let kind = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
                return Ok(([kind], Body::from_stream(answer.bytes_stream())).into_response());
            }
            // It has nothing yet.
            Ok(Ok(answer)) if matches!(answer.status().as_u16(), 204 | 404) => {
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            Ok(Ok(answer)) => last = format!("{host} answers {}", answer.status()),
            Ok(Err(error)) => last = format!("{host} can't be reached: {error}"),
            Err(_) => last = format!("{host} gives no answer within {} s", LIMIT.as_secs()),
        }
        warn!(logger = %host, why = %last, "logger skipped");
    }
    Err(ApiError::Unavailable(format!(
        "Error accessing logs for {name}: {last}"
    )))
}
