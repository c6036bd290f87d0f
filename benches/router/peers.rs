//! The proxies that are compared: ours as the real program with a real etcd, nginx and HAProxy from
//! Debian. Each has an address of its own below 127.77.0.0/16 with the usual ports, and the same routes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use deis::{
    model::ProcessName,
    store::{Key, Store, Txn, keys},
};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};

use crate::{
    load::{Ask, Client, Kind},
    support::{etcd::Etcd, process},
};

/// How long a proxy may take to serve: nginx reads ten thousand servers for many seconds.
const BOOT: Duration = Duration::from_secs(120);
/// Changes in one transaction.
const BATCH: usize = 100;

/// The backends: apps are moved from one to the other.
pub const BACKENDS: [(&str, &str); 2] = [("127.77.0.100:20001", "a"), ("127.77.0.100:20002", "b")];

/// The host of an app.
pub fn host(app: usize) -> String {
    format!("app{app}.bench.test")
}

/// Hosts that lie evenly among so many apps.
pub fn hosts(apps: usize, many: usize) -> Arc<[String]> {
    (0..many.min(apps))
        .map(|at| host(at * (apps / many.min(apps))))
        .collect()
}

/// A kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// `deisd router`.
    Router,
    /// Another build of it, to compare with.
    Before,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
}

impl Which {
    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Before => "router before",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    const fn ip(self) -> &'static str {
        match self {
            Self::Router => "127.77.0.1",
            Self::Before => "127.77.0.4",
            Self::Nginx => "127.77.0.2",
            Self::Haproxy => "127.77.0.3",
        }
    }
}

/// A proxy that runs, and stops with its value.
pub struct Proxy {
    /// Which.
    pub which: Which,
    child: Child,
    dir: PathBuf,
    ip: String,
    /// Where each app is.
    at: RefCell<Vec<usize>>,
    store: Store,
    /// Backends have changed that nginx hasn't been told of.
    behind: Cell<bool>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The master or keeper first: it would start the others anew.
        for pid in process::tree(self.child.id()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let _ = self.child.wait();
    }
}

/// Where proxies keep what they need.
pub struct Place {
    /// On tmpfs: the disk is not what is measured.
    pub dir: PathBuf,
    /// The router's only source.
    pub etcd: Etcd,
    /// The same.
    pub store: Store,
    /// The core that proxies have for themselves.
    pub core: usize,
}

impl Place {
    /// Starts a proxy with so many apps, all at the first backend.
    pub async fn start(&self, which: Which, apps: usize) -> Proxy {
        self.start_at(which, which.ip(), apps).await
    }

    /// The same at another address.
    pub async fn start_at(&self, which: Which, ip: &str, apps: usize) -> Proxy {
        let dir = self.dir.join(ip);
        fs::create_dir_all(&dir).expect("a folder");
        let at = vec![0; apps];
        let child = match which {
            Which::Router | Which::Before => {
                publish(&self.store, &at, apps).await;
                self.router(which, ip, &dir)
            }
            Which::Nginx => {
                self.nginx_conf(&dir, ip, &at);
                self.spawn(&dir, &["nginx", "-p", ".", "-c", "nginx.conf"])
            }
            Which::Haproxy => {
                self.haproxy_conf(&dir, ip, &at);
                self.spawn(&dir, &["haproxy", "-db", "-f", "haproxy.conf"])
            }
        };
        let mut proxy = Proxy {
            which,
            child,
            dir,
            ip: ip.to_owned(),
            at: RefCell::new(at),
            store: self.store.clone(),
            behind: Cell::new(false),
        };
        let deadline = Instant::now() + BOOT;
        while proxy.serves(apps - 1).await.is_err() {
            let ended = proxy.child.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} doesn't serve ({ended:?}): {}",
                which.name(),
                fs::read_to_string(proxy.dir.join("log")).unwrap_or_default()
            );
            sleep(Duration::from_millis(20)).await;
        }
        proxy
    }

    /// Starts a program pinned to its core, with its output in the log.
    fn spawn(&self, dir: &Path, words: &[&str]) -> Child {
        let log = || {
            let mut log = File::options();
            let log = log.create(true).append(true);
            log.open(dir.join("log")).expect("a log")
        };
        Command::new("taskset")
            .args(["-c", &self.core.to_string()])
            .args(words)
            .current_dir(dir)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The real program, in a mount namespace in which its state lies in our folder.
    fn router(&self, which: Which, ip: &str, dir: &Path) -> Child {
        let key = dir.join("cluster.key");
        fs::write(&key, STANDARD.encode([7; 32])).expect("written");
        let settings = format!(
            "cluster: bench\nlocal: true\naddress: {ip}\netcd: [\"http://{}\"]\ncluster_key: {}\n",
            self.etcd.address,
            key.display()
        );
        fs::write(dir.join("host.yaml"), settings).expect("written");
        fs::create_dir_all(dir.join("state")).expect("a folder");
        let program = match which {
            Which::Before => std::env::var("BENCH_BEFORE").expect("BENCH_BEFORE=PROGRAM"),
            _ => env!("CARGO_BIN_EXE_deisd").to_owned(),
        };
        let script = "mkdir -p /var/lib/deis && mount --bind state /var/lib/deis && \
                      exec \"$0\" router --settings host.yaml";
        self.spawn(dir, &["unshare", "-m", "sh", "-c", script, &program])
    }

    /// The certificate that the router has made itself serves for all.
    fn certificate(&self) -> (PathBuf, PathBuf) {
        let at = |ending: &str| {
            let state = self.dir.join(Which::Router.ip()).join("state/router");
            state.join(format!("self-signed-bench.test.{ending}"))
        };
        (at("crt"), at("key"))
    }

    fn nginx_conf(&self, dir: &Path, ip: &str, at: &[usize]) {
        let (cert, key) = self.certificate();
        nginx_conf(dir, ip, at, &cert, &key);
    }

    fn haproxy_conf(&self, dir: &Path, ip: &str, at: &[usize]) {
        let (cert, key) = self.certificate();
        let pem = [cert, key].map(|path| fs::read_to_string(path).expect("made by the router"));
        fs::write(dir.join("both.pem"), pem.concat()).expect("written");
        let mut map = String::new();
        let mut apps = String::new();
        for (app, backend) in at.iter().enumerate() {
            map += &format!("{} app{app}\n", host(app));
            apps += &include_str!("peers/app.haproxy.conf")
                .replace("@APP@", &format!("app{app}"))
                .replace("@BACKEND@", BACKENDS[*backend].0);
        }
        fs::write(dir.join("hosts.map"), map).expect("written");
        let conf = include_str!("peers/haproxy.conf")
            .replace("@APPS@", &apps)
            .replace("@PEM@", "both.pem");
        fs::write(dir.join("haproxy.conf"), addressed(&conf, dir, ip)).expect("written");
    }
}

/// Descriptors that each program here may have.
pub fn files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(crate::FILES)
}

fn addressed(conf: &str, dir: &Path, ip: &str) -> String {
    conf.replace("@FILES@", &files().to_string())
        .replace("@CLIENTS@", &(files() / 2 - 50).to_string())
        .replace("@DIR@", &dir.display().to_string())
        .replace("@LOG@", &dir.join("log").display().to_string())
        .replace("@HTTP@", &format!("{ip}:80"))
        .replace("@HTTPS@", &format!("{ip}:443"))
}

fn nginx_conf(dir: &Path, ip: &str, at: &[usize], cert: &Path, key: &Path) {
    let mut apps = String::new();
    for (app, backend) in at.iter().enumerate() {
        apps += &include_str!("peers/app.nginx.conf")
            .replace("@APP@", &format!("app{app}"))
            .replace("@BACKEND@", BACKENDS[*backend].0)
            .replace("@HOST@", &host(app));
    }
    let conf = include_str!("peers/nginx.conf")
        .replace("@APPS@", &apps)
        .replace("@CERT@", &cert.display().to_string())
        .replace("@KEY@", &key.display().to_string());
    fs::write(dir.join("nginx.conf"), addressed(&conf, dir, ip)).expect("written");
}

/// HAProxy's runtime API.
async fn tell(socket: PathBuf, command: String) {
    let mut socket = UnixStream::connect(socket).await.expect("HAProxy's socket");
    socket.write_all(command.as_bytes()).await.expect("told");
    let mut answer = String::new();
    let read = socket.read_to_string(&mut answer).await;
    read.expect("an answer");
    assert!(answer.contains("changed"), "{command}: {answer}");
}

/// The key of an app's only process.
pub fn service(app: usize) -> Key<String> {
    let name: ProcessName = format!("app{app}_v1.web.1").parse().expect("a process");
    keys::service(&name.app.clone(), &name)
}

/// Writes where the first of all apps are, and nothing else.
async fn publish(store: &Store, at: &[usize], apps: usize) {
    let all: Vec<usize> = (0..apps).collect();
    let domain = Txn::new().put(&keys::platform("domain"), &"bench.test".to_owned());
    store.commit(domain).await.expect("written");
    for some in all.chunks(BATCH) {
        let txn = some.iter().fold(Txn::new(), |txn, app| {
            txn.put(&service(*app), &BACKENDS[at[*app]].0.to_owned())
        });
        store.commit(txn).await.expect("written");
    }
}

impl Proxy {
    /// Where it listens.
    pub fn address(&self, tls: bool) -> SocketAddr {
        let port = if tls { 443 } else { 80 };
        let address = format!("{}:{port}", self.ip);
        address.parse().expect("an address")
    }

    /// CPU time of all its processes so far, those that have ended included.
    pub fn cpu(&self) -> Duration {
        process::cpu_time_of_tree(self.child.id())
    }

    /// Memory of all its processes that no file backs.
    pub fn memory(&self) -> u64 {
        let pids = process::tree(self.child.id());
        pids.into_iter()
            .map(|pid| process::memory(pid).anonymous)
            .sum()
    }

    /// Throws the access log away. Gives back its length.
    pub fn forget_log(&self) -> u64 {
        let path = self.dir.join("log");
        let length = fs::metadata(&path).map_or(0, |there| there.len());
        if let Ok(log) = File::options().write(true).open(path) {
            log.set_len(0).expect("truncated");
        }
        length
    }

    /// Which backend answers for an app.
    pub async fn serves(&self, app: usize) -> Result<String, String> {
        let ask = Ask {
            address: self.address(false),
            tls: false,
            kind: Kind::Small,
            hosts: Arc::new([host(app)]),
        };
        let mut client = Client::new(&ask, 0);
        let head = client.once().await.map_err(|error| error.to_string())?;
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let (_, rest) = head
            .split_once("x-backend: ")
            .ok_or("no backend's answer")?;
        Ok(rest.chars().take(1).collect())
    }

    /// Moves an app to its other backend, as soon as that can be said.
    pub fn change(&self, app: usize) {
        let to = {
            let mut at = self.at.borrow_mut();
            at[app] = 1 - at[app];
            at[app]
        };
        match self.which {
            Which::Router | Which::Before => {
                let (store, txn) = (self.store.clone(), Txn::new());
                let txn = txn.put(&service(app), &BACKENDS[to].0.to_owned());
                // Side by side, as hosts do it.
                tokio::spawn(async move { store.commit(txn).await.expect("written") });
            }
            Which::Nginx => self.behind.set(true),
            Which::Haproxy => {
                let (ip, port) = BACKENDS[to].0.split_once(':').expect("an address");
                let command = format!("set server app{app}/process addr {ip} port {port}\n");
                tokio::spawn(tell(self.dir.join("haproxy.sock"), command));
            }
        }
    }

    /// nginx reads everything anew, when the last time is over and something has changed.
    pub async fn reload(&self) {
        if self.which != Which::Nginx || !self.behind.take() {
            return;
        }
        let state = self.dir.with_file_name(Which::Router.ip());
        let at = |ending: &str| state.join(format!("state/router/self-signed-bench.test.{ending}"));
        nginx_conf(
            &self.dir,
            &self.ip,
            &self.at.borrow(),
            &at("crt"),
            &at("key"),
        );
        let master = self.child.id();
        let workers = || -> BTreeSet<u32> { process::children(master).into_iter().collect() };
        let before = workers();
        let _ = Command::new("kill")
            .args(["-HUP", &master.to_string()])
            .status();
        let anew = async {
            while workers().is_subset(&before) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(BOOT, anew).await.expect("nginx reloads");
    }

    /// Waits until an app's latest backend answers.
    pub async fn has_followed(&self, app: usize) {
        let want = BACKENDS[self.at.borrow()[app]].1;
        let deadline = Instant::now() + BOOT;
        while self.serves(app).await.as_deref() != Ok(want) {
            assert!(
                Instant::now() < deadline,
                "{} never took a change over",
                self.which.name()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}
