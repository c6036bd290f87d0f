//! The router as systemd knows it: a small process that holds the listening sockets and never touches
//! what comes in over them, and a worker process that does.
//!
//! systemd stops the old before it starts the new one. So that nobody waits for the old one's last
//! request, the unit's main process is this keeper (`KillMode=process`): asked to stop, it tells the
//! worker, waits until that has stepped aside, and ends; the worker answers what it has begun, in its
//! own time. And so that no connection is refused in between, sockets live in systemd's file descriptor
//! store: the next keeper gets the very same ones, with the connections that came meanwhile. A socket
//! unit's are taken just the same: what counts is where they listen.

use std::{
    env, io,
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
    process::{Pid, Signal, kill_process},
};
use sd_notify::NotifyState;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::pipe,
};
use tracing::{info, warn};

use super::{RouterError, RouterOptions, notify, sockets::Listeners};
use crate::settings::HostSettings;

/// Sockets that are handed over at most: two ports by eight workers, and two more.
const SOCKETS: usize = 32;
/// Their names, side by side, have no more bytes.
const NAMES: usize = SOCKETS * 8;
/// The worker has so long to step aside: what it does then is one write to etcd, tried once.
const ASIDE: Duration = Duration::from_secs(4);
/// What the worker says: it serves; it takes no more, and says so under another key than the next one.
const READY: u8 = b'R';
const GONE_ASIDE: u8 = b'A';

/// Why there is no router.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It can't listen.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// The worker can't be started or spoken with.
    #[error("can't {what} the router's worker")]
    Worker {
        /// What can't be done.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended.
    #[error("the router's worker ended ({0}); the journal above says why")]
    Ended(ExitStatus),
}

fn worker(what: &'static str) -> impl FnOnce(io::Error) -> KeeperError {
    move |source| KeeperError::Worker { what, source }
}

/// Holds the sockets, and runs a worker on them until systemd wants an end or the worker has ended.
///
/// # Errors
/// When it can't listen, or the worker ends by itself.
pub fn keep(settings: &HostSettings, path: &Path) -> Result<(), KeeperError> {
    let signals = signals().map_err(worker("wait for signals for"))?;
    let options = RouterOptions::of(settings);
    let addresses = [options.http, options.https, options.git, options.health];
    let given = given();
    let kept = given.len();
    let listeners = Listeners::bind(addresses, options.workers, given)
        .map_err(|(address, source)| RouterError::Listen { address, source })?;
    store(&listeners);
    info!(kept, sockets = listeners.all().count(), "sockets held");
    let (link, workers_end) = UnixStream::pair().map_err(worker("speak with"))?;
    send(&link, &listeners).map_err(worker("give the sockets to"))?;
    let program = env::current_exe().map_err(worker("find"))?;
    let child = Command::new(program)
        .args(["router", "--serve", "--settings"])
        .arg(path)
        // systemd listens to its main process only.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        .stdin(Stdio::from(OwnedFd::from(workers_end)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(worker("start"))?;
    mind(child, link, &signals)
}

/// The sockets that systemd has given.
fn given() -> Vec<TcpListener> {
    let mut all = listenfd::ListenFd::from_env();
    (0..all.len())
        .filter_map(|at| match all.take_tcp_listener(at) {
            Ok(listener) => listener,
            Err(error) => {
                warn!(at, %error, "systemd gave a socket that is not for TCP: ignored");
                None
            }
        })
        .collect()
}

/// Lets systemd keep the sockets beyond this process. One that it has already is not kept twice.
fn store(listeners: &Listeners) {
    for (name, listener) in listeners.all() {
        let words = [NotifyState::FdStore, NotifyState::FdName(name)];
        if let Err(error) = sd_notify::notify_with_fds(&words, &[listener.as_fd()]) {
            warn!(%error, name, "systemd doesn't keep a socket: a restart will refuse connections for a moment");
        }
    }
}

fn signals() -> io::Result<UnixStream> {
    let (wake, signals) = UnixStream::pair()?;
    signals.set_nonblocking(true)?;
    pipe::register(SIGTERM, signals.try_clone()?)?;
    pipe::register(SIGINT, signals)?;
    Ok(wake)
}

/// Passes on what systemd and the worker have to tell each other.
fn mind(mut child: Child, mut link: UnixStream, signals: &UnixStream) -> Result<(), KeeperError> {
    let mut deadline: Option<Instant> = None;
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            warn!("the worker doesn't step aside: it is left to end by itself");
            return Ok(());
        }
        let (asked, said) = wait(signals, &link, left).map_err(worker("wait for"))?;
        if asked && deadline.is_none() {
            notify(&[NotifyState::Stopping]);
            deadline = Some(Instant::now() + ASIDE);
            let pid = Pid::from_child(&child);
            kill_process(pid, Signal::TERM).map_err(|error| worker("stop")(error.into()))?;
        }
        if !said {
            continue;
        }
        let mut word = [0];
        match link.read(&mut word) {
            Ok(1) if word[0] == READY => {
                notify(&[NotifyState::Ready, NotifyState::Status("routing")]);
            }
            Ok(1) if word[0] == GONE_ASIDE => return Ok(()),
            Ok(1) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It has ended.
            Ok(_) | Err(_) => {
                let status = child.wait().map_err(worker("wait for"))?;
                return if deadline.is_some() && status.success() {
                    Ok(())
                } else {
                    Err(KeeperError::Ended(status))
                };
            }
        }
    }
}

/// Waits until there is a signal, or a word of the worker.
fn wait(
    signals: &UnixStream,
    link: &UnixStream,
    left: Option<Duration>,
) -> io::Result<(bool, bool)> {
    let left = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    });
    let mut both = [
        PollFd::new(signals, PollFlags::IN),
        PollFd::new(link, PollFlags::IN),
    ];
    match poll(&mut both, left.as_ref()) {
        Err(rustix::io::Errno::INTR) => return Ok((false, false)),
        result => result?,
    };
    let [asked, said] = both.map(|one| !one.revents().is_empty());
    if asked {
        let mut rest = [0; 64];
        let mut signals: &UnixStream = signals;
        let _ = signals.read(&mut rest)?;
    }
    Ok((asked, said))
}

fn send(link: &UnixStream, listeners: &Listeners) -> io::Result<()> {
    let (names, sockets): (Vec<&str>, Vec<BorrowedFd<'_>>) = listeners
        .all()
        .map(|(name, one)| (name, one.as_fd()))
        .unzip();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("too many sockets"));
    }
    let names = names.join(",");
    let text = [IoSlice::new(names.as_bytes())];
    let sent = sendmsg(link, &text, &mut rights, SendFlags::empty())?;
    (sent == names.len())
        .then_some(())
        .ok_or_else(|| io::ErrorKind::WriteZero.into())
}

/// The worker's end: its keeper.
#[derive(Debug)]
pub struct Keeper(UnixStream);

impl Keeper {
    /// Takes over the sockets that the keeper sends through standard input.
    ///
    /// # Errors
    /// When there is no keeper.
    pub fn join() -> io::Result<(Self, Listeners)> {
        let link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let listeners = receive(&link)?;
        Ok((Self(link), listeners))
    }

    /// Tells it that the router serves.
    pub fn ready(&self) {
        self.say(READY);
    }

    /// Tells it that the next router may come.
    pub fn gone_aside(&self) {
        self.say(GONE_ASIDE);
    }

    fn say(&self, word: u8) {
        let mut link: &UnixStream = &self.0;
        // Without a keeper nobody has to know.
        let _ = link.write_all(&[word]);
    }

    /// Waits until it is gone: then there is nobody whom systemd could ask to stop. Cancel safe.
    pub async fn gone(&self) {
        let link = self.0.try_clone().and_then(|link| {
            link.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(link)
        });
        let Ok(link) = link else {
            return std::future::pending().await;
        };
        let mut byte = [0];
        loop {
            // The keeper says nothing: what can be read is its end.
            if link.readable().await.is_err() {
                return;
            }
            match link.try_read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(1) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}

fn receive(link: &UnixStream) -> io::Result<Listeners> {
    let mut text = [0; NAMES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut room = [IoSliceMut::new(&mut text)];
    let got = recvmsg(link, &mut room, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let sockets: Vec<OwnedFd> = rights
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        })
        .flatten()
        .collect();
    let names = std::str::from_utf8(&text[..got.bytes]).map_err(io::Error::other)?;
    let names: Vec<&str> = names.split(',').collect();
    if names.len() != sockets.len() {
        return Err(io::Error::other(format!(
            "{} names and {} sockets came: start the router by its unit",
            names.len(),
            sockets.len()
        )));
    }
    let mut all = Listeners::default();
    for (name, socket) in names.into_iter().zip(sockets) {
        let listener = TcpListener::from(socket);
        match name {
            "http" => all.http.push(listener),
            "https" => all.https.push(listener),
            "git" => all.git.push(listener),
            "health" => all.health.push(listener),
            other => return Err(io::Error::other(format!("what is {other:?}?"))),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};

    use super::*;

    #[test]
    fn sockets_reach_the_worker() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let all = Listeners::bind([any; 4], 8, Vec::new()).expect("bound");
        let (link, end) = UnixStream::pair().expect("pair");
        send(&link, &all).expect("sent");
        let got = receive(&end).expect("received");
        let named = |all: &Listeners| {
            let address = |one: &TcpListener| one.local_addr().expect("address");
            all.all()
                .map(|(name, one)| (name, address(one)))
                .collect::<Vec<_>>()
        };
        assert_eq!(named(&all), named(&got));
        // Whoever connects while nobody accepts is accepted by the next one.
        let address = all.git[0].local_addr().expect("address");
        let client = TcpStream::connect(address).expect("connected");
        drop(all);
        got.git[0].set_nonblocking(false).expect("blocking");
        let (_, peer) = got.git[0].accept().expect("accepted");
        assert_eq!(peer, client.local_addr().expect("address"));
    }
}
