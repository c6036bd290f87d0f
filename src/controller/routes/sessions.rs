//! `auth/`: accounts, logins and tokens.

use axum::{Json, extract::State, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::info;
use uuid::Uuid;

use super::created;
use crate::{
    api::{
        valid::{self, Fields, Refusal, Registration},
        wire,
    },
    controller::{
        self, Shared, access,
        attempts::ClientAddress,
        auth,
        error::{ApiError, request_id},
        extract::{Body, By, Caller, Proven},
    },
    model::{Action, SCHEMA, User, Username},
    ops::{
        self,
        audit::{self, Actor},
    },
    store::{CommitError, Key, Txn, keys},
};

type Ctl = State<controller::State>;

/// Who may register: `enabled` (everybody), `admin_only` or `disabled`.
fn registration_mode() -> Key<String> {
    keys::setting("controller", "registrationMode")
}

/// Who was the first to register: set once, and the reason why nobody else becomes administrator so.
fn first_user() -> Key<String> {
    keys::platform("firstUser")
}

pub(super) async fn register(
    State(ctl): Ctl,
    caller: Option<Proven>,
    from: ClientAddress,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let mode = ctl.store.get(&registration_mode()).await?;
    let admin = caller
        .as_ref()
        .is_some_and(|Proven(who)| who.user.is_superuser);
    let open = match mode.as_ref().map(|mode| mode.value.as_str()) {
        None | Some("enabled") => true,
        Some("admin_only") => admin,
        Some(_) => false,
    };
    if !open {
        return Err(ApiError::ForbiddenBecause(
            "Registration is disabled".to_owned(),
        ));
    }
    let wanted = valid::registration(&fields)?;
    if !admin {
        ctl.attempts.register(&wanted.username, &from)?;
    }
    let name = keys::user(&wanted.username);
    if ctl.store.get(&name).await?.is_some() {
        return Err(Refusal::not_unique("username").into());
    }
    let password = ctl.passwords.hash(wanted.password.clone()).await?;
    let by = match caller {
        Some(Proven(who)) => who.actor(),
        None => Actor {
            request: request_id(),
            ..Actor::from(&wanted.username)
        },
    };
    let user = ctl.write_user(wanted, password, &by).await?;
    info!(user = %user.username, administrator = user.is_superuser, "user registered");
    Ok(created(wire::User::from(&user)))
}

impl Shared {
    /// Writes a new user. The first one of all is administrator: of two who register at the same
    /// time one finds the other's mark.
    async fn write_user(
        &self,
        wanted: Registration,
        password: String,
        by: &Actor,
    ) -> Result<User, ApiError> {
        let note = by.note(Action::Register, wanted.username.as_str());
        let mut user = User {
            schema: SCHEMA,
            uuid: Uuid::new_v4(),
            username: wanted.username,
            email: wanted.email,
            first_name: wanted.first_name,
            last_name: wanted.last_name,
            password,
            is_superuser: false,
            created: Timestamp::now(),
            last_login: None,
        };
        let (mark, key) = (first_user(), keys::user(&user.username));
        for _ in 0..3 {
            let first = self.store.get(&mark).await?.is_none();
            user.is_superuser = first;
            let mut txn = Txn::new().absent(&key).put(&key, &user);
            txn = if first {
                txn.absent(&mark).put(&mark, &user.username.to_string())
            } else {
                txn.present(&mark)
            };
            match audit::commit_platform(&self.store, txn, note.clone()).await {
                Ok(_) => return Ok(user),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Conflict) => match self.store.get(&key).await? {
                    // Our own, when a lost answer made the store try twice.
                    Some(there) if there.value.uuid == user.uuid => return Ok(there.value),
                    Some(_) => return Err(Refusal::not_unique("username").into()),
                    None => {}
                },
            }
        }
        Err(CommitError::Conflict.into())
    }
}

pub(super) async fn login(
    State(ctl): Ctl,
    from: ClientAddress,
    Body(fields): Body,
) -> Result<Json<wire::TokenReply>, ApiError> {
    let result = log_in(&ctl, &from, &fields).await;
    ctl.metrics.login(&result);
    result
}

async fn log_in(
    ctl: &Shared,
    from: &ClientAddress,
    fields: &Fields,
) -> Result<Json<wire::TokenReply>, ApiError> {
    let (name, password) = valid::credentials(fields)?;
    ctl.attempts.login(from)?;
    let name = name.parse::<Username>().ok();
    let user = match &name {
        Some(name) => {
            ctl.attempts.password(name)?;
            auth::user(&ctl.store, name).await?.map(|(user, _)| user)
        }
        None => None,
    };
    let right = ctl.passwords.verify(password, user.as_ref()).await?;
    let Some(user) = user.filter(|_| right) else {
        return Err(wrong_credentials());
    };
    ctl.attempts.was_right(&user.username);
    Ok(Json(wire::TokenReply {
        token: ctl.begin(user).await?,
    }))
}

fn wrong_credentials() -> ApiError {
    let why = "Unable to log in with provided credentials.";
    Refusal::field("non_field_errors", why).into()
}

impl Shared {
    /// Mints a token for somebody whose password was right, unless it is another one by now: whoever
    /// changes a password ends all logins with the old one, those that are just beginning included.
    async fn begin(&self, proven: User) -> Result<String, ApiError> {
        let key = keys::user(&proven.username);
        let now = Timestamp::now();
        let (token, minted) = auth::mint(&auth::login(proven.username.clone(), now))?;
        for _ in 0..10 {
            let (mut user, revision) = auth::user(&self.store, &proven.username)
                .await?
                .filter(|(user, _)| (user.uuid, &user.password) == (proven.uuid, &proven.password))
                .ok_or_else(wrong_credentials)?;
            user.last_login = Some(now);
            let txn = minted.clone().unchanged(&key, revision).put(&key, &user);
            match self.store.commit(txn).await {
                Ok(_) => return Ok(token),
                Err(CommitError::Conflict) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict.into())
    }
}

/// Deletes an account: one's own, or another's for administrators.
pub(super) async fn cancel(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    let name = match valid::other_user(&fields)? {
        Some(other) if other != user.username => {
            access::administrator(&user)?;
            other
        }
        _ => user.username,
    };
    let (leaving, revision) = auth::user(&ctl.store, &name)
        .await?
        .ok_or(ApiError::NotFound)?;
    let apps = ops::app::list(&ctl.store).await?;
    if apps.iter().any(|(_, app)| app.owner == name) {
        return Err(ApiError::Conflict(format!(
            "{name} still has applications assigned. Delete or transfer ownership"
        )));
    }
    // The only user of all may go: then the next one is the first again.
    let last = ctl.users().await?.len() == 1;
    if !last {
        ctl.keep_an_administrator(&name).await?;
    }
    for (app, _) in apps
        .iter()
        .filter(|(_, app)| app.collaborators.contains(&name))
    {
        ops::app::update(&ctl.store, app, |app| {
            app.collaborators.remove(&name);
            Ok(())
        })
        .await?;
    }
    for some in ctl.keys_of(&leaving).await?.chunks(100) {
        let txn = some.iter().fold(Txn::new(), |txn, key| {
            txn.delete(&keys::ssh_key(&key.fingerprint))
        });
        ctl.store.commit(txn).await?;
    }
    for some in ctl.certs_of(&name).await?.chunks(100) {
        let txn = some.iter().fold(Txn::new(), |txn, cert| {
            txn.delete(&keys::cert(&cert.value.name))
        });
        ctl.store.commit(txn).await?;
    }
    let key = keys::user(&name);
    let mut txn = Txn::new().unchanged(&key, revision).delete(&key);
    if last {
        txn = txn.delete(&first_user());
    }
    let note = by.note(Action::Cancel, name.as_str());
    audit::commit_platform(&ctl.store, txn, note).await?;
    auth::end_tokens(&ctl.store, |_, token| token.user == name).await?;
    info!(user = %name, "user deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Changes a password, and ends its user's other logins: whoever knew the old one may hold one of
/// them. Tokens that were made for programs stay, so that no pipeline breaks for a new password; they
/// are listed and revoked by name, and `auth/tokens` ends them all.
pub(super) async fn passwd(
    State(ctl): Ctl,
    Proven(who): Proven,
    By(by): By,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let user = &who.user;
    let other = valid::other_user(&fields)?.filter(|other| *other != user.username);
    let new = valid::new_password(&fields, "new_password")?;
    let old = valid::old_password(&fields)?;
    if other.is_some() {
        access::administrator(user)?;
    }
    let proven = match old {
        // Administrators may leave it out.
        None => user.is_superuser,
        Some(old) => {
            let whose = match &other {
                Some(other) => {
                    auth::user(&ctl.store, other)
                        .await?
                        .ok_or(ApiError::NotFound)?
                        .0
                }
                None => user.clone(),
            };
            ctl.attempts.password(&whose.username)?;
            let right = ctl.passwords.verify(old.to_owned(), Some(&whose)).await?;
            if right {
                ctl.attempts.was_right(&whose.username);
            }
            right
        }
    };
    if !proven {
        return Err(ApiError::detail("Current password does not match"));
    }
    let hash = ctl.passwords.hash(new).await?;
    let name = other.as_ref().unwrap_or(&user.username);
    let note = by.note(Action::Password, name.as_str());
    ctl.change_user(name, &note, |user| user.password.clone_from(&hash))
        .await?;
    // After the change: a login with the old password that came between is among them.
    let ended = auth::end_tokens(&ctl.store, |hash, token| {
        token.user == *name && token.name.is_none() && hash != who.hash
    })
    .await?;
    info!(user = %name, ended, "password changed, other logins ended");
    Ok(Json(json!({ "status": "password set" })))
}

/// Ends all tokens of a user and mints a new one; `all` ends everybody's, the caller's included.
pub(super) async fn regenerate(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Body(fields): Body,
) -> Result<Json<wire::TokenReply>, ApiError> {
    let all = fields
        .get("all")
        .is_some_and(|all| *all == json!(true) || *all == json!("true"));
    let other = valid::other_user(&fields)?;
    if all || other.is_some() {
        access::administrator(&user)?;
    }
    if all {
        // First: afterwards nobody could ask who it was.
        let note = by.note(Action::Regenerate, "everybody's tokens");
        audit::commit_platform(&ctl.store, Txn::new(), note).await?;
        auth::end_tokens(&ctl.store, |_, _| true).await?;
        return Ok(Json(wire::TokenReply {
            token: String::new(),
        }));
    }
    let name = other.unwrap_or(user.username);
    auth::user(&ctl.store, &name)
        .await?
        .ok_or(ApiError::NotFound)?;
    auth::end_tokens(&ctl.store, |_, token| token.user == name).await?;
    let (token, txn) = auth::mint(&auth::login(name.clone(), Timestamp::now()))?;
    let note = by.note(Action::Regenerate, format!("all tokens of {name}"));
    audit::commit_platform(&ctl.store, txn.present(&keys::user(&name)), note).await?;
    Ok(Json(wire::TokenReply { token }))
}
