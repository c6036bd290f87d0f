//! The JSON shapes of the API, the same for whoever writes and whoever reads them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ssh_key, time::WireTime};
use crate::{cert, model};

/// A list, page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// Number of results on all pages together.
    pub count: u64,
    /// URL of the next page.
    pub next: Option<String>,
    /// URL of the page before.
    pub previous: Option<String>,
    /// This page.
    pub results: Vec<T>,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct App {
    /// Identity; a new app of the same name has another.
    pub uuid: Uuid,
    /// Its name.
    pub id: String,
    /// Who owns it.
    pub owner: String,
    /// Its host name, without a scheme.
    pub url: String,
    /// Wanted number of processes of each type.
    pub structure: BTreeMap<String, u32>,
    /// When it was created.
    pub created: WireTime,
    /// When it was changed last.
    pub updated: WireTime,
}

impl App {
    /// The app as clients see it.
    #[must_use]
    pub fn new(name: &model::AppName, app: &model::App, domain: &str) -> Self {
        Self {
            uuid: app.uuid,
            id: name.to_string(),
            owner: app.owner.to_string(),
            url: format!("{name}.{domain}"),
            structure: app
                .structure
                .iter()
                .map(|(kind, count)| (kind.to_string(), *count))
                .collect(),
            created: app.created.into(),
            updated: app.updated.into(),
        }
    }
}

/// What a push became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Build {
    /// Who pushed.
    pub owner: String,
    /// The application.
    pub app: String,
    /// The image by the name that it was deployed by; the app's name for a push.
    pub image: String,
    /// Git commit; empty for an image.
    pub sha: String,
    /// Command per process type.
    pub procfile: BTreeMap<String, String>,
    /// The text `true` when it came from a Dockerfile, else empty.
    pub dockerfile: String,
    /// When.
    pub created: WireTime,
    /// When.
    pub updated: WireTime,
    /// Its id.
    pub uuid: Uuid,
}

impl From<&model::Build> for Build {
    fn from(build: &model::Build) -> Self {
        Self {
            owner: build.owner.to_string(),
            app: build.app.to_string(),
            image: build
                .source
                .clone()
                .unwrap_or_else(|| build.app.to_string()),
            sha: build.sha.clone(),
            procfile: build
                .procfile
                .iter()
                .map(|(kind, command)| (kind.to_string(), command.clone()))
                .collect(),
            dockerfile: if build.dockerfile { "true" } else { "" }.to_owned(),
            created: build.created.into(),
            updated: build.created.into(),
            uuid: build.uuid,
        }
    }
}

/// A push, as the original builder tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Push {
    /// Its id.
    pub uuid: Uuid,
    /// Who pushed.
    pub owner: String,
    /// The application.
    pub app: String,
    /// Git commit.
    pub sha: String,
    /// Fingerprint of the SSH key.
    pub fingerprint: String,
    /// The user, as the builder knows him.
    pub receive_user: String,
    /// The repository, as the builder knows it.
    pub receive_repo: String,
    /// Addresses and ports of the SSH session.
    pub ssh_connection: String,
    /// What the SSH client asked for.
    pub ssh_original_command: String,
    /// When.
    pub created: WireTime,
    /// When.
    pub updated: WireTime,
}

impl From<&model::Push> for Push {
    fn from(push: &model::Push) -> Self {
        Self {
            uuid: push.uuid,
            owner: push.owner.to_string(),
            app: push.app.to_string(),
            sha: push.sha.clone(),
            fingerprint: push.fingerprint.clone(),
            receive_user: push.receive_user.clone(),
            receive_repo: push.receive_repo.clone(),
            ssh_connection: push.ssh_connection.clone(),
            ssh_original_command: push.ssh_original_command.clone(),
            created: push.created.into(),
            updated: push.created.into(),
        }
    }
}

/// Answer to `hooks/build`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookReply {
    /// The release that runs now.
    pub release: RollbackReply,
    /// Where the app is served.
    pub domains: Vec<String>,
}

/// Config variables and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// Its id.
    pub uuid: Uuid,
    /// The application.
    pub app: String,
    /// Who set it.
    pub owner: String,
    /// The variables, in clear.
    pub values: BTreeMap<String, String>,
    /// Memory limit per process type.
    pub memory: BTreeMap<String, String>,
    /// CPU shares per process type: JSON numbers.
    pub cpu: BTreeMap<String, u32>,
    /// Placement tags.
    pub tags: BTreeMap<String, String>,
    /// When.
    pub created: WireTime,
    /// When.
    pub updated: WireTime,
}

impl Config {
    /// The config as clients see it; `values` are its variables in clear.
    #[must_use]
    pub fn new(config: &model::Config, values: BTreeMap<String, String>) -> Self {
        fn texts<V: Clone>(map: &BTreeMap<model::ProcessType, V>) -> BTreeMap<String, V> {
            map.iter()
                .map(|(kind, value)| (kind.to_string(), value.clone()))
                .collect()
        }
        Self {
            uuid: config.uuid,
            app: config.app.to_string(),
            owner: config.owner.to_string(),
            values,
            memory: texts(&config.memory),
            cpu: texts(&config.cpu),
            tags: config.tags.clone(),
            created: config.created.into(),
            updated: config.created.into(),
        }
    }
}

/// A numbered release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// Its id.
    pub uuid: Uuid,
    /// The application.
    pub app: String,
    /// Who made it.
    pub owner: String,
    /// Its number.
    pub version: u32,
    /// What changed, in words.
    pub summary: String,
    /// Id of its config.
    pub config: Uuid,
    /// Id of its build.
    pub build: Option<Uuid>,
    /// When.
    pub created: WireTime,
    /// When.
    pub updated: WireTime,
    /// Why it does not run. Only where a single release is shown, and not for one that succeeded: v1,
    /// which deleted failed ones, has no such thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ReleaseFailure>,
}

/// How a release's rollout ended when it did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseFailure {
    /// Whether a rollback took over before it was done, rather than that it failed.
    pub superseded: bool,
    /// Why.
    pub reason: Option<String>,
    /// Last lines of the process that failed.
    pub log: Vec<String>,
}

impl From<&model::Outcome> for ReleaseFailure {
    fn from(outcome: &model::Outcome) -> Self {
        Self {
            superseded: outcome.result == model::OutcomeResult::Superseded,
            reason: outcome.reason.clone(),
            log: outcome.log.clone(),
        }
    }
}

impl Release {
    /// The release as clients see it in a list. One whose rollout failed keeps its number and says so.
    #[must_use]
    pub fn new(release: &model::Release, outcome: Option<&model::Outcome>) -> Self {
        let failed = outcome.filter(|o| o.result != model::OutcomeResult::Succeeded);
        let summary = match failed.map(|outcome| outcome.result) {
            None => release.summary.clone(),
            Some(model::OutcomeResult::Superseded) => format!("{} (superseded)", release.summary),
            Some(_) => format!("{} (failed)", release.summary),
        };
        Self {
            uuid: release.uuid,
            app: release.app.to_string(),
            owner: release.owner.to_string(),
            version: release.version.0,
            summary,
            config: release.config,
            build: release.build,
            created: release.created.into(),
            updated: outcome.map_or(release.created, |o| o.finished).into(),
            failure: None,
        }
    }

    /// The same by itself: it says why it failed, if it did.
    #[must_use]
    pub fn alone(release: &model::Release, outcome: Option<&model::Outcome>) -> Self {
        let failed = outcome.filter(|o| o.result != model::OutcomeResult::Succeeded);
        Self {
            failure: failed.map(ReleaseFailure::from),
            ..Self::new(release, outcome)
        }
    }
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Container {
    /// The app's owner.
    pub owner: String,
    /// The application.
    pub app: String,
    /// Its release, as `v2`.
    pub release: String,
    /// Its type.
    pub r#type: String,
    /// Its number within the type.
    pub num: u32,
    /// One of v1's words: `up`, `down`, `created`, `crashed`, `error`.
    pub state: String,
    /// When.
    pub created: WireTime,
    /// When its state changed last.
    pub updated: WireTime,
    /// Its id.
    pub uuid: Uuid,
}

/// A custom domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Domain {
    /// Who added it.
    pub owner: String,
    /// When.
    pub created: WireTime,
    /// When.
    pub updated: WireTime,
    /// The application.
    pub app: String,
    /// The domain.
    pub domain: String,
}

impl From<&model::Domain> for Domain {
    fn from(domain: &model::Domain) -> Self {
        Self {
            owner: domain.owner.to_string(),
            created: domain.created.into(),
            updated: domain.created.into(),
            app: domain.app.to_string(),
            domain: domain.domain.to_string(),
        }
    }
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cert {
    /// Its number: a JSON number, and unique.
    pub id: i64,
    /// Whose it is.
    pub owner: String,
    /// What it is called by.
    pub common_name: String,
    /// When it expires.
    pub expires: WireTime,
    /// When it was added.
    pub created: WireTime,
    /// When it was added.
    pub updated: WireTime,
}

impl Cert {
    /// The certificate as clients see it; `revision` is the one at which it came into being.
    #[must_use]
    pub fn new(cert: &model::Certificate, revision: model::Revision) -> Self {
        Self {
            id: revision,
            owner: cert.owner.to_string(),
            common_name: cert.name.to_string(),
            expires: cert.expires.into(),
            created: cert.created.into(),
            updated: cert.created.into(),
        }
    }
}

/// What stands in a certificate and its chain. Not v1's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertChain {
    /// What it is called by.
    pub common_name: String,
    /// The names that it is served for.
    pub names: Vec<String>,
    /// Certificate by certificate, its own first.
    pub chain: Vec<CertFacts>,
}

/// What stands in one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertFacts {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The domains that it is for.
    pub names: Vec<String>,
    /// SHA-256, pairs of digits with colons.
    pub fingerprint: String,
    /// From when it is valid.
    pub not_before: WireTime,
    /// Until when.
    pub not_after: WireTime,
}

impl From<&cert::Facts> for CertFacts {
    fn from(facts: &cert::Facts) -> Self {
        Self {
            subject: facts.subject.clone(),
            issuer: facts.issuer.clone(),
            names: facts.names.iter().map(ToString::to_string).collect(),
            fingerprint: facts.fingerprint.clone(),
            not_before: facts.not_before.into(),
            not_after: facts.not_after.into(),
        }
    }
}

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
    #[serde(with = "super::time::iso")]
    #[schemars(with = "WireTime")]
    pub last_login: Timestamp,
    /// When registered.
    #[serde(with = "super::time::iso")]
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

/// Answer to a login.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenReply {
    /// 40 hexadecimal digits; empty when all users' tokens were ended.
    pub token: String,
}

/// Answer to a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RollbackReply {
    /// Number of the new release.
    pub version: u32,
}

/// Answer to `run`: `[exit code, "output"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunReply(pub i32, pub String);

/// What a refused request is told: `detail`, `error` or a list of reasons per field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Error")]
#[serde(default)]
pub struct Failure {
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why, where v1 said it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Names the request in the platform's logs, when it is the platform that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What is wrong with which field.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Vec<String>>,
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UUID: &str = "de1bf5b5-4a72-4f94-a10c-d2a3741cdf75";

    /// The shapes are those of Deis 1.13 (docs/reference/api-v1.7.rst), not what we happen to write:
    /// a field more, less or of another type would break its client, which is typed.
    #[test]
    fn shapes() {
        fn same<T: Serialize + for<'de> Deserialize<'de>>(what: Value) {
            let read: T = serde_json::from_value(what.clone()).expect("readable");
            assert_eq!(serde_json::to_value(&read).expect("writable"), what);
        }
        let time = "2014-01-01T00:00:00UTC";
        same::<Page<App>>(json!({
            "count": 1, "next": null, "previous": null,
            "results": [{
                "created": time, "id": "example-go", "owner": "test", "structure": {"web": 2},
                "updated": time, "url": "example-go.example.com", "uuid": UUID,
            }],
        }));
        same::<Build>(json!({
            "app": "example-go", "created": time, "dockerfile": "true", "image": "example-go",
            "owner": "test", "procfile": {"web": "example-go"}, "sha": "060da68f",
            "updated": time, "uuid": UUID,
        }));
        same::<Config>(json!({
            "owner": "test", "app": "example-go", "values": {"PLATFORM": "deis"},
            "memory": {"web": "512M"}, "cpu": {"web": 512}, "tags": {"ssd": "true"},
            "created": time, "updated": time, "uuid": UUID,
        }));
        same::<Release>(json!({
            "app": "example-go", "build": null, "config": UUID, "created": time, "owner": "test",
            "summary": "test created", "updated": time, "uuid": UUID, "version": 1,
        }));
        same::<Container>(json!({
            "owner": "test", "app": "example-go", "release": "v2", "created": time,
            "updated": time, "uuid": UUID, "type": "web", "num": 1, "state": "up",
        }));
        same::<Domain>(json!({
            "app": "example-go", "created": time, "domain": "example.example.com",
            "owner": "test", "updated": time,
        }));
        same::<Cert>(json!({
            "id": 22, "owner": "test", "common_name": "www.example.com", "expires": time,
            "created": time, "updated": time,
        }));
        same::<Key>(json!({
            "created": time, "id": "test@example.com", "owner": "test", "public": "ssh-rsa AAAA",
            "fingerprint": "54:6d:da:1f:91:b5:2b:6f:a2:83:90:c4:f9:73:76:f5", "fingerprint_sha256": "SHA256:x",
            "updated": time, "uuid": UUID,
        }));
        same::<User>(json!({
            "email": "test@example.com", "username": "test", "first_name": "", "last_name": "",
            "is_superuser": true, "is_staff": true, "groups": [], "user_permissions": [],
            "last_login": "2014-10-19T22:01:00Z", "date_joined": "2014-10-19T22:01:00Z",
            "is_active": true,
        }));
        same::<RunReply>(json!([0, "hi\n"]));
        same::<RollbackReply>(json!({"version": 3}));
        same::<Perms>(json!({"users": ["test", "foo"]}));
        same::<Administrator>(json!({"username": "test", "is_superuser": true}));
        same::<TokenReply>(json!({"token": "abc123"}));
    }

    #[test]
    fn a_failed_release_says_so() {
        let release = model::Release {
            schema: 1,
            uuid: UUID.parse().expect("uuid"),
            app: "blog".parse().expect("app"),
            owner: "ada".parse().expect("user"),
            version: model::ReleaseNumber(3),
            summary: "ada added FOO".into(),
            config: UUID.parse().expect("uuid"),
            build: None,
            created: Timestamp::UNIX_EPOCH,
        };
        let outcome = model::Outcome {
            schema: 1,
            version: release.version,
            result: model::OutcomeResult::Failed,
            reason: Some("web.1 exits with 1".into()),
            log: vec![],
            finished: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(Release::new(&release, None).summary, "ada added FOO");
        let listed = Release::new(&release, Some(&outcome));
        assert_eq!(
            (listed.failure, listed.summary.as_str()),
            (None, "ada added FOO (failed)")
        );
        let failed = Release::alone(&release, Some(&outcome));
        assert_eq!(failed.summary, "ada added FOO (failed)");
        let failure = failed.failure.expect("why");
        assert_eq!(failure.reason.as_deref(), Some("web.1 exits with 1"));
    }
}
