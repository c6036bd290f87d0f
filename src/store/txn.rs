//! Transactions as data: comparisons first, then changes.

use std::collections::{BTreeSet, HashSet};

use super::keys::{Key, Prefix};
use crate::model::{Record, Revision};

/// Most changes that one transaction may hold: etcd's default limit is 128 operations.
pub const MAX_TXN_OPS: usize = 120;

/// A comparison that has to hold for the changes to be made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// No key exists from the first to the last, both included.
    NoneBetween(String, String),
    /// The key exists.
    Present(String),
    /// The key's last change was at this revision.
    ModRevision(String, Revision),
    /// The key came into being at this revision.
    CreateRevision(String, Revision),
    /// The key holds exactly this.
    Value(String, Vec<u8>),
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a value; `lease` 0 means none.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease that it hangs on.
        lease: i64,
    },
    /// Removes a key, or nothing if it isn't there.
    Delete(String),
    /// Removes all keys that begin so.
    DeletePrefix(String),
}

/// A change of several keys that happens whole or not at all, based on what its comparisons say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Txn {
    pub(super) compares: Vec<Compare>,
    pub(super) ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key does not exist.
    pub fn absent<T>(mut self, key: &Key<T>) -> Self {
        self.compares.push(Compare::Absent(key.to_string()));
        self
    }

    /// Only if the key exists.
    pub fn present<T>(mut self, key: &Key<T>) -> Self {
        self.compares.push(Compare::Present(key.to_string()));
        self
    }

    /// Only if the key was last changed at `revision`.
    pub fn unchanged<T>(mut self, key: &Key<T>, revision: Revision) -> Self {
        self.compares
            .push(Compare::ModRevision(key.to_string(), revision));
        self
    }

    /// Only if the key came into being at `revision` and still is (fencing).
    pub fn created_at<T>(mut self, key: &Key<T>, revision: Revision) -> Self {
        self.compares
            .push(Compare::CreateRevision(key.to_string(), revision));
        self
    }

    /// Only if the key holds `value`.
    pub fn value_is<T: Record>(mut self, key: &Key<T>, value: &T) -> Self {
        self.compares
            .push(Compare::Value(key.to_string(), value.encode()));
        self
    }

    /// Writes a record.
    pub fn put<T: Record>(self, key: &Key<T>, value: &T) -> Self {
        self.put_leased(key, value, 0)
    }

    /// Writes a record that goes with a lease.
    pub fn put_leased<T: Record>(mut self, key: &Key<T>, value: &T, lease: i64) -> Self {
        self.ops.push(Op::Put {
            key: key.to_string(),
            value: value.encode(),
            lease,
        });
        self
    }

    /// Removes a record.
    pub fn delete<T>(mut self, key: &Key<T>) -> Self {
        self.ops.push(Op::Delete(key.to_string()));
        self
    }

    /// Removes all records under a prefix.
    pub fn delete_prefix<T>(mut self, prefix: &Prefix<T>) -> Self {
        self.ops.push(Op::DeletePrefix(prefix.as_str().to_owned()));
        self
    }

    /// A transaction of these parts.
    pub const fn of(compares: Vec<Compare>, ops: Vec<Op>) -> Self {
        Self { compares, ops }
    }

    /// Its changes.
    #[must_use]
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// Appends another transaction's comparisons and changes.
    pub fn and(mut self, other: Self) -> Self {
        self.compares.extend(other.compares);
        self.ops.extend(other.ops);
        self
    }

    /// The same with fewer comparisons: see [`compacted`].
    pub fn compacted(mut self, is_gap: impl Fn(&str, &str) -> bool) -> Self {
        self.compares = compacted(&self.compares, is_gap);
        self
    }

    /// What is compared.
    #[must_use]
    pub fn compares(&self) -> &[Compare] {
        &self.compares
    }

    /// What is changed.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// The same said with fewer comparisons, each of which costs the store a read: none twice, and keys
/// that have to be absent as one gap, where `is_gap` says that nothing is between two of them.
pub fn compacted<'c>(
    compares: impl IntoIterator<Item = &'c Compare>,
    is_gap: impl Fn(&str, &str) -> bool,
) -> Vec<Compare> {
    let mut seen = HashSet::new();
    let mut absent: BTreeSet<&str> = BTreeSet::new();
    let mut kept = Vec::new();
    for compare in compares {
        match compare {
            Compare::Absent(key) => drop(absent.insert(key)),
            other => {
                if seen.insert(other) {
                    kept.push(other.clone());
                }
            }
        }
    }
    let mut gap: Option<(&str, &str)> = None;
    for key in absent {
        gap = match gap {
            Some((first, last)) if is_gap(last, key) => Some((first, key)),
            closed => {
                kept.extend(closed.map(none_between));
                Some((key, key))
            }
        };
    }
    kept.extend(gap.map(none_between));
    kept
}

fn none_between((first, last): (&str, &str)) -> Compare {
    if first == last {
        Compare::Absent(first.to_owned())
    } else {
        Compare::NoneBetween(first.to_owned(), last.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_comparisons_say_the_same() {
        let absent = |key: &str| Compare::Absent(key.to_owned());
        let present = Compare::Present("p".to_owned());
        let compares = [
            absent("a/3"),
            present.clone(),
            absent("a/1"),
            absent("b/1"),
            present.clone(),
            absent("a/2"),
            absent("a/5"),
        ];
        // a/4 is there, and another folder is another gap.
        let is_gap = |from: &str, to: &str| from[..1] == to[..1] && !(from < "a/4" && "a/4" < to);
        let between = Compare::NoneBetween("a/1".to_owned(), "a/3".to_owned());
        assert_eq!(
            compacted(&compares, is_gap),
            [present, between, absent("a/5"), absent("b/1")]
        );
    }
}
