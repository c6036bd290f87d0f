//! fleet's HTTP API v1 over the records in etcd: on every host at a unix socket that only root can
//! open, for fleetctl and scripts; the controller answers superusers' tokens by the same [`answer`].
//!
//! Statuses and messages are fleet's. Two things are narrower: hosts that never joined can't be
//! labelled, and an option can't hold what systemd would read as another one.

use std::{
    convert::Infallible, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Query,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    api::fleet::{self, Entry, MachinePage, PatchOp, Refusal, Relabel, StatePage, Unit, UnitPage},
    model::{UnitFile, UnitFileName, UnitTarget, unit_text},
    ops::units::{self, Done, Snapshot, UnitsError, Wish},
    store::{Store, StoreError, Txn, keys},
};

/// Where the API begins.
pub const ROOT: &str = "/fleet/v1";
/// Largest body of a request, in bytes.
const MAX_BODY: usize = 1 << 20;
/// How long a request may take, its body included.
const LIMIT: Duration = Duration::from_secs(30);
/// Connections at the socket at once; further ones wait in its queue.
const MAX_CONNECTIONS: usize = 32;

/// A request, as far as it matters.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path after [`ROOT`], without a slash at its end.
    pub path: &'a str,
    /// The whole address, for what stands after the question mark.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: &'a [u8],
}

/// An answer: a status, and an entity if there is one.
type Answer = (StatusCode, Option<Vec<u8>>);

impl From<UnitsError> for Refusal {
    fn from(error: UnitsError) -> Self {
        let code = match &error {
            UnitsError::Name(_)
            | UnitsError::Text { .. }
            | UnitsError::Options { .. }
            | UnitsError::Template(_)
            | UnitsError::UnknownMachine(_) => 400,
            UnitsError::Unknown(_) => 404,
            UnitsError::Differs(_) | UnitsError::Contended(_) => 409,
            UnitsError::Store(error) => return store_error(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        store_error(&error)
    }
}

fn store_error(error: &StoreError) -> Refusal {
    warn!(%error, "the fleet API can't answer");
    if error.is_transient() {
        Refusal::new(503, "etcd gives no answer at the moment; try again")
    } else {
        Refusal::new(
            500,
            "a record in etcd can't be read; see the journal of this host",
        )
    }
}

fn entity(value: &impl Serialize) -> Result<Answer, Refusal> {
    let bytes = serde_json::to_vec(value).map_err(|error| Refusal::new(500, error.to_string()))?;
    Ok((StatusCode::OK, Some(bytes)))
}

/// Answers a request; `with` is committed with whatever it changes.
pub async fn answer(store: &Store, asked: Asked<'_>, with: &Txn) -> Response<Body> {
    let (status, body) = match route(store, &asked, with).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.code);
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Some(refusal.body().to_string().into_bytes()))
        }
    };
    let mut response = Response::new(body.map_or_else(Body::empty, Body::from));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

async fn route(store: &Store, asked: &Asked<'_>, with: &Txn) -> Result<Answer, Refusal> {
    let only = |methods: &str| {
        Refusal::new(
            405,
            format!("only {methods} supported against this resource"),
        )
    };
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    match (asked.method.as_str(), &parts[..]) {
        ("GET", ["units"]) => {
            let page = fleet::page_of(one(asked.uri, "nextPageToken")?.as_deref())?;
            let snapshot = Snapshot::load(store).await?;
            let (units, next) = fleet::cut(snapshot.view().all(), page);
            entity(&UnitPage { next, units })
        }
        (_, ["units"]) => Err(only("GET")),
        ("GET", ["units", name]) => {
            let name = unit_name(name)?;
            let snapshot = Snapshot::load(store).await?;
            let view = snapshot.view();
            let file = view.units.get(&name).ok_or_else(no_unit)?;
            entity(&view.unit(&name, &file.value))
        }
        ("PUT", ["units", name]) => put_unit(store, &unit_name(name)?, asked, with).await,
        ("DELETE", ["units", name]) => {
            match units::destroy(store, &unit_name(name)?, with).await? {
                true => Ok((StatusCode::NO_CONTENT, None)),
                false => Err(no_unit()),
            }
        }
        (_, ["units", _]) => Err(only("GET, PUT and DELETE")),
        ("GET", ["state"]) => {
            let page = fleet::page_of(one(asked.uri, "nextPageToken")?.as_deref())?;
            let machine = one(asked.uri, "machineID")?.filter(|id| !id.is_empty());
            let unit = one(asked.uri, "unitName")?.filter(|name| !name.is_empty());
            let snapshot = Snapshot::load(store).await?;
            let mut states = snapshot.view().unit_states();
            states.retain(|state| {
                machine.as_ref().is_none_or(|id| *id == state.machine_id)
                    && unit.as_ref().is_none_or(|name| *name == state.name)
            });
            let (states, next) = fleet::cut(states, page);
            entity(&StatePage { next, states })
        }
        (_, ["state"]) => Err(only("GET")),
        ("GET", ["machines"]) => {
            let page = fleet::page_of(one(asked.uri, "nextPageToken")?.as_deref())?;
            let snapshot = Snapshot::load(store).await?;
            let none = std::collections::BTreeMap::new();
            let hosts = snapshot.machines.values().map(|machine| {
                let record = snapshot.hosts.get(&machine.id);
                fleet::host(machine, record.map_or(&none, |record| &record.labels))
            });
            let (machines, next) = fleet::cut(hosts.collect(), page);
            entity(&MachinePage { machines, next })
        }
        ("PATCH", ["machines"]) => {
            let ops: Vec<PatchOp> = decode(asked.body)?;
            let changes = ops.into_iter().map(Relabel::try_from);
            let changes = changes.collect::<Result<Vec<_>, _>>()?;
            units::relabel(store, &changes, with).await?;
            Ok((StatusCode::NO_CONTENT, None))
        }
        (_, ["machines"]) => Err(only("GET and PATCH")),
        ("GET", ["discovery"]) => entity(&fleet::discovery()),
        (_, ["discovery"]) => Err(only("GET")),
        _ => Err(Refusal::new(404, "")),
    }
}

fn no_unit() -> Refusal {
    Refusal::new(404, "unit does not exist")
}

fn unit_name(text: &str) -> Result<UnitFileName, Refusal> {
    // A name needs no escapes; fleetctl escapes the `@` all the same.
    let text = text
        .replace("%40", "@")
        .replace("%3A", ":")
        .replace("%3a", ":");
    text.parse()
        .map_err(|error| Refusal::new(400, format!("{text:?} is no unit name: {error}")))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(400, format!("unable to decode body: {error}")))
}

/// The value of a parameter that may come once.
fn one(uri: &Uri, name: &str) -> Result<Option<String>, Refusal> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(all) = query.map_err(|error| Refusal::new(400, error.to_string()))?;
    let mut values = all.into_iter().filter(|(key, _)| key == name);
    let value = values.next().map(|(_, value)| value);
    if values.next().is_some() {
        return Err(Refusal::new(400, format!("too many values for {name}")));
    }
    Ok(value)
}

/// Creates a unit, gives it another text, or changes what is wanted of it.
async fn put_unit(
    store: &Store,
    name: &UnitFileName,
    asked: &Asked<'_>,
    with: &Txn,
) -> Result<Answer, Refusal> {
    let kinds: Vec<&HeaderValue> = asked.headers.get_all(header::CONTENT_TYPE).iter().collect();
    let is_json = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or_default();
        kind.split(';')
            .next()
            .is_some_and(|kind| kind.trim() == "application/json")
    };
    if kinds.len() != 1 || !kinds.into_iter().all(is_json) {
        let why = "only acceptable Content-Type is application/json";
        return Err(Refusal::new(415, why));
    }
    let unit: Unit = decode(asked.body)?;
    if !unit.name.is_empty() && unit.name != name.as_str() {
        return Err(Refusal::new(
            400,
            format!(
                "name in URL {:?} differs from unit name in request body {:?}",
                name.as_str(),
                unit.name
            ),
        ));
    }
    let target = match unit.desired_state.as_str() {
        "" => None,
        word => Some(fleet::target(word)?),
    };
    let found = store.get(&keys::unit(name)).await?.map(|found| found.value);
    let text = text_of(unit.options, found.as_ref())?;
    match (&found, &text) {
        (None, None) => {
            return Err(Refusal::new(
                409,
                "unit does not exist and options field empty",
            ));
        }
        (Some(_), None) if target.is_none() => {
            return Err(Refusal::new(
                409,
                "must provide DesiredState to update existing unit",
            ));
        }
        _ => {}
    }
    // fleet started nothing that it was not told to start.
    let target = target.or_else(|| found.is_none().then_some(UnitTarget::Inactive));
    let wish = Wish {
        text,
        replace: true,
        target,
    };
    let done = units::apply(store, &[(name.clone(), wish)].into(), with).await?;
    match done.get(name) {
        Some(Done::Created | Done::Replaced) => Ok((StatusCode::CREATED, None)),
        _ => Ok((StatusCode::NO_CONTENT, None)),
    }
}

/// The text that options make; none when there are none, or the unit has these very options.
fn text_of(options: Vec<Entry>, found: Option<&UnitFile>) -> Result<Option<String>, Refusal> {
    if options.is_empty() {
        return Ok(None);
    }
    let options: Vec<_> = options.into_iter().map(Into::into).collect();
    let text = unit_text::write(&options)
        .map_err(|error| Refusal::new(400, format!("invalid options: {error}")))?;
    let same = |found: &UnitFile| {
        let own = unit_text::parse(&found.text).and_then(|own| unit_text::write(&own));
        own.as_ref() == Ok(&text)
    };
    Ok((!found.is_some_and(same)).then_some(text))
}

/// Serves the API at a unix socket that only root can open, until `stop`.
///
/// # Errors
/// When the socket can't be made.
pub fn serve(path: &Path, store: Store, stop: CancellationToken) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Under a name that nobody looks for until its mode is right.
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path)?;
    info!(socket = %path.display(), "the fleet API is served");
    tokio::spawn(accept(listener, store, stop));
    Ok(())
}

async fn accept(listener: UnixListener, store: Store, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    warn!(%error, "a connection to the fleet API is not accepted");
                    // Out of file descriptors: one that is freed is worth the wait.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| respond(store.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(LIMIT)
                .serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                () = stop.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    debug!(%error, "a connection to the fleet API broke off");
                },
            }
            drop(place);
        });
    }
}

async fn respond(store: Store, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let answered = timeout(LIMIT, async {
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return refuse(&Refusal::new(
                    400,
                    format!("the body can't be read: {error}"),
                ));
            }
        };
        let path = match path.strip_prefix(ROOT) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
            // Where fleet's sources keep the document.
            Some(".json") => "/discovery",
            _ => return refuse(&Refusal::new(404, "")),
        };
        let asked = Asked {
            method: &parts.method,
            path,
            uri: &parts.uri,
            headers: &parts.headers,
            body: &body,
        };
        answer(&store, asked, &Txn::new()).await
    });
    let response = answered.await.unwrap_or_else(|_| {
        refuse(&Refusal::new(
            503,
            "etcd gives no answer in time; try again",
        ))
    });
    info!(method = %parts.method, path, status = response.status().as_u16(), "fleet API");
    Ok(response)
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(refusal.body().to_string())));
    *response.status_mut() =
        StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests;
