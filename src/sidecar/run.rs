//! The sidecar of a one-off process: starts it as its child and keeps its end of the session (see
//! [`crate::session`]). One loop around poll(2); what it can't bring away, it doesn't read.

mod child;

use std::{
    fs::File,
    io::{self, Read, Write},
    net::SocketAddr,
    os::{fd::AsFd, unix::net::UnixStream, unix::process::CommandExt},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};

use self::child::Child;
use super::{health::json, ship::connect, wait::wait_for};
use crate::{
    backoff::{Backoff, random},
    session::{
        ALONE, Channel, Frame, FrameError, Link, LinkError, Order, PING, Part, SILENCE, Size,
        Status, frame::MAX_FRAME,
    },
};

/// Bytes that are put in line for the agent's socket at once.
const OUTPUT: usize = 64 << 10;
/// How long a process may take to end after it was asked to; less than the unit's TimeoutStopSec=.
const GRACE: Duration = Duration::from_secs(8);
/// How long its last words may take to be brought away when the unit is being stopped.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The loop looks around at least this often.
const ROUND: Duration = Duration::from_secs(60);
/// Exit code of a process that could not be started.
const NOT_STARTED: i32 = 126;

/// What the sidecar of a one-off is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The agent's socket.
    pub agent: PathBuf,
    /// The process's unit stem.
    pub unit: String,
    /// The file with its [`Errand`].
    pub errand: PathBuf,
    /// The program that runs it and its arguments; the command line becomes the last one.
    pub program: Vec<String>,
}

/// What the agent leaves for the sidecar, in a file that only root may read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Errand {
    /// What to run.
    #[serde(flatten)]
    pub order: Order,
    /// Who waits; nobody for a detached process.
    #[serde(default)]
    pub attach: Option<SocketAddr>,
    /// Its memory limit.
    pub memory_bytes: u64,
}

/// Why the sidecar of a one-off can't do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The errand can't be read.
    #[error("the errand {0} can't be read: {1}")]
    Errand(PathBuf, #[source] io::Error),
    /// No program was given.
    #[error("no program is given after --")]
    Program,
    /// The program can't be started.
    #[error("{0} can't be started: {1}")]
    Start(String, #[source] io::Error),
    /// Signals or poll(2).
    #[error("can't wait for signals and sockets: {0}")]
    Wait(#[source] io::Error),
}

/// Runs the process to its end; what is returned is its exit code.
///
/// # Errors
/// When it can't be started, or waited for.
pub fn run(options: &Options) -> Result<i32, RunError> {
    let unreadable = |error| RunError::Errand(options.errand.clone(), error);
    let text = std::fs::read(&options.errand).map_err(unreadable)?;
    let errand: Errand = serde_json::from_slice(&text).map_err(|e| unreadable(e.into()))?;
    let (program, args) = options.program.split_first().ok_or(RunError::Program)?;
    let mut command = Command::new(program);
    command.args(args).arg(&errand.order.command);
    let Some(attach) = errand.attach else {
        // Nobody waits: the process takes the sidecar's place.
        return Err(RunError::Start(program.clone(), command.exec()));
    };
    Session::begin(options, &errand, attach, command)?.last()
}

/// The connection to the agent.
struct Connection {
    socket: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// When something last came, or it was opened.
    heard: Instant,
    /// When something was last said.
    said: Instant,
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the agent's socket failed: {0}")]
    Socket(#[from] io::Error),
    #[error("the agent or the controller closed the connection")]
    Closed,
    #[error("no sign of life from the controller for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the other end breaks the rules: {0}")]
    Frame(#[from] FrameError),
    #[error("the other end breaks the rules: {0}")]
    Link(#[from] LinkError),
    #[error("nobody waits for this process any more")]
    Gone,
}

impl Trouble {
    /// Whether there is no use in another connection.
    const fn is_final(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Link(_) | Self::Gone)
    }
}

struct Session<'o> {
    options: &'o Options,
    greeting: String,
    child: Child,
    link: Link,
    connection: Option<Connection>,
    retry_at: Instant,
    backoff: Backoff,
    /// When somebody was last there.
    heard: Instant,
    /// Since when the process is to end.
    ending: Option<Instant>,
    /// Nobody is to be told anything any more.
    alone: bool,
    code: Option<i32>,
    memory_bytes: u64,
    out_of_memory: OutOfMemory,
    terminated: Arc<AtomicBool>,
    wake: UnixStream,
    complained: bool,
}

impl<'o> Session<'o> {
    fn begin(
        options: &'o Options,
        errand: &Errand,
        attach: SocketAddr,
        command: Command,
    ) -> Result<Self, RunError> {
        let terminated = Arc::new(AtomicBool::new(false));
        let wake = signals(&terminated).map_err(RunError::Wait)?;
        // Before the runtime moves us to another group.
        let out_of_memory = OutOfMemory::here();
        let program = options.program.first().cloned().unwrap_or_default();
        let size = errand.order.terminal.as_ref().map(|terminal| terminal.size);
        let child = Child::start(command, size, errand.order.input);
        let token = errand.order.token.as_deref().unwrap_or_default();
        let now = Instant::now();
        let mut session = Self {
            options,
            greeting: format!(
                "{{\"hello\":\"run\",\"unit\":{},\"attach\":\"{attach}\"}}\n{{\"token\":{}}}\n",
                json(&options.unit),
                json(token),
            ),
            child: Child::none(),
            link: Link::opening(),
            connection: None,
            retry_at: now,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            heard: now,
            ending: None,
            alone: false,
            code: None,
            memory_bytes: errand.memory_bytes,
            out_of_memory,
            terminated,
            wake,
            complained: false,
        };
        match child {
            Ok(child) => session.child = child,
            // Whoever waits is told, as of any other end.
            Err(error) => {
                let why = format!("{program} can't be started: {error}");
                session.end(NOT_STARTED, &Status::Failed { why });
            }
        }
        Ok(session)
    }

    /// The loop; ends when the process has, and everybody who is there knows.
    fn last(mut self) -> Result<i32, RunError> {
        loop {
            let now = Instant::now();
            self.converse(now);
            self.child.feed(&mut self.link);
            self.child.read(&mut self.link);
            if self.code.is_none() {
                self.reap().map_err(RunError::Wait)?;
            }
            // What was read just now goes out without another round.
            self.converse(now);
            self.decide(now);
            if let Some(code) = self.code
                && (self.alone || self.link.is_settled())
            {
                return Ok(code);
            }
            self.wait(now).map_err(RunError::Wait)?;
        }
    }

    /// Sees whether it is time for something.
    fn decide(&mut self, now: Instant) {
        if self.terminated.load(Ordering::Relaxed) {
            self.finish(now);
        }
        if now >= self.heard + ALONE && !self.alone {
            eprintln!(
                "deis-sidecar: nobody has been there for {} s: the process is ended",
                ALONE.as_secs()
            );
            self.alone = true;
            self.finish(now);
        }
        let Some(since) = self.ending else { return };
        if self.code.is_none() && now >= since + GRACE {
            // What is left of it dies with the unit.
            self.child.kill();
            self.end(
                128 + 9,
                &Status::Ended {
                    code: 128 + 9,
                    remark: None,
                },
            );
            self.ending = Some(now);
        } else if self.code.is_some() && now >= since + LAST_WORDS {
            self.alone = true;
        }
    }

    /// Asks the process to end.
    fn finish(&mut self, now: Instant) {
        if self.ending.is_none() {
            self.ending = Some(now);
            self.child.hang_up();
        }
    }

    /// The process has ended: that is the last part.
    fn end(&mut self, code: i32, status: &Status) {
        let text = serde_json::to_vec(status).expect("invariant: a status is plain JSON");
        self.link.push(Part::new(Channel::Status, text));
        self.code = Some(code);
        if let Some(since) = &mut self.ending {
            *since = Instant::now();
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        // All that it has printed comes before its end.
        let Some(code) = self.child.ended(&mut self.link)? else {
            return Ok(());
        };
        let how = match self.out_of_memory.happened() {
            Some(true) => Some("killed: out of memory"),
            // Nobody else kills without a word before.
            None if code == KILLED && self.ending.is_none() => {
                Some("killed, most likely: out of memory")
            }
            Some(false) | None => None,
        };
        let remark = how.map(|how| {
            let limit = self.memory_bytes >> 20;
            format!("{how} (its limit is {limit} MiB; see `deis limits`)")
        });
        self.end(code, &Status::Ended { code, remark });
        Ok(())
    }

    /// Sends and receives what can be without waiting.
    fn converse(&mut self, now: Instant) {
        if self.alone {
            return;
        }
        let Err(trouble) = self.try_converse(now) else {
            return;
        };
        if !self.complained || trouble.is_final() {
            eprintln!("deis-sidecar: {trouble}");
            self.complained = true;
        }
        self.connection = None;
        self.retry_at = now + self.backoff.next(random());
        if trouble.is_final() {
            self.alone = true;
            self.finish(now);
        }
    }

    fn try_converse(&mut self, now: Instant) -> Result<(), Trouble> {
        if self.connection.is_none() {
            if now < self.retry_at {
                return Ok(());
            }
            self.connection = Some(Connection::open(&self.options.agent, &self.greeting, now)?);
            self.link.connected();
        }
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if connection.receive(now)? {
            self.heard = now;
        }
        let mut begun = 0;
        while let Some((frame, taken)) = Frame::read(&connection.input[begun..])? {
            begun += taken;
            match frame {
                Frame::Gone => return Err(Trouble::Gone),
                frame => {
                    if let Some(part) = self.link.hear(frame)? {
                        self.child.hear(part, &mut self.link);
                    }
                }
            }
        }
        connection.input.drain(..begun);
        if self.link.is_open() {
            self.backoff.reset();
            self.complained = false;
        }
        connection.send(&mut self.link, now)?;
        if now >= connection.heard + SILENCE {
            return Err(Trouble::Silent);
        }
        Ok(())
    }

    fn wait(&self, now: Instant) -> io::Result<()> {
        let mut until = now + ROUND;
        let mut interests = vec![(self.wake.as_fd(), PollFlags::IN)];
        match &self.connection {
            _ if self.alone => {}
            Some(connection) => {
                let is_writing = connection.written < connection.output.len();
                let mut flags = PollFlags::IN;
                flags.set(PollFlags::OUT, is_writing);
                interests.push((connection.socket.as_fd(), flags));
                until = until.min(connection.heard + SILENCE);
                if !is_writing {
                    until = until.min(connection.said + PING);
                }
            }
            None => until = until.min(self.retry_at),
        }
        if !self.alone {
            until = until.min(self.heard + ALONE);
        }
        if let Some(since) = self.ending {
            let bound = if self.code.is_some() {
                LAST_WORDS
            } else {
                GRACE
            };
            until = until.min(since + bound);
        }
        self.child.interests(&self.link, &mut interests);
        wait_for(&interests, until)?;
        // One wake-up is as good as many.
        let mut wake = &self.wake;
        while matches!(wake.read(&mut [0; 64]), Ok(read) if read > 0) {}
        Ok(())
    }
}

impl Connection {
    fn open(agent: &std::path::Path, greeting: &str, now: Instant) -> io::Result<Self> {
        Ok(Self {
            socket: connect(agent)?,
            input: Vec::new(),
            output: greeting.as_bytes().to_vec(),
            written: 0,
            heard: now,
            said: now,
        })
    }

    /// Reads what has come, a few frames at most; whether anything has.
    fn receive(&mut self, now: Instant) -> Result<bool, Trouble> {
        let mut chunk = [0; 16 << 10];
        let before = self.input.len();
        while self.input.len() < 4 * MAX_FRAME {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(Trouble::Closed),
                Ok(read) => {
                    self.input.extend_from_slice(&chunk[..read]);
                    self.heard = now;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.input.len() > before)
    }

    /// Writes what is in line, until the socket is full or nothing is left.
    fn send(&mut self, link: &mut Link, now: Instant) -> Result<(), Trouble> {
        loop {
            while self.written < self.output.len() {
                match self.socket.write(&self.output[self.written..]) {
                    Ok(0) => return Err(Trouble::Closed),
                    Ok(written) => self.written += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.output.clear();
            self.written = 0;
            while self.output.len() < OUTPUT
                && let Some(frame) = link.next_frame()
            {
                frame.write(&mut self.output);
            }
            if self.output.is_empty() && now >= self.said + PING {
                Frame::Ping.write(&mut self.output);
            }
            if self.output.is_empty() {
                return Ok(());
            }
            self.said = now;
        }
    }
}

/// Catches the signals that the loop has to know of; each makes the returned socket readable.
fn signals(terminated: &Arc<AtomicBool>) -> io::Result<UnixStream> {
    let (wake, signals) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    signals.set_nonblocking(true)?;
    flag::register(SIGTERM, terminated.clone())?;
    pipe::register(SIGTERM, signals.try_clone()?)?;
    pipe::register(SIGCHLD, signals)?;
    // The terminal is the process's: what it sends is not for us.
    let ignored = Arc::new(AtomicBool::new(false));
    flag::register(SIGHUP, ignored.clone())?;
    flag::register(SIGINT, ignored)?;
    Ok(wake)
}

/// Exit code of a command that SIGKILL has ended.
const KILLED: i32 = 128 + 9;

/// Whether something in this unit was killed for want of memory.
struct OutOfMemory(Option<PathBuf>);

impl OutOfMemory {
    /// Looks where we are: the runtime moves us into a group below.
    fn here() -> Self {
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path = group.lines().find_map(|line| line.strip_prefix("0::/"));
        Self(path.map(|path| {
            PathBuf::from("/sys/fs/cgroup")
                .join(path)
                .join("memory.events")
        }))
    }

    /// None when nobody counts: with cgroup v1 the count goes with the container.
    fn happened(&self) -> Option<bool> {
        let mut text = String::new();
        let file = File::open(self.0.as_ref()?).ok()?;
        file.take(4096).read_to_string(&mut text).ok()?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Some(count?.trim() != "0")
    }
}

/// Reads a size; nonsense changes nothing.
fn parse_size(bytes: &[u8]) -> Option<Size> {
    serde_json::from_slice(bytes).ok()
}
