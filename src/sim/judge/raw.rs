//! Raw units: what operators want of them, and what runs.

use uuid::Uuid;

use super::{Book, CLOSING, Judge, host_of, machine, now};
use crate::{
    model::*,
    plan::fleet::{XFleet, text_hash},
    sim::sky::lock,
    store::keys,
};

impl Judge {
    /// systemd has been asked to start a raw unit.
    pub fn starts_raw(&self, host: usize, unit: &str, uuid: Uuid) {
        let mut book = lock(&self.0);
        book.note("start unit", &format!("{unit} on {host} ({uuid})"));
        let known = (machine(host).to_string(), unit.to_owned(), uuid);
        if !book.assigned.contains(&known) {
            book.accuse(format!(
                "{unit} is started on host {host} as {uuid}, which was never assigned there"
            ));
        }
    }

    /// A raw unit runs, or runs no more.
    pub fn raw_unit(&self, host: usize, unit: &str, uuid: Uuid, is_live: bool) {
        let mut book = lock(&self.0);
        let verb = if is_live { "is live" } else { "rests" };
        book.note("unit", &format!("{unit} on {host} {verb}"));
        let of = (host, unit.to_owned());
        if !is_live {
            book.raw.remove(&of);
            return;
        }
        book.raw.insert(of, uuid);
        book.at_most_one_unit(unit);
    }

    /// A raw unit is being stopped.
    pub fn stops_raw(&self, host: usize, unit: &str, uuid: Uuid) {
        let mut book = lock(&self.0);
        book.note("stop unit", &format!("{unit} on {host}"));
        let key = keys::assignment(&machine(host), unit);
        let assignment = book.read::<Assignment>(key.as_str());
        let assignment = assignment.filter(|assignment| assignment.uuid == uuid);
        let resumed = book.resumed.get(&uuid).copied();
        let is_old = resumed.is_none_or(|since| now() - since > CLOSING);
        if is_old && assignment.is_some_and(|assignment| assignment.desired == Desired::Run) {
            book.accuse(format!(
                "{unit} on host {host} is stopped, and nobody asked for it"
            ));
        }
    }
}

impl Book {
    fn is_global(&self, unit: &str) -> bool {
        let Ok(name) = unit.parse::<UnitFileName>() else {
            return false;
        };
        let file = self.read::<UnitFile>(keys::unit(&name).as_str());
        // One whose record is gone may have been.
        file.is_none_or(|file| XFleet::parse(&name, &file.text).is_ok_and(|x| x.global))
    }

    /// While no host is lost, a unit runs once.
    fn at_most_one_unit(&mut self, unit: &str) {
        if !self.gentle || self.is_global(unit) {
            return;
        }
        let all = self.raw.keys().filter(|(_, name)| name == unit);
        let hosts: Vec<String> = all.map(|(host, _)| host.to_string()).collect();
        if hosts.len() > 1 {
            let hosts = hosts.join(" and ");
            self.accuse(format!("{unit} runs on hosts {hosts} at a time"));
        }
    }

    /// Whether an assigned unit is as it has to be in the end; whose record says what that is.
    pub(super) fn unit_rests(&self, id: &MachineId, name: &str) -> Result<(), String> {
        let unit: UnitFileName = name.parse().map_err(|_| format!("{name}: a name"))?;
        let assignment = self.read::<Assignment>(keys::assignment(id, name).as_str());
        let assignment = assignment.ok_or("an assignment")?;
        let Some(file) = self.read::<UnitFile>(keys::unit(&unit).as_str()) else {
            return Err(format!("{name} is assigned to {id}, and is no unit"));
        };
        let wanted = match file.target {
            UnitTarget::Inactive => None,
            UnitTarget::Loaded => Some(Desired::Load),
            UnitTarget::Launched => Some(Desired::Run),
        };
        if wanted != Some(assignment.desired) {
            return Err(format!("{name} is to {wanted:?}: {assignment:?}"));
        }
        if !assignment.is_of_text(&text_hash(&file.text)) {
            return Err(format!("{name} has another text on {id}"));
        }
        let state = self.read::<MachineState>(keys::state(id).as_str());
        let said = state.and_then(|state| state.processes.get(name).cloned());
        let done = said
            .filter(|said| said.uuid == assignment.uuid)
            .and_then(|said| Some(said.unit?.done));
        if done != Some(file.target) {
            return Err(format!("{name} on {id} is reported as {done:?}"));
        }
        let there = self.raw.get(&(host_of(id), name.to_owned()));
        match (file.target, there) {
            (UnitTarget::Loaded, Some(_)) => Err(format!("{name} runs on {id}")),
            (_, Some(uuid)) if *uuid != assignment.uuid => {
                Err(format!("{name} on {id} is another: {uuid}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether each unit that is to be somewhere is on one host, or a global one on all that are open.
    pub(super) fn units_are_placed(&self) -> Result<(), String> {
        for key in self.keys.keys() {
            let Some(name) = key.strip_prefix(keys::units().as_str()) else {
                continue;
            };
            let file = self.read::<UnitFile>(key).ok_or("a unit's file")?;
            let on = self
                .keys
                .keys()
                .filter_map(|key| keys::parse_assignment(key));
            let on = on.filter(|(_, unit)| *unit == name).count();
            let is_enough = match file.target {
                UnitTarget::Inactive => on == 0,
                UnitTarget::Loaded | UnitTarget::Launched if self.is_global(name) => {
                    let machines = self.keys.keys();
                    let prefix = keys::machines();
                    let machines = machines.filter(|key| key.starts_with(prefix.as_str()));
                    on + self.closed.len() >= machines.count()
                }
                UnitTarget::Loaded | UnitTarget::Launched => on == 1,
            };
            if !is_enough {
                return Err(format!("{name} ({:?}) is on {on} hosts", file.target));
            }
        }
        Ok(())
    }
}
