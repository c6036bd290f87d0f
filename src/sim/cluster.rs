//! The hosts and what runs on them: the daemons' own loops, begun, killed and begun again.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::{
    World,
    judge::{RouterSight, ip, machine},
    sky::{Node, Role, lock},
    units::{SimRuntime, SimUnits},
};
use crate::{
    agent::{
        self,
        keeper::Keeper,
        paths::Paths,
        records::RecordCache,
        steps::{Edges, Standing, Starts},
    },
    leader,
    logger::tell::Teller,
    model::{Machine, SCHEMA},
    plan::routes::Endpoint,
    render::HostFacts,
    router::simulated::{Choice, Router},
    seal::ClusterKey,
    store::{Store, faulty},
};

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Words of announcers that may wait, as in the daemon.
const WORDS: usize = 256;

pub(super) fn key() -> ClusterKey {
    ClusterKey::parse(KEY).expect("a key")
}

/// One life of a daemon.
struct Life {
    task: JoinHandle<()>,
    alive: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Relaxed);
        self.task.abort();
    }
}

/// One life of a router, with its clients.
struct RouterLife {
    router: Router,
    alive: Arc<AtomicBool>,
    held: Arc<Mutex<BTreeMap<Endpoint, usize>>>,
    clients: Option<JoinHandle<()>>,
}

impl Drop for RouterLife {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Relaxed);
        if let Some(clients) = self.clients.take() {
            clients.abort();
        }
    }
}

/// A host.
#[derive(Default)]
pub(super) struct Host {
    dir: PathBuf,
    memory_bytes: u64,
    has_router: bool,
    has_controller: bool,
    boots: u32,
    units: Option<SimUnits>,
    agent: Option<Life>,
    controller: Option<Life>,
    router: Option<RouterLife>,
}

impl Host {
    pub fn new(dir: PathBuf, memory_bytes: u64, has_router: bool, has_controller: bool) -> Self {
        Self {
            dir,
            memory_bytes,
            has_router,
            has_controller,
            ..Self::default()
        }
    }

    pub const fn is_on(&self) -> bool {
        self.units.is_some()
    }

    pub fn units(&self) -> Option<SimUnits> {
        self.units.clone()
    }
}

impl World {
    fn host<T>(&self, host: usize, look: impl FnOnce(&mut Host) -> T) -> T {
        look(lock(&self.hosts).get_mut(&host).expect("a host"))
    }

    /// A store as a user's client sees it.
    pub fn user(&self) -> Store {
        let node = Node {
            host: 0,
            role: Role::User,
        };
        faulty::store(&self.memory, self.sky.over(node).0)
    }

    /// What each router would do now.
    pub fn routers(&self) -> Vec<RouterSight> {
        let hosts = lock(&self.hosts);
        let lives = hosts
            .iter()
            .filter_map(|(n, host)| Some((*n, host.router.as_ref()?)));
        lives
            .map(|(n, life)| RouterSight {
                ip: ip(n),
                serves: life.router.serves(),
                table: life.router.endpoints(),
                held: lock(&life.held).keys().cloned().collect(),
            })
            .collect()
    }

    /// The power comes on.
    pub fn power_on(self: &Arc<Self>, host: usize) {
        let (begin_router, begin_controller) = {
            let mut hosts = lock(&self.hosts);
            let on = hosts.get_mut(&host).expect("a host");
            if on.is_on() {
                return;
            }
            on.boots += 1;
            let paths = Paths::below(&on.dir);
            paths.prepare().expect("folders");
            on.units = Some(SimUnits::boot(self, host, paths));
            (on.has_router, on.has_controller)
        };
        self.judge.note("boot", &format!("host {host}"));
        self.begin_later(host, Role::Agent, 500, 8000);
        if begin_router {
            self.begin_later(host, Role::Router, 500, 10_000);
        }
        if begin_controller {
            self.begin_later(host, Role::Controller, 500, 10_000);
        }
    }

    /// The power goes: what lay on tmpfs is gone, and all that ran.
    pub fn power_off(self: &Arc<Self>, host: usize) {
        self.judge.note("power off", &format!("host {host}"));
        let (units, lives, dir) = self.host(host, |host| {
            let lives = (
                host.agent.take(),
                host.controller.take(),
                host.router.take(),
            );
            (host.units.take(), lives, host.dir.clone())
        });
        drop(lives);
        if let Some(units) = units {
            units.power_off();
        }
        self.judge.host_is_off(host);
        let _ = std::fs::remove_dir_all(dir.join("run"));
    }

    /// A daemon dies at once, and begins again after a while.
    pub fn kill(self: &Arc<Self>, node: Node) {
        self.judge.note("kill", &format!("{node:?}"));
        self.host(node.host, |host| match node.role {
            Role::Agent => drop(host.agent.take()),
            Role::Controller => drop(host.controller.take()),
            Role::Router => drop(host.router.take()),
            Role::User => {}
        });
        // While nothing is to be lost, an agent is back before its host's lease runs out.
        let longest = if self.is_rough() { 15_000 } else { 2000 };
        self.begin_later(node.host, node.role, 100, longest);
    }

    /// A daemon is asked to end, and begins again after a while.
    pub fn restart(self: &Arc<Self>, node: Node) {
        self.judge.note("restart", &format!("{node:?}"));
        let life = self.host(node.host, |host| match node.role {
            Role::Agent => host.agent.take(),
            Role::Controller => host.controller.take(),
            Role::Router | Role::User => None,
        });
        let Some(mut life) = life else {
            return self.kill(node);
        };
        life.stop.cancel();
        let world = Arc::clone(self);
        tokio::spawn(async move {
            let patience = super::sky::ms(5000);
            let _ = tokio::time::timeout(patience, &mut life.task).await;
            drop(life);
            world.begin_later(node.host, node.role, 50, 2000);
        });
    }

    /// Somebody died at a call of its own.
    pub fn died(self: &Arc<Self>, node: Node, alive: &Arc<AtomicBool>) {
        let is_current = self.host(node.host, |host| {
            let current = match node.role {
                Role::Agent => host.agent.as_ref().map(|life| &life.alive),
                Role::Controller => host.controller.as_ref().map(|life| &life.alive),
                Role::Router => host.router.as_ref().map(|life| &life.alive),
                Role::User => None,
            };
            current.is_some_and(|current| Arc::ptr_eq(current, alive))
        });
        if is_current {
            self.kill(node);
        }
    }

    fn begin_later(self: &Arc<Self>, host: usize, role: Role, from: u64, to: u64) {
        let world = Arc::clone(self);
        let pause = self.dice.long_tail(from, to);
        let boots = self.host(host, |host| host.boots);
        tokio::spawn(async move {
            sleep(pause).await;
            let same = world.host(host, |host| host.boots == boots && host.is_on());
            if same {
                match role {
                    Role::Agent => world.begin_agent(host),
                    Role::Controller => world.begin_controller(host),
                    Role::Router => world.begin_router(host),
                    Role::User => {}
                }
            }
        });
    }

    fn begin_agent(self: &Arc<Self>, n: usize) {
        let node = Node {
            host: n,
            role: Role::Agent,
        };
        let (weather, alive) = self.sky.over(node);
        let mut hosts = lock(&self.hosts);
        let host = hosts.get_mut(&n).expect("a host");
        let (Some(units), None) = (host.units.clone(), &host.agent) else {
            return;
        };
        self.judge.note("agent", &format!("host {n}"));
        let edges = Arc::new(Edges {
            units: units.clone(),
            runtime: SimRuntime(Arc::clone(self)),
            store: faulty::store(&self.memory, weather),
            key: key(),
            templates: self.templates(),
            host: HostFacts {
                address: ip(n).parse().expect("an address"),
                init: false,
            },
            paths: Paths::below(&host.dir),
            machine: machine(n),
            records: RecordCache::default(),
            starts: Starts::default(),
            keeper: Keeper::default(),
            standing: Standing::default(),
            teller: Teller::mute(),
        });
        let presence = Machine {
            schema: SCHEMA,
            id: machine(n),
            hostname: format!("deis-{n:02}"),
            address: ip(n),
            memory_bytes: host.memory_bytes,
            cpus: 4,
            version: "2".into(),
            boot_id: format!("{n}-{}", host.boots),
            metadata: BTreeMap::new(),
        };
        let (sender, words) = mpsc::channel(WORDS);
        let stop = CancellationToken::new();
        let ready = move |_, _| {
            units.listen(sender);
            Ok(())
        };
        let life = agent::live(edges, presence, words, ready, stop.clone());
        let life = life.instrument(info_span!("agent", host = n));
        let (world, own) = (Arc::clone(self), Arc::clone(&alive));
        let task = tokio::spawn(async move {
            if let Err(error) = life.await {
                world.judge.note("agent ends", &error.to_string());
                world.sky.died(node, own);
            }
        });
        host.agent = Some(Life { task, alive, stop });
    }

    fn begin_controller(self: &Arc<Self>, n: usize) {
        let node = Node {
            host: n,
            role: Role::Controller,
        };
        let (weather, alive) = self.sky.over(node);
        let store = faulty::store(&self.memory, weather);
        let stop = CancellationToken::new();
        let run = leader::take_part(store, ip(n), None, Arc::default(), stop.clone());
        let run = run.instrument(info_span!("controller", host = n));
        self.host(n, |host| {
            if host.controller.is_none() {
                self.judge.note("controller", &format!("host {n}"));
                let task = tokio::spawn(run);
                host.controller = Some(Life { task, alive, stop });
            }
        });
    }

    fn begin_router(self: &Arc<Self>, n: usize) {
        let node = Node {
            host: n,
            role: Role::Router,
        };
        let (weather, alive) = self.sky.over(node);
        let store = faulty::store(&self.memory, weather);
        let begun = self.host(n, |host| {
            if host.router.is_some() {
                return false;
            }
            let state = host.dir.join("router");
            std::fs::create_dir_all(&state).expect("a folder");
            let address = ip(n).parse().expect("an address");
            host.router = Some(RouterLife {
                router: Router::start(address, state, store, key()),
                alive,
                held: Arc::default(),
                clients: None,
            });
            true
        });
        if begun {
            self.judge.note("router", &format!("host {n}"));
            let clients = tokio::spawn(clients(Arc::clone(self), n));
            self.host(n, |host| {
                if let Some(life) = &mut host.router {
                    life.clients = Some(clients);
                }
            });
        }
    }
}

/// Requests come to a router, hold a process for a while, and end.
async fn clients(world: Arc<World>, n: usize) {
    let mut requests = JoinSet::new();
    loop {
        sleep(world.dice.time(20, 800)).await;
        while requests.try_join_next().is_some() {}
        let apps = world.apps();
        if apps.is_empty() {
            continue;
        }
        let name = format!("{}.{}", world.dice.pick(&apps), super::DOMAIN);
        let taken = world.host(n, |host| {
            let life = host.router.as_ref().filter(|life| life.router.serves())?;
            match life.router.choose(&name) {
                Choice::Backend(backend) => Some((backend, Arc::clone(&life.held))),
                _ => None,
            }
        });
        let Some((backend, held)) = taken else {
            continue;
        };
        let endpoint = backend.endpoint().clone();
        *lock(&held).entry(endpoint.clone()).or_default() += 1;
        let long = if world.dice.falls(200) { 60_000 } else { 3000 };
        let takes = world.dice.long_tail(5, long);
        requests.spawn(async move {
            sleep(takes).await;
            let mut held = lock(&held);
            if let Some(count) = held.get_mut(&endpoint) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&endpoint);
                }
            }
            drop(held);
            drop(backend);
        });
    }
}
