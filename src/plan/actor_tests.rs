//! The simulated cluster's agents and routers: what the real ones promise, and the law that they check.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::sim_tests::Sim;
use crate::{
    model::*,
    store::{Txn, keys},
};

/// How processes of a release behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    /// Crashes again and again.
    Crashes,
    /// Starts and never gets healthy.
    Hangs,
    /// Like `Crashes`, but only from this number on.
    CrashesFrom(u32),
}

#[derive(Clone)]
pub(super) struct Local {
    pub(super) state: ProcessState,
    /// Its service key's revision while it is published, and whether it ever was.
    published: Option<Revision>,
    /// Its host's lease had run out, and it is stopped until that is back.
    pub(super) fenced: bool,
}

impl Local {
    pub(super) fn new(assignment: &Assignment) -> Self {
        let state = ProcessState {
            unit: None,
            uuid: assignment.uuid,
            phase: Phase::Preparing,
            ready: false,
            port: None,
            withdrawn: None,
            fenced: None,
            exit: None,
            exit_code: None,
            restarts: 0,
            since: Timestamp::UNIX_EPOCH,
            reason: None,
            log: vec![],
        };
        Self {
            state,
            published: None,
            fenced: false,
        }
    }
}

#[derive(Default)]
pub(super) struct Agent {
    pub(super) alive: bool,
    /// Cut off from the store while everything on it runs on: when its processes of single types have
    /// been stopped.
    pub(super) cut: Option<Duration>,
    pub(super) local: BTreeMap<String, Local>,
}

#[derive(Default, Clone)]
pub(super) struct Router {
    pub(super) id: u128,
    pub(super) table: BTreeSet<String>,
    /// Withdrawn backends that requests still hold.
    pub(super) held: BTreeSet<String>,
    pub(super) applied: Revision,
    pub(super) drained: Revision,
    /// Changes of routes that it knows.
    pub(super) routes: Revision,
}

impl Sim {
    /// One step of an agent on each of its processes.
    pub(super) fn agent(&mut self, id: &MachineId) {
        let Some(mut agent) = self.agents.remove(id) else {
            return;
        };
        if agent.alive && agent.cut.is_none() {
            self.agent_step(id, &mut agent);
        }
        self.agents.insert(id.clone(), agent);
    }

    pub(super) fn agent_step(&mut self, id: &MachineId, agent: &mut Agent) {
        let prefix = format!("/deis/schedule/{id}/");
        let assigned: BTreeMap<String, (Assignment, Revision)> = self
            .kv
            .under(&prefix)
            .map(|(key, entry)| {
                let name = key[prefix.len()..].to_owned();
                (
                    name,
                    (entry.decode().expect("assignment"), entry.mod_revision),
                )
            })
            .collect();
        let gone: Vec<String> = agent
            .local
            .iter()
            .filter(|(name, local)| {
                assigned
                    .get(*name)
                    .is_none_or(|(a, _)| a.uuid != local.state.uuid)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let local = agent.local.remove(&name).expect("just seen");
            self.withdraw(&name, &local);
        }
        for (name, (assignment, revision)) in assigned {
            let Ok(process) = name.parse::<ProcessName>() else {
                continue;
            };
            match assignment.desired {
                Desired::Stop => {
                    if let Some(local) = agent.local.remove(&name) {
                        self.check_stop(&process, &local);
                        self.withdraw(&name, &local);
                    }
                    continue;
                }
                Desired::Drain => {
                    // Also an address that a former life of this agent has published.
                    let local = agent
                        .local
                        .entry(name.clone())
                        .or_insert_with(|| Local::new(&assignment));
                    let service = keys::service(&process.app, &process);
                    let there = self.kv.get(&service).map(|(_, entry)| entry.mod_revision);
                    local.published = local.published.or(there);
                    if local.published.is_some() {
                        let withdrawn = self.withdraw(&name, local);
                        local.published = None;
                        local.state.ready = false;
                        local.state.withdrawn = Some(withdrawn);
                    }
                    continue;
                }
                Desired::Run | Desired::Load => {}
            }
            if let Work::Run { .. } = assignment.work {
                if !agent.local.contains_key(&name) {
                    *self.commands.entry(process.release).or_default() += 1;
                }
                let local = agent
                    .local
                    .entry(name)
                    .or_insert_with(|| Local::new(&assignment));
                self.run_command(&mut local.state);
                continue;
            }
            let local = agent
                .local
                .entry(name)
                .or_insert_with(|| Local::new(&assignment));
            local.fenced = false;
            local.state.fenced = match assignment.work {
                Work::Process {
                    single: true,
                    marks,
                    ..
                } => Some(marks),
                _ => None,
            };
            let health = self
                .health
                .get(&process.release)
                .copied()
                .unwrap_or(Health::Good);
            let crashes = health == Health::Crashes
                || matches!(health, Health::CrashesFrom(from) if process.number >= from);
            match local.state.phase {
                Phase::Preparing => local.state.phase = Phase::Starting,
                Phase::Starting if health == Health::Hangs => {}
                Phase::Starting | Phase::Crashed if crashes => {
                    local.state.phase = Phase::Crashed;
                    local.state.restarts += 1;
                    local.state.log = vec!["boom".into()];
                }
                _ if !local.state.ready => {
                    local.state.phase = Phase::Up;
                    if process.kind.is_routable() {
                        let service = keys::service(&process.app, &process);
                        let txn = Txn::new()
                            .unchanged(&keys::assignment(id, &process.to_string()), revision)
                            .put(&service, &format!("{id}:1"));
                        local.published = self.kv.commit(&txn).ok();
                        local.state.ready = local.published.is_some();
                        local.state.withdrawn = None;
                    } else {
                        local.state.ready = true;
                    }
                }
                _ => {}
            }
        }
        let processes = agent
            .local
            .iter()
            .map(|(n, l)| (n.clone(), l.state.clone()))
            .collect();
        let report = MachineState {
            schema: 1,
            registration: None,
            processes,
        };
        let key = keys::state(id);
        if self.kv.get(&key).is_none_or(|(there, _)| there != report) {
            self.kv.put(&key, &report);
        }
    }

    /// A step in the life of a release command.
    fn run_command(&self, state: &mut ProcessState) {
        match (state.phase, self.command) {
            (Phase::Preparing, _) => state.phase = Phase::Starting,
            (Phase::Starting, Some(code)) => {
                (state.phase, state.ready) = (Phase::Stopping, true);
                state.exit_code = Some(code);
                state.reason = Some(format!("ended with exit code {code}"));
                if code != 0 {
                    state.log = vec!["no such table".into()];
                }
            }
            _ => {}
        }
    }

    pub(super) fn withdraw(&mut self, name: &str, local: &Local) -> Revision {
        let Some(published) = local.published else {
            return self.kv.revision;
        };
        let process: ProcessName = name.parse().expect("process");
        let key = keys::service(&process.app, &process);
        let txn = Txn::new().unchanged(&key, published).delete(&key);
        self.kv.commit(&txn).unwrap_or(self.kv.revision)
    }

    /// Law: nothing is stopped that a router may send a request to, or has a request with.
    pub(super) fn check_stop(&self, process: &ProcessName, local: &Local) {
        assert_eq!(
            local.published, None,
            "{process} is stopped while it is published"
        );
        for (ip, router) in &self.routers {
            let name = process.to_string();
            assert!(
                !router.table.contains(&name),
                "{process} is stopped, router {ip} routes to it"
            );
            assert!(
                !router.held.contains(&name),
                "{process} is stopped, {ip} has requests with it"
            );
        }
    }

    /// A router reads the table; requests hold what was withdrawn.
    pub(super) fn route(&mut self, ip: &str) {
        let table: BTreeSet<String> = self
            .kv
            .under("/deis/services/")
            .filter_map(|(key, _)| key.rsplit('/').next().map(str::to_owned))
            .collect();
        let revision = self.kv.services;
        let Some(router) = self.routers.get_mut(ip) else {
            return;
        };
        router.held.extend(router.table.difference(&table).cloned());
        router.table = table;
        router.applied = revision;
        router.routes = self.kv.routes;
        if router.held.is_empty() {
            router.drained = revision;
        }
        self.acknowledge(ip);
    }

    /// A router's requests end.
    pub(super) fn finish_requests(&mut self, ip: &str) {
        if let Some(router) = self.routers.get_mut(ip) {
            router.held.clear();
            router.drained = router.applied;
        }
        self.acknowledge(ip);
    }

    pub(super) fn acknowledge(&mut self, ip: &str) {
        let Some(router) = self.routers.get(ip) else {
            return;
        };
        let presence = RouterPresence {
            schema: 1,
            id: Uuid::from_u128(router.id),
            address: format!("{ip}:80"),
            applied: router.applied,
            drained: router.drained,
            drained_by_app: None,
            routes: Some(router.routes),
        };
        let key = keys::router(ip);
        if self.kv.get(&key).is_none_or(|(there, _)| there != presence) {
            self.kv.put(&key, &presence);
        }
    }
}
