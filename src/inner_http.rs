//! A small HTTP server for ports that only the platform itself reaches: health, metrics, figures. Few
//! connections at once, short lives, and no way for a client to hold any of it.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::serve::Listener;
use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::{body::Incoming, client, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// Connections at once; the next ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// One connection's life: what is asked for here is short.
const LIFE: Duration = Duration::from_secs(60);

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Answers what comes in, until the end of its task. Listeners are plain, or for links.
pub async fn serve<L, H, F>(mut listener: L, handler: H)
where
    L: Listener,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let (stream, _) = listener.accept().await;
        let handler = handler.clone();
        tokio::spawn(async move {
            let _room = permit;
            let service = service_fn(|request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(LIFE, connection).await {
                debug!(%error, "a connection to an inner port ended");
            }
        });
    }
}

/// Asks another host's inner port for a path, on a connection of its own. The caller bounds the time.
///
/// # Errors
/// When it can't be had, is no `200`, or is longer than `longest`.
pub async fn get<S>(stream: S, host: SocketAddr, path: &str, longest: usize) -> io::Result<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path)
        .header(HOST, host.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(io::Error::other)?;
    if answer.status() != StatusCode::OK {
        return Err(io::Error::other(format!("it answers {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), longest).collect().await;
    Ok(body.map_err(io::Error::other)?.to_bytes())
}

/// An answer of a content type.
#[must_use]
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}

/// An answer in words.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}
