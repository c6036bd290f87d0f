//! Writes the host's report, `/deis/state/<machine-id>`: on change only, the first change at once,
//! then at most ten times a second.

use std::time::Duration;

use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    model::{MachineId, MachineState, Revision},
    store::{CommitError, Store, StoreError, Txn, keys},
};

/// Shortest time between two writes.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause after a write that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Writes whatever `states` holds until `stop`; `None` is not written. `confirmed` is told what stands
/// in the store.
pub async fn write_states(
    store: Store,
    machine: MachineId,
    mut states: watch::Receiver<Option<MachineState>>,
    confirmed: watch::Sender<Option<MachineState>>,
    stop: CancellationToken,
) {
    let key = keys::state(&machine);
    let mut written: Option<MachineState> = None;
    // Revision of what is in etcd; unknown before the first write and after a conflict.
    let mut at: Option<Revision> = None;
    let mut failing = false;
    loop {
        let state = states.borrow_and_update().clone();
        let pause = match state {
            Some(state) if written.as_ref() != Some(&state) => {
                let txn = match at {
                    Some(revision) => Txn::new().unchanged(&key, revision),
                    None => match store.get(&key).await {
                        Ok(Some(old)) if old.value == state => {
                            confirmed.send_replace(Some(state.clone()));
                            (written, at) = (Some(state), Some(old.mod_revision));
                            continue;
                        }
                        Ok(Some(old)) => Txn::new().unchanged(&key, old.mod_revision),
                        Ok(None) => Txn::new().absent(&key),
                        Err(error) => {
                            complain(&error, &mut failing);
                            if pause_or_stop(RETRY, &stop).await {
                                return;
                            }
                            continue;
                        }
                    },
                };
                match store.commit(txn.put(&key, &state)).await {
                    Ok(revision) => {
                        failing = false;
                        confirmed.send_replace(Some(state.clone()));
                        (written, at) = (Some(state), Some(revision));
                        PAUSE
                    }
                    Err(CommitError::Conflict) => {
                        at = None;
                        PAUSE
                    }
                    Err(CommitError::Store(error)) => {
                        complain(&error, &mut failing);
                        at = None;
                        RETRY
                    }
                }
            }
            _ => {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    changed = states.changed() => if changed.is_err() { return },
                }
                continue;
            }
        };
        if pause_or_stop(pause, &stop).await {
            return;
        }
    }
}

/// Says once per outage that reports are not written.
fn complain(error: &StoreError, failing: &mut bool) {
    if !std::mem::replace(failing, true) {
        warn!(%error, "the host's report can't be written; trying on");
    }
}

async fn pause_or_stop(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => true,
        () = time::sleep(pause) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Phase, ProcessState, SCHEMA};

    fn state(restarts: u32) -> MachineState {
        let process = ProcessState {
            unit: None,
            uuid: uuid::Uuid::nil(),
            phase: Phase::Up,
            ready: true,
            port: None,
            withdrawn: None,
            restarts,
            exit: None,
            exit_code: None,
            since: jiff::Timestamp::UNIX_EPOCH,
            reason: None,
            log: Vec::new(),
        };
        MachineState {
            schema: SCHEMA,
            processes: BTreeMap::from([("a_v1.web.1".into(), process)]),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_changes_is_few_writes_and_the_last_one_stands() {
        let store = Store::memory();
        let machine: MachineId = "0123456789abcdef0123456789abcdef".parse().expect("id");
        let (sender, receiver) = watch::channel(None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(write_states(
            store.clone(),
            machine.clone(),
            receiver,
            watch::channel(None).0,
            stop.clone(),
        ));
        let key = keys::state(&machine);
        let before = store.list(&keys::states()).await.expect("listed").revision;
        for n in 0..100 {
            sender.send_replace(Some(state(n)));
            time::sleep(Duration::from_millis(5)).await;
        }
        time::sleep(Duration::from_millis(300)).await;
        let last = store.get(&key).await.expect("read").expect("there");
        assert_eq!(last.value, state(99));
        let writes = last.mod_revision - before;
        assert!(
            (2..=8).contains(&writes),
            "{writes} writes in half a second"
        );
        sender.send_replace(Some(state(99)));
        time::sleep(Duration::from_secs(5)).await;
        let same = store.get(&key).await.expect("read").expect("there");
        assert_eq!(
            same.mod_revision, last.mod_revision,
            "nothing is written without a change"
        );
        stop.cancel();
        task.await.expect("ended");
    }
}
