//! Single types live by the host's lease; and what was moved away meanwhile is stopped.

use super::*;

const CLOCK: &str = "blog_v1.worker.1";

impl Host {
    /// A worker of a single type.
    async fn assign_single(&self, uuid: u128, desired: Desired) {
        let work = Work::Process {
            rollout: None,
            memory_bytes: 1 << 20,
            cpu_shares: 0,
            single: true,
            marks: 0,
        };
        self.assign_work(CLOCK, uuid, desired, work).await;
    }

    /// The host is registered, as far as the store knows.
    async fn register(&self) {
        let machine = crate::model::Machine {
            schema: SCHEMA,
            id: self.machine.clone(),
            hostname: "deis-01".into(),
            address: "127.0.0.1".into(),
            memory_bytes: 1 << 30,
            cpus: 1,
            version: "2".into(),
            boot_id: "b".into(),
            metadata: BTreeMap::new(),
        };
        let txn = Txn::new().put(&keys::machine(&self.machine), &machine);
        self.store.commit(txn).await.expect("stored");
    }

    async fn until_units(&self, what: &str, test: impl Fn(&[String]) -> bool) {
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            let active: Vec<String> = self.units.active().into_iter().collect();
            if test(&active) {
                return;
            }
            assert!(
                time::Instant::now() < deadline,
                "not seen: {what}; {active:?} {:?}",
                self.units.calls()
            );
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_process_lives_by_the_lease() {
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    // Without a presence in the store nobody knows that it is here.
    host.assign_single(2, Desired::Run).await;
    host.until_process(CLOCK, "refused", |p| p.reason.is_some())
        .await;
    host.until_units("nothing started", |units| !has(units, CLOCK))
        .await;
    host.register().await;
    host.until_units("the worker and its fence", |units| {
        has(units, CLOCK) && has(units, "deis-fence")
    })
    .await;
    let fenced = host.paths().fenced().join(CLOCK);
    assert!(fenced.exists() && !host.paths().fenced().join(WEB).exists());
    // etcd is away, and the lease runs out: it stops, the other one doesn't.
    host.memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    host.standing.lease.send_replace(Lease::Expired);
    host.until_units("only the worker stopped", |units| {
        !has(units, CLOCK) && has(units, WEB)
    })
    .await;
    assert!(fenced.exists(), "it is remembered");
    host.memory.set_faults(Faults::default());
    host.standing.lease.send_replace(Lease::Held);
    host.until_units("it is back", |units| has(units, CLOCK))
        .await;
    // The mark is taken and set while it runs: nothing but the fence changes.
    let calls = host.units.calls().len();
    host.assign(CLOCK, 2, Desired::Run).await;
    wait_for("the fence to open", || !fenced.exists()).await;
    host.assign_single(2, Desired::Run).await;
    wait_for("the fence to close", || fenced.exists()).await;
    let after = host.units.calls().split_off(calls);
    assert!(
        after.iter().all(|call| call == "start deis-fence.service"),
        "{after:?}"
    );
    host.unassign(CLOCK).await;
    host.until_units("it is gone", |units| !has(units, CLOCK))
        .await;
    wait_for("the fence to open", || !fenced.exists()).await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_restart_leaves_singles_alone_and_a_boot_without_etcd_does_not_start_them() {
    let mut host = Host::new().await;
    host.register().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    host.assign_single(2, Desired::Run).await;
    host.until_units("started", |units| has(units, CLOCK)).await;
    host.end().await;
    host.boot().await;
    host.until("adopted", |state| state.processes.len() == 2)
        .await;
    assert!(
        !host
            .units
            .calls()
            .contains(&format!("stop {CLOCK}.service")),
        "{:?}",
        host.units.calls()
    );
    // A power cut, and etcd is away: only the other one starts.
    host.memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    host.reboot().await;
    host.until_units("from the cache", |units| has(units, WEB))
        .await;
    assert!(!has(
        &host.units.active().into_iter().collect::<Vec<_>>(),
        CLOCK
    ));
    host.memory.set_faults(Faults::default());
    host.until_units("with etcd", |units| has(units, CLOCK))
        .await;
    host.end().await;
}

/// A host that was away stops what was moved from it, and only that.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_away_meanwhile_is_stopped() {
    const OTHER: &str = "blog_v1.web.2";
    let mut host = Host::new().await;
    host.boot().await;
    host.serve(WEB, 1).await;
    host.serve(OTHER, 2).await;
    // The agent lives, but hears nothing, while the leader moves one of the two.
    host.memory.set_faults(Faults {
        silent: true,
        ..Faults::default()
    });
    let moved = |host: &Host| {
        let process: ProcessName = WEB.parse().expect("name");
        let gone = Txn::new()
            .delete(&keys::assignment(&host.machine, WEB))
            .delete(&keys::service(&process.app, &process));
        let leader = Store::from_memory(&host.memory);
        async move { leader.commit(gone).await }
    };
    moved(&host).await.expect("moved");
    host.memory.set_faults(Faults::default());
    host.memory.break_watches();
    host.until_units("one is stopped", |units| {
        !has(units, WEB) && has(units, OTHER)
    })
    .await;
    // The same with the agent away.
    host.serve(WEB, 3).await;
    host.end().await;
    moved(&host).await.expect("moved");
    host.boot().await;
    host.until_units("one is stopped", |units| {
        !has(units, WEB) && has(units, OTHER)
    })
    .await;
    assert!(host.published(OTHER).await.is_some());
    // And with the host down: what was moved is not started again.
    host.serve(WEB, 4).await;
    host.end().await;
    moved(&host).await.expect("moved");
    host.reboot().await;
    host.until_units("one is started", |units| has(units, OTHER))
        .await;
    host.until("the report", |state| state.processes.len() == 1)
        .await;
    assert!(!has(
        &host.units.active().into_iter().collect::<Vec<_>>(),
        WEB
    ));
    host.end().await;
}
