//! The router: HTTP(S) to the apps and the controller, TCP to the builders.
//!
//! - `live` is the route table, kept by `follow` from etcd's feeds, saved by `saved`;
//! - `front` accepts connections on threads of their own (`pace` bounds how long clients dawdle),
//!   `proxy` answers one request: it chooses a `backend`, passes heads (`headers`), bodies (`body`)
//!   and tunnels (`upgrade`); an `exchange` is what one request holds, measures and logs;
//! - `tally` counts what became of each release's requests, and is where they wait for a process;
//! - `ledger` says what may be acknowledged to a rollout, [`start`] registers it;
//! - `tcp` is port 2222, `health` is port 9090, `tls` and `certs` are what makes port 443 HTTPS,
//!   `challenges` what authorities are answered that look for proof of a domain.
//!
//! The router never empties a route because etcd is away, and writes nothing but its own presence.

mod backend;
mod body;
mod certs;
mod challenges;
mod exchange;
mod follow;
mod front;
mod headers;
pub mod health;
mod ledger;
mod live;
mod metrics;
mod pace;
mod proxy;
mod saved;
mod sockets;
mod tally;
mod tcp;
mod tls;
mod upgrade;

#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    model::{RouterPresence, SCHEMA},
    outside,
    seal::ClusterKey,
    settings::HostSettings,
    store::{Presence, PresenceError, Store, keys},
};
use certs::Certs;
use follow::Following;
use front::Front;
use live::Live;
use metrics::Metrics;
use proxy::Proxy;

/// How long the router's registration outlives it.
const PRESENCE_TTL: Duration = Duration::from_secs(6);
/// A start waits so long for etcd before it serves the saved table.
const ETCD_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two tries to register.
const REGISTER_PAUSE: Duration = Duration::from_secs(1);

/// Why the router can't run.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// An address can't be listened on.
    #[error("can't listen on {address}: is another program using it? `ss -ltnp` tells")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory can't be made.
    #[error("can't make the state directory {path}")]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread or runtime can't be had.
    #[error("can't start a worker")]
    Worker(#[source] io::Error),
}

/// Where the router listens and keeps its things.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    /// Under which it registers.
    pub ip: IpAddr,
    /// HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
    /// TCP for builders.
    pub git: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
    /// The saved table, the self-signed certificate.
    pub state: PathBuf,
    /// The operator's tls.crt and tls.key.
    pub tls: PathBuf,
    /// Threads.
    pub workers: usize,
    /// How long to wait for etcd before the saved table is served.
    pub etcd_patience: Duration,
}

impl RouterOptions {
    /// The usual ones of a host.
    #[must_use]
    pub fn of(settings: &HostSettings) -> Self {
        let at = |port| SocketAddr::new(settings.address, port);
        Self {
            ip: settings.address,
            http: at(80),
            https: at(443),
            git: at(2222),
            health: at(health::PORT),
            state: "/var/lib/deis/router".into(),
            tls: "/etc/deis/router".into(),
            workers: std::thread::available_parallelism().map_or(2, |n| n.get().min(8)),
            etcd_patience: ETCD_PATIENCE,
        }
    }
}

/// Runs the router until the stop.
///
/// # Errors
/// When it can't listen. That etcd is away is no error.
pub async fn run(
    settings: HostSettings,
    store: Store,
    key: ClusterKey,
    stop: CancellationToken,
) -> Result<(), RouterError> {
    let starting = start(RouterOptions::of(&settings), store, key);
    let router = tokio::select! {
        router = starting => router?,
        () = stop.cancelled() => return Ok(()),
    };
    notify(&[NotifyState::Ready, NotifyState::Status("routing")]);
    stop.cancelled().await;
    notify(&[NotifyState::Stopping]);
    router.stop().await;
    Ok(())
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd can't be told how the router is");
    }
}

/// A router that serves.
#[derive(Debug)]
pub struct Router {
    /// Where it listens for HTTP, HTTPS (if it does), builders' clients, health checks.
    pub http: SocketAddr,
    /// HTTPS; none without a certificate.
    pub https: Option<SocketAddr>,
    /// TCP for builders.
    pub git: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    /// Everything that runs on the caller's runtime; ends when dropped.
    tasks: tokio::task::JoinSet<()>,
    registered: Registered,
    live: Arc<Live>,
    state: PathBuf,
}

/// Where the registration is kept once there is one.
type Registered = watch::Sender<Option<Arc<Presence<RouterPresence>>>>;

/// Registers, reads the table at that revision or later, then listens. When etcd is away for too
/// long and there is a saved table, serves that, and does the rest when etcd is back.
///
/// # Errors
/// When it can't listen.
pub async fn start(
    options: RouterOptions,
    store: Store,
    key: ClusterKey,
) -> Result<Router, RouterError> {
    let state_error = |source| RouterError::State {
        path: options.state.clone(),
        source,
    };
    std::fs::create_dir_all(&options.state).map_err(state_error)?;
    let live = Arc::new(Live::new(options.workers, Certs::new(key)));
    let proxy = Arc::new(Proxy {
        live: Arc::clone(&live),
        metrics: Arc::new(Metrics::default()),
    });
    let mut tasks = tokio::task::JoinSet::new();
    let registered = Registered::new(None);

    let member = Member {
        store,
        live: Arc::clone(&live),
        ip: options.ip,
        address: SocketAddr::new(options.ip, options.http.port()),
        state: options.state.clone().into(),
    };
    first_table(member, &options, &live, &registered, &mut tasks).await;

    let stop = CancellationToken::new();
    let listen = |address| {
        sockets::listen(address, false).map_err(|source| RouterError::Listen { address, source })
    };
    let bind = |address, tls: Option<&_>| {
        front::bind(address, options.workers, tls)
            .map_err(|source| RouterError::Listen { address, source })
    };
    let domain = live.platform_domain();
    let say = |error: &tls::TlsError, what| {
        let source = std::error::Error::source(error).map(ToString::to_string);
        error!(%error, source, "{what}");
    };
    match tls::platform(&options.tls, &options.state, domain.as_ref()).await {
        Ok(pair) => live.certs.set_platform(pair),
        Err(error) => say(
            &error,
            "no HTTPS but for domains with a certificate of their own",
        ),
    }
    let tls = tls::acceptor(Arc::clone(&live.certs) as Arc<_>)
        .inspect_err(|error| say(error, "no HTTPS"))
        .ok();
    let health_listener = listen(options.health)?;
    let git_listener = listen(options.git)?;
    let address_of = |listener: &tokio::net::TcpListener, asked: SocketAddr| {
        listener.local_addr().unwrap_or(asked)
    };
    let (health, git) = (
        address_of(&health_listener, options.health),
        address_of(&git_listener, options.git),
    );
    let (https, tls_bound) = match &tls {
        Some(tls) => {
            let (address, bound) = bind(options.https, Some(tls))?;
            (Some(address), bound)
        }
        None => (None, Vec::new()),
    };
    let (http, bound) = bind(options.http, None)?;
    let mut tls_bound = tls_bound.into_iter();
    let mut threads = Vec::with_capacity(options.workers);
    for (worker, bound) in bound.into_iter().enumerate() {
        let front = Front {
            proxy: Arc::clone(&proxy),
            worker,
            // A token of its own: its lock is shared with no other thread.
            stop: stop.child_token(),
        };
        let listeners = [Some(bound), tls_bound.next()].into_iter().flatten();
        threads.push(
            front
                .spawn(listeners.collect())
                .map_err(RouterError::Worker)?,
        );
    }
    let metrics = Arc::clone(&proxy.metrics);
    tasks.spawn(tcp::serve(
        git_listener,
        Arc::clone(&live),
        metrics,
        stop.clone(),
    ));
    let checks = health::serve(health_listener, proxy, registered.subscribe(), stop.clone());
    tasks.spawn(checks);
    info!(%http, https = https.map(tracing::field::display), %git, %health, "router listens");
    Ok(Router {
        http,
        https,
        git,
        health,
        stop,
        threads,
        tasks,
        registered,
        live,
        state: options.state,
    })
}

/// Fills the table: from etcd, or from disk when etcd is away for too long. What keeps it goes into
/// `tasks`.
async fn first_table(
    member: Member,
    options: &RouterOptions,
    live: &Live,
    registered: &Registered,
    tasks: &mut tokio::task::JoinSet<()>,
) {
    let (presence, following) = match timeout(options.etcd_patience, member.join()).await {
        Ok(joined) => joined,
        Err(_) => match saved::load(&options.state) {
            Some(records) => {
                warn!(
                    records = records.len(),
                    "etcd is away: serving the saved table"
                );
                live.restore(&records);
                tasks.spawn(member.join_later(registered.clone()));
                return;
            }
            None => {
                warn!("etcd is away and no table is saved: waiting for etcd");
                member.join().await
            }
        },
    };
    tasks.spawn(member.acknowledge(presence, following, registered.clone()));
}

impl Router {
    /// Stops accepting, lets requests under way end, then leaves: a rollout that waits for this
    /// router's requests goes on waiting until they are over.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        match timeout(front::STOP_WAIT + Duration::from_secs(2), joined).await {
            Ok(Ok(true)) => {}
            _ => warn!("a worker did not end in time"),
        }
        self.tasks.shutdown().await;
        let presence = self.registered.send_replace(None);
        // Only a table that came from etcd: an older one is there already.
        if presence.is_some()
            && let Err(error) = saved::store(&self.state, self.live.export())
        {
            warn!(%error, "the table can't be saved");
        }
        if let Some(presence) = presence.and_then(Arc::into_inner) {
            presence.leave().await;
        }
    }
}

/// This router as a member of the cluster.
struct Member {
    store: Store,
    live: Arc<Live>,
    ip: IpAddr,
    address: SocketAddr,
    state: Arc<std::path::Path>,
}

impl Member {
    /// Registers, then reads: a rollout that doesn't know of this router can't be missed by it.
    async fn join(&self) -> (Presence<RouterPresence>, Following) {
        let presence = self.register().await;
        let following = Following::start(&self.store, &self.live);
        following.filled().await;
        (presence, following)
    }

    /// For a router that serves a saved table: it is brought up to date before rollouts count it.
    async fn join_later(self, registered: Registered) {
        let following = Following::start(&self.store, &self.live);
        following.filled().await;
        let presence = self.register().await;
        info!("etcd is back: the table is up to date");
        self.acknowledge(presence, following, registered).await;
    }

    async fn register(&self) -> Presence<RouterPresence> {
        let address = self.address.to_string();
        loop {
            let value = RouterPresence {
                schema: SCHEMA,
                id: outside::uuid(),
                address: address.clone(),
                applied: 0,
                drained: 0,
                drained_by_app: None,
                routes: Some(0),
            };
            let former_life = {
                let address = address.clone();
                move |there: &RouterPresence| there.address == address
            };
            let key = keys::router(&self.ip.to_string());
            match Presence::keep(&self.store, key, value, PRESENCE_TTL, former_life).await {
                Ok(presence) => return presence,
                Err(error @ PresenceError::Taken { .. }) => error!(%error, "can't register"),
                Err(error @ PresenceError::Store { .. }) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(%error, source, "can't register, trying again");
                }
            }
            sleep(REGISTER_PAUSE).await;
        }
    }

    /// Writes each new acknowledgement: at once when none is being written, else the latest after
    /// it. Saves the table meanwhile. Ends with its task.
    async fn acknowledge(
        self,
        presence: Presence<RouterPresence>,
        following: Following,
        registered: Registered,
    ) {
        let presence = Arc::new(presence);
        registered.send_replace(Some(Arc::clone(&presence)));
        let mut acks = following.acks();
        acks.mark_changed();
        let acknowledge = async {
            // The sender lives as long as `following`.
            while acks.changed().await.is_ok() {
                let now = acks.borrow_and_update().clone();
                presence.update(|said| now.tell(said));
            }
        };
        tokio::join!(acknowledge, saved::keep(self.live, self.state));
    }
}
