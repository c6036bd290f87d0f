//! One name's condition on this host, and what the report says of it.

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    super::{oneoff::End, steps::Progress},
    running_of,
};
use crate::{
    logger::tell::Damper,
    model::{Phase, ProcessState, Revision, UnitTarget, UnitWords},
    plan::units::{Busy, Kind, Published, Running, Seen},
    systemd::{Active, UnitStatus},
};

/// One name's condition.
#[derive(Debug, Clone)]
pub struct Entry {
    pub seen: Seen,
    pub status: UnitStatus,
    /// How often systemd has told of its activity: what was read before it did is old.
    pub told: u64,
    pub progress: Progress,
    pub withdrawn: Option<Revision>,
    pub error: Option<String>,
    pub failures: u32,
    pub word: Option<String>,
    pub log: Vec<String>,
    /// It was healthy and is not any more, while it runs on.
    pub ailing: bool,
    /// How often its app's owner hears of its troubles.
    pub damper: Damper,
    /// How a one-off ended.
    pub end: Option<End>,
    /// How its last run ended, in few words.
    pub exit: Option<String>,
    /// Why it can't be kept on this host's disk.
    pub unkept: Option<String>,
    pub(super) phase: Phase,
    pub(super) since: Timestamp,
}

impl Entry {
    pub(super) fn new(uuid: Uuid, kind: Kind, now: Timestamp) -> Self {
        Self {
            seen: Seen {
                uuid,
                kind,
                started: false,
                loaded: false,
                running: Running::No,
                healthy: None,
                published: Published::No,
                reported: false,
                fenced: None,
                busy: None,
                retry_at: None,
            },
            status: UnitStatus::default(),
            progress: Progress::Preparing,
            withdrawn: None,
            error: None,
            failures: 0,
            word: None,
            log: Vec::new(),
            ailing: false,
            damper: Damper::default(),
            end: None,
            exit: None,
            unkept: None,
            told: 0,
            phase: Phase::Preparing,
            since: now,
        }
    }

    /// Its start has gone well.
    pub fn started(&mut self, status: UnitStatus) {
        (self.seen.started, self.seen.loaded) = (true, false);
        self.found(status);
    }

    /// systemd knows it now, and we have not started it.
    pub fn loaded(&mut self, status: UnitStatus) {
        (self.seen.started, self.seen.loaded) = (false, true);
        self.found(status);
    }

    /// A raw unit was found on the host: what was done with it is written down beside it.
    pub fn adopt_raw(&mut self, loaded: bool) {
        self.seen.loaded = loaded;
        self.seen.started &= !loaded;
    }

    fn found(&mut self, status: UnitStatus) {
        self.told += 1;
        self.seen.running = running_of(status.active);
        self.status = status;
    }

    /// It runs, is that incarnation, and its announcer says that it is not healthy.
    pub fn is_unwell(&self, uuid: Uuid) -> bool {
        let seen = &self.seen;
        (seen.uuid, seen.running, seen.healthy) == (uuid, Running::Up, Some(false))
    }

    /// Its units are stopped, and it is kept for when the host's lease is back.
    pub fn suspended(&mut self) {
        self.seen.running = Running::No;
        self.seen.healthy = None;
        self.status.active = Active::Inactive;
        self.word = None;
    }

    pub(super) fn current_phase(&self) -> Phase {
        match (self.seen.busy, self.status.active) {
            (Some(Busy::Stopping | Busy::Cancelling), _) => Phase::Stopping,
            _ if self.seen.reported => Phase::Stopping,
            (_, Active::AutoRestart | Active::Failed) => Phase::Crashed,
            (_, Active::Deactivating) => Phase::Stopping,
            (_, Active::Active) if self.is_healthy() => Phase::Up,
            (_, Active::Active | Active::Activating) => Phase::Starting,
            (Some(Busy::Starting), Active::Inactive) if self.progress == Progress::Starting => {
                Phase::Starting
            }
            // That etcd was away for a moment says nothing of the process: it is tried again.
            (_, Active::Inactive) if self.error.is_some() && self.failures > 0 => Phase::Error,
            (_, Active::Inactive) if self.is_done() => Phase::Idle,
            (_, Active::Inactive) if self.seen.started => Phase::Stopping,
            (_, Active::Inactive) => Phase::Preparing,
        }
    }

    /// A raw unit of which all has been done that was wanted.
    fn is_done(&self) -> bool {
        self.seen.kind == Kind::Unit && (self.seen.started || self.seen.loaded)
    }

    /// A raw unit in systemd's words.
    fn words(&self) -> Option<UnitWords> {
        self.is_done().then(|| {
            let or =
                |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
            UnitWords {
                done: if self.seen.loaded {
                    UnitTarget::Loaded
                } else {
                    UnitTarget::Launched
                },
                load: or(&self.status.load, "loaded"),
                active: or(&self.status.words.active, "inactive"),
                sub: or(&self.status.words.sub, "dead"),
            }
        })
    }

    fn is_healthy(&self) -> bool {
        match self.seen.kind {
            Kind::Routable | Kind::Plain => self.seen.healthy == Some(true),
            Kind::Run | Kind::Unit => true,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        let up = self.seen.running == Running::Up;
        match self.seen.kind {
            Kind::Routable => up && self.seen.published == Published::Yes,
            Kind::Plain => up && self.seen.healthy == Some(true),
            Kind::Unit => up,
            Kind::Run => self.seen.reported,
        }
    }

    pub(super) fn reason(&self) -> Option<String> {
        if let Some(end) = &self.end {
            let remark = end.remark.as_deref().map(|remark| format!(": {remark}"));
            let remark = remark.unwrap_or_default();
            return Some(format!("ended with exit code {}{remark}", end.exit_code));
        }
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        match self.phase {
            Phase::Crashed => Some(self.status.exit.reason()),
            Phase::Starting | Phase::Up => self.word.clone().or_else(|| {
                let why = self.unkept.as_ref()?;
                Some(format!(
                    "this host's disk does not keep it ({why}): without etcd it would not start again"
                ))
            }),
            Phase::Preparing | Phase::Stopping | Phase::Error | Phase::Idle => None,
        }
    }

    pub(super) fn state(&self, port: Option<u16>) -> ProcessState {
        // Whoever drains it next has to know since when it is withdrawn, whatever was wanted then, and also
        // from an agent that has just been started: without that it would count as never published.
        let withdrawn = self
            .withdrawn
            .filter(|_| self.seen.published != Published::Yes);
        ProcessState {
            uuid: self.seen.uuid,
            phase: self.phase,
            ready: self.is_ready(),
            port,
            withdrawn,
            fenced: self.seen.fenced,
            exit: self.exit.clone(),
            exit_code: self.end.as_ref().map(|end| end.exit_code),
            restarts: self.status.restarts,
            since: self.since,
            reason: self.reason(),
            log: self.log.clone(),
            unit: self.words(),
        }
    }
}
