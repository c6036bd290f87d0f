//! builder.sock: answers the git side, one connection at a time each, all bounded.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    access,
    authorized::OfferedKey,
    build::BuildSettings,
    output::Output,
    protocol::{Ask, KeyAnswer, MAX_FRAME, MAX_LINE, OpenAnswer, PushAnswer},
    push,
    refs::Sha,
};
use crate::{
    logger::tell::Teller,
    model::{AppName, PartPresence, Username},
    registry::replicas::Registries,
    seal::ClusterKey,
    store::{Presence, Store, StoreError, keys},
};

/// Connections at once.
const CONNECTIONS: usize = 128;
/// Time for a question, and for the answer to one that is no push.
const SHORT: Duration = Duration::from_secs(10);
/// Time between two frames of a source.
const FRAME: Duration = Duration::from_secs(60);

/// What every push needs.
#[derive(Debug)]
pub struct Daemon {
    /// The store.
    pub store: Store,
    /// Says in apps' logs what was deployed.
    pub teller: Teller,
    /// Opens config values.
    pub key: ClusterKey,
    /// Our presence: push locks hang on its lease.
    pub presence: Presence<PartPresence>,
    /// Our address, for people.
    pub address: String,
    /// Where images go.
    pub registries: Registries,
    /// How builds are made.
    pub build: BuildSettings,
    /// Builds that run at once on this host.
    pub builds: Semaphore,
    /// User id of the git side.
    pub git_uid: u32,
    /// Told when the builder stops.
    pub stop: CancellationToken,
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the git side hung up")]
    Io(#[from] io::Error),
    #[error("the git side said nonsense")]
    Json(#[from] serde_json::Error),
    #[error("the git side was silent for too long")]
    Silent,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Daemon {
    /// Serves the socket until the builder stops.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let tasks = tokio_util::task::TaskTracker::new();
        loop {
            let permit = tokio::select! {
                () = self.stop.cancelled() => break,
                permit = connections.clone().acquire_owned() => permit,
            };
            let stream = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (daemon, stream) = match stream {
                Ok((stream, _)) => (self.clone(), stream),
                Err(error) => {
                    warn!(%error, "can't accept on builder.sock");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            tasks.spawn(async move {
                let _permit = permit;
                if let Err(error) = daemon.connection(stream).await {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "a connection of the git side ended"
                    );
                }
            });
        }
        tasks.close();
        // Pushes hear of the stop themselves and clean up.
        if timeout(Duration::from_secs(15), tasks.wait())
            .await
            .is_err()
        {
            warn!("some pushes did not end in time");
        }
    }

    async fn connection(&self, stream: UnixStream) -> Result<(), ConnectionError> {
        let peer = stream.peer_cred()?.uid();
        if peer != self.git_uid && peer != 0 {
            warn!(peer, "refused on builder.sock");
            return Ok(());
        }
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        let ask = timeout(SHORT, first_line(&mut reader)).await;
        let answer = match ask.map_err(|_| ConnectionError::Silent)?? {
            Ask::Key { kind, blob } => serde_json::to_vec(&self.whose(&kind, &blob).await?)?,
            Ask::Open { user, app } => serde_json::to_vec(&self.open(&user, &app).await?)?,
            Ask::Push(asked) => {
                let (output, answers) = Output::new();
                let writing = tokio::spawn(write_answers(answers, writer));
                let gone = self.stop.child_token();
                let client = Client {
                    reader,
                    gone: gone.clone(),
                };
                push::push(self, &asked, client, output).await;
                // The last words get through, or the reader is gone anyway.
                let _ = timeout(SHORT, writing).await;
                return Ok(());
            }
        };
        let write = async {
            writer.write_all(&answer).await?;
            writer.write_all(b"\n").await
        };
        timeout(SHORT, write)
            .await
            .map_err(|_| ConnectionError::Silent)??;
        Ok(())
    }

    async fn whose(&self, kind: &str, blob: &str) -> Result<KeyAnswer, StoreError> {
        let Ok(offered) = OfferedKey::parse(kind, blob) else {
            return Ok(KeyAnswer::Unknown);
        };
        let stored = self
            .store
            .get(&keys::ssh_key(offered.fingerprint()))
            .await?;
        Ok(match stored.filter(|stored| offered.is(&stored.value)) {
            Some(stored) => KeyAnswer::Known {
                user: stored.value.owner,
            },
            None => {
                debug!(fingerprint = %offered.fingerprint(), "a key that nobody added");
                KeyAnswer::Unknown
            }
        })
    }

    async fn open(&self, user: &Username, app: &AppName) -> Result<OpenAnswer, StoreError> {
        let Some(there) = access::app_for(&self.store, user, app).await? else {
            return Ok(OpenAnswer::Denied {
                why: access::denied(user, app),
            });
        };
        let head = self.store.get(&keys::git_head(app)).await?;
        let lock = self.store.get(&keys::push_lock(app)).await?;
        Ok(OpenAnswer::Granted {
            repository: there.value.uuid,
            deployed: head.and_then(|head| Sha::try_from(head.value.sha).ok()),
            pushing: lock.is_some(),
        })
    }
}

async fn first_line(reader: &mut BufReader<OwnedReadHalf>) -> Result<Ask, ConnectionError> {
    let mut line = Vec::new();
    reader
        .take(MAX_LINE as u64)
        .read_until(b'\n', &mut line)
        .await?;
    Ok(serde_json::from_slice(&line)?)
}

async fn write_answers(
    mut answers: mpsc::Receiver<PushAnswer>,
    mut writer: tokio::net::unix::OwnedWriteHalf,
) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
    writer.shutdown().await
}

/// The pusher's end of a push.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<OwnedReadHalf>,
    /// Cancelled when the pusher is gone, or the builder stops.
    pub gone: CancellationToken,
}

impl Client {
    /// Receives the source into a file.
    ///
    /// # Errors
    /// When the client hangs up before the end, sends too much, or is silent for too long.
    pub async fn receive(&mut self, to: PathBuf, limit: u64) -> io::Result<()> {
        let mut file =
            tokio::io::BufWriter::with_capacity(256 << 10, tokio::fs::File::create(to).await?);
        let mut left = limit;
        loop {
            let frame = timeout(FRAME, self.frame(&mut file, &mut left)).await;
            let length = frame.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if length == 0 {
                return file.flush().await;
            }
        }
    }

    async fn frame(
        &mut self,
        to: &mut (impl tokio::io::AsyncWrite + Unpin),
        left: &mut u64,
    ) -> io::Result<u64> {
        let length = u64::from(self.reader.read_u32().await?);
        if length > MAX_FRAME as u64 || length > *left {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        *left -= length;
        let copied = tokio::io::copy(&mut (&mut self.reader).take(length), to).await?;
        if copied < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(length)
    }

    /// From now on the client only stays: cancels `gone` when it hangs up.
    pub fn watch(mut self) {
        tokio::spawn(async move {
            let mut rest = [0; 64];
            tokio::select! {
                () = self.gone.cancelled() => {}
                // Whatever it may still say, only the end matters.
                () = async { while !matches!(self.reader.read(&mut rest).await, Ok(0) | Err(_)) {} } => {
                    self.gone.cancel();
                }
            }
        });
    }
}
