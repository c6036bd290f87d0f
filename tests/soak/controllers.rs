//! Two controllers that each might think that they lead.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    ground::{APP, Ground, Notes, none_failed},
    support::*,
};

/// The leader's lease, and etcd's own second.
const TTL: Duration = Duration::from_secs(5);

/// Waits for a leader on another host than that.
fn wait_other(ground: &Ground, host: &Host, begun: Instant) -> Duration {
    eventually("another one leads", MINUTE, || match ground.leader() {
        Ok(leader) if leader.name != host.name => Ok(()),
        other => Err(format!("{other:?}")),
    });
    begun.elapsed()
}

/// Starts a rollout of the app beside the caller.
fn rollout(ground: &Ground, value: &str) -> std::process::Child {
    let set = format!("SOAK={value}");
    let mut command = ground.user.deis_command(&["config:set", "-a", APP, &set]);
    let command = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.spawn().expect("deis")
}

/// Waits until no rollout is left, and all that was asked for is there once.
fn wait_rolled(ground: &Ground) {
    eventually("the rollout is over", 3 * MINUTE, || {
        match ground.values(&format!("/deis/apps/{APP}/rollout"))? {
            none if none.is_empty() => ground.settled(),
            some => Err(format!("{some:?}")),
        }
    });
}

/// The releases that the processes are of: one, unless two versions run by accident.
fn release(ground: &Ground) -> String {
    let places = ground.places(APP).expect("etcd answers");
    let mut all: Vec<&str> = places
        .keys()
        .filter_map(|name| name.split('.').next())
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 1, "one release: {places:?}");
    all[0].to_owned()
}

/// Release numbers have no gap and each has ended once.
fn releases_are_whole(ground: &Ground) {
    let numbers = |kind: &str| {
        let prefix = format!("/deis/apps/{APP}/{kind}/v");
        let found = ground.values(&prefix).expect("etcd answers");
        let mut all: Vec<u32> = found
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix)?.parse().ok())
            .collect();
        all.sort_unstable();
        all
    };
    let releases = numbers("releases");
    let expected: Vec<u32> = (1..=releases.len() as u32).collect();
    assert_eq!(releases, expected);
    println!(
        "    releases {releases:?}, outcomes {:?}",
        numbers("outcomes")
    );
}

pub fn controllers_leader_killed(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let load = Load::start(APP, 50);
    let mut took = Vec::new();
    // Killed at different points of a rollout.
    for (round, pause) in [0, 700, 1500, 3000].into_iter().enumerate() {
        let host = ground.leader().expect("a leader").clone();
        let before = release(ground);
        let mut asking = rollout(ground, &format!("killed-{round}"));
        eventually("the rollout begins", MINUTE, || {
            let rollout = ground.values(&format!("/deis/apps/{APP}/rollout"))?;
            let over =
                rollout.is_empty() && !ground.places(APP)?.keys().any(|p| p.starts_with(&before));
            if rollout.is_empty() && !over {
                Err("not yet".into())
            } else {
                Ok(())
            }
        });
        thread::sleep(Duration::from_millis(pause));
        ground
            .cluster
            .sh(&host, "systemctl kill -s KILL 'deis-controller@*'")
            .ok();
        let begun = Instant::now();
        wait_rolled(ground);
        took.push(begun.elapsed().as_secs_f64());
        let _ = asking.wait();
        assert_ne!(release(ground), before, "the rollout went on");
    }
    releases_are_whole(ground);
    notes.figure(format!(
        "four rollouts done {took:.1?} s after their leader's death"
    ));
    none_failed(&load.finish());
}

pub fn controllers_leader_stopped(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let load = Load::start(APP, 50);
    let mut took = Vec::new();
    for (round, pause) in [200, 1200, 2500].into_iter().enumerate() {
        let host = ground.leader().expect("a leader").clone();
        let mut asking = rollout(ground, &format!("stopped-{round}"));
        thread::sleep(Duration::from_millis(pause));
        let signal = |signal: &str| {
            let script = format!("systemctl kill -s {signal} 'deis-controller@*'");
            ground.cluster.sh(&host, &script).ok();
        };
        signal("STOP");
        let begun = Instant::now();
        took.push(wait_other(ground, &host, begun).as_secs_f64());
        thread::sleep((2 * TTL).saturating_sub(begun.elapsed()));
        // It wakes up in the middle of what it did, with all that it knew then.
        signal("CONT");
        let _ = asking.wait();
        wait_rolled(ground);
        // A late act would show by now.
        thread::sleep(Duration::from_secs(5));
        ground.wait_settled(Duration::from_secs(10));
        release(ground);
        let leader = ground.leader().expect("a leader");
        assert_ne!(leader.name, host.name, "who slept doesn't lead");
    }
    releases_are_whole(ground);
    notes.figure(format!("another led {took:.1?} s after each stop"));
    none_failed(&load.finish());
}
