//! etcd as it is measured: its own counters, and one real member on loopback.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use deis::{local::http, store::EtcdOptions};

/// How long etcd may take to serve.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// etcd's counters at one moment, by name (labels included).
#[derive(Debug, Clone, Default)]
pub struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// Reads them from a member's `/metrics`.
    ///
    /// # Panics
    /// When it doesn't answer.
    pub fn of(member: SocketAddr) -> Self {
        let (status, text) = http::get(member, "/metrics")
            .unwrap_or_else(|error| panic!("etcd's metrics at {member}: {error:#}"));
        assert_eq!(status, 200, "etcd's metrics at {member}");
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(
            text.lines()
                .filter(|l| !l.starts_with('#'))
                .filter_map(line)
                .collect(),
        )
    }

    /// The first of these that this version of etcd has; 0 when it has none.
    fn first(&self, names: &[&str]) -> f64 {
        names
            .iter()
            .find_map(|name| self.0.get(*name))
            .copied()
            .unwrap_or_default()
    }

    /// Keys written, in transactions or not.
    pub fn puts(&self) -> f64 {
        self.first(&["etcd_mvcc_put_total", "etcd_debugging_mvcc_put_total"])
    }

    /// Deletions.
    pub fn deletes(&self) -> f64 {
        self.first(&["etcd_mvcc_delete_total", "etcd_debugging_mvcc_delete_total"])
    }

    /// Reads.
    pub fn ranges(&self) -> f64 {
        self.first(&["etcd_mvcc_range_total", "etcd_debugging_mvcc_range_total"])
    }

    /// Transactions.
    pub fn txns(&self) -> f64 {
        self.first(&["etcd_mvcc_txn_total", "etcd_debugging_mvcc_txn_total"])
    }

    /// Entries of the Raft log: whatever costs a write to disk, keep-alives of leases excluded.
    pub fn proposals(&self) -> f64 {
        self.first(&["etcd_server_proposals_committed_total"])
    }

    /// Requests of one gRPC method, as `etcdserverpb.KV/Txn`; streams count once when they begin.
    pub fn started(&self, service: &str, method: &str) -> f64 {
        let of = format!("grpc_method=\"{method}\",grpc_service=\"{service}\"");
        self.0
            .iter()
            .filter(|(name, _)| name.starts_with("grpc_server_started_total") && name.contains(&of))
            .map(|(_, value)| value)
            .sum()
    }

    /// Messages that clients have sent in one gRPC method: a keep-alive is one of a stream.
    pub fn messages(&self, service: &str, method: &str) -> f64 {
        let of = format!("grpc_method=\"{method}\",grpc_service=\"{service}\"");
        self.0
            .iter()
            .filter(|(name, _)| {
                name.starts_with("grpc_server_msg_received_total") && name.contains(&of)
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// Size of the database file, and what of it is in use; in bytes.
    pub fn size(&self) -> (f64, f64) {
        (
            self.first(&["etcd_mvcc_db_total_size_in_bytes"]),
            self.first(&["etcd_mvcc_db_total_size_in_use_in_bytes"]),
        )
    }

    /// Watches that are open.
    pub fn watchers(&self) -> f64 {
        self.first(&["etcd_debugging_mvcc_watcher_total"])
    }
}

/// One real member on loopback, gone with its value.
#[derive(Debug)]
pub struct Etcd {
    child: Child,
    /// Where clients come in.
    pub address: SocketAddr,
    peers: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.end();
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// Starts etcd on a folder and waits until it serves clients at an address.
fn serve(data: &Path, clients: SocketAddr, peers: SocketAddr) -> Child {
    let (clients_url, peers_url) = (format!("http://{clients}"), format!("http://{peers}"));
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(data)
        .args(["--name", "bench", "--logger", "zap", "--log-level", "error"])
        .args(["--listen-client-urls", &clients_url])
        .args(["--advertise-client-urls", &clients_url])
        .args(["--listen-peer-urls", &peers_url])
        .args(["--initial-advertise-peer-urls", &peers_url])
        .args(["--initial-cluster", &format!("bench={peers_url}")])
        .args(["--quota-backend-bytes", "2147483648"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("`etcd` has to be installed: apt-get install etcd-server");
    let deadline = Instant::now() + BOOT_LIMIT;
    while !http::get(clients, "/health").is_ok_and(|(status, _)| status == 200) {
        assert!(Instant::now() < deadline, "etcd doesn't serve");
        thread::sleep(Duration::from_millis(20));
    }
    child
}

impl Etcd {
    /// Starts it with an empty database, and waits until it serves.
    ///
    /// # Panics
    /// When it doesn't.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (address, peers) = (free_port(), free_port());
        Self {
            child: serve(&dir.path().join("data"), address, peers),
            address,
            peers,
            dir,
        }
    }

    /// Takes it away, lets all that clients have seen be compacted while they can't reach it, and
    /// gives it back.
    ///
    /// # Panics
    /// When it doesn't come back.
    pub async fn compact_behind_everybody(&mut self) {
        let (data, aside) = (self.dir.path().join("data"), free_port());
        self.end();
        self.child = serve(&data, aside, self.peers);
        let connected = etcd_client::Client::connect([format!("http://{aside}")], None).await;
        let mut client = connected.expect("a connection");
        let mut revision = 0;
        for number in 0..10 {
            let put = client.put("/bench", number.to_string(), None).await;
            let put = put.expect("written");
            revision = put.header().expect("a header").revision();
        }
        client.compact(revision, None).await.expect("compacted");
        self.end();
        self.child = serve(&data, self.address, self.peers);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How to reach it.
    pub fn options(&self) -> EtcdOptions {
        EtcdOptions {
            endpoints: vec![format!("http://{}", self.address)],
            tls: None,
        }
    }

    /// Its counters now.
    pub fn counters(&self) -> Counters {
        Counters::of(self.address)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}
