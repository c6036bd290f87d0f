//! `make bench-hosts`: a host is killed (SIGKILL to all of it) with thirty processes on it, until as many
//! run elsewhere and every router has their addresses. Three real hosts, real containers.
//!
//! DEIS_BENCH_RUNS (3) and DEIS_BENCH_PROCESSES (30) make it shorter.

#[path = "../../tests/support/mod.rs"]
mod cluster;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use cluster::{App, Cluster, Host, MINUTE, User, eventually};
use deis::{
    model::{AppName, HostRecord, MachineId},
    store::{EtcdOptions, Store, Txn, keys},
};
use support::{Report, Target, setting, stats::median};
use tokio::time::sleep;

/// How long a process may take to run elsewhere.
const TARGET: f64 = 15.0;
/// What the app is called.
const APP: &str = "survivor";

/// Which host is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    /// One that leads nothing.
    Plain,
    EtcdLeader,
    Elected,
}

impl Victim {
    const ALL: [Self; 3] = [Self::Plain, Self::EtcdLeader, Self::Elected];

    const fn words(self) -> &'static str {
        match self {
            Self::Plain => "a host that leads nothing",
            Self::EtcdLeader => "the host that leads etcd",
            Self::Elected => "the host with the elected controller",
        }
    }
}

#[tokio::main]
async fn main() {
    let cluster = Cluster::get();
    let endpoints = cluster.hosts.iter();
    let store = Store::connect(EtcdOptions {
        endpoints: endpoints
            .map(|host| format!("http://{}:2379", host.address))
            .collect(),
        tls: None,
    })
    .await
    .expect("a connection");
    let count = setting("DEIS_BENCH_PROCESSES", 30);
    let user = User::first(&cluster);
    let app = App::pushed(&user, APP);
    app.deis(&["limits:set", "web=64M"]).ok();
    let mut report = Report::new("hosts");
    for victim in Victim::ALL {
        let mut runs = Vec::new();
        for _ in 0..setting("DEIS_BENCH_RUNS", 3) {
            let took = kill(&cluster, &store, &app, victim, count).await;
            eprintln!("{}: {took:.1?}", victim.words());
            runs.push(took.as_secs_f64());
        }
        let many = runs.len();
        report.row(
            format!(
                "{} is killed: {count} processes run elsewhere, routed; median of {many}",
                victim.words()
            ),
            Target::AtMost(TARGET),
            median(&runs),
            "s",
        );
        let worst = runs.iter().copied().fold(0.0, f64::max);
        report.row(
            format!("{}: the slowest of them", victim.words()),
            Target::None,
            worst,
            "s",
        );
    }
    app.destroy();
    report.finish();
}

fn leads_etcd(cluster: &Cluster, host: &Host) -> bool {
    let status = cluster.etcdctl(host, "endpoint status -w json").ok().out;
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    status[0]["Status"]["leader"] == status[0]["Status"]["header"]["member_id"]
}

/// A host that is what is asked for; the elected controller preferably not beside etcd's leader.
async fn choose<'c>(cluster: &'c Cluster, store: &Store, victim: Victim) -> &'c Host {
    let elected = store.get(&keys::leader()).await.expect("read");
    let elected = elected.expect("somebody leads").value.address;
    let is_elected = |host: &&Host| host.address == elected;
    let found = match victim {
        Victim::Plain => cluster
            .hosts
            .iter()
            .find(|host| !is_elected(host) && !leads_etcd(cluster, host)),
        Victim::EtcdLeader => cluster.hosts.iter().find(|host| leads_etcd(cluster, host)),
        Victim::Elected => cluster.hosts.iter().find(is_elected),
    };
    found.expect("three hosts have one")
}

async fn cordon(store: &Store, host: &Host, cordoned: bool) {
    let id: MachineId = host.machine_id.parse().expect("an id");
    let key = keys::host(&id);
    loop {
        let old = store.get(&key).await.expect("read").expect("a record");
        let new = HostRecord {
            cordoned,
            ..old.value
        };
        let txn = Txn::new().unchanged(&key, old.mod_revision).put(&key, &new);
        if store.commit(txn).await.is_ok() {
            return;
        }
    }
}

/// Addresses of the app that are not on this host, once every router that is there has them all.
async fn routed_elsewhere(store: &Store, dead: &Host) -> Result<usize, String> {
    let name: AppName = APP.parse().expect("a name");
    let services = store
        .list(&keys::services_of(&name))
        .await
        .map_err(|error| error.to_string())?;
    let dead_prefix = format!("{}:", dead.address);
    let alive = services
        .entries
        .iter()
        .filter(|(_, service)| !service.value.starts_with(&dead_prefix));
    let (mut number, mut newest) = (0, 0);
    for (_, service) in alive {
        number += 1;
        newest = newest.max(service.mod_revision);
    }
    let routers = store
        .list(&keys::routers())
        .await
        .map_err(|error| error.to_string())?;
    let behind = routers.entries.iter().any(|(_, router)| {
        !router.value.address.starts_with(&dead_prefix) && router.value.applied < newest
    });
    if behind {
        return Err(format!("{number} published, a router is behind"));
    }
    Ok(number)
}

async fn until_elsewhere(store: &Store, host: &Host, count: usize, limit: Duration) {
    let begun = Instant::now();
    loop {
        let found = routed_elsewhere(store, host).await;
        if found == Ok(count) {
            return;
        }
        assert!(
            begun.elapsed() < limit,
            "{count} processes elsewhere: {found:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// Puts all processes on the victim, kills it, and takes the time; then has it back.
async fn kill(
    cluster: &Cluster,
    store: &Store,
    app: &App<'_>,
    victim: Victim,
    count: usize,
) -> Duration {
    app.deis(&["scale", "web=0"]).ok();
    let host = choose(cluster, store, victim).await;
    let others: Vec<&Host> = cluster
        .hosts
        .iter()
        .filter(|other| other.name != host.name)
        .collect();
    for other in &others {
        cordon(store, other, true).await;
    }
    app.deis(&["scale", &format!("web={count}")]).ok();
    for other in &others {
        cordon(store, other, false).await;
        // None of them is on the others, and all routers have them.
        until_elsewhere(store, other, count, MINUTE).await;
    }
    let begun = Instant::now();
    cluster.kill_host(host);
    until_elsewhere(store, host, count, 3 * MINUTE).await;
    let took = begun.elapsed();
    cluster.boot_host(host);
    eventually(
        "the host is back and has stopped what was moved",
        3 * MINUTE,
        || {
            let machines = cluster.deisctl(&["machines"]).out;
            let left = cluster.sh(host, "systemctl is-active -q deis-agent && podman ps -q --filter name=^survivor_ | wc -l");
            if machines.contains(&host.address) && left.out.trim() == "0" {
                Ok(())
            } else {
                Err(format!("{:?}, {machines}", left.out))
            }
        },
    );
    took
}
