//! What belongs to an app: builds, configs, releases, the change in progress, routes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Receipt, ReleaseCommand, RolloutPolicy, Watch, schema};
use crate::model::{
    AppName, ConfigName, DomainName, ProcessId, ProcessType, ReleaseNumber, Username, Whitelist,
};

/// Wanted number of processes of each type.
pub type Structure = BTreeMap<ProcessType, u32>;

/// `/deis/apps/<app>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Identity; a new app of the same name has another.
    pub uuid: Uuid,
    /// Who owns it.
    pub owner: Username,
    /// When it was created.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// The highest release number given out, failed ones included.
    pub latest: ReleaseNumber,
    /// The release that runs: the last one whose rollout succeeded.
    pub active: ReleaseNumber,
    /// Wanted processes. Empty until the first build.
    pub structure: Structure,
    /// Types of which there must never be two processes of one number at a time.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub single: BTreeSet<ProcessType>,
    /// Users who may use it besides the owner.
    #[serde(default)]
    pub collaborators: BTreeSet<Username>,
    /// How the last rollout ended, for whoever waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rollout: Option<RolloutEnd>,
    /// How new releases are watched; none: as soon as they are healthy, they replace the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RolloutPolicy>,
    /// Set when it is being destroyed: the leader takes everything away, then the record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub destroying: bool,
}

/// How a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutEnd {
    /// Which rollout.
    pub id: Uuid,
    /// Its result.
    pub result: OutcomeResult,
    /// Why, unless it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How an image is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// Stack plus one layer: commands go through `deis-init`, the port is 5000.
    Slug,
    /// An image of its own (Dockerfile, pull): commands go through `bash -c`, or its own default.
    Image,
    /// A slug that the builder of Deis v1 made: commands go through its `/runner/init`.
    Runner,
}

/// `/deis/apps/<app>/builds/<id>`: what a push became. Immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its id.
    pub uuid: Uuid,
    /// The application.
    pub app: AppName,
    /// Who pushed.
    pub owner: Username,
    /// Repository in the registry and digest: `blog/<uuid>@sha256:…`.
    pub image: String,
    /// What the user called the image, when it was deployed by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How to start the image.
    pub kind: ImageKind,
    /// The port that the image listens on (its lowest EXPOSE, else 5000).
    pub port: u16,
    /// Git commit, 40 hexadecimal digits; empty for an image that was not pushed by git.
    pub sha: String,
    /// Command per process type.
    pub procfile: BTreeMap<ProcessType, String>,
    /// Whether it was built from a Dockerfile.
    pub dockerfile: bool,
    /// When.
    pub created: Timestamp,
}

/// A config value under the cluster key (AEAD, base64), never readable by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedValue(pub String);

/// `/deis/apps/<app>/configs/<id>`: names readable, values sealed. Immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its id.
    pub uuid: Uuid,
    /// The application.
    pub app: AppName,
    /// Who set it.
    pub owner: Username,
    /// Config variables, sealed with the context `config_context(app, name)`.
    pub values: BTreeMap<ConfigName, SealedValue>,
    /// Memory limit per process type, as the user wrote it (`512M`).
    #[serde(default)]
    pub memory: BTreeMap<ProcessType, String>,
    /// CPU shares per process type, 0 to 1024.
    #[serde(default)]
    pub cpu: BTreeMap<ProcessType, u32>,
    /// Placement tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What `DEIS_WHITELIST` among the values says: the leader, which opens no value, puts it into
    /// the app's route.
    #[serde(default, skip_serializing_if = "Whitelist::is_open")]
    pub whitelist: Whitelist,
    /// When.
    pub created: Timestamp,
}

/// Memory that a process may use where nothing else is said: 512 MiB.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

impl Config {
    /// The memory limit of a process type, in bytes.
    #[must_use]
    pub fn memory_bytes(&self, kind: &ProcessType) -> u64 {
        self.memory
            .get(kind)
            .and_then(|text| parse_memory(text))
            .unwrap_or(DEFAULT_MEMORY_BYTES)
    }

    /// The CPU that a process type reserves, in shares; none without a limit.
    #[must_use]
    pub fn cpu_shares(&self, kind: &ProcessType) -> u32 {
        self.cpu.get(kind).copied().unwrap_or(0)
    }
}

/// Reads a memory limit as in Deis v1: a number with a unit B, K, M or G (or KB, MB, GB), any case.
#[must_use]
pub fn parse_memory(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(lower.len());
    let number: u64 = lower[..digits].parse().ok()?;
    let factor = match &lower[digits..] {
        "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// `/deis/apps/<app>/releases/v<N>`: build + config. Immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its id.
    pub uuid: Uuid,
    /// The application.
    pub app: AppName,
    /// Who made it.
    pub owner: Username,
    /// Its number.
    pub version: ReleaseNumber,
    /// What changed, in words.
    pub summary: String,
    /// Its config.
    pub config: Uuid,
    /// Its build; none before the first push.
    pub build: Option<Uuid>,
    /// When.
    pub created: Timestamp,
}

/// How a rollout can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeResult {
    /// All new processes serve, all old ones are gone.
    Succeeded,
    /// It was given up; the previous release serves on.
    Failed,
    /// A rollback took over.
    Superseded,
}

/// `/deis/apps/<app>/outcomes/v<N>`: how the release's rollout ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The release.
    pub version: ReleaseNumber,
    /// The result.
    pub result: OutcomeResult,
    /// Why, unless it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Last lines of the process that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// What the routers counted meanwhile; none when nothing was switched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// When.
    pub finished: Timestamp,
}

/// What a rollout is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RolloutKind {
    /// A new release replaces the active one.
    Release,
    /// The wanted numbers change.
    Scale,
    /// Processes are replaced by their next incarnation.
    Restart {
        /// Only this type; all when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        only: Option<ProcessType>,
        /// Only this number of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<u32>,
    },
}

/// Where a rollout goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "direction", rename_all = "lowercase")]
pub enum RolloutPhase {
    /// Towards its target.
    Forward,
    /// Given up: back to the previous release and structure.
    Reverting {
        /// Why it was given up.
        reason: String,
        /// Last lines of the process that failed.
        #[serde(default)]
        log: Vec<String>,
    },
}

/// `/deis/apps/<app>/rollout`: the one change in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its id.
    pub id: Uuid,
    /// What it is for.
    pub change: RolloutKind,
    /// The release to run in the end.
    pub release: ReleaseNumber,
    /// The release to go back to.
    pub previous: ReleaseNumber,
    /// Wanted processes in the end.
    pub structure: Structure,
    /// Wanted processes to go back to.
    pub previous_structure: Structure,
    /// Forward or back.
    pub phase: RolloutPhase,
    /// The `release:` command of its Procfile; none when it has none, or this is no new release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<ReleaseCommand>,
    /// How its first processes are watched, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// What it waits for, in words for the person who waits; written by the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Who asked for it.
    pub by: Username,
    /// When.
    pub started: Timestamp,
}

/// `/deis/routes/<app>`: what routers need to know of an app, and no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Answer with a maintenance page.
    #[serde(default)]
    pub maintenance: bool,
    /// What visitors read meanwhile; a line of the platform's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Processes are being replaced that leave a gap: requests wait until there is one again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// Who may come in, by the active release.
    #[serde(default, skip_serializing_if = "Whitelist::is_open")]
    pub whitelist: Whitelist,
}

impl Route {
    /// Of an app that nothing has been said about.
    #[must_use]
    pub fn new() -> Self {
        Self {
            schema: schema(),
            ..Self::default()
        }
    }
}

/// `/deis/domains/<domain>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The domain.
    pub domain: DomainName,
    /// The app that it leads to.
    pub app: AppName,
    /// Who added it.
    pub owner: Username,
    /// When.
    pub created: Timestamp,
}

/// `/deis/certs/<name>`: a certificate that routers serve by SNI. Its owner's, not an app's.
///
/// Its number in the API is the revision at which it came into being: no two are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// What it is called by: one of its names.
    pub name: DomainName,
    /// The host names that it is served for, wildcards among them.
    pub names: BTreeSet<DomainName>,
    /// Whose it is.
    pub owner: Username,
    /// The chain as PEM, its own certificate first.
    pub chain: String,
    /// The private key as PEM, sealed with the context `cert_context(name)`.
    pub key: SealedValue,
    /// When it expires.
    pub expires: Timestamp,
    /// When it was added.
    pub created: Timestamp,
    /// Ordered by the platform for a custom domain, and renewed by it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
}

/// `/deis/apps/<app>/push`: under the builder's lease while a push is being built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushLock {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Which push.
    pub id: Uuid,
    /// Who pushes.
    pub user: Username,
    /// Which builder works on it.
    pub builder: String,
    /// Since when.
    pub started: Timestamp,
}

/// `/deis/apps/<app>/pushes/<id>`: a push that the original builder told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its id.
    pub uuid: Uuid,
    /// The application.
    pub app: AppName,
    /// Who pushed.
    pub owner: Username,
    /// Git commit.
    pub sha: String,
    /// Fingerprint of the SSH key.
    pub fingerprint: String,
    /// The user, as the builder knows him.
    pub receive_user: String,
    /// The repository, as the builder knows it.
    pub receive_repo: String,
    /// `SSH_CONNECTION` of the session.
    pub ssh_connection: String,
    /// `SSH_ORIGINAL_COMMAND` of the session.
    pub ssh_original_command: String,
    /// When.
    pub created: Timestamp,
}

/// `/deis/apps/<app>/git`: the last commit that was deployed by a push, on whichever builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitHead {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Git commit, 40 hexadecimal digits.
    pub sha: String,
    /// Who pushed it.
    pub user: Username,
    /// When it was deployed.
    pub deployed: Timestamp,
}

/// The slots that a structure asks for when nothing runs yet: `web.1`, `web.2`, ...
#[must_use]
pub fn slots(structure: &Structure) -> BTreeSet<ProcessId> {
    structure
        .iter()
        .flat_map(|(kind, count)| {
            (1..=*count).map(|number| ProcessId {
                kind: kind.clone(),
                number,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_limits() {
        let cases = [
            ("512M", Some(512 << 20)),
            ("1g", Some(1 << 30)),
            ("64KB", Some(64 << 10)),
            ("7b", Some(7)),
            ("512", None),
            ("M", None),
            ("-1M", None),
            ("99999999999999999G", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_memory(text), want, "{text}");
        }
    }
}
