//! What etcd holds, record by record. Values are JSON with one schema version each; unknown fields
//! are ignored, so that an older reader survives a newer writer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    Revision,
    name::{
        AppName, ConfigName, DomainName, Fingerprint, KeyName, MachineId, ProcessType, Username,
    },
    process::{ProcessId, ReleaseNumber},
};

/// The schema version that this program writes into every record.
pub const SCHEMA: u16 = 1;

/// A value that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the record is no valid {what}")]
pub struct DecodeError {
    /// Type of record expected.
    pub what: &'static str,
    /// What the parser says.
    #[source]
    pub source: serde_json::Error,
}

/// Something that etcd holds under a key.
pub trait Record: Sized {
    /// The stored form.
    fn encode(&self) -> Vec<u8>;
    /// Reads the stored form.
    ///
    /// # Errors
    /// When the bytes are not such a record.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Marks a serde type as a JSON record.
macro_rules! json_record {
    ($($name:ty),* $(,)?) => {$(
        impl Record for $name {
            fn encode(&self) -> Vec<u8> {
                to_json(self)
            }
            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                from_json(bytes)
            }
        }
    )*};
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: records have text keys and always serialize")
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError {
        what: std::any::type_name::<T>(),
        source,
    })
}

json_record!(
    App,
    Build,
    Config,
    Release,
    Outcome,
    Rollout,
    Route,
    Domain,
    HostRecord,
    Machine,
    Assignment,
    MachineState,
    RouterPresence,
    PartPresence,
    Leader,
    User,
    Token,
    SshKey,
    UnitFile,
    PushLock,
    GitHead,
    SealedValue,
);

/// Plain text, for values that people and scripts read as they are (settings, addresses).
impl Record for String {
    fn encode(&self) -> Vec<u8> {
        self.clone().into_bytes()
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::from_utf8_lossy(bytes).into_owned())
    }
}

const fn schema() -> u16 {
    SCHEMA
}

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
    /// Users who may use it besides the owner.
    #[serde(default)]
    pub collaborators: BTreeSet<Username>,
    /// How the last rollout ended, for whoever waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rollout: Option<RolloutEnd>,
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
    /// Repository in the registry and digest: `blog@sha256:…`.
    pub image: String,
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

/// `/deis/hosts/<id>`: what is durable about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The host's name for people.
    pub hostname: String,
    /// Its last known address.
    pub address: String,
    /// Labels for placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Takes no new process.
    #[serde(default)]
    pub cordoned: bool,
    /// Since when the platform counts it as lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
}

/// `/deis/machines/<id>`: presence, under the host's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its machine id.
    pub id: MachineId,
    /// Its name for people.
    pub hostname: String,
    /// Its address, without a port.
    pub address: String,
    /// Memory in bytes that processes may reserve.
    pub memory_bytes: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// The agent's version.
    pub version: String,
    /// Kernel's boot id: changes with each boot.
    pub boot_id: String,
    /// Labels from host.yaml.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// What the leader wants of an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Run and be published.
    Run,
    /// Run on, but be published no more.
    Drain,
    /// Stop and be forgotten.
    Stop,
}

/// What an assignment is about; its key's last part is the process's or unit's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Work {
    /// A process of a release.
    Process {
        /// The rollout that placed it; none when a lost process was replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollout: Option<Uuid>,
        /// Memory that it reserves, in bytes.
        memory_bytes: u64,
    },
    /// A one-off process (`deis run`).
    Run {
        /// The command line, for `bash -c`.
        command: String,
        /// Where its output and exit code go: `ip:port` of the controller that waits.
        attach: String,
        /// What proves to that controller that it is this one.
        token: String,
        /// Memory that it reserves, in bytes.
        memory_bytes: u64,
    },
    /// A unit of the platform or an operator: its text is in `/deis/units/<name>`.
    Unit {
        /// SHA-256 of the text, in hexadecimal digits: another text is another assignment.
        hash: String,
    },
}

/// `/deis/schedule/<machine-id>/<name>`: what a host has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Identity of this process; written into its unit, and how it is adopted.
    pub uuid: Uuid,
    /// What is wanted of it.
    pub desired: Desired,
    /// What it is.
    pub work: Work,
}

/// Where a process is in its life, as its agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Image or unit files are being prepared.
    Preparing,
    /// systemd starts it, or it is not healthy yet.
    Starting,
    /// Active.
    Up,
    /// Failed or between two restarts.
    Crashed,
    /// Being stopped.
    Stopping,
    /// It can't be started here; `reason` says why.
    Error,
}

/// One process in its host's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// The assignment's uuid.
    pub uuid: Uuid,
    /// Where it is in its life.
    pub phase: Phase,
    /// Healthy: routable types are published, others have been active for a second.
    pub ready: bool,
    /// The port that it is published on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// etcd's revision at which its address was withdrawn; absent while published or never published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Revision>,
    /// Restarts by systemd.
    #[serde(default)]
    pub restarts: u32,
    /// Since when in this phase.
    pub since: Timestamp,
    /// Why it is not up, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Last lines that it printed, when it crashed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// `/deis/state/<machine-id>`: what runs there; written on change only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Each process by its name.
    pub processes: BTreeMap<String, ProcessState>,
}

/// `/deis/router/hosts/<ip>`: presence and acknowledgements of one router's incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterPresence {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its incarnation.
    pub id: Uuid,
    /// `ip:80`.
    pub address: String,
    /// Every change of `/deis/services/` up to this revision is in its table.
    pub applied: Revision,
    /// No request holds a backend that was withdrawn at or before this revision.
    pub drained: Revision,
}

/// `/deis/<part>/hosts/<ip>`: presence of a platform part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartPresence {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its incarnation.
    pub id: Uuid,
    /// `ip:port` of its main service.
    pub address: String,
}

/// `/deis/leader`: who runs the loops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The elected process's id.
    pub id: Uuid,
    /// Its address, for people.
    pub address: String,
}

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

/// What an operator wants of a unit (fleet's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitTarget {
    /// Known, nowhere.
    Inactive,
    /// On a host, not started.
    Loaded,
    /// Running.
    Launched,
}

/// `/deis/units/<name>`: a unit file of the platform or an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFile {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The unit file, `[X-Fleet]` included.
    pub text: String,
    /// What is wanted of it.
    pub target: UnitTarget,
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

    #[test]
    fn an_older_reader_ignores_new_fields() {
        let text = br#"{"schema":2,"uuid":"6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111","desired":"run",
            "work":{"kind":"unit","hash":"00","new":1},"more":true}"#;
        let read = Assignment::decode(text).expect("readable");
        assert_eq!(read.desired, Desired::Run);
        assert_eq!(read.work, Work::Unit { hash: "00".into() });
    }
}
