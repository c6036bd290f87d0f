//! What the agent counts, for Prometheus. Nothing in it is by process or app: figures of single
//! processes are `GET /v1/stats`, and a scrape costs the same whatever runs here.

use std::sync::OnceLock;

use tokio::{sync::watch, time::Instant};

use super::{runtime::ImageError, steps::StepError};
use crate::{
    metrics::{self, Counter, Gauge, Histogram, Labels, Page},
    model::{MachineState, Phase},
    plan::units::Lease,
    store::Health,
};

/// The phases of processes and units, as reports call them.
const PHASES: [(Phase, &str); 6] = [
    (Phase::Preparing, "preparing"),
    (Phase::Starting, "starting"),
    (Phase::Up, "up"),
    (Phase::Crashed, "crashed"),
    (Phase::Stopping, "stopping"),
    (Phase::Error, "error"),
];

/// What a step failed on.
const CAUSES: [&str; 4] = ["etcd", "systemd", "image", "other"];

fn cause_of(error: &StepError) -> &'static str {
    match error {
        StepError::Store(_) | StepError::Records(_) => "etcd",
        StepError::Unit(_) => "systemd",
        StepError::Image(ImageError::NoRegistry | ImageError::Pull { .. }) => "image",
        _ => "other",
    }
}

/// Counted since the agent's start.
#[derive(Debug, Default)]
pub struct Metrics {
    units: [Gauge; PHASES.len()],
    ready: Gauge,
    pub(super) rounds: Histogram,
    pub(super) starts: Histogram,
    pub(super) stops: Counter,
    pub(super) published: Counter,
    pub(super) withdrawn: Counter,
    pub(super) crashes: Counter,
    pub(super) bus_resyncs: Counter,
    failures: [Counter; CAUSES.len()],
    live: Gauge,
    watch: OnceLock<(watch::Receiver<Health>, watch::Receiver<Lease>)>,
}

impl Metrics {
    /// The feed of the host's assignments, and the host's lease.
    pub(super) fn watches(&self, health: watch::Receiver<Health>, lease: watch::Receiver<Lease>) {
        let _ = self.watch.set((health, lease));
    }

    /// A step has failed.
    pub(super) fn failed(&self, error: &StepError) {
        let cause = cause_of(error);
        for (counter, _) in self
            .failures
            .iter()
            .zip(CAUSES)
            .filter(|(_, c)| *c == cause)
        {
            counter.inc();
        }
    }

    /// What the report says, and whether it rests on what etcd says.
    pub(super) fn reported(&self, state: &MachineState, live: bool) {
        self.live.set(usize::from(live));
        for (gauge, (phase, _)) in self.units.iter().zip(PHASES) {
            let there = state.processes.values().filter(|p| p.phase == phase);
            gauge.set(there.count());
        }
        self.ready
            .set(state.processes.values().filter(|p| p.ready).count());
    }

    /// The page as text.
    pub fn page(&self) -> String {
        let mut page = Page::new("deis_agent");
        let phases = PHASES.map(|(_, word)| [("state", word)]);
        page.gauges(
            "units",
            "Processes and units on this host, by state.",
            phases
                .iter()
                .zip(&self.units)
                .map(|(labels, gauge)| (labels as Labels<'_>, gauge.get())),
        );
        page.gauge(
            "units_ready",
            "Those that are up and healthy, and published if they are to be.",
            self.ready.get(),
        );
        page.histogram(
            "start_duration_seconds",
            "From the decision to start to a unit that is up, image included; failed starts don't count.",
            &self.starts,
        );
        page.histogram(
            "plan_duration_seconds",
            "How long planning took, by round; their number is that of the rounds.",
            &self.rounds,
        );
        let counters = [
            (
                "stops_total",
                "Processes and units that were stopped.",
                &self.stops,
            ),
            (
                "published_total",
                "Addresses that were published.",
                &self.published,
            ),
            (
                "withdrawn_total",
                "Addresses that were withdrawn.",
                &self.withdrawn,
            ),
            (
                "crashes_total",
                "Processes that ended by themselves.",
                &self.crashes,
            ),
            (
                "bus_resyncs_total",
                "Times that every unit was read again: the system bus was lost, or systemd has reloaded.",
                &self.bus_resyncs,
            ),
        ];
        for (name, help, counter) in counters {
            page.counter(name, help, counter.get());
        }
        let causes = CAUSES.map(|cause| [("cause", cause)]);
        page.counters(
            "failures_total",
            "Steps that failed and are tried again, by what they failed on.",
            causes
                .iter()
                .zip(&self.failures)
                .map(|(labels, counter)| (labels as Labels<'_>, counter.get())),
        );
        page.gauge(
            "assignments_live",
            "1 while assignments come from etcd; 0 at the start, and when they come from the cache.",
            self.live.get(),
        );
        self.write_watch(&mut page);
        metrics::of_process(&mut page);
        page.text()
    }

    fn write_watch(&self, page: &mut Page) {
        let Some((health, lease)) = self.watch.get() else {
            return;
        };
        let (health, lease) = (*health.borrow(), *lease.borrow());
        page.gauge(
            "lease_held",
            "1 while the host's lease holds, by the host's own clock.",
            f64::from(u8::from(lease == Lease::Held)),
        );
        page.gauge(
            "watch_unbroken",
            "1 while the watch of the assignments stands.",
            f64::from(u8::from(health.unbroken_since.is_some())),
        );
        if let Some(contact) = health.last_contact {
            page.gauge(
                "watch_silence_seconds",
                "Since etcd has said something last.",
                (Instant::now() - contact).as_secs_f64(),
            );
        }
        page.counter(
            "watch_breaks_total",
            "Times that the watch broke, or etcd could not be read.",
            health.breaks,
        );
        page.counter(
            "watch_resyncs_total",
            "Times that all assignments were read anew, the first time included.",
            health.resyncs,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::strict;

    #[test]
    fn a_strict_reader_takes_them() {
        let metrics = Metrics::default();
        let (health, watch) = watch::channel(Health::default());
        let (_lease, held) = watch::channel(Lease::Held);
        metrics.watches(watch, held);
        metrics.failed(&StepError::NoPort);
        metrics.failed(&StepError::Image(ImageError::NoRegistry));
        health.send_modify(|health| health.resyncs = 3);
        let families = strict::read(&metrics.page()).expect("readable");
        let units = &families["deis_agent_units"];
        assert_eq!(
            units.len(),
            PHASES.len(),
            "each state is there from the start"
        );
        let failures = &families["deis_agent_failures_total"];
        assert_eq!(failures.value(&[("cause", "other")]), Some(1.0));
        assert_eq!(failures.value(&[("cause", "image")]), Some(1.0));
        assert_eq!(
            families["deis_agent_watch_resyncs_total"].value(&[]),
            Some(3.0)
        );
        assert_eq!(families["deis_agent_watch_unbroken"].value(&[]), Some(0.0));
    }
}
