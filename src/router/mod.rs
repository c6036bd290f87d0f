//! The router: HTTP(S) to the apps and the controller, TCP to the builders.
//!
//! - `live` is the route table with the operators' settings, kept by `follow` from etcd's feeds, saved
//!   by `saved`;
//! - `front` accepts connections on threads of their own, `opening` reads their first bytes (PROXY
//!   header, HTTP/1 or 2), `pace` bounds how long clients dawdle, `wait` how long anything is waited for;
//!   `called` keeps what is seldom due out of the way;
//! - `proxy` answers one request: it chooses a `backend`, passes heads (`headers`), bodies (`body`)
//!   and tunnels (`upgrade`), or says why not (`refusal`); `upstream` connects with backends;
//! - an `exchange` is what one request holds, measures (`metrics`) and logs (`access`);
//! - `keeper` holds the sockets and what systemd knows of the router; `sockets` sets them up;
//! - `tally` counts what became of each release's requests, and is where they wait for a process;
//! - `ledger` says what may be acknowledged to a rollout, [`start`] registers it;
//! - `tcp` is port 2222, `health` is port 9090, `tls` and `certs` are what makes port 443 HTTPS,
//!   `challenges` what authorities are answered that look for proof of a domain.
//!
//! The router never empties a route because etcd is away, and writes nothing but its own presence.

mod access;
mod backend;
mod body;
mod called;
mod certs;
mod challenges;
mod exchange;
mod follow;
mod front;
mod headers;
pub mod health;
mod idle;
pub mod keeper;
mod ledger;
mod live;
mod metrics;
mod onward;
mod opening;
mod pace;
mod proxy;
mod refusal;
mod saved;
mod sockets;
mod tally;
mod tcp;
mod tls;
mod upgrade;
mod upstream;
mod wait;
mod writes;

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
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    burst::Burst,
    model::{RouterPresence, SCHEMA},
    outside,
    seal::ClusterKey,
    settings::HostSettings,
    store::{Presence, PresenceError, Store, keys},
};
use access::AccessLog;
use certs::Certs;
use follow::Following;
use front::{Bound, Front};
use keeper::Keeper;
use ledger::Acks;
use live::Live;
pub use live::PART;
use metrics::Metrics;
use proxy::Proxy;
use sockets::Listeners;
use tls::Tls;

/// How long the router's registration outlives it.
const PRESENCE_TTL: Duration = Duration::from_secs(6);
/// A start waits so long for etcd before it serves the saved table.
const ETCD_PATIENCE: Duration = Duration::from_secs(5);
/// After a stop, requests under way may take so long.
const DRAIN: Duration = Duration::from_secs(20);
/// And so long when nobody waits for it, because the next router serves already.
const LONG_DRAIN: Duration = Duration::from_secs(600);
/// A router that steps aside tries so long to say so.
const ASIDE_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two tries to register.
const REGISTER_PAUSE: Duration = Duration::from_secs(1);
/// Acknowledgements that don't wait for each other: rollouts of a few processes need no more.
const ACKS_AT_ONCE: u32 = 10;
/// Pause for each of those after them: a long rollout waits for one at each of its steps.
const ACK_PAUSE: Duration = Duration::from_millis(250);

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
    /// After a stop, requests under way may take so long.
    pub drain: Duration,
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
            drain: DRAIN,
        }
    }
}

/// Runs the router until the stop, on sockets of its keeper.
///
/// # Errors
/// When there is no place for its state. That etcd is away is no error.
pub async fn run(
    settings: HostSettings,
    store: Store,
    key: ClusterKey,
    stop: CancellationToken,
    (keeper, listeners): (Keeper, Listeners),
) -> Result<(), RouterError> {
    let options = RouterOptions {
        drain: LONG_DRAIN,
        ..RouterOptions::of(&settings)
    };
    let over = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = keeper.gone() => warn!("the router's keeper is gone: this one ends, too"),
        }
    };
    let mut over = std::pin::pin!(over);
    let router = tokio::select! {
        router = start_with(options, listeners, store, key) => router?,
        () = &mut over => return Ok(()),
    };
    keeper.ready();
    over.await;
    let aside = router.step_aside().await;
    keeper.gone_aside();
    aside.stop().await;
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
    /// Connections to builders.
    pushes: tokio::task::JoinSet<()>,
    registered: Registered,
    live: Arc<Live>,
    log: Arc<AccessLog>,
    store: Store,
    options: RouterOptions,
}

/// Where the registration is kept once there is one.
type Registered = watch::Sender<Option<Registration>>;

/// How this router is known to the cluster.
#[derive(Debug, Clone)]
struct Registration {
    presence: Arc<Presence<RouterPresence>>,
    /// What may be acknowledged.
    acks: watch::Receiver<Acks>,
}

impl Registration {
    /// Says what may be acknowledged now.
    fn acknowledge(&self) {
        let now = self.acks.borrow().clone();
        self.presence.update(|said| now.tell(said));
    }
}

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
    let addresses = [options.http, options.https, options.git, options.health];
    let listeners = Listeners::bind(addresses, options.workers, Vec::new())
        .map_err(|(address, source)| RouterError::Listen { address, source })?;
    start_with(options, listeners, store, key).await
}

/// The same on listeners that there are already.
///
/// # Errors
/// When there is no place for its state, or no thread for it.
pub async fn start_with(
    options: RouterOptions,
    listeners: Listeners,
    store: Store,
    key: ClusterKey,
) -> Result<Router, RouterError> {
    let state_error = |source| RouterError::State {
        path: options.state.clone(),
        source,
    };
    std::fs::create_dir_all(&options.state).map_err(state_error)?;
    let live = Arc::new(Live::new(options.workers, Certs::new(key)));
    let log = AccessLog::start(io::stderr()).map_err(RouterError::Worker)?;
    let proxy = Arc::new(Proxy {
        live: Arc::clone(&live),
        metrics: Arc::new(Metrics::default()),
        log: Arc::clone(&log),
    });
    let mut tasks = tokio::task::JoinSet::new();
    let registered = Registered::new(None);

    let member = Member {
        store: store.clone(),
        live: Arc::clone(&live),
        ip: options.ip,
        address: SocketAddr::new(options.ip, options.http.port()),
        state: options.state.clone().into(),
    };
    first_table(member, &options, &live, &registered, &mut tasks).await;

    let stop = CancellationToken::new();
    let tls = https(&options, &live).await;
    let local = |listeners: &[std::net::TcpListener], asked: SocketAddr| {
        let local = listeners.first().and_then(|one| one.local_addr().ok());
        local.unwrap_or(asked)
    };
    let (http, git) = (
        local(&listeners.http, options.http),
        local(&listeners.git, options.git),
    );
    let health = local(&listeners.health, options.health);
    let https = tls
        .is_some()
        .then(|| local(&listeners.https, options.https));
    let share = |listeners| sockets::share(listeners, options.workers).map_err(RouterError::Worker);
    let (plain, secure) = (share(listeners.http)?, share(listeners.https)?);
    let mut threads = Vec::with_capacity(options.workers);
    for (worker, (plain, secure)) in plain.into_iter().zip(secure).enumerate() {
        let front = Front {
            proxy: Arc::clone(&proxy),
            worker,
            drain: options.drain,
            // A token of its own: its lock is shared with no other thread.
            stop: stop.child_token(),
        };
        let plain = plain.into_iter().map(|listener| (listener, None));
        // Without a certificate nobody is let in: the sockets close.
        let secure = secure.into_iter().filter_map(|listener| {
            let tls = tls.as_ref()?;
            Some((listener, Some(Arc::clone(tls))))
        });
        let bound = plain.chain(secure);
        let bound = bound.map(|(listener, tls)| Bound { listener, tls });
        threads.push(front.spawn(bound.collect()).map_err(RouterError::Worker)?);
    }
    let mut pushes = tokio::task::JoinSet::new();
    for listener in listeners.git {
        let listener = served(listener).map_err(RouterError::Worker)?;
        let (live, metrics) = (Arc::clone(&live), Arc::clone(&proxy.metrics));
        pushes.spawn(tcp::serve(
            listener,
            live,
            metrics,
            stop.clone(),
            options.drain,
        ));
    }
    for listener in listeners.health {
        let listener = served(listener).map_err(RouterError::Worker)?;
        let (proxy, registered) = (Arc::clone(&proxy), registered.subscribe());
        tasks.spawn(health::serve(listener, proxy, registered, stop.clone()));
    }
    info!(%http, https = https.map(tracing::field::display), %git, %health, "router listens");
    Ok(Router {
        http,
        https,
        git,
        health,
        stop,
        threads,
        tasks,
        pushes,
        registered,
        live,
        log,
        store,
        options,
    })
}

fn served(listener: std::net::TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// What makes port 443 HTTPS, with the platform's certificate if there is one.
async fn https(options: &RouterOptions, live: &Live) -> Option<Arc<Tls>> {
    let say = |error: &tls::TlsError, what| {
        let source = std::error::Error::source(error).map(ToString::to_string);
        error!(%error, source, "{what}");
    };
    let domain = live.platform_domain();
    match tls::platform(&options.tls, &options.state, domain.as_ref()).await {
        Ok(pair) => live.certs.set_platform(pair),
        Err(error) => say(
            &error,
            "no HTTPS but for domains with a certificate of their own",
        ),
    }
    let certificates: Arc<dyn rustls::server::ResolvesServerCert> = Arc::clone(&live.certs) as _;
    let tls = Tls::new(&certificates).inspect_err(|error| say(error, "no HTTPS"));
    tls.ok().map(Arc::new)
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
    /// Stops accepting, and makes room for the next router of this address: requests under way count for
    /// rollouts from now on under a key of their own, so that nobody takes their old processes away.
    pub async fn step_aside(mut self) -> Self {
        self.stop.cancel();
        let current = self.registered.borrow().clone();
        let Some(Registration { presence, acks }) = current else {
            // It still tries to register, and would take the next one's key.
            self.tasks.abort_all();
            return self;
        };
        let id = outside::uuid();
        let now = acks.borrow().clone();
        let mut value = RouterPresence {
            schema: SCHEMA,
            id,
            address: SocketAddr::new(self.options.ip, self.options.http.port()).to_string(),
            applied: 0,
            drained: 0,
            drained_by_app: None,
            routes: None,
        };
        now.tell(&mut value);
        let key = keys::router(&format!("{}-draining-{}", self.options.ip, id.simple()));
        let keeping = Presence::keep(&self.store, key, value, PRESENCE_TTL, |_| false);
        match timeout(ASIDE_PATIENCE, keeping).await {
            Ok(Ok(aside)) => {
                let aside = Registration {
                    presence: Arc::new(aside),
                    acks,
                };
                self.registered.send_replace(Some(aside.clone()));
                // Something may have been acknowledged under the old key meanwhile.
                aside.acknowledge();
            }
            // Without etcd nothing is rolled out either; the key goes with its lease.
            Ok(Err(error)) => {
                warn!(%error, "can't say what is still under way");
                self.registered.send_replace(None);
            }
            Err(_) => {
                warn!("etcd is away: can't say what is still under way");
                self.registered.send_replace(None);
            }
        }
        if let Some(presence) = Arc::into_inner(presence) {
            presence.leave().await;
        }
        self
    }

    /// Stops accepting, lets requests under way end, then leaves: a rollout that waits for this
    /// router's requests goes on waiting until they are over.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        match timeout(self.options.drain + Duration::from_secs(2), joined).await {
            Ok(Ok(true)) => {}
            _ => warn!("a worker did not end in time"),
        }
        // Their own time began with the workers'.
        while self.pushes.join_next().await.is_some() {}
        self.tasks.shutdown().await;
        self.log.end();
        let registration = self.registered.send_replace(None);
        // Only a table that came from etcd: an older one is there already.
        if registration.is_some()
            && let Err(error) = saved::store(&self.options.state, self.live.export())
        {
            warn!(%error, "the table can't be saved");
        }
        if let Some(presence) = registration.and_then(|r| Arc::into_inner(r.presence)) {
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

    /// Writes each new acknowledgement: at once when few were written lately, else the latest after a
    /// pause, so that a flood of changes is no flood of writes by every router. Saves the table
    /// meanwhile. Ends with its task.
    async fn acknowledge(
        self,
        presence: Presence<RouterPresence>,
        following: Following,
        registered: Registered,
    ) {
        let mut acks = following.acks();
        registered.send_replace(Some(Registration {
            presence: Arc::new(presence),
            acks: acks.clone(),
        }));
        acks.mark_changed();
        let mut pace = Burst::new(ACKS_AT_ONCE, ACK_PAUSE);
        let acknowledge = async {
            // The sender lives as long as `following`.
            while acks.changed().await.is_ok() {
                sleep_until(pace.ready_at()).await;
                pace.spend(Instant::now());
                acks.mark_unchanged();
                // The key may be another one by now.
                if let Some(registration) = registered.borrow().as_ref() {
                    registration.acknowledge();
                }
            }
        };
        tokio::join!(acknowledge, saved::keep(self.live, self.state));
    }
}
