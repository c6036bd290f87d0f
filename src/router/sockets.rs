//! How the router's sockets are set up.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Whom a connection leads to: how long its silence is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Somebody far away, or a backend that may be slow to read what it is sent.
    Patient,
    /// A backend that is only sent heads. Its kernel takes those at once however busy it is: when it
    /// doesn't, its host is gone, and the request can be asked elsewhere.
    Backend,
}

/// Sends at once, and notices when the other side is gone without a word. What a listener accepts is as
/// the listener was then: set there it costs connections nothing.
pub fn tune(socket: impl AsFd, peer: Peer) {
    let (idle, interval, user_timeout_ms) = match peer {
        Peer::Patient => (Duration::from_secs(30), Duration::from_secs(10), 60_000),
        Peer::Backend => (Duration::from_secs(2), Duration::from_secs(1), 2_000),
    };
    // None of these can fail on a live TCP socket; on a dead one the next read says so.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let _ = sockopt::set_socket_keepalive(&socket, true);
    let _ = sockopt::set_tcp_keepidle(&socket, idle);
    let _ = sockopt::set_tcp_keepintvl(&socket, interval);
    let _ = sockopt::set_tcp_keepcnt(&socket, 3);
    let _ = sockopt::set_tcp_user_timeout(&socket, user_timeout_ms);
}

/// Listeners, not yet served by anybody.
#[derive(Debug, Default)]
pub struct Listeners {
    /// HTTP.
    pub http: Vec<TcpListener>,
    /// HTTPS.
    pub https: Vec<TcpListener>,
    /// TCP for builders.
    pub git: Vec<TcpListener>,
    /// Health and metrics.
    pub health: Vec<TcpListener>,
}

/// An address that can't be listened on.
pub type Unbound = (SocketAddr, io::Error);

impl Listeners {
    /// Takes those of `given` that listen on these addresses, and binds what is missing: one socket per
    /// worker for clients, over which the kernel spreads connections.
    ///
    /// # Errors
    /// When an address is taken, or not this host's.
    pub fn bind(
        [http, https, git, health]: [SocketAddr; 4],
        workers: usize,
        given: Vec<TcpListener>,
    ) -> Result<Self, Unbound> {
        let mut given = given;
        let mut have = |address: SocketAddr, count: usize| {
            // A test's port 0 is nobody's.
            let ours = |listener: &mut TcpListener| {
                listener.local_addr().is_ok_and(|local| local == address)
            };
            let found: Vec<TcpListener> = given.extract_if(.., ours).collect();
            if found.is_empty() {
                listen(address, count).map_err(|error| (address, error))
            } else {
                Ok(found)
            }
        };
        Ok(Self {
            http: have(http, workers)?,
            https: have(https, workers)?,
            git: have(git, 1)?,
            health: have(health, 1)?,
        })
    }

    /// Each with what it is for, to be told apart by people.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &TcpListener)> {
        named("http", &self.http)
            .chain(named("https", &self.https))
            .chain(named("git", &self.git))
            .chain(named("health", &self.health))
    }
}

fn named<'l>(
    name: &'static str,
    all: &'l [TcpListener],
) -> impl Iterator<Item = (&'static str, &'l TcpListener)> {
    all.iter().map(move |one| (name, one))
}

/// Shares listeners out: each is served by some worker, and each worker serves one at least.
///
/// # Errors
/// When a socket can't be shared.
pub fn share(listeners: Vec<TcpListener>, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut shares: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let count = listeners.len();
    // Fewer than workers: some have to take turns.
    for (listener, share) in listeners.iter().cycle().zip(shares.iter_mut().skip(count)) {
        share.push(listener.try_clone()?);
    }
    for (at, listener) in listeners.into_iter().enumerate() {
        shares[at % workers].push(listener);
    }
    Ok(shares)
}

/// Listeners that share an address: the kernel spreads connections over them.
fn listen(mut address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, count > 1)?;
        bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = TcpListener::from(socket);
        // A test's port 0 is chosen by the first.
        address = listener.local_addr()?;
        all.push(listener);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn what_a_listener_accepts_is_tuned_like_it() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = listen(any, 1).expect("bound").remove(0);
        tune(&listener, Peer::Patient);
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let address = listener.local_addr().expect("address");
        let client = tokio::net::TcpStream::connect(address);
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (accepted, _) = accepted.expect("accepted");
        let of = |socket: &tokio::net::TcpStream| {
            (
                sockopt::tcp_nodelay(socket).expect("nodelay"),
                sockopt::socket_keepalive(socket).expect("keepalive"),
                sockopt::tcp_keepidle(socket).expect("idle"),
                sockopt::tcp_keepintvl(socket).expect("interval"),
                sockopt::tcp_keepcnt(socket).expect("count"),
                sockopt::tcp_user_timeout(socket).expect("timeout"),
            )
        };
        let client = client.expect("connected");
        assert_ne!(of(&client), of(&accepted), "nobody has tuned that one");
        tune(&client, Peer::Patient);
        assert_eq!(of(&client), of(&accepted));
    }

    #[test]
    fn sockets_that_were_given_are_used_and_nobody_goes_without() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let first = Listeners::bind([any; 4], 3, Vec::new()).expect("bound");
        assert_eq!(first.all().count(), 3 + 3 + 1 + 1);
        let addresses = [&first.http, &first.https, &first.git, &first.health]
            .map(|all| all[0].local_addr().expect("address"));
        let inodes = |all: &Listeners| {
            let stat = |one| rustix::fs::fstat(one).expect("stat").st_ino;
            all.all().map(|(_, one)| stat(one)).collect::<Vec<_>>()
        };
        let given = first.all().map(|(_, one)| one.try_clone().expect("clone"));
        let second = Listeners::bind(addresses, 2, given.collect()).expect("taken over");
        assert_eq!(inodes(&first), inodes(&second));
        for (count, workers) in [(1, 4), (2, 3), (3, 3), (3, 2), (5, 1)] {
            let all = listen(any, count).expect("bound");
            let shares = share(all, workers).expect("shared");
            assert_eq!(shares.len(), workers);
            assert!(
                shares.iter().all(|share| !share.is_empty()),
                "{count} {workers}"
            );
            let total: usize = shares.iter().map(Vec::len).sum();
            assert_eq!(total, count.max(workers));
        }
    }
}
