//! What a host does by itself: it boots without etcd and registries, and says how its processes are.

use std::{thread, time::Duration};

use crate::support::*;

/// The line of a process in a table.
fn line<'t>(table: &'t str, begins: &str) -> &'t str {
    table
        .lines()
        .find(|line| line.starts_with(begins))
        .unwrap_or_else(|| panic!("no {begins} in:\n{table}"))
}

#[test]
fn figures_and_last_exits() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "figures");
    let ps = app.deis(&["ps"]).ok().out;
    let web = line(&ps, "web.1 up (v2)");
    let words: Vec<&str> = web.split_whitespace().collect();
    let [_, "up", "(v2)", memory, cpu, uptime, "0", "-"] = words[..] else {
        panic!("{ps}");
    };
    let (used, limit) = memory.split_once('/').expect("used/limit");
    assert!(used.ends_with('M') && limit == "512M", "{ps}");
    assert!(cpu.ends_with('%') && uptime.ends_with('s'), "{ps}");
    let list = cluster.deisctl(&["list"]).ok().out;
    assert!(line(&list, "figures_v2.web.1").contains("M/512M"), "{list}");
    let router: Vec<&str> = line(&list, "deis-router@1").split_whitespace().collect();
    // On cgroup v1, systemd counts a unit's CPU only where `cpuacct` is mounted together with `cpu`.
    let is_cpu = router[7].ends_with('%') || router[7] == "-";
    assert!(router[6].ends_with('M') && is_cpu, "{list}");

    // How a run ends is told, and outlives the agent.
    let host = cluster.host_of("figures_v2.web.1");
    // The app itself: the container's init passes no such signal on.
    let kill = "kill -SEGV $(pgrep -P $(podman inspect -f '{{.State.Pid}}' figures_v2.web.1))";
    cluster.sh(host, kill).ok();
    let told = |what: &str, want: &[&str]| {
        eventually(what, MINUTE, || {
            let ps = app.deis(&["ps"]).ok().out;
            let web = line(&ps, "web.1 ");
            match want.iter().all(|want| web.contains(want)) {
                true => Ok(()),
                false => Err(ps),
            }
        });
    };
    told(
        "the end of the last run",
        &["up (v2)", "M/512M", "killed by SIGSEGV"],
    );
    cluster.sh(host, "systemctl stop deis-agent").ok();
    // A silent host costs a second at most, and its processes are shown all the same.
    let begun = std::time::Instant::now();
    let ps = app.deis(&["ps"]).ok().out;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let web = line(&ps, "web.1 up (v2)");
    assert!(
        !web.contains("M/512M") && web.contains("killed by SIGSEGV"),
        "{ps}"
    );
    cluster.sh(host, "systemctl start deis-agent").ok();
    told(
        "the same by the next agent",
        &["M/512M", "killed by SIGSEGV"],
    );
    // None of it is for apps, and none of it is in etcd.
    let etcd = cluster
        .etcdctl(&cluster.hosts[0], "get --prefix /deis")
        .ok()
        .out;
    assert!(!etcd.contains("memory_limit_bytes") && !etcd.contains("cpu_permille"));
}

#[test]
fn a_host_boots_and_serves_without_etcd_and_registries() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "alone");
    app.deis(&["scale", "web=3"]).ok();
    let host = cluster.host_of("alone_v2.web.1");
    let running = |host: &Host| {
        cluster
            .sh(host, "podman ps --format '{{.Names}}' | sort")
            .out
    };
    let before = running(host);
    cluster
        .on_all("systemctl stop deis-etcd; systemctl kill -s STOP 'deis-registry@*'")
        .into_values()
        .for_each(|ran| drop(ran.ok()));
    // Its own disk is full, too: neither the cache nor a mark can be written anew.
    let full = "mkdir -p /var/lib/deis/agent && cd /var/lib/deis && cp -a agent agent.kept && \
        mount -t tmpfs -o size=256k tmpfs agent && cp -a agent.kept/. agent/ && \
        (head -c 1M /dev/zero > agent/ballast; true) && systemctl restart deis-agent";
    let left = "cd /var/lib/deis; umount agent; rm -rf agent.kept";
    cluster.sh(host, full).ok();
    thread::sleep(Duration::from_secs(6));
    assert_eq!(
        running(host),
        before,
        "an agent's restart on a full disk touches nothing"
    );
    cluster.kill_host(host);
    cluster.boot_host(host);
    eventually("it runs what it ran, by itself", 2 * MINUTE, || {
        let now = running(host);
        if now == before {
            Ok(())
        } else {
            Err(format!("{before}---\n{now}"))
        }
    });
    // Its own router serves them.
    eventually("it serves", MINUTE, || {
        match get(&format!("{}:80", host.address), "alone.localhost", "/") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    cluster
        .on_all("systemctl start deis-etcd --no-block; systemctl kill -s CONT 'deis-registry@*'")
        .into_values()
        .for_each(|ran| drop(ran.ok()));
    eventually("the cluster takes changes", 2 * MINUTE, || {
        let set = app.deis(&["config:set", "BACK=1"]);
        if set.status == Some(0) {
            Ok(())
        } else {
            Err(set.err)
        }
    });
    cluster.sh(host, left);
}
