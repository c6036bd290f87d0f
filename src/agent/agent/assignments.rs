//! The loop and its assignments: what etcd says, what the cache says while etcd is silent, and what
//! is kept for the next start without it.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use super::{
    super::{
        runtime::Runtime,
        steps::Job,
        texts::Texts,
        world::{Assigned, Entry},
    },
    Agent, Event, KEEP_RETRY, PATIENCE,
};
use crate::{
    model::{Assignment, Desired, Revision, SCHEMA, Work},
    outside,
    plan::units::{Kind, Knowledge},
    store::{Change, Update, keys},
    systemd::Units,
};

/// How often this host's last report is tried to be read, and the pause between two tries.
const RECALL_TRIES: u32 = 5;
const RECALL_RETRY: Duration = Duration::from_millis(200);

impl<U: Units, R: Runtime> Agent<U, R> {
    pub(super) async fn assignments(&mut self, update: Update) {
        if update.first {
            // The first view is whole: what it does not hold is not assigned.
            self.world.unassign_all();
            if self.world.knowledge != Knowledge::Live {
                self.recall().await;
            }
        }
        let is_new_to_us = self.world.knowledge != Knowledge::Live;
        for Change { key, entry, .. } in update.changes {
            let Some((_, name)) = keys::parse_assignment(&key) else {
                continue;
            };
            if is_new_to_us {
                self.world.inherit(name);
            }
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
                    self.world.assign(name, Some(assigned), outside::now());
                }
                Some((Err(error), mod_revision)) => {
                    // One record that can't be read stops nothing: what is known of it stays.
                    error!(key, %error, "an assignment can't be read and is left as it was");
                    self.keep_unreadable(name, mod_revision);
                }
                None => {
                    self.world.assign(name, None, outside::now());
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
        self.world.assign(name, Some(assigned), outside::now());
    }

    /// Reads the host's own last report: what was withdrawn, and since when.
    ///
    /// A process of which this is not known would count as one that was never published, so it is read
    /// again when etcd doesn't answer: it has told of the assignments just now.
    async fn recall(&mut self) {
        let key = keys::state(&self.edges.machine);
        for _ in 0..RECALL_TRIES {
            match self.edges.store.get(&key).await {
                Ok(Some(state)) => return self.world.recall(&state.value),
                Ok(None) => return,
                Err(error) => warn!(%error, "this host's last report can't be read"),
            }
            time::sleep(RECALL_RETRY).await;
        }
    }

    /// etcd has not answered: what the cache knows is started.
    pub(super) fn out_of_patience(&mut self) {
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
            self.world.inherit(&name);
            self.world.assign(&name, Some(assigned), outside::now());
        }
        self.world.learn(Knowledge::Cached);
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
    pub(super) fn keep_again(&mut self) {
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
            marks: 0,
        },
    }
}
