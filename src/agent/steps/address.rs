//! Addresses of processes: published and withdrawn.

use std::{net::SocketAddr, sync::Arc};

use tracing::info;

use super::{Edges, StepError, process_name};
use crate::{
    agent::runtime::Runtime,
    model::Revision,
    store::{CommitError, Txn, keys},
    systemd::Units,
};

impl<U: Units, R: Runtime> Edges<U, R> {
    /// Publishes a process's address, as long as its assignment is the one that we know; `is_there` when
    /// a former life of the agent may have done so.
    pub async fn publish(
        self: Arc<Self>,
        name: String,
        mod_revision: Revision,
        port: u16,
        is_there: bool,
    ) -> Result<(), StepError> {
        let process = process_name(&name)?;
        let key = keys::service(&process.app, &process);
        let address = SocketAddr::new(self.host.address, port).to_string();
        let assignment = keys::assignment(&self.machine, &name);
        if is_there
            && self
                .store
                .get(&key)
                .await?
                .is_some_and(|old| old.value == address)
        {
            return Ok(());
        }
        // Whatever stood there: as long as the assignment is ours, so is the name.
        let txn = Txn::new()
            .unchanged(&assignment, mod_revision)
            .put(&key, &address);
        match self.store.commit(txn).await {
            Ok(revision) => {
                info!(process = name, address, revision, "published");
                Ok(())
            }
            Err(CommitError::Conflict) => Err(StepError::Outdated),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Withdraws a process's address if it is ours; says at which revision it was gone. When that is
    /// what its assignment asks for, only as long as that is the one that we know: the leader may have
    /// taken it back, and count on the process.
    pub async fn withdraw(
        self: Arc<Self>,
        name: String,
        asked_at: Option<Revision>,
        port: Option<u16>,
    ) -> Result<Revision, StepError> {
        let process = process_name(&name)?;
        let key = keys::service(&process.app, &process);
        let assignment = keys::assignment(&self.machine, &name);
        let base = || match asked_at {
            Some(revision) => Txn::new().unchanged(&assignment, revision),
            None => Txn::new(),
        };
        let ours = |address: &str| {
            let address = address.parse::<SocketAddr>();
            address.is_ok_and(|a| {
                a.ip() == self.host.address && port.is_none_or(|port| a.port() == port)
            })
        };
        loop {
            let old = self.store.get(&key).await?;
            let txn = match old {
                Some(old) if ours(&old.value) => base().value_is(&key, &old.value).delete(&key),
                // Gone already (the answer was lost, or a former life did it), or another host's by now.
                // Nobody knows since when, and routers acknowledge no revision but of what they hear:
                // so they are told something, which is later.
                _ => base().put(&keys::withdrawn(), &name),
            };
            match self.store.commit(txn).await {
                Ok(revision) => {
                    info!(process = name, revision, "withdrawn");
                    return Ok(revision);
                }
                Err(CommitError::Conflict) => {
                    let there = self.store.get(&assignment).await?;
                    let there = there.map(|there| there.mod_revision);
                    if asked_at.is_some() && there != asked_at {
                        return Err(StepError::Outdated);
                    }
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }
}
