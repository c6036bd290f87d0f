//! The cluster that is measured: its store, each host's system bus, and etcd's counters.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use deis::{
    local::{
        procs,
        state::{self, Paths},
    },
    model::{MachineId, MachineState, ProcessState, Record as _},
    sidecar::{
        health::{Health, Word},
        probe,
    },
    store::{EtcdOptions, Store, keys},
    systemd::proxies::{self, ManagerProxy},
};
use tokio::{runtime::Runtime, time};
use zbus::{Connection, OwnedVariant};

use crate::{suite, support::etcd::Counters};

/// Nothing that is measured here takes longer.
pub const LIMIT: Duration = Duration::from_secs(300);
const PORT: u16 = 2379;

/// A host of the cluster.
pub struct Host {
    pub of_suite: suite::Host,
    pub machine: MachineId,
    etcd: SocketAddr,
    bus: Connection,
}

/// The cluster.
pub struct Hosts {
    pub runtime: Runtime,
    pub cluster: suite::Cluster,
    pub store: Store,
    pub hosts: Vec<Host>,
}

/// What a change took from etcd, counted once however many members carried it out.
#[derive(Debug, Clone, Copy)]
pub struct Operations {
    pub puts: f64,
    pub deletes: f64,
    /// Reads, and comparisons of transactions: etcd counts both as ranges.
    pub ranges: f64,
    pub txns: f64,
}

impl Operations {
    /// All of them.
    pub fn all(&self) -> f64 {
        self.puts + self.deletes + self.ranges + self.txns
    }
}

impl Hosts {
    /// The cluster that DEIS_TEST_CLUSTER names.
    pub fn get() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let cluster = suite::Cluster::get();
        let paths = Paths::new(&cluster.name).expect("paths");
        let known = state::Cluster::expect(&paths).expect("the cluster's state");
        let options = EtcdOptions {
            endpoints: known.etcd.clone(),
            tls: None,
        };
        let (store, hosts) = runtime.block_on(async {
            let store = Store::connect(options).await.expect("store");
            let mut hosts = Vec::new();
            for host in &cluster.hosts {
                let of_state = known.host(&host.name).expect("host");
                let leader = of_state.leader_pid.expect("the host is up");
                let bus = format!("unix:path=/proc/{leader}/root/run/dbus/system_bus_socket");
                let bus = zbus::connection::Builder::address(bus.as_str());
                hosts.push(Host {
                    of_suite: host.clone(),
                    machine: host.machine_id.parse().expect("machine id"),
                    etcd: SocketAddr::new(of_state.address.into(), PORT),
                    bus: bus.build().await.expect("the host's system bus"),
                });
            }
            (store, hosts)
        });
        Self {
            runtime,
            cluster,
            store,
            hosts,
        }
    }

    /// etcd's counters, of each member.
    pub fn counters(&self) -> Vec<Counters> {
        self.hosts
            .iter()
            .map(|host| Counters::of(host.etcd))
            .collect()
    }

    /// What has happened since `before`. A change happens on every member and counts once; a read
    /// happens on the member that is asked.
    pub fn since(&self, before: &[Counters]) -> Operations {
        let after = self.counters();
        let of_first = |count: fn(&Counters) -> f64| count(&after[0]) - count(&before[0]);
        let reads = |c: &Counters| c.started("etcdserverpb.KV", "Range");
        let all_reads: f64 = after
            .iter()
            .zip(before)
            .map(|(a, b)| reads(a) - reads(b))
            .sum();
        let own_reads = reads(&after[0]) - reads(&before[0]);
        Operations {
            puts: of_first(Counters::puts),
            deletes: of_first(Counters::deletes),
            ranges: of_first(Counters::ranges) - own_reads + all_reads,
            txns: of_first(Counters::txns),
        }
    }

    /// Runs `change` and waits until the hosts report that as many processes whose names begin so are
    /// ready; how long that took from the change's begin.
    pub fn time_until_ready(&self, prefix: &str, count: usize, change: impl AsyncFnOnce()) -> f64 {
        self.runtime.block_on(async {
            let mut feed = self.store.follow(keys::states().as_str());
            let mut ready: BTreeMap<String, usize> = BTreeMap::new();
            let mut take = |update: deis::store::Update| {
                for change in update.changes {
                    let state = change
                        .entry
                        .and_then(|entry| MachineState::decode(&entry.value).ok());
                    let processes = state.map(|state| state.processes).unwrap_or_default();
                    let is_ready = |(name, state): &(&String, &ProcessState)| {
                        name.starts_with(prefix) && state.ready
                    };
                    ready.insert(change.key, processes.iter().filter(is_ready).count());
                }
                ready.values().sum::<usize>()
            };
            assert_eq!(
                take(feed.next().await),
                0,
                "nothing of {prefix} runs before"
            );
            let begun = Instant::now();
            let wait = async {
                while take(feed.next().await) < count {}
                begun.elapsed()
            };
            let both = async { tokio::join!(wait, change()).0 };
            let took = time::timeout(LIMIT, both).await;
            took.unwrap_or_else(|_| panic!("{count} {prefix}* are not ready within {LIMIT:?}"))
                .as_secs_f64()
        })
    }

    /// Waits until nothing whose name begins so is assigned or reported.
    pub fn wait_until_gone(&self, prefix: &str) {
        suite::eventually(&format!("{prefix}* are gone"), LIMIT, || {
            self.runtime.block_on(async {
                let states = self.store.list(&keys::states()).await.expect("states");
                let names = states
                    .entries
                    .iter()
                    .flat_map(|(_, state)| state.value.processes.keys());
                let left = names.filter(|name| name.starts_with(prefix)).count();
                if left == 0 {
                    Ok(())
                } else {
                    Err(format!("{left} are left"))
                }
            })
        });
    }

    /// Starts these units by hand, on each host at once, and waits until that is `done`, with all of them
    /// active: how long that took.
    pub fn time_by_hand(&self, units: &[Vec<String>], done: impl FnOnce()) -> f64 {
        let mut shells: Vec<Shell> = Vec::new();
        for (host, units) in self.hosts.iter().zip(units) {
            if !units.is_empty() {
                let script = format!("systemctl start --no-block {}", units.join(" "));
                shells.push(Shell::open(&self.cluster, &host.of_suite, &script));
            }
        }
        let begun = Instant::now();
        for shell in &mut shells {
            shell.go();
        }
        for shell in shells {
            shell.end();
        }
        done();
        let took = begun.elapsed();
        self.runtime.block_on(async {
            for (host, units) in self.hosts.iter().zip(units) {
                let names: Vec<&str> = units.iter().map(String::as_str).collect();
                let manager = ManagerProxy::new(&host.bus).await.expect("systemd");
                let listed = manager.list_units_by_names(&names).await.expect("listed");
                let rest = listed.iter().filter(|unit| unit.3 != "active");
                let rest: Vec<_> = rest.map(|unit| (&unit.0, &unit.3, &unit.4)).collect();
                assert!(
                    rest.is_empty(),
                    "not active on {}: {rest:?}",
                    host.of_suite.name
                );
            }
        });
        took.as_secs_f64()
    }

    /// Waits until no job is left on the hosts of these units.
    pub fn wait_for_jobs(&self, units: &[Vec<String>]) {
        let begun = Instant::now();
        self.runtime.block_on(async {
            for (host, _) in self.hosts.iter().zip(units) {
                let jobs =
                    || host.property::<u32>(proxies::MANAGER_PATH, proxies::MANAGER, "NJobs");
                while jobs().await > 0 {
                    assert!(begun.elapsed() < LIMIT, "jobs end");
                    time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }

    /// Probes these ports as announcers do, until all of them are healthy.
    pub fn wait_until_healthy(&self, ports: &[SocketAddr]) {
        let deadline = Instant::now() + LIMIT;
        std::thread::scope(|scope| {
            for port in ports {
                scope.spawn(move || {
                    let (mut health, mut next) = (Health::default(), Instant::now());
                    loop {
                        let found = probe::tcp(*port);
                        let why = found.clone().err();
                        match health.observe(found) {
                            Some(Word::Healthy) => return,
                            _ => assert!(next < deadline, "{port} gets healthy: {why:?}"),
                        }
                        next += health.interval();
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                });
            }
        });
    }

    /// Runs a script on all hosts, which has to succeed.
    pub fn on_all(&self, script: &str) {
        for ran in self.cluster.on_all(script).into_values() {
            ran.ok();
        }
    }

    /// Pids of a role's processes, by the words of their command lines.
    pub fn pids(&self, is_role: impl Fn(&[String]) -> bool) -> Vec<u32> {
        let below = format!("/deis-local/{}/", self.cluster.name);
        let mut pids = procs::in_cgroup(&below);
        pids.retain(|pid| is_role(&procs::cmdline(*pid)));
        pids
    }
}

impl Host {
    /// A property of one of systemd's objects.
    pub async fn property<T: TryFrom<OwnedVariant>>(
        &self,
        path: &str,
        interface: &str,
        name: &str,
    ) -> T {
        let read = proxies::property(&self.bus, path, interface, name).await;
        let read = read.unwrap_or_else(|error| panic!("{path} {name}: {error}"));
        read.unwrap_or_else(|| panic!("{path} {name} has another type"))
    }
}

/// A shell on a host that waits for a line before it does something: what it takes to get there is not
/// measured.
struct Shell(Child);

impl Shell {
    fn open(cluster: &suite::Cluster, host: &suite::Host, script: &str) -> Self {
        let script = format!("echo ready; read go; {script}");
        let mut child = Command::new(suite::DEISCTL)
            .args(["cluster", "exec", "--name", &cluster.name, &host.name])
            .args(["--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("deisctl");
        let out = child.stdout.take().expect("stdout");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "{}", host.name);
        Self(child)
    }

    fn go(&mut self) {
        let input = self.0.stdin.as_mut().expect("stdin");
        input.write_all(b"go\n").expect("written");
    }

    fn end(mut self) {
        assert!(self.0.wait().expect("ended").success(), "systemctl start");
    }
}
