//! Routes that change under load, and how soon a change is served.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use deis::store::Txn;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::{
    Bench,
    load::{Ask, Client, Kind},
    peers::{BACKENDS, Proxy, Which, host, hosts, service},
    rows::{Turn, turn},
    support::{Target, setting, stats::median, stats::quantile},
};

/// Apps, of which each changes in its turn.
const APPS: usize = 1000;
/// Apps that are asked for.
const HOSTS: usize = 100;
/// How long routes change.
const TIME: Duration = Duration::from_secs(3);
/// Changes per second.
const RATES: [u32; 4] = [0, 10, 100, 1000];
/// A router that serves a change later than this is said to have missed it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Loads each proxy while its routes change.
pub async fn compare(bench: &Bench) {
    for which in &bench.all {
        let proxy = bench.place.start(*which, APPS).await;
        let mut still = 0.0;
        for rate in RATES {
            let (turn, told) = under_changes(&proxy, rate).await;
            let name = which.name();
            eprintln!("  {rate} changes/s, {name}: {turn:.1?}");
            let name = format!("{name}, {rate} of {APPS} routes change per second");
            if rate == 0 {
                still = turn.per_second;
                bench.row(name, Target::None, still, "requests/s");
                continue;
            }
            let (none, little) = match which {
                Which::Router => (Target::AtMost(0.0), Target::AtMost(5.0)),
                _ => (Target::None, Target::None),
            };
            let lost = (1.0 - turn.per_second / still) * 100.0;
            let failed = turn.failed as f64;
            bench.row(format!("{name}: throughput lost"), little, lost, "%");
            bench.row(format!("{name}: failed"), none, failed, "requests");
            if told < rate * 9 / 10 {
                let told = f64::from(told);
                bench.row(format!("{name}: it got"), Target::None, told, "changes/s");
            }
        }
    }
}

/// A turn at saturation with so many changes per second. Gives back how many there were.
async fn under_changes(proxy: &Proxy, rate: u32) -> (Turn, u32) {
    let ask = Ask {
        address: proxy.address(false),
        tls: false,
        kind: Kind::Small,
        hosts: hosts(APPS, HOSTS),
    };
    if rate == 0 {
        return (turn(proxy, &ask, TIME).await, 0);
    }
    let (began, changes) = (Instant::now(), Cell::new(0));
    let changing = async {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            ticks.tick().await;
            proxy.change(changes.get() as usize % APPS);
            changes.set(changes.get() + 1);
        }
    };
    let reloading = async {
        loop {
            proxy.reload().await;
            sleep(Duration::from_millis(1)).await;
        }
    };
    let turn = tokio::select! {
        turn = turn(proxy, &ask, TIME) => turn,
        () = changing => unreachable!("routes go on changing"),
        () = reloading => unreachable!("and nginx reloading"),
    };
    let per_second = f64::from(changes.get()) / began.elapsed().as_secs_f64();
    proxy.reload().await;
    // All have been taken over in the end, or nothing was measured.
    for app in 0..10 {
        proxy.has_followed(app).await;
    }
    (turn, per_second.round() as u32)
}

/// Changes a route at a time, and asks three routers for it without a pause.
pub async fn served(bench: &Bench) {
    let place = &bench.place;
    const ROUTERS: [&str; 3] = ["127.77.0.1", "127.77.0.11", "127.77.0.12"];
    let mut routers = Vec::new();
    for ip in ROUTERS {
        routers.push(place.start_at(Which::Router, ip, 10).await);
    }
    let mut clients: Vec<Client> = routers
        .iter()
        .map(|router| {
            let ask = Ask {
                address: router.address(false),
                tls: false,
                kind: Kind::Small,
                hosts: vec![host(0)].into(),
            };
            Client::new(&ask, 0)
        })
        .collect();
    let (mut written, mut committed) = (Vec::new(), Vec::new());
    for change in 0..setting("BENCH_CHANGES", 300) {
        let (address, name) = BACKENDS[(change + 1) % 2];
        let begun = Instant::now();
        let commit = async {
            let txn = Txn::new().put(&service(0), &address.to_owned());
            place.store.commit(txn).await.expect("written");
            Instant::now()
        };
        let marker = format!("X-Backend: {name}");
        let seen = clients.iter_mut().map(async |client| {
            loop {
                let head = client.once().await.expect("no request fails");
                if memchr::memmem::find(head, marker.as_bytes()).is_some() {
                    return Instant::now();
                }
            }
        });
        let both = async { tokio::join!(commit, futures_util::future::join_all(seen)) };
        let (commit, seen) = timeout(PATIENCE, both).await.expect("served in time");
        let last = seen.into_iter().max().expect("three routers");
        written.push((last - begun).as_secs_f64() * 1000.0);
        committed.push(last.saturating_duration_since(commit).as_secs_f64() * 1000.0);
        sleep(Duration::from_millis(5)).await;
    }
    let name = "a service's key until all of three routers serve it";
    for (what, samples, most) in [
        ("committed", &committed, Target::AtMost(25.0)),
        ("sent to etcd", &written, Target::None),
    ] {
        bench.row(
            format!("{name}, {what}: p50"),
            Target::None,
            median(samples),
            "ms",
        );
        bench.row(
            format!("{name}, {what}: p99"),
            most,
            quantile(samples, 0.99),
            "ms",
        );
    }
}
