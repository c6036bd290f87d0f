//! Changes of an app: new releases, scaling, restarts. One transaction each; the leader's rollout
//! does the rest.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub use super::release::{ConfigChange, NewBuild};
use super::{
    OpsError, TRIES, app, describe,
    release::{config_summary, merge, rollback_target, scaled, structure_for, succeeded},
};
use crate::{
    model::*,
    seal::{ClusterKey, config_context},
    store::{CommitError, Store, Txn, Versioned, keys},
};

/// How long config and scale wait for another change to end before they say "busy".
const SHORT_WAIT: Duration = Duration::from_secs(5);
/// How long a push queues behind another change.
const LONG_WAIT: Duration = Duration::from_secs(600);
/// Between two looks at a change that is in the way.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A change that has been accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The release that it made, or that it is about.
    pub release: ReleaseNumber,
    /// The rollout to wait for; none when there is nothing to roll out.
    pub rollout: Option<Uuid>,
}

/// What is done about another change in progress.
enum Policy<'a> {
    /// Wait a little, then say that it is busy.
    Wait,
    /// Queue, and say so once.
    Queue(&'a mut (dyn FnMut(&str) + Send)),
    /// Take over, to go back to a release: that one, or the last that succeeded.
    GoBack(Option<ReleaseNumber>),
}

/// All that a change is based on.
struct Base {
    name: AppName,
    app: Versioned<App>,
    rollout: Option<Versioned<Rollout>>,
    /// The active release with its config and build.
    release: Release,
    config: Config,
    build: Option<Build>,
    /// The release to go back to, with its config and build.
    target: Option<(Release, Config, Option<Build>)>,
}

/// A release to be made.
struct Next {
    summary: String,
    config: Config,
    /// Whether the config is new, or stands in etcd already.
    new_config: bool,
    build: Option<Build>,
    new_build: bool,
    structure: Structure,
}

async fn base(store: &Store, name: &AppName) -> Result<Base, OpsError> {
    let missing = |what: &str| OpsError::NotFound(format!("{what} of {name}"));
    let app = app::get(store, name).await?;
    if app.value.destroying {
        return Err(OpsError::Destroying(name.clone()));
    }
    let rollout = store.get(&keys::rollout(name)).await?;
    let (release, config, build) = contents(store, name, app.value.active)
        .await?
        .ok_or_else(|| missing("the active release"))?;
    Ok(Base {
        name: name.clone(),
        app,
        rollout,
        release,
        config,
        build,
        target: None,
    })
}

/// Reads the release to go back to: `to`, or the last one that succeeded.
async fn target(
    store: &Store,
    base: &Base,
    to: Option<ReleaseNumber>,
) -> Result<(Release, Config, Option<Build>), OpsError> {
    let name = &base.name;
    let version = match to {
        Some(version) => version,
        // In the middle of a rollout, back means to what was active before it.
        None if base.rollout.is_some() => base.app.value.active,
        None => {
            let listing = store.list(&keys::outcomes(name)).await?;
            let outcomes: BTreeMap<ReleaseNumber, OutcomeResult> = listing
                .entries
                .into_iter()
                .map(|(_, outcome)| (outcome.value.version, outcome.value.result))
                .collect();
            rollback_target(base.app.value.active, &outcomes)
                .ok_or_else(|| OpsError::NothingToRollBackTo(name.clone()))?
        }
    };
    contents(store, name, version)
        .await?
        .ok_or_else(|| OpsError::NotFound(format!("release {version} of {name}")))
}

/// A release with its config and build; none when there is no such release.
///
/// # Errors
/// When the store fails or the release is incomplete.
pub async fn contents(
    store: &Store,
    name: &AppName,
    version: ReleaseNumber,
) -> Result<Option<(Release, Config, Option<Build>)>, OpsError> {
    let missing = |what: &str| OpsError::NotFound(format!("the {what} of {name} {version}"));
    let Some(release) = store.get(&keys::release(name, version)).await? else {
        return Ok(None);
    };
    let release = release.value;
    let config = store.get(&keys::config(name, release.config)).await?;
    let config = config.ok_or_else(|| missing("config"))?.value;
    let build = match release.build {
        Some(id) => {
            let build = store.get(&keys::build(name, id)).await?;
            Some(build.ok_or_else(|| missing("build"))?.value)
        }
        None => None,
    };
    Ok(Some((release, config, build)))
}

/// Decides anew until the transaction goes through or the policy says stop.
async fn commit(
    store: &Store,
    name: &AppName,
    mut policy: Policy<'_>,
    decide: impl Fn(&Base) -> Result<(Txn, Change), OpsError> + Send,
) -> Result<Change, OpsError> {
    let started = Instant::now();
    let mut conflicts = 0;
    let mut told = false;
    loop {
        let mut base = base(store, name).await?;
        if let Some(other) = &base.rollout {
            let what = describe(&other.value.change, other.value.release);
            let limit = match &mut policy {
                Policy::Wait => Some(SHORT_WAIT),
                Policy::Queue(say) => {
                    if !std::mem::replace(&mut told, true) {
                        say(&format!("waiting for {what} of {name} to finish"));
                    }
                    Some(LONG_WAIT)
                }
                Policy::GoBack(_) => None,
            };
            if let Some(limit) = limit {
                if started.elapsed() >= limit {
                    let by = other.value.by.clone();
                    return Err(OpsError::Busy {
                        app: name.clone(),
                        what,
                        by,
                    });
                }
                sleep(LOOK_EVERY).await;
                continue;
            }
        }
        if let Policy::GoBack(to) = policy {
            base.target = Some(target(store, &base, to).await?);
        }
        let (txn, change) = decide(&base)?;
        match store.commit(txn).await {
            Ok(_) => return Ok(change),
            Err(CommitError::Conflict) if conflicts < TRIES => conflicts += 1,
            Err(CommitError::Conflict) => {
                return Err(OpsError::Contended(format!("the app {name}")));
            }
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
}

impl Base {
    /// The comparisons that every change of this app makes.
    fn compared(&self) -> Txn {
        let rollout = keys::rollout(&self.name);
        let txn = Txn::new().unchanged(&keys::app(&self.name), self.app.mod_revision);
        match &self.rollout {
            None => txn.absent(&rollout),
            Some(there) => txn.unchanged(&rollout, there.mod_revision),
        }
    }

    fn rollout(
        &self,
        change: RolloutKind,
        release: ReleaseNumber,
        structure: Structure,
        by: &Username,
        now: Timestamp,
    ) -> Rollout {
        let app = &self.app.value;
        Rollout {
            schema: SCHEMA,
            id: Uuid::new_v4(),
            change,
            release,
            previous: app.active,
            structure,
            previous_structure: app.structure.clone(),
            phase: RolloutPhase::Forward,
            waiting: None,
            by: by.clone(),
            started: now,
        }
    }

    /// The transaction that makes the next release and starts its rollout.
    fn next_release(&self, next: Next, by: &Username, now: Timestamp) -> (Txn, Change) {
        let name = &self.name;
        let version = self.app.value.latest.next();
        let release = Release {
            schema: SCHEMA,
            uuid: Uuid::new_v4(),
            app: name.clone(),
            owner: by.clone(),
            version,
            summary: next.summary,
            config: next.config.uuid,
            build: next.build.as_ref().map(|build| build.uuid),
            created: now,
        };
        let mut app = App {
            latest: version,
            updated: now,
            ..self.app.value.clone()
        };
        let mut txn = self
            .compared()
            .absent(&keys::release(name, version))
            .put(&keys::release(name, version), &release);
        if next.new_config {
            txn = txn.put(&keys::config(name, next.config.uuid), &next.config);
        }
        if let Some(build) = next.build.as_ref().filter(|_| next.new_build) {
            txn = txn.put(&keys::build(name, build.uuid), build);
        }
        // A release that is being rolled out when another takes over never succeeds.
        if let Some(other) = self
            .rollout
            .as_ref()
            .filter(|r| r.value.change == RolloutKind::Release)
        {
            let outcome = Outcome {
                result: OutcomeResult::Superseded,
                reason: Some(format!("superseded by {version}")),
                ..succeeded(other.value.release, now)
            };
            txn = txn.put(&keys::outcome(name, other.value.release), &outcome);
        }
        let rollout = if next.build.is_some() {
            let rollout = self.rollout(RolloutKind::Release, version, next.structure, by, now);
            txn = txn.put(&keys::rollout(name), &rollout);
            Some(rollout.id)
        } else {
            // Nothing runs before the first build: the release is active at once.
            app.active = version;
            txn = txn.put(&keys::outcome(name, version), &succeeded(version, now));
            None
        };
        (
            txn.put(&keys::app(name), &app),
            Change {
                release: version,
                rollout,
            },
        )
    }
}

/// Sets config variables, limits and tags: a new release on the active one's config.
///
/// # Errors
/// When another change is in progress, a value can't be opened, or the store fails.
pub async fn set_config(
    store: &Store,
    key: &ClusterKey,
    name: &AppName,
    by: &Username,
    change: &ConfigChange,
) -> Result<Change, OpsError> {
    commit(store, name, Policy::Wait, |base| {
        let now = Timestamp::now();
        let mut config = Config {
            uuid: Uuid::new_v4(),
            owner: by.clone(),
            created: now,
            ..base.config.clone()
        };
        let sealed = change.values.iter().map(|(var, value)| {
            let value = value.as_ref();
            let sealed = value.map(|v| key.seal(&config_context(name, var), v.as_bytes()));
            (var.clone(), sealed)
        });
        let values = merge(&mut config.values, sealed, |var, old, new| {
            let context = config_context(name, var);
            match (key.open(&context, old), key.open(&context, new)) {
                (Ok(old), Ok(new)) => old == new,
                _ => false,
            }
        });
        let memory = merge(&mut config.memory, change.memory.clone(), |_, old, new| {
            old == new
        });
        let cpu = merge(&mut config.cpu, change.cpu.clone(), |_, old, new| {
            old == new
        });
        let tags = merge(&mut config.tags, change.tags.clone(), |_, old, new| {
            old == new
        });
        let next = Next {
            summary: config_summary(by, &values, &memory, &cpu, &tags),
            config,
            new_config: true,
            build: base.build.clone(),
            new_build: false,
            structure: base.app.value.structure.clone(),
        };
        Ok(base.next_release(next, by, now))
    })
    .await
}

/// Makes a build the next release. Queues behind another change, and says so.
///
/// # Errors
/// When the queue is too long, or the store fails.
pub async fn deploy(
    store: &Store,
    name: &AppName,
    by: &Username,
    new: &NewBuild,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Change, OpsError> {
    commit(store, name, Policy::Queue(say), |base| {
        let now = Timestamp::now();
        let build = Build {
            schema: SCHEMA,
            uuid: Uuid::new_v4(),
            app: name.clone(),
            owner: by.clone(),
            image: new.image.clone(),
            kind: new.kind,
            port: new.port,
            sha: new.sha.clone(),
            procfile: new.procfile.clone(),
            dockerfile: new.dockerfile,
            created: now,
        };
        let what = if build.sha.is_empty() {
            build.image.as_str()
        } else {
            short(&build.sha)
        };
        let next = Next {
            summary: format!("{by} deployed {what}"),
            structure: structure_for(&build, &base.app.value.structure),
            config: base.config.clone(),
            new_config: false,
            build: Some(build),
            new_build: true,
        };
        Ok(base.next_release(next, by, now))
    })
    .await
}

/// The first seven digits of a commit.
fn short(sha: &str) -> &str {
    sha.get(..7).unwrap_or(sha)
}

/// Goes back to a release, or to the last one that succeeded: a new release with the old build and
/// config. Takes over from a change in progress.
///
/// # Errors
/// When there is nothing to go back to, or the store fails.
pub async fn rollback(
    store: &Store,
    name: &AppName,
    by: &Username,
    to: Option<ReleaseNumber>,
) -> Result<Change, OpsError> {
    commit(store, name, Policy::GoBack(to), |base| {
        let now = Timestamp::now();
        let (release, config, build) = base
            .target
            .clone()
            .expect("invariant: going back has read its target");
        let target = release.version;
        let current = &base.app.value.structure;
        let structure = match &build {
            Some(build) => structure_for(build, current),
            None if current.values().any(|count| *count > 0) => {
                return Err(OpsError::Invalid(format!(
                    "{target} has no build: scale {name} to zero first, or roll back to a release \
                     that has one"
                )));
            }
            None => current.clone(),
        };
        let next = Next {
            summary: format!("{by} rolled back to {target}"),
            config,
            new_config: false,
            build,
            new_build: false,
            structure,
        };
        Ok(base.next_release(next, by, now))
    })
    .await
}

/// Changes the wanted number of processes.
///
/// # Errors
/// When there is no build, a type is unknown, another change is in progress, or the store fails.
pub async fn scale(
    store: &Store,
    name: &AppName,
    by: &Username,
    wanted: &Structure,
) -> Result<Change, OpsError> {
    commit(store, name, Policy::Wait, |base| {
        let now = Timestamp::now();
        let build = base.build.as_ref().ok_or(OpsError::NoBuild)?;
        let structure = scaled(build, &base.app.value.structure, wanted)?;
        let release = base.release.version;
        let rollout = base.rollout(RolloutKind::Scale, release, structure, by, now);
        let txn = base.compared().put(&keys::rollout(name), &rollout);
        Ok((
            txn,
            Change {
                release,
                rollout: Some(rollout.id),
            },
        ))
    })
    .await
}

/// Replaces processes by their next incarnation, without a gap.
///
/// # Errors
/// When there is no build, another change is in progress, or the store fails.
pub async fn restart(
    store: &Store,
    name: &AppName,
    by: &Username,
    only: Option<&ProcessType>,
    number: Option<u32>,
) -> Result<Change, OpsError> {
    commit(store, name, Policy::Wait, |base| {
        let now = Timestamp::now();
        if base.build.is_none() {
            return Err(OpsError::NoBuild);
        }
        let release = base.release.version;
        let change = RolloutKind::Restart {
            only: only.cloned(),
            number,
        };
        let structure = base.app.value.structure.clone();
        let rollout = base.rollout(change, release, structure, by, now);
        let txn = base.compared().put(&keys::rollout(name), &rollout);
        Ok((
            txn,
            Change {
                release,
                rollout: Some(rollout.id),
            },
        ))
    })
    .await
}
