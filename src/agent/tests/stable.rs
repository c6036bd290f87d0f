//! Live figures, how runs ended, and what a disk that fails does.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    super::{
        cache, http,
        paths::{Durability, Paths, write_atomic},
        stats::{self, Way},
    },
    *,
};

/// A small file system of its own, gone with the value.
pub(in crate::agent) struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// Mounts one; none where that is not allowed.
    pub(in crate::agent) fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("dir");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { dir });
        }
        eprintln!("skipped: no file system can be mounted here");
        None
    }

    pub(in crate::agent) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.path().join("ballast")).expect("made");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.path().join("ballast")).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(self.dir.path())
            .status();
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("address")
}

fn exit(code: i32, status: i32) -> Exit {
    Exit {
        result: "exit-code".into(),
        code,
        status,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_and_how_the_last_run_ended() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    let address = free_address();
    let asker = host.life.as_ref().expect("alive").asker.clone();
    let server = tokio::spawn(http::serve(address, asker));
    while tokio::net::TcpStream::connect(address).await.is_err() {
        time::sleep(Duration::from_millis(5)).await;
    }
    // One that takes connections and says nothing, and one that refuses them.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let ask = async |limit| {
        let way = |agent| Way { agent, via: agent };
        let hosts = [
            ("mute", way(mute.local_addr().expect("address"))),
            ("nobody", way(free_address())),
            ("host", way(address)),
        ];
        let begun = time::Instant::now();
        let answers = stats::ask_all(hosts, limit).await;
        (answers, begun.elapsed())
    };
    let (answers, took) = ask(Duration::from_secs(2)).await;
    assert!(took < Duration::from_millis(2900), "{took:?}");
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&"host"]);
    let stats = &answers["host"];
    assert!(stats.host.memory_bytes > 1 << 20 && stats.host.cpus > 0);
    assert!(stats.host.memory_available_bytes <= stats.host.memory_bytes);
    assert!(
        stats
            .host
            .disks
            .iter()
            .any(|disk| disk.path == "/" && disk.bytes > 0)
    );
    let web = &stats.processes[WEB];
    assert_eq!((web.uuid, web.restarts), (Uuid::from_u128(1), 0));
    assert_eq!((web.memory_limit_bytes, &web.exit), (Some(1 << 20), &None));

    host.units.crash("blog_v1.web.1.service", exit(1, 3));
    let told = |p: &ProcessState| p.exit.as_deref() == Some("exit code 3");
    host.until_process(WEB, "how it ended", told).await;
    host.units
        .set("blog_v1.web.1.service", crate::systemd::Active::Active);
    host.say(WEB, 1, true).await;
    host.until_process(WEB, "up again, and still told", |p| p.ready && told(p))
        .await;
    let (answers, _) = ask(Duration::from_secs(2)).await;
    assert_eq!(
        answers["host"].processes[WEB].exit.as_deref(),
        Some("exit code 3")
    );
    server.abort();

    // The next agent knows it, too; and that it does not know of a run that ended meanwhile.
    host.end().await;
    host.boot().await;
    host.serve("blog_v1.worker.1", 2).await;
    host.until_process(WEB, "told by the next agent", told)
        .await;
    host.end().await;
    host.units.crash("blog_v1.web.1.service", Exit::default());
    host.boot().await;
    let unseen = |p: &ProcessState| p.exit.as_deref() == Some("ended while the agent was away");
    host.until_process(WEB, "that nobody saw it", unseen).await;
    host.end().await;
}

#[test]
fn a_full_disk_leaves_no_half_of_a_file() {
    let Some(disk) = Disk::mount("64k") else {
        return;
    };
    let file = disk.path().join("f");
    let write = |bytes: &[u8]| write_atomic(&file, bytes, 0o600, Durability::Disk);
    write(b"old").expect("written");
    disk.fill();
    let refused = write(&[b'x'; 100_000]).expect_err("no room");
    assert_eq!(refused.raw_os_error(), Some(28), "{refused}");
    assert_eq!(std::fs::read(&file).expect("read"), b"old");
    let names: Vec<_> = std::fs::read_dir(disk.path()).expect("dir").collect();
    assert_eq!(names.len(), 2, "the file and the ballast: {names:?}");
    disk.empty();
    write(b"new").expect("written");
    assert_eq!(std::fs::read(&file).expect("read"), b"new");
}

#[test]
fn whatever_is_in_the_cache_harms_only_itself() {
    let dir = tempfile::tempdir().expect("dir");
    let paths = Paths::below(dir.path());
    paths.prepare().expect("folders");
    // As an agent of Deis 2.0.0-dev of issue 3 has written it.
    let body = include_bytes!("cache-of-issue-3.json");
    let file = |name: &str| paths.cache().join(name);
    std::fs::write(file("blog_v1.web.1"), sum(body)).expect("written");
    for (name, bytes) in [
        ("blog_v1.web.2", &b""[..]),
        ("blog_v1.web.3", b"no checksum"),
        ("blog_v1.web.4", &sum(b"{}")),
        ("blog_v1.web.5", &sum(&body[..100])),
        ("blog_v1.web.6", &[0xff; 4096]),
        ("blog_v1.web.7.new", b"cut off"),
    ] {
        std::fs::write(file(name), bytes).expect("written");
    }
    std::fs::create_dir(file("blog_v1.web.8")).expect("a folder");
    let loaded = cache::load(&paths);
    assert_eq!(loaded.keys().collect::<Vec<_>>(), ["blog_v1.web.1"]);
    let saved = &loaded["blog_v1.web.1"];
    assert_eq!(saved.port, Some(20_000));
    let records = saved.records.as_ref().expect("records");
    assert_eq!(records.build.image, IMAGE);
    let names = std::fs::read_dir(paths.cache()).expect("dir");
    let names: Vec<String> = names
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    let damaged = names.iter().filter(|name| name.ends_with(".damaged"));
    assert_eq!((damaged.count(), names.len()), (6, 7), "{names:?}");
    assert_eq!(
        cache::images(&paths).expect("read"),
        [IMAGE.to_owned()].into()
    );
    // Without the folder the agent knows nothing, and lives.
    std::fs::remove_dir_all(paths.cache()).expect("removed");
    assert_eq!(cache::load(&paths), BTreeMap::new());
}

/// A file of the cache: checksum and body.
fn sum(body: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(body).expect("text");
    format!("{}\n{text}", steps::sha256(text)).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_nothing_from_starting_or_stopping() {
    let Some(disk) = Disk::mount("128k") else {
        return;
    };
    let mut host = Host::new().await;
    let place = host.paths().at("/var/lib/deis");
    std::fs::create_dir_all(&place).expect("made");
    std::os::unix::fs::symlink(disk.path(), place.join("agent")).expect("linked");
    host.boot().await;
    disk.fill();
    let told = host.serve(WEB, 1).await;
    let reason = told.reason.clone().expect("a reason");
    assert!(reason.contains("No space left"), "{reason}");
    assert!(
        reason.contains("without etcd it would not start again"),
        "{reason}"
    );
    assert_eq!(
        std::fs::read_dir(host.paths().cache())
            .expect("dir")
            .count(),
        0
    );
    // The next agent adopts it as it is, and what is to go goes.
    host.end().await;
    host.boot().await;
    host.serve("blog_v1.worker.1", 2).await;
    host.assign("blog_v1.worker.1", 2, Desired::Stop).await;
    host.until("one alone", |s| s.processes.keys().eq([WEB]))
        .await;
    let starts = host.units.calls();
    let starts = starts
        .iter()
        .filter(|call| *call == "start blog_v1.web.1.service");
    assert_eq!(starts.count(), 1);
    let again = |p: &ProcessState| p.reason.as_ref() == Some(&reason);
    host.until_process(WEB, "told by the next agent, too", again)
        .await;
    // With room again, all that runs is kept, without anybody's help.
    host.serve("blog_v1.worker.2", 3).await;
    disk.empty();
    let kept = |p: &ProcessState| p.ready && p.reason.is_none();
    host.until_process("blog_v1.worker.2", "kept", kept).await;
    host.until_process(WEB, "kept", kept).await;
    let all = cache::load(&host.paths());
    assert_eq!(all.keys().collect::<Vec<_>>(), [WEB, "blog_v1.worker.2"]);
    assert_eq!(all[WEB].port, told.port);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_cannot_be_read_stops_nothing() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    host.end().await;
    std::fs::remove_dir_all(host.paths().cache()).expect("removed");
    let key = keys::setting(&format!("schedule/{}", host.machine), WEB);
    let txn = Txn::new().put(&key, &"no record".to_owned());
    host.store.commit(txn).await.expect("stored");
    host.boot().await;
    host.serve("blog_v1.worker.1", 2).await;
    host.until_process(WEB, "still there", |p| p.ready).await;
    let calls = host.units.calls();
    assert!(
        !calls.iter().any(|call| call.starts_with("stop")),
        "{calls:?}"
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_the_same_name_has_its_own_releases() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    let unit = host.paths().unit("blog_v1.web.1.service");
    let text = || std::fs::read_to_string(&unit).expect("unit");
    assert!(text().contains(IMAGE));
    // Destroyed and made again while this host hears nothing: one change of the same key.
    let build = keys::build(&app(), Uuid::from_u128(0xb));
    let mut other = host
        .store
        .get(&build)
        .await
        .expect("read")
        .expect("there")
        .value;
    other.image = IMAGE.replace("0123", "4567");
    let first = keys::release(&app(), ReleaseNumber(1));
    let release = host.store.get(&first).await.expect("read").expect("there");
    let release = Release {
        uuid: Uuid::from_u128(0xe),
        ..release.value
    };
    let txn = Txn::new().put(&build, &other).put(&first, &release);
    host.store.commit(txn).await.expect("stored");
    host.serve(WEB, 2).await;
    assert!(text().contains(&other.image), "{}", text());
    host.end().await;
}
