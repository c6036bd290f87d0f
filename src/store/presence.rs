//! Leases that are kept, and keys that show who is there.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{info, warn};

use super::{CommitError, Key, Store, StoreError, Txn, backend::Backend};
use crate::{
    backoff::{Backoff, random},
    model::{Record, Revision},
};

/// Pause after a lease was not renewed: each member has had its time to answer.
const RETRY: Duration = Duration::from_millis(200);
/// First pause between two tries to register again.
const REGISTER_FIRST: Duration = Duration::from_millis(500);
/// Longest one, when the store isn't there; see [`Backoff::next_after`].
const REGISTER_MAX: Duration = Duration::from_secs(2);
/// A registration that was kept for so long was well. One that is lost sooner has found a store that
/// can't take it.
const WELL_AFTER: Duration = Duration::from_secs(20);

/// A lease that is kept alive until it is dropped or lost.
#[derive(Debug)]
pub struct Lease {
    id: i64,
    state: watch::Receiver<LeaseState>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct LeaseState {
    /// Until then the server can't have ended it, by our own monotonic clock.
    until: Instant,
    /// The server says that it is gone.
    lost: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lease {
    pub(super) async fn grant(
        backend: Arc<dyn Backend>,
        ttl: Duration,
    ) -> Result<Self, StoreError> {
        let asked = Instant::now();
        let id = backend.grant(ttl).await?;
        let (sender, state) = watch::channel(LeaseState {
            until: asked + ttl,
            lost: false,
        });
        let task = tokio::spawn(async move {
            let mut pause = ttl / 3;
            loop {
                time::sleep(pause).await;
                pause = ttl / 3;
                let asked = Instant::now();
                match backend.keep_alive(id).await {
                    Ok(true) => {
                        sender.send_replace(LeaseState {
                            until: asked + ttl,
                            lost: false,
                        });
                    }
                    Ok(false) => {
                        sender.send_modify(|state| state.lost = true);
                        return;
                    }
                    Err(error) => {
                        warn!(lease = id, %error, "lease not renewed, trying again");
                        pause = RETRY;
                    }
                }
            }
        });
        Ok(Self { id, state, task })
    }

    /// Its id, for `put_leased`.
    #[must_use]
    pub const fn id(&self) -> i64 {
        self.id
    }

    /// Whether it still holds, by our own monotonic clock and never later than the server's.
    #[must_use]
    pub fn held(&self) -> bool {
        let state = *self.state.borrow();
        !state.lost && Instant::now() < state.until
    }

    /// Waits until the server has said that it is gone. Cancel safe.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        // The sender lives in the task, which ends only after it has said `lost`.
        let _ = state.wait_for(|state| state.lost).await;
    }
}

/// Why a presence can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// Somebody else is there under the same key.
    #[error("{key} is taken by another that is alive: {other}; two of them can't be there at once")]
    Taken {
        /// The key.
        key: String,
        /// What it says.
        other: String,
    },
    /// The store failed.
    #[error("can't register {key}")]
    Store {
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// What is changed together with a registration.
pub trait Along: Send + Sync + 'static {
    /// The change, based on what the store holds now.
    fn of(&self, store: &Store) -> impl Future<Output = Result<Txn, StoreError>> + Send;
}

/// Nothing but the key.
struct Alone;

impl Along for Alone {
    async fn of(&self, _: &Store) -> Result<Txn, StoreError> {
        Ok(Txn::new())
    }
}

/// A key that is there while we are: put under a lease of its own, and put again when that is lost.
#[derive(Debug)]
pub struct Presence<T> {
    value: watch::Sender<T>,
    status: watch::Receiver<Status>,
    task: tokio::task::JoinHandle<()>,
    store: Store,
    key: Key<T>,
}

#[derive(Debug, Clone, Copy)]
struct Status {
    /// The revision of our key, as put last.
    revision: Revision,
    create_revision: Revision,
    lease: i64,
    until: Option<Instant>,
    /// The same, also when the server has ended it: by then whoever knows no better lets go of it.
    deadline: Instant,
}

/// Until when a host holds its lease by its own monotonic clock, whatever the store may say.
#[derive(Debug, Clone)]
pub struct LeaseClock(watch::Receiver<Status>);

impl LeaseClock {
    /// Until then.
    #[must_use]
    pub fn until(&mut self) -> Instant {
        self.0.borrow_and_update().deadline
    }

    /// The registration that it is the lease of: the revision at which its key came into being.
    #[must_use]
    pub fn registration(&self) -> Revision {
        self.0.borrow().create_revision
    }

    /// Waits until it was renewed; false when it is kept no more. Cancel safe.
    pub async fn renewed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl<T> Drop for Presence<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Record + Clone + Send + Sync + 'static> Presence<T> {
    /// Registers `value` under `key` and keeps it there.
    ///
    /// A key that is there already is taken over when `ours` says that it is a former life of the
    /// same thing; else its lease is given `ttl` + 2 s to run out.
    ///
    /// # Errors
    /// When the key stays taken, or the store can't be reached.
    pub async fn keep(
        store: &Store,
        key: Key<T>,
        value: T,
        ttl: Duration,
        ours: impl Fn(&T) -> bool + Send + Sync + 'static,
    ) -> Result<Self, PresenceError> {
        Self::keep_along(store, key, value, ttl, ours, Alone).await
    }

    /// The same; each registration takes `along` what has to be true from that moment on.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub async fn keep_along(
        store: &Store,
        key: Key<T>,
        value: T,
        ttl: Duration,
        ours: impl Fn(&T) -> bool + Send + Sync + 'static,
        along: impl Along,
    ) -> Result<Self, PresenceError> {
        let deadline = Instant::now() + ttl + Duration::from_secs(2);
        let mut held = loop {
            match register(store, &key, &value, ttl, &ours, &along).await {
                Err(PresenceError::Taken { .. }) if Instant::now() < deadline => {
                    time::sleep(Duration::from_millis(250)).await;
                }
                result => break result?,
            }
        };
        let (value, mut values) = watch::channel(value);
        values.mark_unchanged();
        let (sender, status) = watch::channel(held.status());
        let task = tokio::spawn({
            let (store, key) = (store.clone(), key.clone());
            async move {
                let mut state = held.lease.state.clone();
                let mut backoff = Backoff::new(REGISTER_FIRST, REGISTER_MAX);
                let mut registered = Instant::now();
                loop {
                    tokio::select! {
                        biased;
                        () = held.lease.lost() => {
                            warn!(%key, "presence lost, registering again");
                            if registered.elapsed() >= WELL_AFTER {
                                backoff.reset();
                            } else {
                                // A store that can't renew it can't be helped by one more.
                                time::sleep(backoff.next_after(ttl, random())).await;
                            }
                            held = reregister(&store, &key, &mut values, ttl, &ours, &along, &mut backoff).await;
                            registered = Instant::now();
                            state = held.lease.state.clone();
                        }
                        changed = values.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            let value = values.borrow_and_update().clone();
                            match held.put(&store, &key, &value).await {
                                Ok(()) => {}
                                Err(error) => {
                                    warn!(%key, %error, "presence not updated, trying again");
                                    time::sleep(Duration::from_millis(200)).await;
                                    values.mark_changed();
                                }
                            }
                        }
                        changed = state.changed() => if changed.is_err() {
                            // The keeper has ended: `lost` will say so.
                            held.lease.lost().await;
                        },
                    }
                    sender.send_replace(held.status());
                }
            }
        });
        Ok(Self {
            value,
            status,
            task,
            store: store.clone(),
            key,
        })
    }

    /// Changes what the key says; writes are coalesced, the last value wins.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        self.value.send_modify(change);
    }

    /// Revision of the key's last write: what is read at or after it has seen the registration.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.status.borrow().revision
    }

    /// The lease that it hangs on at this moment.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.status.borrow().lease
    }

    /// Whether the lease still holds by our own monotonic clock.
    #[must_use]
    pub fn held(&self) -> bool {
        self.status
            .borrow()
            .until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Follows the lease's time.
    #[must_use]
    pub fn clock(&self) -> LeaseClock {
        LeaseClock(self.status.clone())
    }

    /// Renews the lease now, so that it lasts as long as possible after we are gone; says until when it
    /// then holds. None when that failed.
    pub async fn renew(&self, ttl: Duration) -> Option<Instant> {
        let asked = Instant::now();
        let renewed = self.store.backend.keep_alive(self.lease()).await;
        matches!(renewed, Ok(true)).then(|| asked + ttl)
    }

    /// Takes the key away at once: a clean goodbye. Best effort: the lease ends it anyway.
    pub async fn leave(self) {
        self.task.abort();
        let lease = self.lease();
        let _ = time::timeout(Duration::from_secs(2), self.store.backend.revoke(lease)).await;
        info!(key = %self.key, "presence withdrawn");
    }
}

struct Held {
    lease: Lease,
    revision: Revision,
    create_revision: Revision,
}

impl Held {
    fn status(&self) -> Status {
        let state = *self.lease.state.borrow();
        Status {
            revision: self.revision,
            create_revision: self.create_revision,
            lease: self.lease.id,
            until: (!state.lost).then_some(state.until),
            deadline: state.until,
        }
    }

    /// A write that nobody answered may be carried out late: it must not undo the one after it.
    fn change<T: Record>(&self, key: &Key<T>, value: &T) -> Txn {
        Txn::new()
            .created_at(key, self.create_revision)
            .unchanged(key, self.revision)
            .put_leased(key, value, self.lease.id)
    }

    async fn put<T: Record>(
        &mut self,
        store: &Store,
        key: &Key<T>,
        value: &T,
    ) -> Result<(), CommitError> {
        match store.commit(self.change(key, value)).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(())
            }
            Err(CommitError::Conflict) => {
                // It has been carried out already: the next try goes on from there.
                if let Some(there) = store.get(key).await? {
                    self.revision = there.mod_revision;
                }
                Err(CommitError::Conflict)
            }
            Err(error) => Err(error),
        }
    }
}

async fn register<T: Record + Clone>(
    store: &Store,
    key: &Key<T>,
    value: &T,
    ttl: Duration,
    ours: &(impl Fn(&T) -> bool + Send + Sync),
    along: &impl Along,
) -> Result<Held, PresenceError> {
    let failed = |source| PresenceError::Store {
        key: key.to_string(),
        source,
    };
    let lease = store.lease(ttl).await.map_err(failed)?;
    for _ in 0..3 {
        let there = store.get(key).await.map_err(failed)?;
        let txn = match &there {
            None => Txn::new().absent(key),
            Some(there) if ours(&there.value) => {
                Txn::new().unchanged(key, there.mod_revision).delete(key)
            }
            Some(there) => {
                let other = String::from_utf8_lossy(&there.value.encode()).into_owned();
                let _ = store.backend.revoke(lease.id).await;
                return Err(PresenceError::Taken {
                    key: key.to_string(),
                    other,
                });
            }
        };
        // A former life's key is removed first: its successor has to be a new creation, or whoever
        // compares create_revision would take the two for one.
        let taking_over = there.is_some();
        let txn = if taking_over {
            txn
        } else {
            txn.put_leased(key, value, lease.id)
                .and(along.of(store).await.map_err(failed)?)
        };
        match store.commit(txn).await {
            Ok(revision) if !taking_over => {
                return Ok(Held {
                    lease,
                    revision,
                    create_revision: revision,
                });
            }
            Ok(_) | Err(CommitError::Conflict) => {}
            Err(CommitError::Store(source)) => return Err(failed(source)),
        }
    }
    let reason = "the key changes with each try".to_owned();
    Err(failed(StoreError::Refused(reason)))
}

/// Registers again, for as long as it takes.
async fn reregister<T: Record + Clone>(
    store: &Store,
    key: &Key<T>,
    values: &mut watch::Receiver<T>,
    ttl: Duration,
    ours: &(impl Fn(&T) -> bool + Send + Sync),
    along: &impl Along,
    backoff: &mut Backoff,
) -> Held {
    loop {
        let begun = Instant::now();
        let value = values.borrow_and_update().clone();
        match register(store, key, &value, ttl, ours, along).await {
            Ok(held) => return held,
            Err(error) => {
                warn!(%key, error = &error as &dyn std::error::Error, "can't register, trying again");
                time::sleep(backoff.next_after(begun.elapsed(), random())).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys;

    fn machine(cpus: u32) -> crate::model::Machine {
        let text = format!(
            r#"{{"id":"0123456789abcdef0123456789abcdef","hostname":"deis-01","address":"10.0.0.1",
                "memory_bytes":1,"cpus":{cpus},"version":"2","boot_id":"1"}}"#
        );
        Record::decode(text.as_bytes()).expect("a machine")
    }

    /// From a seed of the simulation: the word of before came after the word of now, and stood there for
    /// good.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_carried_out_late_undoes_nothing() {
        let store = Store::memory();
        let key = keys::machine(&machine(1).id);
        let ttl = Duration::from_secs(6);
        let held = register(&store, &key, &machine(1), ttl, &|_: &_| false, &Alone).await;
        let mut held = held.expect("registered");
        // What nobody answers is sent again, and comes a second time when a later word has been written.
        let late = held.change(&key, &machine(2));
        held.put(&store, &key, &machine(3)).await.expect("written");
        let late = store.commit(late).await;
        assert!(matches!(late, Err(CommitError::Conflict)), "{late:?}");
        // And what was carried out unanswered keeps nobody from going on.
        let unanswered = held.change(&key, &machine(4));
        store.commit(unanswered).await.expect("written");
        let next = held.put(&store, &key, &machine(5)).await;
        assert!(matches!(next, Err(CommitError::Conflict)), "{next:?}");
        held.put(&store, &key, &machine(5)).await.expect("written");
        let there = store.get(&key).await.expect("read").expect("there");
        assert_eq!(there.value.cpus, 5);
    }
}
