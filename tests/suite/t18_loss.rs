//! A host whose agent is frozen: its lease runs out, and nobody there can act but the fence.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::support::*;

/// Containers of the app's processes of a type, by host: their names and ids.
fn containers(cluster: &Cluster, app: &str, kind: &str) -> BTreeMap<String, Vec<String>> {
    let script = format!(
        "podman ps --no-trunc --format '{{{{.Names}}}} {{{{.ID}}}}' --filter name=^{app}_ | grep '[.]{kind}[.]'; true"
    );
    cluster
        .on_all(&script)
        .into_iter()
        .map(|(host, ran)| (host, ran.ok().out.lines().map(str::to_owned).collect()))
        .collect()
}

fn count(containers: &BTreeMap<String, Vec<String>>) -> usize {
    containers.values().map(Vec::len).sum()
}

#[test]
fn a_frozen_agent_keeps_no_single_process() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::test_app(&user, "clock");
    app.push().ok();
    app.deis(&["scale", "web=3", "worker=1"]).ok();
    let worker = || containers(&cluster, "clock", "worker");
    let web = || containers(&cluster, "clock", "web");
    let before = worker();
    app.deis(&["ps:single", "worker", "on"]).ok();
    let home = {
        let (name, _) = before
            .iter()
            .find(|(_, there)| !there.is_empty())
            .expect("a worker");
        let home = cluster.hosts.iter().find(|host| host.name == *name);
        home.expect("its host")
    };
    eventually("the fence stands", MINUTE, || {
        let fence = cluster.sh(home, "systemctl is-active deis-fence; ls /run/deis/fence");
        if fence.out.starts_with("active") && fence.out.contains("worker") {
            Ok(())
        } else {
            Err(fence.all())
        }
    });
    // An agent's restart is no matter.
    let restart = "systemctl restart deis-agent && systemctl is-active deis-agent";
    cluster.sh(home, restart).ok();
    thread::sleep(Duration::from_secs(7));
    assert_eq!(worker(), before, "neither mark nor restart touch it");

    let webs = web();
    let agent = "$(systemctl show -P MainPID deis-agent)";
    cluster.sh(home, &format!("kill -STOP {agent}")).ok();
    let frozen = Instant::now();
    let mut stopped = None;
    eventually("it runs elsewhere", MINUTE, || {
        let now = worker();
        assert!(count(&now) <= 1, "two of a single process: {now:?}");
        if now[&home.name].is_empty() {
            stopped.get_or_insert(frozen.elapsed());
        }
        if count(&now) == 1 && now[&home.name].is_empty() {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    let (stopped, moved) = (stopped.expect("stopped"), frozen.elapsed());
    println!(
        "a single process of a frozen host: stopped after {stopped:.1?}, elsewhere after {moved:.1?}"
    );
    assert_eq!(
        web()[&home.name],
        webs[&home.name],
        "another type runs on, whatever the cluster thinks of its host"
    );

    cluster.sh(home, &format!("kill -CONT {agent}")).ok();
    eventually("what was moved is stopped, and only that", MINUTE, || {
        let (webs, workers) = (web(), worker());
        assert!(count(&workers) <= 1, "two of a single process: {workers:?}");
        if count(&webs) == 3 && count(&workers) == 1 {
            Ok(())
        } else {
            Err(format!("{webs:?} {workers:?}"))
        }
    });
    app.destroy();
}
