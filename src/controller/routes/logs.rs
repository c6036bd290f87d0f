//! `apps/<app>/logs`: what the loggers have kept of the app, and what comes.
//!
//! `log_lines` is v1's, and as lenient as it was. `follow`, `ps` and `since` are ours: a value that
//! makes no sense is refused. A stream that is followed ends when the app is gone or whoever asked
//! may not read it any more; an empty line in it is a sign of life.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Instant, timeout},
};
use tracing::warn;

use crate::{
    controller::{
        self, Shared,
        access::Wish,
        error::ApiError,
        extract::{Caller, NOT_PROVIDED},
        gate,
    },
    logger::{
        client::Whose,
        query::{self, MAX_LINES},
        view::{self, Piece, View},
    },
    model::{AppName, Scope},
    telemetry::chain,
};

type Ctl = State<controller::State>;

/// Lines unless the request says otherwise.
const LINES: usize = 1000;
/// Between two signs of life on a quiet stream.
const PING: Duration = Duration::from_secs(15);
/// Between two looks at whether the caller may still read.
const RIGHT: Duration = Duration::from_secs(5);
/// How long a store that can't say so is borne with.
const UNSURE: Duration = Duration::from_secs(60);

/// What a request's query asks for. Of a name that stands there twice the last value counts, and
/// unknown names are ignored, as in v1.
fn parse(pairs: &[(String, String)], now: Timestamp) -> Result<query::Query, ApiError> {
    let value = |name: &str| {
        let found = pairs.iter().rfind(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let refuse = |name: &str, why: String| ApiError::detail(format!("{name}: {why}"));
    let follow = match value("follow") {
        None | Some("0" | "false") => false,
        Some("" | "1" | "true") => true,
        Some(other) => return Err(refuse("follow", format!("{other:?} is neither 0 nor 1"))),
    };
    let of = value("ps").map(str::parse).transpose();
    let of = of.map_err(|e: query::InvalidQuery| refuse("ps", e.to_string()))?;
    let since_ms = value("since").map(|text| query::since(text, now));
    let since_ms = since_ms.transpose();
    let since_ms = since_ms.map_err(|e| refuse("since", e.to_string()))?;
    // All since then, unless somebody wants fewer.
    let usual = if since_ms.is_some() { MAX_LINES } else { LINES };
    let asked = value("log_lines").and_then(|text| text.parse().ok());
    // A follower may want no past at all.
    let least = usize::from(!follow);
    Ok(query::Query {
        lines: asked.unwrap_or(usual).clamp(least, MAX_LINES),
        follow,
        of,
        since_ms,
    })
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    headers: HeaderMap,
    Path(app): Path<String>,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (name, record) = ctl.app(&user, &app, Wish::Use).await?;
    let whose = Whose::of(&name, &record);
    // A query that can't be read at all is as good as none.
    let pairs = pairs.map(|Query(pairs)| pairs).unwrap_or_default();
    let query = parse(&pairs, Timestamp::now())?;
    let place = if query.follow {
        let place = ctl.followers.clone().try_acquire_owned();
        Some(place.map_err(|_| {
            ApiError::Unavailable("Too many logs are being followed; try again later.".to_owned())
        })?)
    } else {
        None
    };
    let follows = query.follow;
    let view = match view::open(&ctl.store, whose.clone(), query).await {
        Ok(Some(view)) => view,
        Ok(None) => return Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => {
            let error = chain(&error);
            warn!(app, error, "log not read");
            let why = format!("Error accessing logs for {app}: {error}");
            return Err(ApiError::Broken(why));
        }
    };
    let flow = Flow {
        view,
        guard: follows.then(|| Guard {
            ctl,
            headers,
            whose,
            checked: Instant::now(),
            next: Instant::now() + RIGHT,
            _place: place,
        }),
    };
    let body = Body::from_stream(stream::unfold(flow, |mut flow| async {
        let piece = flow.next().await?;
        Some((Ok::<_, Infallible>(piece), flow))
    }));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

impl Shared {
    /// Whose log it is, when whoever asked may read it still.
    async fn readable(
        self: &controller::State,
        headers: &HeaderMap,
        app: &AppName,
    ) -> Result<Whose, ApiError> {
        let identity = gate::admit(self, headers, Scope::Read, Some(app)).await?;
        let identity = identity.ok_or(ApiError::Unauthorized(NOT_PROVIDED.to_owned()))?;
        let (name, app) = self.app(&identity.user, app.as_str(), Wish::Use).await?;
        Ok(Whose::of(&name, &app))
    }
}

/// An answer on its way.
struct Flow {
    view: View,
    guard: Option<Guard>,
}

/// What ends a stream that is followed.
struct Guard {
    ctl: controller::State,
    headers: HeaderMap,
    whose: Whose,
    /// When the right to read was last known, and when to look again.
    checked: Instant,
    next: Instant,
    _place: Option<OwnedSemaphorePermit>,
}

impl Flow {
    async fn next(&mut self) -> Option<String> {
        let Some(guard) = &mut self.guard else {
            return match self.view.next().await? {
                Piece::Text(text) => Some(text),
                Piece::Ended => None,
            };
        };
        let quiet = Instant::now() + PING;
        let closing = guard.ctl.closing.clone();
        loop {
            if Instant::now() >= guard.next && !guard.may_go_on().await {
                return None;
            }
            let until = quiet.min(guard.next);
            let next = time::timeout_at(until, self.view.next());
            let next = tokio::select! {
                () = closing.cancelled() => return None,
                next = next => next,
            };
            match next {
                Ok(Some(Piece::Text(text))) => return Some(text),
                Ok(Some(Piece::Ended)) => guard.next = Instant::now(),
                Ok(None) => return None,
                Err(_) if Instant::now() >= quiet => return Some("\n".to_owned()),
                Err(_) => {}
            }
        }
    }
}

impl Guard {
    /// Whether the app is there, and the caller may still read its log. A store that doesn't answer
    /// takes nobody's right away, for a while.
    async fn may_go_on(&mut self) -> bool {
        let look = self.ctl.readable(&self.headers, &self.whose.app);
        let right = timeout(RIGHT, look).await;
        let now = Instant::now();
        self.next = now + RIGHT;
        match right {
            Ok(Ok(whose)) => {
                self.checked = now;
                whose == self.whose
            }
            Ok(Err(ApiError::Store(_))) | Err(_) => now < self.checked + UNSURE,
            Ok(Err(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &str) -> Result<query::Query, String> {
        let uri: http::Uri = format!("/?{pairs}").parse().expect("uri");
        let Query(pairs) = Query::<Vec<_>>::try_from_uri(&uri).map_err(|e| e.to_string())?;
        let now = "2026-01-01T00:00:00Z".parse().expect("time");
        parse(&pairs, now).map_err(|e| e.to_string())
    }

    #[test]
    fn v1s_lines_are_lenient() {
        for (query, want) in [
            ("", 1000),
            ("log_lines=5", 5),
            ("log_lines=0", 1),
            ("log_lines=-1", 1000),
            ("log_lines=many", 1000),
            ("log_lines=", 1000),
            ("log_lines=99999999", MAX_LINES),
            ("log_lines=3&log_lines=4", 4),
            ("lines=3&log_lines=7&x=y", 7),
            ("log_lines=0&follow=1", 0),
            ("since=10m", MAX_LINES),
            ("since=10m&log_lines=9", 9),
        ] {
            assert_eq!(asked(query).map(|q| q.lines), Ok(want), "{query}");
        }
    }

    #[test]
    fn our_own_are_strict() {
        let minute_ago = 1_767_225_600_000 - 60_000;
        let query = asked("follow=true&ps=web.1&since=1m").expect("read");
        assert!(query.follow);
        assert_eq!(query.of, "web.1".parse().ok());
        assert_eq!(query.since_ms, Some(minute_ago));
        assert_eq!(asked("follow=0").map(|q| q.follow), Ok(false));
        for (query, word) in [
            ("follow=maybe", "follow"),
            ("ps=web.x", "ps"),
            ("ps=", "ps"),
            ("ps=web%0a1", "ps"),
            ("since=yesterday", "since"),
            ("since=", "since"),
            ("since=-1m", "since"),
        ] {
            let why = asked(query).expect_err(query);
            assert!(why.starts_with(&format!("{word}: ")), "{why}");
        }
    }
}
