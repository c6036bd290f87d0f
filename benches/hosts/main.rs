//! `make bench-hosts`: a host is killed (SIGKILL to all of it) with thirty processes on it, until as many
//! run elsewhere and every router has their addresses. Three real hosts, real containers.
//!
//! DEIS_BENCH_RUNS (3) and DEIS_BENCH_PROCESSES (30) make it shorter.

#[path = "../../tests/support/mod.rs"]
mod cluster;
#[path = "../support/mod.rs"]
mod support;

mod timeline;

use std::time::{Duration, Instant};

use cluster::{App, Cluster, Host, MINUTE, User, eventually};
use deis::{
    model::{AppName, HostRecord, MachineId},
    store::{EtcdOptions, Store, Txn, keys},
};
use support::{Report, Target, setting, stats::median};
use timeline::Watcher;
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
    /// One with a registry, of an app whose image is on no other host yet.
    Registry,
}

impl Victim {
    const ALL: [Self; 4] = [Self::Plain, Self::EtcdLeader, Self::Elected, Self::Registry];

    const fn words(self) -> &'static str {
        match self {
            Self::Plain => "a host that leads nothing",
            Self::EtcdLeader => "the host that leads etcd",
            Self::Elected => "the host with the elected controller",
            Self::Registry => "a host with a registry, and the image nowhere else,",
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cluster = Cluster::get();
    let options = EtcdOptions {
        endpoints: cluster.hosts.iter().map(etcd).collect(),
        tls: None,
    };
    let store = runtime.block_on(Store::connect(options));
    let store = store.expect("a connection");
    let count = setting("DEIS_BENCH_PROCESSES", 30);
    let user = User::first(&cluster);
    let mut report = Report::new("hosts");
    for victim in Victim::ALL {
        report.part(victim.words(), |report| {
            let mut runs = Vec::new();
            let mut app = None;
            let is_fresh = matches!(victim, Victim::Registry);
            for _ in 0..setting("DEIS_BENCH_RUNS", 3) {
                if is_fresh {
                    // Destroyed before the next one of that name is made.
                    drop(app.take());
                }
                let app = app.get_or_insert_with(|| pushed(&user, is_fresh));
                let took = kill(&cluster, &store, app, victim, count);
                runs.push(runtime.block_on(took).as_secs_f64());
            }
            tell(report, victim, count, &runs);
        });
    }
    report.finish();
}

/// The app, anew. Unless it `is_fresh`, each host has its image.
fn pushed(user: &User, is_fresh: bool) -> App<'_> {
    let app = App::pushed(user, APP);
    app.deis(&["limits:set", "web=64M"]).ok();
    if !is_fresh {
        app.deis(&["scale", "web=9"]).ok();
    }
    app
}

/// The member on a host.
fn etcd(host: &Host) -> String {
    format!("http://{}:2379", host.address)
}

fn tell(report: &mut Report, victim: Victim, count: usize, runs: &[f64]) {
    report.row(
        format!(
            "{} is killed: {count} processes run elsewhere, routed; median of {}",
            victim.words(),
            runs.len()
        ),
        Target::AtMost(TARGET),
        median(runs),
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
        Victim::Registry => {
            let prefix = keys::parts("registry");
            let registries = store.list(&prefix).await.expect("registries").entries;
            let has = |host: &&Host| {
                let mut keys = registries.iter().map(|(key, _)| key);
                keys.any(|key| keys::last_part(key, prefix.as_str()) == Some(&*host.address))
            };
            let mut hosts = cluster.hosts.iter().filter(has);
            let first = hosts.clone().next();
            hosts.find(|host| !is_elected(host)).or(first)
        }
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
    // A run that broke off may have left a host dead or cordoned.
    for host in &cluster.hosts {
        if !cluster.is_up(host) {
            cluster.boot_host(host);
        }
        cordon(store, host, false).await;
    }
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
    let mut watcher = Watcher::start(cluster, host).await;
    let begun = Instant::now();
    watcher.begin();
    cluster.kill_host(host);
    let dead = begun.elapsed();
    tokio::select! {
        () = watcher.follow() => {}
        () = until_elsewhere(store, host, count, 3 * MINUTE) => {}
    }
    let took = begun.elapsed();
    let timeline = watcher.end();
    eprintln!(
        "{}: dead {:.1} s, {timeline}, acknowledged {:.1} s; {}",
        victim.words(),
        dead.as_secs_f64(),
        took.as_secs_f64(),
        starts(cluster, &others)
    );
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

/// What the agents say of their last starts: how long each took, and of that until it was systemd's.
fn starts(cluster: &Cluster, hosts: &[&Host]) -> String {
    let script =
        "journalctl -u deis-agent --since -3min -o cat | grep 'process started' | tail -n 60";
    let mut said = String::new();
    for host in hosts {
        said += &cluster.sh(host, script).out;
    }
    let millis = |field: &str| -> Vec<f64> {
        let values = said
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(field));
        values.filter_map(|value| value.parse().ok()).collect()
    };
    let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (prepared, started) = (millis("prepared_ms="), millis("started_ms="));
    if started.is_empty() {
        return format!("no start is told of: {said}");
    }
    format!(
        "{} starts, ms: prepared {:.0} (most {:.0}), started {:.0} (most {:.0})",
        started.len(),
        median(&prepared),
        worst(&prepared),
        median(&started),
        worst(&started),
    )
}
