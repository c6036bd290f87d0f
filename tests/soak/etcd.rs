//! etcd is away, or its leader wanders.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    ground::{APP, Ground, Notes, none_failed, setting},
    support::*,
};

/// Requests a second.
const RATE: u32 = 50;

pub fn etcd_killed_everywhere(ground: &Ground, notes: &mut Notes) {
    // Killed first, stopped while systemd waits to start it again: nothing of it ends cleanly.
    let kill = "systemctl kill -s KILL deis-etcd; systemctl stop deis-etcd";
    outage(ground, notes, kill, "systemctl start --no-block deis-etcd");
}

pub fn etcd_stopped_everywhere(ground: &Ground, notes: &mut Notes) {
    let stop = "systemctl kill -s STOP deis-etcd";
    outage(ground, notes, stop, "systemctl kill -s CONT deis-etcd");
}

fn writes(ground: &Ground) -> Result<(), String> {
    let put = "--dial-timeout=2s --command-timeout=3s put /deis/platform/soak x";
    let ran = ground.cluster.etcdctl(&ground.cluster.hosts[0], put);
    if ran.status == Some(0) {
        Ok(())
    } else {
        Err(ran.err)
    }
}

fn outage(ground: &Ground, notes: &mut Notes, end: &str, begin: &str) {
    let cluster = &ground.cluster;
    let length = Duration::from_secs(setting("SOAK_OUTAGE", 600));
    notes.form(format!("{} s", length.as_secs()));
    let app = ground.steady();
    let (lives, places) = (
        cluster.lives(APP),
        ground.places(APP).expect("etcd answers"),
    );
    let load = Load::start(APP, RATE);
    for ran in cluster.on_all(end).into_values() {
        ran.ok();
    }
    let begun = Instant::now();
    eventually("etcd takes no writes", MINUTE, || match writes(ground) {
        Ok(()) => Err("a write went through".to_owned()),
        Err(_) => Ok(()),
    });
    // Past lease and grace; then the agents and one router's host get a hard time, too.
    thread::sleep(length / 3);
    assert_eq!(cluster.lives(APP), lives, "a third through");
    for ran in cluster
        .on_all("systemctl kill -s KILL deis-agent")
        .into_values()
    {
        ran.ok();
    }
    cluster.agents_answer();
    let refused = app.deis(&["config:set", "DURING=outage"]).refused();
    println!("    a write meanwhile: {}", refused.err.trim());
    thread::sleep(length.saturating_sub(begun.elapsed()));
    assert_eq!(cluster.lives(APP), lives, "until etcd's return");

    for ran in cluster.on_all(begin).into_values() {
        ran.ok();
    }
    let back = Instant::now();
    eventually("etcd takes writes", 2 * MINUTE, || writes(ground));
    let written = back.elapsed();
    eventually("changes work again by themselves", 2 * MINUTE, || {
        let ran = app.deis(&["scale", "web=4"]);
        if ran.status == Some(0) {
            Ok(())
        } else {
            Err(ran.err)
        }
    });
    let changed = back.elapsed();
    app.deis(&["scale", "web=3"]).ok();
    ground.wait_settled(MINUTE);
    // Whoever takes late leases for lost hosts would have moved something by now.
    thread::sleep(Duration::from_secs(15));
    assert_eq!(cluster.lives(APP), lives, "after etcd's return");
    assert_eq!(ground.places(APP), Ok(places), "nothing was moved");
    let loaded = load.finish();
    notes.figure(format!(
        "{} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    notes.figure("0 processes restarted");
    notes.figure(format!(
        "after its return: writes {:.1} s, first change done {:.1} s",
        written.as_secs_f64(),
        changed.as_secs_f64()
    ));
    let least = length.as_secs() as usize * RATE as usize * 8 / 10;
    assert!(
        loaded.sent >= least,
        "the load was there: {} of {least}",
        loaded.sent
    );
    none_failed(&loaded);
}

/// Members by etcd's own word: (host's index, member id), and the leader's id.
fn members(ground: &Ground) -> Result<(Vec<(usize, u64)>, u64), String> {
    let hosts = &ground.cluster.hosts;
    let mut members = Vec::new();
    let mut leader = None;
    for (at, host) in hosts.iter().enumerate() {
        let ran = ground.cluster.etcdctl(host, "endpoint status -w json");
        let status: serde_json::Value = serde_json::from_str(&ran.out).map_err(|_| ran.all())?;
        let status = &status[0]["Status"];
        members.push((
            at,
            status["header"]["member_id"]
                .as_u64()
                .ok_or("no member id")?,
        ));
        leader = status["leader"].as_u64().or(leader);
    }
    Ok((members, leader.ok_or("no leader")?))
}

/// Moves the leadership to the next member.
fn move_leader(ground: &Ground) -> Result<(), String> {
    let (members, leader) = members(ground)?;
    let from = members
        .iter()
        .position(|(_, id)| *id == leader)
        .ok_or("no leader")?;
    let (_, to) = members[(from + 1) % members.len()];
    let host = &ground.cluster.hosts[members[from].0];
    let ran = ground.cluster.etcdctl(host, &format!("move-leader {to:x}"));
    if ran.status == Some(0) {
        Ok(())
    } else {
        Err(ran.all())
    }
}

pub fn etcd_leader_changes(ground: &Ground, notes: &mut Notes) {
    let cluster = &ground.cluster;
    let length = Duration::from_secs(setting("SOAK_CHANGES", 120));
    notes.form(format!("{} s", length.as_secs()));
    ground.steady();
    let (lives, places) = (
        cluster.lives(APP),
        ground.places(APP).expect("etcd answers"),
    );
    let load = Load::start(APP, RATE);
    let begun = Instant::now();
    let (mut moved, mut wanted) = (0, 0);
    while begun.elapsed() < length {
        wanted += 1;
        match move_leader(ground) {
            Ok(()) => moved += 1,
            Err(why) => println!("    not moved: {}", why.trim()),
        }
        let next = Duration::from_secs(5) * wanted;
        thread::sleep(next.saturating_sub(begun.elapsed()));
    }
    notes.figure(format!(
        "{moved} changes of etcd's leader in {} s",
        length.as_secs()
    ));
    assert!(moved * 10 >= wanted * 8, "{moved} of {wanted} changes");
    thread::sleep(Duration::from_secs(15));
    assert_eq!(cluster.lives(APP), lives, "nothing was restarted");
    assert_eq!(ground.places(APP), Ok(places), "nothing was moved");
    ground.wait_settled(Duration::from_secs(10));
    let loaded = load.finish();
    notes.figure(format!(
        "{} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    none_failed(&loaded);
}
