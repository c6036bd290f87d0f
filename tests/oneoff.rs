//! `deis-sidecar run` with real processes, pipes and terminals; the test is agent and controller.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use deis::session::{Channel, Frame, Link, Part, Status};
use serde_json::json;

/// Longest wait for anything that is to happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar, and the other end of its session.
struct Scene {
    _dir: tempfile::TempDir,
    sidecar: Child,
    listener: UnixListener,
    link: Link,
    wire: Option<UnixStream>,
    input: Vec<u8>,
    output: String,
    errors: String,
    status: Option<Status>,
    /// Whether what comes is acknowledged.
    takes: bool,
    untaken: usize,
}

impl Scene {
    fn new(order: serde_json::Value) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let socket = dir.path().join("agent.sock");
        let errand = dir.path().join("errand.json");
        let listener = UnixListener::bind(&socket).expect("bound");
        fs::write(&errand, order.to_string()).expect("errand");
        let sidecar = Command::new(env!("CARGO_BIN_EXE_deis-sidecar"))
            .args(["run", "--unit", "blog_v1.run.1", "--agent-socket"])
            .arg(&socket)
            .arg("--errand")
            .arg(&errand)
            .args(["--", "bash", "-c"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        Self {
            _dir: dir,
            sidecar,
            listener,
            link: Link::answering(),
            wire: None,
            input: Vec::new(),
            output: String::new(),
            errors: String::new(),
            status: None,
            takes: true,
            untaken: 0,
        }
    }

    /// Takes the next connection of the sidecar.
    fn accept(&mut self) {
        self.listener.set_nonblocking(true).expect("set");
        let deadline = Instant::now() + PATIENCE;
        let wire = loop {
            match self.listener.accept() {
                Ok((wire, _)) => break wire,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "the sidecar does not come");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        };
        wire.set_nonblocking(false).expect("set");
        wire.set_read_timeout(Some(Duration::from_millis(20)))
            .expect("timeout");
        let mut reader = BufReader::new(wire);
        let mut hello = String::new();
        reader.read_line(&mut hello).expect("hello");
        let want = "{\"hello\":\"run\",\"unit\":\"blog_v1.run.1\",\"attach\":\"127.0.0.1:8001\"}\n";
        assert_eq!(hello, want);
        let mut token = String::new();
        reader.read_line(&mut token).expect("token");
        assert_eq!(token, "{\"token\":\"t0ken\"}\n");
        self.input = reader.buffer().to_vec();
        self.wire = Some(reader.into_inner());
    }

    fn send(&mut self) {
        let mut bytes = Vec::new();
        while let Some(frame) = self.link.next_frame() {
            frame.write(&mut bytes);
        }
        if let Some(wire) = &mut self.wire {
            wire.write_all(&bytes).expect("sent");
        }
    }

    fn say(&mut self, channel: Channel, bytes: &[u8]) {
        self.link.push(Part::new(channel, bytes));
        self.send();
    }

    /// Takes what comes, until `enough`.
    #[track_caller]
    fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: not in time; seen {:?} {:?} {:?}",
                self.output,
                self.errors,
                self.status
            );
            self.step();
        }
    }

    fn step(&mut self) {
        if self.wire.is_none() {
            self.accept();
        }
        let mut chunk = [0; 8192];
        let read = self.wire.as_mut().expect("a connection").read(&mut chunk);
        match read {
            Ok(0) => self.wire = None,
            Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(error) => panic!("{error}"),
        }
        while let Some((frame, taken)) = Frame::read(&self.input).expect("frames") {
            self.input.drain(..taken);
            if frame == Frame::Ping {
                let mut pong = Vec::new();
                Frame::Pong.write(&mut pong);
                self.wire
                    .as_mut()
                    .expect("a connection")
                    .write_all(&pong)
                    .expect("sent");
                continue;
            }
            if let Some(part) = self.link.hear(frame).expect("rules") {
                let text = || String::from_utf8_lossy(&part.bytes).into_owned();
                match part.channel {
                    Channel::Output => self.output += &text(),
                    Channel::Errors => self.errors += &text(),
                    Channel::Status => self.status = serde_json::from_str(&text()).ok(),
                    other => panic!("{other:?}"),
                }
                self.untaken += 1;
            }
            if self.takes {
                (0..std::mem::take(&mut self.untaken)).for_each(|_| self.link.take());
            }
        }
        if self.wire.is_some() {
            self.send();
        }
    }

    /// The status that was sent, and the sidecar's own exit code.
    #[track_caller]
    fn end(&mut self) -> (Option<Status>, Option<i32>) {
        self.until("the end", |scene| scene.status.is_some());
        self.send();
        (self.status.clone(), self.exit())
    }

    #[track_caller]
    fn exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.sidecar.try_wait().expect("wait") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the sidecar does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.sidecar.id()).expect("pid");
        let pid = rustix::process::Pid::from_raw(id).expect("pid");
        rustix::process::kill_process(pid, signal).expect("signalled");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.sidecar.kill();
        let _ = self.sidecar.wait();
    }
}

fn order(command: &str, input: bool) -> serde_json::Value {
    json!({
        "command": command, "input": input, "token": "t0ken",
        "attach": "127.0.0.1:8001", "memory_bytes": 512 << 20,
    })
}

fn ended(code: i32) -> Option<Status> {
    Some(Status::Ended { code, remark: None })
}

#[test]
fn both_streams_and_the_exit_code() {
    let mut scene = Scene::new(order("echo out; echo err >&2; exit 3", false));
    assert_eq!(scene.end(), (ended(3), Some(3)));
    assert_eq!(
        (scene.output.as_str(), scene.errors.as_str()),
        ("out\n", "err\n")
    );
    let mut scene = Scene::new(order("kill -TERM $$", false));
    assert_eq!(scene.end().0, ended(143));
}

#[test]
fn input_and_its_end() {
    let mut scene = Scene::new(order("cat; exit 4", true));
    scene.until("a greeting", |scene| scene.link.is_open());
    scene.say(Channel::Input, b"ping\n");
    scene.until("its echo", |scene| scene.output == "ping\n");
    scene.say(Channel::Input, b"");
    assert_eq!(scene.end(), (ended(4), Some(4)));
    // Without input, reading ends at once.
    assert_eq!(Scene::new(order("cat; exit 5", false)).end().0, ended(5));
}

#[test]
fn a_process_that_does_not_read_bounds_what_may_be_sent() {
    let line =
        "trap 'go=1' INT; read -r; echo ready; until [ $go ]; do sleep 0.05; done; head -c 9";
    let mut scene = Scene::new(order(line, true));
    scene.until("a greeting", |scene| scene.link.is_open());
    scene.say(Channel::Input, b"\n");
    scene.until("ready", |scene| scene.output == "ready\n");
    let mut sent = 0;
    while scene.link.room() > 0 {
        scene.say(Channel::Input, &[b'x'; 16 << 10]);
        sent += 1;
        assert!(sent < 40, "no bound");
        scene.step();
    }
    // A signal is not kept waiting by input that nobody reads.
    scene.say(Channel::Signal, b"INT");
    assert_eq!(scene.end(), (ended(0), Some(0)));
    assert_eq!(scene.output, "ready\nxxxxxxxxx");
}

#[test]
fn a_terminal_with_its_size() {
    let mut order = order(
        "stty size; trap 'stty size; exit 6' WINCH; echo ready; read -r line; echo \"got $line\"; while true; do sleep 0.05; done",
        true,
    );
    order["terminal"] = json!({ "rows": 33, "cols": 101, "term": "xterm" });
    let mut scene = Scene::new(order);
    scene.until("the size", |scene| {
        scene.output.contains("33 101") && scene.output.contains("ready")
    });
    // Nothing is echoed: this terminal is only the way to another.
    scene.say(Channel::Input, b"typed\n");
    scene.until("input", |scene| scene.output.contains("got typed"));
    assert_eq!(scene.output.matches("typed").count(), 1, "{}", scene.output);
    scene.say(Channel::Size, br#"{"rows":50,"cols":132}"#);
    assert_eq!(scene.end(), (ended(6), Some(6)));
    assert!(scene.output.contains("50 132"), "{}", scene.output);
}

#[test]
fn a_broken_connection_loses_nothing() {
    let mut scene = Scene::new(order(
        "for i in $(seq 1 3000); do echo $i; done; cat; exit 7",
        true,
    ));
    for n in 1..=5 {
        let line = format!("\n{}\n", n * 100);
        scene.until("some lines", |scene| scene.output.contains(&line));
        scene.wire = None;
    }
    let all: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    scene.until("all lines", |scene| scene.output.len() >= all.len());
    assert_eq!(scene.output, all);
    scene.say(Channel::Input, b"after all\n");
    scene.wire = None;
    scene.until("a greeting", |scene| scene.output.ends_with("after all\n"));
    scene.say(Channel::Input, b"");
    assert_eq!(scene.end(), (ended(7), Some(7)));
}

#[test]
fn output_that_nobody_takes_stops_the_process_and_is_not_lost() {
    let mut scene = Scene::new(order(
        "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo done >&2",
        false,
    ));
    scene.takes = false;
    scene.until("a window of output", |scene| {
        scene.output.len() >= 200 << 10
    });
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        scene.step();
    }
    assert!(scene.output.len() < 400 << 10, "{}", scene.output.len());
    assert_eq!(scene.errors, "");
    scene.takes = true;
    (0..std::mem::take(&mut scene.untaken)).for_each(|_| scene.link.take());
    assert_eq!(scene.end(), (ended(0), Some(0)));
    assert_eq!(scene.output.len(), 3_000_001);
}

#[test]
fn signals_for_it_and_for_the_sidecar() {
    let line = "trap 'echo int; exit 8' INT; echo ready; while true; do sleep 0.05; done";
    let mut scene = Scene::new(order(line, false));
    scene.until("ready", |scene| scene.output == "ready\n");
    scene.say(Channel::Signal, b"INT");
    assert_eq!(scene.end(), (ended(8), Some(8)));
    assert_eq!(scene.output, "ready\nint\n");
    // The unit is stopped: the process gets SIGTERM, and its last words arrive.
    let line = "trap 'echo bye; exit 9' TERM; echo ready; while true; do sleep 0.05; done";
    let mut scene = Scene::new(order(line, false));
    scene.until("ready", |scene| scene.output == "ready\n");
    scene.signal(rustix::process::Signal::TERM);
    assert_eq!(scene.end(), (ended(9), Some(9)));
    assert_eq!(scene.output, "ready\nbye\n");
}

#[test]
fn a_process_for_which_nobody_waits_is_ended() {
    let line = "trap 'exit 11' TERM; echo ready; while true; do sleep 0.05; done";
    let mut scene = Scene::new(order(line, false));
    scene.until("ready", |scene| scene.output == "ready\n");
    let mut gone = Vec::new();
    Frame::Gone.write(&mut gone);
    let wire = scene.wire.as_mut().expect("a connection");
    wire.write_all(&gone).expect("sent");
    assert_eq!(scene.exit(), Some(11));
    // The same, after a while, when nobody answers at all.
    let mut scene = Scene::new(order(line, false));
    scene.until("ready", |scene| scene.output == "ready\n");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(45)
        && scene.sidecar.try_wait().expect("wait").is_none()
    {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        (29..40).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(scene.exit(), Some(11));
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().expect("folder");
    let errand = dir.path().join("errand.json");
    let mut detached = order("echo \"$0 detached\"; exit 12", false);
    detached["attach"] = serde_json::Value::Null;
    fs::write(&errand, detached.to_string()).expect("errand");
    let run = |program: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_deis-sidecar"))
            .args(["run", "--unit", "blog_v1.run.1", "--errand"])
            .arg(&errand)
            .arg("--")
            .args(program)
            .output()
            .expect("ran")
    };
    // Detached: the process is in the sidecar's place.
    let ran = run(&["bash", "-c"]);
    assert_eq!(
        (ran.status.code(), ran.stdout.as_slice()),
        (Some(12), &b"bash detached\n"[..])
    );
    let ran = run(&["/no/such/program"]);
    assert!(!ran.status.success());
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(said.contains("/no/such/program can't be started"), "{said}");
}
