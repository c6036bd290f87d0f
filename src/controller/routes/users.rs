//! `users/` and `admin/perms/`: for administrators.

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;

use crate::{
    api::{valid, wire},
    controller::{
        self, Shared, access,
        error::ApiError,
        extract::{Body, By, Caller},
        page::Paging,
    },
    model::{Action, User, Username},
    ops::audit::{self, Note},
    store::{CommitError, Txn, keys},
};

type Ctl = State<controller::State>;

impl Shared {
    /// All users, by name.
    pub(super) async fn users(&self) -> Result<Vec<User>, ApiError> {
        let listing = self.store.list(&keys::users()).await?;
        Ok(listing
            .entries
            .into_iter()
            .map(|(_, user)| user.value)
            .collect())
    }

    /// Changes a user's record, and notes who did; decides anew when others change it at the same time.
    pub(super) async fn change_user(
        &self,
        name: &Username,
        note: &Note,
        change: impl Fn(&mut User),
    ) -> Result<(), ApiError> {
        let key = keys::user(name);
        for _ in 0..10 {
            let mut found = self.store.get(&key).await?.ok_or(ApiError::NotFound)?;
            change(&mut found.value);
            let txn = Txn::new()
                .unchanged(&key, found.mod_revision)
                .put(&key, &found.value)
                .and(note.clone().of_platform(None));
            match self.store.commit(txn).await {
                Err(CommitError::Conflict) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
                Ok(_) => {
                    audit::prune_platform(&self.store).await;
                    return Ok(());
                }
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// Refuses to take away the only administrator: nobody could make another one.
    pub(super) async fn keep_an_administrator(&self, without: &Username) -> Result<(), ApiError> {
        let users = self.users().await?;
        let is_one = |user: &User| user.is_superuser && user.username == *without;
        let other = users
            .iter()
            .any(|user| user.is_superuser && user.username != *without);
        if users.iter().any(is_one) && !other {
            return Err(ApiError::Conflict(format!(
                "{without} is the only administrator; make another user one first: \
                 deis perms:create <user> --admin"
            )));
        }
        Ok(())
    }
}

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    paging: Paging,
) -> Result<Json<wire::Page<wire::User>>, ApiError> {
    access::administrator(&user)?;
    let users = ctl.users().await?;
    Ok(Json(
        paging.cut(users.iter().map(wire::User::from).collect())?,
    ))
}

pub(super) async fn administrators(
    State(ctl): Ctl,
    Caller(user): Caller,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Administrator>>, ApiError> {
    access::administrator(&user)?;
    let users = ctl.users().await?;
    let rows = users
        .iter()
        .filter(|user| user.is_superuser)
        .map(|user| wire::Administrator {
            username: user.username.to_string(),
            is_superuser: true,
        })
        .collect();
    Ok(Json(paging.cut(rows)?))
}

pub(super) async fn promote(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    access::administrator(&user)?;
    let other = valid::user(&fields)?;
    let note = by.note(Action::AdminGrant, other.as_str());
    ctl.change_user(&other, &note, |user| user.is_superuser = true)
        .await?;
    Ok(StatusCode::CREATED)
}

pub(super) async fn demote(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(other): Path<String>,
) -> Result<StatusCode, ApiError> {
    access::administrator(&user)?;
    let other: Username = other.parse().map_err(|_| ApiError::NotFound)?;
    ctl.keep_an_administrator(&other).await?;
    let note = by.note(Action::AdminRevoke, other.as_str());
    ctl.change_user(&other, &note, |user| user.is_superuser = false)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
