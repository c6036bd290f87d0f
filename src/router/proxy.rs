//! One request: whom to ask, how often to try, and how the answer passes.

use std::{borrow::Cow, error::Error, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{
        CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, STRICT_TRANSPORT_SECURITY,
    },
    uri::PathAndQuery,
};
use hyper::body::{Body, Incoming};
use tokio_util::task::TaskTracker;

use super::{
    access::AccessLog,
    backend::{Backend, Place, Sort},
    body::{BodyError, ReplyBody, RequestBody},
    exchange::{Asked, Exchange},
    headers::{self, Forwarded, X_REQUEST_ID},
    live::{Caller, Choice, Live, Owner},
    metrics::{Metrics, TableFigures},
    onward::Seen,
    pace::Phase,
    refusal::Refusal,
    sockets::Peer,
    upgrade,
    upstream::{connect, is_refused},
    wait::Patience,
};
use crate::plan::{front::RouterSettings, host::parse_host, routes};

/// Connections tried for one request at most.
const TRIES: u32 = 8;
/// New connections that may break under a request before it is given up: it may be the request that
/// breaks processes, and not all of them have to be tried.
const BREAKS: u32 = 2;
/// Headers of a request at most.
pub const HEAD_COUNT: usize = 128;

/// What all requests share.
#[derive(Debug)]
pub struct Proxy {
    /// The route table.
    pub live: Arc<Live>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where requests are written down.
    pub log: Arc<AccessLog>,
}

impl Proxy {
    /// What Prometheus reads.
    #[must_use]
    pub fn metrics_page(&self) -> String {
        let (apps, backends, held) = self.live.counts();
        let table = TableFigures {
            apps,
            backends,
            held,
            certificates: self.live.certs.counts(),
            lines_dropped: self.log.dropped.get(),
            settings_left_out: self.live.settings_left_out(),
        };
        self.metrics.render(table, |app| self.live.knows(app))
    }
}

/// What the requests of one client connection share.
#[derive(Debug)]
pub struct Client {
    /// What all requests share.
    pub proxy: Arc<Proxy>,
    /// The worker that serves it.
    pub worker: usize,
    /// Its address, by the connection or a trusted PROXY header.
    pub address: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Whether it is a load balancer whose headers count.
    pub believed: bool,
    /// Who it is, for backends.
    pub forwarded: Forwarded,
    /// What has answered it.
    pub seen: Seen,
    /// What it is waited for.
    pub phase: Phase,
    /// How its requests wait for answers.
    pub patience: Patience,
    /// Where what a connection has become goes on: a stop waits for it, too.
    pub tunnels: TaskTracker,
}

/// What is known of a request besides its head.
struct Terms<'t> {
    settings: &'t RouterSettings,
    /// Who asks.
    address: IpAddr,
    /// Whether it came over TLS, to us or to a load balancer that is trusted.
    secure: bool,
}

/// Answers one request.
pub async fn handle(client: &Client, request: Request<Incoming>) -> Response<ReplyBody> {
    let busy = client.phase.busy();
    let proxy = &client.proxy;
    let settings = proxy.live.settings();
    let (parts, body) = request.into_parts();
    let told = if client.believed {
        headers::told(&parts.headers)
    } else {
        headers::Told::default()
    };
    let terms = Terms {
        settings: &settings,
        address: told.client.unwrap_or(client.address),
        secure: client.secure || told.secure == Some(true),
    };
    let host = host_of(&parts.uri, &parts.headers, parts.version);
    let asked = Asked {
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        host: host.as_ref().ok().cloned(),
        version: parts.version,
        client: terms.address,
        secure: terms.secure,
        id: headers::request_id(&parts.headers),
    };
    let log = settings.access_log.then(|| Arc::clone(&proxy.log));
    let exchange = Exchange::new(&proxy.metrics, log, busy, asked);
    let forwarded = forwarded(client, &terms, told.port);
    let request = Request::from_parts(parts, body);
    let mut response = match host {
        Ok(host) => answer(client, &terms, &forwarded, host, request, exchange).await,
        Err(refusal) => refuse(&refusal, exchange),
    };
    if let (true, Some(hsts)) = (terms.secure, &settings.hsts)
        && let Ok(value) = HeaderValue::from_str(hsts)
    {
        // An app that has its own mind keeps it.
        let headers = response.headers_mut();
        headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(value);
    }
    response
}

/// Who the client is, for backends: what a trusted load balancer says, if there is one.
fn forwarded<'c>(client: &'c Client, terms: &Terms<'_>, port: Option<u16>) -> Cow<'c, Forwarded> {
    if !client.believed {
        return Cow::Borrowed(&client.forwarded);
    }
    let mut forwarded = client.forwarded.clone();
    if terms.secure != client.secure {
        forwarded.proto = HeaderValue::from_static("https");
        forwarded.port = HeaderValue::from(port.unwrap_or(443));
    } else if let Some(port) = port {
        forwarded.port = HeaderValue::from(port);
    }
    Cow::Owned(forwarded)
}

async fn answer(
    client: &Client,
    terms: &Terms<'_>,
    forwarded: &Forwarded,
    host: HeaderValue,
    request: Request<Incoming>,
    mut exchange: Exchange,
) -> Response<ReplyBody> {
    let (mut parts, body) = request.into_parts();
    let text = host.to_str().unwrap_or_default();
    // Before all else: an authority asks in clear, from anywhere, for apps that serve nothing yet.
    if let Some(proof) = client.proxy.live.challenges.answer(parts.uri.path()) {
        return say(StatusCode::OK, proof, exchange);
    }
    if let Err(refusal) = is_acceptable(terms, text, &parts, &client.proxy.live) {
        own(client, text, &mut exchange);
        return refuse(&refusal, exchange);
    }
    let of_controller = is_controller(text);
    let most = terms.settings.body_size.filter(|_| !of_controller);
    let silence = silence(terms.settings, of_controller);
    let grpc = !of_controller && headers::is_grpc(&parts.headers, parts.version);
    let body = if grpc {
        RequestBody::streamed(body, silence)
    } else {
        RequestBody::of(body, most)
    };
    if most.is_some_and(|most| body.size_hint().lower() > most) {
        own(client, text, &mut exchange);
        return refuse(&Refusal::TooLarge, exchange);
    }
    // Only a request without a body can turn into something else.
    let trailers = headers::takes_trailers(&parts.headers, parts.version);
    let protocol = headers::remove_hop_by_hop(&mut parts.headers)
        .filter(|_| matches!(body, RequestBody::Empty) && parts.version == Version::HTTP_11);
    headers::set_forwarded(&mut parts.headers, forwarded, exchange.id());
    headers::join_cookies(&mut parts.headers);
    if grpc {
        parts.uri = absolute_form(parts.uri, text);
        parts.headers.remove(HOST);
        headers::set_trailers(&mut parts.headers);
    } else {
        parts.uri = origin_form(parts.uri);
        parts.headers.insert(HOST, host.clone());
        parts.version = Version::HTTP_11;
    }
    let on_client = protocol.map(|protocol| {
        headers::set_upgrade(&mut parts.headers, protocol);
        parts.extensions.remove::<hyper::upgrade::OnUpgrade>()
    });
    let upgrading = on_client.is_some();
    if trailers && !upgrading && !grpc {
        headers::ask_for_trailers(&mut parts.headers);
    }
    let request = Request::from_parts(parts, body);
    match ask(client, terms, text, request, upgrading, &mut exchange).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            match on_client.flatten() {
                Some(on_client) => {
                    let (response, tunnel) = upgrade::begin(response, on_client, silence, exchange);
                    client.tunnels.spawn(tunnel);
                    response
                }
                None => refuse(&Refusal::Broken, exchange),
            }
        }
        Ok(response) => pass(response, silence, exchange),
        Err(refusal) => {
            own(client, text, &mut exchange);
            refuse(&refusal, exchange)
        }
    }
}

/// Counts a request that reached no process for the app that it was meant for.
fn own(client: &Client, host: &str, exchange: &mut Exchange) {
    let metrics = &client.proxy.metrics;
    let app = match client.proxy.live.owner(host) {
        Some(Owner::App(name)) => metrics.app(name.as_str()),
        Some(Owner::Controller) => Some(metrics.controller()),
        None => None,
    };
    if let Some(app) = app {
        exchange.is_for(&app);
    }
}

/// What is refused whoever answers to the host.
fn is_acceptable(
    terms: &Terms<'_>,
    host: &str,
    parts: &http::request::Parts,
    live: &Live,
) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::NoTunnel);
    }
    if parts.headers.len() > HEAD_COUNT {
        return Err(Refusal::TooManyHeaders);
    }
    if !headers::is_framing_plain(&parts.headers) {
        return Err(Refusal::BadFraming);
    }
    if terms.settings.enforce_https
        && !terms.secure
        && live.owner(host).is_some()
        && let Ok(name) = parse_host(host)
    {
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let name = if name.contains(':') {
            format!("[{name}]")
        } else {
            name.into_owned()
        };
        return Err(Refusal::Elsewhere(format!("https://{name}{path}")));
    }
    Ok(())
}

/// Whether a host name is the controller's, whose own limits hold.
fn is_controller(host: &str) -> bool {
    parse_host(host).is_ok_and(|host| routes::is_controller(&host))
}

/// How long an answer may be silent.
fn silence(settings: &RouterSettings, of_controller: bool) -> Duration {
    if of_controller {
        settings.controller.read
    } else {
        settings.default_timeout
    }
}

/// The one host that a request names.
fn host_of(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<HeaderValue, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::BadHost);
    }
    match (uri.authority(), header) {
        // RFC 9113, 8.3.1: two that differ are one too many.
        (Some(authority), Some(header))
            if version == Version::HTTP_2
                && !header
                    .as_bytes()
                    .eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Err(Refusal::BadHost)
        }
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

/// What HTTP/2 wants to know of a target.
fn absolute_form(uri: Uri, host: &str) -> Uri {
    let path = uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let absolute = Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query(path);
    // A host that makes none is found to be none by whoever looks for its app.
    absolute.build().unwrap_or(uri)
}

/// The value of a query's argument, as it stands there.
fn argument<'u>(uri: &'u Uri, name: &str) -> Option<&'u str> {
    let pairs = uri
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let mut values = pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    values.next().filter(|value| !value.is_empty())
}

/// Asks backends until one answers.
async fn ask(
    client: &Client,
    terms: &Terms<'_>,
    host: &str,
    mut request: Request<RequestBody>,
    upgrading: bool,
    exchange: &mut Exchange,
) -> Result<Response<Incoming>, Refusal> {
    let live = &client.proxy.live;
    let (sort, peer) = match request.body() {
        _ if request.version() == Version::HTTP_2 => (Sort::Streams, Peer::Patient),
        RequestBody::Empty if !upgrading => (Sort::Heads, Peer::Backend),
        _ => (Sort::Bodies, Peer::Patient),
    };
    let place = Place {
        worker: client.worker,
        sort,
    };
    let replayable =
        request.method().is_idempotent() && matches!(request.body(), RequestBody::Empty);
    let wanted = terms.settings.affinity.as_deref();
    let affinity = wanted.and_then(|name| argument(request.uri(), name).map(str::to_owned));
    let caller = Caller {
        address: terms.address,
        settings: terms.settings,
        affinity: affinity.as_deref(),
        seen: client.seen.get(),
    };
    let mut tried: Vec<Arc<Backend>> = Vec::new();
    let mut outcome = Refusal::Unreachable;
    // A kept connection that turned out to be dead says nothing about its backend: asked again.
    let mut again = false;
    let mut breaks = 0;
    while exchange.retries < TRIES {
        let held = match live.choose(host, &caller, &tried) {
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
                    let choice = live.choose(host, &caller, &tried);
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
        if let Some(figures) = held.figures(&client.proxy.metrics) {
            exchange.is_for(figures);
        }
        let kept = (!upgrading && !again)
            .then(|| held.checkout(place, replayable))
            .flatten();
        let reused = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            None => match connect(&held, terms.settings, peer, sort, upgrading).await {
                Ok(sender) => {
                    held.share(place, &sender);
                    sender
                }
                Err(error) => {
                    held.failed(live.now());
                    exchange.ejected();
                    exchange.tried(&held, error);
                    tried.push(Arc::clone(&held));
                    continue;
                }
            },
        };
        let first_byte = silence(terms.settings, held.is_controller());
        let spare = (replayable || sort == Sort::Streams)
            .then(|| copy(&request))
            .flatten();
        let answer = client
            .patience
            .bound(first_byte, sender.try_send_request(request));
        match answer.await {
            None => {
                exchange.tried(&held, "no answer in time");
                return Err(Refusal::TimedOut);
            }
            Some(Ok(response)) => {
                held.succeeded();
                client.seen.answered(held.generation());
                if let Some(spare) = spare {
                    spare.body().forget();
                }
                exchange.answered(held, place, (!upgrading).then_some(sender));
                return Ok(response);
            }
            Some(Err(mut error)) => {
                let unsent = error.take_message();
                exchange.left = error.error().is_user();
                exchange.tried(&held, error.error());
                if let Some(fault) = client_fault(error.error()) {
                    return Err(fault);
                }
                outcome = Refusal::Broken;
                // Not one byte was sent, or nobody has looked at it, or it does no harm to send it twice.
                let refused = is_refused(error.error());
                let harmless = replayable || refused;
                let spare = spare.filter(|spare| harmless && spare.body().again().is_some());
                request = match unsent.or(spare) {
                    Some(request) => request,
                    None => return Err(Refusal::Broken),
                };
                if reused {
                    held.drop_idle(place);
                    again = true;
                    continue;
                }
                breaks += u32::from(!refused);
                if breaks >= BREAKS {
                    return Err(Refusal::Broken);
                }
                tried.push(Arc::clone(&held));
            }
        }
    }
    Err(outcome)
}

/// What the client did wrong, if it is that for which a request could not be sent.
fn client_fault(error: &hyper::Error) -> Option<Refusal> {
    match error.source()?.downcast_ref::<BodyError>()? {
        BodyError::TooLarge => Some(Refusal::TooLarge),
        BodyError::Slow => Some(Refusal::Slow),
        // It broke off: nobody reads what it is told.
        BodyError::Http(_) | BodyError::Silent => Some(Refusal::Broken),
    }
}

/// A request once more, if its body can be had from the beginning.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let mut copy = Request::new(request.body().again()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.version_mut() = request.version();
    Some(copy)
}

/// Passes a backend's answer on; it may be silent for so long.
fn pass(
    response: Response<Incoming>,
    silence: Duration,
    mut exchange: Exchange,
) -> Response<ReplyBody> {
    let (mut parts, body) = response.into_parts();
    headers::remove_hop_by_hop(&mut parts.headers);
    parts.headers.insert(X_REQUEST_ID, exchange.id().clone());
    // Between us and the client another version may be spoken; the reason phrase is in `extensions`.
    parts.version = Version::HTTP_11;
    exchange.status = Some(parts.status);
    Response::from_parts(parts, ReplyBody::backend(body, silence, exchange))
}

/// The router's own answer to what it does not pass.
fn refuse(refusal: &Refusal, exchange: Exchange) -> Response<ReplyBody> {
    let mut response = match refusal {
        Refusal::Maintenance(Some(page)) => {
            let page = Bytes::copy_from_slice(page.as_bytes());
            let mut response = say(refusal.status(), page, exchange);
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, html);
            response
        }
        refusal => {
            let text = Bytes::from_static(refusal.text().as_bytes());
            say(refusal.status(), text, exchange)
        }
    };
    let headers = response.headers_mut();
    if let Refusal::Elsewhere(url) = refusal
        && let Ok(url) = HeaderValue::from_str(url)
    {
        headers.insert(LOCATION, url);
    }
    if let Some(seconds) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An answer of the router's own.
fn say(status: StatusCode, text: Bytes, mut exchange: Exchange) -> Response<ReplyBody> {
    exchange.status = Some(status);
    let id = exchange.id().clone();
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
