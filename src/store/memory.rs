//! The store in memory: etcd's semantics (revisions, history, compaction, leases, watches) without
//! etcd, and with faults that a test steers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::Notify, time::Instant};

use super::{
    Change, Compare, Entry, Op, StoreError, Txn,
    backend::{Backend, Event, Page, Span, Watch},
};
use crate::model::Revision;

/// Faults that a test may switch on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Every call fails as if no member answered.
    pub unreachable: bool,
    /// Open watches say nothing at all any more, not even when poked.
    pub silent: bool,
    /// Each event is delivered twice, the second time late.
    pub duplicate: bool,
}

#[derive(Default)]
struct State {
    keys: BTreeMap<Vec<u8>, Entry>,
    revision: Revision,
    /// Changes by revision, for watches; those below `compacted` are gone.
    history: VecDeque<(Revision, Vec<Change>)>,
    compacted: Revision,
    leases: BTreeMap<i64, (Duration, Instant)>,
    next_lease: i64,
    faults: Faults,
    /// Watches opened before this generation are broken.
    generation: u64,
    /// There is no leader: leases don't end meanwhile.
    leaderless: bool,
    observer: Option<Observer>,
}

/// Hears of every change as it is made, in order.
type Observer = Box<dyn FnMut(Revision, &[Change]) + Send>;

/// A store in memory; clones share it.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    /// Wakes watches in the order in which they wait, so that a simulation is the same each time.
    changed: Arc<Notify>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryStore")
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            changed: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Switches faults on or off.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
        self.changed.notify_waiters();
    }

    /// Breaks every open watch, as when a member dies.
    pub fn break_watches(&self) {
        self.lock().generation += 1;
        self.changed.notify_waiters();
    }

    /// Forgets the history up to now.
    pub fn compact(&self) {
        let mut state = self.lock();
        state.compacted = state.revision;
        state.history.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    /// The members have lost their leader: leases don't end before there is another.
    pub fn lose_leader(&self) {
        self.lock().leaderless = true;
    }

    /// There is a new leader: it gives every lease its whole time again, as etcd's does.
    pub fn elect_leader(&self) {
        let mut state = self.lock();
        state.leaderless = false;
        for (ttl, end) in state.leases.values_mut() {
            *end = Instant::now() + *ttl;
        }
    }

    /// Tells `observer` of every change from now on, as it is made. It must not call the store.
    pub fn observe(&self, observer: impl FnMut(Revision, &[Change]) + Send + 'static) {
        self.lock().observer = Some(Box::new(observer));
    }

    /// Everything that is there below a prefix, whatever faults are on.
    #[must_use]
    pub fn peek(&self, prefix: &str) -> Vec<(String, Entry)> {
        let span = Span::prefix(prefix);
        let state = self.lock();
        let there = state.keys.range(span.from..span.to);
        there
            .map(|(key, entry)| (text(key), entry.clone()))
            .collect()
    }

    /// Ends the leases whose time is out, also while nobody can reach the store.
    fn tick(&self) {
        Self::expire(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// Ends the leases whose time is out; called by every verb.
    fn expire(state: &mut State) {
        if state.leaderless {
            return;
        }
        let now = Instant::now();
        let out: Vec<i64> = state
            .leases
            .iter()
            .filter(|(_, (_, end))| *end <= now)
            .map(|(id, _)| *id)
            .collect();
        for lease in out {
            Self::end_lease(state, lease);
        }
    }

    fn end_lease(state: &mut State, lease: i64) {
        state.leases.remove(&lease);
        let keys: Vec<Vec<u8>> = state
            .keys
            .iter()
            .filter(|(_, entry)| entry.lease == lease)
            .map(|(key, _)| key.clone())
            .collect();
        if !keys.is_empty() {
            let ops = keys.into_iter().map(|key| Op::Delete(text(&key))).collect();
            Self::change(state, ops);
        }
    }

    fn change(state: &mut State, ops: Vec<Op>) {
        let revision = state.revision + 1;
        let mut changes = Vec::new();
        let mut delete = |keys: &mut BTreeMap<Vec<u8>, Entry>, key: Vec<u8>| {
            if keys.remove(&key).is_some() {
                changes.push(Change {
                    key: text(&key),
                    mod_revision: revision,
                    entry: None,
                });
            }
        };
        let mut puts = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let create_revision = state
                        .keys
                        .get(key.as_bytes())
                        .map_or(revision, |entry| entry.create_revision);
                    let entry = Entry {
                        value,
                        mod_revision: revision,
                        create_revision,
                        lease,
                    };
                    state.keys.insert(key.clone().into(), entry.clone());
                    puts.push(Change {
                        key,
                        mod_revision: revision,
                        entry: Some(entry),
                    });
                }
                Op::Delete(key) => delete(&mut state.keys, key.into()),
                Op::DeletePrefix(prefix) => {
                    let span = Span::prefix(&prefix);
                    let keys: Vec<_> = state
                        .keys
                        .range(span.from..span.to)
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in keys {
                        delete(&mut state.keys, key);
                    }
                }
            }
        }
        changes.extend(puts);
        if !changes.is_empty() {
            state.revision = revision;
            if let Some(observer) = &mut state.observer {
                observer(revision, &changes);
            }
            state.history.push_back((revision, changes));
        }
    }

    fn holds(state: &State, compare: &Compare) -> bool {
        let get = |key: &str| state.keys.get(key.as_bytes());
        match compare {
            Compare::Absent(key) => get(key).is_none(),
            Compare::NoneBetween(first, last) => state
                .keys
                .range(first.as_bytes().to_vec()..=last.as_bytes().to_vec())
                .next()
                .is_none(),
            Compare::Present(key) => get(key).is_some(),
            Compare::ModRevision(key, revision) => {
                get(key).map_or(0, |entry| entry.mod_revision) == *revision
            }
            Compare::CreateRevision(key, revision) => {
                get(key).map_or(0, |entry| entry.create_revision) == *revision
            }
            Compare::Value(key, value) => get(key).is_some_and(|entry| entry.value == *value),
        }
    }

    fn with<T>(
        &self,
        call: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (result, changed) = {
            let mut state = self.lock();
            if state.faults.unreachable {
                return Err(StoreError::Unreachable {
                    tried: "memory".into(),
                    reason: "switched off by the test".into(),
                });
            }
            let before = state.revision;
            Self::expire(&mut state);
            let result = call(&mut state);
            (result, state.revision != before)
        };
        if changed {
            self.changed.notify_waiters();
        }
        result
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl Backend for MemoryStore {
    fn range(
        &self,
        span: Span,
        limit: i64,
        revision: Revision,
        keys_only: bool,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        let page = self.with(|state| {
            if revision != 0 && revision < state.compacted {
                return Err(StoreError::Compacted {
                    oldest: state.compacted,
                });
            }
            let select = |keys: &BTreeMap<Vec<u8>, Entry>| -> Vec<(String, Entry)> {
                let from = keys.range(span.from.clone()..);
                let within = from.take_while(|(key, _)| span.contains(key));
                within
                    .map(|(key, entry)| (text(key), entry.clone()))
                    .collect()
            };
            let mut entries = if revision == 0 || revision >= state.revision {
                select(&state.keys)
            } else {
                select(&rewind(state, revision))
            };
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let more = limit > 0 && entries.len() > limit;
            if more {
                entries.truncate(limit);
            }
            if keys_only {
                for (_, entry) in &mut entries {
                    entry.value.clear();
                }
            }
            Ok(Page {
                entries,
                more,
                revision: state.revision,
            })
        });
        Box::pin(async move { page })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<(bool, Revision), StoreError>> {
        let result = self.with(|state| {
            let holds = txn
                .compares
                .iter()
                .all(|compare| Self::holds(state, compare));
            if holds {
                Self::change(state, txn.ops);
            }
            Ok((holds, state.revision))
        });
        Box::pin(async move { result })
    }

    fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        let span = Span::prefix(prefix);
        let opened = self.with(|state| Ok(state.generation));
        Box::pin(async move {
            let generation = opened?;
            Ok(Box::new(MemoryWatch {
                store: self.clone(),
                span,
                next: from,
                generation,
                pokes: 0,
                again: None,
            }) as Box<dyn Watch>)
        })
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<i64, StoreError>> {
        let granted = self.with(|state| {
            state.next_lease += 1;
            state
                .leases
                .insert(state.next_lease, (ttl, Instant::now() + ttl));
            Ok(state.next_lease)
        });
        let store = self.clone();
        Box::pin(async move {
            let lease = granted?;
            // The lease's end has to be noticed even when nobody calls.
            tokio::spawn(async move {
                loop {
                    let end = store.lock().leases.get(&lease).map(|(_, end)| *end);
                    let Some(end) = end else { return };
                    // Past its end while there is no leader: looked at again in a while.
                    let soon = Instant::now() + Duration::from_millis(100);
                    let past = end <= Instant::now();
                    tokio::time::sleep_until(if past { soon } else { end }).await;
                    store.tick();
                }
            });
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        let alive = self.with(|state| {
            Ok(match state.leases.get_mut(&lease) {
                Some((ttl, end)) => {
                    *end = Instant::now() + *ttl;
                    true
                }
                None => false,
            })
        });
        Box::pin(async move { alive })
    }

    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), StoreError>> {
        let result = self.with(|state| {
            Self::end_lease(state, lease);
            Ok(())
        });
        Box::pin(async move { result })
    }
}

/// The keys as they were at an older revision that is still in the history.
fn rewind(state: &State, revision: Revision) -> BTreeMap<Vec<u8>, Entry> {
    let mut keys = state.keys.clone();
    let touched = state
        .history
        .iter()
        .filter(|(at, _)| *at > revision)
        .flat_map(|(_, c)| c);
    for change in touched {
        let key = change.key.as_bytes();
        let before = state
            .history
            .iter()
            .rev()
            .filter(|(at, _)| *at <= revision)
            .flat_map(|(_, changes)| changes.iter().rev())
            .find(|c| c.key == change.key);
        match before.and_then(|c| c.entry.clone()) {
            Some(entry) => keys.insert(key.to_vec(), entry),
            None => keys.remove(key),
        };
    }
    keys
}

struct MemoryWatch {
    store: MemoryStore,
    span: Span,
    next: Revision,
    generation: u64,
    pokes: u32,
    again: Option<Vec<Change>>,
}

impl MemoryWatch {
    /// The next event that is there already.
    fn ready(&mut self) -> Option<Event> {
        let state = self.store.lock();
        if state.faults.silent {
            return None;
        }
        if state.generation != self.generation || state.faults.unreachable {
            return Some(Event::Closed("the test broke the watch".into()));
        }
        if let Some(again) = self.again.take() {
            return Some(Event::Changes(again));
        }
        if self.next <= state.compacted {
            return Some(Event::Compacted);
        }
        let seen = state
            .history
            .partition_point(|(revision, _)| *revision < self.next);
        for (revision, changes) in state.history.range(seen..) {
            self.next = revision + 1;
            let ours: Vec<Change> = changes
                .iter()
                .filter(|change| self.span.contains(change.key.as_bytes()))
                .cloned()
                .collect();
            if !ours.is_empty() {
                if state.faults.duplicate {
                    self.again = Some(ours.clone());
                }
                return Some(Event::Changes(ours));
            }
        }
        if self.pokes > 0 {
            self.pokes -= 1;
            return Some(Event::Alive);
        }
        None
    }
}

impl Watch for MemoryWatch {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async move {
            let changed = Arc::clone(&self.store.changed);
            loop {
                // Whatever changes from here on wakes it.
                let change = changed.notified();
                if let Some(event) = self.ready() {
                    return event;
                }
                change.await;
            }
        })
    }

    fn poke(&mut self) -> BoxFuture<'_, ()> {
        self.pokes += 1;
        // Whoever waits in `next` is this same task: the poke is seen at the next call.
        Box::pin(async {})
    }
}
