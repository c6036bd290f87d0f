//! Port 9091 of a host's address: figures of the host and its processes. Only the platform gets there
//! (see [`super::isolation`]); what it says is no secret.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::{net::TcpListener, time};
use tracing::{info, warn};

use super::{
    agent::Asker,
    cgroup::Cgroups,
    stats::{self, Sampler},
};
use crate::{
    inner_http::{self, Answer},
    link::links,
    metrics,
};

/// How long the agent's loop may take to answer.
const LOOP_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries to listen.
const RETRY: Duration = Duration::from_secs(5);
/// File systems that are told about.
const DISKS: [&str; 3] = ["/", "/var/lib/containers", "/run"];

/// What answers are made of.
#[derive(Debug)]
struct Figures {
    asker: Asker,
    sampler: Sampler,
}

/// Answers until the end of its task. A port that is taken is said, and tried again: apps need none of
/// this.
pub async fn serve(address: SocketAddr, asker: Asker) {
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    warn!(%address, %error, "can't listen for those who want figures; trying on");
                }
                time::sleep(RETRY).await;
            }
        }
    };
    info!(%address, "figures are served");
    let figures = Arc::new(Figures {
        asker,
        sampler: Sampler::new(Cgroups::of_this_host()),
    });
    let handler = move |request: Request<Incoming>| {
        let figures = figures.clone();
        async move { figures.answer(request.method(), request.uri().path()).await }
    };
    inner_http::serve(links().listen(listener), handler).await;
}

impl Figures {
    async fn answer(&self, method: &Method, path: &str) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return inner_http::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match path {
            stats::PATH => self.stats().await,
            "/metrics" => {
                let page = self.asker.metrics().page();
                inner_http::answer(StatusCode::OK, metrics::CONTENT_TYPE, page)
            }
            _ => inner_http::text(StatusCode::NOT_FOUND, "try /v1/stats or /metrics\n"),
        }
    }

    async fn stats(&self) -> Answer {
        let Some(vitals) = self.asker.ask(LOOP_LIMIT).await else {
            let text = "the agent's loop does not answer\n";
            return inner_http::text(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let stats = self.sampler.read(vitals, &DISKS).await;
        match serde_json::to_vec(&stats) {
            Ok(body) => inner_http::answer(StatusCode::OK, "application/json", body),
            Err(error) => inner_http::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}
