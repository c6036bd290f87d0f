//! `deis logs` as users know it: in order, with what happens to the app in between, and live.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::support::*;

const APP: &str = r#"
import http.server, os, socketserver, sys, threading
from urllib.parse import parse_qs, urlparse

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlparse(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        if url.path == "/say":
            print(query["text"], flush=True)
        elif url.path == "/long":
            print("x" * int(query["size"]) + "|", flush=True)
        elif url.path == "/crash":
            threading.Timer(0.2, os._exit, [int(query["code"])]).start()
        elif url.path == "/eat":
            def eat():
                food = []
                while True:
                    food.append(bytearray(os.urandom(1 << 20)))
            threading.Timer(0.2, eat).start()
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    def log_message(self, *args):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

print("the scribe listens", flush=True)
Server(("", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn scribe<'a>(user: &'a User, name: &str) -> App<'a> {
    let files = [("app.py", APP), ("Procfile", "web: python3 -u app.py\n")];
    App::create(user, name, &files)
}

/// Asks the app for something, as soon as it serves.
fn ask(app: &App<'_>, path: &str) {
    eventually(&format!("{} serves {path}", app.name), MINUTE, || {
        let answer = app.get(path)?;
        (answer.status == 200)
            .then_some(())
            .ok_or_else(|| format!("{answer:?}"))
    });
}

/// What the lines say, after `<time> <app>`.
fn said(logs: &str) -> Vec<String> {
    logs.lines()
        .filter_map(|line| Some(line.split_once('[')?.1.to_owned()))
        .collect()
}

/// A `deis logs --follow`, ended with the test.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Follower {
    fn start(app: &App<'_>, args: &[&str]) -> Self {
        let args = [&["logs", "-f", "-a", &app.name], args].concat();
        let mut command = app.user.deis_command(&args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("deis");
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Lines up to the first that contains `text`.
    #[track_caller]
    fn until(&self, text: &str, limit: Duration) -> Vec<String> {
        let (deadline, mut seen) = (Instant::now() + limit, Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => seen.push(line),
                Err(_) => panic!("{text:?} did not come within {limit:?} after {seen:#?}"),
            }
            if seen.last().is_some_and(|line| line.contains(text)) {
                return seen;
            }
        }
    }
}

#[test]
fn logs_tell_the_apps_story_in_order() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = scribe(&user, "scribe");
    let fresh = app.deis(&["logs"]).ok().out;
    assert!(
        fresh.lines().count() <= 1,
        "a new app has said nothing: {fresh}"
    );
    app.push().ok();
    ask(&app, "/say?text=first");
    app.deis(&["scale", "web=2"]).ok();
    app.deis(&["config:set", "GREETING=hello"]).ok();
    ask(&app, "/say?text=second");
    let user_name = &user.name;
    let story = [
        format!("deis-controller]: {user_name} created initial release"),
        format!("deis-controller]: {user_name} deployed"),
        "web.1]: the scribe listens".to_owned(),
        "deis-controller]: release v2 is active".to_owned(),
        "]: first".to_owned(),
        format!("deis-controller]: {user_name} scaled web=2"),
        "web.2]: the scribe listens".to_owned(),
        "deis-controller]: scaled: web=2".to_owned(),
        format!("deis-controller]: {user_name} added GREETING: v3"),
        "deis-controller]: release v3 is active".to_owned(),
        "]: second".to_owned(),
    ];
    let logs = eventually("the story", MINUTE, || {
        let logs = said(&app.deis(&["logs"]).ok().out);
        let mut rest = logs.iter();
        let missing = story
            .iter()
            .find(|want| !rest.any(|line| line.contains(want.as_str())));
        match missing {
            None => Ok(logs),
            Some(missing) => Err(format!("no {missing:?} in its place in {logs:#?}")),
        }
    });

    // Some of it.
    let of_two = said(&app.deis(&["logs", "--ps", "web.2"]).ok().out);
    assert!(
        !of_two.is_empty() && of_two.iter().all(|line| line.starts_with("web.2]")),
        "{of_two:#?}"
    );
    let of_web = said(&app.deis(&["logs", "--ps", "web"]).ok().out);
    assert!(of_web.len() < logs.len() && of_web.len() > of_two.len());
    assert!(
        of_web.iter().all(|line| line.starts_with("web.")),
        "{of_web:#?}"
    );
    assert_eq!(said(&app.deis(&["logs", "-n", "1"]).ok().out).len(), 1);
    let all = said(&app.deis(&["logs", "--since", "1h"]).ok().out);
    assert_eq!(all, logs);
    let none = app.deis(&["logs", "--since", "2096-01-01T00:00:00Z"]).ok();
    assert_eq!(none.out, "");
    let refused = app.deis(&["logs", "--since", "soon"]).refused();
    assert!(refused.all().contains("is no time"), "{refused:?}");
    let json = app.deis(&["logs", "-n", "3", "--output", "json"]).ok().out;
    for line in json.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(
            line["time"].is_string() && line["process"].is_string(),
            "{line}"
        );
        assert!(line["text"].is_string(), "{line}");
    }
    assert_eq!(json.lines().count(), 3);

    // A line that no packet takes.
    ask(&app, "/long?size=66560");
    let long = eventually("the long line", MINUTE, || {
        let logs = app.deis(&["logs", "-n", "1", "--ps", "web"]).ok().out;
        logs.ends_with("|\n")
            .then_some(logs)
            .ok_or_else(|| "not yet".to_owned())
    });
    let (_, text) = long.trim_end().split_once("]: ").expect("a line");
    assert_eq!(text.len(), 66_561, "it is whole");

    // The name's next owner finds nothing, also when no logger was there to forget it.
    cluster.on_all("systemctl stop 'deis-logger@*.service'");
    app.user
        .deis(&[
            "destroy",
            "-a",
            &app.name,
            &format!("--confirm={}", app.name),
        ])
        .ok();
    app.user.deis(&["create", &app.name, "--no-remote"]).ok();
    // What somebody stops by hand stays stopped until he starts it again.
    let start = "cd /run/systemd/system; for unit in deis-logger@*.service; do \
                 [ ! -e $unit ] || systemctl start $unit; done";
    cluster
        .on_all(start)
        .into_values()
        .for_each(|ran| drop(ran.ok()));
    let next = eventually("the next owner's log", MINUTE, || {
        let logs = app.deis(&["logs"]);
        match logs.status {
            Some(0) if logs.out.contains("created initial release") => Ok(logs.out),
            _ => Err(format!("{logs:?}")),
        }
    });
    assert_eq!(next.lines().count(), 1, "{next}");
}

#[test]
fn logs_follow_what_happens() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = scribe(&user, "reporter");
    app.push().ok();
    let follower = Follower::start(&app, &["-n", "1"]);
    let crashes = Follower::start(&app, &["-n", "1", "--ps", "web.1"]);
    // The first line shows that both are there, whether it was said before they came or after.
    ask(&app, "/say?text=ready");
    follower.until("]: ready", MINUTE);
    crashes.until("]: ready", MINUTE);
    let begin = Instant::now();
    ask(&app, "/say?text=quick");
    follower.until("]: quick", MINUTE);
    println!("a line reaches its follower in {:?}", begin.elapsed());

    // Loggers restart: nothing is lost, nothing comes twice.
    for n in 0..30 {
        if n % 10 == 5 {
            cluster.on_all("systemctl kill -s KILL 'deis-logger@*.service'");
        }
        ask(&app, &format!("/say?text=number-{n}"));
    }
    ask(&app, "/say?text=done");
    let seen = follower.until("]: done", MINUTE);
    let numbers: Vec<usize> = seen
        .iter()
        .filter_map(|line| line.split_once("]: number-")?.1.parse().ok())
        .collect();
    assert_eq!(numbers, (0..30).collect::<Vec<_>>(), "{seen:#?}");

    // A crash.
    ask(&app, "/crash?code=7");
    let seen = follower.until("deis-controller]: web.1 crashed", MINUTE);
    let last = seen.last().expect("a line");
    assert!(last.contains("exited with code 7"), "{last}");
    crashes.until("web.1 crashed", MINUTE);
    follower.until("the scribe listens", MINUTE);

    // Killed by its memory limit.
    app.deis(&["limits:set", "web=64M"]).ok();
    follower.until("release v3 is active", MINUTE);
    ask(&app, "/eat");
    let seen = follower.until("deis-controller]: web.1 crashed", 2 * MINUTE);
    let last = seen.last().expect("a line");
    assert!(last.contains("out of memory"), "{last}");

    // A release that fails says why.
    app.commit(&[("app.py", "raise SystemExit(5)\n")]);
    app.push().refused();
    let seen = follower.until("release v4 is given up, going back to v3", 3 * MINUTE);
    assert!(
        seen.last().is_some_and(|line| line.contains("web.1")),
        "{seen:#?}"
    );

    // The end of the app is the end of its log.
    app.destroy();
    let mut follower = follower;
    eventually("the follower's end", MINUTE, || {
        let ended = follower
            .child
            .try_wait()
            .map_err(|error| error.to_string())?;
        ended.ok_or_else(|| "it goes on".to_owned())
    });
}

#[test]
fn logs_drain_to_a_syslog_server_and_nobody_waits_for_it() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = scribe(&user, "drained");
    app.push().ok();
    // The hosts reach this test where their packets to everywhere go.
    let route = cluster
        .sh(&cluster.hosts[0], "ip route show default")
        .ok()
        .out;
    let gateway = route.split_whitespace().nth(2).expect("gateway").to_owned();
    let server = TcpListener::bind((gateway.as_str(), 0)).expect("bind");
    let address = server.local_addr().expect("address");
    let target = format!("drain=tcp://{address}");
    let refused = cluster
        .deisctl(&["config", "logs", "set", "drain=nowhere"])
        .refused();
    assert!(refused.all().contains("is no drain"), "{refused:?}");
    cluster.deisctl(&["config", "logs", "set", &target]).ok();
    let (sender, messages) = mpsc::channel();
    thread::spawn(move || {
        for stream in server.incoming().flatten().take(1) {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let is_last = line.ends_with("last");
                let _ = sender.send(line);
                if is_last {
                    // And the server is gone.
                    return;
                }
            }
        }
    });
    let mut count = 0;
    let message = eventually("a message", MINUTE, || {
        // What is said before the drain is set up is not copied.
        count += 1;
        ask(&app, &format!("/say?text=message-{count}"));
        let message = messages
            .recv_timeout(Duration::from_secs(1))
            .map_err(|_| "nothing".to_owned())?;
        // The end of the push is told there, too.
        let is_ours = message.contains(" web.1 ");
        is_ours.then_some(message.clone()).ok_or(message)
    });
    assert!(message.starts_with("<14>1 20"), "{message}");
    assert!(message.contains(" drained web.1 - - message-"), "{message}");
    ask(&app, "/say?text=last");
    eventually("the last message", MINUTE, || {
        let line = messages
            .recv_timeout(Duration::from_secs(1))
            .map_err(|e| e.to_string())?;
        line.ends_with("last").then_some(()).ok_or(line)
    });

    // Down: apps and logs don't care.
    let begin = Instant::now();
    for n in 0..50 {
        ask(&app, &format!("/say?text=without-{n}"));
    }
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );
    eventually("all lines are kept", MINUTE, || {
        let logs = app.deis(&["logs", "--ps", "web"]).ok().out;
        let count = logs
            .lines()
            .filter(|line| line.contains("]: without-"))
            .count();
        (count == 50)
            .then_some(())
            .ok_or_else(|| format!("{count} lines"))
    });
    cluster.deisctl(&["config", "logs", "rm", "drain"]).ok();
}
