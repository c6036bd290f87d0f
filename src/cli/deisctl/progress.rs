//! How far a platform unit is on its way up or down, in words. Pure.

use super::{
    fleet::{Fleet, words},
    platform::Instance,
};
use crate::model::{Desired, Phase};

/// Where a unit is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Active on a host that is present, and registered.
    Running,
    /// Nowhere.
    Stopped,
}

/// Whether it is there, and what there is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It is.
    Done(String),
    /// It isn't, and waits for this.
    Open(String),
}

/// How far the instance is.
#[must_use]
pub fn progress(fleet: &Fleet, instance: Instance, goal: Goal) -> Progress {
    match goal {
        Goal::Running => running(fleet, instance),
        Goal::Stopped => stopped(fleet, instance),
    }
}

fn running(fleet: &Fleet, instance: Instance) -> Progress {
    let name = instance.to_string();
    let assigned = fleet
        .assignments
        .iter()
        .find(|((unit, _), assignment)| *unit == name && assignment.desired == Desired::Run);
    let Some(((_, machine), assignment)) = assigned else {
        return Progress::Open(fleet.why_nowhere(&name));
    };
    let host = fleet.host_label(machine);
    if !fleet.machines.contains_key(machine) {
        return Progress::Open(format!("its host {host} is absent"));
    }
    let report = fleet
        .report(machine, &name)
        .filter(|report| report.uuid == assignment.uuid);
    let Some(report) = report else {
        return Progress::Open(format!("assigned to {host}"));
    };
    let (_, active, sub) = words(report.phase);
    if report.phase != Phase::Up {
        let reason = report.reason.as_ref();
        let reason = reason
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        return Progress::Open(format!("{active}/{sub} on {host}{reason}"));
    }
    let key = instance.part.key();
    let address = fleet.address(machine).unwrap_or_default();
    let registered = fleet.registered.get(&instance.part);
    if !registered.is_some_and(|hosts| hosts.contains(address)) {
        return Progress::Open(format!(
            "{active}/{sub} on {host}, not yet registered as /deis/{key}/hosts/{address}"
        ));
    }
    Progress::Done(format!("{active}/{sub}"))
}

fn stopped(fleet: &Fleet, instance: Instance) -> Progress {
    let name = instance.to_string();
    for machine in fleet.machines.keys() {
        if let Some(report) = fleet.report(machine, &name) {
            let (_, active, sub) = words(report.phase);
            let host = fleet.host_label(machine);
            return Progress::Open(format!("{active}/{sub} on {host}"));
        }
    }
    // With the last controller the leader goes, too: what it no longer deletes is to stop all the
    // same. On a host that is absent nothing more can be done than to say so to it.
    let open = fleet
        .assignments
        .iter()
        .find(|((unit, _), assignment)| *unit == name && assignment.desired != Desired::Stop);
    match open {
        Some(((_, machine), _)) => {
            Progress::Open(format!("still assigned to {}", fleet.host_label(machine)))
        }
        None => Progress::Done("inactive/dead".to_owned()),
    }
}
