//! What all trials stand on: a whole cluster, an app that serves on it, and questions about both.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, str::FromStr, time::Duration};

use crate::{stage::ACTOR, support::*};

/// The app that most trials watch: three processes that serve, two that work.
pub const APP: &str = "steady";
pub const WEB: usize = 3;
pub const WORKERS: usize = 2;
/// nft's table of a trial that cuts a host off.
pub const CUT: &str = "soak";

/// What a trial tells of itself.
#[derive(Default)]
pub struct Notes {
    /// In which form it ran, where there are several: "600 s".
    pub form: String,
    pub figures: Vec<String>,
}

impl Notes {
    pub fn form(&mut self, form: impl fmt::Display) {
        self.form = form.to_string();
    }

    pub fn figure(&mut self, figure: impl fmt::Display) {
        println!("    {figure}");
        self.figures.push(figure.to_string());
    }
}

/// A number from the environment: how long or how often.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text}: no number")),
        Err(_) => default,
    }
}

/// Where the processes of an app are: name to host.
pub type Places = BTreeMap<String, String>;

/// A cluster and its first user.
pub struct Ground {
    pub cluster: Cluster,
    pub user: User,
}

impl Ground {
    pub fn new() -> Self {
        let cluster = Cluster::get();
        let user = User::first(&cluster);
        Self { cluster, user }
    }

    /// The app, with all its processes up and no other unit of its anywhere.
    pub fn steady(&self) -> App<'_> {
        let app = if self.user.deis(&["apps"]).ok().out.contains(APP) {
            App::kept(&self.user, APP)
        } else {
            let app = App::pushed(&self.user, APP);
            app.keep();
            app
        };
        let (web, workers) = (format!("web={WEB}"), format!("worker={WORKERS}"));
        app.deis(&["scale", &web, &workers]).ok();
        self.wait_settled(MINUTE);
        app
    }

    /// Waits until the app has exactly its processes, on hosts that live. Says how long it took.
    #[track_caller]
    pub fn wait_settled(&self, limit: Duration) -> Duration {
        let begun = std::time::Instant::now();
        eventually("the app has exactly its processes", limit, || {
            self.settled()
        });
        begun.elapsed()
    }

    /// Whether assignments, units, containers and addresses are exactly what was asked for, on all
    /// hosts that are up: nothing lost, no orphan.
    pub fn settled(&self) -> Result<(), String> {
        let places = self.places(APP)?;
        let kind = |kind: &str| {
            let infix = format!(".{kind}.");
            places.keys().filter(|name| name.contains(&infix)).count()
        };
        if (kind("web"), kind("worker")) != (WEB, WORKERS) {
            return Err(format!("assigned: {places:?}"));
        }
        for host in self.up() {
            let assigned = places.iter().filter(|(_, at)| **at == host.name);
            let assigned: Vec<&str> = assigned.map(|(name, _)| name.as_str()).collect();
            let running = self.running_on(host, APP);
            if running.units != assigned || running.containers != assigned {
                return Err(format!("{}: assigned {assigned:?}, {running:?}", host.name));
            }
        }
        let published = self.values(&format!("/deis/services/{APP}/"))?.len();
        if published != WEB {
            return Err(format!("{published} addresses are published"));
        }
        Ok(())
    }

    /// What etcd has assigned of an app. An error while etcd doesn't answer.
    pub fn places(&self, app: &str) -> Result<Places, String> {
        let names: BTreeMap<&str, &str> = self
            .cluster
            .hosts
            .iter()
            .map(|host| (host.machine_id.as_str(), host.name.as_str()))
            .collect();
        let keys = self.values("/deis/schedule/")?;
        let ours = keys.keys().filter_map(|key| {
            let (machine, process) = key.strip_prefix("/deis/schedule/")?.split_once('/')?;
            let host = names.get(machine).copied().unwrap_or(machine);
            let is_ours = process.starts_with(&format!("{app}_v"));
            is_ours.then(|| (process.to_owned(), host.to_owned()))
        });
        Ok(ours.collect())
    }

    /// Keys and values below a prefix, by a host whose etcd answers.
    pub fn values(&self, prefix: &str) -> Result<BTreeMap<String, String>, String> {
        let mut last = "no host is up".to_owned();
        for host in self.up() {
            let ran = self.cluster.etcdctl(
                host,
                &format!("--dial-timeout=2s --command-timeout=3s get --prefix {prefix}"),
            );
            if ran.status == Some(0) {
                let lines: Vec<&str> = ran.out.lines().collect();
                let pairs = lines.chunks_exact(2);
                return Ok(pairs.map(|pair| (pair[0].into(), pair[1].into())).collect());
            }
            last = ran.err;
        }
        Err(last)
    }

    /// Units and containers of an app on a host, sorted.
    pub fn running_on(&self, host: &Host, app: &str) -> Running {
        let script = format!(
            "systemctl list-units --all --plain --no-legend '{app}_v*.service' | awk '{{print $1}}'; \
             echo; podman ps -a --format '{{{{.Names}}}}' --filter name=^{app}_"
        );
        let out = self.cluster.sh(host, &script).ok().out;
        let (units, containers) = out.split_once("\n\n").unwrap_or((&out, ""));
        let units = units
            .lines()
            .filter_map(|line| line.strip_suffix(".service"));
        let units = units.filter(|unit| !unit.ends_with("-announce") && !unit.ends_with("-log"));
        let sorted = |names: Vec<&str>| {
            let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            names.retain(|name| !name.trim().is_empty());
            names.sort();
            names
        };
        Running {
            units: sorted(units.collect()),
            containers: sorted(containers.lines().collect()),
        }
    }

    /// Hosts that are up.
    pub fn up(&self) -> impl Iterator<Item = &Host> {
        let hosts = self.cluster.hosts.iter();
        hosts.filter(|host| self.cluster.is_up(host))
    }

    /// The others.
    pub fn others<'a>(&'a self, host: &Host) -> Vec<&'a Host> {
        let name = host.name.clone();
        let hosts = self.cluster.hosts.iter();
        hosts.filter(|other| other.name != name).collect()
    }

    /// A host with a process that serves and one that works.
    #[track_caller]
    pub fn busy_host(&self) -> &Host {
        let places = self.places(APP).expect("etcd answers");
        let has = |host: &Host, kind: &str| {
            let mut all = places.iter();
            all.any(|(name, at)| *at == host.name && name.contains(kind))
        };
        let mut hosts = self.cluster.hosts.iter();
        hosts
            .find(|host| has(host, ".web.") && has(host, ".worker."))
            .unwrap_or_else(|| panic!("no host has a web and a worker: {places:?}"))
    }

    /// The state that `deisctl machines` shows of a host.
    pub fn machine_state(&self, host: &Host) -> Result<String, String> {
        let ran = self.cluster.deisctl(&["machines"]);
        let line = ran.out.lines().find(|line| line.contains(&host.address));
        let line = line.ok_or_else(|| ran.all())?;
        Ok(line
            .split("2.0.0-dev")
            .last()
            .unwrap_or(line)
            .trim()
            .to_owned())
    }

    #[track_caller]
    pub fn wait_machine(&self, host: &Host, state: &str, limit: Duration) {
        let what = format!("{} is {state}", host.name);
        eventually(&what, limit, || match self.machine_state(host) {
            Ok(found) if found.contains(state) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// What ran on the other hosts before runs there still.
    #[track_caller]
    pub fn others_untouched(&self, host: &Host, before: &BTreeMap<String, String>) {
        let now = self.cluster.lives(APP);
        for other in self.others(host) {
            let now = &now[&other.name];
            let missing = before[&other.name].lines().find(|line| !now.contains(line));
            assert_eq!(missing, None, "what ran on {} runs on: {now}", other.name);
        }
    }

    /// Waits until every part of the platform is up and registered.
    #[track_caller]
    pub fn wait_platform(&self, limit: Duration) {
        eventually("the platform is up", limit, || {
            let list = self.cluster.deisctl(&["list"]).all();
            let mut parts = list.lines().filter(|l| l.starts_with("deis-")).peekable();
            let any = parts.peek().is_some();
            let down = parts.find(|l| !l.contains("running") || !l.contains("yes"));
            if any && down.is_none() {
                Ok(())
            } else {
                Err(list.clone())
            }
        });
    }

    /// The host whose controller leads.
    pub fn leader(&self) -> Result<&Host, String> {
        let found = self.values("/deis/leader")?;
        let text = found.values().next().ok_or("nobody leads")?;
        let mut hosts = self.cluster.hosts.iter();
        let address = |host: &&Host| text.contains(&format!("\"{}\"", host.address));
        hosts.find(address).ok_or_else(|| text.clone())
    }

    /// Whatever a trial has left: hosts come up, etcd runs, nothing is cut off, all of the platform is
    /// up. An app that is not as it should be is made anew.
    pub fn mend(&self) {
        for host in &self.cluster.hosts {
            if !self.cluster.is_up(host) {
                self.cluster.boot_host(host);
            }
        }
        let script = format!(
            "nft delete table inet {CUT} 2>/dev/null; systemctl kill -s CONT deis-etcd 'deis-controller@*' 'deis-router@*' 2>/dev/null; \
             systemctl stop soak-fill 2>/dev/null; rm -f /var/soak-fill; \
             if [ -e /var/lib/soak ]; then rm -rf /run/systemd/system/deis-*.service.d/soak.conf /var/lib/soak; \
             systemctl daemon-reload; systemctl restart deis-agent 'deis-*@*'; fi; \
             systemctl start --no-block deis-etcd deis-agent"
        );
        for host in &self.cluster.hosts {
            let id = &host.machine_id;
            let own = format!(
                "grep -qx {id} /etc/machine-id || {{ echo {id} >/etc/machine-id; systemctl restart --no-block deis-agent; }}; {script}"
            );
            self.cluster.sh(host, &own);
        }
        for host in &self.cluster.hosts {
            self.wait_machine(host, "up", 3 * MINUTE);
        }
        self.wait_platform(2 * MINUTE);
        eventually("the API answers", MINUTE, || {
            let ran = self.user.deis(&["apps"]);
            if ran.status == Some(0) {
                Ok(())
            } else {
                Err(ran.err)
            }
        });
    }

    /// Keeps what the hosts say after a trial that failed, before it is mended; then takes its app away.
    pub fn keep_evidence(&self, trial: &str) {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/soak-evidence"));
        let _ = fs::create_dir_all(&dir);
        let mut text = self.cluster.deisctl(&["list"]).all();
        text += &self.cluster.deisctl(&["machines"]).all();
        for host in self.up() {
            let script = "journalctl --no-pager -n 6000 -o short-precise -u 'deis-*' | grep -v 'access method.*status=200'; nft list tables; \
                          systemctl list-units --all --no-pager 'steady*' 'actor*'; podman ps --all; df -h / /var/lib/containers";
            text += &format!(
                "\n\n##### {}\n{}",
                host.name,
                self.cluster.sh(host, script).all()
            );
        }
        // The entry point's word: whether it took a router for gone.
        let cluster = PathBuf::from("/var/lib/deis-local").join(&self.cluster.name);
        text += &fs::read_to_string(cluster.join("forward.log")).unwrap_or_default();
        let path = dir.join(format!("{trial}.log"));
        let _ = fs::write(&path, text);
        println!("    evidence: {}", path.display());
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.mend();
            for app in [APP, ACTOR] {
                let confirm = format!("--confirm={app}");
                let _ = self.user.deis(&["destroy", "-a", app, &confirm]);
            }
        }));
    }
}

/// What runs of an app on a host.
#[derive(Debug)]
pub struct Running {
    pub units: Vec<String>,
    pub containers: Vec<String>,
}

/// No request failed.
#[track_caller]
pub fn none_failed(loaded: &Loaded) {
    let some = &loaded.failures[..loaded.failures.len().min(20)];
    assert!(
        loaded.failures.is_empty(),
        "{} of {} requests failed: {some:#?}",
        loaded.failures.len(),
        loaded.sent
    );
}

/// Of ten clients each may have had one request in flight on a host that went; no later one fails.
#[track_caller]
pub fn only_in_flight(loaded: &Loaded, gone: Duration) {
    assert!(loaded.failures.len() <= 10, "{:#?}", loaded.failures);
    let mut failures = loaded.failures.iter();
    let late = failures.find(|(at, _)| *at > gone + Duration::from_secs(6));
    assert_eq!(
        late, None,
        "only what was in flight fails: {:#?}",
        loaded.failures
    );
}
