//! `certs/`: certificates of custom domains. Everybody sees his own only, administrators included.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use tracing::info;

use super::created;
use crate::{
    api::{
        valid::{self, Refusal},
        wire,
    },
    cert::{self, CertError},
    controller::{
        self, Shared,
        error::ApiError,
        extract::{Body, By, Caller},
        page::Paging,
    },
    model::{Action, Certificate, DomainName, SCHEMA, User, Username},
    ops::audit,
    seal::cert_context,
    store::{CommitError, Txn, Versioned, keys},
};

type Ctl = State<controller::State>;

impl Shared {
    /// A user's certificates, the oldest first.
    pub(super) async fn certs_of(
        &self,
        user: &Username,
    ) -> Result<Vec<Versioned<Certificate>>, ApiError> {
        let listing = self.store.list_readable(&keys::certs()).await?;
        let mut own: Vec<_> = listing
            .entries
            .into_iter()
            .map(|(_, cert)| cert)
            .filter(|cert| cert.value.owner == *user)
            .collect();
        own.sort_by_key(|cert| cert.create_revision);
        Ok(own)
    }

    /// A user's certificate of that name.
    async fn cert(&self, user: &User, name: &str) -> Result<Versioned<Certificate>, ApiError> {
        let name: DomainName = name
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| ApiError::NotFound)?;
        let found = self.store.get(&keys::cert(&name)).await?;
        let found = found.filter(|cert| cert.value.owner == user.username);
        found.ok_or(ApiError::NotFound)
    }

    /// Refuses names that are the platform's, or domains of apps that the user may not use: nobody
    /// speaks for others.
    async fn may_certify(&self, user: &User, names: &BTreeSet<DomainName>) -> Result<(), ApiError> {
        let refuse = |why: String| Err(Refusal::field("common_name", why).into());
        let platform = self.domain().await?;
        if let Some(name) = names
            .iter()
            .find(|name| valid::is_platforms(name, &platform))
        {
            return refuse(format!(
                "{name} belongs to the platform; give a common name to use the certificate for that \
                 name alone"
            ));
        }
        let domains = self.store.list_readable(&keys::domains()).await?;
        for (_, domain) in domains.entries {
            let domain = domain.value;
            if cert::covers(names, &domain.domain) && !self.may_use(user, &domain.app).await? {
                let domain = domain.domain;
                return refuse(format!(
                    "The domain {domain} is already in use by another app"
                ));
            }
        }
        Ok(())
    }
}

/// Says what is wrong with a certificate, as v1 did.
fn refused(error: CertError) -> ApiError {
    let why = match error.field() {
        "certificate" => format!("Could not load certificate: {error}"),
        _ => error.to_string(),
    };
    Refusal::field(error.field(), why).into()
}

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Cert>>, ApiError> {
    let own = ctl.certs_of(&user.username).await?;
    let shapes = own
        .iter()
        .map(|c| wire::Cert::new(&c.value, c.create_revision));
    Ok(Json(paging.cut(shapes.collect())?))
}

pub(super) async fn add(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let request = valid::cert(&fields)?;
    let now = Timestamp::now();
    let checked = cert::check(request.certificate, request.key, now).map_err(refused)?;
    let (name, names) = checked
        .facts
        .served_for(request.common_name)
        .map_err(refused)?;
    ctl.may_certify(&user, &names).await?;
    let secret = checked.key.expose().as_bytes();
    let record = Certificate {
        schema: SCHEMA,
        key: ctl.key.seal(&cert_context(&name), secret),
        name,
        names,
        owner: user.username,
        chain: checked.chain,
        expires: checked.facts.not_after,
        created: now,
        auto: false,
    };
    let key = keys::cert(&record.name);
    // What somebody brings takes the place of what the platform has ordered.
    let there = ctl.store.get(&key).await?.filter(|cert| cert.value.auto);
    let txn = match there {
        Some(ordered) => Txn::new().unchanged(&key, ordered.mod_revision),
        None => Txn::new().absent(&key),
    };
    let txn = txn.present(&keys::user(&record.owner)).put(&key, &record);
    let note = by.note(Action::CertAdd, record.name.as_str());
    match audit::commit_platform(&ctl.store, txn, note).await {
        Ok(revision) => {
            info!(cert = %record.name, user = %record.owner, expires = %record.expires, "certificate added");
            Ok(created(wire::Cert::new(&record, revision)))
        }
        Err(CommitError::Conflict) => Err(Refusal::not_unique("common_name").into()),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(name): Path<String>,
) -> Result<Json<wire::Cert>, ApiError> {
    let found = ctl.cert(&user, &name).await?;
    Ok(Json(wire::Cert::new(&found.value, found.create_revision)))
}

/// What stands in it, certificate by certificate. Not v1's.
pub(super) async fn chain(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(name): Path<String>,
) -> Result<Json<wire::CertChain>, ApiError> {
    let record = ctl.cert(&user, &name).await?.value;
    let chain = cert::read_chain(&record.chain).and_then(|chain| cert::describe(&chain));
    Ok(Json(wire::CertChain {
        common_name: record.name.to_string(),
        names: record.names.iter().map(DomainName::to_string).collect(),
        chain: chain
            .map_err(ApiError::internal)?
            .iter()
            .map(wire::CertFacts::from)
            .collect(),
    }))
}

pub(super) async fn remove(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let found = ctl.cert(&user, &name).await?;
    let key = keys::cert(&found.value.name);
    let txn = Txn::new().unchanged(&key, found.mod_revision).delete(&key);
    let note = by.note(Action::CertRemove, found.value.name.as_str());
    audit::commit_platform(&ctl.store, txn, note).await?;
    info!(cert = %found.value.name, user = %user.username, "certificate removed");
    Ok(StatusCode::NO_CONTENT)
}
