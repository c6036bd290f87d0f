//! A cluster in miniature: a key map with etcd's semantics, agents and routers that act when a random
//! schedule lets them, and the very rounds that the daemon runs. Laws are checked after every step.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    World,
    actor_tests::{Agent, Health, Router},
    kv_tests::Kv,
    receipt::{AppCounts, Gathered},
    round::{Context, Memory, Plan, Policy, is_fenced, round},
};
use crate::{
    model::*,
    store::{Change, Txn, Update, keys},
};

const MIB512: u64 = 512 << 20;

pub(super) struct Sim {
    pub(super) kv: Kv,
    pub(super) world: World,
    pub(super) memory: Memory,
    pub(super) now: Duration,
    pub(super) view_since: Duration,
    pub(super) fence: Revision,
    pub(super) ids: Cell<u128>,
    pub(super) agents: BTreeMap<MachineId, Agent>,
    pub(super) routers: BTreeMap<String, Router>,
    pub(super) health: BTreeMap<ReleaseNumber, Health>,
    pub(super) host_was_lost: bool,
    pub(super) floor: BTreeMap<ProcessType, u32>,
    pub(super) single: BTreeSet<ProcessType>,
    /// Slots that had several processes when their type was marked, and still have so many.
    pub(super) doubles: BTreeMap<ProcessId, usize>,
    pub(super) last: Plan,
    /// What the routers say of the app when they are asked; none: they can't be.
    pub(super) said: Option<AppCounts>,
    /// Whether new releases have a release command, and how that ends; none: never.
    pub(super) has_command: bool,
    pub(super) command: Option<i32>,
    /// How often each release's command was begun.
    pub(super) commands: BTreeMap<ReleaseNumber, u32>,
    /// How new releases are watched.
    pub(super) policy: Option<RolloutPolicy>,
    gathered: BTreeMap<AppName, Gathered>,
}

pub(super) fn app() -> AppName {
    "blog".parse().expect("app")
}

pub(super) fn kind(text: &str) -> ProcessType {
    text.parse().expect("type")
}

pub(super) fn machine(n: usize) -> MachineId {
    format!("{n:032x}").parse().expect("machine id")
}

pub(super) fn user() -> Username {
    "ada".parse().expect("user")
}

pub(super) fn structure(web: u32, worker: u32) -> Structure {
    let all = [(kind("web"), web), (kind("worker"), worker)];
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// The people's clock goes with the monotonic one.
pub(super) fn wall(now: Duration) -> Timestamp {
    let now = jiff::SignedDuration::try_from(now).expect("a short story");
    Timestamp::UNIX_EPOCH + now
}

impl Sim {
    pub(super) fn new(hosts: usize, places: u64, routers: usize) -> Self {
        let mut sim = Self {
            kv: Kv::default(),
            world: World::default(),
            memory: Memory::default(),
            now: Duration::from_secs(100),
            view_since: Duration::ZERO,
            fence: 0,
            ids: Cell::new(1),
            agents: BTreeMap::new(),
            routers: BTreeMap::new(),
            health: BTreeMap::new(),
            host_was_lost: false,
            floor: BTreeMap::new(),
            single: BTreeSet::new(),
            doubles: BTreeMap::new(),
            last: Plan::default(),
            said: Some(AppCounts::default()),
            has_command: false,
            command: Some(0),
            commands: BTreeMap::new(),
            policy: None,
            gathered: BTreeMap::new(),
        };
        sim.elect();
        for n in 1..=hosts {
            sim.join(n, places);
        }
        for n in 1..=routers {
            let ip = format!("10.0.0.{n}");
            sim.routers.insert(
                ip.clone(),
                Router {
                    id: n as u128,
                    ..Router::default()
                },
            );
            sim.route(&ip);
        }
        sim
    }

    pub(super) fn join(&mut self, n: usize, places: u64) {
        let id = machine(n);
        let hostname = format!("deis-{n:02}");
        let record = HostRecord {
            schema: 1,
            hostname: hostname.clone(),
            address: format!("10.0.0.{n}"),
            labels: BTreeMap::new(),
            cordoned: false,
            drain: None,
            lost_since: None,
            declared_lost: false,
        };
        if self.kv.get(&keys::host(&id)).is_none() {
            self.kv.put(&keys::host(&id), &record);
        }
        let presence = Machine {
            schema: 1,
            id: id.clone(),
            hostname,
            address: format!("10.0.0.{n}"),
            memory_bytes: places * MIB512,
            cpus: 1,
            version: "2".into(),
            boot_id: "b".into(),
            metadata: BTreeMap::new(),
        };
        self.kv.put(&keys::machine(&id), &presence);
        self.agents.insert(
            id,
            Agent {
                alive: true,
                ..Agent::default()
            },
        );
    }

    /// A new leader: it knows the store and nothing else.
    pub(super) fn elect(&mut self) {
        let key = keys::leader();
        self.kv
            .commit(&Txn::new().delete(&key))
            .expect("no comparison");
        let id = self.id();
        let value = Leader {
            schema: 1,
            id,
            address: "10.0.0.1".into(),
        };
        self.fence = self.kv.put(&key, &value);
        self.memory = Memory::default();
        self.view_since = self.now;
        let keys = self.kv.keys.iter().map(|(key, entry)| Change {
            key: key.clone(),
            mod_revision: entry.mod_revision,
            entry: Some(entry.clone()),
        });
        let update = Update {
            revision: self.kv.revision,
            changes: keys.collect(),
            first: true,
        };
        self.kv.unseen.clear();
        self.world = World::default();
        self.world.apply(&update);
    }

    pub(super) fn id(&self) -> Uuid {
        self.ids.set(self.ids.get() + 1);
        Uuid::from_u128(self.ids.get())
    }

    /// One round of the leader. The world catches up first, as the daemon's does.
    pub(super) fn lead(&mut self) {
        let changes = std::mem::take(&mut self.kv.unseen);
        self.world.apply(&Update {
            revision: self.kv.revision,
            changes,
            first: false,
        });
        let ids = &self.ids;
        let policy = Policy::of(&self.world);
        let new_id = || {
            ids.set(ids.get() + 1);
            Uuid::from_u128(ids.get())
        };
        let context = Context {
            now: self.now,
            wall: wall(self.now),
            view_since: self.view_since,
            fence: self.fence,
            policy: &policy,
            counts: self.said.is_some().then_some(&self.gathered),
            new_id: &new_id,
        };
        let changed = self.world.take_changed();
        self.last = round(&self.world, &changed, &mut self.memory, &context);
        for app in &self.last.asks {
            let answers = self
                .routers
                .keys()
                .map(|ip| (ip.clone(), self.said.clone()));
            let gathered = Gathered {
                at: self.now,
                answers: answers.collect(),
            };
            self.gathered.insert(app.clone(), gathered);
        }
        for act in &self.last.acts {
            assert!(
                is_fenced(&act.txn, self.fence),
                "{} is not fenced",
                act.what
            );
            self.kv.commit(&act.txn).unwrap_or_else(|()| {
                panic!(
                    "{}: acts of one plan must be independent: {}",
                    act.about, act.what
                )
            });
        }
    }

    /// The numbers of running processes of single types, whoever knows of them.
    fn singles(&self) -> BTreeMap<ProcessId, usize> {
        let mut there = BTreeMap::new();
        for agent in self.agents.values() {
            let is_out = agent.cut.is_some_and(|at| self.now >= at);
            for (name, local) in &agent.local {
                let stopped = is_out && local.state.fenced.is_some();
                let process: ProcessName = name.parse().expect("process");
                if self.single.contains(&process.kind) && !local.fenced && !stopped {
                    *there.entry(process.id()).or_default() += 1;
                }
            }
        }
        there
    }

    /// Law: never two processes of one slot of a single type, not on hosts that nobody sees either.
    pub(super) fn check_single(&mut self) {
        let there = self.singles();
        for (slot, count) in &there {
            let most = self.doubles.get(slot).copied().unwrap_or(1);
            assert!(*count <= most, "{count} of {slot} run");
        }
        let assigned = self.assigned_singles();
        self.doubles.retain(|slot, most| {
            *most = assigned.get(slot).copied().unwrap_or(0).min(*most);
            *most > 1
        });
    }

    /// How many processes of single types are assigned to each slot.
    fn assigned_singles(&self) -> BTreeMap<ProcessId, usize> {
        let mut assigned = BTreeMap::new();
        for (key, _) in self.kv.under("/deis/schedule/") {
            let (_, name) = keys::parse_assignment(key).expect("assignment");
            let Ok(process) = name.parse::<ProcessName>() else {
                continue;
            };
            if self.single.contains(&process.kind) {
                *assigned.entry(process.id()).or_default() += 1;
            }
        }
        assigned
    }

    /// Marks types as single, and no others.
    pub(super) fn mark(&mut self, single: BTreeSet<ProcessType>) {
        self.single = single;
        self.doubles = self.assigned_singles();
        let record = App {
            single: self.single.clone(),
            ..self.record()
        };
        self.kv.put(&keys::app(&app()), &record);
        self.floor.retain(|kind, _| !self.single.contains(kind));
    }

    /// A host loses its way to the store, and its lease there at once; what runs, runs. By its own clock
    /// the lease may hold for all of its time, and then its processes of single types are stopped.
    pub(super) fn cut(&mut self, n: usize) {
        let policy = Policy::default();
        let id = machine(n);
        self.host_was_lost = true;
        let agent = self.agents.get_mut(&id).expect("a host");
        agent.cut = Some(self.now + policy.host_ttl + policy.stop);
        self.kv
            .commit(&Txn::new().delete(&keys::machine(&id)))
            .expect("no comparison");
    }

    /// It is back, with its processes of single types stopped.
    pub(super) fn heal(&mut self, n: usize, places: u64) {
        let agent = self.agents.remove(&machine(n)).expect("a host");
        self.join(n, places);
        let healed = self.agents.get_mut(&machine(n)).expect("just joined");
        healed.local = agent.local;
        for local in healed.local.values_mut() {
            if agent.cut.is_some() && local.state.fenced.is_some() {
                local.fenced = true;
                (local.state.phase, local.state.ready) = (Phase::Preparing, false);
            }
        }
    }

    /// Law: while no host was lost, no type has fewer serving processes than both old and new want.
    pub(super) fn check_floor(&self) {
        if self.host_was_lost {
            return;
        }
        for (kind, floor) in &self.floor {
            let serving =
                self.agents
                    .values()
                    .flat_map(|agent| &agent.local)
                    .filter(|(name, local)| {
                        let process: ProcessName = name.parse().expect("process");
                        let published = self
                            .kv
                            .keys
                            .contains_key(keys::service(&process.app, &process).as_str());
                        process.kind == *kind
                            && local.state.ready
                            && (published || !kind.is_routable())
                    });
            let serving = serving.count();
            assert!(
                serving >= *floor as usize,
                "only {serving} {kind} serve, {floor} must"
            );
        }
        let web = self.floor.get("web").copied().unwrap_or(0) as usize;
        for (ip, router) in &self.routers {
            let known = router.table.len();
            assert!(
                known >= web,
                "router {ip} knows {known} backends, {web} must serve"
            );
            for backend in &router.table {
                let running = self
                    .agents
                    .values()
                    .any(|agent| agent.local.contains_key(backend));
                assert!(running, "router {ip} routes to {backend}, which is gone");
            }
        }
    }

    pub(super) fn step(&mut self, choice: u8) {
        self.now += Duration::from_millis(20);
        let hosts: Vec<MachineId> = self.agents.keys().cloned().collect();
        let routers: Vec<String> = self.routers.keys().cloned().collect();
        let at = choice as usize / 4;
        match choice % 4 {
            0 => self.lead(),
            1 | 2 => self.agent(&hosts[at % hosts.len()]),
            _ if routers.is_empty() => {}
            _ if at.is_multiple_of(2) => self.route(&routers[at / 2 % routers.len()]),
            _ => self.finish_requests(&routers[at / 2 % routers.len()]),
        }
        self.check_floor();
        self.check_single();
    }

    /// Everybody acts in turn until nothing changes any more.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..4000 {
            let before = self.kv.revision;
            self.lead();
            self.check_floor();
            for id in self.agents.keys().cloned().collect::<Vec<_>>() {
                self.agent(&id);
                self.check_floor();
                self.check_single();
            }
            for ip in self.routers.keys().cloned().collect::<Vec<_>>() {
                self.route(&ip);
                self.finish_requests(&ip);
            }
            // As the daemon does: nothing happens before the next wait is over.
            self.now += Duration::from_millis(100);
            if self.kv.revision != before {
                quiet = 0;
                continue;
            }
            quiet += 1;
            match self.last.wake {
                Some(wake) => self.now = self.now.max(wake),
                None if quiet > 3 => return,
                None => {}
            }
        }
        panic!("it doesn't settle; waiting: {:?}", self.last.waiting);
    }

    pub(super) fn release(&mut self, version: u32, needs_config: Uuid) {
        let version = ReleaseNumber(version);
        let release = Release {
            schema: 1,
            uuid: self.id(),
            app: app(),
            owner: user(),
            version,
            summary: String::new(),
            config: needs_config,
            build: Some(Uuid::from_u128(7)),
            created: Timestamp::UNIX_EPOCH,
        };
        self.kv.put(&keys::release(&app(), version), &release);
    }

    /// The app with release v2 running.
    pub(super) fn deploy_first(&mut self, wanted: &Structure) {
        let config = Config {
            schema: 1,
            uuid: Uuid::from_u128(5),
            app: app(),
            owner: user(),
            values: BTreeMap::new(),
            memory: BTreeMap::new(),
            cpu: BTreeMap::new(),
            tags: BTreeMap::new(),
            whitelist: Default::default(),
            created: Timestamp::UNIX_EPOCH,
        };
        self.kv.put(&keys::config(&app(), config.uuid), &config);
        self.release(1, config.uuid);
        self.release(2, config.uuid);
        let record = App {
            schema: 1,
            uuid: Uuid::from_u128(6),
            owner: user(),
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            latest: ReleaseNumber(2),
            active: ReleaseNumber(1),
            structure: Structure::new(),
            collaborators: BTreeSet::new(),
            single: self.single.clone(),
            last_rollout: None,
            policy: None,
            destroying: false,
        };
        self.kv.put(&keys::app(&app()), &record);
        self.roll(RolloutKind::Release, 2, wanted);
        self.settle();
        self.check_converged(2, wanted, Some(OutcomeResult::Succeeded));
    }

    pub(super) fn record(&self) -> App {
        self.kv.get(&keys::app(&app())).expect("the app").0
    }

    pub(super) fn roll(&mut self, change: RolloutKind, release: u32, wanted: &Structure) {
        let record = self.record();
        let is_release = change == RolloutKind::Release;
        let watch = self.policy.map(|policy| Watch {
            policy,
            passed: false,
        });
        let rollout = Rollout {
            schema: 1,
            id: self.id(),
            change,
            release: ReleaseNumber(release),
            previous: record.active,
            structure: wanted.clone(),
            previous_structure: record.structure.clone(),
            phase: RolloutPhase::Forward,
            command: (self.has_command && is_release).then_some(ReleaseCommand::Due),
            watch: watch.filter(|_| is_release),
            waiting: None,
            by: user(),
            started: Timestamp::UNIX_EPOCH,
        };
        let under_way = self.kv.get(&keys::rollout(&app())).is_some();
        let before = std::mem::take(&mut self.floor);
        self.floor = record
            .structure
            .iter()
            .map(|(kind, count)| {
                (
                    kind.clone(),
                    (*count).min(wanted.get(kind).copied().unwrap_or(0)),
                )
            })
            .collect();
        if under_way {
            // What the one before has taken down already is not brought back first.
            for (kind, floor) in &mut self.floor {
                *floor = (*floor).min(before.get(kind).copied().unwrap_or(0));
            }
        }
        // Those of single types go before the next ones come.
        self.floor.retain(|kind, _| !self.single.contains(kind));
        self.kv.put(&keys::rollout(&app()), &rollout);
    }

    pub(super) fn lose(&mut self, n: usize) {
        let id = machine(n);
        self.host_was_lost = true;
        let agent = self.agents.get_mut(&id).expect("a host");
        (agent.alive, agent.local) = (false, BTreeMap::new());
        self.kv
            .commit(&Txn::new().delete(&keys::machine(&id)))
            .expect("no comparison");
    }

    /// The end of every story: one release, the wanted numbers, no trace of anything else.
    pub(super) fn check_converged(
        &self,
        active: u32,
        wanted: &Structure,
        outcome: Option<OutcomeResult>,
    ) {
        let record = self.record();
        assert_eq!(
            record.active,
            ReleaseNumber(active),
            "{:?}",
            record.last_rollout
        );
        assert_eq!(record.structure, *wanted);
        assert!(
            self.kv.get(&keys::rollout(&app())).is_none(),
            "the rollout is over"
        );
        let mut numbers = Structure::new();
        let mut services = BTreeSet::new();
        for (key, entry) in self.kv.under("/deis/schedule/") {
            let (host, name) = keys::parse_assignment(key).expect("assignment");
            let assignment: Assignment = entry.decode().expect("assignment");
            let process: ProcessName = name.parse().expect("process");
            assert_eq!(assignment.desired, Desired::Run, "{key}");
            assert_eq!(process.release, record.active, "{key}");
            assert!(self.agents[&host].local[name].state.ready, "{key} runs");
            *numbers.entry(process.kind.clone()).or_default() += 1;
            if process.kind.is_routable() {
                services.insert(name.to_owned());
            }
        }
        assert_eq!(numbers, *wanted);
        let published: BTreeSet<String> = self
            .kv
            .under("/deis/services/")
            .filter_map(|(key, _)| key.rsplit('/').next().map(str::to_owned))
            .collect();
        assert_eq!(published, services);
        let connected = self.agents.values().filter(|agent| agent.cut.is_none());
        let running: usize = connected.map(|agent| agent.local.len()).sum();
        assert_eq!(
            running as u32,
            wanted.values().sum::<u32>(),
            "no orphan runs"
        );
        if let Some(result) = outcome {
            let end = record.last_rollout.expect("a rollout ended");
            assert_eq!(end.result, result);
            assert_eq!(end.reason.is_some(), result == OutcomeResult::Failed);
        }
    }

    pub(super) fn check_outcome(&self, version: u32, result: OutcomeResult) {
        let key = keys::outcome(&app(), ReleaseNumber(version));
        let (outcome, entry) = self.kv.get(&key).expect("an outcome");
        assert_eq!(outcome.result, result);
        assert_eq!(entry.create_revision, entry.mod_revision, "written once");
    }
}
