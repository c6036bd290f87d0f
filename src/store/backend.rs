//! What a store has to be able to do: etcd's five verbs.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Change, StoreError, Txn};
use crate::model::{DecodeError, Record, Revision};

/// A stored value with its place in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value's bytes.
    pub value: Vec<u8>,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Revision at which its key came into being.
    pub create_revision: Revision,
    /// The lease that it hangs on; 0 for none.
    pub lease: i64,
}

impl Entry {
    /// Reads the value as a record.
    ///
    /// # Errors
    /// When it is not such a record.
    pub fn decode<T: Record>(&self) -> Result<T, DecodeError> {
        T::decode(&self.value)
    }
}

/// A half-open span of keys: `[from, to)`, or one key when `to` is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
}

impl Span {
    pub fn one(key: &str) -> Self {
        Self {
            from: key.into(),
            to: Vec::new(),
        }
    }

    /// All keys that begin with `prefix`, which ends in ASCII.
    pub fn prefix(prefix: &str) -> Self {
        let mut to = prefix.as_bytes().to_vec();
        if let Some(last) = to.last_mut() {
            *last += 1;
        }
        Self {
            from: prefix.into(),
            to,
        }
    }

    /// All keys from one to another, both included.
    pub fn closed(first: &str, last: &str) -> Self {
        let to = [last.as_bytes(), &[0]].concat();
        Self {
            from: first.into(),
            to,
        }
    }

    /// The rest of the span after `key`.
    pub fn after(self, key: &str) -> Self {
        let mut from = key.as_bytes().to_vec();
        from.push(0);
        Self { from, to: self.to }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        if self.to.is_empty() {
            key == self.from
        } else {
            *self.from <= *key && *key < *self.to
        }
    }
}

/// One page of a range.
pub(super) struct Page {
    pub entries: Vec<(String, Entry)>,
    pub more: bool,
    /// The store's revision when it answered.
    pub revision: Revision,
}

/// What a watch may say.
#[derive(Debug)]
pub(super) enum Event {
    /// Changes, in order; all of one revision lie in one event.
    Changes(Vec<Change>),
    /// A sign of life. The revision is advice only: etcd before 3.4.25 may run ahead of events.
    Alive,
    /// The start revision is compacted: list anew.
    Compacted,
    /// The stream has ended: open another.
    Closed(String),
}

/// An open watch.
pub(super) trait Watch: Send {
    /// The next event. Cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Event>;
    /// Asks the server for a sign of life.
    fn poke(&mut self) -> BoxFuture<'_, ()>;
}

pub(super) trait Backend: Send + Sync + 'static {
    /// Reads a span; `revision` 0 means now.
    fn range(
        &self,
        span: Span,
        limit: i64,
        revision: Revision,
        keys_only: bool,
    ) -> BoxFuture<'_, Result<Page, StoreError>>;

    /// Whether the comparisons held (then the changes are made), and the store's revision.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<(bool, Revision), StoreError>>;

    /// Watches a prefix from a revision on. Each call may choose another member.
    fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>>;

    /// Grants a lease.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<i64, StoreError>>;

    /// Keeps a lease alive once; `false` when it no longer exists.
    fn keep_alive(&self, lease: i64) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Ends a lease and all that hangs on it.
    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), StoreError>>;
}
