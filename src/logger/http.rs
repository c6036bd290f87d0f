//! The side on which logs are read: HTTP.
//!
//! ```text
//! GET    /logs/<app>?lines=N&follow=1&ps=web.1&since=<ms>   204 when there is none
//! POST   /logs/<app>?id=<uuid>&time=<ms>&about=web.1        adds the body's lines as the platform's
//! DELETE /logs/<app>                                        forgets them
//! GET    /drain                                             what became of the copies to the drain
//! GET    /healthz
//! ```
//!
//! With `of=<uuid>&created=<ms>` the caller says which app it means: lines of an earlier one of that
//! name are forgotten, and a later one's are not shown.
//!
//! Lines are text for people; with `format=records` they are records as they are stored
//! ([`super::record`]), for controllers that put several loggers' together. Then an empty line
//! between two records is a sign of life, and `@at <log> <file> <offset>` says where a reader that
//! is cut off may go on by `from=`; the first one ends the past.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query as Params, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use serde::Deserialize;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use super::{
    app_log::{AppLogError, Event},
    drain::Drain,
    lines::blocking,
    owner::Owner,
    query::{MAX_LINES, Query},
    reader::{Place, Reader},
    record::{Parsed, Record, parse},
    render::Renderer,
    shelf::{Book, Pulse, Shelf, now_ms},
};
use crate::{model::AppName, sidecar::wire::Source, telemetry};

/// Lines when nobody says how many.
const DEFAULT_LINES: usize = 100;
/// Most bytes of an event.
const MAX_EVENT: usize = 8 * 1024;
/// Between two signs of life on a quiet stream of records.
pub const PING: Duration = Duration::from_secs(3);

#[derive(Clone)]
struct Web {
    shelf: Arc<Shelf>,
    drain: Arc<Drain>,
    stop: CancellationToken,
}

/// The routes.
pub fn routes(shelf: Arc<Shelf>, drain: Arc<Drain>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/logs/{app}", get(read).post(write).delete(forget))
        .route(
            "/drain",
            get(async |State(web): State<Web>| axum::Json(web.drain.report())),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(MAX_EVENT))
        .with_state(Web { shelf, drain, stop })
}

/// What went wrong, as an answer.
enum Refusal {
    NoApp,
    Bad(String),
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
            Self::Bad(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
            Self::Files(error) => {
                let error = telemetry::chain(&error);
                error!(error, "log request failed");
                (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
            }
        }
    }
}

fn app_name(text: &str) -> Result<AppName, Refusal> {
    text.parse().map_err(|_| Refusal::NoApp)
}

/// Which app a caller means.
#[derive(Debug, Deserialize)]
struct Whose {
    of: Option<Uuid>,
    created: Option<u64>,
}

impl Whose {
    fn owner(&self) -> Option<Owner> {
        Some(Owner {
            uuid: self.of?,
            created_ms: self.created?,
        })
    }
}

/// What a reader asks for. `lines` is taken as it comes: a value that makes no sense is as good as
/// none (as in v1).
#[derive(Debug, Deserialize)]
struct ReadQuery {
    lines: Option<String>,
    follow: Option<String>,
    ps: Option<String>,
    since: Option<u64>,
    format: Option<String>,
    from: Option<String>,
}

impl ReadQuery {
    fn parse(&self) -> Result<Query, Refusal> {
        let of = self.ps.as_deref().map(str::parse).transpose();
        let lines = self.lines.as_deref().and_then(|lines| lines.parse().ok());
        Ok(Query {
            lines: lines.unwrap_or(DEFAULT_LINES).min(MAX_LINES),
            follow: self
                .follow
                .as_deref()
                .is_some_and(|f| f != "0" && f != "false"),
            of: of.map_err(|error: super::query::InvalidQuery| Refusal::Bad(error.to_string()))?,
            since_ms: self.since,
        })
    }

    fn from(&self) -> Result<Option<(Uuid, Place)>, Refusal> {
        let Some(text) = &self.from else {
            return Ok(None);
        };
        let parse = || {
            let mut parts = text.split(':');
            let (id, file, offset) = (parts.next()?, parts.next()?, parts.next()?);
            let place = Place {
                file: file.parse().ok()?,
                offset: offset.parse().ok()?,
            };
            parts.next().is_none().then_some(())?;
            Some((id.parse().ok()?, place))
        };
        let place = parse().ok_or_else(|| {
            Refusal::Bad(format!(
                "from={text:?} is not of the form <log>:<file>:<offset>"
            ))
        })?;
        Ok(Some(place))
    }
}

async fn read(
    State(web): State<Web>,
    Path(app): Path<String>,
    Params(params): Params<ReadQuery>,
    Params(whose): Params<Whose>,
) -> Result<Response, Refusal> {
    let app = app_name(&app)?;
    let (query, from) = (params.parse()?, params.from()?);
    let follow = query.follow;
    let records = params.format.as_deref() == Some("records");
    let (shelf, name) = (Arc::clone(&web.shelf), app.clone());
    let found = blocking(move || {
        // A follower may come before the first line.
        let book = if follow {
            Some(shelf.book(&name)?)
        } else {
            shelf.existing(&name)?
        };
        let Some(book) = book else { return Ok(None) };
        if let Some(owner) = whose.owner()
            && !shelf.claim(&book, owner)?
        {
            return Ok(None);
        }
        let mut pulse = book.pulse();
        pulse.mark_unchanged();
        let opened = book.read(query, from)?;
        // A controller wants to know where it may go on, even in an empty log.
        Ok((opened.any || follow || records).then_some((book, opened, pulse)))
    })
    .await?;
    let Some((book, opened, pulse)) = found else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let kind = if records {
        "application/x-deis-log"
    } else {
        "text/plain; charset=utf-8"
    };
    let form = if records {
        Form::Records {
            id: opened.id,
            said: None,
        }
    } else {
        Form::Text(Renderer::new(&app, opened.skip))
    };
    let flow = Flow {
        book,
        reader: opened.reader,
        form,
        follow: follow.then_some(pulse),
        stop: web.stop,
    };
    let body = Body::from_stream(stream::unfold(Some(flow), |flow| async {
        let (piece, flow) = flow?.next().await?;
        Some((Ok::<_, Infallible>(piece), flow))
    }));
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// How an answer is written.
enum Form {
    Text(Renderer),
    Records {
        id: Uuid,
        /// The place that was told last.
        said: Option<Place>,
    },
}

/// An answer on its way.
struct Flow {
    book: Arc<Book>,
    reader: Reader,
    form: Form,
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
            let (book, mut reader) = (Arc::clone(&self.book), self.reader);
            let read = blocking(move || Ok((book.next(&mut reader)?, reader))).await;
            let piece = match read {
                Ok((piece, reader)) => {
                    self.reader = reader;
                    piece
                }
                Err(error) => {
                    let text = format!("the log ends here: {}\n", telemetry::chain(&error));
                    return Some((text.into(), None));
                }
            };
            let is_end = piece.is_none() && self.follow.is_none();
            let text = self
                .form
                .write(&piece.unwrap_or_default(), &self.reader, is_end);
            if !text.is_empty() {
                return Some((text.into(), (!is_end).then_some(self)));
            }
            let pulse = self.follow.as_mut()?;
            let waited = tokio::select! {
                () = self.stop.cancelled() => return None,
                waited = timeout(PING, pulse.changed()) => waited,
            };
            match (waited, &self.form) {
                (Err(_), Form::Records { .. }) => return Some(("\n".into(), Some(self))),
                (Err(_), Form::Text(_)) => {}
                (Ok(changed), _) => changed.ok()?,
            }
            if Some(pulse.borrow().deletions) != deletions {
                return None;
            }
        }
    }
}

impl Form {
    /// Writes records in this form.
    fn write(&mut self, piece: &[u8], reader: &Reader, is_end: bool) -> Vec<u8> {
        match self {
            Self::Text(renderer) => {
                let (mut text, mut at) = (String::new(), 0);
                while let Parsed::Record(record, taken) = parse(&piece[at..]) {
                    if let Record::Data(data) = record {
                        renderer.add(&data, &mut text);
                    }
                    at += taken;
                }
                if is_end {
                    renderer.finish(&mut text);
                }
                text.into_bytes()
            }
            Self::Records { id, said } => {
                let mut bytes = piece.to_vec();
                let place = reader.next_place();
                if reader.is_past_read() && *said != Some(place) {
                    let Place { file, offset } = place;
                    bytes.extend_from_slice(format!("@at {id} {file} {offset}\n").as_bytes());
                    *said = Some(place);
                }
                bytes
            }
        }
    }
}

/// Who speaks, when, and about what.
#[derive(Debug, Deserialize)]
struct WriteQuery {
    id: Option<Uuid>,
    time: Option<u64>,
    about: Option<String>,
}

async fn write(
    State(web): State<Web>,
    Path(app): Path<String>,
    Params(params): Params<WriteQuery>,
    Params(whose): Params<Whose>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let app = app_name(&app)?;
    let about = match &params.about {
        Some(about) => about
            .parse()
            .map_err(|_| Refusal::Bad(format!("about={about:?} is no process")))?,
        None => Source::controller(),
    };
    let mut text = body.to_vec();
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let event = Event {
        id: params.id.unwrap_or_else(Uuid::new_v4),
        time_ms: params.time.unwrap_or_else(now_ms),
        about,
        text,
    };
    blocking(move || {
        let book = web.shelf.book(&app)?;
        if let Some(owner) = whose.owner()
            && !web.shelf.claim(&book, owner)?
        {
            // Its app is no more.
            return Ok(());
        }
        web.shelf.event(&book, &event)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn forget(
    State(web): State<Web>,
    Path(app): Path<String>,
    Params(whose): Params<Whose>,
) -> Result<StatusCode, Refusal> {
    let app = app_name(&app)?;
    blocking(move || match web.shelf.existing(&app)? {
        Some(book) => web.shelf.delete(&book, whose.owner()),
        None => Ok(()),
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
