//! The logger: takes apps' lines from log sidecars, keeps them in files, and serves them.
//!
//! An acknowledged line survives a kill of the logger at once (write(2) gave it to the kernel), and
//! a crash of the host after [`SYNC`]. What a stream's position is lies in the same record as its
//! lines, so a restart knows to the byte what it has. A host's crash may take the last moments; the
//! sidecars then see an older position, and send again what they still have.

pub mod app_log;
pub mod client;
pub mod drain;
mod http;
mod index;
mod lines;
pub mod merge;
pub mod order;
pub mod owner;
pub mod query;
pub mod reader;
pub mod record;
pub mod render;
pub mod shelf;
mod sweep;
pub mod tell;
#[cfg(test)]
pub(crate) mod testing;
pub mod view;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    link::links,
    model::PartPresence,
    settings::HostSettings,
    store::{Presence, Store, keys},
    telemetry::chain,
};
use app_log::{AppLogError, Limits};
use drain::Drain;
use shelf::Shelf;

/// Where log sidecars' connections come in.
pub const LINE_PORT: u16 = 5140;
/// Where logs are read.
pub const HTTP_PORT: u16 = 8088;
/// The part's name in the key layout.
pub const PART: &str = "logs";

/// Where the logs lie.
const FOLDER: &str = "/var/lib/deis/logger";
/// How long an acknowledged line may take to reach the disk.
pub const SYNC: Duration = Duration::from_millis(100);
/// How long a start waits for etcd to say which apps there are.
const FIRST_SWEEP: Duration = Duration::from_secs(10);
/// How long the logger's registration outlives it.
const TTL: Duration = Duration::from_secs(6);

/// Why the logger can't run.
#[derive(Debug, thiserror::Error)]
pub enum LoggerError {
    /// A port is taken.
    #[error("the logger can't listen on {address}; `ss -ltnp` shows who does")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its folder can't be used.
    #[error("the logger can't keep logs")]
    Files(#[from] AppLogError),
    /// The HTTP side failed.
    #[error("the logger's HTTP side failed")]
    Http(#[source] io::Error),
}

/// Where a logger listens, and keeps its files.
#[derive(Debug, Clone)]
pub struct Place {
    /// For log sidecars.
    pub lines: SocketAddr,
    /// For readers.
    pub http: SocketAddr,
    /// Folder of all logs.
    pub folder: PathBuf,
    /// How much is kept.
    pub limits: Limits,
}

/// Runs the logger of a host until it is stopped.
///
/// # Errors
/// When it can't listen or keep files. An etcd that can't be reached is no reason to stop: the
/// logger registers when it is back.
pub async fn run(
    settings: HostSettings,
    store: Store,
    stop: CancellationToken,
) -> Result<(), LoggerError> {
    let address = settings.address;
    let place = Place {
        lines: SocketAddr::new(address, LINE_PORT),
        http: SocketAddr::new(address, HTTP_PORT),
        folder: FOLDER.into(),
        limits: Limits::default(),
    };
    let bound = bind(&place).await?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let register = tokio::spawn(register(store.clone(), place.http, stop.clone()));
    let result = serve_with(bound, place, Some(store), stop).await;
    // It withdraws the registration, and is bounded.
    let _ = register.await;
    result
}

/// The listening sockets of a logger.
#[derive(Debug)]
pub struct Bound {
    lines: TcpListener,
    http: TcpListener,
}

impl Bound {
    /// Where lines come in, and where they are read.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.lines.local_addr()?, self.http.local_addr()?))
    }
}

/// Listens; from here on nobody is refused.
///
/// # Errors
/// When a port is taken.
pub async fn bind(place: &Place) -> Result<Bound, LoggerError> {
    Ok(Bound {
        lines: listen(place.lines).await?,
        http: listen(place.http).await?,
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, LoggerError> {
    let failed = |source| LoggerError::Listen { address, source };
    TcpListener::bind(address).await.map_err(failed)
}

/// Serves both sides until it is stopped.
///
/// # Errors
/// When the folder can't be used, or the HTTP side fails.
pub async fn serve(bound: Bound, place: Place, stop: CancellationToken) -> Result<(), LoggerError> {
    serve_with(bound, place, None, stop).await
}

/// The same, with the apps that there are, and the operators' settings.
async fn serve_with(
    bound: Bound,
    place: Place,
    store: Option<Store>,
    stop: CancellationToken,
) -> Result<(), LoggerError> {
    let Bound { lines, http } = bound;
    let (folder, limits) = (place.folder.clone(), place.limits);
    let shelf = lines::blocking(move || Shelf::open(folder, limits)).await?;
    let (drain, outlet) = Drain::new();
    let shelf = Arc::new(shelf.with_drain(Arc::clone(&drain)));
    if let Some(store) = store {
        // Callers wait in the sockets' queues for this; etcd's absence holds nobody up for long.
        if time::timeout(FIRST_SWEEP, sweep::first(&store, &shelf))
            .await
            .is_err()
        {
            warn!("the logs of apps that are no more are still there: etcd gives no answer");
        }
        let host = place.http.ip().to_string();
        tokio::spawn(sweep::run(store.clone(), Arc::clone(&shelf), stop.clone()));
        tokio::spawn(drain::run(
            store,
            Arc::clone(&drain),
            outlet,
            host,
            stop.clone(),
        ));
    } else {
        // Whoever keeps logs without a store has none to look at first.
        shelf.opened();
    }
    info!(lines = %place.lines, http = %place.http, folder = %place.folder.display(), "logger runs");
    let sync = tokio::spawn(sync_often(Arc::clone(&shelf), stop.clone()));
    let links = links();
    let lines = links.listen(lines);
    let lines = tokio::spawn(lines::serve(lines, Arc::clone(&shelf), stop.clone()));
    let routes = http::routes(shelf, drain, stop.clone());
    axum::serve(links.listen(http), routes)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .await
        .map_err(LoggerError::Http)?;
    stop.cancel();
    let _ = lines.await;
    let _ = sync.await;
    Ok(())
}

/// Brings what was written to disk, some time after each write, and at the end.
async fn sync_often(shelf: Arc<Shelf>, stop: CancellationToken) {
    loop {
        let ends = tokio::select! {
            () = shelf.written() => false,
            () = stop.cancelled() => true,
        };
        if !ends {
            time::sleep(SYNC).await;
        }
        let shelf = Arc::clone(&shelf);
        let _ = tokio::task::spawn_blocking(move || shelf.sync()).await;
        if ends {
            return;
        }
    }
}

/// Keeps `/deis/logs/hosts/<ip>` there, from the moment at which etcd can be reached.
async fn register(store: Store, http: SocketAddr, stop: CancellationToken) {
    let ip = http.ip().to_string();
    let value = PartPresence {
        schema: crate::model::SCHEMA,
        id: Uuid::new_v4(),
        address: http.to_string(),
    };
    let mut said = false;
    let presence = loop {
        let key = keys::part(PART, &ip);
        let kept = tokio::select! {
            () = stop.cancelled() => return,
            // The ports are ours, so what else is registered at this address is a former life.
            kept = Presence::keep(&store, key, value.clone(), TTL, |_| true) => kept,
        };
        match kept {
            Ok(presence) => break presence,
            Err(error) => {
                if !said {
                    warn!(
                        error = chain(&error),
                        "logger not registered, trying until it is"
                    );
                    said = true;
                }
                time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    info!(%ip, "logger registered");
    stop.cancelled().await;
    presence.leave().await;
}
