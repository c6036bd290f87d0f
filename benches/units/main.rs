//! `make bench-units`: what it costs to start units and containers on three real hosts, beside the same
//! units started by hand; what a host costs while nothing happens; how long an agent takes to adopt what
//! runs. Five times each, in turns; `BENCH_ROUNDS`, `BENCH_IDLE_SECS` and `BENCH_ONLY` (plain,
//! containers, idle) make it shorter.

#[path = "../../tests/support/mod.rs"]
mod suite;
#[path = "../support/mod.rs"]
mod support;

mod containers;
mod hosts;
mod idle;
mod plain;

use std::cell::RefCell;

use hosts::{Hosts, Operations};
use support::{Report, Target, setting, stats};

/// Slower than by hand by so much at most.
const RATIO: f64 = 1.25;
/// Operations of etcd for each process at most.
const OPERATIONS: f64 = 4.0;

fn main() {
    let hosts = Hosts::get();
    let mut report = Report::new("units");
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let rounds = setting("BENCH_ROUNDS", 5);
    if only.is_empty() || only == "plain" {
        for count in [1, 100, 600] {
            let what = format!("{count} plain unit{}", if count == 1 { "" } else { "s" });
            // The target is about hundreds: of one, a human would not see the difference.
            let target = if count == 1 {
                Target::None
            } else {
                Target::AtMost(RATIO)
            };
            let ours = |operations: &mut Vec<Operations>| plain::ours(&hosts, count, operations);
            let by_hand = || plain::by_hand(&hosts, count);
            report.part(&what, |report| {
                compare(report, &what, count, target, rounds, ours, by_hand);
            });
        }
    }
    if only.is_empty() || only == "containers" {
        let count = containers::COUNT;
        let what = format!("{count} containers");
        report.part(&what, |report| {
            let app = containers::App::pushed(&hosts);
            let ours = |operations: &mut Vec<Operations>| app.ours(&hosts, operations);
            let by_hand = || app.by_hand(&hosts);
            let target = Target::AtMost(RATIO);
            compare(report, &what, count, target, rounds, ours, by_hand);
        });
    }
    if only.is_empty() || only == "idle" {
        report.part("idle", |report| idle::measure(&hosts, report));
    }
    report.finish();
}

/// Ours beside by hand, in turns, and what ours took from etcd.
fn compare(
    report: &mut Report,
    what: &str,
    count: usize,
    target: Target,
    rounds: usize,
    ours: impl Fn(&mut Vec<Operations>) -> f64,
    by_hand: impl Fn() -> f64,
) {
    let operations = RefCell::new(Vec::new());
    let (ours, by_hand) = stats::alternate(rounds, || ours(&mut operations.borrow_mut()), by_hand);
    eprintln!("{what}: ours {ours:.3?} s, by hand {by_hand:.3?} s");
    let (ours, by_hand) = (stats::median(&ours), stats::median(&by_hand));
    report.row(
        format!("{what}, first write to active and reported"),
        Target::None,
        ours,
        "s",
    );
    report.row(format!("{what}, by hand"), Target::None, by_hand, "s");
    report.row(
        format!("{what}, ours / by hand"),
        target,
        ours / by_hand,
        "ratio",
    );
    let each = |pick: fn(&Operations) -> f64| {
        let all: Vec<f64> = operations.borrow().iter().map(pick).collect();
        stats::median(&all) / count as f64
    };
    let target = if count == 1 {
        Target::None
    } else {
        Target::AtMost(OPERATIONS)
    };
    report.row(
        format!("{what}, etcd operations for each"),
        target,
        each(Operations::all),
        "operations",
    );
    eprintln!(
        "  puts {:.2}, reads and comparisons {:.2}, deletions {:.2}, transactions {:.2}",
        each(|o| o.puts),
        each(|o| o.ranges),
        each(|o| o.deletes),
        each(|o| o.txns),
    );
}
