//! The key with which the original builder proves itself to the hooks.
//!
//! Who has it reads every app's config, so it lies in etcd sealed: `deisctl config controller get
//! builderKey` opens it where the cluster key is. One that an operator sets in clear is sealed by the
//! first controller that sees it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Shared, State, auth, error::ApiError};
use crate::{
    model::SealedValue,
    seal::{BUILDER_KEY_CONTEXT, Secret, is_sealed},
    store::{CommitError, Key, Txn, keys},
};

/// Between two tries to make the key while the store is away.
const RETRY: Duration = Duration::from_secs(5);

fn place() -> Key<String> {
    keys::setting("controller", "builderKey")
}

/// Sees to it that there is a key, and that it is sealed.
pub(super) async fn keep(shared: State, stop: CancellationToken) {
    loop {
        match shared.builder_key().await {
            Ok(_) => return,
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "no builder key yet"
            ),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

impl Shared {
    /// The builder's key; made when there is none.
    async fn builder_key(&self) -> Result<Secret<String>, ApiError> {
        let place = place();
        loop {
            let found = self.store.get(&place).await?;
            let (txn, key) = match found {
                Some(found) if is_sealed(&found.value) => {
                    let sealed = SealedValue(found.value);
                    return Ok(self.key.open_text(BUILDER_KEY_CONTEXT, &sealed)?);
                }
                Some(found) => {
                    let unchanged = Txn::new().unchanged(&place, found.mod_revision);
                    (unchanged, found.value)
                }
                None => {
                    let key = STANDARD.encode(auth::random::<64>()?);
                    (Txn::new().absent(&place), key)
                }
            };
            let sealed = self.key.seal(BUILDER_KEY_CONTEXT, key.as_bytes());
            match self.store.commit(txn.put(&place, &sealed.0)).await {
                Ok(_) => {
                    info!("the builder key is sealed");
                    return Ok(Secret::new(key));
                }
                // Another controller did it: its key is the one.
                Err(CommitError::Conflict) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Whether somebody has the builder's key.
    pub(super) async fn is_builder(&self, offered: &[u8]) -> Result<bool, ApiError> {
        let key = self.builder_key().await?;
        Ok(key.expose().as_bytes().ct_eq(offered).into())
    }
}
