//! Certificates of custom domains: PEM in; what stands in them, and a pair that TLS can serve, out.
//!
//! The API takes nothing that a router couldn't serve. Routers trust no record all the same: what
//! they serve goes through [`pair`] again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rustls::{
    Error as TlsError, InconsistentKeys, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor, crypto::aws_lc_rs,
    server::ParsedCertificate, sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, UnixTime,
    pem::{self, PemObject},
};
use sha2::{Digest, Sha256};
use x509_cert::{
    Certificate,
    der::{self, Decode},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use crate::{model::DomainName, seal::Secret};

/// Most certificates in a chain.
const MAX_CHAIN: usize = 10;

/// Most names of a certificate: each is looked up.
const MAX_NAMES: usize = 100;

/// Why a certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// No certificate in the file.
    #[error("there is no certificate in it; one begins with -----BEGIN CERTIFICATE-----")]
    Absent,
    /// Broken PEM.
    #[error("its PEM is broken: {0}")]
    Pem(pem::Error),
    /// Too long a chain.
    #[error(
        "it holds {0} certificates, and a chain may have {MAX_CHAIN}; leave out what clients have"
    )]
    TooMany(usize),
    /// Broken DER.
    #[error("certificate {at} is broken: {source}")]
    Broken {
        /// Its place in the chain, from 1.
        at: usize,
        /// Why.
        #[source]
        source: der::Error,
    },
    /// Too many names.
    #[error("it has {0} names, and {MAX_NAMES} are allowed")]
    Names(usize),
    /// It is over.
    #[error("certificate {at} has expired, on {since}; renew it first")]
    Expired {
        /// Its place in the chain, from 1.
        at: usize,
        /// Since when.
        since: Timestamp,
    },
    /// The chain's order.
    #[error(
        "certificate {at} is not issued by the one after it; put your own first, then its issuer, then \
         the issuer's issuer"
    )]
    Order {
        /// Its place in the chain, from 1.
        at: usize,
    },
    /// The chain's signatures, dates or purposes.
    #[error("its chain does not hold: {0}")]
    Chain(TlsError),
    /// TLS can't serve it.
    #[error("no TLS server can use it: {0}")]
    Unusable(TlsError),
    /// No key in the file.
    #[error(
        "there is no private key in it; one begins with -----BEGIN PRIVATE KEY-----, or with RSA or EC \
         before PRIVATE"
    )]
    NoKey,
    /// A key behind a passphrase.
    #[error(
        "the private key has a passphrase, and nobody is there to type it; remove it with `openssl pkey \
         -in <key> -out <new key>`"
    )]
    Encrypted,
    /// A key that is none, or of a kind that TLS doesn't use.
    #[error("the private key can't be used: {0}")]
    Key(TlsError),
    /// Certificate and key are of different pairs.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// It is for no domain.
    #[error("the certificate names no domain, so that no client would take it for one")]
    Nameless,
    /// It is not for that domain.
    #[error("the certificate is not for {name}, but for {names}: clients would refuse it")]
    NotFor {
        /// The one that was asked for.
        name: DomainName,
        /// Those that it is for.
        names: String,
    },
    /// The key's certificate is not the first.
    #[error("the private key belongs to certificate {at} of the chain; that one must stand first")]
    LeafElsewhere {
        /// Its place in the chain, from 1.
        at: usize,
    },
}

impl CertError {
    /// Which field of the API's request is at fault.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::NoKey | Self::Encrypted | Self::Key(_) | Self::Mismatch => "key",
            Self::Nameless | Self::NotFor { .. } => "common_name",
            _ => "certificate",
        }
    }
}

/// What stands in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is: `CN=www.example.com,O=Example`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The subject's common name, where that is a domain.
    pub common_name: Option<DomainName>,
    /// The domains that it is for; those that are none of DNS (addresses, say) are left out.
    pub names: BTreeSet<DomainName>,
    /// SHA-256 of the whole, as pairs of digits with colons.
    pub fingerprint: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

impl Facts {
    /// What a certificate is called, and the names that it is served for: the one that was asked for,
    /// else all that it has.
    ///
    /// # Errors
    /// When it has no names, or not that one.
    pub fn served_for(
        &self,
        asked: Option<DomainName>,
    ) -> Result<(DomainName, BTreeSet<DomainName>), CertError> {
        let names = self.names.clone();
        if let Some(name) = asked {
            if covers(&names, &name) {
                return Ok((name.clone(), BTreeSet::from([name])));
            }
            let names: Vec<&str> = names.iter().map(DomainName::as_str).collect();
            return Err(match names.is_empty() {
                true => CertError::Nameless,
                false => CertError::NotFor {
                    name,
                    names: names.join(", "),
                },
            });
        }
        let plain = || names.iter().find(|name| !name.as_str().starts_with('*'));
        // As clients do, one that is not among the names is taken for words.
        let common_name = self
            .common_name
            .as_ref()
            .filter(|name| names.contains(*name));
        let name = common_name.or_else(plain);
        let name = name.or_else(|| names.first()).cloned();
        Ok((name.ok_or(CertError::Nameless)?, names))
    }
}

/// A certificate with its chain and key that can be served.
#[derive(Debug)]
pub struct Checked {
    /// The chain as PEM, and nothing else that its file held.
    pub chain: String,
    /// The key as PEM.
    pub key: Secret<String>,
    /// What stands in the first certificate.
    pub facts: Facts,
}

/// Reads a chain and its key, and makes sure that a router can serve them at this time.
///
/// # Errors
/// When it couldn't, or clients would refuse it.
pub fn check(certificate: &str, key: &str, now: Timestamp) -> Result<Checked, CertError> {
    let chain = read_chain(certificate)?;
    let key = read_key(key)?;
    let all = describe(&chain)?;
    for (at, facts) in (1..).zip(&all) {
        if facts.not_after <= now {
            let since = facts.not_after;
            return Err(CertError::Expired { at, since });
        }
    }
    let pem = Checked {
        chain: chain.iter().map(|der| to_pem("CERTIFICATE", der)).collect(),
        key: Secret::new(key_pem(&key)),
        facts: all.into_iter().next().ok_or(CertError::Absent)?,
    };
    pair(chain.clone(), key)?;
    linked(&chain, now)?;
    Ok(pem)
}

/// Reads a chain.
///
/// # Errors
/// When it is no PEM, empty or too long.
pub fn read_chain(text: &str) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(CertError::Pem)?;
    match chain.len() {
        0 => Err(CertError::Absent),
        1..=MAX_CHAIN => Ok(chain),
        many => Err(CertError::TooMany(many)),
    }
}

/// Reads a private key.
///
/// # Errors
/// When there is none, or one behind a passphrase.
pub fn read_key(text: &str) -> Result<PrivateKeyDer<'static>, CertError> {
    let encrypted = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
    if encrypted.iter().any(|mark| text.contains(mark)) {
        return Err(CertError::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => CertError::NoKey,
        // What it says may be of the key itself.
        _ => CertError::Key(TlsError::General("its PEM is broken".to_owned())),
    })
}

/// A chain and its key as rustls serves them.
///
/// # Errors
/// When the key can't be used, or isn't the first certificate's.
pub fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, CertError> {
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(CertError::Key)?;
    let belongs = |at: usize| {
        let alone = CertifiedKey::new(vec![chain[at].clone()], Arc::clone(&key));
        alone.keys_match()
    };
    match belongs(0) {
        Ok(()) => Ok(CertifiedKey::new(chain, key)),
        // A key that tells nothing about its public half is none that we know.
        Err(TlsError::InconsistentKeys(
            InconsistentKeys::KeyMismatch | InconsistentKeys::Unknown,
        )) => Err(match (1..chain.len()).find(|at| belongs(*at).is_ok()) {
            Some(at) => CertError::LeafElsewhere { at: at + 1 },
            None => CertError::Mismatch,
        }),
        Err(error) => Err(CertError::Unusable(error)),
    }
}

/// Makes sure that each certificate is signed by the next.
fn linked(chain: &[CertificateDer<'static>], now: Timestamp) -> Result<(), CertError> {
    let [leaf, between @ .., last] = chain else {
        return Ok(());
    };
    let mut parsed = Vec::with_capacity(chain.len());
    for (at, der) in (1..).zip(chain) {
        parsed.push(parse(der, at)?);
    }
    for (at, two) in (1..).zip(parsed.windows(2)) {
        if two[0].tbs_certificate().issuer() != two[1].tbs_certificate().subject() {
            return Err(CertError::Order { at });
        }
    }
    let mut anchor = RootCertStore::empty();
    anchor.add(last.clone()).map_err(CertError::Chain)?;
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf).map_err(CertError::Unusable)?,
        &anchor,
        between,
        UnixTime::since_unix_epoch(Duration::from_secs(now)),
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all,
    )
    .map_err(CertError::Chain)
}

/// What stands in each certificate of a chain.
///
/// # Errors
/// When one can't be read.
pub fn describe(chain: &[CertificateDer<'static>]) -> Result<Vec<Facts>, CertError> {
    (1..).zip(chain).map(|(at, der)| facts(der, at)).collect()
}

fn parse(der: &CertificateDer<'_>, at: usize) -> Result<Certificate, CertError> {
    Certificate::from_der(der).map_err(|source| CertError::Broken { at, source })
}

fn facts(der: &CertificateDer<'_>, at: usize) -> Result<Facts, CertError> {
    let broken = |source| CertError::Broken { at, source };
    let certificate = parse(der, at)?;
    let inner = certificate.tbs_certificate();
    let common_name = inner.subject().common_name().ok().flatten();
    let common_name = common_name.and_then(|name| domain(&name.value()));
    let names: BTreeSet<DomainName> =
        match inner.get_extension::<SubjectAltName>().map_err(broken)? {
            Some((_, SubjectAltName(all))) => all
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DnsName(name) => domain(name.as_str()),
                    _ => None,
                })
                .collect(),
            // Before there were alternative names, the common name was it.
            None => common_name.iter().cloned().collect(),
        };
    if names.len() > MAX_NAMES {
        return Err(CertError::Names(names.len()));
    }
    let time = |time: x509_cert::time::Time| {
        let second = i64::try_from(time.to_unix_duration().as_secs());
        // "Never" is written as the end of the year 9999, which is more than we count to.
        second
            .ok()
            .and_then(|second| Timestamp::from_second(second).ok())
            .unwrap_or(Timestamp::MAX)
    };
    let validity = inner.validity();
    Ok(Facts {
        subject: shown(inner.subject()),
        issuer: shown(inner.issuer()),
        common_name,
        names,
        fingerprint: fingerprint(der),
        not_before: time(validity.not_before),
        not_after: time(validity.not_after),
    })
}

/// A name as DNS has it, if it is one.
fn domain(text: &str) -> Option<DomainName> {
    text.to_ascii_lowercase().parse().ok()
}

/// A name that may contain anything, for a terminal.
fn shown(name: &x509_cert::name::Name) -> String {
    let text = name.to_string();
    text.replace(char::is_control, "\u{fffd}")
}

fn fingerprint(der: &[u8]) -> String {
    let pairs: Vec<String> = Sha256::digest(der)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    pairs.join(":")
}

/// Whether one of these names is `host`, or a wildcard for it.
#[must_use]
pub fn covers(names: &BTreeSet<DomainName>, host: &DomainName) -> bool {
    let wildcard = || {
        let (_, parent) = host.as_str().split_once('.')?;
        names.get(format!("*.{parent}").as_str())
    };
    names.contains(host) || wildcard().is_some()
}

fn key_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    to_pem(label, key.secret_der())
}

/// RFC 7468: lines of 64.
pub(crate) fn to_pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for at in (0..base64.len()).step_by(64) {
        text.push_str(&base64[at..base64.len().min(at + 64)]);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
#[path = "cert_tests.rs"]
pub(crate) mod tests;
