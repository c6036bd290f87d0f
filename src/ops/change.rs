//! Changes of an app: new releases, scaling, restarts. One transaction each; the leader's rollout
//! does the rest.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub use super::release::{ConfigChange, NewBuild};
use super::{
    OpsError, TRIES, app,
    audit::{self, Actor, Note},
    describe,
    release::{config_summary, merge, rollback_target, scaled, structure_for, succeeded},
};
use crate::{
    model::*,
    outside,
    plan::admission,
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
    /// Take over.
    Supersede,
}

/// All that a change is based on.
struct Base {
    name: AppName,
    app: Versioned<App>,
    rollout: Option<Versioned<Rollout>>,
    route: Option<Versioned<Route>>,
    /// The active release with its config and build.
    release: Release,
    config: Config,
    build: Option<Build>,
}

/// A release to be made.
struct Next {
    summary: String,
    config: Config,
    /// Whether the config is new, or stands in etcd already.
    new_config: bool,
    build: Option<Build>,
    new_build: bool,
    /// Whether it is new to the app, and is watched if its owner wants that.
    is_new: bool,
    structure: Structure,
}

async fn base(store: &Store, name: &AppName) -> Result<Base, OpsError> {
    let missing = |what: &str| OpsError::NotFound(format!("{what} of {name}"));
    let app = app::get(store, name).await?;
    if app.value.destroying {
        return Err(OpsError::Destroying(name.clone()));
    }
    let rollout = store.get(&keys::rollout(name)).await?;
    let route = store.get(&keys::route(name)).await?;
    let (release, config, build) = contents(store, name, app.value.active)
        .await?
        .ok_or_else(|| missing("the active release"))?;
    Ok(Base {
        name: name.clone(),
        app,
        rollout,
        route,
        release,
        config,
        build,
    })
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

/// What somebody wants of an app.
enum Wish<'a> {
    Config(&'a ClusterKey, &'a ConfigChange),
    Deploy(&'a NewBuild),
    Rollback(Option<ReleaseNumber>),
    Scale(&'a Structure),
    Restart(Option<&'a ProcessType>, Option<u32>),
}

/// Decides anew until the transaction goes through or the policy says stop.
async fn commit(
    store: &Store,
    name: &AppName,
    by: &Actor,
    mut policy: Policy<'_>,
    wish: Wish<'_>,
) -> Result<Change, OpsError> {
    let started = Instant::now();
    let mut conflicts = 0;
    let mut told = false;
    loop {
        let base = base(store, name).await?;
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
                Policy::Supersede => None,
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
        let (txn, change, note) = base.decide(store, &wish, by, outside::now()).await?;
        match audit::commit(store, name, txn, note).await {
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
    async fn decide(
        &self,
        store: &Store,
        wish: &Wish<'_>,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(Txn, Change, Note), OpsError> {
        let by = &actor.user;
        let (action, next) = match wish {
            Wish::Config(key, change) => (Action::Config, self.reconfigured(key, change, by, now)?),
            Wish::Deploy(new) => (Action::Deploy, self.built(new, by, now)),
            Wish::Rollback(to) => (Action::Rollback, self.rolled_back(store, *to, by).await?),
            Wish::Scale(wanted) => {
                let build = self.build.as_ref().ok_or(OpsError::NoBuild)?;
                let structure = scaled(build, &self.app.value.structure, wanted)?;
                let counts: Vec<_> = wanted
                    .iter()
                    .map(|(kind, n)| format!("{kind}={n}"))
                    .collect();
                let note = actor.note(Action::Scale, counts.join(" "));
                let (txn, change) = self.same_release(RolloutKind::Scale, structure, by, now);
                return Ok((txn, change, note));
            }
            Wish::Restart(only, number) => {
                if self.build.is_none() {
                    return Err(OpsError::NoBuild);
                }
                let what = match (only, number) {
                    (None, _) => "all processes".to_owned(),
                    (Some(kind), None) => kind.to_string(),
                    (Some(kind), Some(number)) => format!("{kind}.{number}"),
                };
                let restart = RolloutKind::Restart {
                    only: only.cloned(),
                    number: *number,
                };
                let structure = self.app.value.structure.clone();
                let (txn, change) = self.same_release(restart, structure, by, now);
                return Ok((txn, change, actor.note(Action::Restart, what)));
            }
        };
        // The summary says who, and so does the entry.
        let own = format!("{by} ");
        let detail = next
            .summary
            .strip_prefix(&own)
            .unwrap_or(&next.summary)
            .to_owned();
        let (txn, change) = self.next_release(next, by, now);
        let note = actor.note(action, detail).release(change.release);
        Ok((txn, change, note))
    }

    /// The active release's config with changes.
    fn reconfigured(
        &self,
        key: &ClusterKey,
        change: &ConfigChange,
        by: &Username,
        now: Timestamp,
    ) -> Result<Next, OpsError> {
        let name = &self.name;
        let mut config = Config {
            uuid: outside::uuid(),
            owner: by.clone(),
            created: now,
            ..self.config.clone()
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
        if let Some(value) = change.values.get(WHITELIST_VARIABLE) {
            let list = value.as_deref().map(str::parse).transpose();
            config.whitelist = list
                .map_err(|error: InvalidWhitelist| OpsError::Invalid(error.to_string()))?
                .unwrap_or_default();
        }
        Ok(Next {
            summary: config_summary(by, &values, &memory, &cpu, &tags),
            config,
            new_config: true,
            build: self.build.clone(),
            new_build: false,
            is_new: true,
            structure: self.app.value.structure.clone(),
        })
    }

    /// The active release's config with a new build.
    fn built(&self, new: &NewBuild, by: &Username, now: Timestamp) -> Next {
        let build = Build {
            schema: SCHEMA,
            uuid: outside::uuid(),
            app: self.name.clone(),
            owner: by.clone(),
            image: new.image.clone(),
            source: new.source.clone(),
            kind: new.kind,
            port: new.port,
            sha: new.sha.clone(),
            procfile: new.procfile.clone(),
            dockerfile: new.dockerfile,
            created: now,
        };
        let what = if build.sha.is_empty() {
            build.source.as_deref().unwrap_or(&build.image)
        } else {
            short(&build.sha)
        };
        Next {
            summary: format!("{by} deployed {what}"),
            structure: structure_for(&build, &self.app.value.structure),
            config: self.config.clone(),
            new_config: false,
            build: Some(build),
            new_build: true,
            is_new: true,
        }
    }

    /// An earlier release's build and config.
    async fn rolled_back(
        &self,
        store: &Store,
        to: Option<ReleaseNumber>,
        by: &Username,
    ) -> Result<Next, OpsError> {
        let name = &self.name;
        let target = match to {
            Some(version) => version,
            // In the middle of a rollout, back means to what was active before it.
            None if self.rollout.is_some() => self.app.value.active,
            None => {
                let listing = store.list(&keys::outcomes(name)).await?;
                let outcomes: BTreeMap<ReleaseNumber, OutcomeResult> = listing
                    .entries
                    .into_iter()
                    .map(|(_, outcome)| (outcome.value.version, outcome.value.result))
                    .collect();
                rollback_target(self.app.value.active, &outcomes)
                    .ok_or_else(|| OpsError::NothingToRollBackTo(name.clone()))?
            }
        };
        let (_, config, build) = contents(store, name, target)
            .await?
            .ok_or_else(|| OpsError::NotFound(format!("release {target} of {name}")))?;
        let current = &self.app.value.structure;
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
        Ok(Next {
            summary: format!("{by} rolled back to {target}"),
            config,
            new_config: false,
            build,
            new_build: false,
            is_new: false,
            structure,
        })
    }

    /// The transaction that starts a rollout of the active release itself.
    fn same_release(
        &self,
        change: RolloutKind,
        structure: Structure,
        by: &Username,
        now: Timestamp,
    ) -> (Txn, Change) {
        let release = self.release.version;
        let rollout = self.rollout(change, release, structure, by, now);
        let txn = self.compared().put(&keys::rollout(&self.name), &rollout);
        (
            txn,
            Change {
                release,
                rollout: Some(rollout.id),
            },
        )
    }

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
            id: outside::uuid(),
            change,
            release,
            previous: app.active,
            structure,
            previous_structure: app.structure.clone(),
            phase: RolloutPhase::Forward,
            command: None,
            watch: None,
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
            uuid: outside::uuid(),
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
            let serves = app.structure.values().any(|count| *count > 0);
            let policy = app.policy.filter(|_| next.is_new && serves);
            let has_command = |build: &Build| build.procfile.contains_key(&ProcessType::release());
            let mut rollout = self.rollout(RolloutKind::Release, version, next.structure, by, now);
            rollout.command = next
                .build
                .as_ref()
                .and_then(|build| has_command(build).then_some(ReleaseCommand::Due));
            rollout.watch = policy.map(|policy| Watch {
                policy,
                passed: false,
            });
            txn = txn.put(&keys::rollout(name), &rollout);
            Some(rollout.id)
        } else {
            // Nothing runs before the first build: the release is active at once.
            app.active = version;
            if self.rollout.is_some() {
                // It was the first build's, and would make that active over this one.
                txn = txn.delete(&keys::rollout(name));
            }
            txn = txn
                .put(&keys::outcome(name, version), &succeeded(version, now))
                .and(admission::admit(
                    name,
                    self.route.as_ref(),
                    &next.config.whitelist,
                ));
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
    by: impl Into<Actor>,
    change: &ConfigChange,
) -> Result<Change, OpsError> {
    commit(
        store,
        name,
        &by.into(),
        Policy::Wait,
        Wish::Config(key, change),
    )
    .await
}

/// Makes a build the next release. Queues behind another change, and says so.
///
/// # Errors
/// When the queue is too long, or the store fails.
pub async fn deploy(
    store: &Store,
    name: &AppName,
    by: impl Into<Actor>,
    new: &NewBuild,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Change, OpsError> {
    commit(
        store,
        name,
        &by.into(),
        Policy::Queue(say),
        Wish::Deploy(new),
    )
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
    by: impl Into<Actor>,
    to: Option<ReleaseNumber>,
) -> Result<Change, OpsError> {
    commit(
        store,
        name,
        &by.into(),
        Policy::Supersede,
        Wish::Rollback(to),
    )
    .await
}

/// Changes the wanted number of processes.
///
/// # Errors
/// When there is no build, a type is unknown, another change is in progress, or the store fails.
pub async fn scale(
    store: &Store,
    name: &AppName,
    by: impl Into<Actor>,
    wanted: &Structure,
) -> Result<Change, OpsError> {
    commit(store, name, &by.into(), Policy::Wait, Wish::Scale(wanted)).await
}

/// Replaces processes by their next incarnation, without a gap.
///
/// # Errors
/// When there is no build, another change is in progress, or the store fails.
pub async fn restart(
    store: &Store,
    name: &AppName,
    by: impl Into<Actor>,
    only: Option<&ProcessType>,
    number: Option<u32>,
) -> Result<Change, OpsError> {
    commit(
        store,
        name,
        &by.into(),
        Policy::Wait,
        Wish::Restart(only, number),
    )
    .await
}
