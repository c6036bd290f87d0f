//! Wall clocks that jump. The hosts share their kernel's clock, and this machine's must not be touched:
//! the daemons run under libfaketime, which shifts what they are told of wall time. Monotonic time goes
//! on, as it does when a real clock is set.

use std::{process::Command, thread, time::Duration};

use crate::{
    ground::{APP, Ground, Notes, none_failed},
    support::*,
};

const HOUR: i64 = 3600;
const PARTS: &str = "deis-agent deis-controller@ deis-router@ deis-builder@ deis-logger@";

/// Sets how far the clock of a host's daemons is ahead.
fn shift(ground: &Ground, host: &Host, seconds: i64) {
    let script = format!(
        "echo '{seconds:+}' >/var/lib/soak/offset.new && mv /var/lib/soak/offset.new /var/lib/soak/offset"
    );
    ground.cluster.sh(host, &script).ok();
}

/// Restarts all daemons of the hosts with a clock that can be shifted, one host after the other.
fn install(ground: &Ground) {
    let dir = tempfile::TempDir::new().expect("folder");
    let mut fetch = Command::new("sh");
    fetch.current_dir(dir.path()).args([
        "-ec",
        "apt-get download -q libfaketime >/dev/null 2>&1 || { apt-get update -qq && apt-get download -q libfaketime; }
         dpkg -x libfaketime_*.deb . && base64 -w0 usr/lib/*/faketime/libfaketimeMT.so.1",
    ]);
    let library = run(&mut fetch, 5 * MINUTE).ok().out;
    for host in &ground.cluster.hosts {
        let root = format!(
            "/var/lib/deis-local/{}/hosts/{}/root/var/lib/soak",
            ground.cluster.name, host.name
        );
        ground
            .cluster
            .sh(host, "mkdir -p /var/lib/soak && chmod 755 /var/lib/soak")
            .ok();
        let mut put = Command::new("sh");
        put.args([
            "-ec",
            &format!("cp usr/lib/*/faketime/libfaketimeMT.so.1 {root}/faketime.so"),
        ]);
        run(put.current_dir(dir.path()), MINUTE).ok();
        shift(ground, host, 0);
        let script = format!(
            "for part in {PARTS}; do mkdir -p /run/systemd/system/$part.service.d
             printf '[Service]\\nEnvironment=LD_PRELOAD=/var/lib/soak/faketime.so FAKETIME_TIMESTAMP_FILE=/var/lib/soak/offset FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1\\n' >/run/systemd/system/$part.service.d/soak.conf
             done; systemctl daemon-reload; systemctl restart deis-agent 'deis-controller@*' 'deis-router@*' 'deis-builder@*' 'deis-logger@*'"
        );
        ground.cluster.sh(host, &script).ok();
        ground.wait_machine(host, "up", MINUTE);
        ground.wait_platform(2 * MINUTE);
    }
    assert!(!library.is_empty());
}

fn remove(ground: &Ground) {
    let script = format!(
        "for part in {PARTS}; do rm -rf /run/systemd/system/$part.service.d/soak.conf; done; systemctl daemon-reload
         systemctl restart deis-agent 'deis-controller@*' 'deis-router@*' 'deis-builder@*' 'deis-logger@*'; rm -rf /var/lib/soak"
    );
    for host in &ground.cluster.hosts {
        ground.cluster.sh(host, &script).ok();
        ground.wait_machine(host, "up", MINUTE);
        ground.wait_platform(2 * MINUTE);
    }
}

/// What a host's agent took for the present when each of its processes came up; those that came last tell
/// of its clock now.
fn reported(ground: &Ground, host: &Host) -> Option<Vec<jiff::Timestamp>> {
    let key = format!("/deis/state/{}", host.machine_id);
    let found = ground.values(&key).ok()?;
    let report: serde_json::Value = serde_json::from_str(found.get(&key)?).ok()?;
    let processes = report["processes"].as_object()?;
    let since = processes
        .values()
        .filter_map(|p| p["since"].as_str()?.parse().ok());
    Some(since.collect())
}

pub fn clock_jumps(ground: &Ground, notes: &mut Notes) {
    let app = ground.steady();
    let cluster = &ground.cluster;
    install(ground);
    let leader = ground.leader().expect("a leader").clone();
    let (lives, places) = (cluster.lives(APP), ground.places(APP));
    let load = Load::start(APP, 50);
    let all: Vec<&Host> = cluster.hosts.iter().collect();
    for hosts in [vec![&leader], all] {
        for seconds in [HOUR, -HOUR, 0] {
            for host in &hosts {
                shift(ground, host, seconds);
            }
            thread::sleep(Duration::from_secs(20));
            assert_eq!(ground.places(APP), places, "nothing moves at {seconds:+} s");
            assert_eq!(
                cluster.lives(APP),
                lives,
                "nothing restarts at {seconds:+} s"
            );
            // Logins, rollouts and logs work on; processes that come and go tell the agents' time.
            app.deis(&["scale", "web=6"]).ok();
            let now = jiff::Timestamp::now();
            let off = |host: &Host| {
                let times = reported(ground, host).unwrap_or_default();
                times.iter().any(|at| {
                    let ahead = at.as_second() - now.as_second();
                    (ahead - seconds).abs() < 120
                })
            };
            let seen = hosts.iter().filter(|host| off(host)).count();
            assert!(
                seen > 0,
                "the clock of {} has jumped by {seconds:+} s",
                leader.name
            );
            app.deis(&["scale", "web=3"]).ok();
            app.deis(&["logs", "-n", "5"]).ok();
            ground.wait_settled(MINUTE);
            assert_eq!(
                cluster.lives(APP),
                lives,
                "nothing restarts at {seconds:+} s"
            );
        }
    }
    for host in &cluster.hosts {
        ground.wait_machine(host, "up", Duration::from_secs(5));
    }
    let loaded = load.finish();
    remove(ground);
    ground.wait_settled(MINUTE);
    assert_eq!(cluster.lives(APP), lives, "nor by new daemons");
    notes.figure("an hour ahead, an hour behind and back, on the leader's host, then on all");
    notes.figure(format!(
        "{} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    none_failed(&loaded);
}
