//! The cluster and its hosts: `deisctl`, a shell on each, etcd.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde::Deserialize;

use super::command::*;

pub const DEISCTL: &str = env!("CARGO_BIN_EXE_deisctl");

#[derive(Debug, Clone, Deserialize)]
pub struct Host {
    pub name: String,
    pub address: String,
    pub machine_id: String,
}

#[derive(Debug, Deserialize)]
pub struct Cluster {
    pub name: String,
    /// This machine, as the hosts see it.
    pub gateway: String,
    pub hosts: Vec<Host>,
}

impl Cluster {
    /// The cluster that `make test` has started.
    pub fn get() -> Self {
        let name = std::env::var("DEIS_TEST_CLUSTER").unwrap_or_else(|_| "test".into());
        let path = format!("/var/lib/deis-local/{name}/cluster.yaml");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}; `make test` starts the cluster"));
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn deisctl(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(DEISCTL);
        command.args(["--cluster", &self.name]).args(args);
        run(&mut command, 5 * MINUTE)
    }

    /// The same where files lie that the command names.
    pub fn deisctl_in(&self, dir: &Path, args: &[&str]) -> Ran {
        let mut command = Command::new(DEISCTL);
        command
            .current_dir(dir)
            .args(["--cluster", &self.name])
            .args(args);
        run(&mut command, 5 * MINUTE)
    }

    /// Runs a shell script on a host, as root.
    pub fn sh(&self, host: &Host, script: &str) -> Ran {
        let mut command = Command::new(DEISCTL);
        let args = [
            "cluster", "exec", "--name", &self.name, &host.name, "--", "sh", "-c", script,
        ];
        run(command.args(args), 5 * MINUTE)
    }

    pub fn on_all(&self, script: &str) -> BTreeMap<String, Ran> {
        self.hosts
            .iter()
            .map(|host| (host.name.clone(), self.sh(host, script)))
            .collect()
    }

    /// Whether a host runs: its systemd answers.
    pub fn is_up(&self, host: &Host) -> bool {
        self.sh(host, "true").status == Some(0)
    }

    pub fn kill_host(&self, host: &Host) {
        let mut command = Command::new(DEISCTL);
        let args = ["cluster", "kill", "--name", &self.name, &host.name];
        run(command.args(args), MINUTE).ok();
    }

    pub fn boot_host(&self, host: &Host) {
        let mut command = Command::new(DEISCTL);
        let args = ["cluster", "boot", "--name", &self.name, &host.name];
        run(command.args(args), 3 * MINUTE).ok();
    }

    /// etcdctl on a host.
    pub fn etcdctl(&self, host: &Host, args: &str) -> Ran {
        // What the profile says wins: in a cluster with certificates it names them.
        let plain = format!("http://{}:2379", host.address);
        let script = format!(
            "ETCDCTL_ENDPOINTS={plain}; . /etc/profile.d/deis.sh; export ETCDCTL_ENDPOINTS; etcdctl {args}"
        );
        self.sh(host, &script)
    }

    /// The host on which a process runs, by `deisctl list`.
    pub fn host_of(&self, process: &str) -> &Host {
        let list = self.deisctl(&["list"]).ok().out;
        let line = list
            .lines()
            .find(|line| {
                line.split_whitespace()
                    .next()
                    .is_some_and(|unit| unit.starts_with(process))
            })
            .unwrap_or_else(|| panic!("{process} is not in:\n{list}"));
        self.hosts
            .iter()
            .find(|host| line.contains(&host.address) || line.contains(&host.name))
            .unwrap_or_else(|| panic!("no host in {line:?}"))
    }

    /// Invocation and container start of every process of an app, by host that is up.
    pub fn lives(&self, app: &str) -> BTreeMap<String, String> {
        let script = format!(
            "for u in $(systemctl list-units --plain --no-legend '{app}_v*.service' | awk '{{print $1}}' | sort); do echo $u $(systemctl show -p InvocationID --value $u); done; podman ps --format '{{{{.Names}}}} {{{{.StartedAt}}}} {{{{.Pid}}}}' --filter name=^{app}_ | sort"
        );
        self.on_all(&script)
            .into_iter()
            .filter(|(_, ran)| ran.status == Some(0))
            .map(|(host, ran)| (host, ran.out))
            .collect()
    }

    pub fn agents_answer(&self) {
        eventually("all agents are active again", MINUTE, || {
            let states = self.on_all("systemctl is-active deis-agent");
            match states.values().find(|ran| ran.out.trim() != "active") {
                None => Ok(()),
                Some(ran) => Err(format!("{ran:?}")),
            }
        });
    }
}
