//! What the router counts.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    metrics::{Counter, Histogram, Labels, Page},
    model::AppName,
};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// What the controller is called among the apps; no app has such a name.
const CONTROLLER: &str = "(controller)";

/// Answers by the first digit of their status.
#[derive(Debug, Default)]
struct Answers([Counter; CLASSES.len()]);

impl Answers {
    fn inc(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.0[class].inc();
    }
}

/// What is counted of one app, or of the controller.
#[derive(Debug, Default)]
pub struct AppFigures {
    answers: Answers,
    seconds: Histogram,
    in_flight: AtomicU64,
    /// Times that another connection was tried.
    pub retries: Counter,
    /// Times that a process was left out for a while.
    pub ejections: Counter,
}

impl AppFigures {
    /// A request has begun.
    pub fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// It is over.
    pub fn finished(&self, status: u16, took: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.answers.inc(status);
        self.seconds.observe(took);
    }
}

/// The router's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    in_flight: AtomicU64,
    /// Times that another connection was tried.
    pub retries: Counter,
    /// Connections accepted, HTTP and HTTPS.
    pub connections: Counter,
    /// Connections to builders.
    pub builder_connections: Counter,
    /// Connections whose first bytes were not what they had to be: TLS, PROXY header.
    pub bad_openings: Counter,
    answers: Answers,
    controller: Arc<AppFigures>,
    apps: RwLock<HashMap<AppName, Arc<AppFigures>>>,
}

/// What the table holds at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableFigures {
    /// Apps.
    pub apps: usize,
    /// Their processes.
    pub backends: usize,
    /// Requests that hold one.
    pub held: usize,
    /// Users' certificates that are served, and that can't be used.
    pub certificates: (usize, usize),
    /// Lines of the access log that were dropped.
    pub lines_dropped: u64,
    /// Settings that are not used as they stand.
    pub settings_left_out: usize,
}

impl Metrics {
    /// A request has begun.
    pub fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is over.
    pub fn finished(&self, status: u16) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.answers.inc(status);
    }

    /// The controller's figures.
    #[must_use]
    pub fn controller(&self) -> Arc<AppFigures> {
        Arc::clone(&self.controller)
    }

    /// An app's figures.
    #[must_use]
    pub fn app(&self, name: &str) -> Option<Arc<AppFigures>> {
        let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = apps.get(name) {
            return Some(Arc::clone(there));
        }
        drop(apps);
        // Names come from the table: there are no more of them than apps.
        let name = name.parse().ok()?;
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(apps.entry(name).or_default()))
    }

    /// All of them, and what the table holds. Apps that it doesn't know any more are forgotten.
    #[must_use]
    pub fn render(&self, table: TableFigures, knows: impl Fn(&AppName) -> bool) -> String {
        let mut page = Page::new("deis_router");
        let classes = CLASSES.map(|class| [("status", class)]);
        let answers = classes.iter().zip(&self.answers.0);
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
            (
                "bad_openings_total",
                "Connections without the TLS handshake or PROXY header that they had to begin with.",
                &self.bad_openings,
            ),
        ];
        for (name, help, counter) in counters {
            page.counter(name, help, counter.get());
        }
        page.counter(
            "access_lines_dropped_total",
            "Lines of the access log that were dropped because the journal was slow.",
            table.lines_dropped,
        );
        let gauges = [
            ("apps", "Apps in the table.", table.apps),
            ("backends", "Backends in the table.", table.backends),
            (
                "backends_held",
                "Holds on backends in the table.",
                table.held,
            ),
            (
                "certificates",
                "Users' certificates that are served.",
                table.certificates.0,
            ),
            (
                "certificates_left_out",
                "Users' certificates that can't be used; the log says why.",
                table.certificates.1,
            ),
            (
                "settings_left_out",
                "Settings that are not used as they stand; the log says why.",
                table.settings_left_out,
            ),
        ];
        for (name, help, value) in gauges {
            page.gauge(name, help, value as f64);
        }
        self.render_apps(&mut page, knows);
        page.text()
    }

    fn render_apps(&self, page: &mut Page, knows: impl Fn(&AppName) -> bool) {
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        apps.retain(|name, _| knows(name));
        let mut all: Vec<(String, Arc<AppFigures>)> = apps
            .iter()
            .map(|(name, figures)| (name.to_string(), Arc::clone(figures)))
            .collect();
        drop(apps);
        all.push((CONTROLLER.to_owned(), self.controller()));
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let labels: Vec<[(&str, &str); 1]> = all
            .iter()
            .map(|(name, _)| [("app", name.as_str())])
            .collect();
        let by_class: Vec<([(&str, &str); 2], u64)> = all
            .iter()
            .flat_map(|(name, figures)| {
                let answers = CLASSES.iter().zip(&figures.answers.0);
                answers.map(move |(class, counter)| {
                    ([("app", name.as_str()), ("status", *class)], counter.get())
                })
            })
            // Ten thousand apps have few answers of most classes.
            .filter(|(_, count)| *count > 0)
            .collect();
        page.counters(
            "app_requests_total",
            "Answers of an app's host names by class of status.",
            by_class
                .iter()
                .map(|(labels, count)| (labels as Labels<'_>, *count)),
        );
        page.gauges(
            "app_requests_in_flight",
            "Requests of an app under way.",
            labels.iter().zip(&all).map(|(labels, (_, figures))| {
                let in_flight = figures.in_flight.load(Ordering::Relaxed);
                (labels as Labels<'_>, in_flight as f64)
            }),
        );
        for (name, help, counter) in [
            (
                "app_retries_total",
                "Tries at another connection.",
                (|figures| figures.retries.get()) as fn(&AppFigures) -> u64,
            ),
            (
                "app_ejections_total",
                "Times that a process was left out because it could not be reached.",
                |figures| figures.ejections.get(),
            ),
        ] {
            let counters = labels.iter().zip(&all);
            page.counters(
                name,
                help,
                counters.map(|(labels, (_, figures))| (labels as Labels<'_>, counter(figures))),
            );
        }
        page.histograms(
            "app_request_seconds",
            "From a request's head to its answer's last byte.",
            labels
                .iter()
                .zip(&all)
                .map(|(labels, (_, figures))| (labels as Labels<'_>, &figures.seconds)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::strict;

    #[test]
    fn a_strict_reader_takes_it() {
        let metrics = Metrics::default();
        metrics.began();
        metrics.began();
        metrics.finished(204);
        let shop = metrics.app("shop").expect("a name");
        shop.began();
        shop.finished(503, Duration::from_millis(20));
        shop.ejections.inc();
        let gone = metrics.app("gone").expect("a name");
        gone.began();
        assert!(metrics.app("no/name").is_none());
        let table = TableFigures {
            certificates: (4, 5),
            ..TableFigures::default()
        };
        let text = metrics.render(table, |name| name.as_str() == "shop");
        assert!(!text.contains("gone"), "{text}");
        let families = strict::read(&text).expect("readable");
        let value = |name: &str, labels: &[(&str, &str)]| {
            families[&format!("deis_router_{name}")].value(labels)
        };
        assert_eq!(value("requests_total", &[("status", "2xx")]), Some(1.0));
        assert_eq!(value("requests_in_flight", &[]), Some(1.0));
        assert_eq!(value("certificates_left_out", &[]), Some(5.0));
        let shop = ("app", "shop");
        assert_eq!(
            value("app_requests_total", &[shop, ("status", "5xx")]),
            Some(1.0)
        );
        assert_eq!(
            value("app_requests_total", &[shop, ("status", "2xx")]),
            None
        );
        assert_eq!(value("app_requests_in_flight", &[shop]), Some(0.0));
        assert_eq!(value("app_ejections_total", &[shop]), Some(1.0));
    }
}
