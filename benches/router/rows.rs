//! What is measured of each proxy: at saturation, and at half of what the slowest takes.

use std::time::{Duration, Instant};

use crate::{
    APPS, Bench,
    load::{self, Ask, Kind, Outcome},
    peers::{Proxy, Which, hosts},
    support::{
        Target, setting,
        stats::{median, quantile},
    },
};

/// One turn of a proxy.
const TURN: Duration = Duration::from_secs(2);
/// Below this the proxy's core had time left: it was not the proxy that was measured.
const SATURATED: f64 = 95.0;
/// Hosts that are asked for.
const HOSTS: usize = 100;

/// A kind of load.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What picks it.
    pub key: &'static str,
    /// What it is in the table.
    what: &'static str,
    /// Routes in the table.
    pub apps: usize,
    kind: Kind,
    tls: bool,
}

impl Row {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::new("keepalive", "keep-alive", Kind::Small),
        Self::new("new", "new connections", Kind::Once),
        Self::new("tls", "TLS 1.3, keep-alive", Kind::Small).over_tls(),
        Self::new("handshakes", "TLS 1.3, new connections", Kind::Once).over_tls(),
        Self::new("download", "answers of 1 MB", Kind::Download),
        Self::new("upload", "requests of 1 MB", Kind::Upload),
        Self::new("websockets", "websocket messages", Kind::Message),
        Self::new("routes", "10,000 routes, keep-alive", Kind::Small).of(10_000),
    ];

    const fn new(key: &'static str, what: &'static str, kind: Kind) -> Self {
        Self {
            key,
            what,
            apps: APPS,
            kind,
            tls: false,
        }
    }

    const fn over_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    const fn of(self, apps: usize) -> Self {
        Self { apps, ..self }
    }

    fn ask(&self, proxy: &Proxy) -> Ask {
        Ask {
            address: proxy.address(self.tls),
            tls: self.tls,
            kind: self.kind,
            hosts: hosts(self.apps, HOSTS),
        }
    }
}

/// One turn at saturation.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Answered per second.
    pub per_second: f64,
    /// CPU time for each, in microseconds.
    pub cpu: f64,
    /// How much of its core the proxy used, in percent.
    pub busy: f64,
    /// Failures.
    pub failed: u64,
}

/// Saturates a proxy for a while.
pub async fn turn(proxy: &Proxy, ask: &Ask, time: Duration) -> Turn {
    let mut before = Duration::ZERO;
    let mut began = Instant::now();
    let outcome = load::saturate(ask, time, || {
        before = proxy.cpu();
        began = Instant::now();
    });
    let outcome = outcome.await;
    // What was under way when counting ended is not counted, and its CPU time is: both ends have some.
    let (cpu, took) = (proxy.cpu().saturating_sub(before), began.elapsed());
    said(proxy.which, &outcome);
    proxy.forget_log();
    // The load goes on for a moment after counting has ended.
    let share = cpu.as_secs_f64() / took.as_secs_f64();
    Turn {
        per_second: outcome.done as f64 / outcome.took.as_secs_f64(),
        cpu: share * outcome.took.as_secs_f64() * 1e6 / outcome.done.max(1) as f64,
        busy: share * 100.0,
        failed: outcome.failed,
    }
}

fn said(which: Which, outcome: &Outcome) {
    if let Some(why) = &outcome.why {
        eprintln!("{}: {} failed: {why}", which.name(), outcome.failed);
    }
}

/// Measures a row of all proxies.
pub async fn compare(bench: &Bench, row: Row) {
    let mut proxies = Vec::new();
    for which in &bench.all {
        proxies.push(bench.place.start(*which, row.apps).await);
    }
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); proxies.len()];
    for round in 0..setting("BENCH_ROUNDS", 3) {
        // Who begins changes.
        for at in 0..proxies.len() {
            let at = (at + round) % proxies.len();
            let turn = turn(&proxies[at], &row.ask(&proxies[at]), TURN).await;
            eprintln!("  {}, {}: {turn:.1?}", row.what, proxies[at].which.name());
            turns[at].push(turn);
        }
    }
    let of = |at: usize, figure: fn(&Turn) -> f64| {
        median(&turns[at].iter().map(figure).collect::<Vec<_>>())
    };
    let slowest = (0..proxies.len())
        .map(|at| of(at, |turn| turn.per_second))
        .fold(f64::INFINITY, f64::min);
    let half = (slowest / 2.0).max(1.0);
    let mut latencies: Vec<Outcome> = Vec::new();
    for proxy in &proxies {
        let outcome = load::steady(&row.ask(proxy), half, TURN).await;
        said(proxy.which, &outcome);
        proxy.forget_log();
        latencies.push(outcome);
    }
    let nginx = bench.all.iter().position(|which| *which == Which::Nginx);
    let least = nginx.map(|at| of(at, |turn| turn.cpu));
    for (at, proxy) in proxies.iter().enumerate() {
        let name = format!("{}: {}", row.what, proxy.which.name());
        let target = match (proxy.which, least) {
            (Which::Router, Some(least)) => Target::AtMost((least * 10.0).round() / 10.0),
            _ => Target::None,
        };
        bench.row(
            format!("{name}, CPU per request"),
            target,
            of(at, |turn| turn.cpu),
            "us",
        );
        let busy = of(at, |turn| turn.busy);
        let void = if busy < SATURATED {
            " (void: its core had time left)"
        } else {
            ""
        };
        bench.row(
            format!("{name}, at saturation{void}"),
            Target::None,
            of(at, |turn| turn.per_second),
            "/s",
        );
        bench.row(
            format!("{name}, its core at saturation"),
            Target::None,
            busy,
            "% busy",
        );
        let outcome = &latencies[at];
        for (word, q) in [("p50", 0.5), ("p99", 0.99)] {
            if !outcome.latencies.is_empty() {
                bench.row(
                    format!("{name}, {word} at {half:.0}/s"),
                    Target::None,
                    quantile(&outcome.latencies, q),
                    "ms",
                );
            }
        }
        let failed = turns[at].iter().map(|turn| turn.failed).sum::<u64>() + outcome.failed;
        let none = match proxy.which {
            Which::Router => Target::AtMost(0.0),
            _ => Target::None,
        };
        bench.row(format!("{name}, failed"), none, failed as f64, "requests");
    }
}
