//! Port 9090: whether this router should get traffic, and what it counts.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{Registration, proxy::Proxy};
use crate::inner_http::{self, Answer};

/// Where it answers, on its host's address.
pub const PORT: u16 = 9090;
/// Where it tells what was counted of an app; the app's name follows.
pub const RECEIPTS: &str = "/receipts/";

/// This router's registration, once there is one.
pub(super) type Registered = watch::Receiver<Option<Registration>>;

/// Answers until the stop: then the next router may have the socket already.
pub(super) async fn serve(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    registration: Registered,
    stop: CancellationToken,
) {
    let over = stop.clone();
    let handler = move |request: Request<Incoming>| {
        let answer = answer(&request, &proxy, &registration, &stop);
        async move { answer }
    };
    tokio::select! {
        () = inner_http::serve(listener, handler) => {}
        () = over.cancelled() => {}
    }
}

fn answer(
    request: &Request<Incoming>,
    proxy: &Proxy,
    registration: &Registered,
    stop: &CancellationToken,
) -> Answer {
    let known = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, text) = match request.uri().path() {
        _ if !known => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        "/health-check" => health(registration, stop),
        "/metrics" => (StatusCode::OK, proxy.metrics_page()),
        path if path.starts_with(RECEIPTS) => return receipt(&path[RECEIPTS.len()..], proxy),
        _ => (
            StatusCode::NOT_FOUND,
            "try /health-check or /metrics\n".to_owned(),
        ),
    };
    inner_http::text(status, text)
}

/// What was counted of an app, for the leader at the end of a deploy.
fn receipt(app: &str, proxy: &Proxy) -> Answer {
    let Ok(app) = app.parse() else {
        return inner_http::text(StatusCode::NOT_FOUND, "no app can be called so\n");
    };
    let counts = proxy.live.tallies.of_app(&app);
    match serde_json::to_vec(&counts) {
        Ok(json) => inner_http::answer(StatusCode::OK, "application/json", json),
        Err(error) => inner_http::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Healthy: registered, by our own clock, and not about to stop.
fn health(registration: &Registered, stop: &CancellationToken) -> (StatusCode, String) {
    let registered = registration.borrow();
    let registered = registered.as_ref().is_some_and(|r| r.presence.held());
    let (status, text) = if stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else if registered {
        (StatusCode::OK, "ok\n")
    } else {
        let text = "cut off from etcd: serving the last table\n";
        (StatusCode::SERVICE_UNAVAILABLE, text)
    };
    (status, text.to_owned())
}
