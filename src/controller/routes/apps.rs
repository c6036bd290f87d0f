//! `apps/`

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use tracing::warn;

use super::{Shared, created};
use crate::{
    api::{grant::Grant, valid, wire},
    controller::{
        self,
        access::Wish,
        auth,
        error::ApiError,
        extract::{Body, By, Caller, Proven},
        page::Paging,
    },
    logger::client::{self, Whose},
    model::Action,
    ops,
    store::keys,
};

type Ctl = State<controller::State>;

/// The platform's domain when nothing else is set.
const DEFAULT_DOMAIN: &str = "localhost";

impl Shared {
    /// The domain below which apps have their names.
    pub(super) async fn domain(&self) -> Result<String, ApiError> {
        let found = self.store.get(&keys::platform("domain")).await?;
        Ok(found.map_or_else(|| DEFAULT_DOMAIN.to_owned(), |domain| domain.value))
    }
}

pub(super) async fn list(
    State(ctl): Ctl,
    Proven(who): Proven,
    paging: Paging,
) -> Result<Json<wire::Page<wire::App>>, ApiError> {
    let (user, grant) = (&who.user, Grant::from(&who.token));
    let domain = ctl.domain().await?;
    let apps = ops::app::list(&ctl.store)
        .await?
        .iter()
        .filter(|(name, _)| grant.sees(name))
        .filter(|(_, app)| controller::access::allowed(user, app, Wish::Use))
        .map(|(name, app)| wire::App::new(name, app, &domain))
        .collect();
    Ok(Json(paging.cut(apps)?))
}

pub(super) async fn create(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let name = valid::app_id(&fields)?;
    let (name, app) = ops::app::create(&ctl.store, by, name).await?;
    ctl.tell(&name, &format!("{} created initial release", user.username));
    Ok(created(wire::App::new(&name, &app, &ctl.domain().await?)))
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
) -> Result<Json<wire::App>, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    Ok(Json(wire::App::new(&name, &app, &ctl.domain().await?)))
}

/// Gives an app to another owner.
pub(super) async fn transfer(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Own).await?;
    if let Some(owner) = valid::new_owner(&fields)? {
        auth::user(&ctl.store, &owner)
            .await?
            .ok_or(ApiError::NotFound)?;
        let note = by.note(Action::Transfer, "");
        ops::app::update_with(&ctl.store, &name, |app| {
            let what = format!("from {} to {owner}", app.owner);
            // Whoever becomes the owner is no collaborator any more.
            app.collaborators.remove(&owner);
            app.owner = owner.clone();
            Ok(note.clone().detail(what).of_app(&name))
        })
        .await?;
    }
    Ok(StatusCode::OK)
}

pub(super) async fn destroy(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
) -> Result<StatusCode, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Own).await?;
    ops::app::destroy(&ctl.store, &name, by).await?;
    // The next app of this name must not find it.
    if let Err(error) = client::delete(&ctl.store, &Whose::of(&name, &app)).await {
        warn!(app = %name, %error, "log of a destroyed app not deleted");
    }
    Ok(StatusCode::NO_CONTENT)
}
