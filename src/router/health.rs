//! Port 9090: whether this router should get traffic, and what it counts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::proxy::Proxy;
use crate::{model::RouterPresence, store::Presence};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// One connection's life: checks are short.
const LIFE: Duration = Duration::from_secs(60);

/// This router's registration, once there is one.
pub type Registration = watch::Receiver<Option<Arc<Presence<RouterPresence>>>>;

/// Answers until the end of its task.
pub async fn serve(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    registration: Registration,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (proxy, registration, stop) = (Arc::clone(&proxy), registration.clone(), stop.clone());
        tokio::spawn(async move {
            let _room = permit;
            let service = service_fn(|request| {
                let response = answer(&request, &proxy, &registration, &stop);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(LIFE, connection).await {
                debug!(%error, "health connection ended");
            }
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    proxy: &Proxy,
    registration: &Registration,
    stop: &CancellationToken,
) -> Response<Full<Bytes>> {
    let known = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, text) = match request.uri().path() {
        _ if !known => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        "/health-check" => health(registration, stop),
        "/metrics" => {
            let counts = proxy.live.counts();
            (
                StatusCode::OK,
                proxy.metrics.render(counts, proxy.live.certs.counts()),
            )
        }
        _ => (
            StatusCode::NOT_FOUND,
            "try /health-check or /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// Healthy: registered, by our own clock, and not about to stop.
fn health(registration: &Registration, stop: &CancellationToken) -> (StatusCode, String) {
    let registered = registration.borrow().as_ref().is_some_and(|p| p.held());
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
