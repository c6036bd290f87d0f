//! Processes of single types: nobody else runs them, and the fence stands around them.

use std::{io, sync::Arc};

use tokio::time;
use tracing::info;

use super::{CLAIM_LIMIT, Edges, Job, StepError, process_name};
use crate::{
    agent::{cache, lease, runtime::Runtime, world::mark_of},
    model::{Assignment, MachineState, Revision},
    outside,
    plan::units::Lease,
    render::unit::service,
    store::{CommitError, Txn, keys},
    systemd::Units,
};

impl<U: Units, R: Runtime> Edges<U, R> {
    /// Makes sure that a process of a single type may be started: nobody else starts it, and the fence
    /// stands around it.
    ///
    /// The leader places another one only in a transaction that compares that this host is absent, or
    /// once the host's report doesn't name this one any more. So the report names it first. If then the
    /// assignment is still what it was, and this host is present, what the leader decides from now on
    /// it decides on having seen that report.
    pub(super) async fn claim(&self, job: &Job) -> Result<(), StepError> {
        let uuid = job.assignment.uuid;
        let names_it = |state: &MachineState| {
            let process = state.processes.get(&job.name);
            process.is_some_and(|process| process.uuid == uuid)
        };
        let named = self.standing.confirmed.until(names_it);
        if time::timeout(CLAIM_LIMIT, named).await.is_err() {
            return Err(StepError::Unclaimed);
        }
        let unchanged = Txn::new()
            .unchanged(
                &keys::assignment(&self.machine, &job.name),
                job.mod_revision,
            )
            .present(&keys::machine(&self.machine));
        match self.store.commit(unchanged).await {
            Ok(_) => {}
            Err(CommitError::Conflict) => return Err(StepError::Outdated),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        lease::set_fenced(&self.paths, &job.name, mark_of(&job.assignment.work))?;
        self.units.start(lease::FENCE_UNIT).await?;
        match *self.standing.lease.borrow() {
            Lease::Held => Ok(()),
            Lease::Expired => Err(StepError::Lease),
        }
    }

    /// Puts a process that runs behind the fence, or takes it out, as its assignment says now.
    pub async fn fence(
        self: Arc<Self>,
        name: String,
        assignment: Assignment,
        mod_revision: Revision,
    ) -> Result<Option<u32>, StepError> {
        let fenced = mark_of(&assignment.work);
        lease::set_fenced(&self.paths, &name, fenced)?;
        if fenced.is_some() {
            self.units.start(lease::FENCE_UNIT).await?;
        }
        let paths = self.paths.clone();
        outside::blocking(move || cache::amend(&paths, &name, assignment, mod_revision))
            .await
            .map_err(io::Error::other)??;
        Ok(fenced)
    }

    /// Stops a process's units and keeps all else of it.
    pub async fn suspend(self: Arc<Self>, name: String) -> Result<(), StepError> {
        let process = process_name(&name)?;
        self.stop_units(&process).await?;
        info!(
            unit = service(&process),
            "process stopped: its type is single, and the host's lease has run out"
        );
        Ok(())
    }
}
