//! `make bench-scheduler`: placements per second, on one core.
//!
//! Once through the pool alone, once through whole rounds, the transactions built. The store is not in
//! it: what the leader would commit is applied to its own picture of the cluster.

#[path = "../support/mod.rs"]
mod support;

mod cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    time::{Duration, Instant},
};

use cluster::{Cluster, MIB512};
use deis::{
    model::MachineId,
    plan::{
        schedule::{Pool, Resources, Wanted},
        settings::Placing,
    },
};
use support::{Report, Target, stats::median};

/// Hosts.
const SIZES: [usize; 4] = [100, 1_000, 5_000, 10_000];
/// The size that the target is for.
const TARGET_HOSTS: usize = 5_000;
/// Placements per second there.
const TARGET: f64 = 100_000.0;
/// Processes per host in the end.
const PER_HOST: usize = 20;
/// Processes of each app.
const PER_APP: usize = 100;
/// How often each is measured; the median counts.
const RUNS: usize = 5;

/// What makes placing harder.
#[derive(Clone, Copy)]
enum Kind {
    /// Every host is a failure domain by itself.
    Plain,
    /// Three zones.
    Zones,
    /// Three zones, and every second app wants a tag that half of the hosts have.
    Tags,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Plain, Self::Zones, Self::Tags];

    const fn words(self) -> &'static str {
        match self {
            Self::Plain => "hosts alone",
            Self::Zones => "3 zones",
            Self::Tags => "3 zones, tags",
        }
    }

    const fn has_zones(self) -> bool {
        !matches!(self, Self::Plain)
    }

    fn tags(self, app: usize) -> BTreeMap<String, String> {
        let tagged = matches!(self, Self::Tags) && app.is_multiple_of(2);
        let tag = tagged.then(|| ("disk".to_owned(), "ssd".to_owned()));
        tag.into_iter().collect()
    }
}

fn target(hosts: usize) -> Target {
    if hosts == TARGET_HOSTS {
        Target::AtLeast(TARGET)
    } else {
        Target::None
    }
}

fn main() {
    let mut report = Report::new("scheduler");
    for hosts in SIZES {
        for kind in Kind::ALL {
            pool(&mut report, hosts, kind);
        }
    }
    for hosts in SIZES {
        rounds(&mut report, hosts, Kind::Plain);
        rounds(&mut report, hosts, Kind::Tags);
    }
    large_app(&mut report);
    report.finish();
}

fn rate(number: usize, took: Duration) -> f64 {
    number as f64 / took.as_secs_f64()
}

/// The pool alone: apps of 100 until each host has 20, then single processes of apps that have some.
fn pool(report: &mut Report, hosts: usize, kind: Kind) {
    let cluster = Cluster::new(hosts, kind.has_zones());
    let placing = Placing::default();
    let lost = BTreeSet::new();
    let needs = Resources {
        memory_bytes: MIB512,
        cpu_shares: 64,
    };
    let (mut first, mut small) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begun = Instant::now();
        let mut pool = Pool::of(&cluster.world, &placing, &lost);
        let none = BTreeMap::new();
        let mut placed = Vec::new();
        for app in 0..hosts * PER_HOST / PER_APP {
            let tags = kind.tags(app);
            let wanted = Wanted {
                needs,
                tags: &tags,
                peers: &none,
            };
            placed.push(black_box(pool.place(&wanted, PER_APP)));
        }
        let number: usize = placed.iter().map(Vec::len).sum();
        assert_eq!(number, hosts * PER_HOST, "all have a place");
        first.push(rate(number, begun.elapsed()));

        let peers = |hosts: &Vec<MachineId>| {
            let mut peers: BTreeMap<MachineId, u32> = BTreeMap::new();
            for host in hosts {
                *peers.entry(host.clone()).or_default() += 1;
            }
            peers
        };
        let changes: Vec<_> = placed.iter().take(500).map(peers).collect();
        let begun = Instant::now();
        for (app, peers) in changes.iter().enumerate() {
            let tags = kind.tags(app);
            let wanted = Wanted {
                needs,
                tags: &tags,
                peers,
            };
            assert_eq!(black_box(pool.place(&wanted, 1)).len(), 1);
        }
        small.push(rate(changes.len(), begun.elapsed()));
    }
    let what = |words: &str| format!("{hosts} hosts, {}: pool, {words}", kind.words());
    report.row(
        what("first fill"),
        target(hosts),
        median(&first),
        "placements/s",
    );
    let words = "one more process of an app of 100";
    report.row(what(words), Target::None, median(&small), "placements/s");
}

/// Whole rounds: everything at once, then one more process of an app.
fn rounds(report: &mut Report, hosts: usize, kind: Kind) {
    let apps = hosts * PER_HOST / PER_APP;
    let (mut first, mut small) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut cluster = Cluster::new(hosts, kind.has_zones());
        for app in 0..apps {
            cluster.add_app(app, PER_APP, kind.tags(app));
        }
        let begun = Instant::now();
        let plan = cluster.round();
        let took = begun.elapsed();
        let placed = cluster.commit(&plan);
        assert_eq!(placed, hosts * PER_HOST, "all have a place");
        first.push(rate(placed, took));
        for app in (0..apps).step_by((apps / 20).max(1)) {
            cluster.add_app(app, PER_APP + 1, kind.tags(app));
            let begun = Instant::now();
            let plan = cluster.round();
            small.push(begun.elapsed().as_secs_f64() * 1e6);
            assert_eq!(cluster.commit(&plan), 1);
        }
    }
    let what = |words: &str| format!("{hosts} hosts, {}: round, {words}", kind.words());
    report.row(
        what("first fill"),
        target(hosts),
        median(&first),
        "placements/s",
    );
    report.row(what("one more process"), Target::None, median(&small), "us");
}

/// One app of 1,000 and one of 10,000 processes: the cost of each must be the same.
fn large_app(report: &mut Report) {
    let mut rates = Vec::new();
    for processes in [1_000, 10_000] {
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let mut cluster = Cluster::new(1_000, true);
            cluster.add_app(0, processes, BTreeMap::new());
            let begun = Instant::now();
            let plan = cluster.round();
            let took = begun.elapsed();
            assert!(plan.acts.iter().all(|act| act.txn.ops().len() <= 100));
            assert_eq!(cluster.commit(&plan), processes);
            runs.push(rate(processes, took));
        }
        let what = format!("1000 hosts, one app of {processes}: round, first fill");
        report.row(what, Target::None, median(&runs), "placements/s");
        rates.push(median(&runs));
    }
    let what = "cost per placement, an app of 10,000 to one of 1,000";
    report.row(what, Target::AtMost(2.0), rates[0] / rates[1], "times");
}
