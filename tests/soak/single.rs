//! A process of a single type, counted by itself: it says ten times a second that it lives, to this
//! machine, which no cut between hosts keeps it from.

use std::{
    net::UdpSocket,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    ground::{Ground, Notes},
    network::{cut_from_etcd, cut_from_hosts, heal},
    support::*,
};

const CLOCK: &str = "metronome";
const PORT: u16 = 31_000;
/// Who is silent for so long has ended.
const SILENT: Duration = Duration::from_secs(2);
/// Lease, grace and time to stop are 19 s; a slow machine starts a process in a while.
const MOVED: Duration = Duration::from_secs(50);

/// Heeds no SIGTERM, so that its end takes as long as an end can.
const PROGRAM: &str = r#"
import os, signal, socket, time, uuid
signal.signal(signal.SIGTERM, signal.SIG_IGN)
me = uuid.uuid4().hex.encode()
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        out.sendto(me, (os.environ["LISTENER"], int(os.environ["LISTENER_PORT"])))
    except OSError as error:
        print("not told:", error, flush=True)
    time.sleep(0.1)
"#;

/// Lives of the process in the order of their first words.
#[derive(Debug, Default)]
struct Lives {
    all: Vec<Life>,
    /// Words of an earlier life after the first one of a later life.
    doubled: Vec<String>,
}

#[derive(Debug)]
struct Life {
    id: String,
    first: Instant,
    last: Instant,
}

impl Lives {
    /// Words arrive here in the order in which they were sent, whatever time it is.
    fn hear(&mut self, id: &str, now: Instant) {
        let newest = self.all.len().saturating_sub(1);
        match self.all.iter_mut().position(|life| life.id == id) {
            None => self.all.push(Life {
                id: id.to_owned(),
                first: now,
                last: now,
            }),
            Some(at) => {
                if at != newest {
                    let since = now - self.all[at + 1].first;
                    self.doubled.push(format!(
                        "{id} speaks {since:?} after its successor's first word"
                    ));
                }
                self.all[at].last = now;
            }
        }
    }
}

/// Listens until it is dropped.
struct Listener {
    lives: Arc<Mutex<Lives>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Listener {
    fn new() -> Self {
        let socket = UdpSocket::bind(("0.0.0.0", PORT)).expect("a port");
        let limit = Some(Duration::from_millis(200));
        socket.set_read_timeout(limit).expect("timeout");
        let new = Self {
            lives: Arc::default(),
            stop: Arc::default(),
        };
        let (lives, stop) = (new.lives.clone(), new.stop.clone());
        thread::spawn(move || {
            let mut word = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok(length) = socket.recv(&mut word) {
                    let id = String::from_utf8_lossy(&word[..length]).into_owned();
                    lives.lock().expect("lives").hear(&id, Instant::now());
                }
            }
        });
        new
    }

    /// So many lives there have been, and whether the last one lives; one that should not be ends the
    /// trial.
    #[track_caller]
    fn count(&self) -> (usize, bool) {
        let lives = self.lives.lock().expect("lives");
        assert!(
            lives.doubled.is_empty(),
            "two at once: {:?}",
            &lives.doubled[..lives.doubled.len().min(5)]
        );
        let lives_now = |life: &Life| life.last.elapsed() < SILENT;
        (lives.all.len(), lives.all.last().is_some_and(lives_now))
    }

    /// Waits for the next life. Says after what time the former one ended and the next one began.
    #[track_caller]
    fn wait_next(&self, lived: usize, begun: Instant) -> String {
        eventually("the next one lives", MOVED, || match self.count() {
            (count, true) if count == lived + 1 => Ok(()),
            other => Err(format!("{other:?} after {lived}")),
        });
        let lives = self.lives.lock().expect("lives");
        let after = |at: Instant| at.saturating_duration_since(begun).as_secs_f64();
        format!(
            "ended after {:.1} s, lives elsewhere after {:.1} s",
            after(lives.all[lived - 1].last),
            after(lives.all[lived].first)
        )
    }
}

/// The host on which it is to run.
fn home(ground: &Ground) -> &Host {
    let places = ground.places(CLOCK).expect("etcd answers");
    let mut clocks = places.iter().filter(|(name, _)| name.contains(".clock."));
    let (_, at) = clocks.next().unwrap_or_else(|| panic!("{places:?}"));
    let mut hosts = ground.cluster.hosts.iter();
    hosts.find(|host| host.name == *at).expect("a host")
}

pub fn single_never_twice(ground: &Ground, notes: &mut Notes) {
    let cluster = &ground.cluster;
    let listener = Listener::new();
    let files = [
        ("app.py", include_str!("../suite/app/app.py")),
        ("clock.py", PROGRAM),
        ("Procfile", "web: python3 app.py\nclock: python3 clock.py\n"),
    ];
    let app = App::create(&ground.user, CLOCK, &files);
    let gateway = &cluster.gateway;
    let (to, port) = (
        format!("LISTENER={gateway}"),
        format!("LISTENER_PORT={PORT}"),
    );
    app.deis(&["config:set", &to, &port]).ok();
    app.push().ok();
    app.deis(&["scale", "clock=1"]).ok();
    app.deis(&["ps:single", "clock", "on"]).ok();
    let mut lived = eventually("it lives", MINUTE, || match listener.count() {
        (lived, true) => Ok(lived),
        other => Err(format!("{other:?}")),
    });

    type Cut = fn(&Ground, &Host);
    let cuts: [(&str, Cut, Cut); 3] = [
        ("cut off from etcd", cut_from_etcd, heal),
        ("cut off from all hosts", cut_from_hosts, heal),
        (
            "power cut",
            |ground, host| ground.cluster.kill_host(host),
            |ground, host| ground.cluster.boot_host(host),
        ),
    ];
    for (what, cut, mend) in cuts {
        let host = home(ground).clone();
        let begun = Instant::now();
        cut(ground, &host);
        let figure = listener.wait_next(lived, begun);
        notes.figure(format!("{what}: {figure}"));
        lived += 1;
        // The former host has all the time to do something wrong, away and when it is back.
        thread::sleep(Duration::from_secs(10));
        assert_eq!(listener.count(), (lived, true), "{what}");
        mend(ground, &host);
        ground.wait_machine(&host, "up", 2 * MINUTE);
        thread::sleep(Duration::from_secs(10));
        assert_eq!(listener.count(), (lived, true), "{what}, and back");
    }

    // Without etcd there is none; with it there is one again, there or elsewhere.
    let etcd = |signal: &str| {
        let all = cluster.on_all(&format!("systemctl kill -s {signal} deis-etcd"));
        all.into_values().for_each(|ran| drop(ran.ok()));
    };
    let begun = Instant::now();
    etcd("STOP");
    eventually("it ends", MOVED, || match listener.count() {
        (_, false) => Ok(()),
        alive => Err(format!("{alive:?}")),
    });
    thread::sleep(Duration::from_secs(10));
    assert_eq!(listener.count(), (lived, false), "without etcd");
    etcd("CONT");
    let figure = listener.wait_next(lived, begun);
    notes.figure(format!("without etcd for a while: {figure}"));
    // A late start by whoever thought it his would show by now.
    thread::sleep(Duration::from_secs(20));
    assert_eq!(listener.count(), (lived + 1, true), "with etcd again");
    ground.wait_platform(MINUTE);
    app.destroy();
}
