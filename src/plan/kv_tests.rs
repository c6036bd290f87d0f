//! etcd in miniature for the simulated cluster: keys with revisions and compared transactions.

use std::collections::{BTreeMap, BTreeSet};

use super::round::op_key;
use crate::{
    model::*,
    store::{Change, Compare, Entry, Key, Op, Txn},
};

/// The store: keys with revisions, and the changes that the leader has not seen yet.
#[derive(Default)]
pub(super) struct Kv {
    pub(super) keys: BTreeMap<String, Entry>,
    pub(super) revision: Revision,
    /// The last change below `/deis/services/`.
    pub(super) services: Revision,
    /// The last change below `/deis/routes/`.
    pub(super) routes: Revision,
    pub(super) unseen: Vec<Change>,
}

impl Kv {
    pub(super) fn get<T: Record>(&self, key: &Key<T>) -> Option<(T, &Entry)> {
        let entry = self.keys.get(key.as_str())?;
        Some((entry.decode().expect("a record of the right type"), entry))
    }

    pub(super) fn under<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a Entry)> + 'a {
        self.keys
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    pub(super) fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::NoneBetween(first, last) => self
                .keys
                .range(first.clone()..=last.clone())
                .next()
                .is_none(),
            Compare::Present(key) => self.keys.contains_key(key),
            Compare::ModRevision(key, revision) => self
                .keys
                .get(key)
                .is_some_and(|entry| entry.mod_revision == *revision),
            Compare::CreateRevision(key, revision) => self
                .keys
                .get(key)
                .is_some_and(|entry| entry.create_revision == *revision),
            Compare::Value(key, value) => self
                .keys
                .get(key)
                .is_some_and(|entry| entry.value == *value),
        }
    }

    pub(super) fn commit(&mut self, txn: &Txn) -> Result<Revision, ()> {
        assert!(
            txn.ops().len() <= 120 && txn.compares().len() <= 120,
            "fits into etcd's limit"
        );
        if !txn.compares().iter().all(|compare| self.holds(compare)) {
            return Err(());
        }
        self.revision += 1;
        let revision = self.revision;
        let mut touched = BTreeSet::new();
        for op in txn.ops() {
            if op_key(op).starts_with("/deis/services/") {
                self.services = revision;
            }
            if op_key(op).starts_with("/deis/routes/") {
                self.routes = revision;
            }
            match op {
                Op::Put { key, value, lease } => {
                    assert!(
                        touched.insert(key.clone()),
                        "etcd refuses {key} twice in a transaction"
                    );
                    let create_revision = self
                        .keys
                        .get(key)
                        .map_or(revision, |entry| entry.create_revision);
                    let entry = Entry {
                        value: value.clone(),
                        mod_revision: revision,
                        create_revision,
                        lease: *lease,
                    };
                    self.keys.insert(key.clone(), entry.clone());
                    self.unseen.push(Change {
                        key: key.clone(),
                        mod_revision: revision,
                        entry: Some(entry),
                    });
                }
                Op::Delete(key) => self.delete(key.clone()),
                Op::DeletePrefix(prefix) => {
                    let gone: Vec<String> =
                        self.under(prefix).map(|(key, _)| key.clone()).collect();
                    gone.into_iter().for_each(|key| self.delete(key));
                }
            }
        }
        Ok(revision)
    }

    pub(super) fn delete(&mut self, key: String) {
        if self.keys.remove(&key).is_some() {
            self.unseen.push(Change {
                key,
                mod_revision: self.revision,
                entry: None,
            });
        }
    }

    pub(super) fn put_raw(&mut self, key: &str, value: &[u8]) {
        let record = String::from_utf8(value.to_vec()).expect("text");
        // The key layout has no typed key for a wrong value, on purpose.
        self.revision += 1;
        let entry = Entry {
            value: record.into_bytes(),
            mod_revision: self.revision,
            create_revision: self
                .keys
                .get(key)
                .map_or(self.revision, |e| e.create_revision),
            lease: 0,
        };
        self.keys.insert(key.to_owned(), entry.clone());
        let change = Change {
            key: key.to_owned(),
            mod_revision: self.revision,
            entry: Some(entry),
        };
        self.unseen.push(change);
    }

    pub(super) fn put<T: Record>(&mut self, key: &Key<T>, value: &T) -> Revision {
        self.commit(&Txn::new().put(key, value))
            .expect("no comparison")
    }
}
