//! Where one-off processes deliver their output: the agent connects, sends one JSON line
//! `{"token":…,"exit_code":…,"output_bytes":…}`, then so many bytes.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{State, error::ApiError};
use crate::{
    model::Work,
    store::{Store, Txn, keys},
};

/// One-off processes that are waited for at once.
const MAX_RUNS: usize = 64;

/// Most output that is kept of one, in bytes.
pub(super) const MAX_OUTPUT: usize = 16 << 20;

/// Longest first line, in bytes.
const MAX_LINE: u64 = 4 << 10;

/// How long an agent may take to deliver.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

/// How a one-off process ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) output: Vec<u8>,
}

struct Waiting {
    token: String,
    reply: oneshot::Sender<Ended>,
}

/// Who waits for what.
pub(super) struct Attach {
    address: SocketAddr,
    waiting: Mutex<Vec<Waiting>>,
}

impl Attach {
    pub(super) const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Where agents connect to.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the process that has this token.
    pub(super) fn expect(&self, token: String) -> Result<oneshot::Receiver<Ended>, ApiError> {
        let (reply, ended) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|other| !other.reply.is_closed());
        if waiting.len() >= MAX_RUNS {
            return Err(ApiError::Unavailable(format!(
                "{MAX_RUNS} one-off processes are running already; try again when one has ended"
            )));
        }
        waiting.push(Waiting { token, reply });
        Ok(ended)
    }

    /// Takes out who waits for the process with this token. All are compared, in constant time.
    fn take(&self, token: &str) -> Option<oneshot::Sender<Ended>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (at, other) in waiting.iter().enumerate() {
            if bool::from(other.token.as_bytes().ct_eq(token.as_bytes())) {
                found = Some(at);
            }
        }
        found.map(|at| waiting.swap_remove(at).reply)
    }
}

/// The first line of a delivery.
#[derive(Deserialize)]
struct Head {
    token: String,
    exit_code: i32,
    output_bytes: usize,
}

/// Takes deliveries until `stop`.
pub(super) async fn serve(listener: TcpListener, state: State, stop: CancellationToken) {
    let places = std::sync::Arc::new(Semaphore::new(MAX_RUNS));
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                warn!(%error, "delivery not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let state = state.clone();
        tokio::spawn(async move {
            match timeout(DELIVERY_LIMIT, receive(&state.attach, socket)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "delivery of a one-off process's output failed"),
                Err(_) => warn!("delivery of a one-off process's output took too long"),
            }
            drop(place);
        });
    }
}

async fn receive(attach: &Attach, socket: TcpStream) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    (&mut socket).take(MAX_LINE).read_line(&mut line).await?;
    let head: Head = serde_json::from_str(&line)?;
    let Some(reply) = attach.take(&head.token) else {
        debug!("delivery with a token that nobody waits for");
        return Ok(());
    };
    let wanted = head.output_bytes.min(MAX_OUTPUT);
    let mut output = Vec::new();
    (&mut socket)
        .take(wanted as u64)
        .read_to_end(&mut output)
        .await?;
    if output.len() < wanted {
        output.extend_from_slice(b"\n[deis: the rest of the output got lost on the way]\n");
    } else if wanted < head.output_bytes {
        output.extend_from_slice(b"\n[deis: the rest of the output is not kept]\n");
    }
    // Nobody waits any more: then nobody misses it.
    let _ = reply.send(Ended {
        exit_code: head.exit_code,
        output,
    });
    Ok(())
}

/// Removes the one-off processes whose output would go to this address: their waiter is gone.
pub(super) async fn sweep(store: &Store, address: SocketAddr) -> Result<(), ApiError> {
    let listing = store.list(&keys::schedule()).await?;
    for (key, assignment) in listing.entries {
        let Work::Run { attach, .. } = &assignment.value.work else {
            continue;
        };
        if *attach != address.to_string() {
            continue;
        }
        if let Some((machine, name)) = keys::parse_assignment(&key) {
            let key = keys::assignment(&machine, name);
            let txn = Txn::new()
                .unchanged(&key, assignment.mod_revision)
                .delete(&key);
            store.commit(txn).await?;
        }
    }
    Ok(())
}
