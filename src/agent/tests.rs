//! The loop against a store and a service manager in memory.

pub(super) mod stable;
mod units;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{agent, paths::Paths, records, report, runtime::FakeRuntime, socket::Word, steps};
use crate::{
    model::{
        AppName, Assignment, Build, Config, Desired, ImageKind, MachineId, MachineState, Phase,
        ProcessName, ProcessState, Release, ReleaseNumber, SCHEMA, UnitFile, UnitFileName,
        UnitTarget, Work,
    },
    plan::units::Lease,
    render::{HostFacts, TemplateSources, Templates},
    seal::{ClusterKey, config_context, order_context},
    session::Order,
    store::{Faults, MemoryStore, Store, Txn, keys},
    systemd::{Exit, FakeUnits},
};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const IMAGE: &str = "blog@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Host {
    dir: tempfile::TempDir,
    memory: MemoryStore,
    store: Store,
    units: FakeUnits,
    runtime: FakeRuntime,
    machine: MachineId,
    standing: steps::Standing,
    life: Option<Life>,
}

/// One life of the agent.
struct Life {
    asker: agent::Asker,
    words: mpsc::Sender<Word>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn app() -> AppName {
    "blog".parse().expect("app")
}

impl Host {
    async fn new() -> Self {
        let memory = MemoryStore::default();
        let host = Self {
            dir: tempfile::tempdir().expect("dir"),
            store: Store::from_memory(&memory),
            memory,
            units: FakeUnits::default(),
            runtime: FakeRuntime::default(),
            machine: "0123456789abcdef0123456789abcdef".parse().expect("id"),
            standing: steps::Standing::default(),
            life: None,
        };
        host.standing.lease.send_replace(Lease::Held);
        host.release().await;
        host
    }

    fn paths(&self) -> Paths {
        Paths::below(self.dir.path())
    }

    /// Puts release v1 of app blog there.
    async fn release(&self) {
        let key = ClusterKey::parse(KEY).expect("key");
        let created = jiff::Timestamp::UNIX_EPOCH;
        let owner = || "ada".parse().expect("user");
        let (build, config) = (Uuid::from_u128(0xb), Uuid::from_u128(0xc));
        let name = "SECRET".parse().expect("name");
        let sealed = key.seal(&config_context(&app(), &name), b"s3\ncret");
        let types =
            ["web", "worker"].map(|kind| (kind.parse().expect("type"), format!("run {kind}")));
        let txn = Txn::new()
            .put(
                &keys::release(&app(), ReleaseNumber(1)),
                &Release {
                    schema: SCHEMA,
                    uuid: Uuid::from_u128(0xa),
                    app: app(),
                    owner: owner(),
                    version: ReleaseNumber(1),
                    summary: String::new(),
                    config,
                    build: Some(build),
                    created,
                },
            )
            .put(
                &keys::build(&app(), build),
                &Build {
                    source: None,
                    schema: SCHEMA,
                    uuid: build,
                    app: app(),
                    owner: owner(),
                    image: IMAGE.into(),
                    kind: ImageKind::Slug,
                    port: 5000,
                    sha: String::new(),
                    procfile: BTreeMap::from(types),
                    dockerfile: false,
                    created,
                },
            )
            .put(
                &keys::config(&app(), config),
                &Config {
                    schema: SCHEMA,
                    uuid: config,
                    app: app(),
                    owner: owner(),
                    values: BTreeMap::from([(name, sealed)]),
                    memory: BTreeMap::new(),
                    cpu: BTreeMap::new(),
                    tags: BTreeMap::new(),
                    whitelist: Default::default(),
                    created,
                },
            );
        self.store.commit(txn).await.expect("stored");
    }

    async fn boot(&mut self) {
        let paths = self.paths();
        paths.prepare().expect("folders");
        let edges = Arc::new(steps::Edges {
            units: self.units.clone(),
            runtime: self.runtime.clone(),
            store: self.store.clone(),
            key: ClusterKey::parse(KEY).expect("key"),
            templates: Templates::new(&TemplateSources::built_in()).expect("templates"),
            host: HostFacts {
                address: "127.0.0.1".parse().expect("address"),
                init: false,
            },
            paths,
            machine: self.machine.clone(),
            records: records::RecordCache::default(),
            starts: steps::Starts::default(),
            keeper: super::keeper::Keeper::default(),
            teller: crate::logger::tell::Teller::start(self.store.clone()),
            standing: self.standing.clone(),
        });
        let (words, receiver) = mpsc::channel(8);
        let (states, state_receiver) = watch::channel(None);
        let stop = CancellationToken::new();
        let agent = agent::Agent::new(edges, receiver, states)
            .await
            .expect("agent");
        let reporter = report::write_states(
            self.store.clone(),
            self.machine.clone(),
            state_receiver,
            self.standing.confirmed.clone(),
            stop.clone(),
        );
        let asker = agent.asker();
        let tasks = vec![
            tokio::spawn(agent.run(stop.clone(), watch::channel(true).1)),
            tokio::spawn(reporter),
        ];
        self.life = Some(Life {
            asker,
            words,
            stop,
            tasks,
        });
    }

    /// The agent ends; the host runs on.
    async fn end(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.stop.cancel();
        for task in life.tasks {
            task.await.expect("ended");
        }
    }

    /// The host goes down and comes up again: what lies on tmpfs is gone, and so is what ran.
    async fn reboot(&mut self) {
        self.end().await;
        std::fs::remove_dir_all(self.dir.path().join("run")).expect("removed");
        self.units = FakeUnits::default();
        self.boot().await;
    }

    async fn assign(&self, name: &str, uuid: u128, desired: Desired) {
        let work = match name.parse::<ProcessName>() {
            Ok(_) => Work::Process {
                rollout: None,
                memory_bytes: 1 << 20,
                cpu_shares: 0,
                single: false,
            },
            Err(_) => Work::Unit {
                hash: steps::sha256(&unit_text(name)),
            },
        };
        self.assign_work(name, uuid, desired, work).await;
    }

    async fn assign_work(&self, name: &str, uuid: u128, desired: Desired, work: Work) {
        let assignment = Assignment {
            schema: SCHEMA,
            uuid: Uuid::from_u128(uuid),
            desired,
            work,
        };
        let txn = Txn::new().put(&keys::assignment(&self.machine, name), &assignment);
        self.store.commit(txn).await.expect("stored");
    }

    async fn unassign(&self, name: &str) {
        let txn = Txn::new().delete(&keys::assignment(&self.machine, name));
        self.store.commit(txn).await.expect("stored");
    }

    async fn say(&self, name: &str, uuid: u128, healthy: bool) {
        let word = Word {
            unit: name.into(),
            uuid: Uuid::from_u128(uuid),
            healthy,
            reason: "port closed".into(),
        };
        self.life
            .as_ref()
            .expect("alive")
            .words
            .send(word)
            .await
            .expect("heard");
    }

    /// Waits until the host's report says something.
    async fn until(&self, what: &str, test: impl Fn(&MachineState) -> bool) -> MachineState {
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            let state = self
                .store
                .get(&keys::state(&self.machine))
                .await
                .ok()
                .flatten()
                .map(|v| v.value);
            match state {
                Some(state) if test(&state) => return state,
                state => assert!(
                    time::Instant::now() < deadline,
                    "not seen: {what}; {state:#?} {:?}",
                    self.units.calls()
                ),
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_process(
        &self,
        name: &str,
        what: &str,
        test: impl Fn(&ProcessState) -> bool,
    ) -> ProcessState {
        let state = self
            .until(what, |state| state.processes.get(name).is_some_and(&test))
            .await;
        state.processes[name].clone()
    }

    async fn published(&self, name: &str) -> Option<String> {
        let process: ProcessName = name.parse().expect("name");
        self.store
            .get(&keys::service(&process.app, &process))
            .await
            .expect("read")
            .map(|v| v.value)
    }

    /// Brings a web process up and publishes it.
    async fn serve(&self, name: &str, uuid: u128) -> ProcessState {
        self.assign(name, uuid, Desired::Run).await;
        self.until_process(name, "started", |p| {
            p.phase == Phase::Starting && p.uuid == Uuid::from_u128(uuid)
        })
        .await;
        let unit = format!("{name}.service");
        let deadline = time::Instant::now() + PATIENCE;
        while !self.units.active().contains(&unit) {
            assert!(time::Instant::now() < deadline, "{unit} is not active");
            time::sleep(Duration::from_millis(5)).await;
        }
        self.say(name, uuid, true).await;
        self.until_process(name, "ready", |p| p.ready).await
    }
}

fn unit_text(name: &str) -> String {
    format!("[Service]\nExecStart=/bin/true {name}\n")
}

const WEB: &str = "blog_v1.web.1";

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
    host.until_process(WEB, "not ready", |p| !p.ready && p.withdrawn.is_none())
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
    host.units
        .set("blog_v1.run.1.service", crate::systemd::Active::Inactive);
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

const CLOCK: &str = "blog_v1.worker.1";

impl Host {
    /// A worker of a single type.
    async fn assign_single(&self, uuid: u128, desired: Desired) {
        let work = Work::Process {
            rollout: None,
            memory_bytes: 1 << 20,
            cpu_shares: 0,
            single: true,
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

fn has(units: &[String], name: &str) -> bool {
    units.contains(&format!("{name}.service"))
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

async fn wait_for(what: &str, test: impl Fn() -> bool) {
    let deadline = time::Instant::now() + PATIENCE;
    while !test() {
        assert!(time::Instant::now() < deadline, "not seen: {what}");
        time::sleep(Duration::from_millis(10)).await;
    }
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
