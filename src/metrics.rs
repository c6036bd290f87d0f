//! What the daemons count, and Prometheus's text form of it (version 0.0.4).
//!
//! [`Counter`] and [`Histogram`] are counted with relaxed atomics where something happens; a [`Page`] is
//! written when somebody asks. A page writes each family once, with its `HELP` and `TYPE`, and escapes
//! whatever stands in labels: there is no other way to get a line into it. Names are ours, so they are
//! checked when tests run; label values may be anybody's. Who adds a label sees to it that its values
//! are few.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Starts at 0.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// How many by now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A whole number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is so much now.
    pub fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    /// How much it is.
    #[must_use]
    pub fn get(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64
    }
}

/// Bounds for what takes milliseconds to a minute.
pub const SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// How often something took how long: cumulative buckets, their sum and count.
#[derive(Debug)]
pub struct Histogram {
    /// By bucket of [`SECONDS`]; the last one is for what took longer.
    counts: [Counter; SECONDS.len() + 1],
    micros: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// Nothing observed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counts: [const { Counter::new() }; SECONDS.len() + 1],
            micros: Counter::new(),
        }
    }

    /// Something took so long.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = SECONDS.partition_point(|bound| *bound < seconds);
        self.counts[at].inc();
        self.micros
            .add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// What kind of thing a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Labels of a sample, by name and value.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

/// A page of metrics as it is written.
#[derive(Debug)]
pub struct Page {
    text: String,
    prefix: &'static str,
}

impl Page {
    /// An empty page, whose names all begin with `prefix` and `_`.
    #[must_use]
    pub const fn new(prefix: &'static str) -> Self {
        Self {
            text: String::new(),
            prefix,
        }
    }

    /// Goes on with names that begin otherwise.
    pub const fn prefix(&mut self, prefix: &'static str) {
        self.prefix = prefix;
    }

    /// The page as text.
    #[must_use]
    pub fn text(self) -> String {
        self.text
    }

    fn begin(&mut self, name: &str, kind: Kind, help: &str) {
        debug_assert_eq!(
            kind == Kind::Counter,
            name.ends_with("_total"),
            "{name}: counters end in _total, and nothing else does"
        );
        let (prefix, word) = (self.prefix, kind.word());
        debug_assert!(
            !self
                .text
                .contains(&format!("# TYPE {prefix}_{name} {word}\n")),
            "{name} is there twice"
        );
        let help = escape(help, false);
        let _ = writeln!(
            self.text,
            "# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} {word}"
        );
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        let _ = write!(self.text, "{}_{name}", self.prefix);
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escape(value, true));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// A counter; its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [(&[] as Labels<'_>, value)]);
    }

    /// A counter by labels.
    pub fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) {
        self.begin(name, Kind::Counter, help);
        for (labels, value) in samples {
            self.sample(name, labels, value as f64);
        }
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(&[] as Labels<'_>, value)]);
    }

    /// The same by labels.
    pub fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) {
        self.begin(name, Kind::Gauge, help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    /// A histogram; its name ends in `_seconds`.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.histograms(name, help, [(&[] as Labels<'_>, histogram)]);
    }

    /// The same by labels.
    pub fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, &'l Histogram)>,
    ) {
        self.begin(name, Kind::Histogram, help);
        let bucket = format!("{name}_bucket");
        for (labels, histogram) in samples {
            let mut seen = 0;
            for (at, counter) in histogram.counts.iter().enumerate() {
                seen += counter.get();
                let bound = SECONDS
                    .get(at)
                    .map_or_else(|| "+Inf".to_owned(), ToString::to_string);
                let with_bound: Vec<(&str, &str)> = labels
                    .iter()
                    .copied()
                    .chain([("le", bound.as_str())])
                    .collect();
                self.sample(&bucket, &with_bound, seen as f64);
            }
            let sum = Duration::from_micros(histogram.micros.get()).as_secs_f64();
            self.sample(&format!("{name}_sum"), labels, sum);
            self.sample(&format!("{name}_count"), labels, seen as f64);
        }
    }
}

/// Escapes what may stand in a help text, or in a label's value.
fn escape(text: &str, quoted: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quoted => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

/// What every daemon can say of itself, under the names that Prometheus's own clients use.
pub fn of_process(page: &mut Page) {
    page.prefix("process");
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    // The name, the second field, may hold anything; what is counted from is the third.
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, rest)) => rest.split_whitespace().collect(),
        None => Vec::new(),
    };
    let ticks = |at: usize| {
        let ticks: Option<u64> = fields.get(at).and_then(|field| field.parse().ok());
        ticks.unwrap_or_default() as f64 / USER_HZ
    };
    page.begin(
        "cpu_seconds_total",
        Kind::Counter,
        "CPU time used, in user and kernel mode.",
    );
    page.sample("cpu_seconds_total", &[], ticks(11) + ticks(12));
    let number = |text: &str, name: &str| -> f64 {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .unwrap_or_default()
    };
    page.gauge(
        "start_time_seconds",
        "When the process was started, since the epoch.",
        number(&read("/proc/stat"), "btime ") + ticks(19),
    );
    page.gauge(
        "resident_memory_bytes",
        "Memory that is resident.",
        number(&read("/proc/self/status"), "VmRSS:") * 1024.0,
    );
}

/// Ticks of a second in /proc: part of Linux's interface to programs.
const USER_HZ: f64 = 100.0;

#[cfg(test)]
pub(crate) mod strict;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{strict, *};

    #[test]
    fn a_page() {
        let mut page = Page::new("deis_test");
        page.counter("things_total", "Things.", 3);
        let by = [("app", "blog"), ("why", "a \"b\"\\\nc")];
        page.gauges(
            "sizes_bytes",
            "By \\ app.\nReally.",
            [(&by as Labels<'_>, 1.5)],
        );
        let text = page.text();
        assert_eq!(
            text,
            "# HELP deis_test_things_total Things.\n# TYPE deis_test_things_total counter\n\
             deis_test_things_total 3\n\
             # HELP deis_test_sizes_bytes By \\\\ app.\\nReally.\n# TYPE deis_test_sizes_bytes gauge\n\
             deis_test_sizes_bytes{app=\"blog\",why=\"a \\\"b\\\"\\\\\\nc\"} 1.5\n"
        );
        let families = strict::read(&text).expect("readable");
        assert_eq!(families["deis_test_things_total"].value(&[]), Some(3.0));
        assert_eq!(families["deis_test_sizes_bytes"].value(&by), Some(1.5));
    }

    #[test]
    fn a_histogram_is_cumulative() {
        let histogram = Histogram::new();
        for ms in [1, 5, 6, 2_600, 600_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut page = Page::new("deis_test");
        page.histogram("took_seconds", "How long it took.", &histogram);
        let families = strict::read(&page.text()).expect("readable");
        let took = &families["deis_test_took_seconds"];
        let bucket = |le: &str| took.part("_bucket", &[("le", le)]);
        assert_eq!(bucket("0.005"), Some(2.0), "a bound belongs to its bucket");
        assert_eq!(bucket("0.01"), Some(3.0));
        assert_eq!(bucket("5"), Some(4.0));
        assert_eq!(bucket("60"), Some(4.0));
        assert_eq!(bucket("+Inf"), Some(5.0));
        assert_eq!(took.part("_count", &[]), Some(5.0));
        let sum = took.part("_sum", &[]).expect("a sum");
        assert!((sum - 602.612).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn the_process_itself() {
        let mut page = Page::new("x");
        of_process(&mut page);
        let families = strict::read(&page.text()).expect("readable");
        let started = families["process_start_time_seconds"]
            .value(&[])
            .expect("a time");
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock");
        let age = now.as_secs_f64() - started;
        assert!((-2.0..86_400.0).contains(&age), "{age} s old");
        let memory = families["process_resident_memory_bytes"].value(&[]);
        assert!(memory.is_some_and(|bytes| bytes > 1e6), "{memory:?}");
    }

    proptest! {
        /// Whatever stands in a label comes out as it went in, and makes no line of its own.
        #[test]
        fn labels_can_not_break_out(value in any::<String>(), help in any::<String>()) {
            let mut page = Page::new("deis_test");
            let labels = [("app", value.as_str())];
            page.gauges("up", &help, [(&labels as Labels<'_>, 1.0)]);
            let text = page.text();
            let families = strict::read(&text).map_err(TestCaseError::fail)?;
            prop_assert_eq!(families.len(), 1);
            prop_assert_eq!(families["deis_test_up"].value(&labels), Some(1.0));
        }
    }
}
