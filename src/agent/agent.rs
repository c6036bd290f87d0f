//! The agent's loop: everything that happens comes in here, the plan is made anew, and its actions go
//! out as tasks. The loop itself waits for nothing else.

mod assignments;
mod tasks;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinSet},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    cache,
    events::Happened,
    files, lease,
    metrics::Metrics,
    runtime::Runtime,
    socket::Word,
    stats::Vital,
    steps::{Edges, Progress, StepError, unit_of},
    texts::Texts,
    world::World,
};
use crate::{
    model::{MachineState, SCHEMA, UnitFileName},
    outside,
    plan::units::{Action, Kind, Knowledge, Lease, Plan},
    store::{Feed, keys},
    systemd::{News, UnitStatus, Units},
};

use tasks::{Ended, Task};

/// How long etcd is waited for at the start before the cache has to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to keep on disk what it has refused.
const KEEP_RETRY: Duration = Duration::from_secs(5);
/// A process that has not been healthy for so long is not just starting. Less than a rollout waits for it.
const UNWELL: Duration = Duration::from_secs(20);
/// Things that may wait for the loop; it never waits itself, so this is never full for long.
const EVENTS_MAX: usize = 1024;

/// Pause before all units are read again when that has failed.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// What tasks tell the loop while they run.
#[derive(Debug)]
enum Event {
    Progress(String, Progress),
    Log(String, Vec<String>),
    /// A process was not healthy a while ago.
    Unwell(String, Uuid),
    /// What was read of a unit, when systemd had told of it so often.
    Status {
        name: String,
        told: u64,
        status: UnitStatus,
    },
    /// Somebody wants to know how the processes are.
    Ask(oneshot::Sender<Vec<Vital>>),
    /// What the disk has refused was tried again.
    Kept,
}

/// Asks a running agent's loop about its processes.
#[derive(Debug, Clone)]
pub struct Asker {
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
}

impl Asker {
    /// What the loop knows; none when it does not answer in time or has ended.
    pub async fn ask(&self, limit: Duration) -> Option<Vec<Vital>> {
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            self.events.send(Event::Ask(sender)).await.ok()?;
            receiver.await.ok()
        };
        time::timeout(limit, asked).await.ok()?
    }

    /// What was counted so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// The loop's own state.
pub struct Agent<U: Units, R: Runtime> {
    pub(super) edges: Arc<Edges<U, R>>,
    pub(super) world: World,
    feed: Feed,
    words: mpsc::Receiver<Word>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    tasks: JoinSet<Result<Ended, StepError>>,
    running: HashMap<Id, Task>,
    states: watch::Sender<Option<MachineState>>,
    lease: watch::Receiver<Lease>,
    pub(super) clock: Instant,
    metrics: Arc<Metrics>,
    /// Tries again to keep what the disk has refused.
    keeping: Option<AbortOnDropHandle<()>>,
}

impl<U: Units, R: Runtime> Agent<U, R> {
    /// Takes stock of the host: what runs is adopted, and what the cache knows is remembered.
    ///
    /// # Errors
    /// When the host's own folders can't be read.
    pub async fn new(
        edges: Arc<Edges<U, R>>,
        words: mpsc::Receiver<Word>,
        states: watch::Sender<Option<MachineState>>,
    ) -> std::io::Result<Self> {
        let mut world = World::new();
        world.saved = cache::load(&edges.paths);
        for (name, saved) in &world.saved {
            if let Some(port) = saved.port {
                world.ports.remember(name, port);
            }
        }
        let now = outside::now();
        let all = files::scan(&edges.paths)?;
        let units: Vec<String> = all.iter().map(|found| unit_of(&found.name)).collect();
        let statuses = edges.units.statuses(&units).await;
        let statuses = statuses.map_err(std::io::Error::other)?;
        for ((found, unit), status) in all.into_iter().zip(units).zip(statuses) {
            info!(unit, uuid = %found.uuid, active = ?status.active, "adopted");
            if found
                .template
                .as_deref()
                .is_some_and(|digest| digest != edges.templates.digest())
            {
                info!(
                    unit,
                    "it is from an older template, and will be replaced when its app is deployed next"
                );
            }
            let fenced = lease::fenced_by(&edges.paths, &found.name);
            world.adopt(&found.name, found.uuid, found.port, fenced, status, now);
            if let (Some(owned), Some(entry)) = (found.raw, world.entry_mut(&found.name)) {
                entry.adopt_raw(owned.loaded);
            }
        }
        let feed = edges
            .store
            .follow(keys::schedule_of(&edges.machine).as_str());
        let metrics = Arc::new(Metrics::default());
        metrics.watches(feed.health_watch(), edges.standing.lease.subscribe());
        Ok(Self {
            lease: edges.standing.lease.subscribe(),
            edges,
            world,
            feed,
            words,
            events: mpsc::channel(EVENTS_MAX),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            states,
            clock: Instant::now(),
            metrics,
            keeping: None,
        })
    }

    /// Through this the loop can be asked while it runs.
    pub fn asker(&self) -> Asker {
        Asker {
            events: self.events.0.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Runs until `stop`. Units run on. Assignments count only once the machine is `registered`: they
    /// may be another host's that has the same id.
    pub async fn run(mut self, stop: CancellationToken, mut registered: watch::Receiver<bool>) {
        let patience = time::sleep(PATIENCE);
        tokio::pin!(patience);
        let mut waited = false;
        let mut is_registered = *registered.borrow();
        let edges = self.edges.clone();
        let mut wake: Option<Duration> = None;
        loop {
            let alarm = wake.map_or(Duration::from_secs(3600), |at| {
                at.saturating_sub(self.clock.elapsed())
            });
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                update = self.feed.next(), if is_registered => self.assignments(update).await,
                () = until_true(&mut registered), if !is_registered => is_registered = true,
                () = flipped(&mut self.lease) => self.world.touch_all(),
                news = edges.units.inbox().next() => self.news(news),
                Some(word) = self.words.recv() => self.heard(word),
                Some(event) = self.events.1.recv() => self.event(event),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = &mut patience, if !waited => {
                    waited = true;
                    self.out_of_patience();
                }
                () = time::sleep(alarm) => {}
            }
            // What has come in meanwhile belongs to the same round; a unit's signals before the end of
            // the task that has caused them.
            while let Ok(word) = self.words.try_recv() {
                self.heard(word);
            }
            while let Ok(event) = self.events.1.try_recv() {
                self.event(event);
            }
            while let Some(ended) = self.tasks.try_join_next_with_id() {
                self.ended(ended);
            }
            wake = self.round();
        }
        // A task that has begun is finished or can be done again: each is idempotent.
        self.tasks.abort_all();
    }

    /// Plans what something happened to, begins what is to be done, and reports. What begins is planned
    /// once more; says when to plan again even if nothing happens.
    fn round(&mut self) -> Option<Duration> {
        loop {
            let now = self.clock.elapsed();
            let names = self.world.take_touched(now);
            // A host that has nothing says so once, too: its last report may be of a former boot.
            let is_silent =
                self.world.knowledge != Knowledge::Nothing && self.states.borrow().is_none();
            if names.is_empty() && !is_silent {
                return self.world.wake_at();
            }
            let begun = Instant::now();
            let plan = self.world.plan(&names, *self.lease.borrow(), now);
            self.metrics.rounds.observe(begun.elapsed());
            let texts = Arc::new(Texts::of(raw_starts(&plan)));
            for (name, action) in &plan.actions {
                debug!(name, ?action, "begins");
                self.begin(name, *action, &texts);
            }
            if self.world.knowledge != Knowledge::Nothing {
                let live = self.world.knowledge == Knowledge::Live;
                let (world, metrics, now) = (&mut self.world, &self.metrics, outside::now());
                self.states.send_if_modified(|state| {
                    let is_first = state.is_none();
                    let state = state.get_or_insert_with(|| MachineState {
                        schema: SCHEMA,
                        registration: None,
                        processes: BTreeMap::new(),
                    });
                    let changed = world.report(&names, now, state) || is_first;
                    metrics.reported(state, live);
                    changed
                });
            }
        }
    }

    fn news(&mut self, news: News) {
        for (unit, change) in news.units {
            if let Some(name) = self.world.unit_changed(&unit, change, self.clock.elapsed()) {
                self.crashed(&name);
            }
        }
        if news.resync {
            self.metrics.bus_resyncs.inc();
            // Signals were missed: each unit is read again.
            let entries = self.world.entries().iter();
            let names: Vec<(String, u64)> = entries
                .map(|(name, entry)| (name.clone(), entry.told))
                .collect();
            let (edges, events) = (self.edges.clone(), self.events.0.clone());
            tokio::spawn(async move {
                let units: Vec<String> = names.iter().map(|(name, _)| unit_of(name)).collect();
                let statuses = match edges.units.statuses(&units).await {
                    Ok(statuses) => statuses,
                    Err(error) => {
                        warn!(%error, "the units' states can't be read; trying again");
                        tokio::time::sleep(READ_AGAIN).await;
                        return edges.units.inbox().resync();
                    }
                };
                for ((name, told), status) in names.into_iter().zip(statuses) {
                    let _ = events.send(Event::Status { name, told, status }).await;
                }
            });
        }
    }

    fn heard(&mut self, word: Word) {
        let name = word.unit.clone();
        if !word.healthy {
            // If it never gets well, what it has said is told with the reason; most only start slowly.
            let (events, name, uuid) = (self.events.0.clone(), name.clone(), word.uuid);
            tokio::spawn(async move {
                time::sleep(UNWELL).await;
                let _ = events.send(Event::Unwell(name, uuid)).await;
            });
        }
        if let Some(happened) = self.world.hear(word) {
            self.tell(&name, &happened);
        }
    }

    /// Fetches the last lines of a process that has crashed, for the report.
    fn crashed(&mut self, name: &str) {
        let Some(entry) = self.world.entries().get(name) else {
            return;
        };
        self.metrics.crashes.inc();
        warn!(
            name,
            restarts = entry.status.restarts,
            reason = entry.status.exit.reason(),
            "crashed"
        );
        if matches!(entry.seen.kind, Kind::Run | Kind::Unit) {
            return;
        }
        let happened = Happened::Crashed {
            reason: entry.status.exit.reason(),
            restarts: entry.status.restarts,
        };
        self.tell(name, &happened);
        self.read_log(name);
    }

    fn read_log(&self, name: &str) {
        let (edges, events) = (self.edges.clone(), self.events.0.clone());
        let name = name.to_owned();
        tokio::spawn(async move {
            let lines = edges.units.last_lines(&name).await;
            let _ = events.send(Event::Log(name, lines)).await;
        });
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Progress(name, progress) => {
                if let Some(entry) = self.world.entry_mut(&name) {
                    entry.progress = progress;
                }
            }
            Event::Log(name, lines) => {
                if let Some(entry) = self.world.entry_mut(&name) {
                    entry.log = lines;
                }
            }
            Event::Unwell(name, uuid) => {
                let entry = self.world.entries().get(&name);
                if entry.is_some_and(|entry| entry.is_unwell(uuid)) {
                    self.read_log(&name);
                }
            }
            Event::Status { name, told, status } => {
                let now = self.clock.elapsed();
                if let Some(name) = self.world.unit_read(&name, told, status, now) {
                    self.crashed(&name);
                }
            }
            Event::Kept => {
                let entries = self.world.entries().iter();
                let unkept = entries.filter(|(_, entry)| entry.unkept.is_some());
                let mut names = self.edges.keeper.troubled();
                let is_left = !names.is_empty();
                names.extend(unkept.map(|(name, _)| name.clone()));
                for name in names {
                    if let Some(entry) = self.world.entry_mut(&name) {
                        entry.unkept = self.edges.keeper.trouble(&name);
                    }
                }
                if is_left {
                    self.keep_again();
                }
            }
            Event::Ask(sender) => {
                // Whoever asked may have gone.
                let _ = sender.send(self.world.vitals());
            }
        }
    }
}

/// The raw units that a plan starts.
fn raw_starts(plan: &Plan) -> Vec<UnitFileName> {
    let starts = plan
        .actions
        .iter()
        .filter(|(_, action)| **action == Action::Start);
    // What is no unit's name is a process's, or refused when it comes to that.
    starts.filter_map(|(name, _)| name.parse().ok()).collect()
}

/// Waits until the lease is another.
async fn flipped(lease: &mut watch::Receiver<Lease>) {
    if lease.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the channel says so; for ever when it never will.
async fn until_true(channel: &mut watch::Receiver<bool>) {
    if channel.wait_for(|said| *said).await.is_err() {
        std::future::pending::<()>().await;
    }
}
