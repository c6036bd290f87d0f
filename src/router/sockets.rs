//! How the router's sockets are set up.

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Whom a connection leads to: how long its silence is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Somebody far away, or a backend that may be slow to read what it is sent.
    Patient,
    /// A backend that is only sent heads. Its kernel takes those at once however busy it is: when it
    /// doesn't, its host is gone, and the request can be asked elsewhere.
    Backend,
}

/// Sends at once, and notices when the other side is gone without a word.
pub fn tune(stream: &TcpStream, peer: Peer) {
    let (idle, interval, user_timeout_ms) = match peer {
        Peer::Patient => (Duration::from_secs(30), Duration::from_secs(10), 60_000),
        Peer::Backend => (Duration::from_secs(2), Duration::from_secs(1), 2_000),
    };
    // None of these can fail on a live TCP socket; on a dead one the next read says so.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, idle);
    let _ = sockopt::set_tcp_keepintvl(stream, interval);
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
    let _ = sockopt::set_tcp_user_timeout(stream, user_timeout_ms);
}

/// A listener; several may share an address, the kernel spreads connections over them.
///
/// # Errors
/// When the address is taken or not this host's.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
