//! Brings the spool to a logger through the agent's socket.
//!
//! A connection is made when there is something to send, and closed after ten quiet seconds. The
//! logger first says what it has; sending goes on from there, so that nothing comes twice and what
//! is missing is known to the byte.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::{
    backoff::{Backoff, random},
    health::json,
    segments::Cursor,
    spool::{Spool, SpoolError},
    wire::{Data, Hello, MAX_HEADER, Position, Reply, Source, WireError, take_line},
};
use crate::model::AppName;

/// A connection without anything to send is closed after this time.
const QUIET: Duration = Duration::from_secs(10);
/// A logger that owes an answer for so long is given up.
const ANSWER: Duration = Duration::from_secs(15);

/// Whose log goes where.
#[derive(Debug, Clone)]
pub struct Address {
    /// The agent's socket.
    pub agent: PathBuf,
    /// The process's unit stem.
    pub unit: String,
    /// Its uuid.
    pub uuid: String,
    /// Its app.
    pub app: AppName,
    /// What stands in its tag's brackets.
    pub source: Source,
}

/// Connects without waiting: an agent whose queue is full is as good as none.
///
/// # Errors
/// When nobody listens there, or the queue is full.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The agent's socket failed.
    #[error("the agent's socket failed")]
    Socket(#[from] io::Error),
    /// The other side closed: the agent restarts, or has no logger.
    #[error("the agent or the logger closed the connection")]
    Closed,
    /// No answer in time.
    #[error("no answer from the logger in {} s", ANSWER.as_secs())]
    Silent,
    /// The logger said something else.
    #[error("the logger's answer makes no sense")]
    Wire(#[from] WireError),
    /// The logger acknowledged what was never sent.
    #[error("the logger claims position {0}, which was never sent")]
    Ahead(Position),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    /// Received, not understood yet.
    input: Vec<u8>,
    /// To be written, and how much of it was.
    output: Vec<u8>,
    written: usize,
    /// None until the logger has said where to begin.
    cursor: Option<Cursor>,
    /// When it last did something, or began to owe an answer.
    active: Instant,
}

#[derive(Debug)]
enum State {
    /// Nothing to do.
    Idle,
    /// The next try is at this time.
    Retry(Instant),
    Connected(Connection),
}

/// The way to the logger.
#[derive(Debug)]
pub struct Ship {
    address: Address,
    state: State,
    backoff: Backoff,
    /// What one frame is read into.
    buffer: Vec<u8>,
    /// Says each trouble once.
    complained: bool,
}

impl Ship {
    /// A way that is not connected yet.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            state: State::Idle,
            backoff: Backoff::default(),
            buffer: Vec::new(),
            complained: false,
        }
    }

    /// Forgets how long it wanted to wait: the end is near.
    pub fn hurry(&mut self) {
        if matches!(self.state, State::Retry(_)) {
            self.state = State::Idle;
        }
        self.backoff.reset();
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// The descriptor to wait for, and whether it is to be written.
    #[must_use]
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, bool)> {
        match &self.state {
            State::Connected(c) => Some((c.socket.as_fd(), c.written < c.output.len())),
            _ => None,
        }
    }

    /// When to come back at the latest.
    #[must_use]
    pub fn deadline(&self, spool: &Spool) -> Option<Instant> {
        match &self.state {
            State::Idle => None,
            State::Retry(at) => Some(*at),
            State::Connected(c) => Some(c.active + c.patience(spool)),
        }
    }

    /// Does what can be done without waiting. Trouble ends the connection, never the program.
    pub fn step(&mut self, spool: &mut Spool, flush: bool, now: Instant, now_ms: u64) {
        if let Err(error) = self.try_step(spool, flush, now, now_ms) {
            if !self.complained {
                eprintln!(
                    "deis-sidecar: {}; lines are kept on this host meanwhile",
                    super::describe(&error)
                );
                self.complained = true;
            }
            self.state = State::Retry(now + self.backoff.next(random()));
        }
    }

    fn try_step(
        &mut self,
        spool: &mut Spool,
        flush: bool,
        now: Instant,
        now_ms: u64,
    ) -> Result<(), ShipError> {
        match &self.state {
            State::Retry(at) if *at > now => return Ok(()),
            State::Idle | State::Retry(_) => {
                let mut cursor = spool.cursor(spool.acked());
                let piece = spool.read(&mut cursor, &mut self.buffer, flush, now_ms)?;
                if piece.is_none() {
                    self.state = State::Idle;
                    return Ok(());
                }
                self.state = State::Connected(self.connect(spool, now)?);
            }
            State::Connected(_) => {}
        }
        let State::Connected(connection) = &mut self.state else {
            return Ok(());
        };
        connection.receive(spool, now)?;
        connection.send(spool, &mut self.buffer, flush, now, now_ms)?;
        if connection.cursor.is_some() {
            self.backoff.reset();
            self.complained = false;
        }
        if now >= connection.active + connection.patience(spool) {
            if connection.owed(spool) {
                return Err(ShipError::Silent);
            }
            self.state = State::Idle;
        }
        Ok(())
    }

    /// Connects to the agent and puts both greetings in line: the agent reads the first.
    fn connect(&self, spool: &Spool, now: Instant) -> Result<Connection, ShipError> {
        let Address {
            agent,
            unit,
            uuid,
            app,
            source,
        } = &self.address;
        let socket = connect(agent)?;
        let tag = format!("{app}[{source}]");
        let mut output = format!(
            "{{\"hello\":\"log\",\"unit\":{},\"uuid\":{},\"tag\":{},\"app\":{}}}\n",
            json(unit),
            json(uuid),
            json(&tag),
            json(app.as_str()),
        );
        let hello = Hello {
            app: app.clone(),
            source: source.clone(),
            stream: spool.stream().clone(),
            acked: spool.acked(),
        };
        output.push_str(&hello.encode());
        Ok(Connection {
            socket,
            input: Vec::new(),
            output: output.into_bytes(),
            written: 0,
            cursor: None,
            active: now,
        })
    }
}

impl Connection {
    /// Whether the logger owes an answer.
    fn owed(&self, spool: &Spool) -> bool {
        self.cursor
            .is_none_or(|cursor| spool.acked().offset < cursor.at.offset && !cursor.skipping)
    }

    fn patience(&self, spool: &Spool) -> Duration {
        if self.owed(spool) { ANSWER } else { QUIET }
    }

    /// Reads all that the logger says.
    fn receive(&mut self, spool: &mut Spool, now: Instant) -> Result<(), ShipError> {
        let mut chunk = [0; 4 * MAX_HEADER];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(ShipError::Closed),
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            while let Some((line, taken)) = take_line(&self.input)? {
                let reply = Reply::parse(line)?;
                self.input.drain(..taken);
                self.active = now;
                match (reply, self.cursor) {
                    (Reply::Have(position), None) => {
                        if position.offset > spool.end() {
                            return Err(ShipError::Ahead(position));
                        }
                        spool.acknowledge(position);
                        self.cursor = Some(spool.resume(position));
                    }
                    (Reply::Ack(position), Some(cursor)) if position.offset <= cursor.at.offset => {
                        spool.acknowledge(position);
                    }
                    (Reply::Have(position) | Reply::Ack(position), _) => {
                        return Err(ShipError::Ahead(position));
                    }
                }
            }
        }
    }

    /// Writes frame after frame, until the socket is full or nothing is left.
    fn send(
        &mut self,
        spool: &mut Spool,
        buffer: &mut Vec<u8>,
        flush: bool,
        now: Instant,
        now_ms: u64,
    ) -> Result<(), ShipError> {
        loop {
            while self.written < self.output.len() {
                match self.socket.write(&self.output[self.written..]) {
                    Ok(0) => return Err(ShipError::Closed),
                    Ok(written) => self.written += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.output.clear();
            self.written = 0;
            let Some(cursor) = &mut self.cursor else {
                return Ok(());
            };
            let nothing_owed = spool.acked().offset >= cursor.at.offset;
            let Some(piece) = spool.read(cursor, buffer, flush, now_ms)? else {
                return Ok(());
            };
            if nothing_owed {
                self.active = now;
            }
            let header = Data {
                at: piece.at,
                time_ms: piece.time_ms,
                len: piece.len,
            };
            self.output.extend_from_slice(header.encode().as_bytes());
            self.output.extend_from_slice(&buffer[..piece.len]);
        }
    }
}
