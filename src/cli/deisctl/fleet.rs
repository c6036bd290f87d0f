//! The fleet as etcd tells it, read once: units, assignments, hosts and what they report.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    plan,
    platform::{Instance, Part},
};
use crate::{
    api::fleet::View,
    api::stats::{HostStats, ProcessFigures},
    model::{
        Assignment, Desired, HostRecord, Leader, Machine, MachineId, MachineState, Phase,
        ProcessName, ProcessState, UnitFile, UnitFileName, UnitTarget,
    },
    store::{Store, StoreError, Versioned, keys},
};

/// Everything that the commands show or wait for.
///
/// Each kind of record is read at a revision of its own: good enough to look at, and whoever waits
/// looks again. Changes compare what they were based on.
#[derive(Debug, Default)]
pub struct Fleet {
    /// Unit files of the platform and of operators.
    pub units: BTreeMap<UnitFileName, Versioned<UnitFile>>,
    /// Assignments, by name of the process or unit and then by machine.
    pub assignments: BTreeMap<(String, MachineId), Assignment>,
    /// Hosts that are present.
    pub machines: BTreeMap<MachineId, Machine>,
    /// What is durable about hosts, the absent ones included.
    pub hosts: BTreeMap<MachineId, HostRecord>,
    /// What the hosts report.
    pub states: BTreeMap<MachineId, MachineState>,
    /// What the hosts said when they were asked for figures.
    pub figures: BTreeMap<MachineId, HostStats>,
    /// Addresses at which each part has registered.
    pub registered: BTreeMap<Part, BTreeSet<String>>,
    /// The elected leader.
    pub leader: Option<Leader>,
    /// What waits, and why; only where [`Fleet::load_with_reasons`] was asked for it.
    pub waiting: BTreeMap<String, String>,
}

/// The machine in a key `<prefix><machine-id>`.
fn machine_of(key: &str, prefix: &str) -> Option<MachineId> {
    keys::last_part(key, prefix)?.parse().ok()
}

/// The records under a prefix whose key ends in a machine id.
async fn by_machine<T: crate::model::Record>(
    store: &Store,
    prefix: keys::Prefix<T>,
) -> Result<BTreeMap<MachineId, T>, StoreError> {
    let listing = store.list_readable(&prefix).await?;
    let entries = listing.entries.into_iter();
    let parsed =
        entries.filter_map(|(key, entry)| Some((machine_of(&key, prefix.as_str())?, entry.value)));
    Ok(parsed.collect())
}

async fn readable_leader(store: &Store) -> Result<Option<Leader>, StoreError> {
    match store.get(&keys::leader()).await {
        Err(StoreError::Record { .. }) => Ok(None),
        other => Ok(other?.map(|found| found.value)),
    }
}

impl Fleet {
    /// Reads it, but for records that can't be read: each harms its own thing only.
    ///
    /// # Errors
    /// When etcd can't be reached.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut fleet = Self {
            machines: by_machine(store, keys::machines()).await?,
            hosts: by_machine(store, keys::hosts()).await?,
            states: by_machine(store, keys::states()).await?,
            leader: readable_leader(store).await?,
            ..Self::default()
        };
        let prefix = keys::units();
        for (key, entry) in store.list_readable(&prefix).await?.entries {
            if let Some(Ok(name)) = keys::last_part(&key, prefix.as_str()).map(str::parse) {
                fleet.units.insert(name, entry);
            }
        }
        for (key, entry) in store.list_readable(&keys::schedule()).await?.entries {
            if let Some((machine, name)) = keys::parse_assignment(&key) {
                let at = (name.to_owned(), machine);
                fleet.assignments.insert(at, entry.value);
            }
        }
        for part in Part::ALL {
            let prefix = keys::parts(part.key());
            let (entries, _) = store.list_raw(prefix.as_str()).await?;
            let addresses = entries
                .iter()
                .filter_map(|(key, _)| keys::last_part(key, prefix.as_str()))
                .map(str::to_owned);
            fleet.registered.insert(part, addresses.collect());
        }
        Ok(fleet)
    }

    /// The same, with the reasons why units that are wanted have no place: those that `deisctl explain`
    /// gives.
    ///
    /// # Errors
    /// When etcd can't be reached.
    pub async fn load_with_reasons(store: &Store) -> Result<Self, StoreError> {
        let mut fleet = Self::load(store).await?;
        let placed: BTreeSet<&str> = fleet.assignments.keys().map(|(name, _)| &**name).collect();
        let is_homeless = |(name, unit): (&UnitFileName, &Versioned<UnitFile>)| {
            unit.value.target != UnitTarget::Inactive && !placed.contains(name.as_str())
        };
        if fleet.units.iter().any(is_homeless) {
            fleet.waiting = plan::reasons(store).await?;
        }
        Ok(fleet)
    }

    /// Why a unit that is wanted is nowhere.
    #[must_use]
    pub fn why_nowhere(&self, unit: &str) -> String {
        if self.machines.is_empty() {
            "no host is present".to_owned()
        } else if self.leader.is_none() {
            "waits for a place, no leader is elected yet".to_owned()
        } else {
            let why = self.waiting.get(unit).map(|why| format!(": {why}"));
            format!("waits for a place{}", why.unwrap_or_default())
        }
    }

    /// The prefixes whose changes may change what `load` reads.
    #[must_use]
    pub fn prefixes() -> Vec<String> {
        let fixed = [
            keys::machines().as_str().to_owned(),
            keys::hosts().as_str().to_owned(),
            keys::states().as_str().to_owned(),
            keys::units().as_str().to_owned(),
            keys::schedule().as_str().to_owned(),
            keys::leader().as_str().to_owned(),
        ];
        let parts = Part::ALL.map(|part| keys::parts(part.key()).as_str().to_owned());
        fixed.into_iter().chain(parts).collect()
    }

    /// The platform's instances that are installed.
    #[must_use]
    pub fn installed(&self) -> BTreeSet<Instance> {
        let names = self.units.keys();
        names
            .filter_map(|n| Instance::of_unit(n.as_str()))
            .collect()
    }

    /// What it says of units.
    #[must_use]
    pub const fn view(&self) -> View<'_> {
        View {
            units: &self.units,
            assignments: &self.assignments,
            states: &self.states,
        }
    }

    /// A host as fleetctl named it: `148a18ff.../10.21.8.101`.
    #[must_use]
    pub fn machine_label(&self, id: &MachineId, full: bool) -> String {
        let shown = if full {
            id.to_string()
        } else {
            format!("{}...", &id.as_str()[..8])
        };
        match self.address(id) {
            Some(address) => format!("{shown}/{address}"),
            None => shown,
        }
    }

    /// A host's name and address for people: `deis-01/10.21.8.101`.
    #[must_use]
    pub fn host_label(&self, id: &MachineId) -> String {
        match (self.machines.get(id), self.hosts.get(id)) {
            (Some(machine), _) => format!("{}/{}", machine.hostname, machine.address),
            (None, Some(host)) => format!("{}/{}", host.hostname, host.address),
            (None, None) => format!("{}...", &id.as_str()[..8]),
        }
    }

    /// How much is on a host that has to leave it when it is drained.
    #[must_use]
    pub fn assigned_to(&self, id: &MachineId) -> usize {
        let machines = self.assignments.keys().map(|(_, machine)| machine);
        machines.filter(|machine| *machine == id).count()
    }

    /// The last known address of a host.
    #[must_use]
    pub fn address(&self, id: &MachineId) -> Option<&str> {
        let present = self.machines.get(id).map(|machine| &machine.address);
        let known = || self.hosts.get(id).map(|host| &host.address);
        present.or_else(known).map(String::as_str)
    }

    /// What a host reports of a process or unit.
    #[must_use]
    pub fn report(&self, machine: &MachineId, name: &str) -> Option<&ProcessState> {
        self.states.get(machine)?.processes.get(name)
    }

    /// Everything that runs, should run or is installed, as `deisctl list` shows it.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for ((name, machine), assignment) in &self.assignments {
            let report = self
                .report(machine, name)
                .filter(|report| report.uuid == assignment.uuid);
            let mut notes = Vec::new();
            match assignment.desired {
                Desired::Run => {}
                Desired::Load => notes.push("not to be started".to_owned()),
                Desired::Drain => notes.push("draining".to_owned()),
                Desired::Stop => notes.push("to be stopped".to_owned()),
            }
            if !self.machines.contains_key(machine) {
                notes.push("its host is absent, this is its last word".to_owned());
            } else if report.is_none() {
                notes.push("its host has not reported it yet".to_owned());
            }
            rows.push(Row::new(self, name, Some(machine), report, notes));
        }
        for (machine, state) in &self.states {
            for (name, report) in &state.processes {
                if !self
                    .assignments
                    .contains_key(&(name.clone(), machine.clone()))
                {
                    let notes = vec!["no longer assigned".to_owned()];
                    rows.push(Row::new(self, name, Some(machine), Some(report), notes));
                }
            }
        }
        let running: BTreeSet<String> = rows.iter().map(|row| row.unit.clone()).collect();
        for (name, unit) in &self.units {
            if !running.contains(name.as_str()) {
                let note = match unit.value.target {
                    UnitTarget::Launched => "waits for a place",
                    UnitTarget::Loaded => "installed, not started",
                    UnitTarget::Inactive => "stopped",
                };
                rows.push(Row::new(self, name.as_str(), None, None, vec![note.into()]));
            }
        }
        rows.sort_by(|a, b| (a.order(), &a.machine).cmp(&(b.order(), &b.machine)));
        rows
    }
}

/// The unit file of an assignment's or report's name: a process's stem gets its suffix.
#[must_use]
pub fn unit_of(name: &str) -> String {
    match name.parse::<ProcessName>() {
        Ok(process) => format!("{process}.service"),
        Err(_) => name.to_owned(),
    }
}

/// One line of `deisctl list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The unit's file name.
    pub unit: String,
    /// Where it is: `deis-01/10.21.8.101`.
    pub machine: String,
    /// systemd's load state.
    pub load: &'static str,
    /// systemd's active state.
    pub active: &'static str,
    /// systemd's sub state.
    pub sub: &'static str,
    /// Whether it is healthy, as far as its host says.
    pub ready: Option<bool>,
    /// How it is, as far as its host says.
    pub figures: Option<ProcessFigures>,
    /// What else there is to say.
    pub note: String,
}

impl Row {
    fn new(
        fleet: &Fleet,
        name: &str,
        machine: Option<&MachineId>,
        report: Option<&ProcessState>,
        mut notes: Vec<String>,
    ) -> Self {
        let (load, active, sub) = report.map_or(("-", "-", "-"), |report| words(report.phase));
        notes.extend(report.and_then(|report| report.reason.clone()));
        let live = machine.and_then(|id| fleet.figures.get(id)?.processes.get(name));
        let figures = report.map(|report| {
            let live = live.filter(|figures| figures.uuid == report.uuid).cloned();
            live.unwrap_or_else(|| ProcessFigures {
                restarts: report.restarts,
                exit: report.exit.clone(),
                ..ProcessFigures::default()
            })
        });
        Self {
            unit: unit_of(name),
            machine: machine.map_or_else(String::new, |id| fleet.host_label(id)),
            load,
            active,
            sub,
            ready: report.map(|report| report.ready),
            figures,
            note: notes.join("; "),
        }
    }

    /// The platform first, then apps; numbers by value.
    fn order(&self) -> (bool, String, u32, u32, u32) {
        let stem = self.unit.strip_suffix(".service").unwrap_or(&self.unit);
        match stem.parse::<ProcessName>() {
            Ok(p) => (
                true,
                format!("{} {}", p.app, p.kind),
                p.number,
                p.release.0,
                p.incarnation.get(),
            ),
            Err(_) => (false, self.unit.clone(), 0, 0, 0),
        }
    }
}

/// systemd's words for a phase: load, active and sub state.
#[must_use]
pub const fn words(phase: Phase) -> (&'static str, &'static str, &'static str) {
    match phase {
        Phase::Preparing => ("loaded", "activating", "start-pre"),
        Phase::Starting => ("loaded", "activating", "start"),
        Phase::Up => ("loaded", "active", "running"),
        Phase::Crashed => ("loaded", "activating", "auto-restart"),
        Phase::Stopping => ("loaded", "deactivating", "stop"),
        Phase::Error => ("error", "failed", "failed"),
        Phase::Idle => ("loaded", "inactive", "dead"),
    }
}
