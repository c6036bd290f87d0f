//! `keys/`: SSH keys. Everybody sees his own only, administrators included.

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use uuid::Uuid;

use super::created;
use crate::{
    api::{
        ssh_key,
        valid::{self, Refusal},
        wire,
    },
    controller::{
        self, Shared,
        error::ApiError,
        extract::{Body, By, Caller},
        page::Paging,
    },
    model::{Action, SCHEMA, SshKey, User},
    ops::audit,
    store::{CommitError, Txn, keys},
};

type Ctl = State<controller::State>;

impl Shared {
    /// A user's keys, the oldest first.
    pub(super) async fn keys_of(&self, user: &User) -> Result<Vec<SshKey>, ApiError> {
        let listing = self.store.list_readable(&keys::ssh_keys()).await?;
        let mut own: Vec<_> = listing
            .entries
            .into_iter()
            .map(|(_, key)| key.value)
            .filter(|key| key.owner == user.username)
            .collect();
        own.sort_by_key(|key| key.created);
        Ok(own)
    }

    /// The one key of a user that is called so, or has this fingerprint: two keys of one computer have
    /// the same comment, and v1's clients name them by it.
    async fn key_of(&self, user: &User, name: &str) -> Result<SshKey, ApiError> {
        let own = self.keys_of(user).await?;
        let by_print = |key: &&SshKey| {
            key.fingerprint.to_string() == name || ssh_key::sha256(&key.public) == name
        };
        let mut called = own.iter().filter(|key| key.id.as_str() == name);
        let found = match (called.next(), called.next()) {
            (Some(_), Some(_)) => {
                return Err(ApiError::Conflict(format!(
                    "Several of your keys are called {name}; say which by its fingerprint, as \
                     `deis keys --output json` shows it."
                )));
            }
            (one, _) => one.or_else(|| own.iter().find(by_print)),
        };
        found.cloned().ok_or(ApiError::NotFound)
    }
}

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Key>>, ApiError> {
    let own = ctl.keys_of(&user).await?;
    Ok(Json(paging.cut(own.iter().map(wire::Key::from).collect())?))
}

/// A key as the audit trail names it.
fn described(key: &SshKey) -> String {
    format!("{} {}", key.id, ssh_key::sha256(&key.public))
}

pub(super) async fn add(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (id, public) = valid::key(&fields)?;
    let record = SshKey {
        schema: SCHEMA,
        uuid: Uuid::new_v4(),
        owner: user.username.clone(),
        id,
        public: public.line,
        fingerprint: public.fingerprint,
        created: Timestamp::now(),
    };
    let key = keys::ssh_key(&record.fingerprint);
    // One key, one user: who pushes is told by the key alone.
    let txn = Txn::new()
        .absent(&key)
        .present(&keys::user(&user.username))
        .put(&key, &record);
    let note = by.note(Action::KeyAdd, described(&record));
    match audit::commit_platform(&ctl.store, txn, note).await {
        Ok(_) => Ok(created(wire::Key::from(&record))),
        Err(CommitError::Conflict) => Err(Refusal::not_unique("public").into()),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(id): Path<String>,
) -> Result<Json<wire::Key>, ApiError> {
    let found = ctl.key_of(&user, &id).await?;
    Ok(Json(wire::Key::from(&found)))
}

pub(super) async fn remove(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let found = ctl.key_of(&user, &id).await?;
    let txn = Txn::new().delete(&keys::ssh_key(&found.fingerprint));
    let note = by.note(Action::KeyRemove, described(&found));
    audit::commit_platform(&ctl.store, txn, note).await?;
    Ok(StatusCode::NO_CONTENT)
}
