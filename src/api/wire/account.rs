//! Users, their keys and tokens, what they may do and have done.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::{ssh_key, time::WireTime};
use crate::model;

/// An SSH key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Its identity.
    pub uuid: Uuid,
    /// What its owner calls it.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// The key as in authorized_keys(5).
    pub public: String,
    /// MD5, pairs of digits with colons.
    pub fingerprint: String,
    /// SHA-256 as `ssh-keygen -l` shows it; not in v1.
    pub fingerprint_sha256: String,
    /// When it was added.
    pub created: WireTime,
    /// When it was added.
    pub updated: WireTime,
}

impl From<&model::SshKey> for Key {
    fn from(key: &model::SshKey) -> Self {
        Self {
            uuid: key.uuid,
            id: key.id.to_string(),
            owner: key.owner.to_string(),
            public: key.public.clone(),
            fingerprint: key.fingerprint.to_string(),
            fingerprint_sha256: ssh_key::sha256(&key.public),
            created: key.created.into(),
            updated: key.created.into(),
        }
    }
}

/// A user, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// Mail address.
    pub email: String,
    /// Login name.
    pub username: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// May do everything.
    pub is_superuser: bool,
    /// The same as `is_superuser` here.
    pub is_staff: bool,
    /// Always empty.
    pub groups: Vec<String>,
    /// Always empty.
    pub user_permissions: Vec<String>,
    /// Last login, or the registration before the first one.
    #[serde(with = "crate::api::time::iso")]
    #[schemars(with = "WireTime")]
    pub last_login: Timestamp,
    /// When registered.
    #[serde(with = "crate::api::time::iso")]
    #[schemars(with = "WireTime")]
    pub date_joined: Timestamp,
    /// Always true.
    pub is_active: bool,
}

impl From<&model::User> for User {
    fn from(user: &model::User) -> Self {
        Self {
            email: user.email.clone(),
            username: user.username.to_string(),
            first_name: user.first_name.clone(),
            last_name: user.last_name.clone(),
            is_superuser: user.is_superuser,
            is_staff: user.is_superuser,
            groups: Vec::new(),
            user_permissions: Vec::new(),
            last_login: user.last_login.unwrap_or(user.created),
            date_joined: user.created,
            is_active: true,
        }
    }
}

/// A row of `admin/perms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Administrator {
    /// Login name.
    pub username: String,
    /// Always true.
    pub is_superuser: bool,
}

/// An app's collaborators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Perms {
    /// Their names; the owner is not among them.
    pub users: Vec<String>,
}

/// The types of which there is never more than one process of a number. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Single {
    /// Their names.
    pub types: Vec<String>,
}

impl Single {
    /// An app's.
    #[must_use]
    pub fn of(app: &crate::model::App) -> Self {
        Self {
            types: app.single.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Whether an app is out of service. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Maintenance {
    /// Whether visitors get a page instead of the app.
    pub on: bool,
    /// The page, if it is not the platform's.
    pub page: Option<String>,
}

impl From<model::Route> for Maintenance {
    fn from(route: model::Route) -> Self {
        Self {
            on: route.maintenance,
            page: route.page,
        }
    }
}

/// How an app's new releases are watched; all null when they are not. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// Share of each type's processes that come first, in percent.
    pub share: Option<u32>,
    /// How long they are watched, in seconds.
    pub watch: Option<u32>,
    /// Errors that are allowed, in percent of their answers.
    pub errors: Option<u32>,
    /// Requests that may get no answer.
    pub failed: Option<u32>,
}

impl Policy {
    /// An app's.
    #[must_use]
    pub fn of(app: &model::App) -> Self {
        let policy = app.policy;
        Self {
            share: policy.map(|policy| policy.share_percent),
            watch: policy.map(|policy| policy.watch_secs),
            errors: policy.map(|policy| policy.errors_percent),
            failed: policy.map(|policy| policy.failed),
        }
    }
}

/// A token, without its secret. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// By which it is revoked.
    pub id: String,
    /// What its user calls it; none for a login.
    pub name: Option<String>,
    /// `all`, `deploy` or `read`.
    pub scope: String,
    /// The only apps that it is for.
    pub apps: Option<Vec<String>>,
    /// When it was minted.
    pub created: WireTime,
    /// When it ends.
    pub expires: Option<WireTime>,
    /// Whether it is the one that asks.
    pub current: bool,
}

impl Token {
    /// The token as its user sees it; `id` from `token_id`.
    #[must_use]
    pub fn new(id: &str, token: &model::Token, current: bool) -> Self {
        let apps = token.apps.as_ref();
        Self {
            id: id.to_owned(),
            name: token.name.as_ref().map(ToString::to_string),
            scope: token.scope.word().to_owned(),
            apps: apps.map(|apps| apps.iter().map(ToString::to_string).collect()),
            created: token.created.into(),
            expires: token.expires.map(Into::into),
            current,
        }
    }
}

/// A token that was just made: the only time that its secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewToken {
    /// The secret.
    pub token: String,
    /// All else.
    #[serde(flatten)]
    pub about: Token,
}

/// One thing that somebody did. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Audit {
    /// When.
    pub at: WireTime,
    /// Who.
    pub user: String,
    /// By which token: its name, or its id for a login; for a push, `key` and its fingerprint.
    pub token: Option<String>,
    /// In which request, as in the platform's logs.
    pub request_id: Option<String>,
    /// What was done, in a word.
    pub action: String,
    /// The app that it was done to.
    pub app: Option<String>,
    /// The release that came of it, as `v2`.
    pub release: Option<String>,
    /// To what, and how; names only, never values.
    pub detail: String,
}

impl From<&model::Audit> for Audit {
    fn from(audit: &model::Audit) -> Self {
        Self {
            at: audit.at.into(),
            user: audit.user.to_string(),
            token: audit.token.clone(),
            request_id: audit.request.clone(),
            action: audit.action.to_string(),
            app: audit.app.as_ref().map(ToString::to_string),
            release: audit.release.map(|release| release.to_string()),
            detail: audit.detail.clone(),
        }
    }
}
