//! `deisd registry`: runs upstream's `docker-registry` and says where it is, while it answers.
//!
//! Two of them on different hosts are two replicas: the builder pushes to both, and hosts pull from
//! either. Each keeps its images on its host's disk.

pub mod replicas;
mod sweep;
#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    link::{self, links},
    model::{PartPresence, SCHEMA},
    settings::HostSettings,
    store::{Presence, Store, keys},
};

/// Where registries listen.
pub const PORT: u16 = 5000;
/// Where upstream's program listens when callers have to prove who they are first.
const BEHIND: u16 = 5001;
/// How long etcd keeps a registry that is gone.
const TTL: Duration = Duration::from_secs(10);
/// Between two questions whether it answers.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// So long it may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// Questions without an answer until it is withdrawn; as many again, and it is started anew.
const PATIENCE: u32 = 3;
/// How long it has to finish uploads when it is to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file can't be written.
    #[error("can't write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program can't be started.
    #[error("can't start {program}; is the package docker-registry installed?")]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its port is taken.
    #[error("can't listen on {address}; is another registry running there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The probe can't be set up.
    #[error("can't set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Where a registry's things lie.
#[derive(Debug, Clone)]
pub struct Places {
    /// Upstream's program.
    pub program: PathBuf,
    /// Images.
    pub storage: PathBuf,
    /// Its configuration.
    pub run: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Places {
    /// Where upstream's program listens: behind our links, on loopback, where those are TLS.
    pub(super) fn program_at(&self) -> SocketAddr {
        match links().is_tls() {
            true => SocketAddr::from(([127, 0, 0, 1], BEHIND)),
            false => self.listen,
        }
    }
}

/// Runs a registry until it is told to stop.
///
/// # Errors
/// When it can't be set up.
pub async fn run(
    settings: HostSettings,
    store: Store,
    stop: CancellationToken,
) -> Result<(), RegistryError> {
    let programs = ["/opt/deis/bin/docker-registry", "/usr/bin/docker-registry"];
    let program = programs.iter().find(|path| Path::new(path).exists());
    let places = Places {
        program: program.unwrap_or(&programs[1]).into(),
        storage: "/var/lib/deis/registry".into(),
        run: "/run/deis/registry".into(),
        listen: SocketAddr::new(settings.address, PORT),
    };
    run_at(places, store, stop).await
}

/// As [`run`], with everything somewhere else: for tests.
///
/// # Errors
/// When it can't be set up.
pub async fn run_at(
    places: Places,
    store: Store,
    stop: CancellationToken,
) -> Result<(), RegistryError> {
    let config = prepare(&places)?;
    let probe = Probe::new(&places)?;
    sweep::collect(&places, &config).await;
    let mut child = start(&places, &config)?;
    let _links = put_behind_links(&places).await?;
    let sweeping = CancellationToken::new();
    let _sweeping = sweeping.clone().drop_guard();
    let mut sweeping = Some(sweep::run(places.clone(), store.clone(), sweeping));
    let mut registration: Option<Presence<PartPresence>> = None;
    let mut silent = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            status = child.wait() => {
                warn!(?status, "docker-registry ended, starting it again");
                withdraw(&mut registration).await;
                pause(&stop).await;
                child = start(&places, &config)?;
                continue;
            }
            answers = probe.answers() => silent = if answers { 0 } else { silent + 1 },
        }
        if silent == 0 && registration.is_none() {
            registration = register(&places, &store).await;
            // From its first answer on.
            if let Some(sweep) = sweeping.take() {
                tokio::spawn(sweep);
            }
        }
        if silent == PATIENCE {
            warn!("docker-registry does not answer");
            withdraw(&mut registration).await;
        }
        if silent >= 2 * PATIENCE && registration.is_none() {
            warn!("docker-registry does not answer still, it is started anew");
            let _ = child.kill().await;
            silent = 0;
            continue;
        }
        // Quick while it starts, slow once it is there.
        let every = if registration.is_some() {
            PROBE_EVERY
        } else {
            Duration::from_millis(100)
        };
        let every = if silent > 0 && registration.is_none() {
            every.max(PROBE_LIMIT / 3)
        } else {
            every
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(every) => {}
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    withdraw(&mut registration).await;
    end(child).await;
    Ok(())
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(Duration::from_secs(1)) => {}
    }
}

/// Registers it; when etcd is away, the next round tries again.
async fn register(places: &Places, store: &Store) -> Option<Presence<PartPresence>> {
    let ip = places.listen.ip().to_string();
    let value = PartPresence {
        schema: SCHEMA,
        id: Uuid::new_v4(),
        address: places.listen.to_string(),
    };
    // There is one registry at an address: whoever is registered with it is our former life.
    let key = keys::part("registry", &ip);
    match Presence::keep(store, key, value, TTL, |_: &PartPresence| true).await {
        Ok(presence) => {
            info!(address = %places.listen, "the registry answers and is registered");
            // Without a socket to notify, nobody is waiting for it.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            Some(presence)
        }
        Err(why) => {
            error!(
                error = &why as &dyn std::error::Error,
                "the registry is not registered"
            );
            None
        }
    }
}

async fn withdraw(registration: &mut Option<Presence<PartPresence>>) {
    if let Some(presence) = registration.take() {
        presence.leave().await;
    }
}

fn file(path: &Path, source: io::Error) -> RegistryError {
    RegistryError::File {
        path: path.to_owned(),
        source,
    }
}

/// Writes its configuration, and its certificate where it has one.
fn prepare(places: &Places) -> Result<PathBuf, RegistryError> {
    for dir in [&places.run, &places.storage] {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(|source| file(dir, source))?;
    }
    let path = places.run.join("config.yml");
    // JSON is YAML.
    write(&path, config(places).to_string().as_bytes())?;
    Ok(path)
}

fn config(places: &Places) -> Value {
    let http = json!({
        "addr": places.program_at().to_string(),
        "headers": { "X-Content-Type-Options": ["nosniff"] },
        // Signs the state of uploads in progress, which end with this process.
        "secret": Uuid::new_v4().to_string(),
    });
    json!({
        "version": "0.1",
        "log": { "level": "warn", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": places.storage },
            "cache": { "blobdescriptor": "inmemory" },
            "delete": { "enabled": true },
        },
        "http": http,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    use io::Write as _;
    let written = || {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path)?.write_all(bytes)
    };
    written().map_err(|source| file(path, source))
}

fn start(places: &Places, config: &Path) -> Result<Child, RegistryError> {
    Command::new(&places.program)
        // Only this program speaks to systemd.
        .env_remove("NOTIFY_SOCKET")
        .arg("serve")
        .arg(config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| RegistryError::Program {
            program: places.program.clone(),
            source,
        })
}

/// Where links are TLS, the registry's address is ours, and callers are passed on to upstream's program;
/// that ends with the guard.
async fn put_behind_links(places: &Places) -> Result<Option<AbortOnDropHandle<()>>, RegistryError> {
    if !links().is_tls() {
        return Ok(None);
    }
    let address = places.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| RegistryError::Listen { address, source })?;
    let passing = link::pass_on(links().listen(listener), places.program_at());
    Ok(Some(AbortOnDropHandle::new(tokio::spawn(passing))))
}

/// SIGTERM first: an upload in progress may end.
async fn end(mut child: Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if timeout(STOP_LIMIT, child.wait()).await.is_err() {
        warn!("docker-registry does not end, it is killed");
        let _ = child.kill().await;
    }
}

/// Asks the registry whether it is one.
struct Probe {
    client: reqwest::Client,
    url: String,
}

impl Probe {
    fn new(places: &Places) -> Result<Self, RegistryError> {
        let builder = reqwest::Client::builder().timeout(PROBE_LIMIT).no_proxy();
        Ok(Self {
            client: builder.build().map_err(RegistryError::Client)?,
            url: format!("http://{}/v2/", places.program_at()),
        })
    }

    async fn answers(&self) -> bool {
        self.client
            .get(&self.url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }
}
