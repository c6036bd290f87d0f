//! Automatic certificates: the platform's account with a certificate authority (RFC 8555), what routers
//! answer it, and what is known of each domain's orders.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::model::{DomainName, SealedValue};

/// `/deis/acme/account`: made once per authority, by the first leader that needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeAccount {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The authority's directory: another one needs another account.
    pub directory: String,
    /// Its address and private key, sealed with the context `acme-account`.
    pub credentials: SealedValue,
}

/// `/deis/acme/challenges/<token>`: what every router answers below
/// `/.well-known/acme-challenge/` while an order is under way (RFC 8555, 8.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeChallenge {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Which domain it proves.
    pub domain: DomainName,
    /// The key authorization: the token and the account's thumbprint. No secret.
    pub answer: String,
}

/// `/deis/acme/orders/<domain>`: orders for it that failed, until one succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeOrder {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Tries in a row that failed.
    pub failures: u32,
    /// Why the last one failed.
    pub error: String,
    /// When that was.
    pub failed: Timestamp,
    /// When the next try is due.
    pub next: Timestamp,
}
