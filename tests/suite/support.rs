//! A cluster as its users see it: `git`, `deis`, `deisctl`, a shell on each host, and HTTP.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

pub const DEIS: &str = env!("CARGO_BIN_EXE_deis");
pub const DEISCTL: &str = env!("CARGO_BIN_EXE_deisctl");

#[derive(Debug, Clone, Deserialize)]
pub struct Host {
    pub name: String,
    pub address: String,
    #[allow(dead_code)]
    pub machine_id: String,
}

#[derive(Debug, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub hosts: Vec<Host>,
}

/// What a command did.
#[derive(Debug)]
#[allow(dead_code, reason = "shown by Debug when a test fails")]
pub struct Ran {
    pub command: String,
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(command: &Command, output: Output) -> Self {
        Self {
            command: format!("{command:?}"),
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command succeeded, or the test ends here with all that it said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:#?}");
        self
    }

    /// The command was refused, and said so in words.
    #[track_caller]
    pub fn refused(self) -> Self {
        assert!(
            self.status.is_some_and(|status| status != 0),
            "should be refused: {self:#?}"
        );
        assert!(
            !self.err.trim().is_empty() || !self.out.trim().is_empty(),
            "in words: {self:#?}"
        );
        assert!(!self.all().contains("panicked"), "{self:#?}");
        self
    }

    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs a command to its end, with a bound.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let reader = |mut stream: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            bytes
        })
    };
    let out = reader(Box::new(child.stdout.take().expect("stdout")));
    let err = reader(Box::new(child.stderr.take().expect("stderr")));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} took longer than {limit:?}");
        }
        thread::sleep(Duration::from_millis(10));
    };
    let output = Output {
        status,
        stdout: out.join().expect("reader"),
        stderr: err.join().expect("reader"),
    };
    Ran::of(command, output)
}

/// Waits for a condition, with a bound and a voice.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() > deadline => panic!("{what}: not within {limit:?}: {why}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

pub const MINUTE: Duration = Duration::from_secs(60);

impl Cluster {
    /// The cluster that `make test` has started.
    pub fn get() -> Self {
        let name = std::env::var("DEIS_TEST_CLUSTER").unwrap_or_else(|_| "test".into());
        let path = format!("/var/lib/deis-local/{name}/cluster.yaml");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}; `make test` starts the cluster"));
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn deisctl(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(DEISCTL);
        command.args(["--cluster", &self.name]).args(args);
        run(&mut command, 5 * MINUTE)
    }

    /// Runs a shell script on a host, as root.
    pub fn sh(&self, host: &Host, script: &str) -> Ran {
        let mut command = Command::new(DEISCTL);
        let args = [
            "cluster", "exec", "--name", &self.name, &host.name, "--", "sh", "-c", script,
        ];
        run(command.args(args), 5 * MINUTE)
    }

    pub fn on_all(&self, script: &str) -> BTreeMap<String, Ran> {
        self.hosts
            .iter()
            .map(|host| (host.name.clone(), self.sh(host, script)))
            .collect()
    }

    pub fn kill_host(&self, host: &Host) {
        let mut command = Command::new(DEISCTL);
        let args = ["cluster", "kill", "--name", &self.name, &host.name];
        run(command.args(args), MINUTE).ok();
    }

    pub fn boot_host(&self, host: &Host) {
        let mut command = Command::new(DEISCTL);
        let args = ["cluster", "boot", "--name", &self.name, &host.name];
        run(command.args(args), 3 * MINUTE).ok();
    }

    /// etcdctl on a host.
    pub fn etcdctl(&self, host: &Host, args: &str) -> Ran {
        let url = format!("http://{}:2379", host.address);
        self.sh(
            host,
            &format!("ETCDCTL_API=3 etcdctl --endpoints {url} {args}"),
        )
    }

    /// The host on which a process runs, by `deisctl list`.
    pub fn host_of(&self, process: &str) -> &Host {
        let list = self.deisctl(&["list"]).ok().out;
        let line = list
            .lines()
            .find(|line| {
                line.split_whitespace()
                    .next()
                    .is_some_and(|unit| unit.starts_with(process))
            })
            .unwrap_or_else(|| panic!("{process} is not in:\n{list}"));
        self.hosts
            .iter()
            .find(|host| line.contains(&host.address) || line.contains(&host.name))
            .unwrap_or_else(|| panic!("no host in {line:?}"))
    }
}

/// Somebody with a laptop: a home with a profile and an SSH key.
pub struct User {
    pub home: PathBuf,
    pub name: String,
}

impl User {
    /// The suite's first user, a superuser; registers once for the whole suite.
    pub fn first(cluster: &Cluster) -> Self {
        Self::named(cluster, "tester")
    }

    pub fn named(cluster: &Cluster, name: &str) -> Self {
        let home = std::env::temp_dir()
            .join(format!("deis-suite-{}", cluster.name))
            .join(name);
        let user = Self {
            home,
            name: name.to_owned(),
        };
        if !user.home.join("ready").exists() {
            let _ = fs::remove_dir_all(&user.home);
            fs::create_dir_all(user.home.join(".ssh")).expect("home");
            let email = format!("{name}@example.com");
            user.deis(&[
                "register",
                "http://deis.localhost",
                "--username",
                name,
                "--password",
                "secret-1",
                "--email",
                &email,
            ])
            .ok();
            let key = user.key();
            let mut keygen = Command::new("ssh-keygen");
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(&key);
            run(&mut keygen, MINUTE).ok();
            user.deis(&["keys:add", &format!("{}.pub", key.display())])
                .ok();
            fs::write(user.home.join("ready"), "").expect("mark");
        }
        user
    }

    pub fn key(&self) -> PathBuf {
        self.home.join(".ssh/id_ed25519")
    }

    pub fn command(&self, program: &str, dir: &Path) -> Command {
        let mut command = Command::new(program);
        let ssh = format!(
            "ssh -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=accept-new \
             -o UserKnownHostsFile={} -o ConnectTimeout=10",
            self.key().display(),
            self.home.join(".ssh/known_hosts").display(),
        );
        command
            .current_dir(dir)
            .env("HOME", &self.home)
            .env_remove("DEIS_PROFILE")
            .env("GIT_SSH_COMMAND", ssh)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", &self.name)
            .env("GIT_AUTHOR_EMAIL", "tester@example.com")
            .env("GIT_COMMITTER_NAME", &self.name)
            .env("GIT_COMMITTER_EMAIL", "tester@example.com");
        command
    }

    pub fn deis(&self, args: &[&str]) -> Ran {
        self.deis_in(&self.home, args)
    }

    /// A `deis` that runs until the caller ends it.
    pub fn deis_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(DEIS, &self.home);
        command.args(args);
        command
    }

    pub fn deis_in(&self, dir: &Path, args: &[&str]) -> Ran {
        run(self.command(DEIS, dir).args(args), 5 * MINUTE)
    }

    pub fn git(&self, dir: &Path, args: &[&str]) -> Ran {
        run(self.command("git", dir).args(args), 10 * MINUTE)
    }

    /// A git command that the caller may kill.
    pub fn git_command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = self.command("git", dir);
        command.args(args);
        command
    }
}

/// An app with its repository; destroyed when the test is over.
pub struct App<'a> {
    pub user: &'a User,
    pub name: String,
    pub repo: tempfile::TempDir,
    destroyed: std::cell::Cell<bool>,
}

impl Drop for App<'_> {
    fn drop(&mut self) {
        if !thread::panicking() && !self.destroyed.get() {
            self.destroy();
        }
    }
}

impl<'a> App<'a> {
    /// Creates the app and a repository with these files.
    pub fn create(user: &'a User, name: &str, files: &[(&str, &str)]) -> Self {
        let repo = tempfile::TempDir::new().expect("repository");
        user.git(repo.path(), &["init", "-q", "-b", "main"]).ok();
        // A former run's leftovers.
        let _ = user.deis(&["destroy", "-a", name, &format!("--confirm={name}")]);
        user.deis_in(repo.path(), &["create", name]).ok();
        let app = Self {
            user,
            name: name.to_owned(),
            repo,
            destroyed: false.into(),
        };
        app.commit(files);
        app
    }

    /// The suite's own app.
    pub fn test_app(user: &'a User, name: &str) -> Self {
        let files = [
            ("app.py", include_str!("app/app.py")),
            ("Procfile", include_str!("app/Procfile")),
        ];
        Self::create(user, name, &files)
    }

    /// The suite's own app, pushed and served.
    pub fn pushed(user: &'a User, name: &str) -> Self {
        let app = Self::test_app(user, name);
        app.push().ok();
        app
    }

    pub fn commit(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.repo.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        self.user.git(self.repo.path(), &["add", "-A"]).ok();
        self.user
            .git(
                self.repo.path(),
                &["commit", "-q", "--allow-empty", "-m", "test"],
            )
            .ok();
    }

    pub fn push(&self) -> Ran {
        self.user
            .git(self.repo.path(), &["push", "deis", "HEAD:refs/heads/main"])
    }

    pub fn deis(&self, args: &[&str]) -> Ran {
        let mut all = args.to_vec();
        let at = all.iter().position(|arg| *arg == "--").unwrap_or(1).min(1);
        all.splice(at..at, ["-a", self.name.as_str()]);
        self.user.deis(&all)
    }

    pub fn get(&self, path: &str) -> Result<Answer, String> {
        get("127.0.0.1:80", &format!("{}.localhost", self.name), path)
    }

    /// What the page says.
    #[track_caller]
    pub fn page(&self) -> serde_json::Value {
        let answer = self.get("/").expect("the app's page");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).expect("JSON")
    }

    pub fn destroy(&self) {
        self.destroyed.set(true);
        self.user
            .deis(&[
                "destroy",
                "-a",
                &self.name,
                &format!("--confirm={}", self.name),
            ])
            .ok();
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub status: u16,
    pub body: String,
}

/// One request on a new connection.
pub fn get(address: &str, host: &str, path: &str) -> Result<Answer, String> {
    let mut connection = Connection::open(address)?;
    connection.get(host, path)
}

/// A connection that may be kept alive.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: &str) -> Result<Self, String> {
        let address: std::net::SocketAddr =
            address.parse().map_err(|e| format!("{address}: {e}"))?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .map_err(|error| format!("connect {address}: {error}"))?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn get(&mut self, host: &str, path: &str) -> Result<Answer, String> {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Sends text on an upgraded connection and reads as many bytes back.
    pub fn exchange(&mut self, text: &str) -> Result<String, String> {
        self.0
            .get_mut()
            .write_all(text.as_bytes())
            .map_err(|e| format!("send: {e}"))?;
        let mut back = vec![0; text.len()];
        self.0
            .read_exact(&mut back)
            .map_err(|e| format!("read: {e}"))?;
        Ok(String::from_utf8_lossy(&back).into_owned())
    }

    /// Sends text as it is and reads one answer.
    pub fn request(&mut self, text: &str) -> Result<Answer, String> {
        let fail = |what: &str, error: std::io::Error| format!("{what}: {error}");
        self.0
            .get_mut()
            .write_all(text.as_bytes())
            .map_err(|e| fail("send", e))?;
        let mut head = String::new();
        loop {
            let before = head.len();
            let read = self
                .0
                .read_line(&mut head)
                .map_err(|e| fail("read the head", e))?;
            if read == 0 {
                return Err(format!("the connection was closed after {head:?}"));
            }
            if &head[before..] == "\r\n" {
                break;
            }
        }
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or("no status")?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found
                    .eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let mut body = Vec::new();
        if let Some(length) = header("content-length") {
            body.resize(length.parse().map_err(|_| "content-length")?, 0);
            self.0
                .read_exact(&mut body)
                .map_err(|e| fail("read the body", e))?;
        } else if header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                self.0
                    .read_line(&mut size)
                    .map_err(|e| fail("read a chunk", e))?;
                let size = usize::from_str_radix(size.trim(), 16).map_err(|_| "chunk size")?;
                let mut chunk = vec![0; size + 2];
                self.0
                    .read_exact(&mut chunk)
                    .map_err(|e| fail("read a chunk", e))?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        }
        Ok(Answer {
            head,
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// A steady load on an app: half on new connections, half on kept ones.
pub struct Load {
    pub begun: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    sent: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<(Duration, String)>>>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Loaded {
    pub sent: usize,
    /// When after the start, and what.
    pub failures: Vec<(Duration, String)>,
}

impl Load {
    /// About `rate` requests a second.
    pub fn start(app: &str, rate: u32) -> Self {
        let begun = Instant::now();
        let load = Self {
            begun,
            stop: Arc::default(),
            threads: Vec::new(),
            sent: Arc::default(),
            failures: Arc::default(),
        };
        let workers = 10;
        let pause = Duration::from_secs(1) * workers / rate;
        let threads = (0..workers).map(|worker| {
            let (stop, sent) = (load.stop.clone(), load.sent.clone());
            let failures = load.failures.clone();
            let host = format!("{app}.localhost");
            thread::spawn(move || {
                let keep = worker % 2 == 0;
                let mut kept: Option<Connection> = None;
                thread::sleep(pause * worker / workers);
                let mut next = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    next += pause;
                    let connection = match kept.take() {
                        Some(connection) => Ok(connection),
                        None => Connection::open("127.0.0.1:80"),
                    };
                    let at = begun.elapsed();
                    let answer = connection.and_then(|mut connection| {
                        let answer = connection.get(&host, "/")?;
                        Ok((connection, answer))
                    });
                    sent.fetch_add(1, Ordering::Relaxed);
                    let failure = match answer {
                        Ok((connection, answer)) if answer.status == 200 => {
                            if keep && !answer.head.to_lowercase().contains("connection: close") {
                                kept = Some(connection);
                            }
                            None
                        }
                        Ok((_, answer)) => Some(format!("{} {}", answer.status, answer.body)),
                        Err(error) => Some(error),
                    };
                    if let Some(failure) = failure {
                        let kind = if keep { "kept" } else { "new" };
                        failures
                            .lock()
                            .expect("lock")
                            .push((at, format!("{kind}: {failure}")));
                    }
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            })
        });
        let threads = threads.collect();
        Self { threads, ..load }
    }

    pub fn finish(self) -> Loaded {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("load");
        }
        let failures = std::mem::take(&mut *self.failures.lock().expect("lock"));
        Loaded {
            sent: self.sent.load(Ordering::Relaxed),
            failures,
        }
    }
}
