//! The agent comes and goes; apps don't notice.

use crate::support::*;

#[test]
fn restarts_of_the_agent_restart_nothing() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "steady");
    app.deis(&["scale", "web=3", "worker=2"]).ok();
    let before = cluster.lives("steady");
    assert!(
        before.values().all(|life| life.contains("steady_v2.web.")),
        "{before:#?}"
    );
    let load = Load::start("steady", 20);

    for _ in 0..3 {
        cluster
            .on_all("systemctl kill -s KILL deis-agent")
            .into_values()
            .for_each(|ran| drop(ran.ok()));
        cluster.agents_answer();
    }
    // An agent with other templates: what runs stays as it is.
    let script = "rm -rf /run/deis-templates && cp -a /opt/deis/templates /run/deis-templates && \
        for f in /run/deis-templates/podman/*; do sed -i 's/^Description=.*/& (new template)/' $f; done && \
        mount --bind /run/deis-templates /opt/deis/templates && systemctl restart deis-agent";
    cluster
        .on_all(script)
        .into_values()
        .for_each(|ran| drop(ran.ok()));
    cluster.agents_answer();
    // They work: a scaling goes through the new agents, and the old processes are the same.
    app.deis(&["scale", "web=4"]).ok();
    app.deis(&["scale", "web=3"]).ok();
    assert_eq!(cluster.lives("steady"), before);

    // The next rollout uses the new templates.
    app.deis(&["config:set", "X=1"]).ok();
    let texts = cluster.on_all("cat /run/systemd/system/steady_v3.web.*.service");
    assert!(
        texts.values().all(|ran| ran.out.contains("(new template)")),
        "{texts:#?}"
    );
    cluster
        .on_all("umount /opt/deis/templates && systemctl restart deis-agent")
        .into_values()
        .for_each(|ran| drop(ran.ok()));
    cluster.agents_answer();
    let loaded = load.finish();
    assert!(loaded.failures.is_empty(), "{loaded:?}");

    // No start needed a reload.
    let reloads =
        cluster.on_all("systemctl show -p NeedDaemonReload --value 'steady_v*' | sort | uniq -c");
    assert!(
        reloads.values().all(|ran| !ran.out.contains("yes")),
        "{reloads:#?}"
    );
}

#[test]
fn a_crashed_process_comes_back_and_says_why() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "fragile");
    let host = cluster.host_of("fragile_v2.web.1");
    cluster
        .sh(
            host,
            "kill -9 $(podman inspect --format '{{.State.Pid}}' fragile_v2.web.1)",
        )
        .ok();
    eventually("it serves again", MINUTE, || match app.get("/") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("and is up", MINUTE, || {
        let ps = app.deis(&["ps"]).ok().out;
        if ps.contains("web.1 up (v2)") {
            Ok(())
        } else {
            Err(ps)
        }
    });
}
