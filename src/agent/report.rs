//! Writes the host's report, `/deis/state/<machine-id>`: on change only, the first change at once,
//! then at most ten times a second. While processes are on their way up or down, more is about to be
//! said: after the first few reports the others then wait for each other, until all are there.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::world::kind_of_name;
use crate::{
    burst::Burst,
    model::{MachineId, MachineState, Phase, ProcessState, Revision},
    outside,
    plan::units::Kind,
    store::{CommitError, Store, StoreError, Txn, keys},
};

/// Shortest time between two writes.
const PAUSE: Duration = Duration::from_millis(100);
/// The same on a host where more is about to be said.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// Reports of such a host that don't wait: enough for one process to come and another to go.
const BURST: u32 = 3;
/// How long a process may be on its way before nobody waits for it any more.
const PATIENCE: SignedDuration = SignedDuration::from_secs(15);
/// Pause after a write that failed.
const RETRY: Duration = Duration::from_millis(500);

/// The host's report as it stands in the store, for those that wait until it says something. A watch
/// channel would wake them in any order; here whoever came first goes first.
#[derive(Debug, Default, Clone)]
pub struct Confirmed(Arc<(Mutex<Option<MachineState>>, Notify)>);

impl Confirmed {
    fn set(&self, state: &MachineState) {
        let (known, changed) = &*self.0;
        *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.clone());
        changed.notify_waiters();
    }

    /// Waits until what stands in the store is so. Cancel safe.
    pub async fn until(&self, is_so: impl Fn(&MachineState) -> bool) {
        let (known, changed) = &*self.0;
        loop {
            let change = changed.notified();
            let holds = {
                let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.as_ref().is_some_and(&is_so)
            };
            if holds {
                return;
            }
            change.await;
        }
    }
}

/// Writes whatever `states` holds until `stop`, and once more for each `registration` of the host; `None`
/// is not written. `confirmed` is told what stands in the store.
pub async fn write_states(
    store: Store,
    machine: MachineId,
    mut states: watch::Receiver<Option<MachineState>>,
    mut registration: watch::Receiver<Option<Revision>>,
    confirmed: Confirmed,
    stop: CancellationToken,
) {
    let key = keys::state(&machine);
    let mut written: Option<MachineState> = None;
    // Revision of what is in etcd; unknown before the first write and after a conflict.
    let mut at: Option<Revision> = None;
    let mut failing = false;
    let mut pace = Burst::new(BURST, BUSY_PAUSE);
    loop {
        let registered = *registration.borrow_and_update();
        let of_now = |state: &Option<MachineState>| {
            let mut state = state.clone()?;
            state.registration = registered;
            Some(state)
        };
        let state = of_now(&states.borrow_and_update());
        let is_settled = {
            let rests = |state: &MachineState| is_settled(state, outside::now());
            state.as_ref().is_none_or(rests) || state == written
        };
        if !is_settled && pace.ready_at() > Instant::now() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = time::sleep(PAUSE) => {}
                () = settles(&mut states) => {}
            }
            continue;
        }
        let pause = match state {
            Some(state) if written.as_ref() != Some(&state) => {
                let txn = match at {
                    Some(revision) => Txn::new().unchanged(&key, revision),
                    None => match store.get(&key).await {
                        Ok(Some(old)) if old.value == state => {
                            confirmed.set(&state);
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
                        if !is_settled {
                            pace.spend(Instant::now());
                        }
                        confirmed.set(&state);
                        (written, at) = (Some(state), Some(revision));
                        PAUSE
                    }
                    // What stands there now is not known: it may be this very state, unanswered.
                    Err(CommitError::Conflict) => {
                        (written, at) = (None, None);
                        PAUSE
                    }
                    Err(CommitError::Store(error)) => {
                        complain(&error, &mut failing);
                        (written, at) = (None, None);
                        RETRY
                    }
                }
            }
            _ => {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    changed = states.changed() => if changed.is_err() { return },
                    // Whoever registered may have ended: then it is the last of them.
                    Ok(()) = registration.changed() => {}
                }
                continue;
            }
        };
        // Whoever waits for the last of what was on its way hears of it at once.
        let more_comes = !is_settled && pause == PAUSE;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = time::sleep(pause) => {}
            () = settles(&mut states), if more_comes => {}
        }
    }
}

/// Waits until nothing is about to change any more.
async fn settles(states: &mut watch::Receiver<Option<MachineState>>) {
    let rests = |state: &Option<MachineState>| {
        let state = state.as_ref();
        state.is_some_and(|state| is_settled(state, outside::now()))
    };
    if states.wait_for(rests).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Whether nothing on this host is known to change in a moment.
fn is_settled(state: &MachineState, now: Timestamp) -> bool {
    let on_its_way = |process: &ProcessState| match process.phase {
        Phase::Preparing | Phase::Starting | Phase::Stopping => true,
        // Healthy, and about to be published.
        Phase::Up => !process.ready && process.withdrawn.is_none(),
        Phase::Crashed | Phase::Error | Phase::Idle => false,
    };
    let is_recent = |process: &ProcessState| now.duration_since(process.since) < PATIENCE;
    // Somebody sits and waits for the end of a one-off.
    let is_one_off = |name: &str| kind_of_name(name) == Kind::Run;
    let mut processes = state.processes.iter();
    !processes.any(|(name, process)| on_its_way(process) && is_recent(process) && !is_one_off(name))
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
    use crate::model::SCHEMA;

    fn state(restarts: u32, phase: Phase) -> MachineState {
        let process = ProcessState {
            unit: None,
            uuid: uuid::Uuid::nil(),
            phase,
            ready: phase == Phase::Up,
            port: None,
            withdrawn: None,
            fenced: None,
            restarts,
            exit: None,
            exit_code: None,
            since: outside::now(),
            reason: None,
            log: Vec::new(),
        };
        MachineState {
            schema: SCHEMA,
            registration: None,
            processes: BTreeMap::from([("a_v1.web.1".into(), process)]),
        }
    }

    /// A reporter and what it has to tell.
    struct Reporter {
        store: Store,
        machine: MachineId,
        states: watch::Sender<Option<MachineState>>,
        registration: watch::Sender<Option<Revision>>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Reporter {
        fn start() -> Self {
            let store = Store::memory();
            let machine: MachineId = "0123456789abcdef0123456789abcdef".parse().expect("id");
            let (states, receiver) = watch::channel(None);
            let (registration, registered) = watch::channel(None);
            let stop = CancellationToken::new();
            let task = write_states(
                store.clone(),
                machine.clone(),
                receiver,
                registered,
                Confirmed::default(),
                stop.clone(),
            );
            let task = tokio::spawn(task);
            Self {
                store,
                machine,
                states,
                registration,
                stop,
                task,
            }
        }

        fn say(&self, state: MachineState) {
            self.states.send_replace(Some(state));
        }

        /// What stands in the store, and how many changes of the store that was.
        async fn written(&self) -> (Option<MachineState>, Revision) {
            let found = self
                .store
                .get(&keys::state(&self.machine))
                .await
                .expect("read");
            let all = self.store.list(&keys::states()).await.expect("listed");
            (found.map(|found| found.value), all.revision)
        }
    }

    /// A write of ours that was carried out and not answered looks just like that of somebody else.
    #[tokio::test(start_paused = true)]
    async fn what_was_written_without_our_knowing_gives_way_also_to_what_stood_there_before() {
        let reporter = Reporter::start();
        reporter.say(state(0, Phase::Up));
        time::sleep(Duration::from_millis(500)).await;
        let foreign = Txn::new().put(&keys::state(&reporter.machine), &state(1, Phase::Up));
        reporter.store.commit(foreign).await.expect("written");
        reporter.say(state(2, Phase::Up));
        time::sleep(Duration::from_millis(20)).await;
        reporter.say(state(0, Phase::Up));
        time::sleep(Duration::from_millis(500)).await;
        let (last, _) = reporter.written().await;
        let restarts = |state: &MachineState| state.processes["a_v1.web.1"].restarts;
        assert_eq!(last.as_ref().map(restarts), Some(0));
        reporter.stop.cancel();
        reporter.task.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_registers_anew_says_the_same_once_more() {
        let reporter = Reporter::start();
        reporter.say(state(0, Phase::Up));
        let mut last = 0;
        for registration in [None, Some(7), Some(9)] {
            reporter.registration.send_replace(registration);
            time::sleep(Duration::from_millis(500)).await;
            let (said, revision) = reporter.written().await;
            assert_eq!(said.expect("written").registration, registration);
            assert!(revision > last, "written once more");
            last = revision;
        }
        reporter.registration.send_replace(Some(9));
        time::sleep(Duration::from_secs(5)).await;
        assert_eq!(reporter.written().await.1, last, "and not again");
        reporter.stop.cancel();
        reporter.task.await.expect("ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_changes_is_few_writes_and_the_last_one_stands() {
        let reporter = Reporter::start();
        let (_, before) = reporter.written().await;
        for n in 0..100 {
            reporter.say(state(n, Phase::Up));
            time::sleep(Duration::from_millis(5)).await;
        }
        time::sleep(Duration::from_millis(300)).await;
        let (last, after) = reporter.written().await;
        let restarts = |state: &MachineState| state.processes["a_v1.web.1"].restarts;
        assert_eq!(last.as_ref().map(restarts), Some(99));
        let writes = after - before;
        assert!(
            (2..=8).contains(&writes),
            "{writes} writes in half a second"
        );
        reporter.say(last.expect("written"));
        time::sleep(Duration::from_secs(5)).await;
        let (_, same) = reporter.written().await;
        assert_eq!(same, after, "nothing is written without a change");
        reporter.stop.cancel();
        reporter.task.await.expect("ended");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_is_told_together_and_its_end_at_once() {
        let reporter = Reporter::start();
        let (_, before) = reporter.written().await;
        for n in 0..200 {
            reporter.say(state(n, Phase::Starting));
            time::sleep(Duration::from_millis(50)).await;
        }
        let (_, busy) = reporter.written().await;
        let writes = busy - before;
        assert!((6..=10).contains(&writes), "{writes} writes in ten seconds");
        reporter.say(state(200, Phase::Up));
        time::sleep(2 * PAUSE).await;
        let (last, _) = reporter.written().await;
        assert_eq!(
            last.map(|state| state.processes["a_v1.web.1"].ready),
            Some(true)
        );
        // Quiet for a while: the first ones are told at once again.
        time::sleep(2 * BUSY_PAUSE).await;
        reporter.say(state(201, Phase::Starting));
        time::sleep(PAUSE).await;
        let (last, _) = reporter.written().await;
        assert_eq!(
            last.map(|state| state.processes["a_v1.web.1"].restarts),
            Some(201)
        );
        reporter.stop.cancel();
        reporter.task.await.expect("ended");
    }
}
