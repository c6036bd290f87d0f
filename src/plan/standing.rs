//! How one assigned process stands: does it serve, and may it be stopped? The two barriers are here.

use super::{
    hosts::HostMemory,
    world::{AppView, HostView, Said, World},
};
use crate::{model::*, store::Versioned};

/// One assigned process with what its host says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proc<'w> {
    pub name: &'w ProcessName,
    pub machine: &'w MachineId,
    pub assignment: &'w Versioned<Assignment>,
    pub host: &'w HostView,
    pub said: Said<'w>,
    pub lost: bool,
}

/// Why a process doesn't serve yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lag {
    /// Its host holds no lease, but isn't lost yet.
    HostAway,
    /// Its agent says nothing of it.
    Unreported,
    /// Its image is being prepared.
    Preparing(Option<String>),
    /// It is not healthy or not published yet.
    Starting(Option<String>),
    /// It won't: it crashes again and again, or can't be started.
    Broken {
        /// What its agent says.
        reason: String,
        /// Its last lines.
        log: Vec<String>,
    },
    /// Routers that don't have its address yet.
    Routers(Vec<String>),
}

/// Why an old process can't be stopped yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hold {
    /// Its address is still there, or its agent hasn't said when it went.
    Published,
    /// Routers that may still have requests with it.
    Routers(Vec<String>),
}

impl<'w> Proc<'w> {
    pub fn of(
        world: &'w World,
        name: &'w ProcessName,
        machine: &'w MachineId,
        assignment: &'w Versioned<Assignment>,
        lost: bool,
    ) -> Option<Self> {
        let host = world.hosts.get(machine)?;
        let said = host.said(&name.to_string(), assignment.value.uuid);
        Some(Self {
            name,
            machine,
            assignment,
            host,
            said,
            lost,
        })
    }

    pub fn desired(&self) -> Desired {
        self.assignment.value.desired
    }

    pub fn rollout(&self) -> Option<uuid::Uuid> {
        match &self.assignment.value.work {
            Work::Process { rollout, .. } => *rollout,
            Work::Run { .. } | Work::Unit { .. } => None,
        }
    }

    pub fn is_one_off(&self) -> bool {
        matches!(self.assignment.value.work, Work::Run { .. })
    }

    /// Whether it is a detached one-off process that has ended.
    pub fn is_over(&self) -> bool {
        let is_detached = matches!(self.assignment.value.work, Work::Run { attach: None, .. });
        is_detached && self.state().is_some_and(|state| state.ready)
    }

    pub fn state(&self) -> Option<&'w ProcessState> {
        match self.said {
            Said::State(state) => Some(state),
            Said::Nothing | Said::Unknown => None,
        }
    }

    /// Whether its host is known to stop it when its lease runs out. Who was single when he was assigned
    /// doesn't start without that. Who was marked since has to have said that he has heard of it: his
    /// host may have been cut off already.
    pub fn is_behind_fence(&self) -> bool {
        match &self.assignment.value.work {
            Work::Process { single, marks, .. } if *single => {
                *marks == 0
                    || self
                        .state()
                        .is_some_and(|state| state.fenced == Some(*marks))
            }
            Work::Process { .. } | Work::Run { .. } | Work::Unit { .. } => false,
        }
    }

    /// Whether somebody who should know has said that it is lost with its host.
    pub fn is_declared_lost(&self) -> bool {
        let record = self.host.record.as_ref();
        self.lost && record.is_some_and(|record| record.value.declared_lost)
    }

    /// `web.1 on deis-02`
    pub fn label(&self) -> String {
        format!("{} on {}", self.name.id(), self.host.name(self.machine))
    }

    /// Why it doesn't serve; none when it is healthy, published, and all routers know.
    pub fn lag(&self, world: &World, view: &AppView, crash_restarts: u32) -> Option<Lag> {
        if self.host.presence.is_absent() {
            return Some(Lag::HostAway);
        }
        let Some(state) = self.state() else {
            return Some(Lag::Unreported);
        };
        let reason = || state.reason.clone();
        match state.phase {
            Phase::Preparing => return Some(Lag::Preparing(reason())),
            Phase::Error => {
                let reason = reason().unwrap_or_else(|| "it can't be started".to_owned());
                return Some(Lag::Broken {
                    reason,
                    log: state.log.clone(),
                });
            }
            Phase::Crashed if state.restarts >= crash_restarts => {
                let reason = reason().unwrap_or_else(|| "no reason given".to_owned());
                let reason = format!("it crashed {} times: {reason}", state.restarts);
                return Some(Lag::Broken {
                    reason,
                    log: state.log.clone(),
                });
            }
            Phase::Up if state.ready => {}
            Phase::Starting | Phase::Up | Phase::Crashed | Phase::Stopping | Phase::Idle => {
                return Some(Lag::Starting(reason()));
            }
        }
        if !self.name.kind.is_routable() {
            return None;
        }
        let Some(published) = view.services.get(self.name) else {
            return Some(Lag::Starting(Some(
                "its address is not published yet".to_owned(),
            )));
        };
        let behind = world
            .routers
            .iter()
            .filter(|(_, router)| router.applied() < *published);
        let behind: Vec<String> = behind.map(|(ip, _)| ip.clone()).collect();
        (!behind.is_empty()).then_some(Lag::Routers(behind))
    }

    /// Why a draining process can't be stopped yet; none when no request can hold it any more.
    pub fn hold(&self, world: &World, view: &AppView, memory: &HostMemory) -> Option<Hold> {
        if !self.name.kind.is_routable() {
            return None;
        }
        if view.services.contains_key(self.name) {
            return Some(Hold::Published);
        }
        let told = match self.said {
            Said::Unknown => return Some(Hold::Published),
            Said::Nothing => None,
            Said::State(state) => state.withdrawn,
        };
        let seen = view.withdrawn.get(self.name);
        let withdrawn = match (told, seen) {
            (Some(told), Some(seen)) if told > seen.published => told,
            (_, Some(seen)) => seen.seen,
            (Some(told), None) => told,
            // Ready means published: the word of its withdrawal is still to come.
            (None, None) if self.state().is_some_and(|state| state.ready) => {
                return Some(Hold::Published);
            }
            // Never published: nobody can hold it.
            (None, None) => return None,
        };
        // A router that lost its lease a moment ago may be serving its last table still.
        let departed = memory.departed.iter().map(|(ip, (router, _))| (ip, router));
        let all = world.routers.iter().chain(departed);
        let behind = all.filter(|(_, router)| router.drained(&self.name.app) < withdrawn);
        let mut behind: Vec<String> = behind.map(|(ip, _)| ip.clone()).collect();
        if memory.young {
            behind.push("that went before this leader watched".to_owned());
        }
        (!behind.is_empty()).then_some(Hold::Routers(behind))
    }
}
