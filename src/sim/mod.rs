//! The whole platform in one thread, from one seed: the daemons' own loops (leader, agent, router's
//! table and books, feeds, leases) on paused time, over the store in memory, with a network, a service
//! manager and users that the seed moves. docs/simulation.md tells how to use it.
//!
//! `sky` is the network, `units` a host's service manager, `cluster` the hosts and daemons, `story`
//! what happens, `operator` what is done to hosts, `judge` the laws that hold all the while.

mod cluster;
mod judge;
mod operator;
mod sky;
mod story;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
};

use self::{
    cluster::Host,
    judge::Judge,
    sky::{Dice, Sky, lock},
    story::{Plot, Tone},
    units::SimUnits,
};
use crate::{
    model::{AppName, ProcessName, ReleaseNumber},
    outside::simulated,
    render::{TemplateSources, Templates},
    router,
    store::{MemoryStore, Store, Txn, keys},
};

/// Where apps are found.
const DOMAIN: &str = "sim.test";
/// What a process may reserve, unless its config says otherwise.
const PLACE: u64 = 512 << 20;

/// Everything there is in a simulation.
struct World {
    dice: Arc<Dice>,
    sky: Arc<Sky>,
    judge: Judge,
    memory: MemoryStore,
    hosts: Mutex<BTreeMap<usize, Host>>,
    apps: Mutex<Vec<AppName>>,
    rough: AtomicBool,
    /// Nothing goes wrong any more, and all hosts that are needed are there.
    peace: AtomicBool,
    /// The release that each user has asked for last, and that has to be active in the end.
    expected: Mutex<BTreeMap<AppName, ReleaseNumber>>,
}

impl World {
    fn templates(&self) -> Templates {
        Templates::new(&TemplateSources::built_in()).expect("templates")
    }

    fn apps(&self) -> Vec<AppName> {
        lock(&self.apps).clone()
    }

    fn add_app(&self, name: &AppName) {
        lock(&self.apps).push(name.clone());
    }

    fn is_rough(&self) -> bool {
        self.rough.load(Ordering::Relaxed)
    }

    fn now(&self) -> f64 {
        simulated::elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64())
    }

    /// A process on a host that is to be stopped: the routers are asked first.
    fn stops(&self, host: usize, process: &ProcessName, uuid: uuid::Uuid, lease_is_out: bool) {
        let routers = self.routers();
        self.judge
            .stops(host, process, uuid, lease_is_out, &routers);
    }

    /// One of the units that are up on a host.
    fn any_unit(&self, host: usize) -> Option<(SimUnits, String)> {
        let units = lock(&self.hosts).get(&host)?.units()?;
        let up = units.up();
        (!up.is_empty()).then(|| (units, self.dice.pick(&up).clone()))
    }

    /// Everybody comes back, and everything is reached.
    fn make_peace(self: &Arc<Self>, hosts: usize) {
        self.rough.store(false, Ordering::Relaxed);
        self.sky.set_leaderless(false);
        self.memory.elect_leader();
        for host in 1..=hosts {
            self.sky.cut(host, false);
            self.power_on(host);
            let units = lock(&self.hosts).get(&host).and_then(Host::units);
            for name in units.iter().flat_map(SimUnits::up) {
                if let Some(units) = &units {
                    let units = units.clone();
                    // What ails gets well.
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(40)).await;
                        units.recover(&name);
                    });
                }
            }
        }
    }

    fn is_settled(&self, hosts: usize) -> Result<(), String> {
        let on: BTreeSet<usize> = (1..=hosts).collect();
        self.judge.is_settled(&on, &self.routers())?;
        let expected = lock(&self.expected).clone();
        self.judge.are_active(&expected)
    }
}

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    seed: u64,
    verdict: Option<String>,
    hash: u64,
    events: u64,
    /// Simulated time.
    lasted: Duration,
    seen: BTreeMap<&'static str, u64>,
    gentle: bool,
}

/// Simulates a seed, in a thread of its own.
fn simulate(seed: u64, trace: bool) -> Outcome {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let told = trace.then(|| tracing::subscriber::set_default(teller()));
        let outcome = runtime.block_on(story_of(seed, trace));
        drop((runtime, told));
        simulated::end();
        outcome
    };
    let thread = std::thread::Builder::new().name(format!("seed {seed}"));
    let thread = thread.spawn(run).expect("a thread");
    match thread.join() {
        Ok(outcome) => outcome,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Outcome {
                seed,
                verdict: Some(format!("panic: {}", said.unwrap_or_default())),
                hash: 0,
                events: 0,
                lasted: Duration::ZERO,
                seen: BTreeMap::new(),
                gentle: false,
            }
        }
    }
}

/// The clock of what daemons log while a story is told.
struct StoryTime;

impl FormatTime for StoryTime {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        let elapsed = simulated::elapsed().unwrap_or_default();
        write!(to, "{:>10.3}     ", elapsed.as_secs_f64())
    }
}

/// Prints what the daemons log (`RUST_LOG` says how much).
fn teller() -> impl tracing::Subscriber {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_timer(StoryTime)
        .with_ansi(false)
        .finish()
}

async fn story_of(seed: u64, trace: bool) -> Outcome {
    simulated::begin(seed ^ 0x5eed);
    router::simulated::reseed(seed ^ 0xf00d);
    let dice = Arc::new(Dice::new(seed));
    let plot = Plot::of(&dice);
    let gentle = plot.tone == Tone::Gentle;
    if trace {
        println!("{plot:#?}");
    }
    let (deaths, mut dead) = mpsc::unbounded_channel();
    let base = scratch();
    let world = Arc::new(World {
        sky: Sky::new(Arc::clone(&dice), deaths),
        judge: Judge::new(gentle, trace),
        memory: MemoryStore::new(),
        hosts: Mutex::default(),
        apps: Mutex::default(),
        rough: AtomicBool::new(!gentle),
        peace: AtomicBool::new(false),
        expected: Mutex::default(),
        dice,
    });
    for n in 1..=plot.hosts {
        let dir = base.path().join(n.to_string());
        let memory = PLACE * world.dice.between(10, 24);
        let host = Host::new(dir, memory, n <= plot.routers, n <= plot.controllers);
        lock(&world.hosts).insert(n, host);
    }
    let observer = Arc::downgrade(&world);
    world.memory.observe(move |revision, changes| {
        let Some(world) = observer.upgrade() else {
            return;
        };
        world.judge.stored(world.sky.writer(), revision, changes);
        let withdrawn = |change: &crate::store::Change| {
            change.entry.is_none() && change.key.starts_with(keys::services().as_str())
        };
        if changes.iter().any(withdrawn) {
            world.judge.routers_know_enough(&world.routers());
        }
    });
    let domain = Txn::new().put(&keys::platform("domain"), &DOMAIN.to_owned());
    let store = Store::from_memory(&world.memory);
    store.commit(domain).await.expect("committed");
    let undertaker = tokio::spawn({
        let world = Arc::clone(&world);
        async move {
            while let Some((node, alive)) = dead.recv().await {
                world.died(node, &alive);
            }
        }
    });
    story::tell(&world, &plot).await;
    if world.judge.verdict().is_some() {
        world.judge.print();
    }
    undertaker.abort();
    lock(&world.hosts).clear();
    let (hash, events) = world.judge.trace();
    Outcome {
        seed,
        verdict: world.judge.verdict(),
        hash,
        events,
        lasted: simulated::elapsed().unwrap_or_default(),
        seen: world.judge.seen(),
        gentle,
    }
}

/// A folder for the hosts' disks, in memory where there is such a place.
fn scratch() -> tempfile::TempDir {
    let shm = PathBuf::from("/dev/shm");
    let at = if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("deis-sim-")
        .tempdir_in(at)
        .expect("a folder")
}

/// Simulates many seeds at once on all processors; gives those that broke a law, and how it went.
///
/// Ends early after `limit`, or with the first failure if that is enough.
fn simulate_all(seeds: impl Iterator<Item = u64> + Send, first_is_enough: bool) -> Vec<Outcome> {
    let begun = Instant::now();
    let seeds = Mutex::new(seeds);
    let (done, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let (virtual_ms, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !first_is_enough || lock(&failed).is_empty() {
                    let next = lock(&seeds).next();
                    let Some(seed) = next else { return };
                    let outcome = simulate(seed, false);
                    done.fetch_add(1, Ordering::Relaxed);
                    let lasted = u64::try_from(outcome.lasted.as_millis()).unwrap_or(0);
                    virtual_ms.fetch_add(lasted, Ordering::Relaxed);
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    if let Some(verdict) = &outcome.verdict {
                        println!("seed {seed} FAILS {verdict}\n  again, with a trace: make sim SEED={seed}");
                        lock(&failed).push(outcome);
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let done = done.into_inner();
    println!(
        "{done} seeds in {seconds:.1} s ({:.1}/s), {:.1} h simulated, {} events, {} failed",
        done as f64 / seconds,
        virtual_ms.into_inner() as f64 / 3.6e6,
        events.into_inner(),
        lock(&failed).len()
    );
    failed.into_inner().unwrap_or_default()
}

#[cfg(test)]
mod tests;
