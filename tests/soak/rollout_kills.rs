//! Controllers, routers and hosts that die or stop at each point of a rollout.

use std::time::{Duration, Instant};

use crate::{
    ground::{Ground, Notes},
    stage::{
        ACTOR, Armed, Eye, Moment, ROLLED, Traffic, actor, change, containers, set, wait_whole,
    },
    support::*,
};

/// How long a router is stopped: less than makes a rollout give up for it.
const STOPPED: Duration = Duration::from_secs(20);

/// Where the rollout is met, with the config that brings it there: one that goes well, and one that is
/// given up.
fn moments() -> impl Iterator<Item = Moment> {
    Moment::FORWARD.into_iter().chain([Moment::Reverting])
}

/// Begins a rollout that passes through the moment, and says whether it is to end well.
fn begin(ground: &Ground, moment: Moment) -> (std::process::Child, bool) {
    match moment {
        Moment::Reverting => (
            change(ground, &["config:set", "-a", ACTOR, "CRASH=1"]),
            false,
        ),
        _ => (set(ground, &format!("at {moment}")), true),
    }
}

fn came_to_its_end(eye: &Eye, before: deis::model::ReleaseNumber, forward: bool, moment: Moment) {
    let now = eye.release();
    if forward {
        assert_ne!(now, before, "{moment}: the old release");
        assert_eq!(now, eye.newest(), "{moment}: the new release");
    } else {
        assert_eq!(now, before, "{moment}: the old release");
    }
}

pub fn rollouts_controller_killed(ground: &Ground, notes: &mut Notes) {
    actor(ground);
    let eye = Eye::open(ground);
    let hosts: Vec<&Host> = ground.cluster.hosts.iter().collect();
    let traffic = Traffic::start(&hosts);
    let mut took = Vec::new();
    for moment in moments() {
        let release = eye.release();
        let leader = ground.leader().expect("a leader").clone();
        let armed = Armed::signal(ground, &leader, "deis-controller@*", "KILL");
        let (mut asking, forward) = begin(ground, moment);
        eye.wait(moment, release);
        armed.fire();
        let begun = Instant::now();
        wait_whole(ground, ROLLED);
        took.push(format!("{moment} {:.1} s", begun.elapsed().as_secs_f64()));
        let _ = asking.wait();
        came_to_its_end(&eye, release, forward, moment);
        if !forward {
            actor(ground);
        }
    }
    let sent = traffic.none_failed();
    notes.figure(format!(
        "over after {}; {sent} requests, 0 failed",
        took.join(", ")
    ));
}

pub fn rollouts_router_killed(ground: &Ground, notes: &mut Notes) {
    actor(ground);
    let eye = Eye::open(ground);
    let (victim, others) = split(ground);
    let traffic = Traffic::start(&others);
    let mut took = Vec::new();
    for moment in moments() {
        let release = eye.release();
        let armed = Armed::signal(ground, victim, "deis-router@*", "KILL");
        let (mut asking, forward) = begin(ground, moment);
        eye.wait(moment, release);
        armed.fire();
        let begun = Instant::now();
        wait_whole(ground, ROLLED);
        took.push(format!("{moment} {:.1} s", begun.elapsed().as_secs_f64()));
        let _ = asking.wait();
        came_to_its_end(&eye, release, forward, moment);
        if !forward {
            actor(ground);
        }
        let router = format!("{}:80", victim.address);
        eventually("the killed one serves again", MINUTE, || {
            match get(&router, &format!("{ACTOR}.localhost"), "/") {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    let sent = traffic.none_failed();
    notes.figure(format!(
        "over after {}; {sent} requests through the other two, 0 failed",
        took.join(", ")
    ));
}

/// One router, and the others.
fn split(ground: &Ground) -> (&Host, Vec<&Host>) {
    let mut hosts = ground.cluster.hosts.iter();
    let victim = hosts.next().expect("three hosts");
    (victim, hosts.collect())
}

pub fn rollouts_router_stopped(ground: &Ground, notes: &mut Notes) {
    actor(ground);
    let eye = Eye::open(ground);
    let (victim, others) = split(ground);
    let traffic = Traffic::start(&others);
    let (mut told, mut kept) = (Vec::new(), 0);
    for moment in moments() {
        let release = eye.release();
        let before = containers(ground);
        let armed = Armed::signal(ground, victim, "deis-router@*", "STOP");
        let (mut asking, forward) = begin(ground, moment);
        eye.wait(moment, release);
        armed.fire();
        let begun = Instant::now();
        // Whose address stands in etcd now can't be known to be withdrawn by the stopped one: it may still
        // send it requests, so that it has to live on. Others may have been on their way out before.
        let published = eye.look().expect("etcd answers").published;
        let named = |name: &&String| published.iter().any(|there| there.to_string() == **name);
        let safe: Vec<&String> = before.keys().filter(named).collect();
        kept += safe.len();
        while begun.elapsed() < STOPPED {
            let now = containers(ground);
            let gone = safe
                .iter()
                .find(|name| now.get(**name) != before.get(**name));
            let after = begun.elapsed();
            assert_eq!(gone, None, "{moment}: ended {after:.1?} after the stop");
        }
        let woken = Armed::signal(ground, victim, "deis-router@*", "CONT");
        woken.fire();
        let begun = Instant::now();
        wait_whole(ground, ROLLED);
        told.push(format!("{moment} {:.1} s", begun.elapsed().as_secs_f64()));
        let _ = asking.wait();
        came_to_its_end(&eye, release, forward, moment);
        if !forward {
            actor(ground);
        }
    }
    let sent = traffic.none_failed();
    assert!(
        kept > 0,
        "it was stopped while old processes were published"
    );
    notes.figure(format!(
        "{kept} old processes that it knew lived on; after {} s without it over {} after its return; {sent} requests through the other two, 0 failed",
        STOPPED.as_secs(),
        told.join(", ")
    ));
}

pub fn rollouts_host_lost(ground: &Ground, notes: &mut Notes) {
    let cluster = &ground.cluster;
    let mut told = Vec::new();
    for moment in [Moment::Placed, Moment::Published, Moment::Draining] {
        actor(ground);
        let eye = Eye::open(ground);
        let release = eye.release();
        // Not the one that leads: that is another trial.
        let leader = ground.leader().expect("a leader").name.clone();
        let victim = cluster.hosts.iter().find(|host| host.name != leader);
        let victim = victim.expect("three hosts");
        let others = ground.others(victim);
        let traffic = Traffic::start(&others);
        let (mut asking, _) = begin(ground, moment);
        eye.wait(moment, release);
        let begun = Instant::now();
        cluster.kill_host(victim);
        // What was being answered on the host is lost with it, and nothing later.
        let last = traffic.begun().elapsed() + Duration::from_secs(6);
        wait_whole(ground, ROLLED);
        let took = begun.elapsed();
        let succeeded = asking.wait().expect("deis").success();
        let now = eye.release();
        let newest = eye.newest();
        if succeeded {
            assert_eq!(now, newest, "{moment}: as its caller was told");
        }
        // Its controller or its router may have been on the host: then nobody told it anything.
        assert!([release, newest].contains(&now), "{moment}: {now}");
        let loaded = traffic.finish();
        let late = loaded.failures.iter().filter(|(at, _)| *at > last);
        let late: Vec<_> = late.collect();
        told.push(format!(
            "{moment}: {} after {:.1} s, {} of {} requests lost",
            if now == newest { "new" } else { "old" },
            took.as_secs_f64(),
            loaded.failures.len(),
            loaded.sent
        ));
        assert!(loaded.failures.len() <= 20, "{:#?}", loaded.failures);
        assert!(late.is_empty(), "only what was in flight fails: {late:#?}");
        cluster.boot_host(victim);
        ground.wait_machine(victim, "up", 3 * MINUTE);
        ground.wait_platform(2 * MINUTE);
    }
    notes.figure(told.join("; "));
}
