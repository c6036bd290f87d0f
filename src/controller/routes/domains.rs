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
    acme,
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
    ops::{self, OpsError, audit},
    plan,
    store::{CommitError, Txn, keys},
};

type Ctl = State<controller::State>;

/// How often an addition that met another change of the app is tried again.
const TRIES: usize = 20;

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Domain>>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let listing = ctl.store.list_readable(&keys::domains()).await?;
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

/// How each domain gets its certificate. Not v1's.
pub(super) async fn certs(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
) -> Result<Json<Vec<wire::DomainCert>>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let view = acme::view(&ctl.store).await?;
    let on = acme::is_on(&ctl.store).await?;
    let now = Timestamp::now();
    let own = view
        .domains
        .iter()
        .filter(|(_, domain)| domain.value.app == name);
    let shapes = own.map(|(domain, _)| {
        wire::DomainCert::new(domain, &plan::acme::standing(domain, &view, now), on)
    });
    Ok(Json(shapes.collect()))
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
    if valid::is_platforms(&domain, &ctl.domain().await?) {
        let why = format!("{domain} belongs to the platform");
        return Err(Refusal::field("domain", why).into());
    }
    let taken = || {
        let why = format!("The domain {domain} is already in use by another app");
        ApiError::from(Refusal::field("domain", why))
    };
    let key = keys::domain(&domain);
    for _ in 0..TRIES {
        let app = ops::app::get(&ctl.store, &name).await?;
        if app.value.destroying {
            return Err(OpsError::Destroying(name).into());
        }
        if let Some(other) = ctl.store.get(&key).await? {
            let same = other.value.app == name;
            return Err(if same {
                Refusal::not_unique("domain").into()
            } else {
                taken()
            });
        }
        // An app that is being destroyed gets nothing that its end would overlook.
        let mut txn = Txn::new()
            .absent(&key)
            .unchanged(&keys::app(&name), app.mod_revision);
        if let Some(wildcard) = wildcard_for(&domain) {
            // Whose wildcard it is under decides.
            let above = keys::domain(&wildcard);
            txn = match ctl.store.get(&above).await? {
                None => txn.absent(&above),
                Some(there) if ctl.may_use(&user, &there.value.app).await? => {
                    txn.unchanged(&above, there.mod_revision)
                }
                Some(_) => return Err(taken()),
            };
        }
        let record = Domain {
            schema: SCHEMA,
            domain: domain.clone(),
            app: name.clone(),
            owner: user.username.clone(),
            created: Timestamp::now(),
        };
        let note = by.note(Action::DomainAdd, domain.as_str());
        match audit::commit(&ctl.store, &name, txn.put(&key, &record), note).await {
            Ok(_) => return Ok(created(wire::Domain::from(&record))),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(OpsError::Contended(format!("the app {name}")).into())
}

/// The wildcard that a name falls under.
fn wildcard_for(domain: &DomainName) -> Option<DomainName> {
    let (_, parent) = domain.as_str().split_once('.')?;
    let wildcard = format!("*.{parent}").parse().ok()?;
    (wildcard != *domain).then_some(wildcard)
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
