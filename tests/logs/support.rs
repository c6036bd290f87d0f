//! Real processes for the log tests: the sidecar's binary, and a logger and an agent's relay that
//! are this test binary run again, so that each of them can be killed with SIGKILL.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use deis::{
    logger::{
        Place,
        app_log::Limits,
        client::Whose,
        owner::Owner,
        query::Query,
        view::{self, Piece},
    },
    model::{PartPresence, SCHEMA},
    store::{Store, Txn, keys},
};
use tokio_util::sync::CancellationToken;

/// Which role this test binary is to play instead of testing.
pub const ROLE: &str = "DEIS_LOG_TEST_ROLE";
pub const UNIT: &str = "blog_v7.web.1";
pub const UUID: &str = "6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111";
/// What anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A process that is killed when the test ends, however it ends.
pub struct Process(pub Child);

impl Process {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
        self.wait()
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        until("the process to end", || self.0.try_wait().expect("wait"))
    }

    /// Private memory in KiB, as the kernel counts it.
    pub fn private_kib(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.0.id());
        let text = fs::read_to_string(path).expect("smaps_rollup");
        text.lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// One host's log path: FIFO, spool, agent and logger.
pub struct Bench {
    pub dir: tempfile::TempDir,
    /// The FIFO as systemd holds it: open for reading and writing, whoever else comes and goes.
    pub fifo: File,
    lines: SocketAddr,
    http: SocketAddr,
}

impl Bench {
    pub fn new() -> Self {
        // Spools are on tmpfs.
        let dir = tempfile::tempdir_in("/dev/shm").expect("dir");
        let path = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
            .expect("fifo");
        let fifo = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("open");
        rustix::pipe::fcntl_setpipe_size(&fifo, 1 << 20).expect("pipe size");
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .and_then(|l| l.local_addr())
                .expect("port")
        };
        Self {
            lines: free(),
            http: free(),
            dir,
            fifo,
        }
    }

    pub fn agent_socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn role(&self, role: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command
            .args(["--exact", "role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env("DIR", self.dir.path())
            .env("LINES", self.lines.to_string())
            .env("HTTP", self.http.to_string())
            .stdout(Stdio::null());
        Process(command.spawn().expect("role"))
    }

    pub fn logger(&self) -> Process {
        self.role("logger")
    }

    pub fn agent(&self) -> Process {
        self.role("agent")
    }

    fn sidecar_command(&self, command: &str) -> Command {
        let mut built = Command::new(env!("CARGO_BIN_EXE_deis-sidecar"));
        built
            .args([command, "--unit", UNIT, "--uuid", UUID])
            .arg("--agent-socket")
            .arg(self.agent_socket());
        built
    }

    pub fn announcer(&self, args: &[&str]) -> Process {
        let mut command = self.sidecar_command("announce");
        Process(command.args(args).spawn().expect("announcer"))
    }

    pub fn sidecar(&self, args: &[&str]) -> Process {
        let mut command = self.sidecar_command("log");
        command
            .args(["--app", "blog", "--tag", "blog[web.1]"])
            .arg("--spool")
            .arg(self.spool())
            .arg("--journal")
            .arg(self.dir.path().join("journal"))
            .args(args)
            .stdin(self.fifo.try_clone().expect("fifo"))
            .stderr(Stdio::null());
        Process(command.spawn().expect("sidecar"))
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// Bytes in the spool.
    pub fn spooled(&self) -> u64 {
        let dir = self.spool().join(UNIT).join(UUID);
        let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
        sizes
            .filter_map(|entry| Some(entry.metadata().ok()?.len()))
            .sum()
    }

    /// Whether a segment in the spool has these bytes.
    pub fn spool_holds(&self, bytes: &[u8]) -> bool {
        let dir = self.spool().join(UNIT).join(UUID);
        let mut files = fs::read_dir(dir).into_iter().flatten().flatten();
        files.any(|file| {
            let text = fs::read(file.path()).unwrap_or_default();
            text.windows(bytes.len()).any(|window| window == bytes)
        })
    }

    /// A request to the logger: status and body; none while it doesn't answer.
    pub fn http(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = self.request(method, path, body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// A connection on which a request was sent.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).ok()?;
        Some(stream)
    }

    /// A plain connection to the line port.
    pub fn line_port(&self) -> TcpStream {
        let stream = until("the line port", || TcpStream::connect(self.lines).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    }

    /// Follows the log as a controller does.
    pub fn follow(&self, lines: usize) -> mpsc::Receiver<String> {
        let (sender, follower) = mpsc::channel();
        let address = self.http.to_string();
        thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("runtime");
            runtime.block_on(async move {
                let store = Store::memory();
                let presence = PartPresence {
                    schema: SCHEMA,
                    id: UUID.parse().expect("uuid"),
                    address,
                };
                let txn = Txn::new().put(&keys::part("logs", "127.0.0.1"), &presence);
                store.commit(txn).await.expect("registered");
                let whose = Whose {
                    app: "blog".parse().expect("app"),
                    owner: Owner {
                        uuid: UUID.parse().expect("uuid"),
                        created_ms: 0,
                    },
                };
                let query = Query {
                    lines,
                    follow: true,
                    of: None,
                    since_ms: None,
                };
                let view = view::open(&store, whose, query).await.expect("opened");
                let mut view = view.expect("a log");
                while let Some(piece) = view.next().await {
                    if let Piece::Text(text) = piece
                        && sender.send(text).is_err()
                    {
                        return;
                    }
                }
            });
        });
        follower
    }

    /// The log's lines without their times, once `done` says so of the last lines.
    pub fn log_until(&self, what: &str, done: impl Fn(&str) -> bool) -> Vec<String> {
        until(what, || {
            let (_, last) = self.http("GET", "/logs/blog?lines=10", "")?;
            done(&last).then_some(())
        });
        let (status, text) = self
            .http("GET", "/logs/blog?lines=100000", "")
            .expect("log");
        assert_eq!(status, 200);
        text.lines().map(|line| line[23..].to_owned()).collect()
    }
}

/// Plays the role that the environment asks for, until killed.
pub fn play(role: &str) {
    let get = |name: &str| std::env::var(name).expect("environment");
    let dir = PathBuf::from(get("DIR"));
    let address = |name: &str| get(name).parse::<SocketAddr>().expect("address");
    match role {
        "logger" => logger(&dir, address("LINES"), address("HTTP")),
        "agent" => relay(&dir.join("agent.sock"), address("LINES")),
        other => panic!("no role {other}"),
    }
}

fn logger(dir: &Path, lines: SocketAddr, http: SocketAddr) {
    let place = Place {
        lines,
        http,
        folder: dir.join("logger"),
        limits: Limits::default(),
    };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let bound = deis::logger::bind(&place).await.expect("bind");
        deis::logger::serve(bound, place, CancellationToken::new())
            .await
            .expect("serve");
    });
}

/// The agent's part: reads the first line, then passes bytes both ways.
fn relay(socket: &Path, logger: SocketAddr) {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).expect("bind");
    for sidecar in listener.incoming().flatten() {
        thread::spawn(move || {
            let mut first = Vec::new();
            let mut byte = [0];
            while byte != *b"\n" && (&sidecar).read_exact(&mut byte).is_ok() {
                first.push(byte[0]);
            }
            // A sidecar that was killed in the middle of its greeting gets nothing, nor does one
            // that says something else.
            let greeting = format!(
                "{{\"hello\":\"log\",\"unit\":\"{UNIT}\",\"uuid\":\"{UUID}\",\"tag\":\"blog[web.1]\",\"app\":\"blog\"}}\n"
            );
            if first != greeting.as_bytes() {
                return;
            }
            if let Ok(logger) = TcpStream::connect(logger) {
                let (up, down) = (
                    sidecar.try_clone().expect("clone"),
                    logger.try_clone().expect("clone"),
                );
                let upward = thread::spawn(move || {
                    let _ = std::io::copy(&mut &up, &mut &down);
                    let _ = down.shutdown(std::net::Shutdown::Both);
                });
                let _ = std::io::copy(&mut &logger, &mut &sidecar);
                let _ = sidecar.shutdown(std::net::Shutdown::Both);
                let _ = upward.join();
            }
        });
    }
}

/// An agent that an announcer talks to: one connection's lines.
pub fn announcements(listener: &UnixListener) -> impl Iterator<Item = String> + use<> {
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let lines: BufReader<UnixStream> = BufReader::new(stream);
    lines.lines().map(|line| line.expect("line"))
}
