//! Port 2222: bytes to the first builder that takes them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    idle,
    live::Live,
    metrics::Metrics,
    sockets::{self, Peer},
};

/// Connections at once.
const CONNECTIONS: usize = 1024;
/// Per direction.
const BUFFER: usize = 16 << 10;

/// Forwards connections until the stop; those under way have some time then (what is cut nevertheless
/// git reports, and the push can be repeated).
pub async fn serve(
    listener: TcpListener,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    drain: Duration,
) {
    let (tasks, room) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (client, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "can't accept a connection for a builder");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            warn!(%peer, limit = CONNECTIONS, "too many connections to builders: refused");
            continue;
        };
        metrics.builder_connections.inc();
        let live = Arc::clone(&live);
        tasks.spawn(async move {
            let _room = permit;
            forward(client, peer, &live).await;
        });
    }
    drop(listener);
    tasks.close();
    if timeout(drain, tasks.wait()).await.is_err() {
        warn!(connections = tasks.len(), "stopping with pushes under way");
    }
}

async fn forward(mut client: TcpStream, peer: SocketAddr, live: &Live) {
    sockets::tune(&client, Peer::Patient);
    let settings = live.settings();
    let within = settings.builder_connect;
    let Some((mut builder, address)) = connect(&live.builders(), peer, within).await else {
        warn!(%peer, "no builder takes connections: check `deisctl list`");
        return;
    };
    sockets::tune(&builder, Peer::Patient);
    // One side's end of sending is passed on and leaves the other direction open.
    let copying = idle::copy(&mut client, &mut builder, settings.builder_idle, BUFFER);
    match copying.await {
        Ok((up, down)) => info!(%peer, builder = %address, up, down, "builder connection ended"),
        Err(error) => info!(%peer, builder = %address, %error, "builder connection broke"),
    }
}

async fn connect(
    builders: &[SocketAddr],
    peer: SocketAddr,
    within: Duration,
) -> Option<(TcpStream, SocketAddr)> {
    for address in builders {
        let trying = timeout(within, TcpStream::connect(address)).await;
        let tried: io::Result<TcpStream> = match trying {
            Ok(tried) => tried,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match tried {
            Ok(stream) => return Some((stream, *address)),
            Err(error) => warn!(%peer, builder = %address, %error, "builder not reachable"),
        }
    }
    None
}
