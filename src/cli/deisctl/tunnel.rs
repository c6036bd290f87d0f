//! A port on this machine that leads through SSH to a port that another host can reach.
//!
//! libssh2 locks a whole session during each call, so that two streams in one session would wait
//! for each other: each forwarded connection has a session and a thread of its own.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, Session};

use super::ssh::{Address, Ssh, SshError};

/// Most connections that one tunnel forwards at a time.
const MAX_CONNECTIONS: usize = 32;
/// Bytes on their way in each direction.
const BUFFER: usize = 64 << 10;
/// Longest sleep of a thread that has nothing to forward.
const IDLE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// A tunnel; it takes no new connection once it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    local: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Tunnel {
    /// Digs a tunnel to `target`, as seen from `jump`. Returns when it was seen to work.
    ///
    /// # Errors
    /// When `jump` can't be logged in to, or doesn't reach `target`.
    pub fn open(ssh: &Ssh, jump: &Address, target: Address) -> Result<Self, SshError> {
        drop(Line::open(ssh, jump, &target)?);
        let listen = |source| SshError::Connect {
            host: Address::host("127.0.0.1"),
            source,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let closed = Arc::new(AtomicBool::new(false));
        let (ssh, jump, stop) = (ssh.clone(), jump.clone(), closed.clone());
        thread::spawn(move || accept(&listener, &ssh, &jump, &target, &stop));
        Ok(Self { local, closed })
    }

    /// The near end.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.local));
    }
}

fn accept(
    listener: &TcpListener,
    ssh: &Ssh,
    jump: &Address,
    target: &Address,
    closed: &AtomicBool,
) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if closed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(
                most = MAX_CONNECTIONS,
                "the tunnel refuses a connection: too many"
            );
            continue;
        }
        let (ssh, jump, target, open) = (ssh.clone(), jump.clone(), target.clone(), open.clone());
        thread::spawn(move || {
            match Line::open(&ssh, &jump, &target) {
                Ok(line) => {
                    if let Err(error) = line.forward(stream) {
                        tracing::debug!(%error, "a connection through the tunnel broke off");
                    }
                }
                Err(error) => tracing::warn!(%error, %target, "the tunnel is interrupted"),
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One connection's session, the socket below it, and the channel in it.
struct Line {
    session: Session,
    socket: TcpStream,
    channel: Channel,
}

impl Line {
    fn open(ssh: &Ssh, jump: &Address, target: &Address) -> Result<Self, SshError> {
        let (session, socket) = ssh.session(jump)?;
        let port = target.port.unwrap_or(22);
        let channel = session
            .channel_direct_tcpip(&target.host, port, None)
            .map_err(|source| SshError::Protocol {
                host: jump.clone(),
                doing: "opening a connection from there",
                source,
            })?;
        Ok(Self {
            session,
            socket,
            channel,
        })
    }

    /// Copies both ways until both ends have said all they had to say, or one breaks.
    fn forward(mut self, mut near: TcpStream) -> io::Result<()> {
        self.session.set_blocking(false);
        near.set_nonblocking(true)?;
        near.set_nodelay(true)?;
        let mut up = Pipe::new();
        let mut down = Pipe::new();
        let mut eof_sent = false;
        loop {
            let mut moved = up.fill(&mut near)?;
            moved |= up.empty_into(&mut self.channel)?;
            moved |= down.fill(&mut self.channel)?;
            moved |= down.empty_into(&mut near)?;
            if up.is_done() && !eof_sent {
                match self.channel.send_eof() {
                    Ok(()) => eof_sent = true,
                    Err(error) => would_block(error.into())?,
                }
            }
            if down.is_done() {
                // The far end has said all: nobody listens there any more.
                return near.shutdown(Shutdown::Both);
            }
            if !moved {
                self.sleep(&near, &up, &down)?;
            }
        }
    }

    /// Sleeps until one of the sockets can do what we wait for.
    fn sleep(&self, near: &TcpStream, up: &Pipe, down: &Pipe) -> io::Result<()> {
        let mut near_wants = PollFlags::empty();
        near_wants.set(PollFlags::IN, up.has_room());
        near_wants.set(PollFlags::OUT, !down.is_empty());
        // A write may wait for the other end to take more, which is told on the way in.
        let mut far_wants = PollFlags::empty();
        far_wants.set(PollFlags::IN, down.has_room() || !up.is_empty());
        let outbound = matches!(
            self.session.block_directions(),
            BlockDirections::Outbound | BlockDirections::Both
        );
        far_wants.set(PollFlags::OUT, outbound);
        let mut fds = [
            PollFd::new(near, near_wants),
            PollFd::new(&self.socket, far_wants),
        ];
        match poll(&mut fds, Some(&IDLE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // The near end is gone for good, and neither a read nor a write would tell.
        let gone = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        if gone && up.ended && down.is_empty() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// Ok for an error that only means "not now".
fn would_block(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

/// Bytes on their way in one direction.
struct Pipe {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl Pipe {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            ended: false,
        }
    }

    const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    const fn is_done(&self) -> bool {
        self.ended && self.is_empty()
    }

    const fn has_room(&self) -> bool {
        self.is_empty() && !self.ended
    }

    /// Reads once if there is nothing on its way; says whether something happened.
    fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        if !self.has_room() {
            return Ok(false);
        }
        match from.read(&mut self.buffer) {
            Ok(0) => self.ended = true,
            Ok(read) => (self.start, self.end) = (0, read),
            Err(error) => return would_block(error).map(|()| false),
        }
        Ok(true)
    }

    /// Writes once what is on its way; says whether something happened.
    fn empty_into(&mut self, to: &mut impl Write) -> io::Result<bool> {
        if self.is_empty() {
            return Ok(false);
        }
        match to.write(&self.buffer[self.start..self.end]) {
            Ok(written) => self.start += written,
            Err(error) => return would_block(error).map(|()| false),
        }
        Ok(true)
    }
}
