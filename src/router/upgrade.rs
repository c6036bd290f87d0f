//! Websockets and whatever else a connection changes into: bytes both ways, until one side ends it
//! or its backend has been withdrawn for too long.

use std::{pin::pin, time::Duration};

use http::Response;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};

use super::{body::ReplyBody, called::Called, exchange::Exchange, headers, idle};

/// How long a tunnel may outlive the withdrawal of its backend.
pub const AFTER_WITHDRAWAL: Duration = Duration::from_secs(30);
/// Per direction: most tunnels say little, and there are many.
const BUFFER: usize = 4 << 10;
/// Both sides have agreed; so long may the change take.
const CHANGE: Duration = Duration::from_secs(10);

/// Passes a `101 Switching Protocols` on; what has to run then lets the bytes flow. The exchange is over
/// when they end, or when neither side has said anything for so long.
pub fn begin(
    mut response: Response<Incoming>,
    on_client: OnUpgrade,
    silence: Duration,
    mut exchange: Exchange,
) -> (Response<ReplyBody>, impl Future<Output = ()> + Send + use<>) {
    let on_backend = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    if let Some(protocol) = headers::remove_hop_by_hop(&mut parts.headers) {
        headers::set_upgrade(&mut parts.headers, protocol);
    }
    exchange.status = Some(parts.status);
    exchange.is_tunnel();
    let response = Response::from_parts(parts, ReplyBody::nothing());
    (response, tunnel(on_client, on_backend, silence, exchange))
}

async fn tunnel(
    on_client: OnUpgrade,
    on_backend: OnUpgrade,
    silence: Duration,
    mut exchange: Exchange,
) {
    let withdrawn = exchange.withdrawn();
    let both = async { tokio::try_join!(on_client, on_backend) };
    let (client, backend) = match timeout(CHANGE, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return exchange.failed(&error),
        Err(_) => return exchange.failed(&"the change of protocol took too long"),
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    let over = pin!(async {
        withdrawn.cancelled().await;
        sleep(AFTER_WITHDRAWAL).await;
    });
    tokio::select! {
        biased;
        ended = idle::copy(&mut client, &mut backend, silence, BUFFER) => match ended {
            Ok((_, down)) => {
                exchange.passed(usize::try_from(down).unwrap_or(usize::MAX));
                exchange.complete();
            }
            Err(error) => exchange.failed(&error),
        },
        () = Called::new(over) => exchange.failed(&"closed: the process has been replaced"),
    }
}
