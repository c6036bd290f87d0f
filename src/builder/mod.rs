//! `deisd builder`: turns a `git push` into an image and a release.
//!
//! OpenSSH is the SSH server. It asks [`side`] (as the user `git`) for authorized keys, and starts
//! it as the forced command; that runs git, whose pre-receive hook is [`side`] again. The hook
//! reads the pushed commit and hands its source to the [`daemon`] over builder.sock. The daemon
//! alone holds the cluster key: it locks the app, [`build`]s, fills the registries, makes the
//! release and follows its rollout, and what it says streams back to the pusher. Only when it says
//! yes does git move the branch.

pub mod access;
pub mod authorized;
pub mod build;
pub mod command;
pub mod daemon;
mod output;
pub mod procfile;
pub mod protocol;
mod push;
pub mod refs;
pub mod repository;
pub mod side;
pub mod sshd;
mod sweep;

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{net::UnixListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use crate::{
    logger::tell::Teller,
    model::{PartPresence, SCHEMA},
    registry::replicas::Registries,
    seal::ClusterKey,
    settings::HostSettings,
    store::{Presence, PresenceError, Store, keys},
};
use build::BuildSettings;
use daemon::Daemon;
use sshd::{Sshd, SshdError, SshdSettings};

/// Where sshd listens; routers lead port 2222 to it.
pub const PORT: u16 = 2223;
/// The one user of all pushes.
const USER: &str = "git";
/// How long etcd keeps a builder that is gone.
const TTL: Duration = Duration::from_secs(10);
/// Builds that run at once on a host; one from a Dockerfile counts for all of them.
const BUILDS: u32 = 2;
/// Between two looks whether a registry lacks the stack image.
const SEED_EVERY: Duration = Duration::from_secs(30);
/// The same, while no registry is there at all.
const SEED_SOON: Duration = Duration::from_secs(2);

/// Why the builder can't run.
#[derive(Debug, thiserror::Error)]
pub enum BuilderError {
    /// A file or directory can't be made.
    #[error("can't make {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No SSH server.
    #[error(transparent)]
    Sshd(#[from] SshdError),
    /// Not registered.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// Where is this program?
    #[error("can't find out which program this is")]
    Program(#[source] io::Error),
}

/// Where the builder's things lie.
#[derive(Debug, Clone)]
pub struct Places {
    /// The `deisd` program, as sshd starts it.
    pub program: PathBuf,
    /// The user of all pushes.
    pub user: String,
    /// The socket of the git side.
    pub socket: PathBuf,
    /// Files of this run, on tmpfs.
    pub run: PathBuf,
    /// Repositories.
    pub repositories: PathBuf,
    /// The PAM service's file.
    pub pam: PathBuf,
    /// An SSH host key that this host was given, for a cluster that has none yet.
    pub given_host_key: PathBuf,
    /// Where sshd listens.
    pub listen: SocketAddr,
    /// How builds are made.
    pub build: BuildSettings,
}

impl Places {
    /// The places on a host.
    ///
    /// # Errors
    /// When the running program can't be found.
    pub fn of_host(settings: &HostSettings) -> Result<Self, BuilderError> {
        let run = PathBuf::from("/run/deis/builder");
        Ok(Self {
            program: std::env::current_exe().map_err(BuilderError::Program)?,
            user: USER.to_owned(),
            socket: "/run/deis/builder.sock".into(),
            repositories: "/var/lib/deis/git".into(),
            pam: "/etc/pam.d/deis-builder-sshd".into(),
            given_host_key: "/etc/deis/builder/ssh_host_ed25519_key".into(),
            listen: SocketAddr::new(settings.address, PORT),
            build: BuildSettings {
                buildpacks: "/opt/deis/buildpacks".into(),
                stack: "/opt/deis/images/stack".into(),
                host: "/etc/deis/build".into(),
                data: "/var/lib/deis/builder".into(),
                run: run.clone(),
            },
            run,
        })
    }
}

/// Runs the builder until it is told to stop.
///
/// # Errors
/// When it can't be set up.
pub async fn run(
    settings: HostSettings,
    store: Store,
    key: ClusterKey,
    stop: CancellationToken,
) -> Result<(), BuilderError> {
    let places = Places::of_host(&settings)?;
    run_at(places, store, key, stop).await
}

/// As [`run`], with everything somewhere else: for tests.
///
/// # Errors
/// When it can't be set up.
pub async fn run_at(
    places: Places,
    store: Store,
    key: ClusterKey,
    stop: CancellationToken,
) -> Result<(), BuilderError> {
    let (uid, gid) = sshd::ensure_user(&places.user, &places.repositories).await?;
    build::clean_all(&places.build).await;
    directories(&places, uid, gid)?;
    let host_key = sshd::host_key(&store, &key, &places.run, &places.given_host_key).await?;
    let (repositories, caches) = (places.repositories.clone(), places.build.data.join("cache"));
    let sshd = SshdSettings {
        address: places.listen,
        user: places.user.clone(),
        program: places.program.clone(),
        socket: places.socket.clone(),
        repositories: places.repositories.clone(),
        run: places.run.clone(),
        hooks: places.build.data.join("hooks"),
        pam: places.pam.clone(),
    };
    sshd::prepare(&sshd, &host_key)?;
    let listener = listen(&places.socket, gid)?;
    let sshd = Sshd::start(sshd, stop.clone()).await?;

    let ip = places.listen.ip().to_string();
    let registration = PartPresence {
        schema: SCHEMA,
        id: Uuid::new_v4(),
        address: places.listen.to_string(),
    };
    // There is one builder on a host: whoever is registered with this address is our former life.
    let ours = |_: &PartPresence| true;
    let presence =
        Presence::keep(&store, keys::part("builder", &ip), registration, TTL, ours).await?;
    let daemon = Arc::new(Daemon {
        registries: Registries::new(store.clone()),
        teller: Teller::start(store.clone()),
        store,
        key,
        presence,
        address: ip,
        build: places.build,
        builds: Semaphore::new(BUILDS as usize),
        git_uid: uid,
        stop: stop.clone(),
    });
    let seeding = tokio::spawn(seed(daemon.clone()));
    let sweeping = sweep::run(daemon.store.clone(), repositories, caches, stop.clone());
    let sweeping = tokio::spawn(sweeping);
    // Without a socket to notify, nobody is waiting for it.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    info!(address = %places.listen, "the builder takes pushes");
    daemon.clone().serve(listener).await;

    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    sshd.stopped().await;
    let _ = seeding.await;
    let _ = sweeping.await;
    let _ = std::fs::remove_file(&places.socket);
    if let Some(daemon) = Arc::into_inner(daemon) {
        daemon.presence.leave().await;
    }
    Ok(())
}

/// Keeps the stack image in every registry, so that pushes upload one layer.
async fn seed(daemon: Arc<Daemon>) {
    loop {
        let seeded = async {
            let pause = match push::stack(&daemon) {
                // No registry yet is no news: the next push says so.
                Some(stack) if daemon.registries.seed(&stack).await.is_err() => SEED_SOON,
                _ => SEED_EVERY,
            };
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = daemon.stop.cancelled() => return,
            () = seeded => {}
        }
    }
}

fn directories(places: &Places, uid: u32, gid: u32) -> Result<(), BuilderError> {
    let make = |path: &Path, mode: u32, owner: u32, group: u32| {
        let made = || {
            std::fs::DirBuilder::new().recursive(true).create(path)?;
            chown(path, Some(owner), Some(group))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        made().map_err(|source| BuilderError::File {
            path: path.to_owned(),
            source,
        })
    };
    // The git side reaches its socket and hooks through these, and can list nothing.
    if let Some(parent) = places.socket.parent() {
        reachable(parent)?;
    }
    make(&places.run, 0o711, 0, 0)?;
    make(&places.run.join("env"), 0o700, 0, 0)?;
    make(&places.repositories, 0o700, uid, gid)?;
    make(&places.build.data, 0o711, 0, 0)?;
    make(&places.build.data.join("hooks"), 0o755, 0, 0)?;
    make(&places.build.data.join("cache"), 0o700, 0, 0)?;
    // What a former life left half-done.
    let _ = std::fs::remove_dir_all(places.build.data.join("tmp"));
    make(&places.build.data.join("tmp"), 0o700, 0, 0)
}

/// Makes a directory, or adds "search" for others to the one that is there.
fn reachable(path: &Path) -> Result<(), BuilderError> {
    let made = || {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)?;
        let mode = std::fs::metadata(path)?.permissions().mode();
        if mode & 0o001 == 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o011))?;
        }
        Ok(())
    };
    made().map_err(|source| BuilderError::File {
        path: path.to_owned(),
        source,
    })
}

/// The socket, for root and the git side.
fn listen(path: &Path, gid: u32) -> Result<UnixListener, BuilderError> {
    let bound = || {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        chown(path, Some(0), Some(gid))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(listener)
    };
    bound().map_err(|source| BuilderError::File {
        path: path.to_owned(),
        source,
    })
}
