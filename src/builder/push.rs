//! One push: lock, receive, build, put into the registries, release, and follow the rollout.

use std::{collections::BTreeMap, error::Error, path::Path, time::Duration};

use jiff::Timestamp;
use tokio::{sync::SemaphorePermit, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    access,
    build::{self, BuildError, Built, Job},
    daemon::{Client, Daemon},
    output::Output,
    procfile::{self, ProcfileError},
    protocol::Push,
};
use crate::{
    git,
    image::layout::Layout,
    logger::{
        self,
        client::Whose,
        query::Query,
        view::{self, Piece},
    },
    model::*,
    ops::{OpsError, audit::Actor, change, follow},
    registry::replicas::{RegistriesError, repository_of},
    seal::{SealError, config_context},
    store::{CommitError, StoreError, Txn, keys},
    telemetry::chain,
};

/// Tar around the files: headers, padding.
const SOURCE_LIMIT: u64 = git::MAX_BYTES + (512 << 20);

/// Why a push is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Denied(String),
    #[error(
        "Another git push is ongoing: {user} began it at {since}, {seconds} s ago. Try again when it is done"
    )]
    Ongoing {
        user: Username,
        since: String,
        seconds: i64,
    },
    #[error("{0}")]
    Procfile(#[from] ProcfileError),
    #[error("the source did not arrive")]
    Source(#[source] std::io::Error),
    #[error("the client is gone")]
    Gone,
    #[error("the builder is being stopped; push again, another builder takes it")]
    Stopping,
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    #[error("the config variables can't be read")]
    Seal(#[from] SealError),
    #[error("the builder can't keep files")]
    Files(#[source] std::io::Error),
    #[error(transparent)]
    Ops(#[from] OpsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Failed to launch {release}: {reason}")]
    Launch {
        release: ReleaseNumber,
        reason: String,
        log: Vec<String>,
    },
}

/// Does all of it, and says how it ended.
pub(super) async fn push(daemon: &Daemon, asked: &Push, client: Client, output: Output) {
    let Push { user, app, sha, .. } = asked;
    info!(%app, %user, %sha, fingerprint = %asked.fingerprint, "push begins");
    let gone = client.gone.clone();
    let mut running = None;
    let result = match Lock::take(daemon, asked).await {
        Ok(lock) => {
            let result = tokio::select! {
                result = pushed(daemon, asked, &mut running, client, &output) => result,
                () = gone.cancelled() => {
                    Err(if daemon.stop.is_cancelled() { Refusal::Stopping } else { Refusal::Gone })
                }
            };
            // A build that was cut off must not write to the cache of the next one.
            if result.is_err()
                && let Some(running) = running.take()
            {
                build::clean_cut_off(&daemon.build, running.id, asked.dockerfile).await;
            }
            lock.release(daemon).await;
            result
        }
        Err(refusal) => Err(refusal),
    };
    match &result {
        Ok(release) => {
            info!(%app, %user, %sha, %release, "push is deployed");
            output.end(true).await;
        }
        Err(refusal) => {
            info!(%app, %user, %sha, error = refusal as &dyn Error, "push is refused");
            explain(refusal, &output).await;
            output.end(false).await;
        }
    }
    // What a good build leaves harms nobody, and the pusher needs not wait for its end.
    if let Some(running) = running {
        build::clean(&daemon.build, running.id).await;
    }
    gone.cancel();
}

/// The refusal and its causes, as lines for the pusher.
async fn explain(refusal: &Refusal, output: &Output) {
    if let Refusal::Source(error) = refusal
        && error.kind() == std::io::ErrorKind::UnexpectedEof
    {
        // The hook ended it, and knows why.
        return;
    }
    let text = format!("ERROR: {}", chain(refusal));
    output.raw("\n".to_owned()).await;
    output.warning(&text).await;
    if let Refusal::Launch { log, .. } = refusal
        && !log.is_empty()
    {
        output.warning("Its last lines:").await;
        for line in log {
            output.detail(line).await;
        }
    }
}

async fn pushed<'d>(
    daemon: &'d Daemon,
    asked: &Push,
    running: &mut Option<Running<'d>>,
    mut client: Client,
    output: &Output,
) -> Result<ReleaseNumber, Refusal> {
    let procfile = asked.procfile.as_deref().map(procfile::parse).transpose()?;
    let files = files(&daemon.build.data)?;
    let source = files.path().join("source.tar");
    client
        .receive(source.clone(), SOURCE_LIMIT)
        .await
        .map_err(Refusal::Source)?;
    let gone = client.gone.clone();
    client.watch();

    let app = still_theirs(daemon, asked).await?;
    let config = config(daemon, &asked.app, app.active).await?;
    let id = Uuid::new_v4();
    let job = Job {
        id,
        app: asked.app.clone(),
        app_id: asked.repository,
        sha: asked.sha.clone(),
        source,
        files,
        procfile,
        dockerfile: asked.dockerfile,
        config,
    };
    let turn = turn(daemon, asked.dockerfile, output).await;
    let running = running.insert(Running { id, turn });
    let built = build::build(&daemon.build, job, output).await?;
    // The next one may build while this one is launched.
    running.turn = None;

    output.step("Pushing image to the registries").await;
    let warnings = daemon
        .registries
        .push(&repository_of(&asked.app, asked.repository), &built.image)
        .await?;
    for warning in warnings {
        output.warning(&warning).await;
    }

    still_theirs(daemon, asked).await?;
    if gone.is_cancelled() {
        return Err(Refusal::Gone);
    }
    launch(daemon, asked, built, output).await
}

/// A directory for a build's files, gone when it is dropped.
fn files(data: &Path) -> Result<tempfile::TempDir, Refusal> {
    tempfile::Builder::new()
        .prefix("push-")
        .tempdir_in(data.join("tmp"))
        .map_err(Refusal::Files)
}

/// The app, if it is still the one that the repository belongs to, and the user may still use it.
async fn still_theirs(daemon: &Daemon, asked: &Push) -> Result<App, Refusal> {
    let app = access::app_for(&daemon.store, &asked.user, &asked.app).await?;
    match app.filter(|app| app.value.uuid == asked.repository) {
        Some(app) => Ok(app.value),
        None => Err(Refusal::Denied(access::denied(&asked.user, &asked.app))),
    }
}

/// The active release's config variables, opened.
async fn config(
    daemon: &Daemon,
    app: &AppName,
    active: ReleaseNumber,
) -> Result<BTreeMap<ConfigName, crate::seal::Secret<Vec<u8>>>, Refusal> {
    let Some((_, config, _)) = change::contents(&daemon.store, app, active).await? else {
        return Ok(BTreeMap::new());
    };
    let open = |(name, value): (ConfigName, SealedValue)| {
        let opened = daemon.key.open(&config_context(app, &name), &value)?;
        Ok((name, opened))
    };
    config.values.into_iter().map(open).collect()
}

/// A build that has begun.
struct Running<'d> {
    /// Names what it may leave behind.
    id: Uuid,
    /// Held until it has ended, and what it left is gone.
    turn: Option<SemaphorePermit<'d>>,
}

/// A host builds only so many apps at once; the others wait, and are told. A Dockerfile is built
/// alone: what `podman build` leaves when it is cut off has nobody's name.
async fn turn<'d>(
    daemon: &'d Daemon,
    dockerfile: bool,
    output: &Output,
) -> Option<SemaphorePermit<'d>> {
    let turns = if dockerfile { super::BUILDS } else { 1 };
    if let Ok(permit) = daemon.builds.try_acquire_many(turns) {
        return Some(permit);
    }
    output
        .step("Waiting for other builds on this builder")
        .await;
    daemon.builds.acquire_many(turns).await.ok()
}

/// Makes the release and follows its rollout to the end.
async fn launch(
    daemon: &Daemon,
    asked: &Push,
    built: Built,
    output: &Output,
) -> Result<ReleaseNumber, Refusal> {
    let Push { app, user, sha, .. } = asked;
    output.step("Launching...").await;
    let new = change::NewBuild {
        image: format!(
            "{}@{}",
            repository_of(app, asked.repository),
            built.image.manifest.digest
        ),
        source: None,
        kind: built.kind,
        port: built.port,
        sha: sha.as_str().to_owned(),
        procfile: built.procfile.clone(),
        dockerfile: built.kind == ImageKind::Image,
    };
    let mut say = |text: &str| output.detail_now(text);
    let by = Actor {
        user: user.clone(),
        token: Some(format!("key {}", asked.fingerprint)),
        request: None,
    };
    let change = change::deploy(&daemon.store, app, by, &new, &mut say).await?;
    let release = change.release;
    daemon.teller.say_release(app, release);
    if let Some(rollout) = change.rollout {
        let wait = follow::wait(&daemon.store, app, rollout, follow::LIMIT, &mut say);
        let ended = if built.procfile.contains_key(&ProcessType::release()) {
            // Ends with the rollout, whatever becomes of the log.
            let lines = release_lines(daemon, app, output);
            tokio::select! {
                biased;
                ended = wait => ended?,
                never = lines => match never {},
            }
        } else {
            wait.await?
        };
        if let Some(receipt) = &ended.receipt {
            output.detail(&receipt.words()).await;
        }
        match ended.result {
            OutcomeResult::Succeeded => {}
            OutcomeResult::Failed | OutcomeResult::Superseded => {
                let reason = ended.reason.unwrap_or_else(|| "it was given up".to_owned());
                return Err(Refusal::Launch {
                    release,
                    reason,
                    log: ended.log,
                });
            }
        }
    }
    remember(daemon, asked).await;
    output
        .detail(&format!("done, {app}:{release} deployed to Deis"))
        .await;
    if let Ok(Some(domain)) = daemon.store.get(&keys::platform("domain")).await {
        output
            .raw(format!("\n       http://{app}.{}\n", domain.value))
            .await;
    }
    output
        .raw("\n       To learn more, use `deis help`\n\n".to_owned())
        .await;
    Ok(release)
}

/// Shows the pusher what the release command prints, as it comes. Best effort: it is in the app's log in
/// any case.
async fn release_lines(
    daemon: &Daemon,
    app: &AppName,
    output: &Output,
) -> std::convert::Infallible {
    let query = Query {
        lines: logger::query::MAX_LINES,
        follow: true,
        of: ProcessType::release().as_str().parse().ok(),
        since_ms: u64::try_from(Timestamp::now().as_millisecond()).ok(),
    };
    if let Ok(Some(record)) = daemon.store.get(&keys::app(app)).await {
        let whose = Whose::of(app, &record.value);
        match view::open(&daemon.store, whose, query).await {
            Ok(Some(mut view)) => {
                while let Some(piece) = view.next().await {
                    if let Piece::Text(text) = piece {
                        text.lines().for_each(|line| output.detail_now(line));
                    }
                }
            }
            Ok(None) => {}
            Err(error) => warn!(%app, %error, "the release command's log can't be shown"),
        }
    }
    std::future::pending().await
}

/// Writes down which commit is deployed, for the other builders' repositories. Best effort: without
/// it, they only take a push for news that is none.
async fn remember(daemon: &Daemon, asked: &Push) {
    let head = GitHead {
        schema: SCHEMA,
        sha: asked.sha.as_str().to_owned(),
        user: asked.user.clone(),
        deployed: Timestamp::now(),
    };
    let put = Txn::new()
        .present(&keys::app(&asked.app))
        .put(&keys::git_head(&asked.app), &head);
    if let Err(error) = daemon.store.commit(put).await {
        warn!(app = %asked.app, %error, "the deployed commit is not written down");
    }
}

/// The one push of an app, under the builder's lease.
struct Lock {
    app: AppName,
    value: PushLock,
}

impl Lock {
    async fn take(daemon: &Daemon, asked: &Push) -> Result<Self, Refusal> {
        let key = keys::push_lock(&asked.app);
        let value = PushLock {
            schema: SCHEMA,
            id: Uuid::new_v4(),
            user: asked.user.clone(),
            builder: daemon.address.clone(),
            started: Timestamp::now(),
        };
        let lock = Self {
            app: asked.app.clone(),
            value,
        };
        let put = Txn::new()
            .present(&keys::app(&asked.app))
            .absent(&key)
            .put_leased(&key, &lock.value, daemon.presence.lease());
        match daemon.store.commit(put).await {
            Ok(_) => return Ok(lock),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        match daemon.store.get(&key).await?.map(|there| there.value) {
            // Our own, from a first try whose answer was lost.
            Some(there) if there.id == lock.value.id => Ok(lock),
            Some(there) => Err(Refusal::Ongoing {
                user: there.user,
                since: there.started.strftime("%H:%M:%S UTC").to_string(),
                seconds: (Timestamp::now() - there.started).get_seconds(),
            }),
            None => Err(Refusal::Denied(access::denied(&asked.user, &asked.app))),
        }
    }

    /// Gives it back. When etcd is away, goes on trying in the background: the lease lives on.
    async fn release(self, daemon: &Daemon) {
        let key = keys::push_lock(&self.app);
        let delete = Txn::new().value_is(&key, &self.value).delete(&key);
        let store = daemon.store.clone();
        let stop: CancellationToken = daemon.stop.clone();
        let give_back = async move {
            loop {
                match store.commit(delete.clone()).await {
                    Ok(_) | Err(CommitError::Conflict) => return,
                    Err(CommitError::Store(error)) => {
                        warn!(app = %self.app, %error, "the push lock can't be given back, trying again");
                    }
                }
                tokio::select! {
                    // Our presence ends with us, and the lock with it.
                    () = stop.cancelled() => return,
                    () = sleep(Duration::from_secs(1)) => {}
                }
            }
        };
        let mut task = tokio::spawn(give_back);
        // The next push should find it free as soon as this one is said to be over.
        let _ = tokio::time::timeout(Duration::from_secs(3), &mut task).await;
    }
}

/// The stack image, read anew: the host may have got a newer one.
pub(super) fn stack(daemon: &Daemon) -> Option<Layout> {
    match Layout::read(&daemon.build.stack) {
        Ok(layout) => Some(layout),
        Err(error) => {
            warn!(
                error = &error as &dyn Error,
                "no stack image; only Dockerfile apps can be built"
            );
            None
        }
    }
}
