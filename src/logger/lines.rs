//! The side on which log sidecars come in: TCP, the protocol of [`crate::sidecar::wire`].
//!
//! Whatever arrives there, the worst that it can do is to lose its own connection.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    app_log::AppLogError,
    shelf::{Book, Shelf},
};
use crate::{
    link::{Link, LinkListener},
    sidecar::wire::{Data, Hello, MAX_FRAME, MAX_HEADER, Reply, WireError, take_line},
};

/// Connections at once; more of them wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Sidecars close after ten quiet seconds; who is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// An answer must be taken within this time.
const WRITE: Duration = Duration::from_secs(10);
/// Bytes of frames that are added at once.
const BATCH: usize = 512 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the connection failed")]
    Socket(#[from] io::Error),
    #[error("it was silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("it doesn't speak the log protocol")]
    Wire(#[from] WireError),
    #[error("its lines can't be kept")]
    Keep(#[from] AppLogError),
    #[error("the logger ends")]
    Ends,
}

/// Takes connections until it is stopped.
pub async fn serve(mut listener: LinkListener, shelf: Arc<Shelf>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tracker = TaskTracker::new();
    let mut refused: u64 = 0;
    let (report, mut reports) = tokio::sync::mpsc::channel::<(String, LineError)>(64);
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        tokio::select! {
            () = stop.cancelled() => break,
            Some((peer, error)) = reports.recv() => match error {
                LineError::Wire(_) | LineError::Keep(_) => {
                    refused += 1;
                    let error = crate::telemetry::chain(&error);
                    warn!(peer, error, refused, "log connection closed");
                }
                LineError::Socket(_) | LineError::Silent | LineError::Ends => {
                    let error = crate::telemetry::chain(&error);
                    info!(peer, error, "log connection ended");
                }
            },
            accepted = async {
                let slot = slot.await;
                (listener.accept().await, slot)
            } => {
                let (socket, peer) = match accepted.0 {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        warn!(%error, "log connection not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (shelf, stop, report) = (Arc::clone(&shelf), stop.clone(), report.clone());
                tracker.spawn(async move {
                    let _slot = accepted.1;
                    if let Err(error) = converse(socket, shelf, stop).await {
                        let _ = report.try_send((peer.to_string(), error));
                    }
                });
            }
        }
    }
    tracker.close();
    let _ = timeout(Duration::from_secs(2), tracker.wait()).await;
}

/// One sidecar's connection, from its greeting to its end.
async fn converse(
    mut socket: Link,
    shelf: Arc<Shelf>,
    stop: CancellationToken,
) -> Result<(), LineError> {
    let mut input = BytesMut::with_capacity(16 * 1024);
    let Some(hello) = greeting(&mut socket, &mut input, &stop).await? else {
        return Ok(());
    };
    let book = blocking({
        let (shelf, app) = (Arc::clone(&shelf), hello.app.clone());
        move || shelf.book(&app)
    })
    .await?;
    answer(&mut socket, Reply::Have(book.have(&hello))).await?;
    let hello = Arc::new(hello);
    loop {
        let frames = whole_frames(&mut input)?;
        if !frames.is_empty() {
            let position = append(&shelf, &book, &hello, frames).await?;
            answer(&mut socket, Reply::Ack(position)).await?;
        } else if !fill(&mut socket, &mut input, &stop).await? {
            return Ok(());
        }
    }
}

async fn append(
    shelf: &Arc<Shelf>,
    book: &Arc<Book>,
    hello: &Arc<Hello>,
    frames: Vec<(Data, Bytes)>,
) -> Result<crate::sidecar::wire::Position, LineError> {
    let (shelf, book, hello) = (Arc::clone(shelf), Arc::clone(book), Arc::clone(hello));
    Ok(blocking(move || shelf.append(&book, &hello, &frames)).await?)
}

/// Runs what may wait for the disk on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AppLogError> + Send + 'static,
) -> Result<T, AppLogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(AppLogError::File {
            what: "work on",
            path: "its files".into(),
            source: io::Error::other(error),
        }),
    }
}

/// The sidecar's greeting. What it says to the agent may come first: an agent that only relays is
/// fine. None: it closed.
async fn greeting(
    socket: &mut Link,
    input: &mut BytesMut,
    stop: &CancellationToken,
) -> Result<Option<Hello>, LineError> {
    loop {
        if let Some((line, taken)) = take_line(input)? {
            let hello = if line.starts_with('{') {
                None
            } else {
                Some(Hello::parse(line)?)
            };
            input.advance(taken);
            if hello.is_some() {
                return Ok(hello);
            }
        } else if !fill(socket, input, stop).await? {
            return Ok(None);
        }
    }
}

/// Takes all whole frames from the front of the buffer, up to a batch.
fn whole_frames(input: &mut BytesMut) -> Result<Vec<(Data, Bytes)>, WireError> {
    let (mut frames, mut size) = (Vec::new(), 0);
    while size < BATCH {
        let Some((line, taken)) = take_line(input)? else {
            break;
        };
        let data = Data::parse(line)?;
        if input.len() < taken + data.len {
            break;
        }
        input.advance(taken);
        size += taken + data.len;
        frames.push((data, input.split_to(data.len).freeze()));
    }
    Ok(frames)
}

/// Reads more; false at the end.
async fn fill(
    socket: &mut Link,
    input: &mut BytesMut,
    stop: &CancellationToken,
) -> Result<bool, LineError> {
    input.reserve(MAX_HEADER + MAX_FRAME);
    tokio::select! {
        () = stop.cancelled() => Err(LineError::Ends),
        read = timeout(SILENCE, socket.read_buf(input)) => match read {
            Ok(read) => Ok(read? > 0),
            Err(_) => Err(LineError::Silent),
        },
    }
}

async fn answer(socket: &mut Link, reply: Reply) -> Result<(), LineError> {
    let line = reply.encode();
    match timeout(WRITE, socket.write_all(line.as_bytes())).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(LineError::Silent),
    }
}
