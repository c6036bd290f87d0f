//! What belongs to people: accounts, tokens, SSH keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::schema;
use crate::model::{Fingerprint, KeyName, Username};

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

/// `/deis/tokens/<sha-256 of the token>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Whose it is.
    pub user: Username,
    /// When it was minted.
    pub created: Timestamp,
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
