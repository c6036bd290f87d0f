//! What a watcher has seen so far, and what is new: the pure half of a feed.
//!
//! Duplicated and reordered-in-the-past events are dropped, and a resync becomes the difference
//! between what was seen and what is there, in one update: never clear and refill.

use std::collections::{BTreeMap, HashMap};

use super::Entry;
use crate::model::Revision;

/// A key that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The revision of the change; for a deletion found by a resync, the resync's revision.
    pub mod_revision: Revision,
    /// What it holds now; none when it was deleted.
    pub entry: Option<Entry>,
}

/// Changes that belong together; apply all of them before acting on any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Everything up to this revision is known after this update.
    pub revision: Revision,
    /// The changes, in order; a key may occur more than once.
    pub changes: Vec<Change>,
    /// Whether this is the first update, which holds the whole prefix.
    pub first: bool,
}

/// The keys seen so far with the revision of their last change.
#[derive(Debug, Default)]
pub struct Mirror {
    keys: HashMap<String, Revision>,
    /// Deleted keys' revisions since the last resync, against late duplicates of their puts.
    deleted: BTreeMap<String, Revision>,
    revision: Revision,
    filled: bool,
}

/// Deletions remembered at most; older ones are below the watch's start revision by then.
const DELETED_MAX: usize = 4096;

impl Mirror {
    /// The revision up to which everything is known.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Takes events from a watch; none when all of them were known.
    pub fn apply(&mut self, events: Vec<Change>) -> Option<Update> {
        let mut fresh = Vec::with_capacity(events.len());
        for event in events {
            let known = self
                .keys
                .get(&event.key)
                .or_else(|| self.deleted.get(&event.key));
            if known.is_some_and(|known| *known >= event.mod_revision) {
                continue;
            }
            self.revision = self.revision.max(event.mod_revision);
            match &event.entry {
                Some(entry) => {
                    self.deleted.remove(&event.key);
                    self.keys.insert(event.key.clone(), entry.mod_revision);
                }
                None => {
                    self.keys.remove(&event.key);
                    if self.deleted.len() >= DELETED_MAX {
                        self.deleted.clear();
                    }
                    self.deleted.insert(event.key.clone(), event.mod_revision);
                }
            }
            fresh.push(event);
        }
        let revision = self.revision;
        (!fresh.is_empty()).then_some(Update {
            revision,
            changes: fresh,
            first: false,
        })
    }

    /// Takes a whole listing at `revision`; none when it brings nothing new, not even a revision.
    ///
    /// A listing from before what is already known (a member that lags) is ignored.
    pub fn resync(&mut self, listing: Vec<(String, Entry)>, revision: Revision) -> Option<Update> {
        if revision < self.revision {
            return None;
        }
        let mut gone = std::mem::take(&mut self.keys);
        let mut changes = Vec::new();
        for (key, entry) in listing {
            if gone.remove(&key) != Some(entry.mod_revision) {
                let mod_revision = entry.mod_revision;
                changes.push(Change {
                    key: key.clone(),
                    mod_revision,
                    entry: Some(entry.clone()),
                });
            }
            self.keys.insert(key, entry.mod_revision);
        }
        let mut gone: Vec<_> = gone.into_keys().collect();
        gone.sort_unstable();
        changes.extend(gone.into_iter().map(|key| Change {
            key,
            mod_revision: revision,
            entry: None,
        }));
        self.deleted.clear();
        // Whoever acknowledges revisions has to hear that they passed, even when what happened in
        // between has cancelled itself out.
        let advanced = revision > self.revision;
        self.revision = revision;
        let first = !std::mem::replace(&mut self.filled, true);
        (first || advanced || !changes.is_empty()).then_some(Update {
            revision,
            changes,
            first,
        })
    }

    /// Whether a keys-only listing at `revision` has something that never came as an event (an audit).
    ///
    /// Give events that were under way a moment to arrive first. A false alarm only costs a resync.
    #[must_use]
    pub fn contradicts(&self, listing: &[(String, Entry)], revision: Revision) -> bool {
        let listed: HashMap<&str, Revision> = listing
            .iter()
            .map(|(key, entry)| (key.as_str(), entry.mod_revision))
            .collect();
        let missed_change = listed.iter().any(|(key, changed)| {
            let known = self.keys.get(*key).or_else(|| self.deleted.get(*key));
            known.is_none_or(|known| known < changed)
        });
        let missed_deletion = self
            .keys
            .iter()
            .any(|(key, known)| *known <= revision && !listed.contains_key(key.as_str()));
        missed_change || missed_deletion
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(revision: Revision) -> Entry {
        Entry {
            value: vec![],
            mod_revision: revision,
            create_revision: revision,
            lease: 0,
        }
    }

    fn event(key: u8, revision: Revision, put: bool) -> Change {
        Change {
            key: format!("k{key}"),
            mod_revision: revision,
            entry: put.then(|| entry(revision)),
        }
    }

    /// What a consumer that applies every update holds.
    fn consume(held: &mut BTreeMap<String, Revision>, update: Option<Update>) {
        for change in update.into_iter().flat_map(|update| update.changes) {
            match change.entry {
                Some(entry) => held.insert(change.key, entry.mod_revision),
                None => held.remove(&change.key),
            };
        }
    }

    proptest! {
        /// However events are repeated and whenever a resync comes between, the consumer ends with
        /// what the history says.
        #[test]
        fn converges(
            history in prop::collection::vec((0u8..6, any::<bool>()), 1..40),
            replays in prop::collection::vec((0usize..40, 0usize..6), 0..10),
            resyncs in prop::collection::vec(0usize..40, 0..4),
        ) {
            let mut truth: BTreeMap<String, Revision> = BTreeMap::new();
            let mut events: Vec<Change> = Vec::new();
            let mut snapshots = vec![truth.clone()];
            for (at, (key, put)) in history.iter().enumerate() {
                let revision = at as Revision + 1;
                let put = *put || !truth.contains_key(&format!("k{key}"));
                let event = event(*key, revision, put);
                if put { truth.insert(event.key.clone(), revision); } else { truth.remove(&event.key); }
                events.push(event);
                snapshots.push(truth.clone());
            }
            let mut mirror = Mirror::default();
            let mut held = BTreeMap::new();
            consume(&mut held, mirror.resync(vec![], 0));
            for at in 0..events.len() {
                if resyncs.contains(&at) {
                    let listing = snapshots[at].iter().map(|(k, r)| (k.clone(), entry(*r))).collect();
                    consume(&mut held, mirror.resync(listing, at as Revision));
                }
                for (when, back) in &replays {
                    if *when == at {
                        let from = at.saturating_sub(*back);
                        consume(&mut held, mirror.apply(events[from..at].to_vec()));
                    }
                }
                consume(&mut held, mirror.apply(vec![events[at].clone()]));
                prop_assert_eq!(&held, &snapshots[at + 1]);
            }
            let listing: Vec<_> = truth.iter().map(|(k, r)| (k.clone(), entry(*r))).collect();
            prop_assert!(!mirror.contradicts(&listing, events.len() as Revision));
        }
    }

    #[test]
    fn a_resync_is_a_difference() {
        let mut mirror = Mirror::default();
        let first = mirror.resync(vec![("a".into(), entry(1)), ("b".into(), entry(2))], 2);
        assert!(first.is_some_and(|update| update.first && update.changes.len() == 2));
        let next = mirror.resync(vec![("a".into(), entry(1)), ("c".into(), entry(9))], 9);
        let keys: Vec<_> = next
            .into_iter()
            .flat_map(|u| u.changes)
            .map(|c| c.key)
            .collect();
        assert_eq!(keys, ["c", "b"], "only what differs");
        assert_eq!(
            mirror.resync(vec![("a".into(), entry(1)), ("c".into(), entry(9))], 9),
            None
        );
        assert_eq!(
            mirror.resync(vec![], 3),
            None,
            "a listing from the past is ignored"
        );
    }

    #[test]
    fn an_audit_finds_a_lost_event() {
        let mut mirror = Mirror::default();
        mirror.resync(vec![("a".into(), entry(1))], 5);
        assert!(!mirror.contradicts(&[("a".into(), entry(1))], 7));
        assert!(mirror.contradicts(&[], 7), "a deletion was lost");
        assert!(
            mirror.contradicts(&[("a".into(), entry(6))], 7),
            "a change was lost"
        );
        mirror.apply(vec![Change {
            key: "a".into(),
            mod_revision: 9,
            entry: Some(entry(9)),
        }]);
        assert!(
            !mirror.contradicts(&[("a".into(), entry(6))], 7),
            "the listing is older"
        );
    }
}
