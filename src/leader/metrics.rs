//! What the scheduler and the rollouts count.

use crate::{
    metrics::{Counter, Gauge, Histogram, Labels, Page},
    plan::{World, round::Plan, waiting::Reason},
};

/// Counted since the process's start.
#[derive(Debug, Default)]
pub struct Metrics {
    leading: Gauge,
    pub(super) terms: Counter,
    pub(super) rounds: Histogram,
    pub(super) commits: Counter,
    pub(super) conflicts: Counter,
    pub(super) unknown: Counter,
    hosts: Gauge,
    absent: Gauge,
    lost: Gauge,
    apps: Gauge,
    rollouts: Gauge,
    unreadable: Gauge,
    waiting: [Gauge; REASONS.len()],
}

/// Why things wait, in classes: what exactly is in the log, and in what `deisctl` and `deis` show.
const REASONS: [&str; 7] = Reason::CLASSES;

impl Metrics {
    /// Whether this process leads now. What waits and what is lost, only the leader knows.
    pub(super) fn led(&self, leads: bool) {
        self.leading.set(usize::from(leads));
        if !leads {
            let of_the_leader = [
                &self.hosts,
                &self.absent,
                &self.lost,
                &self.apps,
                &self.rollouts,
                &self.unreadable,
            ];
            for gauge in of_the_leader.into_iter().chain(&self.waiting) {
                gauge.set(0);
            }
        }
    }

    /// A round was planned.
    pub(super) fn planned(&self, world: &World, plan: &Plan) {
        let mut counts = [0; REASONS.len()];
        for class in plan.waiting.iter().map(|waiting| waiting.why.class()) {
            for (count, _) in counts.iter_mut().zip(REASONS).filter(|(_, r)| *r == class) {
                *count += 1;
            }
        }
        for (gauge, count) in self.waiting.iter().zip(counts) {
            gauge.set(count);
        }
        let (mut hosts, mut absent, mut lost) = (0, 0, 0);
        for view in world.hosts().values() {
            hosts += 1;
            absent += usize::from(view.presence.is_absent());
            let record = view.record.as_ref().map(|record| &record.value);
            lost += usize::from(record.is_some_and(|record| record.lost_since.is_some()));
        }
        self.hosts.set(hosts);
        self.absent.set(absent);
        self.lost.set(lost);
        self.apps.set(world.apps().len());
        let rollouts = world.apps().values().filter(|app| app.rollout.is_some());
        self.rollouts.set(rollouts.count());
        self.unreadable.set(world.unreadable().len());
    }

    /// Writes them on a page.
    pub fn write(&self, page: &mut Page) {
        page.prefix("deis_scheduler");
        page.gauge(
            "leader",
            "1 on the controller that is elected and runs the scheduler.",
            self.leading.get(),
        );
        let counters = [
            (
                "terms_total",
                "How often this controller was elected.",
                &self.terms,
            ),
            (
                "commits_total",
                "Transactions that went through.",
                &self.commits,
            ),
            (
                "conflicts_total",
                "Transactions whose ground had changed; they are planned anew.",
                &self.conflicts,
            ),
            (
                "unknown_fates_total",
                "Transactions whose end etcd didn't tell; each ends the term.",
                &self.unknown,
            ),
        ];
        for (name, help, counter) in counters {
            page.counter(name, help, counter.get());
        }
        page.histogram(
            "round_duration_seconds",
            "How long planning took, by round; their number is that of the rounds.",
            &self.rounds,
        );
        let gauges = [
            ("hosts", "Hosts that are known of.", &self.hosts),
            (
                "hosts_absent",
                "Hosts whose lease has run out.",
                &self.absent,
            ),
            (
                "hosts_lost",
                "Hosts that count as lost: their processes are moved.",
                &self.lost,
            ),
            ("apps", "Apps.", &self.apps),
            (
                "rollouts",
                "Changes of apps that are in progress.",
                &self.rollouts,
            ),
            (
                "unreadable_records",
                "Records that can't be read; what depends on them is left alone.",
                &self.unreadable,
            ),
        ];
        for (name, help, gauge) in gauges {
            page.gauge(name, help, gauge.get());
        }
        let reasons = REASONS.map(|reason| [("reason", reason)]);
        let samples = reasons.iter().zip(&self.waiting);
        page.gauges(
            "waiting",
            "What waits, by class of reason: for room, a host's return, a fault's end, a record or \
             setting that makes no sense, a unit, a step of a rollout.",
            samples.map(|(reason, gauge)| (reason as Labels<'_>, gauge.get())),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{metrics::strict, plan::waiting::Waiting};

    #[test]
    fn a_strict_reader_takes_them() {
        let metrics = Metrics::default();
        let mut plan = Plan::default();
        plan.waiting.push(Waiting {
            what: "host a".into(),
            why: Reason::HostAway {
                left: Duration::from_secs(2),
            },
        });
        metrics.led(true);
        metrics.planned(&World::default(), &plan);
        metrics.commits.add(7);
        let page = || {
            let mut page = Page::new("deis_scheduler");
            metrics.write(&mut page);
            strict::read(&page.text()).expect("readable")
        };
        let families = page();
        assert_eq!(
            families["deis_scheduler_commits_total"].value(&[]),
            Some(7.0)
        );
        let waiting = &families["deis_scheduler_waiting"];
        assert_eq!(waiting.len(), REASONS.len());
        assert_eq!(waiting.value(&[("reason", "host")]), Some(1.0));
        // Another leads: what it sees is not ours to tell.
        metrics.led(false);
        let families = page();
        assert_eq!(families["deis_scheduler_leader"].value(&[]), Some(0.0));
        let waiting = &families["deis_scheduler_waiting"];
        assert_eq!(waiting.value(&[("reason", "host")]), Some(0.0));
        assert_eq!(
            families["deis_scheduler_commits_total"].value(&[]),
            Some(7.0)
        );
    }
}
