//! Sealing: config values and other secrets under the cluster key (AES-256-GCM), so that etcd, its
//! backups and its disk never hold them in clear.
//!
//! The context (which app, which name) is authenticated: a sealed value that is moved to another
//! place does not open there.

use std::{fmt, path::Path};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::model::{AppName, ConfigName, DomainName, SealedValue};

/// Begins every sealed value: scheme and key generation.
const SCHEME: &str = "sealed1:";

/// Length of the key in bytes.
pub const KEY_LEN: usize = 32;

/// A value that is not shown by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: whoever calls this decides where it goes.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself, taken out.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why something can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file can't be read.
    #[error("can't read the cluster key {path}; copy it from another host of the cluster")]
    File {
        /// Where it should be.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not 32 bytes of base64.
    #[error("the cluster key is not {KEY_LEN} bytes in base64")]
    Key,
    /// Wrong key, wrong place, or tampered with.
    #[error("the sealed value of {context} does not open with this cluster's key")]
    Open {
        /// What it was said to be.
        context: String,
    },
    /// The value is not text.
    #[error("the value of {context} is not UTF-8")]
    Text {
        /// What it was said to be.
        context: String,
    },
}

/// The cluster's key. Controllers, builders, agents and routers hold it; nobody else does.
pub struct ClusterKey(RandomizedNonceKey);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey([redacted])")
    }
}

impl ClusterKey {
    /// Reads the key from its file: base64, one line.
    ///
    /// # Errors
    /// When the file can't be read or holds no key.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let text = std::fs::read_to_string(path).map_err(|source| SealError::File {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads the key from base64 text.
    ///
    /// # Errors
    /// When it is not a key.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| SealError::Key)?;
        if bytes.len() != KEY_LEN {
            return Err(SealError::Key);
        }
        RandomizedNonceKey::new(&AES_256_GCM, &bytes)
            .map(Self)
            .map_err(|_| SealError::Key)
    }

    /// Seals a value for a place.
    #[must_use]
    pub fn seal(&self, context: &str, value: &[u8]) -> SealedValue {
        let mut sealed = value.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(context), &mut sealed)
            .expect("invariant: values are far below AES-GCM's limit of 64 GiB");
        let mut bytes = nonce.as_ref().to_vec();
        bytes.append(&mut sealed);
        SealedValue(format!("{SCHEME}{}", STANDARD.encode(bytes)))
    }

    /// Opens a value that was sealed for this place.
    ///
    /// # Errors
    /// When it was sealed under another key or for another place, or was tampered with.
    pub fn open(&self, context: &str, value: &SealedValue) -> Result<Secret<Vec<u8>>, SealError> {
        let failed = || SealError::Open {
            context: context.to_owned(),
        };
        let text = value.0.strip_prefix(SCHEME).ok_or_else(failed)?;
        let mut bytes = STANDARD.decode(text).map_err(|_| failed())?;
        if bytes.len() < NONCE_LEN {
            return Err(failed());
        }
        let mut rest = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| failed())?;
        let opened = self
            .0
            .open_in_place(nonce, Aad::from(context), &mut rest)
            .map_err(|_| failed())?;
        let length = opened.len();
        rest.truncate(length);
        Ok(Secret(rest))
    }

    /// Opens a value that is text.
    ///
    /// # Errors
    /// As [`ClusterKey::open`], and when it is not UTF-8.
    pub fn open_text(
        &self,
        context: &str,
        value: &SealedValue,
    ) -> Result<Secret<String>, SealError> {
        let bytes = self.open(context, value)?.into_inner();
        String::from_utf8(bytes)
            .map(Secret)
            .map_err(|_| SealError::Text {
                context: context.to_owned(),
            })
    }
}

/// The place of the original builder's key among the controller's settings.
pub const BUILDER_KEY_CONTEXT: &str = "controller/builderKey";

/// Whether a text is a sealed value.
#[must_use]
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(SCHEME)
}

/// The place of a config value: it opens as nothing else.
#[must_use]
pub fn config_context(app: &AppName, name: &ConfigName) -> String {
    format!("app/{app}/config/{name}")
}

/// The place of a certificate's private key.
#[must_use]
pub fn cert_context(name: &DomainName) -> String {
    format!("cert/{name}")
}

/// The place of a one-off process's order: it opens for that assignment only.
#[must_use]
pub fn order_context(assignment: uuid::Uuid) -> String {
    format!("run/{assignment}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::parse(&STANDARD.encode([byte; KEY_LEN])).expect("key")
    }

    proptest! {
        #[test]
        fn opens_only_as_what_it_was(value in prop::collection::vec(any::<u8>(), 0..300), flip in any::<prop::sample::Index>()) {
            let sealed = key(1).seal("here", &value);
            let opened = key(1).open("here", &sealed).expect("opens").into_inner();
            prop_assert_eq!(opened, value);
            prop_assert!(key(1).open("there", &sealed).is_err());
            prop_assert!(key(2).open("here", &sealed).is_err());
            let mut bytes = STANDARD.decode(&sealed.0[SCHEME.len()..]).expect("base64");
            let at = flip.index(bytes.len());
            bytes[at] ^= 1;
            let broken = SealedValue(format!("{SCHEME}{}", STANDARD.encode(bytes)));
            prop_assert!(key(1).open("here", &broken).is_err());
        }
    }

    #[test]
    fn refuses_what_is_no_key() {
        for text in ["", "short", "!!!", &STANDARD.encode([0; 31])] {
            assert!(ClusterKey::parse(text).is_err(), "{text:?}");
        }
        assert!(key(1).open("x", &SealedValue("plain text".into())).is_err());
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(
            format!("{:?} {:?}", Secret::new("hunter2"), key(1)),
            "[redacted] ClusterKey([redacted])"
        );
    }
}
