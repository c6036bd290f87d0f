//! What requests carry, as shapes: the other half of `wire`, for clients that want types and for the
//! OpenAPI document. The controller itself reads requests field by field (`valid`), because v1's
//! clients write them in more ways than one; a test keeps both in step.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST auth/register/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RegisterRequest")]
pub struct Register {
    /// Login name: letters, digits and `@ . + - _`, at most 30.
    pub username: String,
    /// Password.
    pub password: String,
    /// Mail address.
    #[serde(default)]
    pub email: String,
    /// First name.
    #[serde(default)]
    pub first_name: String,
    /// Last name.
    #[serde(default)]
    pub last_name: String,
}

/// `POST auth/login/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LoginRequest")]
pub struct Login {
    /// Login name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// `POST auth/passwd/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PasswordRequest")]
pub struct Password {
    /// Another user, for administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The current password; administrators may leave it out when they name a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The new password.
    pub new_password: String,
}

/// `POST auth/tokens/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RegenerateRequest")]
pub struct Regenerate {
    /// Another user, for administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Everybody's tokens, one's own included; for administrators.
    #[serde(default)]
    pub all: bool,
}

/// `POST tokens/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TokenRequest")]
pub struct NewToken {
    /// What to call it: letters, digits and `. _ -`.
    pub name: String,
    /// `all`, `deploy` or `read`.
    pub scope: String,
    /// The only apps that it is for; all of its user's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apps: Option<Vec<String>>,
    /// When it ends: a time as `2027-01-31T00:00:00Z`, or from now on as `90d`, `12h` or `30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A user: `POST apps/<app>/perms/` and `admin/perms/`, `DELETE auth/cancel/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UserRequest")]
pub struct Username {
    /// Login name.
    pub username: String,
}

/// `POST apps/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AppRequest")]
pub struct App {
    /// Its name; made up when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// `POST apps/<app>/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TransferRequest")]
pub struct Transfer {
    /// The new owner.
    pub owner: String,
}

/// `POST apps/<app>/config/`: null as a value removes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ConfigRequest")]
#[serde(default)]
pub struct Config {
    /// Variables.
    pub values: BTreeMap<String, Option<String>>,
    /// Memory limit per process type: a number with B, K, M or G.
    pub memory: BTreeMap<String, Option<String>>,
    /// CPU shares per process type, 0 to 1024.
    pub cpu: BTreeMap<String, Option<u32>>,
    /// Placement tags.
    pub tags: BTreeMap<String, Option<String>>,
}

/// `POST apps/<app>/builds/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BuildRequest")]
pub struct Build {
    /// The image.
    pub image: String,
    /// Command per process type.
    #[serde(default)]
    pub procfile: BTreeMap<String, String>,
}

/// `POST apps/<app>/releases/rollback/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RollbackRequest")]
pub struct Rollback {
    /// The release; the last one before the active that succeeded when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// `POST apps/<app>/scale/`: how many of which type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ScaleRequest")]
pub struct Scale(pub BTreeMap<String, u32>);

/// `POST apps/<app>/single/`: whether there must never be two processes of one number of a type. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SingleRequest")]
pub struct Single(pub BTreeMap<String, bool>);

/// `POST apps/<app>/maintenance/`. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MaintenanceRequest")]
pub struct Maintenance {
    /// Whether visitors get a page instead of the app.
    pub on: bool,
    /// The page, as HTML; the platform's own words when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// `POST apps/<app>/rollout/`: what is absent stays as it is. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PolicyRequest")]
pub struct Policy {
    /// False takes the policy away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    /// Share of each type's processes that come first, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u32>,
    /// How long they are watched, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<u32>,
    /// Errors that are allowed, in percent of their answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u32>,
    /// Requests that may get no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
}

/// `POST apps/<app>/run`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RunRequest")]
pub struct Run {
    /// The command line, for a shell.
    pub command: String,
    /// Don't wait for its end: what it prints goes to the app's log, and the answer's text is its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detach: Option<bool>,
}

/// `POST hooks/config/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ReceivedRequest")]
pub struct Received {
    /// Who pushes.
    pub receive_user: String,
    /// The app that is pushed to.
    pub receive_repo: String,
}

/// `POST hooks/push/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PushedRequest")]
pub struct Pushed {
    /// Who pushes, and to which app.
    #[serde(flatten)]
    pub received: Received,
    /// Git commit.
    pub sha: String,
    /// Fingerprint of the SSH key.
    pub fingerprint: String,
    /// Addresses and ports of the SSH session.
    pub ssh_connection: String,
    /// What the SSH client asked for.
    pub ssh_original_command: String,
}

/// `POST hooks/build/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BuiltRequest")]
pub struct Built {
    /// Who pushes, and to which app.
    #[serde(flatten)]
    pub received: Received,
    /// Git commit, its first eight digits.
    pub sha: String,
    /// Repository in the platform's registry.
    pub image: String,
    /// Command per process type.
    #[serde(default)]
    pub procfile: BTreeMap<String, String>,
    /// `true` when there was a Dockerfile.
    #[serde(default)]
    pub dockerfile: String,
}

/// `POST certs/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CertRequest")]
pub struct Cert {
    /// The certificate with its chain, its own first, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: String,
    /// The one name to serve it for; else all that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
}

/// `POST apps/<app>/domains/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DomainRequest")]
pub struct Domain {
    /// The domain.
    pub domain: String,
}

/// `POST keys/`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "KeyRequest")]
pub struct Key {
    /// What to call it.
    pub id: String,
    /// The key as in authorized_keys(5).
    pub public: String,
}
