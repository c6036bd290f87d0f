//! Connections to backends: HTTP/1.1, and HTTP/2 by prior knowledge for gRPC.

use std::{error::Error, io, pin::pin, sync::Arc};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tracing::debug;

use super::{
    backend::{Backend, STREAMS, Sender, Sort},
    body::RequestBody,
    called::Called,
    sockets::{self, Peer},
    writes::Gathered,
};
use crate::{
    link,
    plan::front::{CONNECT, RouterSettings},
};

/// Largest head of an answer.
const HEAD_MAX: u32 = 256 << 10;
/// What an app may send of an answer in HTTP/2 before its client has read it, and of all together: slow
/// clients hold up nobody else.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
/// What we buffer of a request in HTTP/2 whose app doesn't read.
const STREAM_SEND: usize = 64 << 10;

/// A new connection to a backend.
///
/// # Errors
/// When it can't be reached.
pub async fn connect(
    backend: &Arc<Backend>,
    settings: &RouterSettings,
    peer: Peer,
    sort: Sort,
    upgrading: bool,
) -> io::Result<Sender> {
    let address = backend.endpoint().address;
    // Apps speak for themselves; the controller is a part of the platform.
    let (links, within) = if backend.is_controller() {
        (link::links(), settings.controller.connect)
    } else {
        (link::plain(), CONNECT)
    };
    let stream = links.connect(address, within).await?;
    sockets::tune(stream.socket(), peer);
    let stream = TokioIo::new(Gathered::new(stream));
    if sort == Sort::Streams {
        let handshake = http2_builder().handshake::<_, RequestBody>(stream).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        drive(backend, connection);
        return Ok(Sender::http2(sender));
    }
    let handshake = http1::Builder::new()
        .title_case_headers(true)
        // Old clients' scripts know the controller's header names by their spelling.
        .preserve_header_case(backend.is_controller())
        .max_header_size(HEAD_MAX as usize)
        .handshake::<_, RequestBody>(stream)
        .await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    if upgrading {
        // The tunnel's own task minds the cut.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%address, %error, "upstream connection ended");
            }
        });
    } else {
        drive(backend, connection);
    }
    Ok(Sender::Http1(sender))
}

/// HTTP/2 with apps, by prior knowledge. Nobody is asked for a sign of life: gRPC's servers take that
/// amiss, and TCP's keepalive does it.
fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_SEND)
        .max_header_list_size(HEAD_MAX);
    builder
}

/// Drives a connection until it ends or is cut.
fn drive(backend: &Backend, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    let (cut, address) = (backend.cut.clone(), backend.endpoint().address);
    tokio::spawn(async move {
        let cut = pin!(cut.cancelled());
        let ended = tokio::select! {
            biased;
            ended = connection => ended,
            () = Called::new(cut) => Ok(()),
        };
        if let Err(error) = ended {
            debug!(%address, %error, "upstream connection ended");
        }
    });
}

/// Whether a backend said of a request in HTTP/2 that it has not looked at it (RFC 9113, 8.7).
#[must_use]
pub fn is_refused(error: &hyper::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        // The requests that a goodbye counts as heard end in another way.
        let goodbye = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
        cause.is_remote() && (refused || goodbye)
    })
}
