//! The role `deisd controller`: the HTTP API, with the leader's loops beside it.
//!
//! Stateless: everything is in etcd. Any number of controllers serve the API at once; one of them
//! is elected to run the scheduler and the rollouts (`leader`).
//!
//! - `server`: sockets, and what every response has in common;
//! - `error`: why a request is refused, and how that is said;
//! - `gate`: lets requests in, by what the table of routes (`routes::table`) says that each needs;
//! - `body`, `attempts`: how large requests may be, and how often passwords may be tried (`throttle`);
//! - `auth`: passwords and tokens; `access`: who may do what;
//! - `oneoff`: one-off processes; `attach`: where their sidecars come in; `sweep`: those whose controller
//!   is gone;
//! - `metrics`: what is counted, and port 9092, where Prometheus asks;
//! - `images`: images by name, into the platform's registries; `hook_key`: the original builder's key;
//! - `routes`: one file per kind of thing.

mod access;
mod attach;
mod attempts;
mod auth;
mod body;
mod error;
mod extract;
mod fleet;
mod gate;
mod hook_key;
mod images;
mod metrics;
mod oneoff;
mod page;
mod routes;
mod server;
#[cfg(test)]
mod stand_in;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod throttle;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{info, warn};
use uuid::Uuid;

use self::{attach::Attach, attempts::Attempts, auth::Passwords, images::Images, metrics::Metrics};
use crate::{
    acme,
    leader::{self, LeaderError},
    link::links,
    logger::tell::Teller,
    model::{PartPresence, SCHEMA},
    seal::ClusterKey,
    settings::HostSettings,
    store::{Presence, PresenceError, Store, keys},
};

/// Where the API listens.
pub const PORT: u16 = 8000;

/// Where the sidecars of one-off processes come in.
pub const ATTACH_PORT: u16 = 8001;

/// Where Prometheus asks; only the platform's own network gets there.
pub const METRICS_PORT: u16 = 9092;

/// How long a controller that is gone is still listed.
const PRESENCE_TTL: Duration = Duration::from_secs(10);

/// Logs that are followed at once: each holds one of the server's connections.
const FOLLOWERS: usize = 512;

/// How long requests may take to finish at a shutdown; shorter than the unit's TimeoutStopSec.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// Why the controller can't run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A port is taken, or the address is not this host's.
    #[error(
        "can't listen on {address}; is another controller running, or `address` in host.yaml wrong?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Can't register.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// The leader's loops ended.
    #[error("the scheduler can't run")]
    Leader(#[from] LeaderError),
}

/// What all requests share.
struct Shared {
    store: Store,
    key: Arc<ClusterKey>,
    passwords: Passwords,
    attempts: Attempts,
    metrics: Metrics,
    attach: Attach,
    images: Images,
    /// Work that outlives its request: the end of one-off processes.
    tasks: TaskTracker,
    /// Places for those who follow a log.
    followers: Arc<Semaphore>,
    /// Says in apps' logs what was done to them.
    teller: Teller,
    /// The controller ends: what goes on for ever ends now.
    closing: CancellationToken,
}

type State = Arc<Shared>;

impl Shared {
    fn new(store: Store, key: Arc<ClusterKey>, attach: SocketAddr) -> State {
        Arc::new(Self {
            images: Images::new(store.clone()),
            teller: Teller::start(store.clone()),
            closing: CancellationToken::new(),
            store,
            key,
            passwords: Passwords::default(),
            attempts: Attempts::default(),
            metrics: Metrics::default(),
            attach: Attach::new(attach),
            tasks: TaskTracker::new(),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        })
    }
}

async fn listen(ip: IpAddr, port: u16) -> Result<TcpListener, ControllerError> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address)
        .await
        .map_err(|source| ControllerError::Listen { address, source })
}

/// Runs the controller until `stop`: then requests that have begun are finished.
///
/// # Errors
/// When it can't listen or register.
pub async fn run(
    settings: HostSettings,
    store: Store,
    key: ClusterKey,
    stop: CancellationToken,
) -> Result<(), ControllerError> {
    let links = links();
    let api = links.listen(listen(settings.address, PORT).await?);
    let attach = links.listen(listen(settings.address, ATTACH_PORT).await?);
    let figures = listen(settings.address, METRICS_PORT).await?;
    let attach_address = SocketAddr::new(settings.address, ATTACH_PORT);
    let shared = Shared::new(store.clone(), Arc::new(key), attach_address);
    let id = Uuid::new_v4();
    let presence = PartPresence {
        schema: SCHEMA,
        id,
        address: SocketAddr::new(settings.address, PORT).to_string(),
    };
    let address = presence.address.clone();
    let own = address.clone();
    let place = keys::part("controller", &settings.address.to_string());
    // Only one process can hold the port: whoever else is written there is a former life.
    let presence = Presence::keep(&store, place, presence, PRESENCE_TTL, move |there| {
        there.address == own
    })
    .await?;
    // One-off processes that a former life of this controller waited for have nobody to report to.
    if let Err(error) = sweep::former_life(&store, attach_address).await {
        warn!(%error, "left-over one-off processes not removed; the next start tries again");
    }
    let making_key = tokio::spawn(hook_key::keep(shared.clone(), stop.clone()));
    info!(%address, "controller serves the API");
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status("serving the API"),
    ]);
    let closing = shared.closing.clone();
    let ends = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        ends.await;
        closing.cancel();
    });
    let scheduler = Arc::new(leader::Metrics::default());
    let figures = metrics::serve(figures, shared.clone(), scheduler.clone());
    // They are told until the end.
    let _figures = AbortOnDropHandle::new(tokio::spawn(figures));
    let api = server::serve(api, shared.clone(), stop.clone());
    let attach = attach::serve(attach, shared.clone(), stop.clone());
    let sweep = sweep::others(store.clone(), stop.clone());
    // Automatic certificates, and the scheduler and the rollouts, as long as this controller is elected.
    let certificates = acme::run(
        store.clone(),
        shared.key.clone(),
        settings.address.to_string(),
        shared.teller.clone(),
        stop.clone(),
    );
    let leader = leader::run(settings, store, scheduler, stop.clone());
    let leader = async {
        let ended = leader.await;
        // Never without its loops: systemd starts the whole role again.
        stop.cancel();
        ended
    };
    let ((), (), (), (), led) = tokio::join!(api, attach, sweep, certificates, leader);
    presence.leave().await;
    let _ = making_key.await;
    shared.tasks.close();
    if tokio::time::timeout(SHUTDOWN_LIMIT, shared.tasks.wait())
        .await
        .is_err()
    {
        warn!("one-off processes still ran at the shutdown; the next start removes them");
    }
    Ok(led?)
}
