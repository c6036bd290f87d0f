//! What belongs to people: accounts, tokens, SSH keys.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::schema;
use crate::model::{AppName, Fingerprint, KeyName, TokenName, Username};

/// `/deis/users/<user>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its id.
    pub uuid: Uuid,
    /// Login name.
    pub username: Username,
    /// Mail address, as given.
    #[serde(default)]
    pub email: String,
    /// First name, as given.
    #[serde(default)]
    pub first_name: String,
    /// Last name, as given.
    #[serde(default)]
    pub last_name: String,
    /// argon2 hash in PHC form.
    pub password: String,
    /// May do everything.
    #[serde(default)]
    pub is_superuser: bool,
    /// When registered.
    pub created: Timestamp,
    /// Last login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login: Option<Timestamp>,
}

/// What a token may be used for; each one may do all that those before it may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at apps.
    Read,
    /// Besides, deploy, configure, scale, restart and run them.
    Deploy,
    /// All that its user may: what a login gives.
    #[default]
    All,
}

/// `/deis/tokens/<sha-256 of the token>`
///
/// Whatever a record from before scopes leaves out, a login is what it was: all, everywhere, for
/// ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Whose it is.
    pub user: Username,
    /// When it was minted.
    pub created: Timestamp,
    /// What its user calls it; a login has no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TokenName>,
    /// What it may be used for.
    #[serde(default)]
    pub scope: Scope,
    /// The only apps that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<BTreeSet<AppName>>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// `/deis/keys/<fingerprint>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKey {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its id.
    pub uuid: Uuid,
    /// Whose it is.
    pub owner: Username,
    /// What the owner calls it.
    pub id: KeyName,
    /// The key as in authorized_keys(5): type, base64, comment.
    pub public: String,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// When it was added.
    pub created: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_from_before_scopes_is_a_login() {
        let old = r#"{"schema":1,"user":"ada","created":"2026-01-02T03:04:05Z"}"#;
        let token: Token = serde_json::from_str(old).expect("an old record");
        assert_eq!(
            (token.scope, token.name, token.apps, token.expires),
            (Scope::All, None, None, None)
        );
        let unknown = r#"{"user":"ada","created":"2026-01-02T03:04:05Z","scope":"more"}"#;
        assert!(serde_json::from_str::<Token>(unknown).is_err());
    }
}
