//! Public SSH keys as users hand them in: one line of authorized_keys(5) without options.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::model::Fingerprint;

/// Types of key that OpenSSH 9 accepts from clients, RSA's signature question aside.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A public key that has been parsed: its text is one line and safe in an authorized_keys file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Type, base64 and comment, one space between.
    pub line: String,
    /// MD5 of the key.
    pub fingerprint: Fingerprint,
    /// The comment, often `user@host`.
    pub comment: String,
}

/// Why a text is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// A private key: say so before anybody hands it to somebody else.
    #[error("This is a private key. Add the public one, usually in a file that ends in .pub")]
    Private,
    /// More than one line, or control characters.
    #[error("A key must be a single line")]
    Lines,
    /// Not a type that we know.
    #[error("Key type {0:?} is not supported: use an ed25519, ecdsa or rsa key")]
    Kind(String),
    /// The second word is no base64. The words are v1's (Python's).
    #[error("Incorrect padding")]
    Base64,
    /// The data are cut off or of another type than the first word says.
    #[error("Key data do not match the key's type {0}")]
    Data(&'static str),
}

/// Reads a public key.
///
/// # Errors
/// When the text is anything but a key that sshd would accept, options before it included.
pub fn parse(text: &str) -> Result<PublicKey, InvalidKey> {
    if text.contains("PRIVATE KEY") {
        return Err(InvalidKey::Private);
    }
    let text = text.trim();
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(InvalidKey::Lines);
    }
    let mut words = text.split_whitespace();
    let (kind, blob) = (words.next(), words.next().unwrap_or_default());
    let key = parse_words(kind.unwrap_or_default(), blob)?;
    let comment = words.collect::<Vec<_>>().join(" ");
    let mut line = format!("{} {blob}", key.kind);
    if !comment.is_empty() {
        line = format!("{line} {comment}");
    }
    Ok(PublicKey {
        line,
        fingerprint: key.fingerprint,
        comment,
    })
}

/// What a key's two words say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWords {
    /// Type.
    pub kind: &'static str,
    /// MD5 of the key.
    pub fingerprint: Fingerprint,
}

/// Checks a key's type and base64, as sshd hands them over, against each other. Base64 has but one
/// spelling here: keys whose texts differ are different keys.
///
/// # Errors
/// When the type is not accepted or the key is not of that type.
pub fn parse_words(kind: &str, blob: &str) -> Result<KeyWords, InvalidKey> {
    let kind = KINDS
        .into_iter()
        .find(|known| *known == kind)
        .ok_or_else(|| InvalidKey::Kind(kind.chars().take(40).collect()))?;
    let data = STANDARD.decode(blob).map_err(|_| InvalidKey::Base64)?;
    // The data begin with their own type, length first (RFC 4253, 6.6).
    let (inner, rest) = string(&data).ok_or(InvalidKey::Data(kind))?;
    if inner != kind.as_bytes() || string(rest).is_none() {
        return Err(InvalidKey::Data(kind));
    }
    Ok(KeyWords {
        kind,
        fingerprint: fingerprint(&data),
    })
}

/// Splits a length-prefixed string off SSH wire data (RFC 4251, 5).
fn string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn fingerprint(data: &[u8]) -> Fingerprint {
    let pairs: Vec<String> = Md5::digest(data)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    pairs
        .join(":")
        .parse()
        .expect("invariant: 16 pairs of hexadecimal digits are a fingerprint")
}

/// A key's fingerprint as today's OpenSSH shows it: `SHA256:` and base64 without padding. Empty when
/// the line is no key, which a stored one always is.
#[must_use]
pub fn sha256(line: &str) -> String {
    let blob = line.split_whitespace().nth(1).unwrap_or_default();
    match STANDARD.decode(blob) {
        Ok(data) if !data.is_empty() => {
            format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&data)))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `ssh-keygen -t ed25519`; the fingerprint from `ssh-keygen -E md5 -lf`.
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGYih2RCKaV3pu5Kn45gQgMI8w8q6m9agpWVrxAEYPFI";
    const MD5: &str = "a5:70:01:4c:3c:f8:01:1c:5d:85:07:45:e5:f2:05:4f";

    /// From `ssh-keygen -lf`.
    const SHA256: &str = "SHA256:lT9nOzIpAeFgP0GuFAWcJBM92+RwFCj3xl+mnJaHHSY";

    #[test]
    fn a_key_and_its_fingerprint() {
        let key = parse(&format!("  {KEY}   ada@example.com \n")).expect("key");
        assert_eq!(key.fingerprint.as_str(), MD5);
        assert_eq!(key.comment, "ada@example.com");
        assert_eq!(key.line, format!("{KEY} ada@example.com"));
        assert_eq!(parse(KEY).expect("key").line, KEY);
    }

    #[test]
    fn sha256_is_openssh_s() {
        assert_eq!(sha256(&format!("{KEY} ada@example.com")), SHA256);
        assert_eq!(sha256("nothing"), "");
        assert_eq!(sha256("ssh-rsa !"), "");
    }

    #[test]
    fn what_is_no_key() {
        let two = format!("{KEY} a\n{KEY} b");
        let option = format!("command=\"sh\" {KEY}");
        let relabelled = KEY.replacen("ssh-ed25519", "ssh-rsa", 1);
        let cases: &[(&str, InvalidKey)] = &[
            ("", InvalidKey::Kind(String::new())),
            ("ssh-ed25519", InvalidKey::Data("ssh-ed25519")),
            ("ssh-ed25519 AAA", InvalidKey::Base64),
            ("ssh-ed25519 AAAA", InvalidKey::Data("ssh-ed25519")),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
                InvalidKey::Private,
            ),
            (&two, InvalidKey::Lines),
            (&option, InvalidKey::Kind("command=\"sh\"".into())),
            (&relabelled, InvalidKey::Data("ssh-rsa")),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).as_ref(), Err(want), "{text:?}");
        }
    }
}
