//! Apps, and what belongs to them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    super::{stats::ProcessFigures, time::WireTime},
    RollbackReply,
};
use crate::model;

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
    /// What the routers counted while it replaced the one before. Only where a single release is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// What routers say of the switch from one release to the next. Not in v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// From the first process of the new release to the end of the old one's last, in milliseconds.
    pub millis: u64,
    /// Routers that said something.
    pub routers: u32,
    /// Those that were silent: what went through them is not counted.
    pub silent: Vec<String>,
    /// What each release did, by its number as v2.
    pub releases: BTreeMap<String, Tally>,
    /// Requests that no release got.
    pub unserved: Tally,
}

/// What became of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    /// Answered by the app.
    pub served: u64,
    /// Of these, with a status from 500 on.
    pub errors: u64,
    /// Had to wait until there was a process.
    pub held: u64,
    /// Tries at another process or connection.
    pub retried: u64,
    /// Got no answer of the app, or not all of it.
    pub failed: u64,
    /// Half of the answers began within so many microseconds.
    pub p50_us: Option<u64>,
    /// 99 of 100 did.
    pub p99_us: Option<u64>,
}

impl From<&model::Tally> for Tally {
    fn from(tally: &model::Tally) -> Self {
        Self {
            served: tally.served,
            errors: tally.errors,
            held: tally.held,
            retried: tally.retried,
            failed: tally.failed,
            p50_us: tally.p50_us,
            p99_us: tally.p99_us,
        }
    }
}

impl From<&model::Receipt> for Receipt {
    fn from(receipt: &model::Receipt) -> Self {
        let of_release = |(number, tally): (&model::ReleaseNumber, &model::Tally)| {
            (number.to_string(), Tally::from(tally))
        };
        Self {
            millis: receipt.millis,
            routers: receipt.routers,
            silent: receipt.silent.clone(),
            releases: receipt.releases.iter().map(of_release).collect(),
            unserved: (&receipt.unserved).into(),
        }
    }
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
            receipt: None,
        }
    }

    /// The same by itself: it says why it failed, if it did.
    #[must_use]
    pub fn alone(release: &model::Release, outcome: Option<&model::Outcome>) -> Self {
        let failed = outcome.filter(|o| o.result != model::OutcomeResult::Succeeded);
        Self {
            failure: failed.map(ReleaseFailure::from),
            receipt: outcome.and_then(|outcome| outcome.receipt.as_ref().map(Receipt::from)),
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
    /// How it is. Only where a list is asked for with `stats=1`: v1 has no such thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<ContainerStats>,
}

/// Figures of a process. What its host does not tell within a second is null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerStats {
    /// Memory, page cache that can be given back left out.
    pub memory_bytes: Option<u64>,
    /// Memory that it may have.
    pub memory_limit_bytes: Option<u64>,
    /// CPU of late, in thousandths of one processor.
    pub cpu_permille: Option<u32>,
    /// Since when it is up.
    pub uptime_secs: Option<u64>,
    /// How often it was started again since it was deployed.
    pub restarts: u32,
    /// How its last run ended.
    pub exit: Option<String>,
}

impl From<ContainerStats> for ProcessFigures {
    fn from(stats: ContainerStats) -> Self {
        Self {
            memory_bytes: stats.memory_bytes,
            memory_limit_bytes: stats.memory_limit_bytes,
            cpu_permille: stats.cpu_permille,
            uptime_secs: stats.uptime_secs,
            restarts: stats.restarts,
            exit: stats.exit,
            ..Self::default()
        }
    }
}

impl From<ProcessFigures> for ContainerStats {
    fn from(figures: ProcessFigures) -> Self {
        Self {
            memory_bytes: figures.memory_bytes,
            memory_limit_bytes: figures.memory_limit_bytes,
            cpu_permille: figures.cpu_permille,
            uptime_secs: figures.uptime_secs,
            restarts: figures.restarts,
            exit: figures.exit,
        }
    }
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
