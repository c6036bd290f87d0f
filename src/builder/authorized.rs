//! The line that sshd gets for an offered key: which command it forces, and for whom.

use md5::{Digest, Md5};

use crate::model::{Fingerprint, SshKey, Username};

/// Key types that may be used; the others are refused before anything is looked up.
const KINDS: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A public key as sshd offers it, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedKey {
    kind: &'static str,
    blob: String,
    fingerprint: Fingerprint,
}

/// What is wrong with an offered key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferedKeyError {
    /// A type that isn't used.
    #[error("keys of type {0:?} are not accepted")]
    Kind(String),
    /// Not base64, or not of the type that it claims.
    #[error("the key is no {0} key")]
    Blob(&'static str),
}

impl OfferedKey {
    /// Checks type and base64 against each other.
    ///
    /// # Errors
    /// When the type is not accepted or the key is not of that type.
    pub fn parse(kind: &str, blob: &str) -> Result<Self, OfferedKeyError> {
        let known = KINDS.iter().find(|known| **known == kind);
        let kind = *known.ok_or_else(|| OfferedKeyError::Kind(kind.chars().take(80).collect()))?;
        let bytes = decode(blob).ok_or(OfferedKeyError::Blob(kind))?;
        // The blob begins with its own type, length first (RFC 4253, 6.6).
        let length = u32::try_from(kind.len()).expect("invariant: types are short");
        let named = [&length.to_be_bytes()[..], kind.as_bytes()].concat();
        if !bytes.starts_with(&named) {
            return Err(OfferedKeyError::Blob(kind));
        }
        let pairs: Vec<String> = Md5::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let fingerprint = pairs
            .join(":")
            .parse()
            .expect("invariant: 16 pairs of digits");
        Ok(Self {
            kind,
            blob: blob.to_owned(),
            fingerprint,
        })
    }

    /// Where etcd would hold it.
    #[must_use]
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Whether this is that key, as a whole: MD5 alone proves nothing.
    #[must_use]
    pub fn is(&self, stored: &SshKey) -> bool {
        let mut words = stored.public.split_ascii_whitespace();
        words.next() == Some(self.kind) && words.next() == Some(self.blob.as_str())
    }

    /// The line of authorized_keys(5) that lets it in, to the forced command and nothing else.
    #[must_use]
    pub fn line(&self, program: &str, user: &Username) -> String {
        let Self {
            kind,
            blob,
            fingerprint,
        } = self;
        format!(
            "restrict,command=\"{program} git-shell --user={user} --fingerprint={fingerprint}\" \
             {kind} {blob}"
        )
    }
}

fn decode(blob: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(blob).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";

    #[test]
    fn a_key_is_read() {
        let key = OfferedKey::parse("ssh-ed25519", BLOB).expect("a key");
        assert_eq!(key.fingerprint().as_str().len(), 47);
        let stored = |public: &str| SshKey {
            schema: 1,
            uuid: uuid::Uuid::nil(),
            owner: "ada".parse().expect("a user"),
            id: "laptop".parse().expect("a key's name"),
            public: public.to_owned(),
            fingerprint: key.fingerprint().clone(),
            created: jiff::Timestamp::UNIX_EPOCH,
        };
        assert!(key.is(&stored(&format!("ssh-ed25519 {BLOB} ada@laptop"))));
        assert!(!key.is(&stored(&format!("ssh-rsa {BLOB}"))));
        assert!(!key.is(&stored(&format!("ssh-ed25519 {BLOB}A"))));
        assert!(!key.is(&stored("ssh-ed25519")));
    }

    #[test]
    fn what_sshd_should_never_say() {
        let cases = [
            ("ssh-dss", BLOB),
            ("ssh-rsa", BLOB),
            ("ssh-ed25519", ""),
            ("ssh-ed25519", "x y"),
            ("ssh-ed25519", "AAAA\nrestrict ssh-ed25519 AAAA"),
            ("ssh-ed25519\ncommand=\"id\"", BLOB),
            ("", ""),
        ];
        for (kind, blob) in cases {
            assert!(OfferedKey::parse(kind, blob).is_err(), "{kind:?} {blob:?}");
        }
    }

    #[test]
    fn a_line_can_not_be_broken_out_of() {
        let key = OfferedKey::parse("ssh-ed25519", BLOB).expect("a key");
        let user: Username = "a@b.c+d-e_f".parse().expect("a user");
        let line = key.line("/opt/deis/bin/deisd", &user);
        assert!(
            line.starts_with("restrict,command=\"/opt/deis/bin/deisd "),
            "{line}"
        );
        assert_eq!(line.matches('"').count(), 2, "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.ends_with(&format!("\" ssh-ed25519 {BLOB}")), "{line}");
        // What would break out is no user's name in the first place.
        for name in ["a\"", "a\nb", "a b", "a$b", "a;b", "a`b", "a\\b"] {
            assert!(name.parse::<crate::model::Username>().is_err(), "{name:?}");
        }
        // A name that begins with a dash stays the value of its argument.
        assert!("--help".parse::<crate::model::Username>().is_ok());
    }
}
