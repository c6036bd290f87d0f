//! What the router counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{Counter, Labels, Page};

/// The router's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests under way.
    pub in_flight: AtomicU64,
    /// Times that another connection was tried.
    pub retries: Counter,
    /// Connections accepted, HTTP and HTTPS.
    pub connections: Counter,
    /// Connections to builders.
    pub builder_connections: Counter,
    /// Answers by the first digit of their status, from 1.
    answers: [Counter; 5],
}

impl Metrics {
    /// A request is over.
    pub fn finished(&self, status: u16) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class].inc();
    }

    /// All of them, and what the table holds.
    #[must_use]
    pub fn render(
        &self,
        (apps, backends, held): (usize, usize, usize),
        (certificates, left_out): (usize, usize),
    ) -> String {
        let mut page = Page::new("deis_router");
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| [("status", class)]);
        let answers = classes.iter().zip(&self.answers);
        page.counters(
            "requests_total",
            "Answers by class of status.",
            answers.map(|(class, counter)| (class as Labels<'_>, counter.get())),
        );
        let in_flight = self.in_flight.load(Ordering::Relaxed) as f64;
        page.gauge("requests_in_flight", "Requests under way.", in_flight);
        let counters = [
            (
                "retries_total",
                "Tries at another connection.",
                &self.retries,
            ),
            (
                "connections_total",
                "Connections accepted.",
                &self.connections,
            ),
            (
                "builder_connections_total",
                "Connections to builders.",
                &self.builder_connections,
            ),
        ];
        for (name, help, counter) in counters {
            page.counter(name, help, counter.get());
        }
        let gauges = [
            ("apps", "Apps in the table.", apps),
            ("backends", "Backends in the table.", backends),
            ("backends_held", "Holds on backends in the table.", held),
            (
                "certificates",
                "Users' certificates that are served.",
                certificates,
            ),
            (
                "certificates_left_out",
                "Users' certificates that can't be used; the log says why.",
                left_out,
            ),
        ];
        for (name, help, value) in gauges {
            page.gauge(name, help, value as f64);
        }
        page.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::strict;

    #[test]
    fn a_strict_reader_takes_it() {
        let metrics = Metrics::default();
        metrics.in_flight.fetch_add(2, Ordering::Relaxed);
        metrics.finished(204);
        let families = strict::read(&metrics.render((1, 2, 3), (4, 5))).expect("readable");
        let requests = &families["deis_router_requests_total"];
        assert_eq!(requests.value(&[("status", "2xx")]), Some(1.0));
        assert_eq!(
            families["deis_router_requests_in_flight"].value(&[]),
            Some(1.0)
        );
        assert_eq!(
            families["deis_router_certificates_left_out"].value(&[]),
            Some(5.0)
        );
    }
}
