//! Where the sidecars of one-off processes come in, through their hosts' agents (port 8001). The first
//! line is `{"token":…}`; what follows are the frames of a [`crate::session`].

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::{
    codec::{Decoder, Encoder, Framed, FramedParts},
    sync::CancellationToken,
};
use tracing::{debug, warn};

use super::{State, error::ApiError};
use crate::{
    link::{Link, LinkListener},
    session::{Frame, FrameError},
};

/// One-off processes that are waited for at once.
const MAX_RUNS: usize = 256;

/// Connections at once: a sidecar may come anew before its last one is known to be gone.
const MAX_CONNECTIONS: usize = 2 * MAX_RUNS;

/// Longest first line, in bytes.
const MAX_LINE: u64 = 1 << 10;

/// How long a sidecar may take to say which one it is.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// How long a sidecar may take to take a frame; it never waits for anything when it is well.
const SEND_LIMIT: Duration = Duration::from_secs(15);

/// How long sessions may go on while the controller is being stopped; less than the servers' limit.
const LAST_CALL: Duration = Duration::from_secs(15);

/// Frames on a byte stream.
#[derive(Debug)]
struct Frames;

/// Why a stream of frames ends.
#[derive(Debug, thiserror::Error)]
enum WireError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Decoder for Frames {
    type Item = Frame;
    type Error = WireError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some((frame, taken)) = Frame::read(bytes)? else {
            return Ok(None);
        };
        bytes.advance(taken);
        Ok(Some(frame))
    }
}

impl Encoder<&Frame> for Frames {
    type Error = WireError;

    fn encode(&mut self, frame: &Frame, bytes: &mut BytesMut) -> Result<(), WireError> {
        let mut out = Vec::new();
        frame.write(&mut out);
        bytes.extend_from_slice(&out);
        Ok(())
    }
}

type Wire = Framed<Link, Frames>;

struct Waiting {
    token: String,
    wires: mpsc::Sender<Wire>,
}

/// Who waits for what.
pub(super) struct Attach {
    address: SocketAddr,
    waiting: Mutex<Vec<Waiting>>,
    /// The controller is being stopped, and nobody is waited for any more.
    closing: CancellationToken,
}

impl Attach {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            waiting: Mutex::new(Vec::new()),
            closing: CancellationToken::new(),
        }
    }

    /// Where agents connect to.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends when the controller is being stopped and sessions have had their time.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// How many processes are waited for, or connected.
    pub(super) fn sessions(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let open = waiting.iter().filter(|other| !other.wires.is_closed());
        open.count()
    }

    /// Waits for the process that has this token.
    pub(super) fn expect(&self, token: String) -> Result<Line, ApiError> {
        let (wires, fresh) = mpsc::channel(1);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|other| !other.wires.is_closed());
        if waiting.len() >= MAX_RUNS {
            return Err(ApiError::Unavailable(format!(
                "{MAX_RUNS} one-off processes are running already; try again when one has ended"
            )));
        }
        waiting.push(Waiting { token, wires });
        Ok(Line { fresh, wire: None })
    }

    /// Finds who waits for the process with this token. All are compared, in constant time.
    fn find(&self, token: &str) -> Option<mpsc::Sender<Wire>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for other in waiting.iter().filter(|other| !other.wires.is_closed()) {
            if bool::from(other.token.as_bytes().ct_eq(token.as_bytes())) {
                found = Some(other.wires.clone());
            }
        }
        found
    }
}

/// The way to one process's sidecar, over whichever connection it has made last.
pub(super) struct Line {
    fresh: mpsc::Receiver<Wire>,
    wire: Option<Wire>,
}

impl Line {
    /// The next frame that is for the other end. Waits for as long as it takes; may be given up and
    /// called again.
    pub(super) async fn hear(&mut self) -> Frame {
        loop {
            let heard = tokio::select! {
                biased;
                // What the last connection still holds comes again on the new one.
                Some(wire) = self.fresh.recv() => {
                    self.wire = Some(wire);
                    continue;
                }
                heard = next(&mut self.wire) => heard,
            };
            match heard {
                Some(Ok(Frame::Ping)) => self.say(&Frame::Pong).await,
                Some(Ok(Frame::Pong | Frame::Gone)) => {}
                Some(Ok(frame)) => return frame,
                Some(Err(error)) => {
                    debug!(%error, "the connection to a one-off process broke off");
                    self.wire = None;
                }
                None => self.wire = None,
            }
        }
    }

    /// Sends a frame. Without a connection it is gone: the link sends it again on the next.
    pub(super) async fn say(&mut self, frame: &Frame) {
        let Some(wire) = &mut self.wire else { return };
        match timeout(SEND_LIMIT, wire.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(%error, "the connection to a one-off process broke off");
                self.wire = None;
            }
            Err(_) => {
                debug!("a sidecar takes nothing: its connection is given up");
                self.wire = None;
            }
        }
    }
}

/// The next frame of a connection; never anything without one.
async fn next(wire: &mut Option<Wire>) -> Option<Result<Frame, WireError>> {
    match wire {
        Some(wire) => wire.next().await,
        None => std::future::pending().await,
    }
}

/// The first line of a connection.
#[derive(Deserialize)]
struct Head {
    token: String,
}

/// Takes connections until `stop`, and a little longer for those sessions that are about to end.
pub(super) async fn serve(listener: LinkListener, state: State, stop: CancellationToken) {
    let closing = state.attach.closing.clone();
    let last_call = async {
        stop.cancelled().await;
        // Nobody new is let in: who is here may finish.
        let sessions = async {
            state.tasks.close();
            state.tasks.wait().await;
        };
        let _ = timeout(LAST_CALL, sessions).await;
    };
    tokio::select! {
        () = last_call => {}
        () = accept(listener, state.clone()) => {}
    }
    closing.cancel();
}

async fn accept(mut listener: LinkListener, state: State) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                warn!(%error, "connection of a one-off process not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let state = state.clone();
        tokio::spawn(async move {
            match timeout(HELLO_LIMIT, receive(&state.attach, socket)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "connection of a one-off process refused"),
                Err(_) => warn!("a connection that doesn't say which process it is of"),
            }
            drop(place);
        });
    }
}

async fn receive(attach: &Attach, socket: Link) -> Result<(), WireError> {
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    (&mut reader).take(MAX_LINE).read_line(&mut line).await?;
    let head: Head = serde_json::from_str(&line).map_err(std::io::Error::from)?;
    let read = BytesMut::from(reader.buffer());
    let mut parts = FramedParts::new::<&Frame>(reader.into_inner(), Frames);
    parts.read_buf = read;
    let mut wire = Framed::from_parts(parts);
    match attach.find(&head.token) {
        Some(wires) => {
            // Who has stopped waiting in this moment has no use for it.
            let _ = wires.send(wire).await;
        }
        None => {
            debug!("a one-off process that nobody waits for");
            wire.send(&Frame::Gone).await?;
            // Until it has read that: closing with unread bytes would take it away again.
            while let Some(Ok(_)) = wire.next().await {}
        }
    }
    Ok(())
}
