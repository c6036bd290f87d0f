//! The announcer: probes the process and tells the agent what it finds, for ever.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    health::{Health, Word, json},
    probe, retries,
    ship::connect,
    wait::{Interest, wait},
};
use crate::backoff::{Backoff, random};

/// A process without a port is healthy when it has been active for this long.
const ACTIVE: Duration = Duration::from_secs(1);
/// The loop looks around at least this often.
const ROUND: Duration = Duration::from_secs(60);

/// How to find out whether the process is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The unit starts this program with the app and stops it with the app, so being alive for a
    /// second is the proof.
    Active,
    /// Its port is open.
    Tcp(SocketAddr),
    /// It answers a GET with 200.
    Http {
        /// Where.
        address: SocketAddr,
        /// What is asked for.
        path: String,
        /// How long it may take to answer.
        timeout: Duration,
        /// Not asked before this time has passed.
        initial_delay: Duration,
    },
}

/// What the announcer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The agent's socket.
    pub agent: PathBuf,
    /// The process's unit stem.
    pub unit: String,
    /// Its uuid.
    pub uuid: String,
    /// How to find out.
    pub check: Check,
}

/// Runs until it is killed: it keeps nothing that would need an end.
///
/// # Errors
/// When poll(2) fails.
pub fn run(options: &Options) -> io::Result<()> {
    let mut health = Health::default();
    let mut line = Line::new(options);
    let start = Instant::now();
    let mut next_probe = match &options.check {
        Check::Active => Some(start + ACTIVE),
        Check::Tcp(_) => Some(start),
        Check::Http { initial_delay, .. } => Some(start + *initial_delay),
    };
    loop {
        let now = Instant::now();
        if next_probe.is_some_and(|at| now >= at) {
            if let Some(word) = probe_once(&options.check, &mut health) {
                line.say(&word);
            }
            next_probe = match options.check {
                Check::Active => None,
                _ => Some(now + health.interval()),
            };
        }
        line.tend(health.last_word());
        let mut until = Instant::now() + ROUND;
        for timer in [next_probe, line.retry_at()].into_iter().flatten() {
            until = until.min(timer);
        }
        let interest = line.socket().map(|socket| Interest {
            fd: socket.as_fd(),
            writable: false,
        });
        wait(interest.as_slice(), until)?;
    }
}

/// One probe; for a process without a port, the one that counts.
fn probe_once(check: &Check, health: &mut Health) -> Option<Word> {
    match check {
        Check::Active => {
            let first = health.observe(Ok(()));
            first.or_else(|| health.observe(Ok(())))
        }
        Check::Tcp(address) => health.observe(probe::tcp(*address)),
        Check::Http {
            address,
            path,
            timeout,
            ..
        } => health.observe(probe::http(*address, path, health.patience(*timeout))),
    }
}

/// The line to the agent.
#[derive(Debug)]
enum State {
    Connected(UnixStream),
    Broken { retry: Instant },
}

#[derive(Debug)]
struct Line<'o> {
    agent: &'o Path,
    hello: String,
    state: State,
    backoff: Backoff,
}

impl<'o> Line<'o> {
    fn new(options: &'o Options) -> Self {
        Self {
            agent: &options.agent,
            hello: format!(
                "{{\"hello\":\"announce\",\"unit\":{},\"uuid\":{}}}\n",
                json(&options.unit),
                json(&options.uuid)
            ),
            state: State::Broken {
                retry: Instant::now(),
            },
            backoff: retries(),
        }
    }

    fn socket(&self) -> Option<&UnixStream> {
        match &self.state {
            State::Connected(socket) => Some(socket),
            State::Broken { .. } => None,
        }
    }

    fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Connected(_) => None,
            State::Broken { retry } => Some(retry),
        }
    }

    /// Says a word, if there is a connection; a new one begins with the last word anyway.
    fn say(&mut self, word: &Word) {
        if let State::Connected(socket) = &mut self.state
            && let Err(error) = socket.write_all(word.encode().as_bytes())
        {
            self.broken(&error);
        }
    }

    /// Notices that the agent is gone, and comes back to it, repeating the last word.
    fn tend(&mut self, last_word: Option<&Word>) {
        if let State::Connected(socket) = &mut self.state {
            // The agent has nothing to say; what it says anyway is not for this version.
            let ended = loop {
                match socket.read(&mut [0; 256]) {
                    Ok(0) => break Some(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                    Err(error) => break Some(error),
                }
            };
            match ended {
                Some(error) => self.broken(&error),
                None => self.backoff.reset(),
            }
        }
        if self.retry_at().is_some_and(|at| Instant::now() >= at) {
            match self.reconnect(last_word) {
                Ok(socket) => self.state = State::Connected(socket),
                Err(error) => self.broken(&error),
            }
        }
    }

    fn reconnect(&self, last_word: Option<&Word>) -> io::Result<UnixStream> {
        let mut socket = connect(self.agent)?;
        let mut text = self.hello.clone();
        if let Some(word) = last_word {
            text.push_str(&word.encode());
        }
        // A new socket's buffer takes these few bytes at once.
        socket.write_all(text.as_bytes())?;
        Ok(socket)
    }

    fn broken(&mut self, error: &io::Error) {
        if matches!(self.state, State::Connected(_)) {
            eprintln!("deis-sidecar: the agent's socket closed ({error}); trying again");
        }
        self.state = State::Broken {
            retry: Instant::now() + self.backoff.next(random()),
        };
    }
}
