//! What the router counts, in Prometheus's text form.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

/// The router's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests under way.
    pub in_flight: AtomicU64,
    /// Times that another connection was tried.
    pub retries: AtomicU64,
    /// Connections accepted, HTTP and HTTPS.
    pub connections: AtomicU64,
    /// Connections to builders.
    pub builder_connections: AtomicU64,
    /// Answers by the first digit of their status, from 1.
    answers: [AtomicU64; 5],
}

impl Metrics {
    /// A request is over.
    pub fn finished(&self, status: u16) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    /// All of them, and what the table holds.
    #[must_use]
    pub fn render(
        &self,
        (apps, backends, held): (usize, usize, usize),
        (certificates, left_out): (usize, usize),
    ) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut out = String::new();
        let _ = writeln!(
            out,
            "# HELP deis_router_requests_total Answers by class of status.\n\
             # TYPE deis_router_requests_total counter"
        );
        for (class, counter) in self.answers.iter().enumerate() {
            let (class, count) = (class + 1, get(counter));
            let _ = writeln!(
                out,
                "deis_router_requests_total{{status=\"{class}xx\"}} {count}"
            );
        }
        let rows = [
            (
                "requests_in_flight",
                "gauge",
                "Requests under way.",
                get(&self.in_flight),
            ),
            (
                "retries_total",
                "counter",
                "Tries at another connection.",
                get(&self.retries),
            ),
            (
                "connections_total",
                "counter",
                "Connections accepted.",
                get(&self.connections),
            ),
            (
                "builder_connections_total",
                "counter",
                "Connections to builders.",
                get(&self.builder_connections),
            ),
            ("apps", "gauge", "Apps in the table.", apps as u64),
            (
                "backends",
                "gauge",
                "Backends in the table.",
                backends as u64,
            ),
            (
                "backends_held",
                "gauge",
                "Holds on backends in the table.",
                held as u64,
            ),
            (
                "certificates",
                "gauge",
                "Users' certificates that are served.",
                certificates as u64,
            ),
            (
                "certificates_left_out",
                "gauge",
                "Users' certificates that can't be used; the log says why.",
                left_out as u64,
            ),
        ];
        for (name, kind, help, value) in rows {
            let _ = writeln!(
                out,
                "# HELP deis_router_{name} {help}\n# TYPE deis_router_{name} {kind}\n\
                 deis_router_{name} {value}"
            );
        }
        out
    }
}
