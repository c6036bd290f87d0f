//! Hosts that can't see each other.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    ground::{APP, CUT, Ground, Notes, Places, none_failed, only_in_flight, setting},
    support::*,
};

const RATE: u32 = 50;
/// Lease, grace, and the time that a process takes to start elsewhere on a slow machine.
const MOVED: Duration = Duration::from_secs(40);

/// Drops what passes between a host and the addresses or ports that `what` matches.
fn cut(ground: &Ground, host: &Host, lines: &[String]) {
    let chain = |hook: &str| {
        format!(
            "chain {hook} {{\ntype filter hook {hook} priority -310; policy accept;\n{}\n}}",
            lines.join("\n")
        )
    };
    let table = format!(
        "table inet {CUT} {{\n{}\n{}\n}}",
        chain("prerouting"),
        chain("output")
    );
    ground.cluster.sh(host, &format!("nft '{table}'")).ok();
}

pub fn cut_from_hosts(ground: &Ground, host: &Host) {
    let others = ground.others(host);
    let others: Vec<&str> = others.iter().map(|host| host.address.as_str()).collect();
    let others = others.join(", ");
    let lines = ["saddr", "daddr"].map(|side| format!("ip {side} {{ {others} }} drop"));
    cut(ground, host, &lines);
}

/// From its own member of etcd, too, and that one from its peers.
pub fn cut_from_etcd(ground: &Ground, host: &Host) {
    let lines = ["sport", "dport"].map(|side| format!("tcp {side} {{ 2379, 2380 }} drop"));
    cut(ground, host, &lines);
}

pub fn heal(ground: &Ground, host: &Host) {
    ground
        .cluster
        .sh(host, &format!("nft delete table inet {CUT}"))
        .ok();
}

pub fn partition_shorter_than_a_lease(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let host = ground.busy_host();
    let (lives, places) = (cluster.lives(APP), ground.places(APP));
    for _ in 0..3 {
        cut_from_hosts(ground, host);
        thread::sleep(Duration::from_secs(3));
        heal(ground, host);
        thread::sleep(Duration::from_secs(15));
        assert_eq!(ground.places(APP), places, "nothing was moved");
    }
    ground.wait_settled(MINUTE);
    assert_eq!(cluster.lives(APP), lives, "nothing was restarted");
    notes.figure(format!(
        "three cuts of 3 s around {}, nothing moved",
        host.name
    ));
}

pub fn partition_from_etcd(ground: &Ground, notes: &mut Notes) {
    let loaded = partition(ground, notes, cut_from_etcd);
    none_failed(&loaded.0);
}

pub fn partition_from_hosts(ground: &Ground, notes: &mut Notes) {
    let (loaded, cut_at) = partition(ground, notes, cut_from_hosts);
    only_in_flight(&loaded, cut_at);
}

/// Cuts a host off for longer than lease and grace, and joins it again.
fn partition(ground: &Ground, notes: &mut Notes, cut: fn(&Ground, &Host)) -> (Loaded, Duration) {
    let cluster = &ground.cluster;
    let length = Duration::from_secs(setting("SOAK_PARTITION", 60));
    notes.form(format!("{} s", length.as_secs()));
    ground.steady();
    let host = ground.busy_host();
    let lives = cluster.lives(APP);
    let before = ground.places(APP).expect("etcd answers");
    let there: Vec<&String> = before
        .iter()
        .filter(|(_, at)| **at == host.name)
        .map(|(name, _)| name)
        .collect();
    let running = ground.running_on(host, APP).units;
    let load = Load::start(APP, RATE);
    thread::sleep(Duration::from_secs(2));
    let cut_at = load.begun.elapsed();
    let begun = Instant::now();
    cut(ground, host);

    // The others: after lease and grace its processes, and only those, run there too.
    let elsewhere = |places: &Places| places.values().all(|at| *at != host.name);
    let moved = eventually("its processes are moved", MOVED, || {
        let places = ground.places(APP)?;
        if !elsewhere(&places) || places.len() != before.len() {
            return Err(format!("{places:?}"));
        }
        for other in ground.others(host) {
            let assigned: Vec<&String> = places
                .iter()
                .filter(|(_, at)| **at == other.name)
                .map(|(name, _)| name)
                .collect();
            let units = ground.running_on(other, APP).units;
            if units.iter().collect::<Vec<_>>() != assigned {
                return Err(format!("{}: {units:?} of {assigned:?}", other.name));
            }
        }
        Ok(begun.elapsed())
    });
    notes.figure(format!(
        "{} of {} processes moved within {:.1} s",
        there.len(),
        before.len(),
        moved.as_secs_f64()
    ));
    ground.others_untouched(host, &lives);

    // The host itself: what ran runs on, and its router serves its last table.
    let router = format!("{}:80", host.address);
    let (mut served, mut asked) = (0, 0);
    while begun.elapsed() < length {
        asked += 1;
        match get(&router, &format!("{APP}.localhost"), "/") {
            Ok(answer) if answer.status == 200 => served += 1,
            other => println!("    the router of {} says {other:?}", host.name),
        }
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(ground.running_on(host, APP).units, running, "they run on");
    let now = cluster.lives(APP).remove(&host.name);
    assert_eq!(now.as_ref(), lives.get(&host.name), "without a restart");
    notes.figure(format!("its router served {served} of {asked} meanwhile"));
    assert_eq!(served, asked, "its router serves its last table");

    let places = ground.places(APP).expect("etcd answers");
    let before_heal = cluster.lives(APP);
    heal(ground, host);
    let healed = ground.wait_settled(MINUTE);
    assert_eq!(
        ground.places(APP),
        Ok(places),
        "only what was moved away is stopped"
    );
    for other in ground.others(host) {
        assert_eq!(
            cluster.lives(APP)[&other.name],
            before_heal[&other.name],
            "nothing else is touched"
        );
    }
    ground.wait_machine(host, "up", MINUTE);
    notes.figure(format!(
        "settled {:.1} s after the return",
        healed.as_secs_f64()
    ));
    let loaded = load.finish();
    notes.figure(format!(
        "{} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    (loaded, cut_at)
}
