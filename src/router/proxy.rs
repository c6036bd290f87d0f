//! One request: whom to ask, how often to try, and how the answer passes.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER},
    uri::PathAndQuery,
};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tracing::debug;

use super::{
    backend::{Backend, Place, Sender, Sort},
    body::{ReplyBody, RequestBody},
    exchange::Exchange,
    headers::{self, Forwarded, X_REQUEST_ID},
    live::{Choice, Live},
    metrics::Metrics,
    pace::Phase,
    sockets::{self, Peer},
    upgrade,
};
use crate::link;

/// A backend has so long to accept a connection.
const CONNECT: Duration = Duration::from_millis(300);
/// And so long to begin its answer (the rest may take as long as the two sides like).
const FIRST_BYTE: Duration = Duration::from_secs(1200);
/// Connections tried for one request at most.
const TRIES: u32 = 8;
/// Largest head of an answer.
const HEAD_MAX: usize = 256 << 10;

/// What all requests share.
#[derive(Debug)]
pub struct Proxy {
    /// The route table.
    pub live: Arc<Live>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What the requests of one client connection share.
#[derive(Debug)]
pub struct Client {
    /// What all requests share.
    pub proxy: Arc<Proxy>,
    /// The worker that serves it.
    pub worker: usize,
    /// Its address, by the connection: what headers say of it proves nothing.
    pub address: IpAddr,
    /// Who it is, for backends.
    pub forwarded: Forwarded,
    /// What it is waited for.
    pub phase: Phase,
}

/// Why a request gets an answer of the router's own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    BadHost,
    BadFraming,
    NoTunnel,
    Forbidden,
    Unknown,
    NoProcess,
    /// It has waited for a process, or there was no room to wait.
    Held,
    /// With what visitors are to read.
    Maintenance(Option<String>),
    Unreachable,
    Broken,
    TimedOut,
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::BadHost | Self::BadFraming => StatusCode::BAD_REQUEST,
            Self::NoTunnel => StatusCode::METHOD_NOT_ALLOWED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::NoProcess | Self::Held | Self::Maintenance(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// When it makes sense to come again, in seconds.
    const fn retry_after(&self) -> Option<u16> {
        match self {
            Self::Held => Some(5),
            Self::Maintenance(_) => Some(60),
            _ => None,
        }
    }

    const fn text(&self) -> &'static str {
        match self {
            Self::BadHost => "400 Bad Request\n\nThe request names no valid host.\n",
            Self::BadFraming => {
                "400 Bad Request\n\nThe request's body may be chunked, but not coded otherwise.\n"
            }
            Self::NoTunnel => "405 Method Not Allowed\n\nThis is no forward proxy.\n",
            Self::Forbidden => "403 Forbidden\n\nThis app lets nobody in from your address.\n",
            Self::Unknown => "404 Not Found\n\nNo app answers to this host name.\n",
            Self::NoProcess => {
                "503 Service Unavailable\n\nThis app has no process that serves requests.\n"
            }
            Self::Held => {
                "503 Service Unavailable\n\nThis app is being restarted. Please try again in a moment.\n"
            }
            Self::Maintenance(_) => {
                "503 Service Unavailable\n\nThis app is down for maintenance. Please come back later.\n"
            }
            Self::Unreachable => "502 Bad Gateway\n\nNone of the app's processes can be reached.\n",
            Self::Broken => {
                "502 Bad Gateway\n\nThe app's process broke the connection before it answered.\n"
            }
            Self::TimedOut => "504 Gateway Timeout\n\nThe app's process gave no answer in time.\n",
        }
    }
}

/// Answers one request.
pub async fn handle(client: &Client, request: Request<Incoming>) -> Response<ReplyBody> {
    client.phase.busy();
    let mut response = answer(client, request).await;
    response.body_mut().then_idle(&client.phase);
    response
}

async fn answer(client: &Client, request: Request<Incoming>) -> Response<ReplyBody> {
    let (mut parts, body) = request.into_parts();
    let id = headers::request_id(&parts.headers);
    let host = match host_of(&parts.uri, &parts.headers) {
        Ok(host) => host,
        Err(refusal) => {
            let metrics = &client.proxy.metrics;
            let exchange = Exchange::new(metrics, &parts.method, &parts.uri, None, id);
            return refuse(refusal, exchange);
        }
    };
    let metrics = &client.proxy.metrics;
    let mut exchange = Exchange::new(metrics, &parts.method, &parts.uri, Some(&host), id);
    if parts.method == Method::CONNECT {
        return refuse(Refusal::NoTunnel, exchange);
    }
    if !headers::is_framing_plain(&parts.headers) {
        return refuse(Refusal::BadFraming, exchange);
    }
    if let Some(proof) = client.proxy.live.challenges.answer(parts.uri.path()) {
        return say(StatusCode::OK, proof, exchange);
    }
    let body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        RequestBody::Client(body)
    };
    // Only a request without a body can turn into something else.
    let protocol = headers::remove_hop_by_hop(&mut parts.headers)
        .filter(|_| matches!(body, RequestBody::Empty) && parts.version == Version::HTTP_11);
    headers::set_forwarded(&mut parts.headers, &client.forwarded, &exchange.id);
    parts.uri = origin_form(parts.uri);
    parts.headers.insert(HOST, host.clone());
    parts.version = Version::HTTP_11;
    let on_client = protocol.map(|protocol| {
        headers::set_upgrade(&mut parts.headers, protocol);
        parts.extensions.remove::<hyper::upgrade::OnUpgrade>()
    });
    let upgrading = on_client.is_some();
    let request = Request::from_parts(parts, body);
    let text = host.to_str().unwrap_or_default();
    match ask(client, text, request, upgrading, &mut exchange).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            match on_client.flatten() {
                Some(on_client) => upgrade::begin(response, on_client, exchange),
                None => refuse(Refusal::Broken, exchange),
            }
        }
        Ok(response) => pass(response, exchange),
        Err(refusal) => refuse(refusal, exchange),
    }
}

/// The one host that a request names.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::BadHost);
    }
    match (uri.authority(), header) {
        // RFC 9112, 3.2.2: an absolute target wins over the header.
        (Some(authority), _) => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadHost)
        }
        (None, Some(header)) => Ok(header.clone()),
        (None, None) => Err(Refusal::BadHost),
    }
}

fn origin_form(uri: Uri) -> Uri {
    if uri.authority().is_none() {
        return uri;
    }
    let path = uri.into_parts().path_and_query;
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// Asks backends until one answers.
async fn ask(
    client: &Client,
    host: &str,
    mut request: Request<RequestBody>,
    upgrading: bool,
    exchange: &mut Exchange,
) -> Result<Response<Incoming>, Refusal> {
    let live = &client.proxy.live;
    let (sort, peer) = match request.body() {
        RequestBody::Empty if !upgrading => (Sort::Heads, Peer::Backend),
        _ => (Sort::Bodies, Peer::Patient),
    };
    let place = Place {
        worker: client.worker,
        sort,
    };
    let replayable =
        request.method().is_idempotent() && matches!(request.body(), RequestBody::Empty);
    let mut tried: Vec<Arc<Backend>> = Vec::new();
    let mut outcome = Refusal::Unreachable;
    // A kept connection that turned out to be dead says nothing about its backend: asked again.
    let mut again = false;
    while exchange.retries < TRIES {
        let held = match live.choose(host, client.address, &tried) {
            Choice::Backend(held) => held,
            Choice::Exhausted => return Err(outcome),
            Choice::NoProcess if tried.is_empty() => {
                exchange.unserved = live.unserved(host).map(|app| Arc::clone(&app.unserved));
                return Err(Refusal::NoProcess);
            }
            Choice::NoProcess => return Err(outcome),
            Choice::Hold(app) if !exchange.held => {
                exchange.held = true;
                exchange.unserved = Some(Arc::clone(&app.unserved));
                let waiting = app.wait().ok_or(Refusal::Held)?;
                let is_over = || {
                    let choice = live.choose(host, client.address, &tried);
                    (!matches!(choice, Choice::Hold(_))).then_some(())
                };
                waiting.until(is_over).await.ok_or(Refusal::Held)?;
                continue;
            }
            Choice::Hold(_) => return Err(Refusal::Held),
            Choice::Maintenance(page) => return Err(Refusal::Maintenance(page)),
            Choice::Forbidden => return Err(Refusal::Forbidden),
            Choice::Unknown => return Err(Refusal::Unknown),
            Choice::InvalidHost => return Err(Refusal::BadHost),
        };
        let kept = (!upgrading && !again)
            .then(|| held.checkout(place, replayable))
            .flatten();
        let reused = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            None => match connect(&held, peer, upgrading).await {
                Ok(sender) => sender,
                Err(error) => {
                    held.failed(live.now());
                    exchange.tried(&held, error);
                    tried.push(Arc::clone(&held));
                    continue;
                }
            },
        };
        let spare = (reused && replayable).then(|| copy_head(&request));
        match timeout(FIRST_BYTE, sender.try_send_request(request)).await {
            Err(_) => {
                exchange.tried(&held, "no answer in time");
                return Err(Refusal::TimedOut);
            }
            Ok(Ok(response)) => {
                held.succeeded();
                exchange.answered(held, place, (!upgrading).then_some(sender));
                return Ok(response);
            }
            Ok(Err(mut error)) => {
                let unsent = error.take_message();
                exchange.left = error.error().is_user();
                exchange.tried(&held, error.error());
                outcome = Refusal::Broken;
                // Not one byte was sent, or it does no harm to send it twice.
                request = match unsent.or(spare) {
                    Some(request) => request,
                    None => return Err(Refusal::Broken),
                };
                if reused {
                    held.drop_idle(place);
                    again = true;
                } else {
                    tried.push(Arc::clone(&held));
                }
            }
        }
    }
    Err(outcome)
}

/// A bodyless request once more.
fn copy_head(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// A new connection to a backend.
async fn connect(backend: &Arc<Backend>, peer: Peer, upgrading: bool) -> std::io::Result<Sender> {
    let address = backend.endpoint().address;
    // Apps speak for themselves; the controller is a part of the platform.
    let links = if backend.is_controller() {
        link::links()
    } else {
        link::plain()
    };
    let stream = links.connect(address, CONNECT).await?;
    sockets::tune(stream.socket(), peer);
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        // Old clients' scripts know the controller's header names by their spelling.
        .preserve_header_case(backend.is_controller())
        .max_header_size(HEAD_MAX)
        .handshake::<_, RequestBody>(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    let cut = backend.cut.clone();
    tokio::spawn(async move {
        let ended = if upgrading {
            // The tunnel's own task minds the cut.
            connection.with_upgrades().await
        } else {
            tokio::select! {
                ended = connection => ended,
                () = cut.cancelled() => Ok(()),
            }
        };
        if let Err(error) = ended {
            debug!(%address, %error, "upstream connection ended");
        }
    });
    Ok(sender)
}

/// Passes a backend's answer on.
fn pass(response: Response<Incoming>, mut exchange: Exchange) -> Response<ReplyBody> {
    let (mut parts, body) = response.into_parts();
    headers::remove_hop_by_hop(&mut parts.headers);
    parts.headers.insert(X_REQUEST_ID, exchange.id.clone());
    // Between us and the client another version may be spoken; the reason phrase is in `extensions`.
    parts.version = Version::HTTP_11;
    exchange.status = Some(parts.status);
    Response::from_parts(parts, ReplyBody::backend(body, exchange))
}

/// The router's own answer to what it does not pass.
fn refuse(refusal: Refusal, exchange: Exchange) -> Response<ReplyBody> {
    let (status, retry_after) = (refusal.status(), refusal.retry_after());
    let mut response = match refusal {
        Refusal::Maintenance(Some(page)) => {
            let mut response = say(status, Bytes::from(page), exchange);
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, html);
            response
        }
        refusal => {
            let text = Bytes::from_static(refusal.text().as_bytes());
            say(status, text, exchange)
        }
    };
    if let Some(seconds) = retry_after {
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An answer of the router's own.
fn say(status: StatusCode, text: Bytes, mut exchange: Exchange) -> Response<ReplyBody> {
    exchange.status = Some(status);
    let id = exchange.id.clone();
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(ReplyBody::text(text, exchange));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(X_REQUEST_ID, id);
    response
}
