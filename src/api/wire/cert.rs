//! Certificates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::time::WireTime;
use crate::{cert, model, plan::acme::Standing};

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cert {
    /// Its number: a JSON number, and unique.
    pub id: i64,
    /// Whose it is.
    pub owner: String,
    /// What it is called by.
    pub common_name: String,
    /// When it expires.
    pub expires: WireTime,
    /// When it was added.
    pub created: WireTime,
    /// When it was added.
    pub updated: WireTime,
}

impl Cert {
    /// The certificate as clients see it; `revision` is the one at which it came into being.
    #[must_use]
    pub fn new(cert: &model::Certificate, revision: model::Revision) -> Self {
        Self {
            id: revision,
            owner: cert.owner.to_string(),
            common_name: cert.name.to_string(),
            expires: cert.expires.into(),
            created: cert.created.into(),
            updated: cert.created.into(),
        }
    }
}

/// How an app's domain gets its certificate. Not v1's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainCert {
    /// The domain.
    pub domain: String,
    /// `brought`, `automatic`, `ordered`, `failed`, or `none`.
    pub state: String,
    /// What else there is to say: which certificate, until when, why not.
    pub detail: String,
}

impl DomainCert {
    /// Where a domain stands; `on`: whether the platform orders certificates.
    #[must_use]
    pub fn new(domain: &model::DomainName, standing: &Standing, on: bool) -> Self {
        let day = |at: &jiff::Timestamp| at.strftime("%F").to_string();
        let (state, detail) = match standing {
            Standing::Brought { by } => ("brought", format!("{by}, see certs:info")),
            Standing::Served { expires, renewal } => (
                "automatic",
                format!("expires {}, renewed from {}", day(expires), day(renewal)),
            ),
            _ if !on => (
                "none",
                "this platform orders none; bring one with certs:add".to_owned(),
            ),
            Standing::Ordered => ("ordered", "not issued yet".to_owned()),
            Standing::Failed { error, next } => (
                "failed",
                format!("{error}; next try at {}", next.strftime("%F %H:%M UTC")),
            ),
            Standing::Wildcard => (
                "none",
                "wildcards are not ordered, only brought with certs:add".to_owned(),
            ),
        };
        Self {
            domain: domain.to_string(),
            state: state.to_owned(),
            detail,
        }
    }
}

/// What stands in a certificate and its chain. Not v1's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertChain {
    /// What it is called by.
    pub common_name: String,
    /// The names that it is served for.
    pub names: Vec<String>,
    /// Certificate by certificate, its own first.
    pub chain: Vec<CertFacts>,
}

/// What stands in one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertFacts {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The domains that it is for.
    pub names: Vec<String>,
    /// SHA-256, pairs of digits with colons.
    pub fingerprint: String,
    /// From when it is valid.
    pub not_before: WireTime,
    /// Until when.
    pub not_after: WireTime,
}

impl From<&cert::Facts> for CertFacts {
    fn from(facts: &cert::Facts) -> Self {
        Self {
            subject: facts.subject.clone(),
            issuer: facts.issuer.clone(),
            names: facts.names.iter().map(ToString::to_string).collect(),
            fingerprint: facts.fingerprint.clone(),
            not_before: facts.not_before.into(),
            not_after: facts.not_after.into(),
        }
    }
}
