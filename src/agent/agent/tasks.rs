//! The loop and its tasks: each action of a plan is begun as one, and its end is taken in.

use std::sync::Arc;

use tokio::{
    task::{Id, JoinError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    super::{
        events::Happened,
        oneoff::End,
        runtime::Runtime,
        steps::{Job, Progress, StepError},
        texts::Texts,
        world::{Assigned, kind_of, mark_of},
    },
    Agent, Event,
};
use crate::{
    model::{Desired, Revision},
    outside,
    plan::units::{Action, Busy, Kind, Published},
    systemd::{UnitStatus, Units},
};

/// How a task has ended.
#[derive(Debug)]
pub(super) enum Ended {
    Started(UnitStatus),
    Loaded(UnitStatus),
    Cancelled,
    Stopped,
    Published,
    Withdrawn(Revision),
    Reported(End),
    Suspended,
    /// Behind the fence, or out of it.
    Fenced(Option<u32>),
    /// Left off, and whether the address was written or removed is not known.
    Unknown,
}

/// What is known of a task while it runs.
pub(super) struct Task {
    name: String,
    uuid: Uuid,
    begun: Instant,
    cancel: CancellationToken,
}

impl<U: Units, R: Runtime> Agent<U, R> {
    pub(super) fn ended(&mut self, ended: Result<(Id, Result<Ended, StepError>), JoinError>) {
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
                debug!(name, "the assignment has changed while its address was");
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

    /// Begins an action of the plan.
    pub(super) fn begin(&mut self, name: &str, action: Action, texts: &Arc<Texts>) {
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
                // From now on it may stand there, and an older withdrawal means nothing any more.
                if let Some(entry) = self.world.entry_mut(name) {
                    entry.withdrawn = None;
                }
                let publish = edges.publish(owned, assigned.mod_revision, port, is_there);
                self.tasks.spawn(unless_cancelled(cancel.clone(), async {
                    publish.await.map(|()| Ended::Published)
                }))
            }
            Action::Withdraw => {
                self.busy(name, Busy::Publishing);
                let asked = assigned.filter(|assigned| assigned.assignment.desired != Desired::Run);
                let asked_at = asked.map(|assigned| assigned.mod_revision);
                let withdraw = edges.withdraw(owned, asked_at, self.world.ports.get(name));
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
        entry.seen.fenced = mark_of(&assigned.assignment.work);
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
