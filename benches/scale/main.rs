//! `make bench-scale`: a thousand hosts with twenty processes each, on one real etcd on this machine.
//!
//! All in one process but etcd: `hosts` says what of a host is real. The leader is real, on a thread of
//! its own, so that its CPU can be told apart. No router is registered: the barriers of rollouts pass at
//! once. DEIS_BENCH_HOSTS and DEIS_BENCH_APPS make it smaller.

#[path = "../support/mod.rs"]
mod support;

mod apps;
mod hosts;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use deis::{
    leader,
    model::MachineState,
    store::{Store, Txn, keys},
};
use futures_util::future::join_all;
use hosts::{Deeds, Host};
use support::{
    Report, Target,
    etcd::{Counters, Etcd},
    process, setting,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const MIB: f64 = (1 << 20) as f64;
/// How long a phase is watched at rest.
const REST: Duration = Duration::from_secs(60);
/// How long anything may take before the bench gives up.
const LIMIT: Duration = Duration::from_secs(600);
/// The share of the hosts that a fault takes away at once, in percent.
const FAULT_PERCENT: usize = 40;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(bench());
    // Agents don't end by themselves, and have nothing to tidy.
    std::process::exit(0);
}

/// All that is measured, and on what.
struct Bench {
    report: Report,
    etcd: Etcd,
    store: Store,
    hosts: Vec<Host>,
    deeds: Arc<Deeds>,
    /// Processes of each app.
    each: u32,
    leader: u32,
}

async fn bench() {
    let (count, apps) = (
        setting("DEIS_BENCH_HOSTS", 1000),
        setting("DEIS_BENCH_APPS", 20),
    );
    let root = tempfile::Builder::new()
        .prefix("deis-bench-")
        .tempdir_in(if Path::new("/dev/shm").is_dir() {
            Path::new("/dev/shm")
        } else {
            Path::new("/tmp")
        })
        .expect("a folder");
    let etcd = Etcd::start();
    let store = Store::connect(etcd.options()).await.expect("a connection");
    let many = Txn::new().put(
        &keys::platform("lost-hosts-percent"),
        &(FAULT_PERCENT - 10).to_string(),
    );
    store.commit(many).await.expect("the setting is written");
    let deeds = Arc::new(Deeds::default());
    let mut hosts = Vec::new();
    for number in 0..count {
        let host = Host::new(number, root.path(), etcd.options(), deeds.clone());
        hosts.push(host.await);
    }
    let mut bench = Bench {
        report: Report::new("scale"),
        each: u32::try_from(count * 20 / apps).expect("a number"),
        leader: lead(store.clone()),
        etcd,
        store,
        hosts,
        deeds,
    };
    bench.register().await;
    bench.fill(apps).await;
    bench.rest().await;
    bench.change().await;
    bench.fault().await;
    bench.resync().await;
    bench.report.finish();
}

/// The leader, on a thread of its own; says which.
fn lead(store: Store) -> u32 {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        sender.send(thread).expect("somebody waits");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let leads = leader::take_part(
            store,
            "127.0.0.1".into(),
            None,
            Arc::default(),
            CancellationToken::new(),
        );
        runtime.block_on(leads);
    });
    u32::try_from(receiver.recv().expect("a thread")).expect("a thread's id")
}

/// Waits for a condition, with a bound and a voice.
async fn until(what: &str, mut look: impl AsyncFnMut() -> Result<(), String>) -> Duration {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(()) => return begun.elapsed(),
            Err(why) => assert!(begun.elapsed() < LIMIT, "{what}: not in time: {why}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

impl Bench {
    fn per_second(&self, before: &Counters, took: Duration, of: fn(&Counters) -> f64) -> f64 {
        (of(&self.etcd.counters()) - of(before)) / took.as_secs_f64()
    }

    fn etcd_size(&mut self, when: &str) {
        let memory = process::memory(self.etcd.pid()).resident as f64 / MIB;
        let size = self.etcd.counters().size().0 / MIB;
        self.report
            .row(format!("etcd's memory {when}"), Target::None, memory, "MiB");
        let target = if when == "at rest" {
            Target::AtMost(100.0)
        } else {
            Target::None
        };
        self.report
            .row(format!("etcd's database {when}"), target, size, "MiB");
    }

    /// Every host comes up at once.
    async fn register(&mut self) {
        let count = self.hosts.len();
        for host in &mut self.hosts {
            host.begin();
        }
        let took = self.until_there("all hosts are registered", count).await;
        self.report.row(
            format!("{count} hosts register at once"),
            Target::None,
            took.as_secs_f64(),
            "s",
        );
    }

    /// Waits until so many hosts hold a lease.
    async fn until_there(&self, what: &str, number: usize) -> Duration {
        let count = async || {
            let there = self.store.list_keys(&keys::machines()).await;
            match there.map_err(|error| error.to_string())?.len() {
                there if there == number => Ok(()),
                there => Err(format!("{there} of {number}")),
            }
        };
        until(what, count).await
    }

    /// Processes that hosts report as ready.
    async fn ready(&self) -> Result<usize, String> {
        let states = self.store.list::<MachineState>(&keys::states()).await;
        let states = states.map_err(|error| error.to_string())?.entries;
        Ok(states
            .iter()
            .flat_map(|(_, state)| state.value.processes.values())
            .filter(|process| process.ready)
            .count())
    }

    /// Twenty processes for each host, from nothing.
    async fn fill(&mut self, apps: usize) {
        let each = self.each;
        for number in 0..apps {
            apps::create(&self.store, &apps::name(number)).await;
        }
        let (before, begun) = (self.etcd.counters(), Instant::now());
        let cpu = process::cpu_time(self.etcd.pid());
        let leader = process::thread_cpu_time(self.leader);
        let names: Vec<_> = (0..apps).map(apps::name).collect();
        join_all(names.iter().map(|app| apps::scale(&self.store, app, each))).await;
        let took = begun.elapsed();
        let placed = f64::from(each - 1) * apps as f64;
        let wanted = each as usize * apps;
        let ready = self.ready().await.expect("states");
        assert_eq!(ready, wanted, "exactly the asked number is up");
        self.report.row(
            format!("first fill: {placed} processes, from the requests until all serve"),
            Target::None,
            took.as_secs_f64(),
            "s",
        );
        let now = self.etcd.counters();
        self.report.row(
            "keys written per process in the fill",
            Target::None,
            (now.puts() - before.puts()) / placed,
            "keys",
        );
        self.report.row(
            "etcd's log entries per process in the fill",
            Target::AtMost(4.0),
            (now.proposals() - before.proposals()) / placed,
            "entries",
        );
        self.cpu_row("etcd's CPU in the fill", cpu, begun);
        let leader = process::thread_cpu_time(self.leader) - leader;
        self.report.row(
            "leader's CPU in the fill",
            Target::None,
            leader.as_secs_f64() / took.as_secs_f64() * 100.0,
            "% of a core",
        );
    }

    fn cpu_row(&mut self, what: &str, before: Duration, since: Instant) {
        let used = process::cpu_time(self.etcd.pid()) - before;
        self.report.row(
            what,
            Target::AtMost(100.0),
            used.as_secs_f64() / since.elapsed().as_secs_f64() * 100.0,
            "% of a core",
        );
    }

    /// Nothing is asked for.
    async fn rest(&mut self) {
        // The fill's last reports are on their way.
        sleep(Duration::from_secs(5)).await;
        let (before, begun) = (self.etcd.counters(), Instant::now());
        let cpu = process::cpu_time(self.etcd.pid());
        let own = process::cpu_time(std::process::id());
        let leader = process::thread_cpu_time(self.leader);
        sleep(REST).await;
        let (took, hosts) = (begun.elapsed(), self.hosts.len() as f64);
        let writes = self.per_second(&before, took, Counters::puts) / hosts;
        self.report.row(
            "keys written per host at rest",
            Target::AtMost(0.3),
            writes,
            "per s",
        );
        let entries = self.per_second(&before, took, Counters::proposals) / hosts;
        self.report.row(
            "etcd's log entries per host at rest",
            Target::AtMost(0.3),
            entries,
            "per s",
        );
        let reads = self.per_second(&before, took, Counters::ranges) / hosts;
        self.report
            .row("reads per host at rest", Target::None, reads, "per s");
        let renewals = self.per_second(&before, took, |counters| {
            counters.messages("etcdserverpb.Lease", "LeaseKeepAlive")
        });
        self.report.row(
            "renewals of leases per host (kept in memory, not written)",
            Target::None,
            renewals / hosts,
            "per s",
        );
        self.cpu_row("etcd's CPU at rest", cpu, begun);
        let own = process::cpu_time(std::process::id()) - own;
        let leader = process::thread_cpu_time(self.leader) - leader;
        self.report.row(
            "leader's CPU at rest",
            Target::None,
            leader.as_secs_f64() / took.as_secs_f64() * 100.0,
            "% of a core",
        );
        self.report.row(
            "an agent's CPU at rest, by all of them",
            Target::None,
            (own - leader).as_secs_f64() / took.as_secs_f64() / hosts * 100.0,
            "% of a core",
        );
        self.etcd_size("at rest");
        self.report.row(
            "watches open in etcd",
            Target::None,
            self.etcd.counters().watchers(),
            "",
        );
    }

    /// A change of a thousand processes: more of them, and another release.
    async fn change(&mut self) {
        let app = apps::name(0);
        let each = self.each;
        let begun = Instant::now();
        let cpu = process::cpu_time(self.etcd.pid());
        let took = apps::scale(&self.store, &app, 2 * each).await;
        self.report.row(
            format!("{each} more processes of an app"),
            Target::AtMost(10.0),
            took.as_secs_f64(),
            "s",
        );
        self.cpu_row("etcd's CPU meanwhile", cpu, begun);
        apps::scale(&self.store, &app, each).await;
        let cpu = process::cpu_time(self.etcd.pid());
        let begun = Instant::now();
        let took = apps::deploy(&self.store, &app).await;
        self.report.row(
            format!("a release of an app with {each} processes, old ones stopped"),
            Target::AtMost(10.0),
            took.as_secs_f64(),
            "s",
        );
        self.cpu_row("etcd's CPU during the release", cpu, begun);
        self.etcd_size("after the changes");
    }

    async fn assignments(&self) -> BTreeSet<(String, i64)> {
        let (entries, _) = self
            .store
            .list_raw(keys::schedule().as_str())
            .await
            .expect("assignments");
        entries
            .into_iter()
            .map(|(key, entry)| (key, entry.mod_revision))
            .collect()
    }

    /// 40 % of the hosts go silent at once for a minute, and come back.
    async fn fault(&mut self) {
        let gone = self.hosts.len() * FAULT_PERCENT / 100;
        let (before, deeds) = (self.assignments().await, self.deeds.all());
        let cpu = process::cpu_time(self.etcd.pid());
        let begun = Instant::now();
        for host in &mut self.hosts[..gone] {
            host.kill().await;
        }
        let left = self.hosts.len() - gone;
        self.until_there("their leases have run out", left).await;
        self.report.row(
            format!("{gone} leases run out at once: until the last is gone"),
            Target::None,
            begun.elapsed().as_secs_f64(),
            "s",
        );
        sleep(REST).await;
        let after = self.assignments().await;
        let changed = after.symmetric_difference(&before).count();
        self.report.row(
            format!("processes moved within a minute of {FAULT_PERCENT} % of the hosts gone"),
            Target::AtMost(0.0),
            changed as f64,
            "processes",
        );
        self.cpu_row("etcd's CPU in that minute", cpu, begun);
        for host in &mut self.hosts[..gone] {
            host.begin();
        }
        let all = self.hosts.len();
        let took = self.until_there("all hosts are back", all).await;
        self.report.row(
            format!("{gone} hosts come back at once"),
            Target::None,
            took.as_secs_f64(),
            "s",
        );
        sleep(Duration::from_secs(10)).await;
        let (starts, stops) = self.deeds.all();
        self.report.row(
            "units started or stopped by the fault and its end",
            Target::AtMost(0.0),
            (starts - deeds.0 + stops - deeds.1) as f64,
            "units",
        );
    }

    /// etcd is away, and what every watch wants to go on from is compacted when it is back.
    async fn resync(&mut self) {
        let before: Vec<f64> = self
            .hosts
            .iter()
            .map(|host| host.figure("deis_agent_watch_resyncs_total"))
            .collect();
        let deeds = self.deeds.all();
        self.etcd.compact_behind_everybody().await;
        let begun = Instant::now();
        until("every watch stands again", async || {
            let done = |(host, before): &(&Host, &f64)| {
                host.figure("deis_agent_watch_resyncs_total") > **before
                    && host.figure("deis_agent_watch_unbroken") > 0.0
            };
            let count = self.hosts.iter().zip(&before).filter(done).count();
            if count == self.hosts.len() {
                Ok(())
            } else {
                Err(format!("{count} of {}", self.hosts.len()))
            }
        })
        .await;
        self.report.row(
            format!(
                "{} watches resync after a compaction and a restart of etcd",
                self.hosts.len()
            ),
            Target::AtMost(3.0),
            begun.elapsed().as_secs_f64(),
            "s",
        );
        sleep(Duration::from_secs(10)).await;
        let (starts, stops) = self.deeds.all();
        self.report.row(
            "units started or stopped by that",
            Target::AtMost(0.0),
            (starts - deeds.0 + stops - deeds.1) as f64,
            "units",
        );
        self.etcd_size("at the end");
    }
}
