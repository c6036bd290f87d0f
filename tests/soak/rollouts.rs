//! Releases that are ill, processes that hang, and changes that meet each other.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    ground::{Ground, Notes, setting},
    stage::{ACTOR, Eye, Moment, ROLLED, Traffic, WEB, actor, change, containers, set, wait_whole},
    support::*,
};

/// A release that never gets ready is given up after a minute; a slow machine takes its time besides.
const GIVEN_UP: Duration = Duration::from_secs(150);

/// A config that makes the new release ill is refused with these words, in this time, and the old
/// processes serve on, untouched.
fn is_given_up(ground: &Ground, notes: &mut Notes, config: &[&str], word: &str) {
    let app = actor(ground);
    let eye = Eye::open(ground);
    let (before, release) = (containers(ground), eye.release());
    let hosts: Vec<&Host> = ground.cluster.hosts.iter().collect();
    let traffic = Traffic::start(&hosts);
    let begun = Instant::now();
    let mut words = vec!["config:set"];
    words.extend(config);
    let refused = app.deis(&words).refused();
    let took = begun.elapsed();
    assert!(refused.all().contains(word), "{word:?}: {refused:#?}");
    assert!(took < GIVEN_UP, "{took:?}");
    wait_whole(ground, ROLLED);
    assert_eq!(eye.release(), release, "the old release");
    assert_eq!(containers(ground), before, "the old processes, untouched");
    let releases = app.deis(&["releases"]).ok().out;
    assert!(releases.contains("failed"), "{releases}");
    let sent = traffic.none_failed();
    notes.figure(format!(
        "given up after {:.1} s; {sent} requests, 0 failed",
        took.as_secs_f64()
    ));
}

pub fn rollouts_crash_at_start(ground: &Ground, notes: &mut Notes) {
    is_given_up(ground, notes, &["CRASH=1"], "told to crash");
}

pub fn rollouts_port_never_opens(ground: &Ground, notes: &mut Notes) {
    is_given_up(ground, notes, &["MUTE=1"], "told to open no port");
}

pub fn rollouts_unhealthy(ground: &Ground, notes: &mut Notes) {
    let config = ["HEALTHCHECK_URL=/health", "SICK=1"];
    is_given_up(ground, notes, &config, "answered 500");
}

/// It serves, and then dies: found out while the first processes are watched.
pub fn rollouts_healthy_then_dying(ground: &Ground, notes: &mut Notes) {
    let app = actor(ground);
    app.deis(&["rollout:set", "--share=34", "--watch=30"]).ok();
    let eye = Eye::open(ground);
    let release = eye.release();
    let hosts: Vec<&Host> = ground.cluster.hosts.iter().collect();
    // Slow requests can't be answered by who dies under them; quick ones are asked again elsewhere.
    let addresses: Vec<String> = hosts.iter().map(|h| format!("{}:80", h.address)).collect();
    let load = Load::of(ACTOR, "/", 60, &addresses);
    let begun = Instant::now();
    let refused = app.deis(&["config:set", "DIES_AFTER=6"]).refused();
    let took = begun.elapsed();
    assert!(took < GIVEN_UP, "{took:?}");
    wait_whole(ground, ROLLED);
    assert_eq!(eye.release(), release, "the old release");
    let loaded = load.finish();
    let why = refused.err.lines().last().unwrap_or_default().to_owned();
    notes.figure(format!(
        "given up after {:.1} s ({why}); {} requests, {} failed",
        took.as_secs_f64(),
        loaded.sent,
        loaded.failures.len()
    ));
    crate::ground::none_failed(&loaded);
    app.deis(&["rollout:unset"]).ok();
}

pub fn rollouts_two_at_once(ground: &Ground, notes: &mut Notes) {
    let app = actor(ground);
    let eye = Eye::open(ground);
    let hosts: Vec<&Host> = ground.cluster.hosts.iter().collect();
    let traffic = Traffic::start(&hosts);
    let mut figures = BTreeMap::<&str, usize>::new();
    for round in 0..5 {
        let before = eye.newest();
        let values = [format!("LEFT=l{round}"), format!("RIGHT=r{round}")];
        let both = values
            .iter()
            .map(|value| change(ground, &["config:set", "-a", ACTOR, value]));
        let both: Vec<_> = both.collect();
        let mut done = 0;
        for mut child in both {
            done += u32::from(child.wait().expect("deis").success());
        }
        assert!(done >= 1, "one of two at least");
        *figures
            .entry(if done == 2 {
                "both went"
            } else {
                "one was refused"
            })
            .or_default() += 1;
        wait_whole(ground, ROLLED);
        assert_eq!(eye.release(), eye.newest());
        assert_eq!(eye.newest().0, before.0 + done, "each has its number");
        let list = app.deis(&["config:list"]).ok().out;
        let there = ["l", "r"]
            .iter()
            .filter(|side| list.contains(&format!("{side}{round}")));
        assert_eq!(there.count() as u32, done, "{list}");
    }
    let sent = traffic.none_failed();
    notes.figure(format!(
        "five times: {figures:?}; {sent} requests, 0 failed"
    ));
}

pub fn rollouts_rollback_midway(ground: &Ground, notes: &mut Notes) {
    let app = actor(ground);
    let eye = Eye::open(ground);
    let hosts: Vec<&Host> = ground.cluster.hosts.iter().collect();
    app.deis(&["config:set", "SOAK=steady"]).ok();
    let traffic = Traffic::start(&hosts);
    let mut took = Vec::new();
    for moment in Moment::FORWARD {
        let release = eye.release();
        let mut asking = set(ground, "hasty");
        eye.wait(moment, release);
        let begun = Instant::now();
        let ran = app.deis(&["rollback"]);
        let _ = asking.wait();
        wait_whole(ground, ROLLED);
        took.push(begun.elapsed().as_secs_f64());
        // Once the rollout is over, a rollback goes to what was before it as well.
        ran.ok();
        let list = app.deis(&["config:list"]).ok().out;
        assert!(list.contains("steady"), "{moment}: {list}");
    }
    let sent = traffic.none_failed();
    notes.figure(format!(
        "back after {took:.1?} s (rolled back when {}); {sent} requests, 0 failed",
        Moment::FORWARD.map(|moment| moment.to_string()).join(", ")
    ));
}

/// Requests that come each few milliseconds to one router: when each began, how long it took, and who
/// answered.
struct Probe {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Probed>>>,
    thread: thread::JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Probed {
    at: Instant,
    took: Duration,
    who: Result<String, String>,
}

impl Probe {
    fn start(router: &Host) -> Self {
        let (stop, seen) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<Probed>>>::default(),
        );
        let address = format!("{}:80", router.address);
        let (told, into) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            let mut threads = Vec::new();
            while !told.load(Ordering::Relaxed) {
                // Each by itself: one that hangs keeps no other.
                let (address, into) = (address.clone(), Arc::clone(&into));
                threads.push(thread::spawn(move || {
                    let at = Instant::now();
                    let answer = get(&address, &format!("{ACTOR}.localhost"), "/");
                    let who = answer.and_then(|answer| match answer.status {
                        200 => Ok(answer.body),
                        _ => Err(answer.head),
                    });
                    let took = at.elapsed();
                    into.lock().expect("lock").push(Probed { at, took, who });
                }));
                thread::sleep(Duration::from_millis(50));
            }
            for thread in threads {
                let _ = thread.join();
            }
        });
        Self { stop, seen, thread }
    }

    fn finish(self) -> Vec<Probed> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("probe");
        std::mem::take(&mut *self.seen.lock().expect("lock"))
    }
}

/// How long a process that hangs may be sent requests.
const OUT: Duration = Duration::from_secs(3);

pub fn rollouts_process_that_hangs(ground: &Ground, notes: &mut Notes) {
    let app = actor(ground);
    let eye = Eye::open(ground);
    let well = Duration::from_secs(setting("SOAK_WELL", 60));
    notes.form(format!("well for {} s", well.as_secs()));
    app.deis(&["config:set", "HEALTHCHECK_URL=/health"]).ok();
    wait_whole(ground, ROLLED);
    thread::sleep(well);
    let (process, host) = ground
        .places(ACTOR)
        .expect("etcd")
        .into_iter()
        .next()
        .expect("one");
    let host = ground
        .cluster
        .hosts
        .iter()
        .find(|h| h.name == host)
        .expect("its host");
    let signal = |signal: &str| {
        let script = format!("kill -{signal} $(podman top {process} hpid | tail -n +2)");
        ground.cluster.sh(host, &script).ok();
    };
    let probes: Vec<Probe> = ground.cluster.hosts.iter().map(Probe::start).collect();
    thread::sleep(Duration::from_secs(2));
    signal("STOP");
    // It hangs from here on at the latest.
    let stopped = Instant::now();
    eventually("its address is withdrawn", MINUTE, || {
        match eye.look()?.published.len() {
            found if found < WEB => Ok(()),
            found => Err(format!("{found} addresses are published")),
        }
    });
    let withdrawn = stopped.elapsed();
    assert!(withdrawn < OUT, "withdrawn after {withdrawn:?}");
    thread::sleep(Duration::from_secs(12));
    let continued = Instant::now();
    signal("CONT");
    let back = "its address is published again";
    eventually(back, MINUTE, || match eye.look()?.published.len() {
        WEB => Ok(()),
        found => Err(format!("{found} addresses are published")),
    });
    let published = continued.elapsed();
    thread::sleep(Duration::from_secs(2));
    let (mut out, mut caught, mut sent) = (Duration::ZERO, 0, 0);
    for (router, probe) in ground.cluster.hosts.iter().zip(probes) {
        let all = probe.finish();
        sent += all.len();
        let failed: Vec<&Probed> = all.iter().filter(|probed| probed.who.is_err()).collect();
        assert!(failed.is_empty(), "through {}: {failed:#?}", router.name);
        // Who was given to it waited until it went on.
        let hung = all.iter().filter(|probed| {
            probed.at < continued
                && probed.at + probed.took >= continued
                && probed.took > Duration::from_secs(2)
        });
        let last = hung.clone().map(|probed| probed.at).max();
        caught += hung.count();
        let last = last.unwrap_or_else(|| panic!("through {}: nobody met it", router.name));
        let after = last.saturating_duration_since(stopped);
        assert!(after < OUT, "out of {} after {after:?}", router.name);
        out = out.max(after);
    }
    notes.figure(format!(
        "withdrawn {:.1} s after it hung, the last request to it after {:.1} s (who has one under way is \
         avoided), back {:.1} s after it went on; {sent} requests, 0 failed, {caught} waited for it",
        withdrawn.as_secs_f64(),
        out.as_secs_f64(),
        published.as_secs_f64()
    ));
}

/// An app whose server closes what is idle for five seconds, asked about that often.
pub fn rollouts_idle_close(ground: &Ground, notes: &mut Notes) {
    const CLIENTS: u64 = 60;
    let app = actor(ground);
    app.deis(&["config:set", "IDLE_CLOSE=5"]).ok();
    wait_whole(ground, ROLLED);
    let over = Instant::now() + Duration::from_secs(60);
    let results: Vec<(usize, Vec<String>)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let routers = &ground.cluster.hosts;
                let address = format!("{}:80", routers[n as usize % routers.len()].address);
                scope.spawn(move || {
                    let (mut sent, mut failed) = (0, Vec::new());
                    // Around the five seconds, each a little else; half with a body, which can't be
                    // sent twice.
                    let pause = Duration::from_millis(4_700 + 10 * n);
                    let body = if n % 2 == 0 {
                        "POST / HTTP/1.1\r\nContent-Length: 4\r\n"
                    } else {
                        "GET / HTTP/1.1\r\n"
                    };
                    let tail = if n % 2 == 0 { "body" } else { "" };
                    let request = format!("{body}Host: {ACTOR}.localhost\r\n\r\n{tail}");
                    let mut kept = Connection::open(&address).expect("connect");
                    while Instant::now() < over {
                        sent += 1;
                        match kept.request(&request) {
                            Ok(answer) if answer.status == 200 => {}
                            other => {
                                failed.push(format!("{other:?}"));
                                kept = Connection::open(&address).expect("connect");
                            }
                        }
                        thread::sleep(pause);
                    }
                    (sent, failed)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("client"))
            .collect()
    });
    let sent: usize = results.iter().map(|(sent, _)| sent).sum();
    let failed: Vec<&String> = results.iter().flat_map(|(_, failed)| failed).collect();
    assert!(failed.is_empty(), "{} of {sent}: {failed:#?}", failed.len());
    notes.figure(format!(
        "{sent} requests 4.7 to 5.3 s apart, half of them POST, 0 failed"
    ));
}
