//! /run/deis/agent.sock: announcers' words come in, log lines and sessions of one-offs pass through. Only root may connect.

use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::{Mutex, Semaphore, mpsc},
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::paths::{Paths, remove};
use crate::{
    link::{Link, links},
    store::{Store, keys},
};

/// Connections at once: two per process, and some to spare.
const CONNECTIONS_MAX: usize = 4096;
/// The longest line that an announcer may send, in bytes.
const LINE_MAX: u64 = 8 << 10;
/// How long a connection may take to say what it is.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// How long a logger may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The loggers' port.
const LOGGER_PORT: u16 = 5140;

/// The first line of a connection.
#[derive(Debug, Deserialize)]
#[serde(tag = "hello", rename_all = "lowercase")]
enum Hello {
    Announce { unit: String, uuid: Uuid },
    Log { unit: String },
    Run { unit: String, attach: SocketAddr },
}

/// A further line of an announcer.
#[derive(Debug, Deserialize)]
struct Health {
    healthy: bool,
    #[serde(default)]
    reason: String,
}

/// What an announcer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The process.
    pub unit: String,
    /// Its uuid.
    pub uuid: Uuid,
    /// Whether it is healthy.
    pub healthy: bool,
    /// Why not.
    pub reason: String,
}

/// Loggers, read from etcd when a connection needs one; the last answer serves while etcd is away.
#[derive(Debug)]
struct Loggers {
    store: Store,
    known: Mutex<Vec<SocketAddr>>,
}

impl Loggers {
    async fn connect(&self) -> io::Result<Link> {
        let prefix = keys::parts("logs");
        let read = time::timeout(CONNECT_LIMIT, self.store.list_readable(&prefix)).await;
        let mut known = self.known.lock().await;
        if let Ok(Ok(listing)) = read {
            let ips = listing
                .entries
                .iter()
                .filter_map(|(key, _)| keys::last_part(key, prefix.as_str())?.parse().ok());
            *known = ips.map(|ip| SocketAddr::new(ip, LOGGER_PORT)).collect();
        }
        let addresses = known.clone();
        drop(known);
        let mut last = io::Error::new(
            io::ErrorKind::NotFound,
            "no logger is registered under /deis/logs/hosts",
        );
        for address in addresses {
            match links().connect(address, CONNECT_LIMIT).await {
                Ok(link) => return Ok(link),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Opens the socket and serves it until `stop`.
///
/// # Errors
/// When the socket can't be made.
pub fn serve(
    paths: &Paths,
    store: Store,
    words: mpsc::Sender<Word>,
    stop: CancellationToken,
) -> io::Result<()> {
    let path = paths.socket();
    remove(&path)?;
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let loggers = Arc::new(Loggers {
        store,
        known: Mutex::default(),
    });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let own_uid = rustix::process::geteuid().as_raw();
    tokio::spawn(async move {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "agent.sock: a connection was not accepted");
                    time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // The file's mode says so already; a socket handed on does not get around this.
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == own_uid => {}
                peer => {
                    warn!(?peer, "agent.sock: a caller that is not root was refused");
                    continue;
                }
            }
            let (loggers, words, stop) = (loggers.clone(), words.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    ended = converse(stream, &loggers, &words) => if let Err(error) = ended {
                        debug!(%error, "agent.sock: a connection ended");
                    }
                }
                drop(slot);
            });
        }
    });
    Ok(())
}

/// Reads one line of bounded length.
async fn line(reader: &mut BufReader<UnixStream>) -> io::Result<Option<Vec<u8>>> {
    use tokio::io::AsyncReadExt;
    let mut text = Vec::new();
    let read = reader.take(LINE_MAX).read_until(b'\n', &mut text).await?;
    match text.pop() {
        Some(b'\n') => Ok(Some(text)),
        None => Ok(None),
        Some(_) if read as u64 == LINE_MAX => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a line is too long",
        )),
        Some(_) => Ok(None),
    }
}

async fn converse(
    stream: UnixStream,
    loggers: &Loggers,
    words: &mpsc::Sender<Word>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let Some(hello) = time::timeout(HELLO_LIMIT, line(&mut reader)).await?? else {
        return Ok(());
    };
    match serde_json::from_slice(&hello)? {
        Hello::Announce { unit, uuid } => {
            while let Some(text) = line(&mut reader).await? {
                let Health { healthy, reason } = serde_json::from_slice(&text)?;
                let word = Word {
                    unit: unit.clone(),
                    uuid,
                    healthy,
                    reason,
                };
                if words.send(word).await.is_err() {
                    return Ok(());
                }
            }
            Ok(())
        }
        Hello::Log { unit } => {
            let logger = match loggers.connect().await {
                Ok(logger) => logger,
                Err(error) => {
                    debug!(unit, %error, "no logger to bring a log to; the sidecar tries again");
                    return Err(error);
                }
            };
            relay(reader, logger).await
        }
        Hello::Run { unit, attach } => match links().connect(attach, CONNECT_LIMIT).await {
            Ok(controller) => relay(reader, controller).await,
            Err(error) => {
                debug!(unit, %attach, %error, "the controller that waits for a one-off is not there");
                Err(error)
            }
        },
    }
}

/// Passes bytes both ways until one side has closed.
async fn relay(mut reader: BufReader<UnixStream>, mut other: Link) -> io::Result<()> {
    // What came in one packet with the hello belongs to the other side.
    other.write_all(reader.buffer()).await?;
    let stream = reader.get_mut();
    copy_bidirectional(stream, &mut other).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartPresence, SCHEMA};
    use crate::store::Txn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn served() -> (
        tempfile::TempDir,
        Paths,
        Store,
        mpsc::Receiver<Word>,
        CancellationToken,
    ) {
        let dir = tempfile::tempdir().expect("dir");
        let paths = Paths::below(dir.path());
        paths.prepare().expect("folders");
        let (store, stop) = (Store::memory(), CancellationToken::new());
        let (sender, words) = mpsc::channel(8);
        serve(&paths, store.clone(), sender, stop.clone()).expect("served");
        (dir, paths, store, words, stop)
    }

    #[tokio::test]
    async fn an_announcer_is_heard() {
        let (_dir, paths, _store, mut words, _stop) = served().await;
        let mut stream = UnixStream::connect(paths.socket())
            .await
            .expect("connected");
        let uuid = Uuid::from_u128(7);
        let text = format!(
            "{{\"hello\":\"announce\",\"unit\":\"a_v1.web.1\",\"uuid\":\"{uuid}\"}}\n{{\"healthy\":true}}\n"
        );
        stream.write_all(text.as_bytes()).await.expect("written");
        let word = words.recv().await.expect("a word");
        assert_eq!(
            word,
            Word {
                unit: "a_v1.web.1".into(),
                uuid,
                healthy: true,
                reason: String::new()
            }
        );
        stream
            .write_all(b"{\"healthy\":false,\"reason\":\"port closed\"}\n")
            .await
            .expect("written");
        assert_eq!(words.recv().await.expect("a word").reason, "port closed");
        stream.write_all(&vec![b'x'; 9000]).await.expect("written");
        let end = stream.read(&mut [0; 1]).await;
        assert!(
            matches!(end, Ok(0) | Err(_)),
            "an endless line ends the connection"
        );
    }

    #[tokio::test]
    async fn a_log_without_a_logger_is_hung_up_on() {
        let (_dir, paths, store, _words, _stop) = served().await;
        let key = keys::part("logs", "127.0.0.1");
        let presence = PartPresence {
            schema: SCHEMA,
            id: Uuid::nil(),
            address: "127.0.0.1:1".into(),
        };
        let mut stream = UnixStream::connect(paths.socket())
            .await
            .expect("connected");
        let hello = b"{\"hello\":\"log\",\"unit\":\"a_v1.web.1\",\"uuid\":\"x\",\"tag\":\"a[web.1]\",\"app\":\"a\"}\n";
        stream.write_all(hello).await.expect("written");
        assert_eq!(stream.read(&mut [0; 1]).await.expect("closed"), 0);
        // With one, bytes pass both ways, those of the first packet too.
        let Ok(logger) = tokio::net::TcpListener::bind(("127.0.0.1", LOGGER_PORT)).await else {
            eprintln!("skipped: port {LOGGER_PORT} is taken on this machine");
            return;
        };
        store
            .commit(Txn::new().put(&key, &presence))
            .await
            .expect("stored");
        let mut stream = UnixStream::connect(paths.socket())
            .await
            .expect("connected");
        stream
            .write_all(&[&hello[..], b"line 1\n"].concat())
            .await
            .expect("written");
        let (mut end, _) = logger.accept().await.expect("relayed");
        let mut got = [0; 7];
        end.read_exact(&mut got).await.expect("read");
        assert_eq!(&got, b"line 1\n");
        end.write_all(b"ack").await.expect("written");
        let mut ack = [0; 3];
        stream.read_exact(&mut ack).await.expect("read");
        assert_eq!(&ack, b"ack");
    }

    #[tokio::test]
    async fn a_session_passes_through() {
        let (_dir, paths, _store, _words, _stop) = served().await;
        let controller = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bound");
        let attach = controller.local_addr().expect("address");
        let hello = format!(
            "{{\"hello\":\"run\",\"unit\":\"a_v1.run.1\",\"attach\":\"{attach}\"}}\ntoken\n"
        );
        let connect = async || {
            let mut stream = UnixStream::connect(paths.socket())
                .await
                .expect("connected");
            stream.write_all(hello.as_bytes()).await.expect("written");
            stream
        };
        let mut stream = connect().await;
        let (mut end, _) = controller.accept().await.expect("relayed");
        let mut got = [0; 6];
        end.read_exact(&mut got).await.expect("read");
        assert_eq!(&got, b"token\n");
        end.write_all(b"back").await.expect("written");
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.expect("read");
        assert_eq!(&back, b"back");
        // Each side's end is seen by the other.
        drop(end);
        assert_eq!(stream.read(&mut [0; 1]).await.expect("closed"), 0);
        drop(controller);
        let mut stream = connect().await;
        assert_eq!(stream.read(&mut [0; 1]).await.expect("closed"), 0);
    }
}
