//! `deis run`: exact, streamed, on a terminal; and nothing is left of it, whoever dies.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};

use crate::support::*;

/// `deis run` of an app, to be started.
fn deis_run(app: &App<'_>, args: &[&str]) -> Command {
    let mut command = app.user.command(DEIS, &app.user.home);
    command.args(["run", "-a", &app.name]).args(args);
    command
}

/// What a command prints when it is given this input.
#[track_caller]
fn with_input(mut command: Command, input: Vec<u8>) -> (Option<i32>, Vec<u8>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("stdin");
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("ended");
    // A command that doesn't read it all is no failure of ours.
    let _ = writer.join().expect("writer");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), output.stdout, errors)
}

/// Units of one-offs of an app that are loaded on any host.
fn units(cluster: &Cluster, app: &str) -> String {
    let script = format!(
        "systemctl list-units --all --plain --no-legend '{app}_v*.run.*'; ls /run/deis/run/{app}_* 2>/dev/null; podman ps -a --format '{{{{.Names}}}}' | grep '^{app}_.*run' ; true"
    );
    cluster
        .on_all(&script)
        .into_values()
        .map(|ran| ran.ok().out)
        .collect()
}

/// Waits until nothing is left of an app's one-offs: no unit, no file, no container, no assignment.
#[track_caller]
fn nothing_left(cluster: &Cluster, app: &str, limit: Duration) -> Duration {
    let begun = Instant::now();
    eventually("nothing is left", limit, || {
        let left = units(cluster, app);
        if !left.is_empty() {
            return Err(left);
        }
        let keys = cluster
            .etcdctl(&cluster.hosts[0], "get --prefix --keys-only /deis/schedule")
            .ok()
            .out;
        match keys
            .lines()
            .find(|key| key.contains(&format!("/{app}_")) && key.contains(".run."))
        {
            Some(key) => Err(key.to_owned()),
            None => Ok(()),
        }
    });
    begun.elapsed()
}

#[test]
fn commands_arrive_as_they_are() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "exact");
    app.deis(&["config:set", "GREETING=good day"]).ok();

    // Several arguments: each as it is.
    let corpus = [
        "plain",
        "two words",
        "",
        "it's",
        "say \"hi\"",
        "$HOME",
        "${GREETING}",
        "$(id)",
        "`id`",
        "100%n %i %%",
        "back\\slash",
        "new\nline",
        "tab\there",
        "ünïcödé 🎉",
        "*",
        "~",
        "#no",
        "!bang",
        "a;b|c&d",
        "-la",
        "--",
        "A=1",
        "{{name}}",
        "<>",
        "\\n",
    ];
    let program = "import sys, json; print(json.dumps(sys.argv[1:]))";
    let args = [&["--", "python3", "-c", program], &corpus[..]].concat();
    let ran = run(&mut deis_run(&app, &args), MINUTE).ok();
    let got: Vec<String> = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(got, corpus);

    // A single one: a line for the shell.
    let lines = [
        ("echo \"a b\" 'c  d' $GREETING", "a b c  d good day\n"),
        (
            "printf '%s|' \"$GREETING\" '$GREETING' 100% %n",
            "good day|$GREETING|100%|%n|",
        ),
        (
            "echo one; echo two | tr a-z A-Z && echo 'it'\\''s'",
            "one\nTWO\nit's\n",
        ),
        ("for i in 1 2 3; do echo \"$i\"; done", "1\n2\n3\n"),
        ("cat <<'X'\n%p $HOME \\\nX", "%p $HOME \\\n"),
        ("pwd", "/app\n"),
        ("echo $DEIS_APP $DEIS_RELEASE", "exact v3\n"),
    ];
    for (line, want) in lines {
        let ran = run(&mut deis_run(&app, &["--", line]), MINUTE).ok();
        assert_eq!(ran.out, want, "{line}");
        assert_eq!(ran.err, format!("Running '{line}'...\n"));
    }
    // 30 kB of command, more than a line of a unit could hold.
    let long = format!("echo {}", "0123456789".repeat(3000));
    let ran = run(&mut deis_run(&app, &["--", &long]), MINUTE).ok();
    assert_eq!(ran.out.len(), 30_001);

    // Exit codes and both streams.
    for (line, code) in [
        ("true", 0),
        ("exit 3", 3),
        ("no-such-program", 127),
        ("kill -KILL $$", 137),
        ("exit 255", 255),
    ] {
        let ran = run(&mut deis_run(&app, &["--", line]), MINUTE);
        assert_eq!(ran.status, Some(code), "{ran:#?}");
    }
    let ran = run(
        &mut deis_run(&app, &["echo out; echo err >&2; exit 1"]),
        MINUTE,
    );
    assert_eq!((ran.status, ran.out.as_str()), (Some(1), "out\n"));
    assert!(ran.err.ends_with("...\nerr\n"), "{ran:?}");
    nothing_left(&cluster, "exact", MINUTE);
}

#[test]
fn any_amount_in_both_directions() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "amount");
    for size in [64 << 10, 10_000_000] {
        let line = format!("head -c {size} /dev/zero | tr '\\0' x");
        let (code, out, _) = with_input(deis_run(&app, &["--", &line]), Vec::new());
        assert_eq!((code, out.len()), (Some(0), size));
        assert!(out.iter().all(|byte| *byte == b'x'));
        // The same for a v1 client: one answer, JSON.
        let answer = v1_run(&app, &line);
        assert_eq!(answer[0], 0);
        assert_eq!(answer[1].as_str().expect("text").len(), size);
    }
    // Input: a count, and all of it back, byte for byte, while both directions are full.
    let (code, out, _) = with_input(deis_run(&app, &["wc -c"]), b"hello\n".to_vec());
    assert_eq!((code, String::from_utf8_lossy(&out).trim()), (Some(0), "6"));
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(3_000_000)
    .collect();
    let (code, out, _) = with_input(deis_run(&app, &["cat"]), noise.clone());
    assert!(
        code == Some(0) && out == noise,
        "{code:?}, {} bytes",
        out.len()
    );
    // A command that reads nothing, or not all, is not kept from ending.
    let (code, out, _) = with_input(
        deis_run(&app, &["head -c 3; exit 4"]),
        vec![b'y'; 2_000_000],
    );
    assert_eq!((code, out.as_slice()), (Some(4), &b"yyy"[..]));
    // A reader that has seen enough ends the command.
    let mut shell = app.user.command("bash", &app.user.home);
    shell.args([
        "-c",
        &format!("{DEIS} run -a amount yes 2>/dev/null | head -n 2"),
    ]);
    assert_eq!(run(&mut shell, MINUTE).ok().out, "y\ny\n");
    nothing_left(&cluster, "amount", MINUTE);

    // Memory: the limit of the type `run`, and its end is told.
    app.deis(&["limits:set", "run=64M"]).ok();
    let line = "python3 -c 'x = bytearray(300 << 20)'";
    let ran = run(&mut deis_run(&app, &[line]), MINUTE);
    assert_eq!(ran.status, Some(137), "{ran:?}");
    assert!(
        ran.err.contains("out of memory (its limit is 64 MiB"),
        "{ran:?}"
    );
    let answer = v1_run(&app, line);
    assert!(
        answer[1].as_str().expect("text").contains("out of memory"),
        "{answer}"
    );
}

/// What a v1 client sends, and its answer.
fn v1_run(app: &App<'_>, command: &str) -> Value {
    let profile =
        std::fs::read_to_string(app.user.home.join(".deis/client.json")).expect("profile");
    let profile: Value = serde_json::from_str(&profile).expect("profile");
    let token = profile["token"].as_str().expect("token");
    let body = json!({ "command": command }).to_string();
    let request = format!(
        "POST /v1/apps/{}/run HTTP/1.1\r\nHost: deis.localhost\r\nAuthorization: token {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        app.name,
        body.len()
    );
    let mut connection = Connection::open("127.0.0.1:80").expect("connection");
    let answer = connection.request(&request).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.head);
    serde_json::from_str(&answer.body).expect("JSON")
}

/// A terminal with `deis run` on it.
struct Terminal {
    master: File,
    slave: OwnedFd,
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    fn start(app: &App<'_>, args: &[&str], rows: u16, cols: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let slave: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("text"))
            .expect("opened")
            .into();
        let mut command = app.user.command("setsid", &app.user.home);
        command
            .args(["--ctty", "--wait", DEIS, "run", "-a", &app.name])
            .args(args);
        let end = || Stdio::from(slave.try_clone().expect("cloned"));
        command
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let mut terminal = Self {
            child: command.spawn().expect("started"),
            seen: Arc::default(),
            slave,
            master: File::from(master),
        };
        terminal.resize(rows, cols);
        let (seen, mut reader) = (
            terminal.seen.clone(),
            terminal.master.try_clone().expect("cloned"),
        );
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut chunk) {
                seen.lock()
                    .expect("lock")
                    .push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        terminal.until("Running");
        terminal
    }

    fn resize(&mut self, rows: u16, cols: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(self.master.as_fd(), size).expect("resized");
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits for a text, and forgets what was seen up to its end.
    #[track_caller]
    fn until(&mut self, text: &str) -> String {
        eventually(&format!("{text:?} on the terminal"), MINUTE, || {
            let mut seen = self.seen.lock().expect("lock");
            match seen.find(text) {
                Some(at) => Ok(seen.drain(..at + text.len()).collect()),
                None => Err(format!("{seen:?}")),
            }
        })
    }

    /// The exit code, and whether the terminal is as it was.
    #[track_caller]
    fn end(mut self) -> Option<i32> {
        let status = eventually("it has ended", MINUTE, || {
            self.child
                .try_wait()
                .expect("wait")
                .ok_or_else(|| self.seen.lock().expect("lock").clone())
        });
        let modes = tcgetattr(&self.slave).expect("modes");
        let flags = rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ECHO;
        assert!(
            modes.local_modes.contains(flags),
            "the terminal is cooked again: {modes:?}"
        );
        status.code()
    }
}

#[test]
fn a_terminal() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "console");
    let mut terminal = Terminal::start(&app, &["bash"], 33, 101);
    terminal.type_in("stty size; tty; echo $TERM\r");
    terminal.until("33 101\r\n");
    terminal.until("/dev/pts/0\r\n");
    terminal.until("xterm-256color\r\n");
    // What is typed is shown, once, by the terminal of the container.
    terminal.type_in("echo a''b\r");
    let seen = terminal.until("ab\r\n");
    assert_eq!(seen.matches("echo a''b").count(), 1, "{seen:?}");
    // Another size.
    terminal.resize(50, 132);
    terminal.type_in("sleep 1; stty size\r");
    terminal.until("50 132\r\n");
    // Ctrl-C ends what runs there, and neither the shell nor us.
    terminal.type_in("echo be''gun; sleep 1000\r");
    terminal.until("begun\r\n");
    terminal.type_in("\x03");
    terminal.until("^C");
    terminal.type_in("echo st''ill $?\r");
    terminal.until("still 130\r\n");
    // No key is ours or podman's.
    terminal.type_in("\x10\x11\x10\x03");
    // Ctrl-C throws away what was typed: not before the shell is ready again.
    terminal.until("^C");
    terminal.until("$ ");
    terminal.type_in("echo he''re\r");
    terminal.until("here\r\n");
    // It may be quiet for longer than anything in between is patient, while it is looked at.
    let listed = app.deis(&["ps"]).ok().out;
    assert!(!listed.contains("run"), "{listed}");
    thread::sleep(Duration::from_secs(35));
    terminal.type_in("echo ali''ve\r");
    terminal.until("alive\r\n");
    terminal.type_in("exit 7\r");
    assert_eq!(terminal.end(), Some(7));

    // Ctrl-D is the shell's, and of what runs in it. (Ctrl-Z does nothing: podman's init leaves SIGTSTP
    // blocked in what it starts.)
    let mut terminal = Terminal::start(&app, &["bash"], 24, 80);
    terminal.until("$ ");
    terminal.type_in("cat\r");
    // The shell has done with its line.
    terminal.until("\x1b[?2004l");
    terminal.type_in("here\r");
    terminal.until("here\r\nhere\r\n");
    terminal.type_in("\x04");
    terminal.until("$ ");
    terminal.type_in("\x04");
    assert_eq!(terminal.end(), Some(0));

    // A terminal whose window is closed takes the process with it.
    let mut terminal = Terminal::start(&app, &["bash"], 24, 80);
    terminal.type_in("echo re''ady\r");
    terminal.until("ready\r\n");
    let id = i32::try_from(terminal.child.id()).expect("pid");
    let mut kill = Command::new("pkill");
    run(kill.args(["-HUP", "-P", &id.to_string()]), MINUTE);
    let mut kill = Command::new("kill");
    run(kill.args(["-HUP", &id.to_string()]), MINUTE);
    drop(terminal.child.wait());
    nothing_left(&cluster, "console", MINUTE);
}

#[test]
fn output_comes_while_it_runs_and_a_killed_client_leaves_nothing() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "stream");
    let spawn = |line: &str| {
        let mut command = deis_run(&app, &["--", line]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
        let mut first = String::new();
        reader.read_line(&mut first).expect("a line");
        assert_eq!(first, "first\n");
        (child, reader)
    };
    let secret = "hunter-3141592";
    let (mut child, reader) = spawn(&format!("echo first; sleep 1000; : {secret}"));
    // The line came, and the process still runs.
    assert!(child.try_wait().expect("wait").is_none());
    assert!(units(&cluster, "stream").contains("stream_v2.run.1.service"));
    // Its command line may hold secrets: it is in no unit and, in clear, not in etcd.
    for (host, ran) in cluster.on_all(&format!(
        "grep -rl {secret} /run/systemd /var/lib/deis/agent; true"
    )) {
        assert_eq!(ran.ok().out, "", "{host}");
    }
    let schedule = cluster
        .etcdctl(&cluster.hosts[0], "get --prefix /deis/schedule")
        .ok()
        .out;
    assert!(schedule.contains("stream_v2.run.1") && !schedule.contains(secret));
    child.kill().expect("killed");
    child.wait().expect("ended");
    drop(reader);
    let left = nothing_left(&cluster, "stream", MINUTE);
    println!("a killed client's process was gone after {left:.1?}");
    assert!(left < Duration::from_secs(20), "{left:?}");

    // Ctrl-C without a terminal: the process gets it, and we say 130.
    let (mut child, _reader) = spawn(
        "trap 'echo interrupted >&2; exit 5' INT; echo first; while true; do sleep 0.1; done",
    );
    let mut kill = Command::new("kill");
    run(kill.args(["-INT", &child.id().to_string()]), MINUTE).ok();
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let mut errors = String::new();
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_string(&mut errors)
        .expect("text");
    assert!(errors.contains("interrupted"), "{errors}");
    nothing_left(&cluster, "stream", MINUTE);

    // A reader that takes its time loses nothing.
    let (mut child, mut reader) =
        spawn("echo first; head -c 3000000 /dev/zero | tr '\\0' x; exit 6");
    thread::sleep(Duration::from_secs(45));
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the rest");
    assert_eq!(
        (rest.len(), child.wait().expect("ended").code()),
        (3_000_000, Some(6))
    );
}

#[test]
fn sessions_outlive_agents_and_controllers_leave_no_orphans() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "sturdy");
    let line = "for i in $(seq 1 150); do echo $i; sleep 0.1; done; cat; exit 9";
    let mut command = deis_run(&app, &["--", line]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
    let mut got = Vec::new();
    for line in reader.by_ref().lines() {
        got.push(line.expect("a line"));
        if [30, 60, 90].contains(&got.len()) {
            cluster
                .on_all("systemctl kill -s KILL deis-agent")
                .into_values()
                .for_each(|ran| drop(ran.ok()));
        }
        if got.len() == 100 {
            // Input, too.
            let mut stdin = child.stdin.take().expect("stdin");
            stdin.write_all(b"the input\n").expect("written");
        }
    }
    let mut want: Vec<String> = (1..=150).map(|n| n.to_string()).collect();
    want.push("the input".to_owned());
    assert_eq!(got, want);
    assert_eq!(child.wait().expect("ended").code(), Some(9));
    nothing_left(&cluster, "sturdy", MINUTE);

    // All controllers die: the client is told, the process is ended, the assignment removed.
    let mut command = deis_run(&app, &["--", "echo first; sleep 1000"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
    reader.read_line(&mut first).expect("a line");
    cluster.on_all("systemctl kill -s KILL 'deis-controller@*.service'");
    let status = child.wait().expect("ended");
    let mut errors = String::new();
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_string(&mut errors)
        .expect("text");
    assert_eq!(status.code(), Some(255), "{errors}");
    assert!(errors.contains("connection"), "{errors}");
    let left = nothing_left(&cluster, "sturdy", 2 * MINUTE);
    println!("after the controllers' death nothing was left after {left:.1?}");
    eventually("the API is back", MINUTE, || {
        let ran = run(&mut deis_run(&app, &["true"]), MINUTE);
        if ran.status == Some(0) {
            Ok(())
        } else {
            Err(format!("{ran:?}"))
        }
    });
}

#[test]
fn a_detached_process_prints_into_the_log() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "detached");
    let ran = app
        .deis(&["run", "--detach", "echo from afar; exit 3"])
        .ok();
    assert!(ran.out.contains("as run.1"), "{ran:?}");
    eventually("its line is in the log", MINUTE, || {
        let logs = app.deis(&["logs"]).ok().out;
        if logs.contains("detached[run.1]: from afar") {
            Ok(())
        } else {
            Err(logs)
        }
    });
    nothing_left(&cluster, "detached", MINUTE);
}
