//! The leader's picture of the cluster: a typed mirror of what planning needs below `/deis/`.
//!
//! Kept by applying a feed's updates, key by key. A record that can't be read is set aside and named
//! ([`World::unreadable`]); what depends on it is left as it is, never taken for absent. Configs keep
//! only what placement and routers need: no sealed value stays here.

mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::Excluded,
};

use uuid::Uuid;

use super::{
    fleet::{InvalidXFleet, XFleet, text_hash},
    schedule::Resources,
};
use crate::{
    model::*,
    store::{Change, Entry, Update, Versioned, keys},
};

pub use view::{AppView, HostView, Needs, Presence, Report, RouterView, Said, Withdrawal};

/// A typed mirror of `/deis/`.
#[derive(Debug, Default)]
pub struct World {
    pub(super) revision: Revision,
    pub(super) apps: BTreeMap<AppName, AppView>,
    pub(super) hosts: BTreeMap<MachineId, HostView>,
    /// The hosts whose records ask for a drain.
    pub(super) drained: BTreeSet<MachineId>,
    pub(super) routers: BTreeMap<String, RouterView>,
    pub(super) units: BTreeMap<UnitFileName, Versioned<UnitFile>>,
    pub(super) texts: BTreeMap<UnitFileName, UnitText>,
    pub(super) domains: BTreeMap<DomainName, AppName>,
    pub(super) settings: BTreeMap<String, String>,
    leader: Option<Versioned<Leader>>,
    unreadable: BTreeMap<String, String>,
    changed: Changed,
}

/// What a unit's text says, read once per text.
#[derive(Debug)]
pub(super) struct UnitText {
    /// What identifies the text.
    pub hash: String,
    /// Its `[X-Fleet]` section.
    pub options: Result<XFleet, InvalidXFleet>,
}

/// What has changed since it was asked last.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Apps of which anything changed.
    pub apps: BTreeSet<AppName>,
    /// A host came, went, or changed its durable record.
    pub hosts: bool,
    /// Hosts whose presence went, also those that are there again.
    pub left: BTreeSet<MachineId>,
    /// Hosts of which an assignment changed.
    pub rooms: BTreeSet<MachineId>,
    /// A router came, went or acknowledged something.
    pub routers: bool,
    /// A unit file, or where one is assigned or reported.
    pub units: bool,
}

impl Changed {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another's changes.
    pub fn merge(&mut self, other: Self) {
        self.apps.extend(other.apps);
        self.hosts |= other.hosts;
        self.left.extend(other.left);
        self.rooms.extend(other.rooms);
        self.routers |= other.routers;
        self.units |= other.units;
    }
}

impl World {
    /// The revision up to which everything is known.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Who leads.
    #[must_use]
    pub const fn leader(&self) -> Option<&Versioned<Leader>> {
        self.leader.as_ref()
    }

    /// Unit files by name.
    #[must_use]
    pub const fn units(&self) -> &BTreeMap<UnitFileName, Versioned<UnitFile>> {
        &self.units
    }

    /// Hosts that are there or have something assigned or recorded.
    #[must_use]
    pub const fn hosts(&self) -> &BTreeMap<MachineId, HostView> {
        &self.hosts
    }

    /// Apps, and names that something still is assigned to.
    #[must_use]
    pub const fn apps(&self) -> &BTreeMap<AppName, AppView> {
        &self.apps
    }

    /// The addresses of the routers that are registered.
    pub fn routers(&self) -> impl Iterator<Item = &str> {
        self.routers.keys().map(String::as_str)
    }

    /// Keys whose records can't be read, and why.
    #[must_use]
    pub const fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }

    /// Whether nothing is assigned between two keys of assignments on one host.
    pub(super) fn is_gap(&self, from: &str, to: &str) -> bool {
        let (Some((host, from)), Some((other, to))) =
            (keys::split_assignment(from), keys::split_assignment(to))
        else {
            return false;
        };
        let is_free = |host: &HostView| {
            let mut between = host.names.range::<str, _>((Excluded(from), Excluded(to)));
            between.next().is_none()
        };
        host == other && from < to && self.hosts.get(host).is_none_or(is_free)
    }

    /// Takes what has changed since the last call.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Brings the picture up to date.
    pub fn apply(&mut self, update: &Update) {
        for change in &update.changes {
            self.change(change);
        }
        self.revision = self.revision.max(update.revision);
    }

    fn change(&mut self, change: &Change) {
        let Some(path) = change.key.strip_prefix(keys::ROOT) else {
            return;
        };
        self.unreadable.remove(&change.key);
        let parts: Vec<&str> = path.split('/').collect();
        let result = match parts[..] {
            ["apps", app, ..] => self.app_key(app, &parts[2..], change),
            ["schedule", machine, name] => self.assignment(machine, name, change),
            ["routes", app] => self.route(app, change),
            ["services", app, process] => self.service(app, process, change),
            ["state", machine] => self.report(machine, change),
            ["machines", machine] => self.machine(machine, change),
            ["hosts", machine] => self.host(machine, change),
            ["router", "hosts", ip] => {
                self.router(ip, change);
                Ok(())
            }
            ["units", name] => self.unit(name, change),
            ["domains", domain] => self.domain(domain, change),
            ["platform", name] => {
                match decode::<String>(change) {
                    Ok(Some(text)) => self.settings.insert(name.to_owned(), text.value),
                    Ok(None) | Err(_) => self.settings.remove(name),
                };
                Ok(())
            }
            ["leader"] => decode(change).map(|leader| self.leader = leader),
            _ => Ok(()),
        };
        if let Err(why) = result {
            self.unreadable.insert(change.key.clone(), why);
        }
    }

    /// The view of an app, marked as changed.
    fn app(&mut self, app: &AppName) -> &mut AppView {
        self.changed.apps.insert(app.clone());
        self.apps.entry(app.clone()).or_default()
    }

    fn forget_empty_app(&mut self, app: &AppName) {
        if self.apps.get(app).is_some_and(AppView::is_empty) {
            self.apps.remove(app);
        }
    }

    fn forget_empty_host(&mut self, id: &MachineId) {
        if self.hosts.get(id).is_some_and(HostView::is_empty) {
            self.hosts.remove(id);
        }
    }

    fn app_key(&mut self, app: &str, rest: &[&str], change: &Change) -> Result<(), String> {
        let name: AppName = parse(app)?;
        let view = self.app(&name);
        view.unreadable.remove(&change.key);
        let result = view.key(rest, change);
        if result.is_err() {
            view.unreadable.insert(change.key.clone());
        }
        self.forget_empty_app(&name);
        result
    }

    fn route(&mut self, app: &str, change: &Change) -> Result<(), String> {
        let name: AppName = parse(app)?;
        let view = self.app(&name);
        view.unreadable.remove(&change.key);
        let result = decode(change).map(|route| view.route = route);
        if result.is_err() {
            view.unreadable.insert(change.key.clone());
        }
        self.forget_empty_app(&name);
        result
    }

    fn assignment(&mut self, machine: &str, name: &str, change: &Change) -> Result<(), String> {
        let id: MachineId = parse(machine)?;
        self.changed.rooms.insert(id.clone());
        let host = self.hosts.entry(id.clone()).or_default();
        match change.entry {
            Some(_) => drop(host.names.insert(name.to_owned())),
            None => drop(host.names.remove(name)),
        }
        if let Ok(process) = name.parse::<ProcessName>() {
            return self.process_assignment(id, process, change);
        }
        let unit: UnitFileName = parse(name)?;
        self.changed.units = true;
        let host = self.hosts.entry(id.clone()).or_default();
        host.unreadable.remove(&change.key);
        let result = decode::<Assignment>(change).map(|assignment| match assignment {
            Some(assignment) => host.units.insert(unit, assignment),
            None => host.units.remove(&unit),
        });
        if result.is_err() {
            host.unreadable.insert(change.key.clone());
        }
        self.forget_empty_host(&id);
        result.map(drop)
    }

    fn process_assignment(
        &mut self,
        id: MachineId,
        process: ProcessName,
        change: &Change,
    ) -> Result<(), String> {
        let app = process.app.clone();
        let decoded = decode::<Assignment>(change);
        let view = self.app(&app);
        view.unreadable.remove(&change.key);
        let key = (process.clone(), id.clone());
        let (before, result) = match decoded {
            Ok(Some(now)) => (view.placed.insert(key, now), Ok(())),
            Ok(None) => (view.placed.remove(&key), Ok(())),
            Err(why) => {
                view.unreadable.insert(change.key.clone());
                (view.placed.remove(&key), Err(why))
            }
        };
        let after = view
            .placed
            .get(&(process.clone(), id.clone()))
            .map(|assignment| Resources::of(&assignment.value.work));
        let there = change.entry.is_some();
        if !there && view.hosts_of(&process).next().is_none() {
            view.withdrawn.remove(&process);
        }
        let host = self.hosts.entry(id.clone()).or_default();
        let before = before.map(|assignment| Resources::of(&assignment.value.work));
        host.reserved = host
            .reserved
            .minus(before.unwrap_or_default())
            .plus(after.unwrap_or_default());
        if there {
            host.processes.insert(process);
        } else {
            host.processes.remove(&process);
        }
        self.forget_empty_host(&id);
        self.forget_empty_app(&app);
        result
    }

    fn service(&mut self, app: &str, process: &str, change: &Change) -> Result<(), String> {
        let process: ProcessName = parse(process)?;
        if process.app.as_str() != app {
            return Err(format!("it belongs below /deis/services/{}/", process.app));
        }
        let name = process.app.clone();
        let view = self.app(&name);
        match &change.entry {
            Some(entry) => {
                view.withdrawn.remove(&process);
                view.services.insert(process, entry.mod_revision);
            }
            None => {
                let published = view.services.remove(&process).unwrap_or(0);
                if view.hosts_of(&process).next().is_some() {
                    let withdrawal = Withdrawal {
                        published,
                        seen: change.mod_revision,
                    };
                    view.withdrawn.insert(process, withdrawal);
                }
            }
        }
        self.forget_empty_app(&name);
        Ok(())
    }

    fn report(&mut self, machine: &str, change: &Change) -> Result<(), String> {
        let id: MachineId = parse(machine)?;
        let host = self.hosts.entry(id.clone()).or_default();
        let decoded = decode::<MachineState>(change);
        host.report.unreadable = decoded.is_err();
        // Names that were reported stay taken while what it says can't be read.
        let (now, registration) = decoded?
            .map(|state| (state.value.processes, state.value.registration))
            .unwrap_or_default();
        let before = std::mem::take(&mut host.report.processes);
        // What was unknown since the host came back is known from now on, also of what it doesn't name.
        if std::mem::replace(&mut host.report.registration, registration) != registration {
            let apps: BTreeSet<AppName> = host.processes.iter().map(|p| p.app.clone()).collect();
            self.changed.units |= !host.units.is_empty();
            for app in &apps {
                self.app(app);
            }
        }
        let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        for name in names {
            let (was, is) = (before.get(name), now.get(name));
            if was == is {
                continue;
            }
            let Ok(process) = name.parse::<ProcessName>() else {
                // Units are planned by where they are; how they fare there is systemd's business.
                let uuid = |state: Option<&ProcessState>| state.map(|state| state.uuid);
                self.changed.units |= uuid(was) != uuid(is);
                continue;
            };
            let app = process.app.clone();
            let view = self.app(&app);
            if is.is_some() && was.is_none() {
                *view.reported.entry(process).or_default() += 1;
            } else if is.is_none()
                && let Some(count) = view.reported.get_mut(&process)
            {
                *count -= 1;
                if *count == 0 {
                    view.reported.remove(&process);
                }
                self.forget_empty_app(&app);
            }
        }
        self.hosts.entry(id.clone()).or_default().report.processes = now;
        self.forget_empty_host(&id);
        Ok(())
    }

    fn machine(&mut self, machine: &str, change: &Change) -> Result<(), String> {
        let id: MachineId = parse(machine)?;
        self.changed.hosts = true;
        if change.entry.is_none() {
            self.changed.left.insert(id.clone());
        }
        let host = self.hosts.entry(id.clone()).or_default();
        let (presence, result) = match decode(change) {
            Ok(Some(machine)) => (Presence::Here(Box::new(machine)), Ok(())),
            Ok(None) => (Presence::Absent, Ok(())),
            Err(why) => (Presence::Unreadable, Err(why)),
        };
        host.presence = presence;
        self.forget_empty_host(&id);
        result
    }

    fn host(&mut self, machine: &str, change: &Change) -> Result<(), String> {
        let id: MachineId = parse(machine)?;
        self.changed.hosts = true;
        let host = self.hosts.entry(id.clone()).or_default();
        host.unreadable.remove(&change.key);
        let result = decode(change).map(|record| host.record = record);
        if result.is_err() {
            host.unreadable.insert(change.key.clone());
        }
        if host.drain().is_some() {
            self.drained.insert(id.clone());
        } else {
            self.drained.remove(&id);
        }
        self.forget_empty_host(&id);
        result
    }

    /// A router whose record can't be read has acknowledged nothing: it is there and takes traffic.
    fn router(&mut self, ip: &str, change: &Change) {
        self.changed.routers = true;
        match &change.entry {
            Some(entry) => {
                let view = RouterView {
                    said: entry.decode::<RouterPresence>().ok(),
                    create_revision: entry.create_revision,
                };
                self.routers.insert(ip.to_owned(), view);
            }
            None => {
                self.routers.remove(ip);
            }
        }
    }

    fn unit(&mut self, name: &str, change: &Change) -> Result<(), String> {
        let name: UnitFileName = parse(name)?;
        self.changed.units = true;
        match decode::<UnitFile>(change)? {
            Some(unit) => {
                let text = UnitText {
                    hash: text_hash(&unit.value.text),
                    options: XFleet::parse(&name, &unit.value.text),
                };
                self.texts.insert(name.clone(), text);
                self.units.insert(name, unit);
            }
            None => {
                self.texts.remove(&name);
                self.units.remove(&name);
            }
        }
        Ok(())
    }

    fn domain(&mut self, domain: &str, change: &Change) -> Result<(), String> {
        let domain: DomainName = parse(domain)?;
        match decode::<Domain>(change)? {
            Some(record) => self.domains.insert(domain, record.value.app),
            None => self.domains.remove(&domain),
        };
        Ok(())
    }
}

impl AppView {
    /// A key at or below the app's own.
    fn key(&mut self, rest: &[&str], change: &Change) -> Result<(), String> {
        match rest {
            [] => self.record = decode(change)?,
            ["rollout"] => self.rollout = decode(change)?,
            ["releases", version] => {
                let version = release_number(version)?;
                match decode::<Release>(change)? {
                    Some(release) => self.releases.insert(version, release.value.config),
                    None => self.releases.remove(&version),
                };
            }
            ["configs", id] => {
                let id: Uuid = parse(id)?;
                match decode::<Config>(change)? {
                    Some(config) => self.configs.insert(id, config.value.into()),
                    None => self.configs.remove(&id),
                };
            }
            ["outcomes", version] => {
                let version = release_number(version)?;
                match change.entry {
                    Some(_) => self.outcomes.insert(version),
                    None => self.outcomes.remove(&version),
                };
            }
            _ => {}
        }
        Ok(())
    }
}

fn release_number(text: &str) -> Result<ReleaseNumber, String> {
    let number = text
        .strip_prefix('v')
        .and_then(|digits| digits.parse().ok());
    number
        .map(ReleaseNumber)
        .ok_or_else(|| format!("{text:?} is no release"))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn decode<T: Record>(change: &Change) -> Result<Option<Versioned<T>>, String> {
    let read = |entry: &Entry| {
        let value = entry
            .decode()
            .map_err(|error| format!("{error}: {}", error.source))?;
        let (mod_revision, create_revision) = (entry.mod_revision, entry.create_revision);
        Ok(Versioned {
            value,
            mod_revision,
            create_revision,
        })
    };
    change.entry.as_ref().map(read).transpose()
}
