//! What 500 units on one host cost while nothing happens, and how long its agent takes to adopt them.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    containers::App,
    hosts::Hosts,
    plain, suite,
    support::{Report, Target, process, setting},
};
use deis::systemd::proxies;

const UNITS: usize = 500;
/// Before anything is measured: what the starts have left to do is done by then.
const SETTLE: Duration = Duration::from_secs(15);
const AGENT: &str = "/org/freedesktop/systemd1/unit/deis_2dagent_2eservice";
const MB: f64 = 1e6;

/// Measures all of it.
pub fn measure(hosts: &Hosts, report: &mut Report) {
    // Sidecars only stand beside processes of apps.
    let app = App::pushed(hosts);
    app.scale(3);
    let first = &hosts.hosts[0];
    let options = format!("[X-Fleet]\nMachineID={}\n", first.machine);
    let (prefix, names, took) = plain::start(hosts, UNITS, &options);
    report.row("500 plain units on one host", Target::None, took, "s");
    thread::sleep(SETTLE);
    idle(hosts, report);
    adopt(hosts, &prefix, report);
    plain::remove(hosts, &prefix, &names);
}

fn idle(hosts: &Hosts, report: &mut Report) {
    let is = |role: &'static str| {
        move |words: &[String]| {
            words
                .first()
                .is_some_and(|program| program.ends_with("/deisd"))
                && words.get(1).is_some_and(|word| word == role)
        }
    };
    let sidecar = |kind: &'static str| {
        move |words: &[String]| {
            words
                .first()
                .is_some_and(|program| program.ends_with("/deis-sidecar"))
                && words.get(1).is_some_and(|word| word == kind)
        }
    };
    let roles = [
        ("agent", hosts.pids(is("agent"))),
        ("controller", hosts.pids(is("controller"))),
        ("announcer", hosts.pids(sidecar("announce"))),
        ("log sidecar", hosts.pids(sidecar("log"))),
    ];
    let time = |pids: &[u32]| -> Vec<f64> {
        pids.iter()
            .map(|pid| process::cpu_time(*pid).as_secs_f64())
            .collect()
    };
    let cpu: Vec<Vec<f64>> = roles.iter().map(|(_, pids)| time(pids)).collect();
    let (before, begun) = (hosts.counters(), Instant::now());
    thread::sleep(Duration::from_secs(setting("BENCH_IDLE_SECS", 120) as u64));
    let (took, done) = (begun.elapsed().as_secs_f64(), hosts.since(&before));
    let writes = (done.puts + done.deletes) / took / hosts.hosts.len() as f64;
    let reads = done.ranges / took / hosts.hosts.len() as f64;
    report.row(
        "idle, 500 units: etcd writes for each host",
        Target::AtMost(0.3),
        writes,
        "/s",
    );
    report.row(
        "idle, 500 units: etcd reads for each host",
        Target::None,
        reads,
        "/s",
    );
    for ((role, pids), before) in roles.iter().zip(cpu) {
        assert!(!pids.is_empty(), "there is a {role}");
        let most = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
        let used = time(pids)
            .iter()
            .zip(&before)
            .map(|(a, b)| (a - b) / took * 100.0)
            .collect();
        report.row(
            format!("idle, {role}: CPU of the busiest"),
            Target::None,
            most(used),
            "% of a core",
        );
        let memory = pids.iter().map(|pid| process::memory(*pid));
        let (target, name, of): (_, _, fn(process::Memory) -> u64) = match *role {
            "agent" => (Target::AtMost(15.0), "anonymous memory", |m| m.anonymous),
            "controller" => (Target::None, "anonymous memory", |m| m.anonymous),
            _ => (Target::AtMost(2.0), "private memory", |m| m.private),
        };
        let most = most(memory.map(|m| of(m) as f64 / MB).collect());
        report.row(
            format!("idle, {role}: {name} of the largest"),
            target,
            most,
            "MB",
        );
    }
}

/// Kills the agent, and waits for the next one.
fn adopt(hosts: &Hosts, prefix: &str, report: &mut Report) {
    let first = &hosts.hosts[0];
    let lives = || {
        let script = format!("systemctl show -p Id,InvocationID,NRestarts '{prefix}*'");
        let mut lives: Vec<String> = hosts
            .cluster
            .sh(&first.of_suite, &script)
            .ok()
            .out
            .split("\n\n")
            .map(str::to_owned)
            .collect();
        lives.sort();
        lives
    };
    let property = |interface: &str, name: &str| -> u64 {
        hosts
            .runtime
            .block_on(first.property(AGENT, interface, name))
    };
    let pid = || {
        hosts
            .runtime
            .block_on(first.property::<u32>(AGENT, proxies::SERVICE_UNIT, "MainPID"))
    };
    let (before, old) = (lives(), pid());
    assert!(before.len() >= UNITS, "{} units", before.len());
    hosts
        .cluster
        .sh(&first.of_suite, "systemctl kill -s KILL deis-agent")
        .ok();
    let begun = property(proxies::SERVICE_UNIT, "ExecMainExitTimestampMonotonic");
    suite::eventually("the next agent is ready", suite::MINUTE, || {
        let ready = property(proxies::UNIT, "ActiveEnterTimestampMonotonic");
        let started = property(proxies::SERVICE_UNIT, "ExecMainStartTimestampMonotonic");
        if pid() != old && ready > started && started > begun {
            Ok(())
        } else {
            Err("not yet".into())
        }
    });
    let ready = property(proxies::UNIT, "ActiveEnterTimestampMonotonic");
    let started = property(proxies::SERVICE_UNIT, "ExecMainStartTimestampMonotonic");
    let seconds = |micros: u64| micros as f64 / 1e6;
    report.row(
        "agent killed with 500 units: to adopt them",
        Target::AtMost(1.0),
        seconds(ready - started),
        "s",
    );
    thread::sleep(SETTLE);
    let after = lives();
    let changed = before.iter().filter(|life| !after.contains(life)).count();
    report.row(
        "agent killed with 500 units: units restarted",
        Target::AtMost(0.0),
        changed as f64,
        "units",
    );
    let agents = hosts.pids(|words| words.get(1).is_some_and(|word| word == "agent"));
    let most = agents
        .iter()
        .map(|pid| process::memory(*pid).anonymous)
        .max()
        .unwrap_or_default();
    report.row(
        "agent that has adopted 500 units: anonymous memory",
        Target::AtMost(15.0),
        most as f64 / MB,
        "MB",
    );
}
