//! Hosts die; only what was in flight on them is lost.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::*;

/// Every process of the app is up on a live host, and as many as asked.
fn wait_for_three(cluster: &Cluster, app: &App<'_>, dead: &Host) -> Duration {
    let begun = Instant::now();
    eventually("three processes run elsewhere", MINUTE, || {
        let list = cluster.deisctl(&["list"]);
        let alive = list
            .out
            .lines()
            .filter(|l| {
                l.starts_with(&format!("{}_v", app.name))
                    && !l.contains(&dead.address)
                    && !l.contains(&dead.name)
            })
            .filter(|l| l.contains("active") && l.contains("running"))
            .count();
        let services = cluster.etcdctl(
            cluster
                .hosts
                .iter()
                .find(|host| host.name != dead.name)
                .expect("a live host"),
            &format!(
                "get --prefix --print-value-only /deis/services/{}",
                app.name
            ),
        );
        let published = services
            .out
            .split_whitespace()
            .filter(|a| !a.starts_with(&dead.address))
            .count();
        if alive == 3 && published == 3 {
            Ok(())
        } else {
            Err(format!(
                "{alive} alive, {published} published: {}",
                list.out
            ))
        }
    });
    begun.elapsed()
}

fn kill_and_return(cluster: &Cluster, user: &User, dead: &Host, what: &str) {
    let app = App::pushed(user, "survivor");
    app.deis(&["scale", "web=3"]).ok();
    let load = Load::start("survivor", 50);
    thread::sleep(Duration::from_secs(2));
    let killed = load.begun.elapsed();
    cluster.kill_host(dead);
    let moved = wait_for_three(cluster, &app, dead);
    println!(
        "{what}: {} killed, three processes elsewhere after {moved:.1?}",
        dead.name
    );
    thread::sleep(Duration::from_secs(5));
    let loaded = load.finish();
    println!(
        "{what}: {} requests, {} failed: {:?}",
        loaded.sent,
        loaded.failures.len(),
        loaded.failures
    );
    assert!(moved < Duration::from_secs(30), "{moved:?}");
    // Ten clients: each may have had one request in flight there.
    assert!(loaded.failures.len() <= 10, "{:#?}", loaded.failures);
    let late = loaded
        .failures
        .iter()
        .find(|(at, _)| *at > killed + Duration::from_secs(6));
    assert_eq!(
        late, None,
        "only what was in flight there fails: {:#?}",
        loaded.failures
    );

    cluster.boot_host(dead);
    eventually(
        "the host is back and runs nothing twice",
        2 * MINUTE,
        || {
            let machines = cluster.deisctl(&["machines"]).out;
            let running = cluster.sh(dead, "systemctl is-active deis-agent");
            let all = cluster.on_all("podman ps --format '{{.Names}}' --filter name=^survivor_");
            let count: usize = all.values().map(|ran| ran.out.lines().count()).sum();
            if machines.contains(&dead.address) && running.out.trim() == "active" && count == 3 {
                Ok(())
            } else {
                Err(format!(
                    "{count} containers, agent {}, {machines}",
                    running.out.trim()
                ))
            }
        },
    );
    eventually("the cluster takes changes", MINUTE, || {
        let set = app.deis(&["config:set", "BACK=1"]);
        if set.status == Some(0) {
            Ok(())
        } else {
            Err(set.err)
        }
    });
}

#[test]
fn the_host_with_the_etcd_leader() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let leader = cluster
        .hosts
        .iter()
        .find(|host| {
            let status = cluster.etcdctl(host, "endpoint status -w json").ok().out;
            let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
            status[0]["Status"]["leader"] == status[0]["Status"]["header"]["member_id"]
        })
        .expect("an etcd leader");
    kill_and_return(&cluster, &user, leader, "etcd's leader");
}

#[test]
fn the_host_with_the_elected_controller() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let record = cluster
        .etcdctl(&cluster.hosts[0], "get --print-value-only /deis/leader")
        .ok()
        .out;
    let record: serde_json::Value = serde_json::from_str(record.trim()).expect("JSON");
    let address = record["address"].as_str().expect("address");
    let leader = cluster
        .hosts
        .iter()
        .find(|host| address.starts_with(&host.address))
        .expect("leader's host");
    kill_and_return(&cluster, &user, leader, "the elected controller");
}
