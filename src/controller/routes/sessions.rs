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
        valid::{self, Refusal, Registration},
        wire,
    },
    controller::{
        self, Shared, access, auth,
        error::ApiError,
        extract::{Body, Caller},
    },
    model::{SCHEMA, User, Username},
    ops,
    store::{CommitError, Key, Txn, keys},
};

type Ctl = State<controller::State>;

/// Who may register: `enabled` (everybody), `admin_only` or `disabled`.
fn registration_mode() -> Key<String> {
    keys::platform("registrationMode")
}

/// Who was the first to register: set once, and the reason why nobody else becomes administrator so.
fn first_user() -> Key<String> {
    keys::platform("firstUser")
}

pub(super) async fn register(
    State(ctl): Ctl,
    caller: Option<Caller>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let mode = ctl.store.get(&registration_mode()).await?;
    let admin = caller.is_some_and(|Caller(user)| user.is_superuser);
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
    let name = keys::user(&wanted.username);
    if ctl.store.get(&name).await?.is_some() {
        return Err(Refusal::not_unique("username").into());
    }
    let password = ctl.passwords.hash(wanted.password.clone()).await?;
    let user = ctl.write_user(wanted, password).await?;
    info!(user = %user.username, administrator = user.is_superuser, "user registered");
    Ok(created(wire::User::from(&user)))
}

impl Shared {
    /// Writes a new user. The first one of all is administrator: of two who register at the same
    /// time one finds the other's mark.
    async fn write_user(&self, wanted: Registration, password: String) -> Result<User, ApiError> {
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
            match self.store.commit(txn).await {
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
    Body(fields): Body,
) -> Result<Json<wire::TokenReply>, ApiError> {
    let (name, password) = valid::credentials(&fields)?;
    let user = match name.parse::<Username>() {
        Ok(name) => auth::user(&ctl.store, &name).await?.map(|(user, _)| user),
        Err(_) => None,
    };
    let right = ctl.passwords.verify(password, user.as_ref()).await?;
    let Some(user) = user.filter(|_| right) else {
        let why = "Unable to log in with provided credentials.";
        return Err(Refusal::field("non_field_errors", why).into());
    };
    let now = Timestamp::now();
    let (token, txn) = auth::mint(&auth::login(user.username.clone(), now))?;
    // Nobody gets a token for a user who is deleted at this moment.
    ctl.store
        .commit(txn.present(&keys::user(&user.username)))
        .await?;
    ctl.change_user(&user.username, |user| user.last_login = Some(now))
        .await?;
    Ok(Json(wire::TokenReply { token }))
}

/// Deletes an account: one's own, or another's for administrators.
pub(super) async fn cancel(
    State(ctl): Ctl,
    Caller(user): Caller,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    let name = match valid::other_user(&fields)? {
        Some(other) if other != user.username => {
            access::administrator(&user)?;
            other
        }
        _ => user.username,
    };
    let (_, revision) = auth::user(&ctl.store, &name)
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
    let listing = ctl.store.list(&keys::ssh_keys()).await?;
    let own: Vec<_> = listing
        .entries
        .into_iter()
        .map(|(_, key)| key.value)
        .filter(|key| key.owner == name)
        .collect();
    for some in own.chunks(100) {
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
    ctl.store.commit(txn).await?;
    auth::end_tokens(&ctl.store, |_, token| token.user == name).await?;
    info!(user = %name, "user deleted");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn passwd(
    State(ctl): Ctl,
    Caller(user): Caller,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let other = valid::other_user(&fields)?.filter(|other| *other != user.username);
    let new = valid::new_password(&fields, "new_password")?;
    let old = valid::old_password(&fields)?;
    if other.is_some() {
        access::administrator(&user)?;
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
            ctl.passwords.verify(old.to_owned(), Some(&whose)).await?
        }
    };
    if !proven {
        return Err(ApiError::detail("Current password does not match"));
    }
    let hash = ctl.passwords.hash(new).await?;
    let name = other.unwrap_or(user.username);
    ctl.change_user(&name, |user| user.password.clone_from(&hash))
        .await?;
    Ok(Json(json!({ "status": "password set" })))
}

/// Ends all tokens of a user and mints a new one; `all` ends everybody's, the caller's included.
pub(super) async fn regenerate(
    State(ctl): Ctl,
    Caller(user): Caller,
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
    ctl.store.commit(txn.present(&keys::user(&name))).await?;
    Ok(Json(wire::TokenReply { token }))
}
