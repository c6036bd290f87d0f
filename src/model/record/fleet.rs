//! What belongs to hosts and to the platform itself: presence, assignments, reports, units.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{SealedValue, schema};
use crate::model::{AppName, MachineId, Revision};

/// `/deis/hosts/<id>`: what is durable about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The host's name for people.
    pub hostname: String,
    /// Its last known address.
    pub address: String,
    /// Labels for placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Takes no new process.
    #[serde(default)]
    pub cordoned: bool,
    /// It is being emptied, or has been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<HostDrain>,
    /// Since when the platform counts it as lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
    /// That it is lost was said by a person (`deisctl declare-lost`): nothing runs there any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub declared_lost: bool,
}

impl HostRecord {
    /// The same of a host that is there.
    #[must_use]
    pub fn found(self) -> Self {
        Self {
            lost_since: None,
            declared_lost: false,
            ..self
        }
    }
}

/// What an operator asked for by `deisctl drain`: everything on the host moves elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDrain {
    /// Since when.
    pub since: Timestamp,
    /// What has not moved by then is stopped all the same; none: it is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// `/deis/machines/<id>`: presence, under the host's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its machine id.
    pub id: MachineId,
    /// Its name for people.
    pub hostname: String,
    /// Its address, without a port.
    pub address: String,
    /// Memory in bytes that processes may reserve.
    pub memory_bytes: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// The agent's version.
    pub version: String,
    /// Kernel's boot id: changes with each boot.
    pub boot_id: String,
    /// Labels from host.yaml.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// What the leader wants of an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Run and be published.
    Run,
    /// Be known to systemd and not be started; for raw units.
    Load,
    /// Run on, but be published no more.
    Drain,
    /// Stop and be forgotten.
    Stop,
}

/// What an assignment is about; its key's last part is the process's or unit's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Work {
    /// A process of a release.
    Process {
        /// The rollout that placed it; none when a lost process was replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollout: Option<Uuid>,
        /// Memory that it reserves, in bytes.
        memory_bytes: u64,
        /// CPU that it reserves, in shares: 1024 are one CPU.
        #[serde(default, skip_serializing_if = "is_zero")]
        cpu_shares: u32,
        /// Never more than one of it at a time: it is stopped when its host's lease has run out.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        single: bool,
        /// How often `single` has changed since it was assigned: its host's report says which change it
        /// has carried out.
        #[serde(default, skip_serializing_if = "is_zero")]
        marks: u32,
    },
    /// A one-off process (`deis run`).
    Run {
        /// What to run, and what proves that it is this process: a `session::Order`, sealed; none: the
        /// Procfile's command of its type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<SealedValue>,
        /// `ip:port` of the controller that waits for it; none: it is detached, and its output goes to
        /// the app's log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attach: Option<String>,
        /// Memory that it reserves, in bytes.
        memory_bytes: u64,
        /// CPU that it reserves, in shares.
        #[serde(default, skip_serializing_if = "is_zero")]
        cpu_shares: u32,
    },
    /// A unit of the platform or an operator: its text is in `/deis/units/<name>`.
    Unit {
        /// SHA-256 of the text, in hexadecimal digits: another text is another assignment.
        hash: String,
    },
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `/deis/schedule/<machine-id>/<name>`: what a host has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Identity of this process; written into its unit, and how it is adopted.
    pub uuid: Uuid,
    /// What is wanted of it.
    pub desired: Desired,
    /// What it is.
    pub work: Work,
}

impl Assignment {
    /// Whether it is of a raw unit's text with this hash.
    #[must_use]
    pub fn is_of_text(&self, text_hash: &str) -> bool {
        matches!(&self.work, Work::Unit { hash } if hash == text_hash)
    }
}

/// Where a process is in its life, as its agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Image or unit files are being prepared.
    Preparing,
    /// systemd starts it, or it is not healthy yet.
    Starting,
    /// Active.
    Up,
    /// Failed or between two restarts.
    Crashed,
    /// Being stopped.
    Stopping,
    /// It can't be started here; `reason` says why.
    Error,
    /// A raw unit that is not to run, or has ended by itself and well.
    Idle,
}

/// What systemd says of a raw unit, once its host has done what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitWords {
    /// What has been done: it was loaded, or started as well.
    pub done: UnitTarget,
    /// systemd's LoadState.
    pub load: String,
    /// systemd's ActiveState.
    pub active: String,
    /// systemd's SubState.
    pub sub: String,
}

/// One process in its host's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// The assignment's uuid.
    pub uuid: Uuid,
    /// Where it is in its life.
    pub phase: Phase,
    /// Healthy: routable types are published, others have been active for a second.
    pub ready: bool,
    /// The port that it is published on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// etcd's revision at which its address was withdrawn; absent while published or never published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Revision>,
    /// It is behind its host's fence, as of this many of its assignment's `marks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<u32>,
    /// Restarts by systemd.
    #[serde(default)]
    pub restarts: u32,
    /// How its last run ended, when it was restarted since: `exit code 3`, `killed: out of memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// How a one-off process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Since when in this phase.
    pub since: Timestamp,
    /// Why it is not up, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Last lines that it printed, when it crashed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// systemd's own words, for a raw unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitWords>,
}

/// `/deis/state/<machine-id>`: what runs there; written on change only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The host's registration of which this is said: the revision at which its presence came into
    /// being. None from older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<Revision>,
    /// Each process by its name.
    pub processes: BTreeMap<String, ProcessState>,
}

/// `/deis/router/hosts/<ip>`: presence and acknowledgements of one router's incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterPresence {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its incarnation.
    pub id: Uuid,
    /// `ip:80`.
    pub address: String,
    /// Every change of `/deis/services/` up to this revision is in its table.
    pub applied: Revision,
    /// No request holds a backend that was withdrawn at or before this revision.
    pub drained: Revision,
    /// The same app by app, while some lag behind the others; else `drained` is for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_by_app: Option<DrainedByApp>,
    /// Every change of `/deis/routes/` up to this revision is in its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Revision>,
}

/// Up to which revision no request holds a withdrawn backend, app by app: one app's slow requests are
/// no other app's business.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainedByApp {
    /// For every app that is not listed.
    pub others: Revision,
    /// For those that lag behind them, as far as there is room.
    pub apps: BTreeMap<AppName, Revision>,
}

impl RouterPresence {
    /// What it has acknowledged of one app's withdrawals.
    #[must_use]
    pub fn drained_of(&self, app: &AppName) -> Revision {
        let by_app = self.drained_by_app.as_ref();
        by_app.map_or(self.drained, |by_app| {
            let own = by_app.apps.get(app).copied();
            own.unwrap_or(by_app.others)
        })
    }
}

/// `/deis/<part>/hosts/<ip>`: presence of a platform part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartPresence {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// Its incarnation.
    pub id: Uuid,
    /// `ip:port` of its main service.
    pub address: String,
}

/// `/deis/leader`: who runs the loops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The elected process's id.
    pub id: Uuid,
    /// Its address, for people.
    pub address: String,
}

/// What an operator wants of a unit (fleet's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitTarget {
    /// Known, nowhere.
    Inactive,
    /// On a host, not started.
    Loaded,
    /// Running.
    Launched,
}

/// `/deis/units/<name>`: a unit file of the platform or an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFile {
    #[serde(default = "schema")]
    #[doc(hidden)]
    pub schema: u16,
    /// The unit file, `[X-Fleet]` included.
    pub text: String,
    /// What is wanted of it.
    pub target: UnitTarget,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Record as _;

    #[test]
    fn drained_is_read_app_by_app_or_as_before() {
        let read = |more: &str| {
            let text = format!(
                r#"{{"id":"6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111","address":"10.0.0.1:80","applied":9,"drained":4{more}}}"#
            );
            RouterPresence::decode(text.as_bytes()).expect("readable")
        };
        let (slow, quick) = ("slow".parse().expect("app"), "quick".parse().expect("app"));
        let former = read("");
        assert_eq!(
            (former.drained_of(&slow), former.drained_of(&quick)),
            (4, 4)
        );
        let by_app = read(r#","drained_by_app":{"others":9,"apps":{"slow":4}}"#);
        assert_eq!(
            (by_app.drained_of(&slow), by_app.drained_of(&quick)),
            (4, 9)
        );
        assert_eq!(
            by_app.drained, 4,
            "what a former reader goes by holds for all"
        );
    }

    #[test]
    fn an_older_reader_ignores_new_fields() {
        let text = br#"{"schema":2,"uuid":"6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111","desired":"run",
            "work":{"kind":"unit","hash":"00","new":1},"more":true}"#;
        let read = Assignment::decode(text).expect("readable");
        assert_eq!(read.desired, Desired::Run);
        assert_eq!(read.work, Work::Unit { hash: "00".into() });
    }
}
