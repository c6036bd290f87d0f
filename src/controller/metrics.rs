//! What the controller counts, and port 9092, where it and the scheduler tell it. That port is never
//! the API's: what is open to the world says nothing about how busy who is.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::{FOLLOWERS, State, error::ApiError};
use crate::{
    inner_http::{self, Answer},
    leader,
    metrics::{self, Counter, Histogram, Labels, Page},
};

/// The route of a request that reached it, as the table spells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route(pub(super) &'static str);

/// What stands for the route or method of requests that are none of ours: their number is bounded only
/// by what clients can think of.
const OTHER: &str = "other";

/// Methods that some route or client of ours has.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// Counted since the process's start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    routes: Mutex<BTreeMap<(&'static str, &'static str), Answers>>,
    wrong_credentials: Counter,
    too_many_logins: Counter,
    logins: Counter,
}

/// The answers of one route to one method.
#[derive(Debug, Default)]
struct Answers {
    /// By status, as text: there are few, and clients choose none.
    by_status: BTreeMap<String, u64>,
    took: Histogram,
}

impl Metrics {
    fn routes(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), Answers>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered; what is streamed after the answer's head doesn't count.
    pub(super) fn answered(
        &self,
        method: &Method,
        route: Option<Route>,
        status: StatusCode,
        took: Duration,
    ) {
        let known = METHODS.into_iter().find(|known| *known == method.as_str());
        let place = (known.unwrap_or(OTHER), route.map_or(OTHER, |route| route.0));
        let mut routes = self.routes();
        let answers = routes.entry(place).or_default();
        *answers
            .by_status
            .entry(status.as_str().to_owned())
            .or_default() += 1;
        answers.took.observe(took);
    }

    /// Somebody has tried to log in.
    pub(super) fn login<T>(&self, result: &Result<T, ApiError>) {
        match result {
            Ok(_) => self.logins.inc(),
            Err(ApiError::TooMany { .. }) => self.too_many_logins.inc(),
            Err(ApiError::Refused(_)) => self.wrong_credentials.inc(),
            // The store's trouble is nobody's guess.
            Err(_) => {}
        }
    }

    fn write(&self, page: &mut Page) {
        page.prefix("deis_controller");
        {
            let routes = self.routes();
            let rows: Vec<([(&str, &str); 3], u64)> = routes
                .iter()
                .flat_map(|((method, route), answers)| {
                    answers.by_status.iter().map(move |(status, count)| {
                        let labels = [
                            ("method", *method),
                            ("route", *route),
                            ("status", status.as_str()),
                        ];
                        (labels, *count)
                    })
                })
                .collect();
            page.counters(
                "requests_total",
                "Requests that were answered, by method, route and status.",
                rows.iter()
                    .map(|(labels, count)| (labels as Labels<'_>, *count)),
            );
            let rows: Vec<([(&str, &str); 2], &Histogram)> = routes
                .iter()
                .map(|((method, route), answers)| {
                    ([("method", *method), ("route", *route)], &answers.took)
                })
                .collect();
            page.histograms(
                "request_duration_seconds",
                "Time from a request to the head of its answer.",
                rows.iter()
                    .map(|(labels, took)| (labels as Labels<'_>, *took)),
            );
        }
        page.counter("logins_total", "Logins that went well.", self.logins.get());
        let (wrong, many) = ([("reason", "credentials")], [("reason", "too_many")]);
        page.counters(
            "logins_refused_total",
            "Logins that were refused: a wrong name or password, or too many tries.",
            [
                (&wrong as Labels<'_>, self.wrong_credentials.get()),
                (&many as Labels<'_>, self.too_many_logins.get()),
            ],
        );
    }
}

/// All that this process has to tell.
pub(super) fn page(ctl: &State, scheduler: &leader::Metrics) -> String {
    let mut page = Page::new("deis_controller");
    ctl.metrics.write(&mut page);
    page.gauge(
        "sessions",
        "One-off processes that this controller is the other end of.",
        ctl.attach.sessions() as f64,
    );
    let free = ctl.followers.available_permits();
    page.gauge(
        "log_followers",
        "Clients that follow a log.",
        FOLLOWERS.saturating_sub(free) as f64,
    );
    scheduler.write(&mut page);
    metrics::of_process(&mut page);
    page.text()
}

/// Answers on the inner port until the end of its task.
pub(super) async fn serve(
    listener: TcpListener,
    ctl: State,
    scheduler: std::sync::Arc<leader::Metrics>,
) {
    let handler = move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), || {
            page(&ctl, &scheduler)
        });
        async move { answer }
    };
    inner_http::serve(listener, handler).await;
}

fn answer(method: &Method, path: &str, page: impl FnOnce() -> String) -> Answer {
    match path {
        _ if !matches!(*method, Method::GET | Method::HEAD) => {
            inner_http::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
        }
        "/metrics" => inner_http::answer(StatusCode::OK, metrics::CONTENT_TYPE, page()),
        _ => inner_http::text(StatusCode::NOT_FOUND, "try /metrics\n"),
    }
}
