//! The HTTP server: sockets, limits, and what every response has in common.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header,
};
use hyper::{body::Incoming, ext::ReasonPhrase, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{io::AsyncWriteExt as _, sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    SHUTDOWN_LIMIT, State,
    attempts::Peer,
    body,
    error::{ApiError, REQUEST_ID},
    metrics::Route,
    routes,
};
use crate::{
    api::{API_VERSION, MAJOR_VERSION, PLATFORM_VERSION, reason},
    link::LinkListener,
};

/// Connections that are served at once; further ones wait in the socket's queue.
const MAX_CONNECTIONS: usize = 1024;

/// How long a client may take to send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Names of headers that are not spelt like all others (`Content-Type`), as v1 spelt them.
const SPELT: [&str; 5] = [
    "DEIS_API_VERSION",
    "X_DEIS_API_VERSION",
    "DEIS_PLATFORM_VERSION",
    "X_DEIS_PLATFORM_VERSION",
    "WWW-Authenticate",
];

/// What tells hyper how to spell header names: it can learn that only from a request which has them,
/// so it gets one to read.
async fn spelling() -> Extensions {
    let names: String = SPELT.iter().map(|name| format!("{name}: -\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nConnection: close\r\n{names}\r\n");
    let (mut client, server) = tokio::io::duplex(4096);
    let learnt = Mutex::new(Extensions::new());
    let service = service_fn(|request: Request<Incoming>| {
        *learnt.lock().unwrap_or_else(PoisonError::into_inner) = request.extensions().clone();
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let served = http1::Builder::new()
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(server), service);
    let (sent, served) = tokio::join!(client.write_all(request.as_bytes()), served);
    if sent.is_err() || served.is_err() {
        warn!("header names are not spelt as in v1");
    }
    learnt.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until `stop`; then begun requests are finished, within a limit.
pub(super) async fn serve(mut listener: LinkListener, ctl: State, stop: CancellationToken) {
    let router = routes::router(ctl.clone());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let spelling = spelling().await;
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (socket, peer, place) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            (accepted, place) = accepted => match accepted {
                Ok((socket, peer)) => (socket, peer, place),
                Err(error) => {
                    warn!(%error, "connection not accepted");
                    // Out of file descriptors: one that is freed is worth the wait.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (ctl, router, spelling) = (ctl.clone(), router.clone(), spelling.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (ctl, router, spelling) = (ctl.clone(), router.clone(), spelling.clone());
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer.ip()));
            async move {
                let mut response = respond(&ctl, router, request).await;
                response.extensions_mut().extend(spelling);
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .title_case_headers(true);
        let connection = builder
            .serve_connection_with_upgrades(TokioIo::new(socket), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection broke off");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_LIMIT, graceful.shutdown())
        .await
        .is_err()
    {
        warn!("requests were still in progress at the shutdown");
    }
}

/// Answers one request.
async fn respond(ctl: &State, router: Router, mut request: Request<Body>) -> Response<Body> {
    let id = id_of(request.headers());
    let start = Instant::now();
    let method = request.method().clone();
    trim_slash(request.uri_mut());
    let path = request.uri().path().to_owned();
    let answer = async {
        if let Err(error) = same_version(&request) {
            return error.into_response();
        }
        if !is_text(&path) {
            return ApiError::NotFound.into_response();
        }
        if method == Method::OPTIONS {
            return StatusCode::OK.into_response();
        }
        let request = match body::check(request).await {
            Ok(request) => request,
            Err(error) => return error.into_response(),
        };
        match router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    };
    let mut response = REQUEST_ID.scope(id.clone(), answer).await;
    decorate(&mut response, &id);
    let route = response.extensions().get::<Route>().copied();
    ctl.metrics
        .answered(&method, route, response.status(), start.elapsed());
    let status = response.status().as_u16();
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    // The query may hold what is nobody's business; the path never does.
    if path == "/healthz" {
        debug!(request.id = %id, %method, %path, status, ms, "request");
    } else {
        info!(request.id = %id, %method, %path, status, ms, "request");
    }
    response
}

/// The id that a router or a client has given the request, so that one id is in everybody's log; else
/// a new one. It names the request to people and proves nothing.
fn id_of(headers: &HeaderMap) -> String {
    let harmless = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    match given.filter(harmless) {
        Some(id) => id.to_owned(),
        None => Uuid::new_v4().simple().to_string(),
    }
}

/// Removes the slash at the end of a path: it is optional everywhere.
fn trim_slash(uri: &mut Uri) {
    let Some((path, rest)) = uri
        .path_and_query()
        .map(|whole| (whole.path(), whole.query()))
    else {
        return;
    };
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() {
        return;
    }
    let text = match rest {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    if let Ok(shorter) = text.parse() {
        parts.path_and_query = Some(shorter);
        if let Ok(whole) = Uri::from_parts(parts) {
            *uri = whole;
        }
    }
}

/// Whether a path is text once it is decoded: what isn't names nothing.
fn is_text(path: &str) -> bool {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part
            .get(..2)
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        if let Some(byte) = digits {
            bytes.push(byte);
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        } else {
            bytes.push(b'%');
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// A client that says which major version it speaks must speak ours.
fn same_version(request: &Request<Body>) -> Result<(), ApiError> {
    let headers = request.headers();
    let said = headers
        .get("deis-version")
        .or_else(|| headers.get("deis_version"));
    match said.map(|value| value.to_str().unwrap_or_default()) {
        Some(version) if version.split('.').next() != Some(MAJOR_VERSION) => {
            Err(ApiError::Version(version.chars().take(40).collect()))
        }
        _ => Ok(()),
    }
}

const VERSIONS: [(&str, &str); 4] = [
    ("deis_api_version", API_VERSION),
    ("x_deis_api_version", API_VERSION),
    ("deis_platform_version", PLATFORM_VERSION),
    ("x_deis_platform_version", PLATFORM_VERSION),
];

/// Headers that browsers want before they let a page of another origin call the API. Its token is in
/// a header that no browser adds by itself, so `*` gives nobody what he hasn't.
const CORS: [(&str, &str); 4] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, DELETE, OPTIONS"),
    (
        "access-control-allow-headers",
        "content-type, accept, authorization, host, deis-version",
    ),
    (
        "access-control-expose-headers",
        "DEIS_API_VERSION, DEIS_PLATFORM_VERSION, Deis-Release",
    ),
];

/// What every response has: versions, its id, v1's reason phrase.
fn decorate(response: &mut Response<Body>, id: &str) {
    let headers = response.headers_mut();
    for (name, value) in VERSIONS.into_iter().chain(CORS) {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", value);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(phrase) = ReasonPhrase::try_from(reason(response.status()).into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_a_harmless_id() {
        let id = |text: &str| {
            let value = HeaderValue::from_str(text).expect("value");
            id_of(&HeaderMap::from_iter([(
                HeaderName::from_static("x-request-id"),
                value,
            )]))
        };
        assert_eq!(id("a1B2-c3"), "a1B2-c3");
        for text in ["", "a b", "a=b", &"x".repeat(65)] {
            assert_eq!(id(text).len(), 32, "{text}");
        }
    }

    #[test]
    fn paths_are_text() {
        for (path, text) in [
            ("/v1/keys/ada@laptop", true),
            ("/v1/keys/ada%40laptop", true),
            ("/%c3%a9/é/%", true),
            ("/%zz%+1", true),
            ("/%ff", false),
            ("/%c3x", false),
        ] {
            assert_eq!(is_text(path), text, "{path}");
        }
    }

    #[test]
    fn a_slash_at_the_end_is_optional() {
        for (before, after) in [
            ("/v1/apps/", "/v1/apps"),
            ("/v1/apps", "/v1/apps"),
            ("/v1/apps/?page_size=1", "/v1/apps?page_size=1"),
            ("/v1/apps//", "/v1/apps"),
            ("/", "/"),
            ("/?a=b", "/?a=b"),
        ] {
            let mut uri: Uri = before.parse().expect("uri");
            trim_slash(&mut uri);
            assert_eq!(uri.to_string(), after);
        }
    }
}
