//! The entry point: loopback's ports 80, 443 and 2222 lead to healthy routers.
//!
//! A host that was killed sends no reset, so connections to it hang. That's why this is a
//! forwarder that asks its routers for their health, and no rule in a packet filter.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::command::{command, wait_for};
use super::state::{Cluster, Paths};
use super::{net, ports, procs};

const INTERVAL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a connection waits for a first healthy router.
const GRACE: Duration = Duration::from_secs(2);
/// Unreachable this often in a row: the host is gone, and so are its connections.
const GONE_AFTER: u8 = 3;
const CONNECTIONS: usize = 4096;
const HEALTH_PORT: u16 = 9090;

/// The forwarder's log.
pub fn log(paths: &Paths) -> PathBuf {
    paths.dir.join("forward.log")
}

/// The running forwarder of a cluster.
pub fn running(paths: &Paths) -> Option<u32> {
    let program = paths.opt().join("bin/deisctl").display().to_string();
    procs::with_argument(&program).into_iter().find(|pid| {
        let words = procs::cmdline(*pid);
        procs::alive(*pid)
            && words.first() == Some(&program)
            && words.get(1).is_some_and(|word| word == "cluster")
            && words.get(2).is_some_and(|word| word == "forward")
    })
}

/// Starts the forwarder unless it runs; returns once it listens.
pub fn ensure(paths: &Paths, cluster: &Cluster) -> anyhow::Result<u32> {
    if let Some(pid) = running(paths) {
        return Ok(pid);
    }
    let log_path = log(paths);
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)?;
    let program = paths.opt().join("bin/deisctl").display().to_string();
    let words = [
        "setsid",
        &program,
        "cluster",
        "forward",
        "--name",
        &cluster.name,
    ];
    let mut child = command(&words)
        .current_dir("/")
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .spawn()
        .context("start the entry point")?;
    let address = ports::entry_addresses()[0];
    wait_for("the entry point", Duration::from_secs(10), || {
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(&log_path).unwrap_or_default();
            bail!(
                "it ended ({status}): {}",
                said.lines().last().unwrap_or_default()
            );
        }
        Ok(
            match std::net::TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{address}: {error}")),
            },
        )
    })?;
    Ok(child.id())
}

/// Stops it.
pub fn stop(paths: &Paths) {
    while let Some(pid) = running(paths) {
        procs::signal(pid, Signal::TERM);
        if !procs::wait_gone(&[pid], Duration::from_secs(2)) {
            procs::signal(pid, Signal::KILL);
            procs::wait_gone(&[pid], Duration::from_secs(5));
        }
    }
}

/// What is known of one router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// Takes new connections.
    Healthy,
    /// Answers, and wants no new ones.
    Closing,
    /// Its host takes connections, and it says nothing in time: it is slow, on a machine that is busy.
    Late,
    /// Can't be reached; how often in a row.
    Silent(u8),
}

/// What came of one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Status(u16),
    Late,
    Unreachable,
}

impl Health {
    /// After one more look. Only a host that can't be reached is gone, with all connections to it: one
    /// that is slow gets no new ones, and keeps those that it has.
    fn next(self, answer: Answer) -> Health {
        match (answer, self) {
            (Answer::Status(200), _) => Health::Healthy,
            (Answer::Status(_), _) => Health::Closing,
            (Answer::Late, _) => Health::Late,
            (Answer::Unreachable, Health::Silent(count)) => Health::Silent(count.saturating_add(1)),
            (Answer::Unreachable, _) => Health::Silent(1),
        }
    }

    fn is_gone(self) -> bool {
        matches!(self, Health::Silent(count) if count >= GONE_AFTER)
    }
}

#[derive(Debug)]
struct Router {
    address: IpAddr,
    health: watch::Sender<Health>,
}

#[derive(Debug)]
struct Entry {
    routers: Vec<Router>,
    next: AtomicUsize,
    slots: Arc<Semaphore>,
}

impl Entry {
    /// The healthy routers. When there is none, all that are not gone: without etcd each of them
    /// says that its table may be old, and an old table is better than no answer; and where all are
    /// slow, one of them is.
    fn usable(&self) -> Vec<&Router> {
        let those = |wanted: fn(Health) -> bool| -> Vec<&Router> {
            let seen = self.routers.iter();
            seen.filter(|router| wanted(*router.health.borrow()))
                .collect()
        };
        let healthy = those(|health| health == Health::Healthy);
        if healthy.is_empty() {
            those(|health| !health.is_gone())
        } else {
            healthy
        }
    }
}

/// Serves until it's told to stop.
pub fn serve(cluster: &Cluster) -> anyhow::Result<()> {
    net::enter(cluster.netns.as_deref())?;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let routers = cluster
        .hosts
        .iter()
        .map(|host| Router {
            address: IpAddr::V4(host.address),
            health: watch::Sender::new(Health::Silent(GONE_AFTER)),
        })
        .collect();
    let entry = Arc::new(Entry {
        routers,
        next: AtomicUsize::new(0),
        slots: Arc::new(Semaphore::new(CONNECTIONS)),
    });
    runtime.block_on(async {
        let mut listeners = Vec::new();
        for address in ports::entry_addresses() {
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push((listener, address.port())),
                Err(error)
                    if address.is_ipv6() && error.kind() != std::io::ErrorKind::AddrInUse =>
                {
                    println!("no {address}: {error}");
                }
                Err(error) => {
                    bail!(
                        "can't listen on {address}: {error} ({})",
                        ports::owner(address.port())
                    );
                }
            }
        }
        for index in 0..entry.routers.len() {
            tokio::spawn(watch_health(Arc::clone(&entry), index));
        }
        for (listener, port) in listeners {
            tokio::spawn(accept(Arc::clone(&entry), listener, port));
        }
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        term.recv().await;
        Ok(())
    })
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

async fn watch_health(entry: Arc<Entry>, index: usize) {
    let router = &entry.routers[index];
    let address = SocketAddr::new(router.address, HEALTH_PORT);
    loop {
        let answer = match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match timeout(PATIENCE, ask_health(stream, address)).await {
                Ok(Ok(status)) => Answer::Status(status),
                // Hung up on: it ends, or begins.
                Ok(Err(_)) => Answer::Unreachable,
                Err(_) => Answer::Late,
            },
            Ok(Err(_)) | Err(_) => Answer::Unreachable,
        };
        let before = *router.health.borrow();
        let now = before.next(answer);
        if now != before {
            if std::mem::discriminant(&now) != std::mem::discriminant(&before)
                || now.is_gone() != before.is_gone()
            {
                println!("router {}: {now:?}", router.address);
            }
            router.health.send_replace(now);
        }
        sleep(INTERVAL).await;
    }
}

async fn ask_health(mut stream: TcpStream, address: SocketAddr) -> std::io::Result<u16> {
    let request =
        format!("GET /health-check HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0_u8; 12]; // "HTTP/1.1 200"
    stream.read_exact(&mut head).await?;
    std::str::from_utf8(&head[9..])
        .ok()
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| std::io::Error::other("no HTTP"))
}

async fn accept(entry: Arc<Entry>, listener: TcpListener, port: u16) {
    loop {
        // A slot first: what is too much waits in the kernel's queue.
        let Ok(slot) = Arc::clone(&entry.slots).acquire_owned().await else {
            return;
        };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                println!("accept on {port}: {error}");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let entry = Arc::clone(&entry);
        tokio::spawn(async move {
            // Whoever hangs up mid-way is no news.
            let _ = carry(&entry, client, port).await;
            drop(slot);
        });
    }
}

/// Takes one connection to a router; tries the next one as long as no byte was given to the last.
async fn carry(entry: &Entry, mut client: TcpStream, port: u16) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let deadline = tokio::time::Instant::now() + GRACE;
    loop {
        let mut usable = entry.usable();
        if !usable.is_empty() {
            let first = entry.next.fetch_add(1, Ordering::Relaxed) % usable.len();
            usable.rotate_left(first);
        }
        for router in usable {
            let connecting = TcpStream::connect(SocketAddr::new(router.address, port));
            let Ok(Ok(mut upstream)) = timeout(PATIENCE, connecting).await else {
                continue;
            };
            upstream.set_nodelay(true)?;
            let spoken = tokio::select! {
                spoken = speaks(&client, &upstream) => spoken?,
                () = gone(router) => false,
            };
            if !spoken {
                continue;
            }
            return tokio::select! {
                done = copy_bidirectional(&mut client, &mut upstream) => done.map(|_| ()),
                () = gone(router) => Ok(()),
            };
        }
        if tokio::time::Instant::now() >= deadline {
            return refuse(client, port).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Ends once the router's host is gone.
async fn gone(router: &Router) {
    let mut health = router.health.subscribe();
    let _ = health.wait_for(|health| health.is_gone()).await;
}

/// Waits for a first byte from either side; `false` if the router hung up before.
async fn speaks(client: &TcpStream, upstream: &TcpStream) -> std::io::Result<bool> {
    let (mut one, mut other) = ([0_u8; 1], [0_u8; 1]);
    tokio::select! {
        biased;
        said = upstream.peek(&mut one) => Ok(matches!(said, Ok(1))),
        said = client.peek(&mut other) => said.map(|_| true),
    }
}

async fn refuse(mut client: TcpStream, port: u16) -> std::io::Result<()> {
    if port == 80 {
        let body = "No router of the local cluster is healthy: `make status` says what is up.\n";
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        client.write_all(answer.as_bytes()).await?;
        // Read what was asked, or closing would reset the answer.
        let mut sink = [0_u8; 4096];
        let _ = timeout(PATIENCE, client.read(&mut sink)).await;
    }
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_gone_after_three_silent_looks_and_back_after_one_answer() {
        let mut health = Health::Healthy;
        for _ in 0..2 {
            health = health.next(Answer::Unreachable);
            assert!(!health.is_gone());
        }
        assert!(health.next(Answer::Unreachable).is_gone());
        assert_eq!(health.next(Answer::Status(200)), Health::Healthy);
        assert_eq!(Health::Healthy.next(Answer::Status(503)), Health::Closing);
        assert!(!Health::Closing.is_gone());
    }

    #[test]
    fn a_router_that_is_slow_keeps_its_connections() {
        let mut health = Health::Silent(2);
        for _ in 0..10 {
            health = health.next(Answer::Late);
            assert_eq!((health, health.is_gone()), (Health::Late, false));
        }
        assert_eq!(health.next(Answer::Unreachable), Health::Silent(1));
    }

    fn entry(address: IpAddr) -> Entry {
        Entry {
            routers: vec![Router {
                address,
                health: watch::Sender::new(Health::Healthy),
            }],
            next: AtomicUsize::new(0),
            slots: Arc::new(Semaphore::new(1)),
        }
    }

    #[tokio::test]
    async fn a_closed_half_stays_half_closed() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let front = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = upstream.local_addr().expect("address").port();
        let address = front.local_addr().expect("address");
        tokio::spawn(async move {
            let (client, _) = front.accept().await.expect("accept");
            let entry = entry([127, 0, 0, 1].into());
            carry(&entry, client, port).await.expect("carried");
        });
        tokio::spawn(async move {
            let (mut stream, _) = upstream.accept().await.expect("accept");
            let mut asked = String::new();
            stream
                .read_to_string(&mut asked)
                .await
                .expect("read to the end");
            stream
                .write_all(format!("{asked} back").as_bytes())
                .await
                .expect("write");
        });
        let mut client = TcpStream::connect(address).await.expect("connect");
        client.write_all(b"there and").await.expect("write");
        client.shutdown().await.expect("shutdown");
        let mut said = String::new();
        client.read_to_string(&mut said).await.expect("read");
        assert_eq!(said, "there and back");
    }
}
