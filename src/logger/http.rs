//! The side on which logs are read: HTTP.
//!
//! ```text
//! GET    /logs/<app>?lines=N[&follow=1]   text, one line per line; 204 when there is none
//! POST   /logs/<app>                      adds the body's lines as the controller's words
//! DELETE /logs/<app>                      forgets them
//! GET    /healthz
//! ```

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    app_log::AppLogError,
    lines::blocking,
    reader::Reader,
    shelf::{Book, Pulse, Shelf},
};
use crate::{model::AppName, sidecar::wire::Source};

/// Lines when nobody says how many.
const DEFAULT_LINES: usize = 100;
/// Most lines of the past in one answer.
const MAX_LINES: usize = 100_000;
/// Most bytes of an event.
const MAX_EVENT: usize = 8 * 1024;

#[derive(Clone)]
struct Web {
    shelf: Arc<Shelf>,
    stop: CancellationToken,
}

/// The routes.
pub fn routes(shelf: Arc<Shelf>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/logs/{app}", get(read).post(write).delete(forget))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(MAX_EVENT))
        .with_state(Web { shelf, stop })
}

/// What went wrong, as an answer.
enum Refusal {
    NoApp,
    Files(AppLogError),
}

impl From<AppLogError> for Refusal {
    fn from(error: AppLogError) -> Self {
        Self::Files(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NoApp => (StatusCode::NOT_FOUND, "no such app\n").into_response(),
            Self::Files(error) => {
                let error = super::chain(&error);
                error!(error, "log request failed");
                (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
            }
        }
    }
}

fn app_name(text: &str) -> Result<AppName, Refusal> {
    text.parse().map_err(|_| Refusal::NoApp)
}

/// Numbers are taken as they come: a value that makes no sense is as good as none (as in v1).
#[derive(Debug, Deserialize)]
struct ReadQuery {
    lines: Option<String>,
    follow: Option<String>,
}

async fn read(
    State(web): State<Web>,
    Path(app): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Refusal> {
    let app = app_name(&app)?;
    let follow = query.follow.is_some_and(|f| f != "0" && f != "false");
    let lines = query
        .lines
        .and_then(|lines| lines.parse().ok())
        .unwrap_or(DEFAULT_LINES)
        .min(MAX_LINES);
    let shelf = Arc::clone(&web.shelf);
    let found = blocking(move || {
        // A follower may come before the first line.
        let book = if follow {
            Some(shelf.book(&app)?)
        } else {
            shelf.existing(&app)?
        };
        let Some(book) = book else { return Ok(None) };
        let mut pulse = book.pulse();
        pulse.mark_unchanged();
        let reader = match book.tail(lines)? {
            Some(reader) if lines > 0 => Some(reader),
            _ => follow.then(|| book.end()),
        };
        Ok(reader.map(|reader| (book, reader, pulse)))
    })
    .await?;
    let Some((book, reader, pulse)) = found else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let flow = Flow {
        book,
        reader,
        follow: follow.then_some(pulse),
        stop: web.stop,
    };
    let body = Body::from_stream(stream::unfold(Some(flow), |flow| async {
        let (piece, flow) = flow?.next().await?;
        Some((Ok::<_, Infallible>(piece), flow))
    }));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// An answer on its way.
struct Flow {
    book: Arc<Book>,
    reader: Reader,
    follow: Option<watch::Receiver<Pulse>>,
    stop: CancellationToken,
}

impl Flow {
    /// The next piece, and what goes on after it; none at the end.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        loop {
            let deletions = self
                .follow
                .as_mut()
                .map(|p| p.borrow_and_update().deletions);
            let (book, mut reader) = (Arc::clone(&self.book), self.reader.clone());
            let read = blocking(move || Ok((book.read(&mut reader)?, reader))).await;
            match read {
                Ok((piece, reader)) => {
                    self.reader = reader;
                    if let Some(text) = piece {
                        return Some((text.into(), Some(self)));
                    }
                }
                Err(error) => {
                    let text = format!("the log ends here: {}\n", super::chain(&error));
                    return Some((text.into(), None));
                }
            }
            let pulse = self.follow.as_mut()?;
            tokio::select! {
                () = self.stop.cancelled() => return None,
                changed = pulse.changed() => changed.ok()?,
            }
            if Some(pulse.borrow().deletions) != deletions {
                return None;
            }
        }
    }
}

async fn write(
    State(web): State<Web>,
    Path(app): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let app = app_name(&app)?;
    let mut text = body.to_vec();
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    blocking(move || {
        let book = web.shelf.book(&app)?;
        web.shelf.event(&book, Source::controller(), &text)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn forget(State(web): State<Web>, Path(app): Path<String>) -> Result<StatusCode, Refusal> {
    let app = app_name(&app)?;
    blocking(move || match web.shelf.existing(&app)? {
        Some(book) => web.shelf.delete(&book),
        None => Ok(()),
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
