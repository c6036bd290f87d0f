//! Port 2222: bytes to the first builder that takes them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    live::Live,
    metrics::Metrics,
    sockets::{self, Peer},
};

/// A builder has so long to accept.
const CONNECT: Duration = Duration::from_secs(1);
/// Connections at once.
const CONNECTIONS: usize = 1024;

/// Forwards connections until the stop; those under way are cut then (git says so, and the push can
/// be repeated).
pub async fn serve(
    listener: TcpListener,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
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
        let (live, stop) = (Arc::clone(&live), stop.clone());
        tasks.spawn(async move {
            let _room = permit;
            tokio::select! {
                () = stop.cancelled() => {}
                () = forward(client, peer, &live) => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn forward(mut client: TcpStream, peer: SocketAddr, live: &Live) {
    sockets::tune(&client, Peer::Patient);
    let Some((mut builder, address)) = connect(&live.builders(), peer).await else {
        warn!(%peer, "no builder takes connections: check `deisctl list`");
        return;
    };
    sockets::tune(&builder, Peer::Patient);
    // One side's end of sending is passed on and leaves the other direction open.
    match copy_bidirectional(&mut client, &mut builder).await {
        Ok((up, down)) => info!(%peer, builder = %address, up, down, "builder connection ended"),
        Err(error) => info!(%peer, builder = %address, %error, "builder connection broke"),
    }
}

async fn connect(builders: &[SocketAddr], peer: SocketAddr) -> Option<(TcpStream, SocketAddr)> {
    for address in builders {
        let tried: io::Result<TcpStream> = match timeout(CONNECT, TcpStream::connect(address)).await
        {
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
