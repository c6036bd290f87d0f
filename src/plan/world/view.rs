//! What is known of one app and of one host.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use uuid::Uuid;

use crate::{model::*, plan::schedule::Resources, store::Versioned};

/// All that is known of one app.
#[derive(Debug, Default)]
pub struct AppView {
    /// The app; none when it is gone while processes of it still are there.
    pub record: Option<Versioned<App>>,
    /// The change in progress.
    pub rollout: Option<Versioned<Rollout>>,
    /// What routers are told of it.
    pub route: Option<Versioned<Route>>,
    /// Each release's config.
    pub releases: BTreeMap<ReleaseNumber, Uuid>,
    /// Releases whose outcome is written.
    pub outcomes: BTreeSet<ReleaseNumber>,
    /// What each config says about placement.
    pub configs: BTreeMap<Uuid, Needs>,
    /// Assigned processes, one-off ones included.
    pub placed: BTreeMap<(ProcessName, MachineId), Versioned<Assignment>>,
    /// Published processes with the revision of their address.
    pub services: BTreeMap<ProcessName, Revision>,
    /// Withdrawals that were seen, of processes that are still assigned.
    pub withdrawn: BTreeMap<ProcessName, Withdrawal>,
    /// On how many hosts each process is reported.
    pub(super) reported: BTreeMap<ProcessName, u32>,
    /// Keys of this app that can't be read: it is left alone while there are any.
    pub unreadable: BTreeSet<String>,
}

/// An address that was seen to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// The revision of the address that went: a report of a withdrawal before it is out of date.
    pub published: Revision,
    /// The withdrawal's revision, or a later one when it was found by a resync.
    pub seen: Revision,
}

/// What a config says about placement and who may come in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    memory: BTreeMap<ProcessType, u64>,
    cpu: BTreeMap<ProcessType, u32>,
    /// Who may reach the app.
    pub whitelist: Whitelist,
    /// Labels that a host must have.
    pub tags: BTreeMap<String, String>,
}

impl Needs {
    /// What a process of this type reserves: its limits. Without a limit of its CPU it reserves none.
    #[must_use]
    pub fn of(&self, kind: &ProcessType) -> Resources {
        let memory = self.memory.get(kind).copied();
        Resources {
            memory_bytes: memory.unwrap_or(DEFAULT_MEMORY_BYTES),
            cpu_shares: self.cpu.get(kind).copied().unwrap_or(0).into(),
        }
    }
}

impl From<Config> for Needs {
    fn from(config: Config) -> Self {
        let memory = config
            .memory
            .keys()
            .map(|kind| (kind.clone(), config.memory_bytes(kind)));
        Self {
            memory: memory.collect(),
            cpu: config.cpu.clone(),
            whitelist: config.whitelist.clone(),
            tags: config.tags.clone(),
        }
    }
}

impl AppView {
    pub(super) fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.rollout.is_none()
            && self.route.is_none()
            && self.releases.is_empty()
            && self.outcomes.is_empty()
            && self.configs.is_empty()
            && self.placed.is_empty()
            && self.services.is_empty()
            && self.reported.is_empty()
            && self.unreadable.is_empty()
    }

    /// What a release needs of a host; none when the release or its config is not known.
    #[must_use]
    pub fn needs(&self, release: ReleaseNumber) -> Option<&Needs> {
        self.configs.get(self.releases.get(&release)?)
    }

    /// The hosts that a process is assigned to.
    pub fn hosts_of(&self, process: &ProcessName) -> impl Iterator<Item = &MachineId> {
        let from = (process.clone(), MachineId::first());
        let own = self.placed.range(from..);
        own.map(|((name, machine), _)| (name, machine))
            .take_while(move |(name, _)| *name == process)
            .map(|(_, machine)| machine)
    }

    /// The lowest incarnation that nothing of the same name uses or ever left a trace of.
    ///
    /// Names of one slot and release stand beside each other in every map: their incarnation is what
    /// they are ordered by last.
    #[must_use]
    pub fn next_incarnation(&self, process: ProcessName) -> ProcessName {
        if self.placed.is_empty() && self.services.is_empty() && self.reported.is_empty() {
            return process;
        }
        let last = ProcessName {
            incarnation: NonZeroU32::MAX,
            ..process.clone()
        };
        let until = (last, MachineId::last());
        let placed = self.placed.range(..=&until).next_back();
        let service = self.services.range(..=&until.0).next_back();
        let report = self.reported.range(..=&until.0).next_back();
        let names = [
            placed.map(|((name, _), _)| name),
            service.map(|(name, _)| name),
            report.map(|(name, _)| name),
        ];
        let is_same = |other: &&ProcessName| {
            (&other.kind, other.number) == (&process.kind, process.number)
                && (&other.app, other.release) == (&process.app, process.release)
        };
        let highest = names.into_iter().flatten().filter(is_same);
        let highest = highest.map(|other| other.incarnation).max();
        let incarnation = highest.map_or(process.incarnation, |n| n.saturating_add(1));
        ProcessName {
            incarnation,
            ..process
        }
    }
}

/// All that is known of one host.
#[derive(Debug, Default)]
pub struct HostView {
    /// Its presence.
    pub presence: Presence,
    /// Its durable record.
    pub record: Option<Versioned<HostRecord>>,
    /// What it reports.
    pub report: Report,
    /// Units that are assigned to it.
    pub units: BTreeMap<UnitFileName, Versioned<Assignment>>,
    /// Processes that are assigned to it.
    pub processes: BTreeSet<ProcessName>,
    /// Every name that is assigned to it, also what can't be read.
    pub(super) names: BTreeSet<String>,
    /// What its processes reserve.
    pub reserved: Resources,
    /// An assignment or its durable record can't be read.
    pub unreadable: BTreeSet<String>,
}

/// Whether a host is there.
#[derive(Debug, Default)]
pub enum Presence {
    /// It holds no lease.
    #[default]
    Absent,
    /// It is there.
    Here(Box<Versioned<Machine>>),
    /// It is there, but what it says can't be read: it gets nothing new.
    Unreadable,
}

impl Presence {
    /// Whether it holds no lease.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// What it says of itself.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        match self {
            Self::Here(machine) => Some(&machine.value),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

/// What a host reports.
#[derive(Debug, Default)]
pub struct Report {
    /// Its processes by name, as read last; empty before its first report.
    pub(super) processes: BTreeMap<String, ProcessState>,
    /// The registration of which it speaks, if it says so.
    pub(super) registration: Option<Revision>,
    /// What it says now can't be read.
    pub(super) unreadable: bool,
}

/// What a host says of one assignment.
#[derive(Debug, Clone, Copy)]
pub enum Said<'w> {
    /// This.
    State(&'w ProcessState),
    /// It does not have it: not yet, or no more.
    Nothing,
    /// Its report can't be read; or what it says is of before it was away, and doesn't name this.
    Unknown,
}

impl HostView {
    pub(super) fn is_empty(&self) -> bool {
        self.presence.is_absent()
            && self.record.is_none()
            && self.names.is_empty()
            && self.unreadable.is_empty()
            && self.report.processes.is_empty()
            && !self.report.unreadable
    }

    /// What it says of the assignment with this uuid.
    #[must_use]
    pub fn said(&self, name: &str, uuid: Uuid) -> Said<'_> {
        match self.report.processes.get(name) {
            _ if self.report.unreadable => Said::Unknown,
            Some(state) if state.uuid == uuid => Said::State(state),
            Some(_) | None if !self.is_current() => Said::Unknown,
            Some(_) | None => Said::Nothing,
        }
    }

    /// Whether it has reported since it came back, if it was away: what it has begun since its last
    /// report nobody else knows.
    #[must_use]
    pub fn is_current(&self) -> bool {
        match (&self.presence, self.report.registration) {
            (Presence::Here(machine), Some(said)) => said >= machine.create_revision,
            _ => true,
        }
    }

    /// Whether it says anything of a name, whichever assignment that is of. When its words can't be
    /// read, it may.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.report.unreadable || self.report.processes.contains_key(name)
    }

    /// The drain that an operator asked for.
    #[must_use]
    pub fn drain(&self) -> Option<&HostDrain> {
        self.record.as_ref()?.value.drain.as_ref()
    }

    /// Its name for people.
    #[must_use]
    pub fn name<'v>(&'v self, id: &'v MachineId) -> &'v str {
        let record = self.record.as_ref().map(|record| &*record.value.hostname);
        record
            .or(self.presence.machine().map(|m| &*m.hostname))
            .unwrap_or(id.as_str())
    }
}

/// A router that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterView {
    /// What it says; none when that can't be read: it is there, takes traffic, and has acknowledged
    /// nothing.
    pub said: Option<RouterPresence>,
    /// When its present registration was made.
    pub create_revision: Revision,
}

impl RouterView {
    /// Every change of addresses up to this revision is in its table.
    #[must_use]
    pub fn applied(&self) -> Revision {
        self.said.as_ref().map_or(0, |said| said.applied)
    }

    /// No request holds a backend of this app that was withdrawn up to this revision.
    #[must_use]
    pub fn drained(&self, app: &AppName) -> Revision {
        self.said.as_ref().map_or(0, |said| said.drained_of(app))
    }

    /// Whether it has taken a change of an app's route. One that doesn't speak of routes counts as
    /// if: it is of an older version, and takes them all the same.
    #[must_use]
    pub fn has_routes(&self, revision: Revision) -> bool {
        let said = self.said.as_ref();
        said.is_some_and(|said| said.routes.is_none_or(|routes| routes >= revision))
    }
}
