//! The agent's loop: everything that happens comes in here, the plan is made anew, and its actions go
//! out as tasks. The loop itself waits for nothing else.

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
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    cache,
    events::Happened,
    files, lease,
    metrics::Metrics,
    oneoff::End,
    runtime::Runtime,
    socket::Word,
    stats::Vital,
    steps::{Edges, Job, Progress, StepError, unit_of},
    texts::Texts,
    world::{Assigned, Entry, World, is_single, kind_of},
};
use crate::{
    model::{Assignment, Desired, MachineState, Revision, SCHEMA, UnitFileName, Work},
    outside,
    plan::units::{Action, Busy, Kind, Knowledge, Lease, Plan, Published},
    store::{Change, Feed, Update, keys},
    systemd::{News, UnitStatus, Units},
};

/// How long etcd is waited for at the start before the cache has to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to keep on disk what it has refused.
const KEEP_RETRY: Duration = Duration::from_secs(5);
/// Things that may wait for the loop; it never waits itself, so this is never full for long.
const EVENTS_MAX: usize = 1024;

/// What tasks tell the loop while they run.
#[derive(Debug)]
enum Event {
    Progress(String, Progress),
    Log(String, Vec<String>),
    Status(String, UnitStatus),
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

/// How a task has ended.
#[derive(Debug)]
enum Ended {
    Started(UnitStatus),
    Loaded(UnitStatus),
    Cancelled,
    Stopped,
    Published,
    Withdrawn(Revision),
    Reported(End),
    Suspended,
    /// Behind the fence, or out of it.
    Fenced(bool),
    /// Left off, and whether the address was written or removed is not known.
    Unknown,
}

struct Task {
    name: String,
    uuid: Uuid,
    begun: Instant,
    cancel: CancellationToken,
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
            let fenced = lease::is_fenced(&edges.paths, &found.name);
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
            if names.is_empty() {
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
                        processes: BTreeMap::new(),
                    });
                    let changed = world.report(&names, now, state) || is_first;
                    metrics.reported(state, live);
                    changed
                });
            }
        }
    }

    async fn assignments(&mut self, update: Update) {
        if update.first {
            // The first view is whole: what it does not hold is not assigned.
            self.world.unassign_all();
            if self.world.knowledge != Knowledge::Live {
                self.recall().await;
            }
        }
        for Change { key, entry, .. } in update.changes {
            let Some((_, name)) = keys::parse_assignment(&key) else {
                continue;
            };
            self.world.try_again(name);
            let decoded = entry.map(|e| (e.decode::<Assignment>(), e.mod_revision));
            match decoded {
                Some((Ok(assignment), mod_revision)) => {
                    if !matches!(assignment.desired, Desired::Run | Desired::Load) {
                        self.forget(name);
                    }
                    let assigned = Assigned {
                        assignment,
                        mod_revision,
                    };
                    self.world.assign(name, Some(assigned));
                }
                Some((Err(error), mod_revision)) => {
                    // One record that can't be read stops nothing: what is known of it stays.
                    error!(key, %error, "an assignment can't be read and is left as it was");
                    self.keep_unreadable(name, mod_revision);
                }
                None => {
                    self.world.assign(name, None);
                    self.forget(name);
                }
            }
        }
        if self.world.knowledge != Knowledge::Live {
            self.forget_unassigned();
        }
        self.world.learn(Knowledge::Live);
        if update.first {
            self.keep_adopted();
        }
    }

    /// Removes a name from the cache.
    fn forget(&mut self, name: &str) {
        self.world.saved.remove(name);
        self.edges.forget(name);
    }

    /// Forgets what went while the agent was away.
    fn forget_unassigned(&mut self) {
        let gone = |name: &&String| !self.world.assigned().contains_key(*name);
        let gone: Vec<String> = self.world.saved.keys().filter(gone).cloned().collect();
        for name in gone {
            self.forget(&name);
            if !self.world.entries().contains_key(&name) {
                self.world.ports.release(&name);
            }
        }
    }

    /// Leaves a name as it is whose assignment can't be read.
    fn keep_unreadable(&mut self, name: &str, mod_revision: Revision) {
        if self.world.assigned().contains_key(name) {
            return;
        }
        let (saved, found) = (self.world.saved.get(name), self.world.entries().get(name));
        let assignment = match (saved, found) {
            (Some(saved), _) => saved.assignment.clone(),
            // It runs, and nothing says that it is not to.
            (None, Some(entry)) => Assignment {
                schema: SCHEMA,
                uuid: entry.seen.uuid,
                desired: Desired::Run,
                work: work_of(entry.seen.kind),
            },
            (None, None) => return,
        };
        let assigned = Assigned {
            assignment,
            mod_revision,
        };
        self.world.assign(name, Some(assigned));
    }

    /// Reads the host's own last report: what was withdrawn, and since when.
    async fn recall(&mut self) {
        match self
            .edges
            .store
            .get(&keys::state(&self.edges.machine))
            .await
        {
            Ok(Some(state)) => self.world.recall(&state.value),
            Ok(None) => {}
            Err(error) => warn!(%error, "this host's last report can't be read"),
        }
    }

    /// etcd has not answered: what the cache knows is started.
    fn out_of_patience(&mut self) {
        if self.world.knowledge != Knowledge::Nothing {
            return;
        }
        warn!(
            cached = self.world.saved.len(),
            patience_secs = PATIENCE.as_secs(),
            "no word from etcd, or not registered there yet: starting what the cache knows, stopping nothing"
        );
        for (name, saved) in self.world.saved.clone() {
            let assigned = Assigned {
                assignment: saved.assignment,
                mod_revision: saved.mod_revision,
            };
            self.world.assign(&name, Some(assigned));
        }
        self.world.learn(Knowledge::Cached);
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
            let names: Vec<String> = self.world.entries().keys().cloned().collect();
            let (edges, events) = (self.edges.clone(), self.events.0.clone());
            tokio::spawn(async move {
                let units: Vec<String> = names.iter().map(|name| unit_of(name)).collect();
                let Ok(statuses) = edges.units.statuses(&units).await else {
                    return;
                };
                for (name, status) in names.into_iter().zip(statuses) {
                    let _ = events.send(Event::Status(name, status)).await;
                }
            });
        }
    }

    fn heard(&mut self, word: Word) {
        let name = word.unit.clone();
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
            Event::Status(name, status) => {
                let change = crate::systemd::UnitChange {
                    active: Some(status.active),
                    exit: Some(status.exit),
                    restarts: Some(status.restarts),
                    up_since: Some(status.up_since),
                    words: Some(status.words),
                };
                if let Some(name) =
                    self.world
                        .unit_changed(&unit_of(&name), change, self.clock.elapsed())
                {
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

    fn ended(&mut self, ended: Result<(Id, Result<Ended, StepError>), tokio::task::JoinError>) {
        // Its unit's signals came before: they are not to be overtaken.
        let news = self.edges.units.inbox().take();
        self.news(news);
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(Task {
            name, uuid, begun, ..
        }) = self.running.remove(&id)
        else {
            return;
        };
        match &result {
            Ok(Ok(Ended::Started(_) | Ended::Loaded(_))) => {
                self.metrics.starts.observe(begun.elapsed())
            }
            Ok(Ok(Ended::Stopped | Ended::Suspended)) => self.metrics.stops.inc(),
            Ok(Ok(Ended::Published)) => self.metrics.published.inc(),
            Ok(Ok(Ended::Withdrawn(_))) => self.metrics.withdrawn.inc(),
            Ok(
                Ok(Ended::Cancelled | Ended::Reported(_) | Ended::Fenced(_) | Ended::Unknown)
                | Err(StepError::Outdated),
            ) => {}
            Ok(Err(error)) => self.metrics.failed(error),
            Err(_) => self.metrics.failed(&StepError::Broken),
        }
        if self
            .world
            .entries()
            .get(&name)
            .is_none_or(|entry| entry.seen.uuid != uuid)
        {
            return;
        }
        let now = self.clock.elapsed();
        match result {
            Ok(Ok(ended)) => self.succeeded(&name, ended),
            Ok(Err(StepError::Outdated)) => {
                // The feed is about to say how; then the plan is another.
                debug!(
                    name,
                    "the assignment has changed while its address was published"
                );
                self.world.failed(&name, &StepError::Outdated, now);
            }
            Ok(Err(error)) => {
                warn!(name, %error, "could not be done, trying again");
                self.world.failed(&name, &error, now);
            }
            Err(error) => {
                error!(name, %error, "a task of the agent has broken off: this is a bug");
                self.world.failed(&name, &StepError::Broken, now);
            }
        }
    }

    fn succeeded(&mut self, name: &str, ended: Ended) {
        if matches!(ended, Ended::Stopped) {
            self.world.gone(name);
            return;
        }
        let Some(entry) = self.world.done(name) else {
            return;
        };
        match ended {
            Ended::Started(status) => {
                entry.started(status);
                entry.unkept = self.edges.keeper.trouble(name);
                if entry.unkept.is_some() {
                    self.keep_again();
                }
            }
            Ended::Loaded(status) => entry.loaded(status),
            Ended::Cancelled | Ended::Stopped => {}
            Ended::Suspended => {
                entry.suspended();
                self.tell(name, &Happened::Suspended);
            }
            Ended::Fenced(fenced) => entry.seen.fenced = fenced,
            Ended::Unknown => entry.seen.published = Published::Unknown,
            Ended::Published => {
                entry.seen.published = Published::Yes;
                entry.withdrawn = None;
            }
            Ended::Withdrawn(revision) => {
                // Gone already and told so before a restart of the agent: that revision stays.
                entry.withdrawn = entry
                    .withdrawn
                    .filter(|_| entry.seen.published == Published::Unknown)
                    .or(Some(revision));
                entry.seen.published = Published::No;
            }
            Ended::Reported(end) => {
                entry.seen.reported = true;
                if !end.log.is_empty() {
                    entry.log.clone_from(&end.log);
                }
                entry.end = Some(end);
            }
        }
    }

    /// Keeps what was found running and is not in the cache: its file was damaged, or the disk was full.
    fn keep_adopted(&mut self) {
        let lacks = |(name, assigned): &(&String, &Assigned)| {
            let uuid = assigned.assignment.uuid;
            let runs = |entry: &&Entry| entry.seen.uuid == uuid && entry.seen.kind != Kind::Run;
            let entry = self.world.entries().get(*name).filter(runs);
            let saved = self.world.saved.get(*name);
            assigned.assignment.desired == Desired::Run
                && entry.is_some_and(|entry| entry.seen.started)
                && saved.is_none_or(|saved| saved.assignment.uuid != uuid)
        };
        let job = |(name, assigned): (&String, &Assigned)| Job {
            name: name.clone(),
            assignment: assigned.assignment.clone(),
            mod_revision: assigned.mod_revision,
            port: self.world.ports.get(name),
            saved: None,
            texts: Arc::new(Texts::default()),
        };
        let jobs: Vec<Job> = self
            .world
            .assigned()
            .iter()
            .filter(lacks)
            .map(job)
            .collect();
        if jobs.is_empty() {
            return;
        }
        let (edges, events) = (self.edges.clone(), self.events.0.clone());
        tokio::spawn(async move {
            for job in jobs {
                if let Err(error) = edges.keep_adopted(&job).await {
                    warn!(name = job.name, %error, "it runs, and is not kept on this host's disk");
                }
            }
            let _ = events.send(Event::Kept).await;
        });
    }

    /// Tries to keep on disk what it has refused, until it takes it.
    fn keep_again(&mut self) {
        if self
            .keeping
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let (edges, events) = (self.edges.clone(), self.events.0.clone());
        let keeping = tokio::spawn(async move {
            loop {
                time::sleep(KEEP_RETRY).await;
                let left = edges.keeper.try_again(&edges.paths).await;
                if events.send(Event::Kept).await.is_err() || !left {
                    return;
                }
            }
        });
        self.keeping = Some(AbortOnDropHandle::new(keeping));
    }

    /// Begins an action of the plan.
    fn begin(&mut self, name: &str, action: Action, texts: &Arc<Texts>) {
        let assigned = self.world.assigned().get(name).cloned();
        if action == Action::Cancel {
            for task in self.running.values().filter(|task| task.name == name) {
                task.cancel.cancel();
            }
            if let Some(entry) = self.world.entry_mut(name) {
                entry.seen.busy = Some(Busy::Cancelling);
            }
            return;
        }
        let (edges, owned) = (self.edges.clone(), name.to_owned());
        let cancel = CancellationToken::new();
        let spawned = match action {
            Action::Cancel => return,
            Action::Start => {
                let Some(job) =
                    assigned.and_then(|assigned| self.job(name, assigned, texts.clone()))
                else {
                    return;
                };
                let (events, cancel) = (self.events.0.clone(), cancel.clone());
                let progress = move |progress| {
                    // Only for people: one that does not fit is left out.
                    let _ = events.try_send(Event::Progress(owned.clone(), progress));
                };
                let done = if job.assignment.desired == Desired::Load {
                    Ended::Loaded
                } else {
                    Ended::Started
                };
                self.tasks.spawn(async move {
                    let started = edges.start(job, cancel, progress).await?;
                    Ok(started.map_or(Ended::Cancelled, done))
                })
            }
            Action::Publish => {
                let (Some(assigned), Some(port)) = (assigned, self.world.ports.get(name)) else {
                    return;
                };
                let entry = self.world.entries().get(name);
                let is_there = entry.is_none_or(|entry| entry.seen.published != Published::No);
                self.busy(name, Busy::Publishing);
                let publish = edges.publish(owned, assigned.mod_revision, port, is_there);
                self.tasks.spawn(unless_cancelled(cancel.clone(), async {
                    publish.await.map(|()| Ended::Published)
                }))
            }
            Action::Withdraw => {
                self.busy(name, Busy::Publishing);
                let withdraw = edges.withdraw(owned, self.world.ports.get(name));
                self.tasks.spawn(unless_cancelled(cancel.clone(), async {
                    withdraw.await.map(Ended::Withdrawn)
                }))
            }
            Action::Halt => {
                let Some(uuid) = self.busy(name, Busy::Stopping) else {
                    return;
                };
                self.tasks
                    .spawn(async move { edges.halt(owned, uuid).await.map(Ended::Loaded) })
            }
            Action::Stop => {
                let Some(uuid) = self.busy(name, Busy::Stopping) else {
                    return;
                };
                self.tasks
                    .spawn(async move { edges.stop(owned, uuid).await.map(|()| Ended::Stopped) })
            }
            Action::Suspend => {
                self.busy(name, Busy::Stopping);
                self.tasks
                    .spawn(async move { edges.suspend(owned).await.map(|()| Ended::Suspended) })
            }
            Action::Fence | Action::Unfence => {
                let Some(assigned) = assigned else { return };
                self.busy(name, Busy::Fencing);
                let fence = edges.fence(owned, assigned.assignment, assigned.mod_revision);
                self.tasks
                    .spawn(async move { fence.await.map(Ended::Fenced) })
            }
            Action::Report => {
                self.busy(name, Busy::Reporting);
                self.tasks
                    .spawn(async move { edges.report(owned).await.map(Ended::Reported) })
            }
        };
        let uuid = self
            .world
            .entries()
            .get(name)
            .map_or(Uuid::nil(), |entry| entry.seen.uuid);
        self.running.insert(
            spawned.id(),
            Task {
                name: name.to_owned(),
                uuid,
                begun: Instant::now(),
                cancel,
            },
        );
    }

    /// What a start needs; none when there is no port to publish it on.
    fn job(&mut self, name: &str, assigned: Assigned, texts: Arc<Texts>) -> Option<Job> {
        let kind = kind_of(name, &assigned.assignment.work);
        let entry = self
            .world
            .begin(name, assigned.assignment.uuid, kind, outside::now());
        entry.seen.busy = Some(Busy::Starting);
        entry.seen.fenced = is_single(&assigned.assignment.work);
        entry.progress = Progress::Preparing;
        let port = (kind == Kind::Routable).then(|| self.take_port(name));
        if port == Some(None) {
            self.world
                .failed(name, &StepError::NoPort, self.clock.elapsed());
            return None;
        }
        Some(Job {
            name: name.to_owned(),
            assignment: assigned.assignment,
            mod_revision: assigned.mod_revision,
            port: port.flatten(),
            saved: self.world.saved.get(name).cloned(),
            texts,
        })
    }

    fn busy(&mut self, name: &str, busy: Busy) -> Option<Uuid> {
        let entry = self.world.entry_mut(name)?;
        entry.seen.busy = Some(busy);
        Some(entry.seen.uuid)
    }

    fn take_port(&mut self, name: &str) -> Option<u16> {
        let (address, runtime) = (self.edges.host.address, &self.edges.runtime);
        self.world
            .ports
            .take(name, |port| runtime.port_is_free((address, port).into()))
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

/// Work of a kind of which nothing else is known.
fn work_of(kind: Kind) -> Work {
    match kind {
        Kind::Unit => Work::Unit {
            hash: String::new(),
        },
        Kind::Routable | Kind::Plain | Kind::Run => Work::Process {
            rollout: None,
            memory_bytes: 0,
            cpu_shares: 0,
            single: false,
        },
    }
}

/// Does what may wait for etcd, unless there is no time for that any more.
async fn unless_cancelled(
    cancel: CancellationToken,
    work: impl Future<Output = Result<Ended, StepError>>,
) -> Result<Ended, StepError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(Ended::Unknown),
        done = work => done,
    }
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
