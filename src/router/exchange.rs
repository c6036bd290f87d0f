//! One request and its answer, from its head to its last byte: what is held, measured and logged.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use tokio_util::sync::CancellationToken;

use super::{
    access::{AccessLog, Line},
    backend::{Backend, Held, Place, Sender},
    metrics::{AppFigures, Metrics},
    pace::Busy,
    tally::{Fate, ReleaseTally},
};

/// What a request's line in the access log says of its head.
#[derive(Debug)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// What it asks for.
    pub uri: Uri,
    /// The host that it names, if it names one.
    pub host: Option<HeaderValue>,
    /// The version of HTTP that its client speaks.
    pub version: Version,
    /// Who asks.
    pub client: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Its id, in the answer and for the backend.
    pub id: HeaderValue,
}

/// What is counted, and becomes one line of the access log, when it is dropped.
#[derive(Debug)]
pub struct Exchange {
    metrics: Arc<Metrics>,
    log: Option<Arc<AccessLog>>,
    started: Instant,
    asked: Asked,
    /// The answer's status; the client went away if it stays empty.
    pub status: Option<StatusCode>,
    /// How often another connection was tried.
    pub retries: u32,
    bytes: u64,
    error: Option<String>,
    upstream: Option<Upstream>,
    last: Option<Arc<Backend>>,
    app: Option<Arc<AppFigures>>,
    /// The client's connection, which waits for an answer.
    busy: Busy,
    /// It had to wait for a process.
    pub held: bool,
    /// What it is counted by when no release gets it.
    pub unserved: Option<Arc<ReleaseTally>>,
    /// The client broke off while it sent the request: nobody else's failure.
    pub left: bool,
    /// After that time the answer began.
    answered: Option<Duration>,
    broke_off: bool,
}

#[derive(Debug)]
struct Upstream {
    held: Held,
    place: Place,
    sender: Option<Sender>,
}

impl Exchange {
    /// Begins with a request's head; is written into the log if there is one.
    #[must_use]
    pub fn new(
        metrics: &Arc<Metrics>,
        log: Option<Arc<AccessLog>>,
        busy: Busy,
        asked: Asked,
    ) -> Self {
        metrics.began();
        Self {
            metrics: Arc::clone(metrics),
            log,
            started: Instant::now(),
            asked,
            status: None,
            retries: 0,
            bytes: 0,
            error: None,
            upstream: None,
            last: None,
            app: None,
            busy,
            held: false,
            unserved: None,
            left: false,
            answered: None,
            broke_off: false,
        }
    }

    /// The request's id.
    #[must_use]
    pub const fn id(&self) -> &HeaderValue {
        &self.asked.id
    }

    /// Whose request it is.
    pub fn is_for(&mut self, app: &Arc<AppFigures>) {
        if self.app.is_none() {
            app.began();
            self.app = Some(Arc::clone(app));
        }
    }

    /// The backend answers: it is held, and its connection kept, until the body has passed.
    pub fn answered(&mut self, held: Held, place: Place, sender: Option<Sender>) {
        self.last = Some(Arc::clone(&held));
        self.answered = Some(self.started.elapsed());
        self.upstream = Some(Upstream {
            held,
            place,
            sender,
        });
    }

    /// A try at a backend failed.
    pub fn tried(&mut self, backend: &Arc<Backend>, why: impl std::fmt::Display) {
        self.retries += 1;
        self.error = Some(why.to_string());
        self.last = Some(Arc::clone(backend));
        self.metrics.retries.inc();
        if let Some(app) = &self.app {
            app.retries.inc();
        }
    }

    /// A backend is left out for a while.
    pub fn ejected(&self) {
        if let Some(app) = &self.app {
            app.ejections.inc();
        }
    }

    /// Tells when the backend that answers is withdrawn.
    #[must_use]
    pub fn withdrawn(&self) -> CancellationToken {
        let upstream = self.upstream.as_ref();
        upstream.map_or_else(CancellationToken::new, |up| up.held.withdrawn.clone())
    }

    /// So many bytes of the body have passed.
    pub fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.busy.moved();
    }

    /// Both sides have agreed on another protocol.
    pub fn is_tunnel(&self) {
        self.busy.is_tunnel();
    }

    /// The answer broke off.
    pub fn failed(&mut self, why: &impl std::fmt::Display) {
        self.error = Some(why.to_string());
        self.broke_off = true;
        self.upstream = None;
    }

    /// The answer has been read to its end: the backend is free, its connection can be used again.
    pub fn complete(&mut self) {
        if let Some(Upstream {
            held,
            place,
            sender: Some(sender),
        }) = self.upstream.take()
        {
            held.give_back(place, sender);
        }
    }
}

impl Exchange {
    /// How it went, for its release.
    fn fate(&self) -> Fate {
        let is_error = self.status.is_some_and(|status| status.is_server_error());
        Fate {
            answered: self.answered,
            error: is_error && self.answered.is_some(),
            // Without an answer of the app's, the status is the router's own.
            failed: self.broke_off || (is_error && self.answered.is_none() && !self.left),
            held: self.held,
            retried: self.retries,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let broken = self.upstream.take().is_some();
        // 499: the client went away before there was an answer (nginx's number for it).
        let status = self.status.map_or(499, |status| status.as_u16());
        let took = self.started.elapsed();
        self.metrics.finished(status);
        let of_release = self.last.as_ref().and_then(|backend| backend.tally());
        if let Some(tally) = of_release.or(self.unserved.as_ref()) {
            tally.count(self.fate());
        }
        if let Some(app) = &self.app {
            app.finished(status, took);
        }
        if let Some(log) = &self.log {
            log.write(&Line {
                asked: &self.asked,
                status,
                took,
                bytes: self.bytes,
                backend: self.last.as_ref().map(|backend| backend.name()),
                retries: self.retries,
                broken,
                error: self.error.as_deref(),
            });
        }
    }
}
