//! Processes from their assignment to their end, across restarts of the agent and of the host.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_life() {
    let mut host = Host::new().await;
    host.boot().await;
    let ready = host.serve(WEB, 1).await;
    let port = ready.port.expect("a port");
    assert_eq!(host.published(WEB).await, Some(format!("127.0.0.1:{port}")));
    let env =
        std::fs::read_to_string(host.paths().at("/run/deis/env/blog_v1.web.1.env")).expect("env");
    assert_eq!(env, "SECRET=\"s3\ncret\"\n");
    // Unhealthy: withdrawn, and nothing is stopped; healthy: published again.
    host.say(WEB, 1, false).await;
    host.until_process(WEB, "not ready", |p| !p.ready && p.withdrawn.is_some())
        .await;
    assert_eq!(host.published(WEB).await, None);
    host.say(WEB, 1, true).await;
    host.until_process(WEB, "ready again", |p| p.ready).await;
    // Drained: withdrawn at a revision that is told, still running.
    host.assign(WEB, 1, Desired::Drain).await;
    let drained = host
        .until_process(WEB, "withdrawn", |p| p.withdrawn.is_some())
        .await;
    assert!(!drained.ready && host.units.active().contains("blog_v1.web.1.service"));
    assert_eq!(host.published(WEB).await, None);
    // Stopped: gone from the report, no file left.
    host.assign(WEB, 1, Desired::Stop).await;
    host.until("gone", |state| state.processes.is_empty()).await;
    assert!(host.units.active().is_empty());
    for dir in [
        "/run/systemd/system",
        "/run/deis/env",
        "/var/lib/deis/agent/assignments",
    ] {
        assert_eq!(
            std::fs::read_dir(host.paths().at(dir))
                .expect("dir")
                .count(),
            0,
            "files left in {dir}"
        );
    }
    host.end().await;
}

/// A rollback stops what the rollout has just begun to start: podman is killed at its work.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_stopped_leaves_no_container() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    host.units.set("blog_v1.web.1.service", Active::Activating);
    host.assign(WEB, 1, Desired::Stop).await;
    host.until("gone", |state| state.processes.is_empty()).await;
    assert_eq!(host.runtime.removed(), [WEB]);
    // Who was up has tidied up itself: no podman is run for nothing.
    host.serve(WEB, 2).await;
    host.assign(WEB, 2, Desired::Stop).await;
    host.until("gone", |state| state.processes.is_empty()).await;
    assert_eq!(host.runtime.removed(), [WEB]);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_restart_touches_nothing_and_nobody_sees_it() {
    let mut host = Host::new().await;
    host.boot().await;
    let before = host.serve(WEB, 1).await;
    let key = keys::state(&host.machine);
    let written = host
        .store
        .get(&key)
        .await
        .expect("read")
        .expect("there")
        .mod_revision;
    host.end().await;
    let calls = host.units.calls();
    host.boot().await;
    // Something else happens, and is done: so the agent has seen everything.
    host.serve("blog_v1.worker.1", 2).await;
    assert_eq!(host.units.calls()[..calls.len()], calls);
    let new = &host.units.calls()[calls.len()..];
    assert!(new.iter().all(|call| call.contains("worker")), "{new:?}");
    let after = host.until_process(WEB, "as before", |p| p.ready).await;
    assert_eq!(after, before);
    assert!(
        host.store
            .get(&key)
            .await
            .expect("read")
            .expect("there")
            .mod_revision
            > written
    );
    // Unassigned while the agent was away: stopped by the next one.
    host.end().await;
    host.unassign(WEB).await;
    host.boot().await;
    host.until("the other alone", |state| {
        state.processes.keys().eq(["blog_v1.worker.1"])
    })
    .await;
    assert_eq!(host.published(WEB).await, None);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_without_etcd_starts_what_the_cache_knows_and_stops_nothing() {
    let mut host = Host::new().await;
    host.boot().await;
    let before = host.serve(WEB, 1).await;
    host.memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    host.reboot().await;
    let deadline = time::Instant::now() + PATIENCE;
    while !host.units.active().contains("blog_v1.web.1.service") {
        assert!(
            time::Instant::now() < deadline,
            "not started from the cache"
        );
        time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        !host
            .units
            .calls()
            .iter()
            .any(|call| call.starts_with("stop"))
    );
    host.memory.set_faults(Faults::default());
    host.say(WEB, 1, true).await;
    let after = host.until_process(WEB, "ready", |p| p.ready).await;
    assert_eq!(after.port, before.port, "the port is remembered");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_told_and_left_to_systemd() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    let starts = |host: &Host| {
        host.units
            .calls()
            .iter()
            .filter(|c| *c == "start blog_v1.web.1.service")
            .count()
    };
    assert_eq!(starts(&host), 1);
    host.units.crash(
        "blog_v1.web.1.service",
        Exit {
            result: "exit-code".into(),
            code: 1,
            status: 3,
        },
    );
    let crashed = host
        .until_process(WEB, "crashed", |p| p.phase == Phase::Crashed)
        .await;
    assert_eq!(
        (crashed.reason.as_deref(), crashed.restarts),
        (Some("exited with code 3"), 1)
    );
    host.until_process(WEB, "not ready", |p| !p.ready).await;
    assert_eq!(host.published(WEB).await, None);
    assert_eq!(starts(&host), 1, "its restart is systemd's");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why_and_another_uuid_replaces() {
    let mut host = Host::new().await;
    host.boot().await;
    host.assign("blog_v1.nothing.1", 1, Desired::Run).await;
    host.assign("blog_v9.web.1", 2, Desired::Run).await;
    let state = host
        .until("both in error", |s| {
            s.processes.len() == 2 && s.processes.values().all(|p| p.phase == Phase::Error)
        })
        .await;
    let reason = |name: &str| state.processes[name].reason.clone().expect("a reason");
    assert!(
        reason("blog_v1.nothing.1").contains("no process type nothing"),
        "{}",
        reason("blog_v1.nothing.1")
    );
    assert!(
        reason("blog_v9.web.1").contains("/deis/apps/blog/releases/v9"),
        "{}",
        reason("blog_v9.web.1")
    );
    host.runtime.lose(IMAGE);
    host.assign("blog_v1.worker.1", 5, Desired::Run).await;
    let stuck = host
        .until_process("blog_v1.worker.1", "no image", |p| p.phase == Phase::Error)
        .await;
    assert!(stuck.reason.expect("a reason").contains("no registry"));
    host.runtime.find(IMAGE);
    // The same name under another uuid: the old one is withdrawn and stopped first.
    host.serve(WEB, 3).await;
    host.serve(WEB, 4).await;
    let calls = host.units.calls();
    let at = |what: &str| calls.iter().position(|c| c == what);
    assert!(at("stop blog_v1.web.1.service").is_some(), "{calls:?}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_unit_is_started_once_and_one_of_the_host_is_refused() {
    let mut host = Host::new().await;
    let name = "deis-router@1.service";
    let key = keys::unit(&name.parse::<UnitFileName>().expect("name"));
    let file = |text: String| UnitFile {
        schema: SCHEMA,
        text,
        target: UnitTarget::Launched,
    };
    host.store
        .commit(Txn::new().put(&key, &file(unit_text(name))))
        .await
        .expect("stored");
    let own = host.paths().at("/usr/lib/systemd/system");
    std::fs::create_dir_all(&own).expect("dir");
    std::fs::write(own.join("ssh.service"), "").expect("written");
    host.boot().await;
    host.assign(name, 1, Desired::Run).await;
    host.assign("ssh.service", 2, Desired::Run).await;
    host.until_process(name, "up", |p| p.ready && p.phase == Phase::Up)
        .await;
    assert_eq!(
        std::fs::read_to_string(host.paths().unit(name)).expect("file"),
        unit_text(name)
    );
    let refused = host
        .until_process("ssh.service", "refused", |p| p.phase == Phase::Error)
        .await;
    assert!(refused.reason.expect("a reason").contains("host itself"));
    host.unassign(name).await;
    host.until("stopped", |s| !s.processes.contains_key(name))
        .await;
    assert!(!host.paths().unit(name).exists());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_reports_its_end_once_across_an_agents_restart() {
    let mut host = Host::new().await;
    let order = Order {
        command: "echo hunter2".into(),
        terminal: None,
        input: true,
        token: Some("t0ken".into()),
    };
    let order = serde_json::to_vec(&order).expect("order");
    let context = order_context(Uuid::from_u128(1));
    let work = Work::Run {
        order: Some(ClusterKey::parse(KEY).expect("key").seal(&context, &order)),
        attach: Some("127.0.0.1:8001".into()),
        memory_bytes: 1 << 20,
        cpu_shares: 0,
    };
    host.boot().await;
    let name = "blog_v1.run.1";
    host.assign_work(name, 1, Desired::Run, work).await;
    host.until_process(name, "up", |p| p.phase == Phase::Up)
        .await;
    host.end().await;
    // What is to be run is for its sidecar alone.
    let errand = host.paths().at("/run/deis/run/blog_v1.run.1.json");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&errand.metadata().expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&errand).expect("errand");
    assert!(
        text.contains("hunter2") && text.contains("127.0.0.1:8001"),
        "{text}"
    );
    let unit = std::fs::read_to_string(host.paths().unit("blog_v1.run.1.service")).expect("unit");
    assert!(
        !unit.contains("hunter2") && !unit.contains("t0ken"),
        "{unit}"
    );
    // It ends while the agent is away: its unit is gone, its files stay.
    std::fs::write(
        host.paths().at("/run/deis/run/blog_v1.run.1.exit"),
        "exited 3 exit-code\n",
    )
    .expect("written");
    host.units.set("blog_v1.run.1.service", Active::Inactive);
    host.boot().await;
    let done = host.until_process(name, "done", |p| p.ready).await;
    assert_eq!(done.reason.as_deref(), Some("ended with exit code 3"));
    let starts = host
        .units
        .calls()
        .iter()
        .filter(|c| c.starts_with("start blog_v1.run.1"))
        .count();
    assert_eq!(starts, 1, "never a second time");
    host.unassign(name).await;
    host.until("gone", |s| s.processes.is_empty()).await;
    host.end().await;
}
