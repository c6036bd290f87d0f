//! Who leads: one key under a lease. Its `create_revision` fences every write of the loops.

use std::time::Duration;

use super::LeaderError;
use crate::{
    model::{Leader, Revision, SCHEMA},
    outside,
    store::{CommitError, Lease, Store, StoreError, Txn, keys},
};

/// The leader's lease: another takes over this long after its death at the latest, give or take
/// etcd's own second.
pub(super) const TTL: Duration = Duration::from_secs(4);

/// The leadership, while it is held.
#[derive(Debug)]
pub(super) struct Term {
    /// `create_revision` of the leader's key.
    pub fence: Revision,
    lease: Lease,
    value: Leader,
}

impl Term {
    /// Tries to become the leader; none when somebody else is.
    pub async fn win(store: &Store, address: &str) -> Result<Option<Self>, StoreError> {
        let lease = store.lease(TTL).await?;
        let id = outside::uuid();
        let value = Leader {
            schema: SCHEMA,
            id,
            address: address.to_owned(),
        };
        let key = keys::leader();
        let txn = Txn::new().absent(&key).put_leased(&key, &value, lease.id());
        match store.commit(txn).await {
            Ok(fence) => Ok(Some(Self {
                fence,
                lease,
                value,
            })),
            Err(CommitError::Conflict) => Self::find_own(store, lease, value).await,
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    /// After a conflict: the first try may have gone through unseen.
    async fn find_own(
        store: &Store,
        lease: Lease,
        value: Leader,
    ) -> Result<Option<Self>, StoreError> {
        let there = store.get(&keys::leader()).await?;
        let own = there.filter(|there| there.value.id == value.id);
        Ok(own.map(|there| Self {
            fence: there.create_revision,
            lease,
            value,
        }))
    }

    /// Whether the lease still holds, by our own clock.
    pub fn held(&self) -> bool {
        self.lease.held()
    }

    /// Waits until the server has said that the lease is gone.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// Writes the key again; a view that has got as far as the answer has seen every earlier write
    /// of this term.
    pub async fn touch(&self, store: &Store) -> Result<Revision, LeaderError> {
        let key = keys::leader();
        let txn =
            Txn::new()
                .created_at(&key, self.fence)
                .put_leased(&key, &self.value, self.lease.id());
        store.commit(txn).await.map_err(LeaderError::from)
    }

    /// Gives the leadership back, so that the next one need not wait for the lease to run out.
    pub async fn resign(self, store: &Store) -> Result<(), LeaderError> {
        let key = keys::leader();
        let txn = Txn::new().created_at(&key, self.fence).delete(&key);
        match store.commit(txn).await {
            Ok(_) | Err(CommitError::Conflict) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}
