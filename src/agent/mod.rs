//! The agent of a host: turns its assignments into units, publishes what is healthy, reports.
//!
//! [`agent`](self) is one loop that takes in everything (assignments from etcd, systemd's signals,
//! announcers' words, ends of tasks), asks [`crate::plan::units`] what to do, and lets tasks do it.
//! It never stops a unit unless etcd says so, its own end stops nothing, and the next one adopts what
//! it finds.

#[allow(
    clippy::module_inception,
    reason = "the loop is what the folder is about"
)]
mod agent;
mod cache;
mod cgroup;
mod events;
pub(crate) mod files;
mod http;
mod images;
mod isolation;
pub(crate) mod keeper;
pub(crate) mod lease;
mod machine;
mod metrics;
mod oneoff;
pub(crate) mod paths;
mod ports;
pub(crate) mod records;
mod replicas;
mod report;
mod room;
pub(crate) mod runtime;
pub(crate) mod socket;
mod spool;
pub mod stand_in;
pub mod stats;
pub(crate) mod steps;
mod storage;
#[cfg(test)]
pub(crate) mod tests;
mod texts;
mod world;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use crate::{
    fleet_api,
    logger::tell::Teller,
    model::{Machine, MachineId, MachineState, Revision},
    plan::units::Lease,
    render::{HostFacts, RenderError, TemplateSources, Templates},
    seal::{ClusterKey, SealError},
    settings::{HostSettings, SettingsError},
    store::{Presence, PresenceError, Store, keys},
    systemd::{Systemd, Units},
};
use agent::Asker;
use runtime::Runtime;

/// How long the host's lease lives without a sign of life.
const LEASE: Duration = Duration::from_secs(6);
/// Pause between two tries to register.
const REGISTER_RETRY: Duration = Duration::from_secs(1);
/// How long the end of the agent waits for a last renewal of the lease.
const RENEW_LIMIT: Duration = Duration::from_secs(1);
/// Announcers' words that may wait.
const WORDS_MAX: usize = 256;
/// Where the installed templates lie.
const TEMPLATES: &str = "/opt/deis/templates/podman";
/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The machine has no id.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The cluster key can't be used.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The templates are broken.
    #[error("the templates in {TEMPLATES} can't be used")]
    Templates(#[source] RenderError),
    /// A file or folder of the host.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No system bus.
    #[error("the system bus can't be reached; is systemd PID 1 here?")]
    Bus(#[source] zbus::Error),
    /// Containers can't be kept apart.
    #[error(transparent)]
    Isolation(#[from] isolation::IsolationError),
    /// The machine is there already.
    #[error(
        "another host registers this machine's id {id}: {other}; give each its own (rm /etc/machine-id; systemd-machine-id-setup)"
    )]
    Twin {
        /// The id.
        id: MachineId,
        /// What its key says.
        other: String,
    },
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::Host { what, source }
}

/// Runs the agent until `stop`, or until it can't go on. Units run on in either case.
///
/// # Errors
/// When the host lacks something that the agent can't do without, or another host is registered
/// under its id. A cluster that can't be reached is no error.
pub async fn run(
    settings: HostSettings,
    store: Store,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let paths = paths::Paths::host();
    paths.prepare().map_err(host(
        "the agent's folders below /run/deis and /var/lib/deis can't be made",
    ))?;
    let key = ClusterKey::load(&settings.cluster_key)?;
    let templates = Templates::new(
        &template_sources(Path::new(TEMPLATES)).map_err(host("a template can't be read"))?,
    )
    .map_err(AgentError::Templates)?;
    isolation::set_up(&paths, settings.address).await?;
    let machine = machine::describe(machine::id()?, &settings);
    let units = Systemd::connect().await.map_err(AgentError::Bus)?;
    let runtime = runtime::Podman::new(store.clone());
    let (word_sender, words) = mpsc::channel(WORDS_MAX);
    let edges = Arc::new(steps::Edges {
        units,
        runtime: runtime.clone(),
        store: store.clone(),
        key,
        templates,
        host: HostFacts {
            address: settings.address,
            init: machine::has_init(),
        },
        paths: paths.clone(),
        machine: machine.id.clone(),
        records: records::RecordCache::default(),
        starts: steps::Starts::default(),
        keeper: keeper::Keeper::default(),
        teller: Teller::start(store.clone()),
        standing: steps::Standing::default(),
    });
    let ended = stop.child_token();
    let _end = ended.clone().drop_guard();
    let figures = SocketAddr::new(settings.address, stats::PORT);
    let ready = |states, asker| {
        // The socket opens after adoption: announcers that come at once find their processes known.
        socket::serve(&paths, store.clone(), word_sender, stop.clone())
            .map_err(host("agent.sock can't be made"))?;
        fleet_api::serve(
            &paths.at("/run/deis/fleet.sock"),
            store.clone(),
            stop.clone(),
        )
        .map_err(host("fleet.sock can't be made"))?;
        tokio::spawn(remove_leftovers(edges.units.clone(), runtime.clone()));
        notify_ready(&machine);
        let serving = http::serve(figures, asker);
        tokio::spawn(ended.clone().run_until_cancelled_owned(serving));
        let room = room::keep(store.clone(), runtime.clone(), paths.clone(), ended.clone());
        tokio::spawn(room);
        tokio::spawn(images::sweep_often(store, runtime, states, ended));
        Ok(())
    };
    live(edges.clone(), machine.clone(), words, ready, stop.clone()).await
}

/// One life of the agent on whatever edges: adopts what runs, then is `ready`, registers, follows its
/// assignments and reports, until `stop` or until it can't go on.
pub(crate) async fn live<U: Units, R: Runtime>(
    edges: Arc<steps::Edges<U, R>>,
    machine: Machine,
    words: mpsc::Receiver<socket::Word>,
    ready: impl FnOnce(watch::Receiver<Option<MachineState>>, Asker) -> Result<(), AgentError>,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let (states, state_receiver) = watch::channel(None);
    let (registered_sender, is_registered) = watch::channel(false);
    let (store, id) = (edges.store.clone(), machine.id.clone());
    let (paths, standing) = (edges.paths.clone(), edges.standing.clone());
    // Until this life is registered, the lease of the one before counts: a restart stops nothing.
    let inherited = lease::inherited(&paths);
    standing.lease.send_replace(match inherited {
        Some(_) => Lease::Held,
        None => Lease::Expired,
    });
    let (until_sender, until) = watch::channel(inherited);
    let keeper = lease::keep(paths.clone(), until, standing.lease);
    let _keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
    let agent = agent::Agent::new(edges, words, states)
        .await
        .map_err(host("what runs on this host can't be read"))?;
    ready(state_receiver.clone(), agent.asker())?;
    // Ends with this life, however that ends.
    let ended = stop.child_token();
    let _end = ended.clone().drop_guard();
    // Only a host that holds its id may speak for it: a twin would overwrite the other's report. Told
    // beside the agent: several that wait for one watch channel wake in any order.
    let (may_speak, own) = oneshot::channel();
    let (registration_sender, registration) = watch::channel(None);
    let registered = register(
        store.clone(),
        machine,
        (registered_sender, may_speak),
        (paths, until_sender, registration_sender),
        ended.clone(),
    );
    let reporter = report::write_states(
        store,
        id.clone(),
        state_receiver,
        registration,
        standing.confirmed,
        ended.clone(),
    );
    let reporter = async move {
        if own.await.is_ok() {
            reporter.await;
        }
    };
    let mut registered = AbortOnDropHandle::new(tokio::spawn(registered));
    let reporter = AbortOnDropHandle::new(tokio::spawn(reporter));
    let result = tokio::select! {
        biased;
        () = agent.run(stop, is_registered) => Ok(()),
        twin = &mut registered => match twin {
            Ok(Err(other)) => Err(AgentError::Twin { id, other }),
            Ok(Ok(())) | Err(_) => Ok(()),
        },
    };
    ended.cancel();
    let _ = reporter.await;
    if !registered.is_finished() {
        let _ = registered.await;
    }
    result
}

fn notify_ready(machine: &Machine) {
    let status = format!("following /deis/schedule/{}/", machine.id);
    let state = [
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&status),
    ];
    if let Err(error) = sd_notify::notify(&state) {
        warn!(%error, "systemd was not told that the agent is ready");
    }
    info!(machine = %machine.id, address = machine.address, "agent ready");
}

/// Keeps the machine registered. Ends with what the key says when another host has it.
async fn register(
    store: Store,
    machine: Machine,
    (registered, may_speak): (watch::Sender<bool>, oneshot::Sender<()>),
    (paths, until, registration): (
        paths::Paths,
        watch::Sender<Option<Instant>>,
        watch::Sender<Option<Revision>>,
    ),
    stop: CancellationToken,
) -> Result<(), String> {
    let (id, address, boot) = (
        machine.id.clone(),
        machine.address.clone(),
        machine.boot_id.clone(),
    );
    let ours = move |other: &Machine| {
        other.address == address && (other.boot_id == boot || other.boot_id.is_empty())
    };
    let mut failing = false;
    let presence = loop {
        let kept = Presence::keep_along(
            &store,
            keys::machine(&id),
            machine.clone(),
            LEASE,
            ours.clone(),
            machine::NotLost(id.clone()),
        );
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            kept = kept => match kept {
                Ok(presence) => break presence,
                Err(PresenceError::Taken { other, .. }) => {
                    error!(machine = %id, other, "another host is registered under this machine's id");
                    return Err(other);
                }
                // Said once per outage; the feed tells more.
                Err(error) => if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "not registered yet, trying on");
                },
            }
        }
        tokio::time::sleep(REGISTER_RETRY).await;
    };
    info!(machine = %id, "registered");
    let mut clock = presence.clock();
    registration.send_replace(Some(clock.registration()));
    tokio::spawn(async move {
        loop {
            until.send_replace(Some(clock.until()));
            registration.send_if_modified(|known| {
                known.replace(clock.registration()) != Some(clock.registration())
            });
            if !clock.renewed().await {
                return;
            }
        }
    });
    registered.send_replace(true);
    // Nobody listens when the agent has just ended.
    let _ = may_speak.send(());
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keep_recorded(&store, &machine) => stop.cancelled().await,
    }
    // An agent's restart is no lost host: the lease is left to run out, and the next agent takes over.
    // It gets all of the lease's time for that.
    let renewed = tokio::time::timeout(RENEW_LIMIT, presence.renew(LEASE)).await;
    if let Ok(Some(until)) = renewed
        && let Err(error) = lease::note(&paths, until)
    {
        warn!(%error, "the last renewal of the host's lease is not written down");
    }
    Ok(())
}

async fn keep_recorded(store: &Store, machine: &Machine) {
    while let Err(error) = machine::record(store, machine).await {
        warn!(%error, "the host's durable record is not written yet, trying again");
        tokio::time::sleep(REGISTER_RETRY).await;
    }
}

/// The installed templates, or those that this program was built with.
fn template_sources(dir: &Path) -> io::Result<TemplateSources> {
    if !dir.is_dir() {
        return Ok(TemplateSources::built_in());
    }
    let read = |name: &str| std::fs::read_to_string(dir.join(name));
    Ok(TemplateSources {
        app: read("app.service.hbs")?,
        announce: read("announce.service.hbs")?,
        log_socket: read("log.socket.hbs")?,
        log: read("log.service.hbs")?,
        run: read("run.service.hbs")?,
    })
}

/// Removes containers of processes that no longer run (a power cut left them in podman's storage).
async fn remove_leftovers<U: Units, R: Runtime>(units: U, runtime: R) {
    let Ok(names) = runtime.containers().await else {
        return;
    };
    for name in names {
        if name.parse::<crate::model::ProcessName>().is_err() {
            continue;
        }
        let unit = format!("{name}.service");
        if units
            .status(&unit)
            .await
            .is_ok_and(|status| !status.active.is_live())
            && let Ok(()) = runtime.remove(&name).await
        {
            info!(container = name, "a container left behind was removed");
        }
    }
}
