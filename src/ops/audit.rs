//! The audit trail: who did what, written in the transaction that does it.
//!
//! Entries lie in the order of time and are bounded per app and for the platform; whoever writes one
//! takes away the oldest that are too many.

use tracing::warn;
use uuid::Uuid;

use crate::{
    model::*,
    outside,
    store::{CommitError, Key, MAX_TXN_OPS, Prefix, Store, StoreError, Txn, keys},
};

/// Entries kept of an app.
pub const KEPT_OF_APP: usize = 500;

/// Entries kept of the platform.
pub const KEPT_OF_PLATFORM: usize = 2000;

/// Longest detail of an entry, in characters.
const MOST_CHARS: usize = 300;

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The user.
    pub user: Username,
    /// The token's name, or its id; for a push the SSH key's fingerprint.
    pub token: Option<String>,
    /// The request.
    pub request: Option<String>,
}

/// Somebody of whom nothing but the name is known.
impl From<&Username> for Actor {
    fn from(user: &Username) -> Self {
        Self {
            user: user.clone(),
            token: None,
            request: None,
        }
    }
}

impl Actor {
    /// Something that is being done now.
    #[must_use]
    pub fn note(&self, action: Action, detail: impl Into<String>) -> Note {
        Note {
            id: outside::uuid(),
            entry: Audit {
                schema: SCHEMA,
                at: outside::now(),
                user: self.user.clone(),
                token: self.token.clone(),
                request: self.request.clone(),
                action,
                app: None,
                release: None,
                detail: shortened(detail.into()),
            },
        }
    }
}

/// An entry that is to be written.
#[derive(Debug, Clone)]
pub struct Note {
    id: Uuid,
    entry: Audit,
}

impl Note {
    /// Says to what, and how.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.entry.detail = shortened(detail.into());
        self
    }

    /// Says which release came of it.
    #[must_use]
    pub fn release(mut self, release: ReleaseNumber) -> Self {
        self.entry.release = Some(release);
        self
    }

    /// The change that writes it into an app's trail.
    pub fn of_app(mut self, app: &AppName) -> Txn {
        self.entry.app = Some(app.clone());
        Txn::new().put(&keys::app_audit(app, &self.key()), &self.entry)
    }

    /// The change that writes it into the platform's trail, with the app that it is about if any.
    pub fn of_platform(mut self, app: Option<&AppName>) -> Txn {
        self.entry.app = app.cloned();
        Txn::new().put(&keys::audit(&self.key()), &self.entry)
    }

    /// Sorts by time; two at the same microsecond are told apart.
    fn key(&self) -> String {
        let suffix = self.id.simple().to_string();
        let micros = self.entry.at.as_microsecond().max(0);
        format!("{micros:016}-{}", &suffix[..8])
    }
}

/// An entry is a line, however much was changed at once.
fn shortened(text: String) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// What was done to an app, the newest first.
///
/// # Errors
/// When the store fails.
pub async fn of_app(store: &Store, app: &AppName) -> Result<Vec<Audit>, StoreError> {
    newest_first(store, &keys::app_audits(app)).await
}

/// What was done to the platform, the newest first.
///
/// # Errors
/// When the store fails.
pub async fn of_platform(store: &Store) -> Result<Vec<Audit>, StoreError> {
    newest_first(store, &keys::audits()).await
}

async fn newest_first(store: &Store, prefix: &Prefix<Audit>) -> Result<Vec<Audit>, StoreError> {
    let listing = store.list_readable(prefix).await?;
    Ok(listing
        .entries
        .into_iter()
        .rev()
        .map(|(_, audit)| audit.value)
        .collect())
}

/// Commits a change of an app together with its note.
///
/// # Errors
/// Those of the change.
pub async fn commit(
    store: &Store,
    app: &AppName,
    change: Txn,
    note: Note,
) -> Result<Revision, CommitError> {
    let revision = store.commit(change.and(note.of_app(app))).await?;
    prune_app(store, app).await;
    Ok(revision)
}

/// Commits a change of the platform together with its note.
///
/// # Errors
/// Those of the change.
pub async fn commit_platform(
    store: &Store,
    change: Txn,
    note: Note,
) -> Result<Revision, CommitError> {
    let revision = store.commit(change.and(note.of_platform(None))).await?;
    prune_platform(store).await;
    Ok(revision)
}

/// Removes an app's oldest entries that are too many. Best effort: the next one removes more.
pub async fn prune_app(store: &Store, app: &AppName) {
    let key = |id: &str| keys::app_audit(app, id);
    let pruned = prune(store, &keys::app_audits(app), KEPT_OF_APP, key).await;
    if let Err(error) = pruned {
        warn!(%app, %error, "old entries of the audit trail not removed");
    }
}

/// Removes the platform's oldest entries that are too many.
pub async fn prune_platform(store: &Store) {
    let pruned = prune(store, &keys::audits(), KEPT_OF_PLATFORM, keys::audit).await;
    if let Err(error) = pruned {
        warn!(%error, "old entries of the platform's audit trail not removed");
    }
}

async fn prune(
    store: &Store,
    prefix: &Prefix<Audit>,
    kept: usize,
    key: impl Fn(&str) -> Key<Audit>,
) -> Result<(), CommitError> {
    let all = store.list_keys(prefix).await?;
    let surplus = &all[..all.len().saturating_sub(kept)];
    for some in surplus.chunks(MAX_TXN_OPS) {
        let ids = some
            .iter()
            .filter_map(|key| keys::last_part(key, prefix.as_str()));
        let txn = ids.fold(Txn::new(), |txn, id| txn.delete(&key(id)));
        store.commit(txn).await?;
    }
    Ok(())
}
