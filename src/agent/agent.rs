//! The agent's loop: everything that happens comes in here, the plan is made anew, and its actions go
//! out as tasks. The loop itself waits for nothing else.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinSet},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    cache,
    events::Happened,
    files,
    oneoff::End,
    runtime::Runtime,
    socket::Word,
    stats::Vital,
    steps::{Edges, Job, Progress, StepError, unit_of},
    world::{Assigned, World, kind_of},
};
use crate::{
    model::{Assignment, Desired, MachineState, Revision},
    outside,
    plan::units::{Action, Busy, Kind, Knowledge, Published, plan},
    store::{Change, Feed, Update, keys},
    systemd::{News, UnitStatus, Units},
};

/// How long etcd is waited for at the start before the cache has to do.
const PATIENCE: Duration = Duration::from_secs(5);
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
}

/// Asks a running agent's loop about its processes.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Event>);

impl Asker {
    /// What the loop knows; none when it does not answer in time or has ended.
    pub async fn ask(&self, limit: Duration) -> Option<Vec<Vital>> {
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            self.0.send(Event::Ask(sender)).await.ok()?;
            receiver.await.ok()
        };
        time::timeout(limit, asked).await.ok()?
    }
}

/// How a task has ended.
#[derive(Debug)]
enum Ended {
    Started(UnitStatus),
    Cancelled,
    Stopped,
    Published,
    Withdrawn(Revision),
    Reported(End),
}

struct Task {
    name: String,
    uuid: Uuid,
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
    pub(super) clock: Instant,
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
        world.saved = cache::load(&edges.paths)?;
        for (name, saved) in &world.saved {
            if let Some(port) = saved.port {
                world.ports.remember(name, port);
            }
        }
        let now = outside::now();
        for found in files::scan(&edges.paths)? {
            let unit = unit_of(&found.name);
            let status = match edges.units.status(&unit).await {
                Ok(status) => status,
                Err(error) => return Err(std::io::Error::other(error)),
            };
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
            world.adopt(&found.name, found.uuid, found.port, status, now);
        }
        let feed = edges
            .store
            .follow(keys::schedule_of(&edges.machine).as_str());
        Ok(Self {
            edges,
            world,
            feed,
            words,
            events: mpsc::channel(EVENTS_MAX),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            states,
            clock: Instant::now(),
        })
    }

    /// Through this the loop can be asked while it runs.
    pub fn asker(&self) -> Asker {
        Asker(self.events.0.clone())
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
            // What has come in meanwhile belongs to the same round.
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

    /// Plans, begins what is to be done, and reports.
    fn round(&mut self) -> Option<Duration> {
        let plan = plan(
            self.world.knowledge,
            &self.world.wanted(),
            &self.world.seen(),
            self.clock.elapsed(),
        );
        for (name, action) in &plan.actions {
            debug!(name, ?action, "begins");
            self.begin(name, *action);
        }
        if self.world.knowledge != Knowledge::Nothing {
            let state = self.world.report(outside::now());
            self.states.send_if_modified(|old| {
                let changed = old.as_ref() != Some(&state);
                if changed {
                    *old = Some(state);
                }
                changed
            });
        }
        plan.wake_at()
    }

    async fn assignments(&mut self, update: Update) {
        if update.first {
            // The first view is whole: what it does not hold is not assigned.
            self.world.assigned.clear();
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
                    if assignment.desired != Desired::Run {
                        self.forget(name);
                    }
                    self.world.assigned.insert(
                        name.to_owned(),
                        Assigned {
                            assignment,
                            mod_revision,
                        },
                    );
                }
                Some((Err(error), _)) => {
                    // One record that can't be read stops nothing: what is known of it stays.
                    error!(key, %error, "an assignment can't be read and is left as it was");
                    self.keep_unreadable(name);
                }
                None => {
                    self.world.assigned.remove(name);
                    self.forget(name);
                }
            }
        }
        if self.world.knowledge != Knowledge::Live {
            self.forget_unassigned();
        }
        self.world.knowledge = Knowledge::Live;
    }

    /// Removes a name from the cache: a start without etcd must not bring back what is on its way out.
    fn forget(&mut self, name: &str) {
        self.world.saved.remove(name);
        if let Err(error) = cache::forget(&self.edges.paths, name) {
            warn!(name, %error, "the cache of an assignment can't be removed");
        }
    }

    /// Forgets what went while the agent was away.
    fn forget_unassigned(&mut self) {
        let gone = |name: &&String| !self.world.assigned.contains_key(*name);
        let gone: Vec<String> = self.world.saved.keys().filter(gone).cloned().collect();
        for name in gone {
            self.forget(&name);
            if !self.world.entries.contains_key(&name) {
                self.world.ports.release(&name);
            }
        }
    }

    /// Leaves a name as it is whose assignment can't be read.
    fn keep_unreadable(&mut self, name: &str) {
        if self.world.assigned.contains_key(name) {
            return;
        }
        if let Some(saved) = self.world.saved.get(name) {
            let assigned = Assigned {
                assignment: saved.assignment.clone(),
                mod_revision: saved.mod_revision,
            };
            self.world.assigned.insert(name.to_owned(), assigned);
        }
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
        for (name, saved) in &self.world.saved {
            let assigned = Assigned {
                assignment: saved.assignment.clone(),
                mod_revision: saved.mod_revision,
            };
            self.world.assigned.insert(name.clone(), assigned);
        }
        self.world.knowledge = Knowledge::Cached;
    }

    fn news(&mut self, news: News) {
        for (unit, change) in news.units {
            if let Some(name) = self.world.unit_changed(&unit, change, self.clock.elapsed()) {
                self.crashed(&name);
            }
        }
        if news.resync {
            // Signals were missed: each unit is read again.
            for name in self.world.entries.keys() {
                let unit = unit_of(name);
                let (edges, events, name) =
                    (self.edges.clone(), self.events.0.clone(), name.clone());
                tokio::spawn(async move {
                    if let Ok(status) = edges.units.status(&unit).await {
                        let _ = events.send(Event::Status(name, status)).await;
                    }
                });
            }
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
        let Some(entry) = self.world.entries.get(name) else {
            return;
        };
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
                if let Some(entry) = self.world.entries.get_mut(&name) {
                    entry.progress = progress;
                }
            }
            Event::Log(name, lines) => {
                if let Some(entry) = self.world.entries.get_mut(&name) {
                    entry.log = lines;
                }
            }
            Event::Status(name, status) => {
                let change = crate::systemd::UnitChange {
                    active: Some(status.active),
                    exit: Some(status.exit),
                    restarts: Some(status.restarts),
                    up_since: Some(status.up_since),
                };
                if let Some(name) =
                    self.world
                        .unit_changed(&unit_of(&name), change, self.clock.elapsed())
                {
                    self.crashed(&name);
                }
            }
            Event::Ask(sender) => {
                // Whoever asked may have gone.
                let _ = sender.send(self.world.vitals());
            }
        }
    }

    fn ended(&mut self, ended: Result<(Id, Result<Ended, StepError>), tokio::task::JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(Task { name, uuid, .. }) = self.running.remove(&id) else {
            return;
        };
        if self
            .world
            .entries
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
            Ended::Started(status) => entry.started(status),
            Ended::Cancelled | Ended::Stopped => {}
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
                entry.end = Some(end);
            }
        }
    }

    /// Begins an action of the plan.
    fn begin(&mut self, name: &str, action: Action) {
        let assigned = self.world.assigned.get(name).cloned();
        if action == Action::Cancel {
            for task in self.running.values().filter(|task| task.name == name) {
                task.cancel.cancel();
            }
            if let Some(entry) = self.world.entries.get_mut(name) {
                entry.seen.busy = Some(Busy::Cancelling);
            }
            return;
        }
        let (edges, owned) = (self.edges.clone(), name.to_owned());
        let cancel = CancellationToken::new();
        let spawned = match action {
            Action::Cancel => return,
            Action::Start => {
                let Some(job) = assigned.and_then(|assigned| self.job(name, assigned)) else {
                    return;
                };
                let (events, cancel) = (self.events.0.clone(), cancel.clone());
                let progress = move |progress| {
                    // Only for people: one that does not fit is left out.
                    let _ = events.try_send(Event::Progress(owned.clone(), progress));
                };
                self.tasks.spawn(async move {
                    let started = edges.start(job, cancel, progress).await?;
                    Ok(started.map_or(Ended::Cancelled, Ended::Started))
                })
            }
            Action::Publish => {
                let (Some(assigned), Some(port)) = (assigned, self.world.ports.get(name)) else {
                    return;
                };
                self.busy(name, Busy::Publishing);
                self.tasks.spawn(async move {
                    edges
                        .publish(owned, assigned.mod_revision, port)
                        .await
                        .map(|()| Ended::Published)
                })
            }
            Action::Withdraw => {
                self.busy(name, Busy::Publishing);
                let port = self.world.ports.get(name);
                self.tasks
                    .spawn(async move { edges.withdraw(owned, port).await.map(Ended::Withdrawn) })
            }
            Action::Stop => {
                let Some(uuid) = self.busy(name, Busy::Stopping) else {
                    return;
                };
                self.tasks
                    .spawn(async move { edges.stop(owned, uuid).await.map(|()| Ended::Stopped) })
            }
            Action::Report => {
                self.busy(name, Busy::Reporting);
                self.tasks
                    .spawn(async move { edges.report(owned).await.map(Ended::Reported) })
            }
        };
        let uuid = self
            .world
            .entries
            .get(name)
            .map_or(Uuid::nil(), |entry| entry.seen.uuid);
        self.running.insert(
            spawned.id(),
            Task {
                name: name.to_owned(),
                uuid,
                cancel,
            },
        );
    }

    /// What a start needs; none when there is no port to publish it on.
    fn job(&mut self, name: &str, assigned: Assigned) -> Option<Job> {
        let kind = kind_of(name, &assigned.assignment.work);
        let entry = self
            .world
            .begin(name, assigned.assignment.uuid, kind, outside::now());
        entry.seen.busy = Some(Busy::Starting);
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
        })
    }

    fn busy(&mut self, name: &str, busy: Busy) -> Option<Uuid> {
        let entry = self.world.entries.get_mut(name)?;
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

/// Waits until the channel says so; for ever when it never will.
async fn until_true(channel: &mut watch::Receiver<bool>) {
    if channel.wait_for(|said| *said).await.is_err() {
        std::future::pending::<()>().await;
    }
}
