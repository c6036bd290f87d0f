//! What the agent knows: assignments, and each name's condition on this host. Takes in everything
//! that happens and gives out the host's report. No IO: [`super::agent`] carries out.

mod entry;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    cache::Saved,
    events::Happened,
    ports::Ports,
    socket::Word,
    stats::Vital,
    steps::{StepError, unit_of},
};
use crate::{
    model::{Assignment, Desired, MachineState, ProcessName, Revision, Work},
    plan::units::{
        Busy, Kind, Knowledge, Lease, Plan, Published, Running, Seen, Waiting, Wanted, plan,
    },
    systemd::{Active, Exit, UnitChange, UnitStatus},
};

pub use entry::Entry;

/// First pause after a failure.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failures in a row.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long a process that went down is left to systemd's own restart.
const RESTART_PATIENCE: Duration = Duration::from_secs(6);
/// How a run ended that nobody watched.
const UNSEEN_EXIT: &str = "ended while the agent was away";
/// The longest reason in a report, in characters.
const REASON_MAX: usize = 400;

/// An assignment with its place in etcd's history.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub assignment: Assignment,
    pub mod_revision: Revision,
}

/// What kind of thing a name's work is.
pub fn kind_of(name: &str, work: &Work) -> Kind {
    match work {
        Work::Unit { .. } => Kind::Unit,
        Work::Run { .. } => Kind::Run,
        Work::Process { .. } => match name.parse::<ProcessName>() {
            Ok(process) if process.kind.is_routable() => Kind::Routable,
            Ok(_) => Kind::Plain,
            Err(_) => Kind::Unit,
        },
    }
}

/// The same for what was found on the host, where nothing but the name is known.
pub fn kind_of_name(name: &str) -> Kind {
    match name.parse::<ProcessName>() {
        Err(_) => Kind::Unit,
        Ok(process) if process.kind.is_one_off() => Kind::Run,
        Ok(process) if process.kind.is_routable() => Kind::Routable,
        Ok(_) => Kind::Plain,
    }
}

/// The memory that a process may use; none for a raw unit.
fn memory_of(assignment: &Assignment) -> Option<u64> {
    match &assignment.work {
        Work::Process { memory_bytes, .. } | Work::Run { memory_bytes, .. } => Some(*memory_bytes),
        Work::Unit { .. } => None,
    }
}

/// When there must never be two of it: how often that has been said or taken back.
pub const fn mark_of(work: &Work) -> Option<u32> {
    match work {
        Work::Process {
            single: true,
            marks,
            ..
        } => Some(*marks),
        Work::Process { .. } | Work::Run { .. } | Work::Unit { .. } => None,
    }
}

fn running_of(active: Active) -> Running {
    match active {
        Active::Active => Running::Up,
        Active::Activating | Active::AutoRestart | Active::Deactivating => Running::Changing,
        Active::Inactive | Active::Failed => Running::No,
    }
}

/// Everything that the agent knows.
#[derive(Debug)]
pub struct World {
    pub knowledge: Knowledge,
    assigned: BTreeMap<String, Assigned>,
    entries: BTreeMap<String, Entry>,
    pub saved: BTreeMap<String, Saved>,
    pub ports: Ports,
    /// Names of which anything has changed since they were planned last: a host has hundreds, and
    /// what happens concerns one.
    touched: BTreeSet<String>,
    /// Names that wait for a time.
    alarms: BTreeMap<String, Duration>,
    /// Names that were assigned before this life of the agent, and of which nothing is on the host: their
    /// addresses may stand in etcd since before its last boot.
    inherited: BTreeSet<String>,
}

impl World {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            knowledge: Knowledge::Nothing,
            assigned: BTreeMap::new(),
            entries: BTreeMap::new(),
            saved: BTreeMap::new(),
            ports: Ports::default(),
            touched: BTreeSet::new(),
            alarms: BTreeMap::new(),
            inherited: BTreeSet::new(),
        }
    }

    /// What is assigned to this host.
    pub const fn assigned(&self) -> &BTreeMap<String, Assigned> {
        &self.assigned
    }

    /// Notes that a name was assigned to this host before this life of the agent.
    pub fn inherit(&mut self, name: &str) {
        if kind_of_name(name) == Kind::Routable && !self.entries.contains_key(name) {
            self.inherited.insert(name.to_owned());
        }
    }

    /// Notes what is wanted of a name; nothing when it is no longer assigned.
    pub fn assign(&mut self, name: &str, assigned: Option<Assigned>, now: Timestamp) {
        self.touched.insert(name.to_owned());
        match assigned {
            Some(assigned) => {
                let (uuid, desired) = (assigned.assignment.uuid, assigned.assignment.desired);
                // It went with the host's power, and will not come back: its address has to go all
                // the same, and nobody else takes it away from a host that is there.
                if matches!(desired, Desired::Drain | Desired::Stop)
                    && self.inherited.contains(name)
                {
                    self.begin(name, uuid, Kind::Routable, now);
                }
                self.assigned.insert(name.to_owned(), assigned);
            }
            None => {
                self.inherited.remove(name);
                self.assigned.remove(name);
            }
        }
    }

    /// Forgets all assignments.
    pub fn unassign_all(&mut self) {
        self.touched
            .extend(std::mem::take(&mut self.assigned).into_keys());
    }

    /// What is known of this host's names.
    pub const fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// One name's condition, to be changed.
    pub fn entry_mut(&mut self, name: &str) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(name)?;
        if !self.touched.contains(name) {
            self.touched.insert(name.to_owned());
        }
        Some(entry)
    }

    /// Another knowledge of the assignments changes what is done about every name.
    pub fn learn(&mut self, knowledge: Knowledge) {
        if self.knowledge != knowledge {
            self.knowledge = knowledge;
            self.touch_all();
        }
    }

    /// Has everything planned anew.
    pub fn touch_all(&mut self) {
        self.touched.extend(self.assigned.keys().cloned());
        self.touched.extend(self.entries.keys().cloned());
    }

    /// Takes the names that have to be planned now.
    pub fn take_touched(&mut self, now: Duration) -> BTreeSet<String> {
        let mut names = std::mem::take(&mut self.touched);
        let due = self.alarms.iter().filter(|(_, at)| **at <= now);
        names.extend(due.map(|(name, _)| name.clone()));
        names
    }

    /// Plans these names.
    pub fn plan(&mut self, names: &BTreeSet<String>, lease: Lease, now: Duration) -> Plan {
        let (wanted, seen) = (self.wanted(names), self.seen(names));
        let plan = plan(self.knowledge, lease, &wanted, &seen, now);
        for name in names {
            match plan.waiting.get(name) {
                Some(Waiting::Retry(at)) => drop(self.alarms.insert(name.clone(), *at)),
                _ => drop(self.alarms.remove(name)),
            }
        }
        plan
    }

    /// When something has to be planned again even if nothing happens.
    pub fn wake_at(&self) -> Option<Duration> {
        self.alarms.values().min().copied()
    }

    /// The planner's view of what is wanted of some names.
    fn wanted(&self, names: &BTreeSet<String>) -> BTreeMap<String, Wanted> {
        let wanted = |name: &String| {
            let Assigned { assignment, .. } = self.assigned.get(name)?;
            let wanted = Wanted {
                uuid: assignment.uuid,
                desired: assignment.desired,
                kind: kind_of(name, &assignment.work),
                single: mark_of(&assignment.work),
            };
            Some((name.clone(), wanted))
        };
        names.iter().filter_map(wanted).collect()
    }

    /// The planner's view of what is there under some names.
    fn seen(&self, names: &BTreeSet<String>) -> BTreeMap<String, Seen> {
        let seen = |name: &String| Some((name.clone(), self.entries.get(name)?.seen));
        names.iter().filter_map(seen).collect()
    }

    /// A new entry: something is being started under this name.
    pub fn begin(&mut self, name: &str, uuid: Uuid, kind: Kind, now: Timestamp) -> &mut Entry {
        self.touched.insert(name.to_owned());
        let fresh = || Entry::new(uuid, kind, now);
        let entry = self.entries.entry(name.to_owned()).or_insert_with(fresh);
        if entry.seen.uuid != uuid {
            *entry = fresh();
        }
        if self.inherited.remove(name) {
            entry.seen.published = Published::Unknown;
        }
        entry
    }

    /// Something of ours was found on the host when the agent started.
    pub fn adopt(
        &mut self,
        name: &str,
        uuid: Uuid,
        port: Option<u16>,
        fenced: Option<u32>,
        status: UnitStatus,
        now: Timestamp,
    ) {
        let mut entry = Entry::new(uuid, kind_of_name(name), now);
        entry.seen.fenced = fenced;
        entry.seen.started = status.active.is_live() || entry.seen.kind == Kind::Run;
        entry.seen.published = Published::Unknown;
        entry.seen.running = running_of(status.active);
        entry.exit = status.exit.brief();
        entry.status = status;
        if let Some(port) = port {
            self.ports.remember(name, port);
        }
        self.entries.insert(name.to_owned(), entry);
        self.touched.insert(name.to_owned());
    }

    /// What the host's last report said of processes that are still the same.
    pub fn recall(&mut self, state: &MachineState) {
        for (name, old) in &state.processes {
            if let Some(entry) = self.entry_mut(name).filter(|e| e.seen.uuid == old.uuid) {
                entry.withdrawn = old.withdrawn;
                (entry.phase, entry.since) = (old.phase, old.since);
                entry.log.clone_from(&old.log);
                if entry.exit.is_none() {
                    entry.exit = if entry.status.restarts == old.restarts {
                        old.exit.clone()
                    } else {
                        Some(UNSEEN_EXIT.to_owned())
                    };
                }
                match entry.seen.kind {
                    Kind::Run if old.ready => entry.seen.reported = true,
                    // It served when the agent went, and has not been down since: nobody need see the
                    // agent's restart. Its announcer is about to repeat its last word.
                    Kind::Routable | Kind::Plain
                        if old.ready
                            && entry.seen.running == Running::Up
                            && entry.status.restarts == old.restarts =>
                    {
                        entry.seen.healthy = entry.seen.healthy.or(Some(true));
                        if entry.seen.kind == Kind::Routable {
                            entry.seen.published = Published::Yes;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// An announcer has spoken. Returns what its app's owner is to know.
    pub fn hear(&mut self, word: Word) -> Option<Happened> {
        let entry = self
            .entry_mut(&word.unit)
            .filter(|e| e.seen.uuid == word.uuid)?;
        let up = entry.seen.running == Running::Up;
        let happened = match (word.healthy, entry.ailing) {
            (false, false) if up && entry.seen.healthy == Some(true) => {
                Some(Happened::Unhealthy(word.reason.clone()))
            }
            (true, true) => Some(Happened::Healthy),
            _ => None,
        };
        entry.ailing = match &happened {
            Some(happened) => matches!(happened, Happened::Unhealthy(_)),
            None => entry.ailing,
        };
        // Its process may have died a moment ago: then this word is about the one that is no more.
        if up || word.healthy {
            entry.seen.healthy = Some(word.healthy);
        }
        entry.word = Some(word.reason).filter(|reason| !word.healthy && !reason.is_empty());
        happened
    }

    /// systemd says that a unit has changed. Returns the name if it has just crashed.
    pub fn unit_changed(
        &mut self,
        unit: &str,
        change: UnitChange,
        now: Duration,
    ) -> Option<String> {
        let name = unit
            .strip_suffix(".service")
            .filter(|stem| self.entries.contains_key(*stem))
            .unwrap_or(unit);
        let entry = self.entry_mut(name)?;
        let before = entry.status.clone();
        // The next run's start clears what systemd says of the last one.
        if let Some(exit) = change.exit.as_ref().and_then(Exit::brief) {
            entry.exit = Some(exit);
        }
        entry.told += u64::from(change.active.is_some());
        change.apply(&mut entry.status);
        entry.seen.running = running_of(entry.status.active);
        // Only an end counts: a start's own signals may come after the announcer's first word.
        let restarted = entry.status.restarts > before.restarts;
        let went = running_of(before.active) == Running::Up && entry.seen.running != Running::Up;
        if went || restarted {
            entry.seen.healthy = None;
            entry.word = None;
            entry.ailing = false;
        }
        // A unit that is loaded only may be started by another one, which is not us.
        if entry.seen.running == Running::Up && !entry.seen.loaded {
            entry.seen.started = true;
        }
        // On its way to a restart, systemd shows a process as failed for a moment: only one that stays
        // down is ours to start. A one-off is never restarted, and somebody waits for its end.
        if entry.seen.kind != Kind::Run
            && entry.seen.started
            && entry.seen.running == Running::No
            && running_of(before.active) != Running::No
        {
            entry.seen.retry_at = Some(now + RESTART_PATIENCE);
        }
        let down = |active| matches!(active, Active::AutoRestart | Active::Failed);
        let stopping = entry.seen.busy == Some(Busy::Stopping);
        (!stopping && down(entry.status.active) && !down(before.active)).then(|| name.to_owned())
    }

    /// What a unit was read to be, when systemd had told of it so often: what it has told since is newer.
    /// Returns the name if it has crashed.
    pub fn unit_read(
        &mut self,
        name: &str,
        told: u64,
        status: UnitStatus,
        now: Duration,
    ) -> Option<String> {
        if self.entries.get(name)?.told != told {
            return None;
        }
        let change = UnitChange {
            active: Some(status.active),
            exit: Some(status.exit),
            restarts: Some(status.restarts),
            up_since: Some(status.up_since),
            words: Some(status.words),
        };
        self.unit_changed(&unit_of(name), change, now)
    }

    /// A task has failed: it is tried again after a pause that grows, or a short one when only etcd
    /// was away.
    pub fn failed(&mut self, name: &str, error: &StepError, now: Duration) {
        let Some(entry) = self.entry_mut(name) else {
            return;
        };
        // The answer may have been lost, and not the address.
        if entry.seen.busy == Some(Busy::Publishing) && !matches!(error, StepError::Outdated) {
            entry.seen.published = Published::Unknown;
        }
        entry.seen.busy = None;
        let pause = if error.is_transient() {
            RETRY_MIN
        } else {
            entry.failures += 1;
            RETRY_MIN
                .saturating_mul(1 << (entry.failures - 1).min(6))
                .min(RETRY_MAX)
        };
        entry.seen.retry_at = Some(now + pause);
        entry.error = Some(error.to_string().chars().take(REASON_MAX).collect());
    }

    /// An assignment has changed: whatever failed before may go well now.
    pub fn try_again(&mut self, name: &str) {
        if let Some(entry) = self.entry_mut(name) {
            (entry.seen.retry_at, entry.failures) = (None, 0);
        }
    }

    /// A task has gone well.
    pub fn done(&mut self, name: &str) -> Option<&mut Entry> {
        let entry = self.entry_mut(name)?;
        entry.seen.busy = None;
        entry.seen.retry_at = None;
        entry.error = None;
        entry.failures = 0;
        Some(entry)
    }

    /// Everything of a name is gone.
    pub fn gone(&mut self, name: &str) {
        self.entries.remove(name);
        self.touched.insert(name.to_owned());
        self.saved.remove(name);
        self.ports.release(name);
    }

    /// What there is to say of each process besides what cgroups tell.
    pub fn vitals(&self) -> Vec<Vital> {
        let vital = |(name, entry): (&String, &Entry)| Vital {
            name: name.clone(),
            uuid: entry.seen.uuid,
            up_since: (entry.seen.running == Running::Up).then_some(entry.status.up_since),
            memory_limit_bytes: self
                .assigned
                .get(name)
                .and_then(|a| memory_of(&a.assignment)),
            restarts: entry.status.restarts,
            exit: entry.exit.clone(),
        };
        self.entries.iter().map(vital).collect()
    }

    /// Brings what the report says of some names up to date, and notes since when each has been in its
    /// phase; whether anything changed.
    pub fn report(
        &mut self,
        names: &BTreeSet<String>,
        now: Timestamp,
        report: &mut MachineState,
    ) -> bool {
        let mut changed = false;
        for name in names {
            let Some(entry) = self.entries.get_mut(name) else {
                changed |= report.processes.remove(name).is_some();
                continue;
            };
            let phase = entry.current_phase();
            if phase != entry.phase {
                (entry.phase, entry.since) = (phase, now);
            }
            let state = entry.state(self.ports.get(name));
            if report.processes.get(name) != Some(&state) {
                report.processes.insert(name.clone(), state);
                changed = true;
            }
        }
        changed
    }
}
