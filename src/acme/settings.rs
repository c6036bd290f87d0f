//! What operators set: `deisctl config platform set acme-directory=...`.

use std::collections::BTreeMap;

use instant_acme::LetsEncrypt;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::store::keys;

/// All settings of this part begin so.
pub(super) const PREFIX: &str = "acme-";

/// The settings that there are, with what they mean.
pub const SETTINGS: [(&str, &str); 3] = [
    (
        "acme-directory",
        "authority for automatic certificates: letsencrypt, letsencrypt-staging, or the URL of an ACME \
         directory; setting it agrees to its terms",
    ),
    ("acme-email", "where the authority reaches the operators"),
    (
        "acme-ca",
        "PEM of the root that the authority's own HTTPS is signed by, unless that is a public one",
    ),
];

/// Why they can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// The directory is no URL.
    #[error(
        "acme-directory is {0:?}, and has to be letsencrypt, letsencrypt-staging or an https:// URL"
    )]
    Directory(String),
    /// The address is none.
    #[error("acme-email is {0:?}, and has to be an address like ops@example.com")]
    Email(String),
    /// The root is none.
    #[error("acme-ca holds no PEM certificate")]
    Ca,
}

/// The settings, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The authority's directory.
    pub directory: String,
    /// `mailto:...`
    pub contact: Option<String>,
    /// The root of the authority's own HTTPS, PEM.
    pub ca: Option<String>,
}

impl Settings {
    /// Reads them, by their keys; none without an authority.
    pub fn parse(all: &BTreeMap<String, String>) -> Result<Option<Self>, SettingsError> {
        let get = |name: &str| {
            let value = all.get(keys::platform(name).as_str())?.trim();
            (!value.is_empty()).then_some(value)
        };
        let Some(directory) = get("acme-directory") else {
            return Ok(None);
        };
        let directory = match directory {
            "letsencrypt" => LetsEncrypt::Production.url(),
            "letsencrypt-staging" => LetsEncrypt::Staging.url(),
            url => {
                let uri = url.parse::<http::Uri>().ok();
                let host = uri.filter(|uri| uri.scheme_str() == Some("https"));
                if host.is_none_or(|uri| uri.host().is_none()) {
                    return Err(SettingsError::Directory(url.to_owned()));
                }
                url
            }
        };
        let contact = get("acme-email").map(|email| {
            let plain = |c: char| c.is_ascii_graphic() && !"<>\",;:?&%".contains(c);
            match email.split_once('@') {
                Some((who, host))
                    if !who.is_empty() && host.contains('.') && email.chars().all(plain) =>
                {
                    Ok(format!("mailto:{email}"))
                }
                _ => Err(SettingsError::Email(email.to_owned())),
            }
        });
        let ca = get("acme-ca").map(|pem| {
            CertificateDer::from_pem_slice(pem.as_bytes())
                .map(|_| pem.to_owned())
                .map_err(|_| SettingsError::Ca)
        });
        Ok(Some(Self {
            directory: directory.to_owned(),
            contact: contact.transpose()?,
            ca: ca.transpose()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_operators_may_write() {
        let parse = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| {
                (keys::platform(name).to_string(), (*value).to_owned())
            };
            Settings::parse(&pairs.iter().map(pair).collect())
        };
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[("acme-email", "ops@example.com")]), Ok(None));
        let staging = parse(&[
            ("acme-directory", "letsencrypt-staging\n"),
            ("acme-email", "ops@example.com"),
        ]);
        let staging = staging.expect("fine").expect("on");
        assert!(staging.directory.starts_with("https://acme-staging"));
        assert_eq!(staging.contact.as_deref(), Some("mailto:ops@example.com"));
        for bad in ["http://ca.example.com/dir", "letsencrpyt", "https:///dir"] {
            let refused = parse(&[("acme-directory", bad)]);
            assert_eq!(refused, Err(SettingsError::Directory(bad.to_owned())));
        }
        for bad in [
            "ops",
            "@example.com",
            "ops@example.com?cc=eve@x.org",
            "a b@example.com",
        ] {
            let refused = parse(&[("acme-directory", "letsencrypt"), ("acme-email", bad)]);
            assert_eq!(refused, Err(SettingsError::Email(bad.to_owned())), "{bad}");
        }
        let refused = parse(&[("acme-directory", "letsencrypt"), ("acme-ca", "root")]);
        assert_eq!(refused, Err(SettingsError::Ca));
    }
}
