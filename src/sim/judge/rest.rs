//! The end: what has to be there once everything is at rest, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Judge, RouterSight, host_of, machine};
use crate::{model::*, sim::sky::lock, store::keys};

impl Judge {
    /// Whether what users asked for last is what runs.
    pub fn are_active(&self, expected: &BTreeMap<AppName, ReleaseNumber>) -> Result<(), String> {
        let book = lock(&self.0);
        for (name, version) in expected {
            let app = book.read::<App>(keys::app(name).as_str());
            let active = app.map(|app| app.active);
            if active != Some(*version) {
                return Err(format!(
                    "{name} {version} was asked for, {active:?} is active"
                ));
            }
        }
        Ok(())
    }
}

/// The end: one release per app, the wanted numbers, and no trace of anything else.
impl Judge {
    /// Whether everything is as it should be; why not.
    pub fn is_settled(&self, on: &BTreeSet<usize>, routers: &[RouterSight]) -> Result<(), String> {
        let book = lock(&self.0);
        let mut wanted: BTreeMap<(String, ProcessType), u32> = BTreeMap::new();
        for key in book.keys.keys() {
            let Some(path) = key.strip_prefix("/deis/apps/") else {
                continue;
            };
            if path.ends_with("/rollout") {
                return Err(format!("{key} goes on"));
            }
            if path.contains('/') {
                continue;
            }
            let app = book.read::<App>(key).ok_or("an app that can't be read")?;
            let name: AppName = path.parse().map_err(|_| "an app's name")?;
            if app.destroying {
                return Err(format!("{key} is being destroyed"));
            }
            for version in 1..=app.latest.0 {
                let version = ReleaseNumber(version);
                if !book
                    .keys
                    .contains_key(keys::release(&name, version).as_str())
                {
                    return Err(format!("{name} has no {version}"));
                }
                if !book
                    .keys
                    .contains_key(keys::outcome(&name, version).as_str())
                {
                    return Err(format!("{name} {version} has no outcome"));
                }
            }
            for (kind, count) in app.structure {
                if count > 0 {
                    wanted.insert((path.to_owned(), kind), count);
                }
            }
        }
        let mut there: BTreeMap<(String, ProcessType), u32> = BTreeMap::new();
        let mut running: BTreeSet<(usize, String, Uuid)> = BTreeSet::new();
        let mut services: BTreeSet<String> = BTreeSet::new();
        for key in book.keys.keys() {
            let Some((id, name)) = keys::parse_assignment(key) else {
                continue;
            };
            let assignment = book.read::<Assignment>(key).ok_or("an assignment")?;
            if matches!(assignment.work, Work::Unit { .. }) {
                book.unit_rests(&id, name)?;
                running.insert((host_of(&id), name.to_owned(), assignment.uuid));
                continue;
            }
            let process: ProcessName = name.parse().map_err(|_| format!("{key}: a name"))?;
            let app = book.read::<App>(keys::app(&process.app).as_str());
            let record = book.read::<HostRecord>(keys::host(&id).as_str());
            if record.is_some_and(|record| record.drain.is_some()) {
                return Err(format!("{key} is on a host that is being drained"));
            }
            let host = host_of(&id);
            let is = book.units.get(&(host, name.to_owned()));
            if assignment.desired != Desired::Run
                || app.is_none_or(|app| app.active != process.release)
            {
                return Err(format!("{key} is {:?}", assignment.desired));
            }
            if !is.is_some_and(|is| is.up && is.healthy && is.uuid == assignment.uuid) {
                return Err(format!("{key} ({}) is {is:?}", assignment.uuid));
            }
            let state = book.read::<MachineState>(keys::state(&id).as_str());
            let state = state.and_then(|state| state.processes.get(name).cloned());
            if !state.as_ref().is_some_and(|state| state.ready) {
                return Err(format!("{key} is reported as {state:?}"));
            }
            let of = (process.app.to_string(), process.kind.clone());
            *there.entry(of).or_default() += 1;
            running.insert((host, name.to_owned(), assignment.uuid));
            if process.kind.is_routable() {
                services.insert(keys::service(&process.app, &process).to_string());
            }
        }
        book.units_are_placed()?;
        if there != wanted {
            return Err(format!("{there:?} are there, {wanted:?} are wanted"));
        }
        let processes = book.units.iter();
        let processes = processes.map(|((host, name), sight)| (*host, name.clone(), sight.uuid));
        let raw = book.raw.iter();
        let raw = raw.map(|((host, name), uuid)| (*host, name.clone(), *uuid));
        let really: BTreeSet<_> = processes.chain(raw).collect();
        if let Some(more) = really.difference(&running).next() {
            return Err(format!("{more:?} runs, and is not assigned"));
        }
        let published: BTreeSet<String> = book
            .keys
            .keys()
            .filter(|key| keys::parse_service(key).is_some())
            .cloned()
            .collect();
        if published != services {
            return Err(format!("{published:?} are published, not {services:?}"));
        }
        for host in on {
            let id = machine(*host);
            let state = book.read::<MachineState>(keys::state(&id).as_str());
            let reported = state.map(|state| state.processes).unwrap_or_default();
            if let Some(name) = reported
                .keys()
                .find(|name| !running.iter().any(|(of, n, _)| of == host && n == *name))
            {
                return Err(format!("host {host} still reports {name}"));
            }
        }
        for router in routers {
            let table: BTreeSet<String> = router.table.iter().map(|e| e.key.clone()).collect();
            if !router.serves || table != services {
                return Err(format!("router {} knows {table:?}", router.ip));
            }
        }
        Ok(())
    }
}
