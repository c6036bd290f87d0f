//! One suite, run unchanged against the store in memory and against three real etcd members.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::model::Route;

/// A store with the faults that the suite needs.
trait Lab {
    fn store(&self) -> Store;
    /// Forgets the history.
    async fn compact(&self);
    /// Makes the member that serves the watches go silent without closing anything.
    fn silence(&mut self);
    /// Lets it speak again.
    fn restore(&mut self);
    /// Kills the member that serves the watches.
    fn kill(&mut self);
    /// Every call fails until `restore`.
    fn cut_off(&mut self);
}

struct MemoryLab(MemoryStore);

impl Lab for MemoryLab {
    fn store(&self) -> Store {
        Store::from_memory(&self.0)
    }
    async fn compact(&self) {
        self.0.compact();
    }
    fn silence(&mut self) {
        self.0.set_faults(Faults {
            silent: true,
            duplicate: true,
            ..Faults::default()
        });
    }
    fn restore(&mut self) {
        self.0.set_faults(Faults::default());
        self.0.break_watches();
    }
    fn kill(&mut self) {
        self.0.break_watches();
    }
    fn cut_off(&mut self) {
        self.0.set_faults(Faults {
            unreachable: true,
            ..Faults::default()
        });
        self.0.break_watches();
    }
}

/// Three etcd members on loopback.
struct EtcdLab {
    members: Vec<Child>,
    endpoints: Vec<String>,
    stopped: Vec<usize>,
    store: Store,
    _dir: TempDir,
}

impl Drop for EtcdLab {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
    socket.local_addr().expect("address").port()
}

fn start_member(dir: &Path, name: &str, client: &str, peer: &str, cluster: &str) -> Child {
    Command::new("etcd")
        .args(["--name", name, "--data-dir"])
        .arg(dir.join(name))
        .args([
            "--listen-client-urls",
            client,
            "--advertise-client-urls",
            client,
        ])
        .args([
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
        ])
        .args([
            "--initial-cluster",
            cluster,
            "--initial-cluster-token",
            "conformance",
        ])
        .args([
            "--heartbeat-interval",
            "50",
            "--election-timeout",
            "500",
            "--logger",
            "zap",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("`etcd` has to be installed: apt-get install etcd-server")
}

impl EtcdLab {
    async fn start() -> Self {
        let dir = TempDir::new().expect("directory");
        let url = |_| format!("http://127.0.0.1:{}", free_port());
        let endpoints: Vec<String> = (0..3).map(url).collect();
        let peers: Vec<String> = (0..3).map(url).collect();
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(i, peer)| format!("m{i}={peer}"))
            .collect();
        let cluster = cluster.join(",");
        let members = (0..3)
            .map(|i| {
                start_member(
                    dir.path(),
                    &format!("m{i}"),
                    &endpoints[i],
                    &peers[i],
                    &cluster,
                )
            })
            .collect();
        let options = EtcdOptions {
            endpoints: endpoints.clone(),
            tls: None,
        };
        let store = Store::connect(options).await.expect("endpoints");
        let deadline = Instant::now() + Duration::from_secs(30);
        while store.get(&keys::leader()).await.is_err() {
            assert!(
                Instant::now() < deadline,
                "three etcd members elect a leader"
            );
            sleep(Duration::from_millis(100)).await;
        }
        // A new handle prefers the first member, which is the one that the faults hit.
        let options = EtcdOptions {
            endpoints: endpoints.clone(),
            tls: None,
        };
        let store = Store::connect(options).await.expect("endpoints");
        Self {
            members,
            endpoints,
            stopped: Vec::new(),
            store,
            _dir: dir,
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        let pid = i32::try_from(self.members[index].id()).expect("pid");
        kill_process(Pid::from_raw(pid).expect("pid"), signal).expect("kill");
    }

    fn stop(&mut self, index: usize) {
        self.signal(index, Signal::STOP);
        self.stopped.push(index);
    }
}

impl Lab for EtcdLab {
    fn store(&self) -> Store {
        self.store.clone()
    }
    async fn compact(&self) {
        let mut client = etcd_client::Client::connect(&self.endpoints, None)
            .await
            .expect("client");
        let now = client
            .get("x", None)
            .await
            .expect("get")
            .header()
            .expect("header")
            .revision();
        client.compact(now, None).await.expect("compact");
    }
    fn silence(&mut self) {
        self.stop(0);
    }
    fn restore(&mut self) {
        for index in std::mem::take(&mut self.stopped) {
            self.signal(index, Signal::CONT);
        }
    }
    fn kill(&mut self) {
        self.members[0].kill().expect("kill");
        self.members[0].wait().expect("wait");
    }
    fn cut_off(&mut self) {
        (0..3).for_each(|index| self.stop(index));
    }
}

fn route(app: &str) -> Key<Route> {
    keys::route(&app.parse().expect("name"))
}

fn record(maintenance: bool) -> Route {
    Route {
        schema: 1,
        maintenance,
        page: None,
        hold: false,
        ..Route::default()
    }
}

async fn put(store: &Store, app: &str, value: bool) -> crate::model::Revision {
    let txn = Txn::new().put(&route(app), &record(value));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match store.commit(txn.clone()).await {
            Ok(revision) => return revision,
            Err(error) => assert!(Instant::now() < deadline, "put of {app}: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A consumer that applies updates and holds what it believes.
struct Consumer {
    feed: Feed,
    held: BTreeMap<String, bool>,
    updates: usize,
}

impl Consumer {
    fn new(store: &Store) -> Self {
        let feed = store.follow(keys::routes().as_str());
        Self {
            feed,
            held: BTreeMap::new(),
            updates: 0,
        }
    }

    /// Applies updates until it holds exactly these apps.
    async fn until(&mut self, what: &str, want: &[(&str, bool)]) {
        let want: BTreeMap<String, bool> = want
            .iter()
            .map(|(app, on)| (format!("/deis/routes/{app}"), *on))
            .collect();
        let wait = async {
            while self.held != want || self.updates == 0 {
                let update = self.feed.next().await;
                assert_eq!(
                    update.first,
                    self.updates == 0,
                    "{what}: the first, and only it"
                );
                self.updates += 1;
                for change in update.changes {
                    match change.entry {
                        Some(entry) => {
                            let route: Route = entry.decode().expect("route");
                            self.held.insert(change.key, route.maintenance)
                        }
                        None => self.held.remove(&change.key),
                    };
                    // An atomic difference never empties what is still there.
                    assert!(!self.held.is_empty() || want.is_empty(), "{what}: emptied");
                }
            }
        };
        if timeout(Duration::from_secs(25), wait).await.is_err() {
            panic!("{what}: holds {:?}, wants {want:?}", self.held);
        }
    }
}

async fn transactions(store: &Store) {
    let (a, b) = (route("a"), route("b"));
    assert!(store.get(&a).await.expect("get").is_none());
    let first = store
        .commit(Txn::new().absent(&a).put(&a, &record(false)))
        .await
        .expect("put");
    let again = store
        .commit(Txn::new().absent(&a).put(&a, &record(true)))
        .await;
    assert!(
        matches!(again, Err(CommitError::Conflict)),
        "absent is compared"
    );
    let read = store.get(&a).await.expect("get").expect("there");
    assert_eq!((read.mod_revision, read.create_revision), (first, first));
    let around = |txn: Txn| {
        txn.absent(&route("0"))
            .absent(&route("z"))
            .put(&b, &record(true))
    };
    for (gap, want) in [(true, false), (false, true)] {
        let txn = around(Txn::new()).compacted(|_, _| gap);
        let done = store.commit(txn.delete(&route("none"))).await;
        assert_eq!(done.is_ok(), want, "the whole gap is compared: {gap}");
    }
    store.commit(Txn::new().delete(&b)).await.expect("deleted");
    let both = Txn::new()
        .unchanged(&a, first)
        .put(&a, &record(true))
        .put(&b, &record(true));
    let second = store.commit(both).await.expect("both");
    assert!(second > first, "revisions grow");
    let read = store.get(&b).await.expect("get").expect("there");
    assert_eq!(read.mod_revision, second, "one transaction, one revision");
    let stale = Txn::new().unchanged(&a, first).delete(&b);
    assert!(matches!(
        store.commit(stale).await,
        Err(CommitError::Conflict)
    ));
    let wrong = Txn::new().value_is(&a, &record(false)).delete(&a);
    assert!(matches!(
        store.commit(wrong).await,
        Err(CommitError::Conflict)
    ));
    let fenced = Txn::new()
        .created_at(&a, first)
        .value_is(&a, &record(true))
        .present(&b);
    store
        .commit(fenced.delete_prefix(&keys::routes()))
        .await
        .expect("delete all");
    assert!(
        store
            .list(&keys::routes())
            .await
            .expect("list")
            .entries
            .is_empty()
    );
    let gone = Txn::new().created_at(&a, first).put(&a, &record(true));
    assert!(
        matches!(store.commit(gone).await, Err(CommitError::Conflict)),
        "fence holds"
    );
}

async fn paging(store: &Store) {
    for batch in 0..12 {
        let mut txn = Txn::new();
        for i in 0..100 {
            txn = txn.put(&route(&format!("p{batch:02}{i:02}")), &record(false));
        }
        store.commit(txn).await.expect("put");
    }
    let listing = store.list(&keys::routes()).await.expect("list");
    assert_eq!(listing.entries.len(), 1200);
    assert!(
        listing.entries.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "in order, each once"
    );
    store
        .commit(Txn::new().delete_prefix(&keys::routes()))
        .await
        .expect("delete");
}

async fn leases(store: &Store) {
    let (a, b) = (route("leased"), route("free"));
    let lease = store.lease(Duration::from_secs(2)).await.expect("lease");
    let txn = Txn::new()
        .put_leased(&a, &record(true), lease.id())
        .put(&b, &record(true));
    store.commit(txn).await.expect("put");
    sleep(Duration::from_secs(5)).await;
    assert!(lease.held(), "kept alive past its TTL");
    assert!(store.get(&a).await.expect("get").is_some());
    drop(lease);
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.get(&a).await.expect("get").is_some() {
        assert!(
            Instant::now() < deadline,
            "an abandoned lease takes its key along"
        );
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        store.get(&b).await.expect("get").is_some(),
        "and only its key"
    );
    store.commit(Txn::new().delete(&b)).await.expect("delete");
}

async fn presence(store: &Store) {
    let key = route("present");
    let ttl = Duration::from_secs(2);
    let first = Presence::keep(store, key.clone(), record(false), ttl, |_| false).await;
    let first = first.expect("registers");
    let created = store
        .get(&key)
        .await
        .expect("get")
        .expect("there")
        .create_revision;
    let second = Presence::keep(store, key.clone(), record(true), ttl, |_| false).await;
    assert!(
        matches!(second, Err(PresenceError::Taken { .. })),
        "two can't be there at once"
    );
    first.update(|route| route.maintenance = true);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !store
        .get(&key)
        .await
        .expect("get")
        .expect("there")
        .value
        .maintenance
    {
        assert!(Instant::now() < deadline, "an update is written");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(first.held());
    let heir = Presence::keep(store, key.clone(), record(false), ttl, |_| true).await;
    let heir = heir.expect("takes over a former life");
    let now = store.get(&key).await.expect("get").expect("there");
    assert!(
        now.create_revision > created,
        "a new life is a new creation"
    );
    drop(first);
    heir.leave().await;
    assert!(
        store.get(&key).await.expect("get").is_none(),
        "a goodbye is at once"
    );
}

async fn feeds(lab: &mut impl Lab) {
    let store = lab.store();
    put(&store, "a", false).await;
    let mut consumer = Consumer::new(&store);
    consumer
        .until("the whole prefix first", &[("a", false)])
        .await;
    assert!(consumer.feed.health().unbroken_since.is_some());

    put(&store, "a", true).await;
    put(&store, "b", true).await;
    consumer.until("changes", &[("a", true), ("b", true)]).await;

    // Silent: nothing closes, nothing arrives.
    lab.silence();
    put(&store, "c", true).await;
    if timeout(Duration::from_secs(1), consumer.feed.next())
        .await
        .is_ok()
    {
        panic!("the silent member spoke: the fault was not there");
    }
    sleep(Duration::from_secs(5)).await;
    lab.restore();
    consumer
        .until("after silence", &[("a", true), ("b", true), ("c", true)])
        .await;

    // Cut off while history is compacted: what was deleted meanwhile has to go.
    lab.cut_off();
    sleep(Duration::from_millis(500)).await;
    lab.restore();
    store.commit(Txn::new().delete(&route("a"))).await.ok();
    put(&store, "d", true).await;
    lab.compact().await;
    let after = [("b", true), ("c", true), ("d", true)];
    let txn = Txn::new().delete(&route("a"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.commit(txn.clone()).await {
        assert!(Instant::now() < deadline, "deleting a: {error}");
        sleep(Duration::from_millis(50)).await;
    }
    consumer.until("after a compaction", &after).await;

    lab.kill();
    put(&store, "e", false).await;
    let after = [("b", true), ("c", true), ("d", true), ("e", false)];
    consumer.until("after a member was killed", &after).await;
    store
        .commit(Txn::new().delete_prefix(&keys::routes()))
        .await
        .expect("delete");
    consumer.until("deletions", &[]).await;
}

async fn suite(lab: &mut impl Lab) {
    let store = lab.store();
    transactions(&store).await;
    paging(&store).await;
    leases(&store).await;
    presence(&store).await;
    feeds(lab).await;
}

#[tokio::test]
async fn memory() {
    suite(&mut MemoryLab(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_etcd() {
    suite(&mut EtcdLab::start().await).await;
}

/// A watch that resumes below a compaction: the difference comes as one update.
#[tokio::test]
async fn a_compacted_watch_resyncs_in_one_update() {
    let memory = MemoryStore::new();
    let store = Store::from_memory(&memory);
    put(&store, "a", false).await;
    put(&store, "b", false).await;
    let mut feed = store.follow(keys::routes().as_str());
    assert_eq!(feed.next().await.changes.len(), 2);
    memory.set_faults(Faults {
        silent: true,
        ..Faults::default()
    });
    store
        .commit(
            Txn::new()
                .delete(&route("a"))
                .put(&route("b"), &record(true)),
        )
        .await
        .expect("txn");
    put(&store, "c", false).await;
    memory.compact();
    memory.set_faults(Faults::default());
    memory.break_watches();
    let update = timeout(Duration::from_secs(10), feed.next())
        .await
        .expect("an update");
    let mut seen: Vec<_> = update
        .changes
        .iter()
        .map(|c| (c.key.as_str(), c.entry.is_some()))
        .collect();
    seen.sort_unstable();
    let want = [
        ("/deis/routes/a", false),
        ("/deis/routes/b", true),
        ("/deis/routes/c", true),
    ];
    assert_eq!(seen, want, "one atomic difference");
}
