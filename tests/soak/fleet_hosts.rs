//! What fleet's functional tests say of machines, of `fleetctl` and of its daemon, under the names that
//! they have there.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    ground::{APP, Ground, Notes, none_failed, only_in_flight},
    network::{cut_from_etcd, heal},
    support::*,
};

pub fn fleet_machines_list(ground: &Ground, _: &mut Notes) {
    let short = ground.cluster.deisctl(&["list-machines"]).ok().out;
    let full = ground.cluster.deisctl(&["list-machines", "-l"]).ok().out;
    for host in &ground.cluster.hosts {
        let line = |table: &str| {
            let mut lines = table.lines();
            let found = lines.find(|line| line.contains(&host.address));
            found
                .map(str::to_owned)
                .unwrap_or_else(|| panic!("{table}"))
        };
        let short = line(&short);
        assert!(
            short.starts_with(&format!("{}...", &host.machine_id[..8])),
            "{short}"
        );
        let full = line(&full);
        assert!(full.starts_with(&host.machine_id), "{full}");
    }
}

pub fn fleet_known_hosts_verification(ground: &Ground, _: &mut Notes) {
    let cluster = &ground.cluster;
    let host = &cluster.hosts[0];
    let dir = tempfile::TempDir::new().expect("folder");
    let (right, wrong) = (dir.path().join("right"), dir.path().join("wrong"));
    let key = cluster
        .sh(host, "cat /etc/ssh/ssh_host_ed25519_key.pub")
        .ok()
        .out;
    fs::write(&right, format!("{} {key}", host.address)).expect("file");
    let other = dir.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&other);
    run(&mut keygen, MINUTE).ok();
    let other = fs::read_to_string(other.with_extension("pub")).expect("key");
    fs::write(&wrong, format!("{} {other}", host.address)).expect("file");

    let with = |file: &std::path::Path, args: &[&str]| {
        let file = format!("--known-hosts-file={}", file.display());
        cluster.deisctl(&[&[file.as_str()], args].concat())
    };
    let status = ["status", "--on", &host.name, "deis-agent"];
    let hello = ["ssh", &host.name, "echo", "hello"];
    assert_eq!(with(&right, &hello).ok().out, "hello\n");
    assert!(
        with(&right, &status)
            .ok()
            .out
            .contains("deis-agent.service")
    );
    for args in [&status[..], &hello[..]] {
        let refused = with(&wrong, args).refused();
        let said = refused.all().to_lowercase();
        let named = ["another key", "host key", "host identification has changed"];
        assert!(
            named.iter().any(|words| said.contains(words)),
            "{refused:?}"
        );
    }
    fs::write(&right, "").expect("file");
    with(&right, &hello).refused();
    with(&right, &status).refused();
}

pub fn fleet_ctl_with_env(ground: &Ground, _: &mut Notes) {
    let by_env = |name: &str, value: &str| {
        let mut command = Command::new(DEISCTL);
        run(command.arg("machines").env(name, value), MINUTE)
    };
    let by_flag = ground.cluster.deisctl(&["machines"]).ok().out;
    assert_eq!(
        by_env("DEISCTL_CLUSTER", &ground.cluster.name).ok().out,
        by_flag
    );
    // The environment is heeded here, too: in clear over the network it is refused.
    let endpoint = format!("http://{}:2379", ground.cluster.hosts[1].address);
    let refused = by_env("DEISCTL_ENDPOINT", &endpoint).refused();
    assert!(refused.err.contains(&endpoint), "{refused:?}");
    by_env("DEISCTL_CLUSTER", "nosuch").refused();
}

pub fn fleet_version_flag(_: &Ground, _: &mut Notes) {
    let version = run(Command::new(DEISCTL).arg("--version"), MINUTE).ok().out;
    assert_eq!(version, format!("deisctl {}\n", env!("CARGO_PKG_VERSION")));
}

pub fn fleet_help_output(_: &Ground, _: &mut Notes) {
    let bare = run(&mut Command::new(DEISCTL), MINUTE).refused();
    for word in ["Usage:", "list", "machines", "start", "ssh", "journal"] {
        assert!(bare.all().contains(word), "{word}: {bare:?}");
    }
}

pub fn fleet_help_flag(_: &Ground, notes: &mut Notes) {
    let help = |args: &[&str]| run(Command::new(DEISCTL).args(args), MINUTE).ok().out;
    let all = help(&["--help"]);
    let commands = all
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "));
    // What goes on from the line before stands further in.
    let commands = commands.filter(|line| !line.starts_with("   "));
    let names = commands.filter_map(|line| line.split_whitespace().next());
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    assert!(names.len() > 8, "{all}");
    for name in &names {
        let text = help(&[name, "--help"]);
        assert!(text.contains("Usage: deisctl"), "{name}: {text}");
    }
    notes.figure(format!("{} commands", names.len()));
}

/// Load, active and sub state of every unit of the app on a host.
fn states(ground: &Ground, host: &Host) -> String {
    let script = format!(
        "systemctl list-units --all --plain --no-legend '{APP}_v*' | awk '{{print $1, $2, $3, $4}}' | sort"
    );
    ground.cluster.sh(host, &script).ok().out
}

pub fn fleet_single_node_connectivity_loss(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let host = ground.busy_host();
    let (before, lives) = (states(ground, host), ground.cluster.lives(APP));
    cut_from_etcd(ground, host);
    let begun = Instant::now();
    let mut looks = 0;
    while begun.elapsed() < Duration::from_secs(30) {
        assert_eq!(
            states(ground, host),
            before,
            "{:?} after the loss",
            begun.elapsed()
        );
        looks += 1;
        thread::sleep(Duration::from_secs(2));
    }
    let now = ground.cluster.lives(APP);
    assert_eq!(
        now[&host.name], lives[&host.name],
        "nothing restarted there"
    );
    heal(ground, host);
    ground.wait_settled(MINUTE);
    notes.figure(format!(
        "30 s without etcd on {}, {looks} looks, all the same",
        host.name
    ));
}

/// How the agent's last run ended, and whether it panicked.
fn ended_cleanly(ground: &Ground, host: &Host) {
    let script = "systemctl show -p Result -p ExecMainStatus -p ActiveState deis-agent; \
                  journalctl --no-pager -n 50 -u deis-agent | grep -c panicked";
    let said = ground.cluster.sh(host, script).out;
    for wanted in [
        "Result=success",
        "ExecMainStatus=0",
        "ActiveState=inactive",
        "\n0\n",
    ] {
        assert!(said.contains(wanted), "{wanted:?}: {said}");
    }
}

fn stop_agent(ground: &Ground, host: &Host) -> Duration {
    let begun = Instant::now();
    ground.cluster.sh(host, "systemctl stop deis-agent").ok();
    let took = begun.elapsed();
    ended_cleanly(ground, host);
    assert!(took < Duration::from_secs(5), "{took:?}");
    took
}

pub fn fleet_shutdown(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let host = ground.busy_host();
    let (lives, places) = (cluster.lives(APP), ground.places(APP));
    let load = Load::start(APP, 50);
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        longest = longest.max(stop_agent(ground, host));
        assert_eq!(
            cluster.lives(APP),
            lives,
            "units run on without their agent"
        );
        cluster.sh(host, "systemctl start deis-agent").ok();
        thread::sleep(Duration::from_secs(3));
    }
    ground.wait_settled(MINUTE);
    assert_eq!(cluster.lives(APP), lives, "the next agent adopts them");
    assert_eq!(ground.places(APP), places);
    notes.figure(format!(
        "three stops, {:.1} s at most",
        longest.as_secs_f64()
    ));
    none_failed(&load.finish());
}

pub fn fleet_shutdown_vs_monitor(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let host = ground.busy_host();
    let lives = cluster.lives(APP);
    let mut longest = Duration::ZERO;
    // Killed without etcd, stopped at different points of its new start.
    for pause in [0, 300, 1500, 4000] {
        cut_from_etcd(ground, host);
        cluster.sh(host, "systemctl kill -s KILL deis-agent").ok();
        thread::sleep(Duration::from_millis(1000 + pause));
        longest = longest.max(stop_agent_that_starts(ground, host));
        assert_eq!(
            cluster.lives(APP)[&host.name],
            lives[&host.name],
            "units run on"
        );
        heal(ground, host);
        cluster.sh(host, "systemctl start deis-agent").ok();
        ground.wait_machine(host, "up", MINUTE);
    }
    ground.wait_settled(MINUTE);
    notes.figure(format!(
        "four stops, {:.1} s at most",
        longest.as_secs_f64()
    ));
}

/// Stopped before it had begun, it has nothing to end cleanly.
fn stop_agent_that_starts(ground: &Ground, host: &Host) -> Duration {
    let begun = Instant::now();
    ground.cluster.sh(host, "systemctl stop deis-agent").ok();
    let took = begun.elapsed();
    let state = ground
        .cluster
        .sh(host, "systemctl show -p ActiveState --value deis-agent")
        .out;
    assert_eq!(state.trim(), "inactive", "it stays stopped");
    assert!(took < Duration::from_secs(5), "{took:?}");
    took
}

pub fn fleet_detect_machine_id(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let first = ground.busy_host();
    let second = ground.others(first)[0];
    let lives = cluster.lives(APP);
    let theirs = ground.running_on(first, APP).units;
    let script =
        |id: &str| format!("echo {id} >/etc/machine-id && systemctl restart --no-block deis-agent");
    cluster.sh(second, &script(&first.machine_id)).ok();
    let line = eventually("the second host is refused", MINUTE, || {
        let said = cluster
            .sh(second, "journalctl --no-pager -n 30 -u deis-agent")
            .out;
        let line = said
            .lines()
            .rfind(|line| line.contains("another host registers"));
        line.map(str::to_owned).ok_or(said.clone())
    });
    assert!(line.contains(&first.machine_id), "by name: {line}");
    thread::sleep(Duration::from_secs(5));
    let doubled = ground.running_on(second, APP).units;
    let doubled = doubled.iter().find(|unit| theirs.contains(unit));
    assert_eq!(
        doubled, None,
        "the second host runs nothing of the first one's"
    );
    ground.others_untouched(second, &lives);
    cluster.sh(second, &script(&second.machine_id)).ok();
    ground.wait_machine(second, "up", MINUTE);
    let settled = ground.wait_settled(MINUTE);
    // Reports of the two are each one's own again, or were never mixed.
    ground.wait_platform(MINUTE);
    ground.others_untouched(second, &lives);
    notes.figure(format!(
        "with its own id again: settled after {:.1} s",
        settled.as_secs_f64()
    ));
}

pub fn fleet_node_shutdown(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let host = ground.busy_host();
    let lives = cluster.lives(APP);
    let load = Load::start(APP, 50);
    thread::sleep(Duration::from_secs(2));
    let gone = load.begun.elapsed();
    let begun = Instant::now();
    cluster.sh(host, "systemctl poweroff --no-block").ok();
    eventually("it is off: all its units have ended", MINUTE, || {
        if cluster.is_up(host) {
            Err("still up")
        } else {
            Ok(())
        }
        .map_err(str::to_owned)
    });
    let off = begun.elapsed();
    ground.wait_machine(host, "lost", MINUTE);
    ground.wait_settled(MINUTE);
    let moved = begun.elapsed();
    let places = ground.places(APP).expect("etcd answers");
    assert!(places.values().all(|at| *at != host.name), "{places:?}");
    ground.others_untouched(host, &lives);
    cluster.boot_host(host);
    ground.wait_machine(host, "up", MINUTE);
    ground.wait_settled(MINUTE);
    assert_eq!(ground.places(APP), Ok(places), "nothing moves back");
    notes.figure(format!(
        "off after {:.1} s, all elsewhere after {:.1} s",
        off.as_secs_f64(),
        moved.as_secs_f64()
    ));
    let loaded = load.finish();
    notes.figure(format!(
        "{} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    only_in_flight(&loaded, gone + off);
}

pub fn fleet_dynamic_cluster_member_reboot(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let host = ground.busy_host();
    let lives = cluster.lives(APP);
    let places = ground.places(APP).expect("etcd answers");
    cluster.kill_host(host);
    let begun = Instant::now();
    cluster.boot_host(host);
    ground.wait_machine(host, "up", MINUTE);
    // All its own units run again; those that it lost meanwhile run elsewhere.
    ground.wait_settled(2 * MINUTE);
    ground.others_untouched(host, &lives);
    let now = ground.places(APP).expect("etcd answers");
    let stayed = places
        .iter()
        .filter(|(name, at)| now.get(*name) == Some(at));
    notes.figure(format!(
        "{} processes settled after {:.1} s, {} where they were",
        now.len(),
        begun.elapsed().as_secs_f64(),
        stayed.count(),
    ));
}

pub fn fleet_dynamic_cluster_new_member_unit_migration(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let host = ground.busy_host();
    let lives = cluster.lives(APP);
    let load = Load::start(APP, 50);
    thread::sleep(Duration::from_secs(2));
    let gone = load.begun.elapsed();
    cluster.kill_host(host);
    let begun = Instant::now();
    eventually("its processes run elsewhere", MINUTE, || {
        let places = ground.places(APP)?;
        if places.values().any(|at| *at == host.name) {
            return Err(format!("{places:?}"));
        }
        ground.settled()
    });
    notes.figure(format!(
        "elsewhere after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    ground.others_untouched(host, &lives);
    cluster.boot_host(host);
    ground.wait_machine(host, "up", MINUTE);
    ground.wait_settled(MINUTE);
    ground.others_untouched(host, &lives);
    let loaded = load.finish();
    notes.figure(format!(
        "{} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    only_in_flight(&loaded, gone);
}

/// Not one of fleet's: what `[Install]` of a unit does to a host, and every operator and package.
pub fn hosts_reload_systemd(ground: &Ground, notes: &mut Notes) {
    let app = ground.steady();
    let cluster = &ground.cluster;
    let (lives, places) = (cluster.lives(APP), ground.places(APP));
    let load = Load::start(APP, 50);
    let mut reloads = 0;
    for round in 0..5 {
        for _ in 0..3 {
            for ran in cluster.on_all("systemctl daemon-reload").into_values() {
                ran.ok();
                reloads += 1;
            }
        }
        ground.wait_platform(Duration::from_secs(10));
        ground.wait_settled(Duration::from_secs(10));
        assert_eq!(cluster.lives(APP), lives, "round {round}");
        assert_eq!(ground.places(APP), places, "round {round}");
        // Something that starts and stops while systemd reads its units anew.
        let busy = "for n in 1 2 3 4 5 6 7 8; do systemctl daemon-reload; sleep 0.5; done";
        thread::scope(|scope| {
            for host in &cluster.hosts {
                scope.spawn(move || cluster.sh(host, busy).ok());
            }
            app.deis(&["scale", "web=5"]).ok();
            app.deis(&["scale", "web=3"]).ok();
        });
        reloads += 8 * cluster.hosts.len();
    }
    ground.wait_settled(MINUTE);
    assert_eq!(cluster.lives(APP), lives, "in the end");
    let loaded = load.finish();
    notes.figure(format!(
        "{reloads} reloads; {} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    none_failed(&loaded);
}
