//! etcd as a typed store: keys, compared transactions, watches that survive, leases that are kept.
//!
//! Everything above this module sees one `Store`, whether etcd or the in-memory double with the same
//! semantics (`conformance` runs against both). Decisions don't live here.

mod backend;
mod etcd;
mod feed;
pub mod keys;
mod memory;
pub mod mirror;
mod presence;
mod txn;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod faulty;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

pub use backend::Entry;
pub use etcd::{EtcdOptions, EtcdTls};
pub use feed::{Feed, Health};
pub use keys::{Key, Prefix};
pub use memory::{Faults, MemoryStore};
pub use mirror::{Change, Update};
pub use presence::{Along, Lease, LeaseClock, Presence, PresenceError};
pub use txn::{Compare, MAX_TXN_OPS, Op, Txn, compacted};

use crate::model::{DecodeError, Record, Revision};
use backend::{Backend, Span};

/// Keys read per request when a prefix is listed.
const PAGE: i64 = 500;

/// Failure of a call to the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No member answered in time; the change may or may not have been made.
    #[error("etcd doesn't answer ({tried}): {reason}; check `systemctl status deis-etcd` there")]
    Unreachable {
        /// Endpoints that were tried.
        tried: String,
        /// What the last one said.
        reason: String,
    },
    /// The server refused the request: the same request will be refused again.
    #[error("etcd refuses the request: {0}")]
    Refused(String),
    /// The revision asked for is gone.
    #[error("etcd has compacted that revision, the oldest is {oldest}")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// A record can't be read by this program.
    #[error("the record at {key} can't be read: {reason}")]
    Record {
        /// Its key.
        key: String,
        /// What the parser says.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(_) | Self::Compacted { .. } | Self::Record { .. } => false,
        }
    }
}

/// Why a transaction did not go through.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Something that it was based on has changed: read again, decide again.
    #[error("what the change was based on has changed meanwhile")]
    Conflict,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A record with where it stands in etcd's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub value: T,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Revision at which its key came into being.
    pub create_revision: Revision,
}

/// All records under a prefix, at one revision.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// Key and record, in the order of keys.
    pub entries: Vec<(String, Versioned<T>)>,
    /// The revision of the whole listing.
    pub revision: Revision,
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Connects to etcd. Lazy: succeeds without a server; the first call tells.
    ///
    /// # Errors
    /// When an endpoint is no URL, or a certificate can't be read.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self {
            backend: Arc::new(etcd::Etcd::connect(options).await?),
        })
    }

    /// A new, empty store in memory, with the same semantics as etcd.
    #[must_use]
    pub fn memory() -> Self {
        Self::from_memory(&MemoryStore::new())
    }

    /// A handle on a store in memory, whose faults the caller may steer.
    #[must_use]
    pub fn from_memory(memory: &MemoryStore) -> Self {
        Self {
            backend: Arc::new(memory.clone()),
        }
    }

    /// Reads one record; the answer is linearizable.
    ///
    /// # Errors
    /// When etcd can't be reached or the record can't be read.
    pub async fn get<T: Record>(&self, key: &Key<T>) -> Result<Option<Versioned<T>>, StoreError> {
        let page = self
            .backend
            .range(Span::one(key.as_str()), 1, 0, false)
            .await?;
        page.entries
            .into_iter()
            .next()
            .map(|(key, entry)| decode(&key, &entry))
            .transpose()
    }

    /// Reads many records in a few reads, the most of which are of ranges: what lies between is read in
    /// vain, which costs less than asking for each. The answers are in the order of `keys`, and one
    /// record that can't be read is no other's business.
    ///
    /// # Errors
    /// When etcd can't be reached.
    pub async fn get_many<T: Record>(
        &self,
        keys: &[Key<T>],
    ) -> Result<Vec<Option<Result<Versioned<T>, StoreError>>>, StoreError> {
        let mut missing: BTreeSet<&str> = keys.iter().map(Key::as_str).collect();
        let mut found = HashMap::with_capacity(keys.len());
        while let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            // Where hardly anything between was wanted, one page is as good as one key.
            let limit = i64::try_from(missing.len() * 2 + 16)
                .unwrap_or(PAGE)
                .min(PAGE);
            let span = Span::closed(first, last);
            let page = self.backend.range(span, limit, 0, false).await?;
            match page.entries.last() {
                Some((last, _)) if page.more => missing = missing.split_off(last.as_str()),
                Some(_) | None => missing.clear(),
            }
            for (key, entry) in page.entries {
                missing.remove(key.as_str());
                found.insert(key, entry);
            }
        }
        let read = |key: &Key<T>| Some(decode(key.as_str(), found.get(key.as_str())?));
        Ok(keys.iter().map(read).collect())
    }

    /// Reads all records under a prefix, page by page at one revision.
    ///
    /// # Errors
    /// When etcd can't be reached or a record can't be read.
    pub async fn list<T: Record>(&self, prefix: &Prefix<T>) -> Result<Listing<T>, StoreError> {
        let (entries, revision) = self.list_raw(prefix.as_str()).await?;
        let entries = entries
            .into_iter()
            .map(|(key, entry)| decode(&key, &entry).map(|record| (key, record)))
            .collect::<Result<_, _>>()?;
        Ok(Listing { entries, revision })
    }

    /// Reads all records under a prefix but those that can't be read, which are logged: for lists over
    /// many owners, where one broken record is nobody else's business.
    ///
    /// # Errors
    /// When etcd can't be reached.
    pub async fn list_readable<T: Record>(
        &self,
        prefix: &Prefix<T>,
    ) -> Result<Listing<T>, StoreError> {
        let (entries, revision) = self.list_raw(prefix.as_str()).await?;
        let entries = entries
            .into_iter()
            .filter_map(|(key, entry)| match decode(&key, &entry) {
                Ok(record) => Some((key, record)),
                Err(error) => {
                    tracing::warn!(%error, "a record is left out of a list");
                    None
                }
            })
            .collect();
        Ok(Listing { entries, revision })
    }

    /// Reads all entries under a prefix, undecoded, page by page at one revision.
    ///
    /// # Errors
    /// When etcd can't be reached.
    pub async fn list_raw(
        &self,
        prefix: &str,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        list_pages(&*self.backend, prefix, false).await
    }

    /// Reads the keys under a prefix, without what they hold.
    ///
    /// # Errors
    /// When etcd can't be reached.
    pub async fn list_keys<T>(&self, prefix: &Prefix<T>) -> Result<Vec<String>, StoreError> {
        let (entries, _) = list_pages(&*self.backend, prefix.as_str(), true).await?;
        Ok(entries.into_iter().map(|(key, _)| key).collect())
    }

    /// Makes a change, whole or not at all.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when a comparison failed; also when a first try went through
    /// unseen and its repetition found its own traces: so read again before deciding again.
    pub async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        match self.backend.txn(txn).await? {
            (true, revision) => Ok(revision),
            (false, _) => Err(CommitError::Conflict),
        }
    }

    /// Follows a prefix for as long as the feed lives; see [`Feed`].
    #[must_use]
    pub fn follow(&self, prefix: &str) -> Feed {
        Feed::start(self.backend.clone(), prefix.to_owned())
    }

    /// Grants a lease and keeps it alive until it is dropped or lost.
    ///
    /// # Errors
    /// When etcd can't be reached.
    pub async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        Lease::grant(self.backend.clone(), ttl).await
    }
}

fn decode<T: Record>(key: &str, entry: &Entry) -> Result<Versioned<T>, StoreError> {
    let value = entry
        .decode()
        .map_err(|error: DecodeError| StoreError::Record {
            key: key.to_owned(),
            reason: error.source.to_string(),
        })?;
    Ok(Versioned {
        value,
        mod_revision: entry.mod_revision,
        create_revision: entry.create_revision,
    })
}

/// Lists a prefix in pages that are all pinned to the first page's revision.
async fn list_pages(
    backend: &dyn Backend,
    prefix: &str,
    keys_only: bool,
) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
    let mut span = Span::prefix(prefix);
    let mut revision = 0;
    let mut all = Vec::new();
    loop {
        let page = backend
            .range(span.clone(), PAGE, revision, keys_only)
            .await?;
        if revision == 0 {
            revision = page.revision;
        }
        if let Some((last, _)) = page.entries.last() {
            span = span.after(last);
        }
        all.extend(page.entries);
        if !page.more {
            return Ok((all, revision));
        }
    }
}
