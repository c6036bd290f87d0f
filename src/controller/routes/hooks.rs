//! `hooks/`: what the original builder of Deis v1 asks and tells. It proves itself by the builder key;
//! whether its user may do that is looked at with each request.

use axum::{
    Json,
    extract::{FromRequestParts, State},
    response::Response,
};
use http::{HeaderName, request::Parts};
use jiff::Timestamp;
use uuid::Uuid;

use super::{Shared, created};
use crate::{
    api::{valid, wire},
    controller::{
        self,
        access::{Wish, allowed},
        auth,
        error::ApiError,
        extract::{Body, Caller},
    },
    model::{App, AppName, Push, SCHEMA, User, Username},
    ops,
    store::{CommitError, Txn, keys},
};

type Ctl = State<controller::State>;

/// Pushes that are kept of an app.
const PUSHES: usize = 100;
/// Where the builder's key stands.
const HEADER: HeaderName = HeaderName::from_static("x-deis-builder-auth");

/// The original builder, proven by its key. A user's token in its place is a user who may not.
pub(super) struct Builder;

impl FromRequestParts<controller::State> for Builder {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &controller::State,
    ) -> Result<Self, ApiError> {
        if let Some(offered) = parts.headers.get(HEADER)
            && state.is_builder(offered.as_bytes()).await?
        {
            return Ok(Self);
        }
        // Who is nobody gets 401 here.
        let Caller(_) = <Caller as FromRequestParts<_>>::from_request_parts(parts, state).await?;
        Err(ApiError::Forbidden)
    }
}

impl Shared {
    /// The app and the user that a hook is about, if this user may use it.
    async fn received(&self, fields: &valid::Fields) -> Result<(AppName, App, User), ApiError> {
        let (user, repository) = valid::hook(fields)?;
        let name: AppName = repository.parse().map_err(|_| ApiError::NotFound)?;
        let app = ops::app::get(&self.store, &name).await?.value;
        let user: Username = user.parse().map_err(|_| ApiError::NotFound)?;
        let user = auth::user(&self.store, &user).await?;
        let (user, _) = user.ok_or(ApiError::NotFound)?;
        if allowed(&user, &app, Wish::Use) {
            Ok((name, app, user))
        } else {
            Err(ApiError::Forbidden)
        }
    }
}

/// Whether a push may begin; it is written down.
pub(super) async fn push(
    State(ctl): Ctl,
    _: Builder,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, _, user) = ctl.received(&fields).await?;
    let text = |name: &str, limit: usize| valid::hook_text(&fields, name, limit);
    let push = Push {
        schema: SCHEMA,
        uuid: Uuid::new_v4(),
        app: name.clone(),
        owner: user.username.clone(),
        sha: text("sha", 40)?,
        fingerprint: text("fingerprint", 255)?,
        receive_user: text("receive_user", 255)?,
        receive_repo: text("receive_repo", 255)?,
        ssh_connection: text("ssh_connection", 255)?,
        ssh_original_command: text("ssh_original_command", 255)?,
        created: Timestamp::now(),
    };
    let listing = ctl.store.list(&keys::pushes(&name)).await?;
    let mut old: Vec<Push> = listing.entries.into_iter().map(|(_, e)| e.value).collect();
    old.sort_by_key(|push| std::cmp::Reverse(push.created));
    let txn = old.iter().skip(PUSHES - 1).take(PUSHES).fold(
        Txn::new()
            .present(&keys::app(&name))
            .put(&keys::push(&name, push.uuid), &push),
        |txn, old| txn.delete(&keys::push(&name, old.uuid)),
    );
    match ctl.store.commit(txn).await {
        Ok(_) => Ok(created(wire::Push::from(&push))),
        Err(CommitError::Conflict) => Err(ApiError::NotFound),
        Err(error) => Err(error.into()),
    }
}

/// Deploys what the builder has pushed to a registry. Answers when it is deployed.
pub(super) async fn build(
    State(ctl): Ctl,
    _: Builder,
    Body(fields): Body,
) -> Result<Json<wire::HookReply>, ApiError> {
    let (name, app, user) = ctl.received(&fields).await?;
    let request = valid::build(&fields)?;
    if request.sha.is_empty() {
        return Err(valid::Refusal::field("sha", "This field is required.").into());
    }
    let (release, _) = ctl.launch(&name, &app, &user, &request).await?;
    Ok(Json(wire::HookReply {
        release: wire::RollbackReply { version: release.0 },
        domains: vec![format!("{name}.{}", ctl.domain().await?)],
    }))
}

/// The config that a build may need.
pub(super) async fn config(
    State(ctl): Ctl,
    _: Builder,
    Body(fields): Body,
) -> Result<Json<wire::Config>, ApiError> {
    let (name, app, _) = ctl.received(&fields).await?;
    let config = ctl.config(&name, app.active).await?;
    let values = ctl.unseal(&config)?;
    Ok(Json(wire::Config::new(&config, values)))
}
