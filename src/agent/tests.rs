//! The loop against a store and a service manager in memory.

mod boots;
mod life;
mod single;
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
    systemd::{Active, Exit, FakeUnits},
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

    fn edges(&self) -> Arc<steps::Edges<FakeUnits, FakeRuntime>> {
        Arc::new(steps::Edges {
            units: self.units.clone(),
            runtime: self.runtime.clone(),
            store: self.store.clone(),
            key: ClusterKey::parse(KEY).expect("key"),
            templates: Templates::new(&TemplateSources::built_in()).expect("templates"),
            host: HostFacts {
                address: "127.0.0.1".parse().expect("address"),
                init: false,
            },
            paths: self.paths(),
            machine: self.machine.clone(),
            records: records::RecordCache::default(),
            starts: steps::Starts::default(),
            keeper: super::keeper::Keeper::default(),
            teller: crate::logger::tell::Teller::start(self.store.clone()),
            standing: self.standing.clone(),
        })
    }

    async fn boot(&mut self) {
        self.paths().prepare().expect("folders");
        let edges = self.edges();
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
            watch::channel(None).1,
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
                marks: 0,
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

fn has(units: &[String], name: &str) -> bool {
    units.contains(&format!("{name}.service"))
}

async fn wait_for(what: &str, test: impl Fn() -> bool) {
    let deadline = time::Instant::now() + PATIENCE;
    while !test() {
        assert!(time::Instant::now() < deadline, "not seen: {what}");
        time::sleep(Duration::from_millis(10)).await;
    }
}
