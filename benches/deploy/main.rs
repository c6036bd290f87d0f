//! `make bench-deploy`: a load of all kinds at a fixed rate goes on through deploys, rollbacks and scalings
//! of an app that starts slowly; and how long an address needs from etcd to each router. Three real hosts,
//! real containers, the load from outside through all three routers.
//!
//! Most deploys are a `config:set`: a release with a rollout like any other. Each 25th is a `git push`; more
//! of them would measure the build. BENCH_DEPLOYS (100; a fifth as many rollbacks and scalings), BENCH_RATE
//! (1000 requests a second), BENCH_STEADY (60 seconds) and BENCH_CHANGES (250 addresses) make it shorter.
//! BENCH_DEPLOYS=0 measures the addresses alone.

#[path = "../../tests/support/mod.rs"]
mod cluster;
#[path = "../support/mod.rs"]
mod support;

mod client;
mod load;
mod served;

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::sleep,
    time::{Duration, Instant},
};

use cluster::{App, Cluster, MINUTE, User, eventually, get};
use deis::store::{EtcdOptions, Store};
use load::{Counts, Load};
use support::{
    Report, Target, setting,
    stats::{median, quantile},
};

const APP: &str = "actor";
/// Its processes, and how many they become in a scaling.
const WEB: [usize; 2] = [3, 5];
/// Seconds that its processes need until they listen.
const SLOW_START: &str = "SLOW_START=1.5";
/// Of so many deploys one is a push.
const PUSHES: usize = 25;

fn main() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let mut report = Report::new("deploy");
    // Whatever comes of the one, the other is measured, and all figures are written.
    let mut whole = run("addresses", || addresses(&cluster, &mut report));
    whole &= run("changes", || changes(&cluster, &user, &mut report));
    report.finish();
    assert!(whole, "not all was measured");
}

/// Runs a part of the bench; whether it came to its end.
fn run(what: &str, part: impl FnOnce()) -> bool {
    let is_whole = catch_unwind(AssertUnwindSafe(part)).is_ok();
    if !is_whole {
        eprintln!("{what}: it broke off; what was measured before stands");
    }
    is_whole
}

fn routers(cluster: &Cluster) -> Vec<IpAddr> {
    let address = |text: &String| text.parse().expect("an address");
    cluster
        .hosts
        .iter()
        .map(|host| address(&host.address))
        .collect()
}

fn addresses(cluster: &Cluster, report: &mut Report) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let changes = setting("BENCH_CHANGES", 250);
    let here: IpAddr = cluster.gateway.parse().expect("an address");
    let measuring = async {
        let endpoints = cluster.hosts.iter();
        let store = Store::connect(EtcdOptions {
            endpoints: endpoints
                .map(|host| format!("http://{}:2379", host.address))
                .collect(),
            tls: None,
        });
        let store = store.await.expect("a connection");
        served::measure(&store, here, &routers(cluster), changes).await
    };
    let served = runtime.block_on(measuring);
    let what =
        format!("commit of a service key -> served, each of three routers, {changes} changes");
    report.row(
        format!("{what}: p50"),
        Target::None,
        median(&served.each),
        "ms",
    );
    let p99 = quantile(&served.each, 0.99);
    report.row(format!("{what}: p99"), Target::AtMost(25.0), p99, "ms");
    let last = quantile(&served.last, 0.99);
    report.row(
        "the same until all three serve it: p99",
        Target::None,
        last,
        "ms",
    );
}

/// What is done to the app, and how long it took.
struct Changes<'c> {
    app: &'c App<'c>,
    load: &'c Load,
    took: Vec<f64>,
}

impl Changes<'_> {
    fn run(&mut self, what: &str, words: &[&str]) {
        let begun = Instant::now();
        self.app.deis(words).ok();
        self.over(what, begun);
    }

    fn over(&mut self, what: &str, begun: Instant) {
        let took = begun.elapsed().as_secs_f64();
        let (failed, sent) = self.load.so_far();
        eprintln!("  {what}: {took:.1} s; {sent} requests so far, {failed} failed");
        self.took.push(took);
    }
}

fn changes(cluster: &Cluster, user: &User, report: &mut Report) {
    let deploys = setting("BENCH_DEPLOYS", 100);
    if deploys == 0 {
        return;
    }
    let rate = setting("BENCH_RATE", 1000);
    let steady = Duration::from_secs(setting("BENCH_STEADY", 60) as u64);
    let files = [
        ("app.py", include_str!("../../tests/support/app/actor.py")),
        ("Procfile", "web: exec python3 app.py\n"),
    ];
    let app = App::create(user, APP, &files);
    app.push().ok();
    app.deis(&["config:set", SLOW_START]).ok();
    app.deis(&["scale", &format!("web={}", WEB[0])]).ok();
    serves(cluster);

    let host = format!("{APP}.localhost");
    let load = Load::start(&host, &routers(cluster), rate);
    // Connections are opened, and everything is warm.
    sleep(Duration::from_secs(5));
    warm(&load.take());
    sleep(steady);
    let before = load.take();
    let what = format!("steady at {rate} requests/s");
    figures(report, &what, &before, None);

    let begun = Instant::now();
    let mut all = Changes {
        app: &app,
        load: &load,
        took: Vec::new(),
    };
    let mut deployed = Vec::new();
    for number in 1..=deploys {
        let what = format!("deploy {number} of {deploys}");
        if number % PUSHES == 0 {
            app.commit(&[("version", &number.to_string())]);
            let pushing = Instant::now();
            app.push().ok();
            all.over(&format!("{what}, a push"), pushing);
        } else {
            all.run(&what, &["config:set", &format!("NUMBER={number}")]);
            deployed.extend(all.took.last());
        }
        if number % 5 == 0 {
            all.run("rollback", &["rollback"]);
            let count = WEB[number / 5 % 2];
            all.run("scaling", &["scale", &format!("web={count}")]);
        }
    }
    let took = begun.elapsed();
    let during = load.take();
    let (backs, scalings) = (deploys / 5, deploys / 5);
    let pushes = deploys / PUSHES;
    report.row(
        format!(
            "{deploys} deploys ({pushes} of them pushes), {backs} rollbacks, {scalings} scalings: time"
        ),
        Target::None,
        took.as_secs_f64(),
        "s",
    );
    if !deployed.is_empty() {
        let what = "a deploy by config:set, start of 1.5 s included: median";
        report.row(what, Target::None, median(&deployed), "s");
    }
    figures(report, "through these changes", &during, Some(&before));
    sleep(steady / 2);
    let after = load.take();
    figures(report, "steady afterwards", &after, None);
    drop(load);
    app.destroy();
}

/// What opened the connections isn't counted, but nothing of it may have failed either.
fn warm(counts: &Counts) {
    let bad = counts.failed + counts.went_back;
    assert!(
        bad == 0 && counts.sent > 0,
        "before anything is changed: {bad} failed of {}",
        counts.sent
    );
}

/// Every router serves the app.
fn serves(cluster: &Cluster) {
    for host in &cluster.hosts {
        let router = format!("{}:80", host.address);
        eventually("the routers serve it", MINUTE, || {
            match get(&router, &format!("{APP}.localhost"), "/") {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

fn figures(report: &mut Report, what: &str, counts: &Counts, steady: Option<&Counts>) {
    let number = |n: u64| n as f64;
    report.row(
        format!("{what}: requests"),
        Target::None,
        number(counts.sent),
        "",
    );
    report.row(
        format!("{what}: failed"),
        Target::AtMost(0.0),
        number(counts.failed),
        "",
    );
    report.row(
        format!("{what}: answers of an older release than before on their connection"),
        Target::AtMost(0.0),
        number(counts.went_back),
        "",
    );
    if counts.left_out > 0 {
        report.row(
            format!("{what}: not sent, too many were on the way"),
            Target::AtMost(0.0),
            number(counts.left_out),
            "",
        );
    }
    if counts.latency.is_empty() {
        return;
    }
    report.row(
        format!("{what}: p50"),
        Target::None,
        median(&counts.latency),
        "ms",
    );
    let p99 = quantile(&counts.latency, 0.99);
    report.row(format!("{what}: p99"), Target::None, p99, "ms");
    if let Some(steady) = steady.filter(|steady| !steady.latency.is_empty()) {
        let beside = p99 / quantile(&steady.latency, 0.99);
        report.row(
            format!("{what}: p99 beside the steady state's"),
            Target::None,
            beside,
            "x",
        );
    }
}
