//! What operators want of hosts, written into their records: nothing new on them, nothing left on them,
//! or all as usual. The leader does the rest.

use jiff::Timestamp;

use crate::{
    model::{HostDrain, HostRecord, MachineId},
    store::{CommitError, Store, StoreError, Txn, keys},
};

/// Tries to change a record that somebody else is changing, too.
const TRIES: usize = 8;

/// Why a host's record is not changed.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// Its agent writes one when it first starts.
    #[error("machine {0} has no record in /deis/hosts/ yet")]
    Unknown(MachineId),
    /// Others changed it again and again.
    #[error("somebody else changes the record of machine {0} all the time; try again")]
    Contended(MachineId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Lets nothing new onto a host.
///
/// # Errors
/// When the host has no record, or the store fails.
pub async fn cordon(store: &Store, id: &MachineId) -> Result<HostRecord, HostsError> {
    change(store, id, |host| host.cordoned = true).await
}

/// Lets everything onto a host again.
///
/// # Errors
/// When the host has no record, or the store fails.
pub async fn uncordon(store: &Store, id: &MachineId) -> Result<HostRecord, HostsError> {
    change(store, id, |host| {
        host.cordoned = false;
        host.drain = None;
    })
    .await
}

/// Has everything leave a host, from now on; by the deadline, if there is one.
///
/// # Errors
/// When the host has no record, or the store fails.
pub async fn drain(
    store: &Store,
    id: &MachineId,
    now: Timestamp,
    deadline: Option<Timestamp>,
) -> Result<HostRecord, HostsError> {
    change(store, id, |host| {
        // The leader counts the time from `since`: what is given now is given from now on.
        let before = host.drain.as_ref().filter(|_| deadline.is_none());
        let since = before.map_or(now, |drain| drain.since);
        host.drain = Some(HostDrain { since, deadline });
    })
    .await
}

async fn change(
    store: &Store,
    id: &MachineId,
    change: impl Fn(&mut HostRecord),
) -> Result<HostRecord, HostsError> {
    let key = keys::host(id);
    for _ in 0..TRIES {
        let found = store.get(&key).await?;
        let found = found.ok_or_else(|| HostsError::Unknown(id.clone()))?;
        let mut record = found.value.clone();
        change(&mut record);
        if record == found.value {
            return Ok(record);
        }
        let txn = Txn::new()
            .unchanged(&key, found.mod_revision)
            .put(&key, &record);
        match store.commit(txn).await {
            Ok(_) => return Ok(record),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(HostsError::Contended(id.clone()))
}
