//! Bodies of requests: how large they may be, and how long they may take.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::error::ApiError;

/// Largest body of a request, in bytes: etcd takes no more than 1.5 MiB at once.
pub(super) const MOST: usize = 1 << 20;

/// How long a client may take to send a body.
const LIMIT: Duration = Duration::from_secs(30);

/// How much of a body that is too large is still read, in bytes. Whoever closes with unread bytes in
/// his socket resets the connection, and the client, still sending, would never read why.
const DRAINED: usize = 16 << 20;

/// Refuses a request that says itself that it is too large, whatever its route does with bodies.
pub(super) async fn check(request: Request<Body>) -> Result<Request<Body>, ApiError> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_none_or(|length| length <= MOST as u64) {
        return Ok(request);
    }
    // A client that asks first has sent nothing yet, and now won't.
    if !waits(request.headers()) {
        let _ = timeout(LIMIT, collect(request.into_body())).await;
    }
    Err(too_large())
}

fn waits(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value == "100-continue")
}

fn too_large() -> ApiError {
    ApiError::TooLarge(MOST >> 10)
}

/// Reads a body.
pub(super) async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    let read = timeout(LIMIT, collect(body)).await;
    read.map_err(|_| ApiError::detail("The request's body did not arrive in time."))?
}

async fn collect(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut seen) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::detail("The request's body breaks off."))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen = seen.saturating_add(data.len());
        if seen <= MOST {
            bytes.extend_from_slice(&data);
        } else if seen > DRAINED {
            break;
        }
    }
    if seen > MOST {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}
