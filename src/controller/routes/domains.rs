//! `apps/<app>/domains/`

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;

use super::created;
use crate::{
    api::{
        valid::{self, Refusal},
        wire,
    },
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, By, Caller},
        page::Paging,
    },
    model::{Action, Domain, DomainName, SCHEMA},
    ops::audit,
    store::{CommitError, Txn, keys},
};

type Ctl = State<controller::State>;

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Domain>>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let listing = ctl.store.list(&keys::domains()).await?;
    let mut domains: Vec<_> = listing
        .entries
        .into_iter()
        .map(|(_, domain)| domain.value)
        .filter(|domain| domain.app == name)
        .collect();
    domains.sort_by_key(|domain| domain.created);
    Ok(Json(
        paging.cut(domains.iter().map(wire::Domain::from).collect())?,
    ))
}

pub(super) async fn add(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let domain = valid::domain(&fields)?;
    let platform = ctl.domain().await?;
    // Names right below the platform's domain are those of apps and of the controller.
    let below = domain.as_str().strip_suffix(&format!(".{platform}"));
    if domain.as_str() == platform || below.is_some_and(|label| !label.contains('.')) {
        let why = format!("{domain} belongs to the platform");
        return Err(Refusal::field("domain", why).into());
    }
    let record = Domain {
        schema: SCHEMA,
        domain: domain.clone(),
        app: name.clone(),
        owner: user.username,
        created: Timestamp::now(),
    };
    let key = keys::domain(&domain);
    let txn = Txn::new()
        .absent(&key)
        .present(&keys::app(&name))
        .put(&key, &record);
    let note = by.note(Action::DomainAdd, domain.as_str());
    match audit::commit(&ctl.store, &name, txn, note).await {
        Ok(()) => Ok(created(wire::Domain::from(&record))),
        Err(CommitError::Conflict) => Err(match ctl.store.get(&key).await? {
            Some(other) if other.value.app == name => Refusal::not_unique("domain").into(),
            Some(_) => {
                let why = format!("The domain {domain} is already in use by another app");
                Refusal::field("domain", why).into()
            }
            None => ApiError::NotFound,
        }),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

pub(super) async fn remove(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path((app, domain)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Own).await?;
    let domain: DomainName = domain
        .to_ascii_lowercase()
        .parse()
        .map_err(|_| ApiError::NotFound)?;
    let key = keys::domain(&domain);
    let found = ctl
        .store
        .get(&key)
        .await?
        .filter(|found| found.value.app == name);
    let found = found.ok_or(ApiError::NotFound)?;
    let txn = Txn::new().unchanged(&key, found.mod_revision).delete(&key);
    let note = by.note(Action::DomainRemove, domain.as_str());
    audit::commit(&ctl.store, &name, txn, note).await?;
    Ok(StatusCode::NO_CONTENT)
}
