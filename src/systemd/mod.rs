//! The service manager of a host, over D-Bus.
//!
//! [`Units`] is all that the agent asks of it: [`Systemd`] is the real one, [`FakeUnits`] keeps units
//! in memory for tests. What changes is told by signals; nothing is polled, and `ListUnits` is never
//! called. A reload happens only for an operator's raw unit whose text has changed.

mod fake;
mod journal;
mod manager;
pub mod proxies;
mod signals;

use std::{collections::BTreeMap, future::Future, sync::Mutex, time::Duration};

use tokio::sync::Notify;

pub use fake::FakeUnits;
pub use manager::Systemd;

/// What systemd says of a unit's activity (org.freedesktop.systemd1.Unit ActiveState and SubState).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Active {
    /// Not loaded, or loaded and not started.
    #[default]
    Inactive,
    /// Being started.
    Activating,
    /// Ended; systemd starts it again after its delay.
    AutoRestart,
    /// Up.
    Active,
    /// Being stopped.
    Deactivating,
    /// Ended badly, and not to be started again.
    Failed,
}

impl Active {
    /// Reads the two properties.
    #[must_use]
    pub fn parse(active: &str, sub: &str) -> Self {
        match (active, sub) {
            ("activating", "auto-restart") => Self::AutoRestart,
            ("active" | "reloading" | "refreshing", _) => Self::Active,
            ("activating", _) => Self::Activating,
            ("deactivating", _) => Self::Deactivating,
            ("failed", _) => Self::Failed,
            // "inactive", "maintenance" and whatever a newer systemd invents.
            _ => Self::Inactive,
        }
    }

    /// Whether something of it may still run.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::Activating | Self::AutoRestart | Self::Active | Self::Deactivating => true,
            Self::Inactive | Self::Failed => false,
        }
    }
}

/// How a unit's main process ended last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// systemd's word: `success`, `exit-code`, `signal`, `oom-kill`, `timeout`, ...
    pub result: String,
    /// waitid(2)'s code: 1 exited, 2 killed, 3 dumped core; 0 not yet ended.
    pub code: i32,
    /// Exit status or signal number.
    pub status: i32,
}

impl Exit {
    /// Why it ended, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        // 137 and 143 are what conmon makes of a container's SIGKILL and SIGTERM.
        match (self.result.as_str(), self.code, self.status) {
            ("oom-kill", _, _) => "killed: out of memory".into(),
            ("timeout", _, _) => "did not start or stop in time, and was killed".into(),
            (_, 1, 125) => "podman could not start the container (exit code 125)".into(),
            (_, 1, 126) => "the command can't be executed (exit code 126)".into(),
            (_, 1, 127) => "the command was not found (exit code 127)".into(),
            (_, 1, 137) => "killed by SIGKILL, most likely out of memory (exit code 137)".into(),
            (_, 1, status) if (129..=192).contains(&status) => {
                format!(
                    "killed by {} (exit code {status})",
                    signal_name(status - 128)
                )
            }
            (_, 1, status) => format!("exited with code {status}"),
            (_, 2 | 3, signal) => format!("killed by {}", signal_name(signal)),
            (result, _, _) => format!("ended: {result}"),
        }
    }

    /// The same in few words, for a column; none as long as nothing has ended.
    #[must_use]
    pub fn brief(&self) -> Option<String> {
        let words = match (self.result.as_str(), self.code, self.status) {
            (_, 0, _) => return None,
            ("oom-kill", _, _) => "killed: out of memory".into(),
            ("timeout", _, _) => "killed: no start or stop in time".into(),
            // conmon's word for SIGKILL; on cgroup v1 the kernel's count goes with the container.
            (_, 1, 137) => "killed by SIGKILL, most likely out of memory".into(),
            (_, 1, status) if (129..=192).contains(&status) => {
                format!("killed by {}", signal_name(status - 128))
            }
            (_, 1, status) => format!("exit code {status}"),
            (_, _, signal) => format!("killed by {}", signal_name(signal)),
        };
        Some(words)
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

/// systemd's own words for a unit's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words {
    /// ActiveState.
    pub active: String,
    /// SubState.
    pub sub: String,
}

/// What is known of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitStatus {
    /// Its activity.
    pub active: Active,
    /// How it ended last.
    pub exit: Exit,
    /// How often systemd has restarted it.
    pub restarts: u32,
    /// Its file is another than the one that systemd has loaded.
    pub needs_reload: bool,
    /// Since when it is up, in microseconds since the boot; 0 when it never was.
    pub up_since: u64,
    /// LoadState; empty while it is not loaded.
    pub load: String,
    /// The same in systemd's words.
    pub words: Words,
}

/// What a signal said of a unit; parts that it did not mention are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitChange {
    /// Its activity.
    pub active: Option<Active>,
    /// How it ended last.
    pub exit: Option<Exit>,
    /// How often systemd has restarted it.
    pub restarts: Option<u32>,
    /// Since when it is up, in microseconds since the boot.
    pub up_since: Option<u64>,
    /// Its state in systemd's words.
    pub words: Option<Words>,
}

impl UnitChange {
    fn merge(&mut self, later: Self) {
        self.active = later.active.or(self.active);
        self.restarts = later.restarts.or(self.restarts);
        self.up_since = later.up_since.or(self.up_since);
        self.words = later.words.or_else(|| self.words.take());
        if let Some(exit) = later.exit {
            self.exit = Some(exit);
        }
    }

    /// Changes a status accordingly.
    pub fn apply(self, status: &mut UnitStatus) {
        status.active = self.active.unwrap_or(status.active);
        status.restarts = self.restarts.unwrap_or(status.restarts);
        status.up_since = self.up_since.unwrap_or(status.up_since);
        if let Some(exit) = self.exit {
            status.exit = exit;
        }
        if let Some(words) = self.words {
            status.words = words;
        }
    }
}

/// What has happened since the last look: at most one entry per unit, so its size is bounded by the
/// host's units however slow the reader is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Signals are missing, as the bus was lost or systemd has reloaded: every unit has to be read again.
    pub resync: bool,
    /// Merged changes by unit.
    pub units: BTreeMap<String, UnitChange>,
}

/// Where changes wait for their reader.
#[derive(Debug, Default)]
pub struct Inbox {
    news: Mutex<News>,
    wake: Notify,
}

impl Inbox {
    pub(crate) fn change(&self, unit: &str, change: UnitChange) {
        let mut news = self
            .news
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        news.units.entry(unit.to_owned()).or_default().merge(change);
        drop(news);
        self.wake.notify_one();
    }

    /// Has the reader read every unit again.
    pub(crate) fn resync(&self) {
        self.news
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .resync = true;
        self.wake.notify_one();
    }

    /// Takes what there is.
    pub fn take(&self) -> News {
        std::mem::take(
            &mut *self
                .news
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Waits until there is news and takes it. Cancel safe.
    pub async fn next(&self) -> News {
        loop {
            let news = self.take();
            if news.resync || !news.units.is_empty() {
                return news;
            }
            self.wake.notified().await;
        }
    }
}

/// Failure of a call to the service manager.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UnitError {
    /// The bus is away.
    #[error("the system bus is away; the agent keeps trying, see `systemctl status dbus`")]
    NoBus,
    /// systemd refuses the call; the same one will be refused again.
    #[error("systemd refuses {call} of {unit}: {reason}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The unit.
        unit: String,
        /// What systemd says.
        reason: String,
    },
    /// The job ended with another result than `done`.
    #[error(
        "systemd could not {call} {unit}: the job ended as {result:?}; see `journalctl -u {unit}`"
    )]
    Job {
        /// The call.
        call: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word for it.
        result: String,
    },
    /// No end of the job in time.
    #[error("{call} of {unit} did not end within {} s", limit.as_secs())]
    Timeout {
        /// The call.
        call: &'static str,
        /// The unit.
        unit: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// systemd has loaded another text of that name.
    #[error(
        "systemd still has another text of {unit} loaded: it is not started before that one is gone"
    )]
    OtherText {
        /// The unit.
        unit: String,
    },
}

/// The service manager, as far as the agent needs it.
pub trait Units: Clone + Send + Sync + 'static {
    /// Starts a unit, waits until it is up, and says what is known of it then. Refuses a unit that has
    /// another text loaded.
    fn start(&self, unit: &str) -> impl Future<Output = Result<UnitStatus, UnitError>> + Send;
    /// Stops a unit and waits until it is down. A unit that is not there is down.
    fn stop(&self, unit: &str) -> impl Future<Output = Result<(), UnitError>> + Send;
    /// What systemd knows of a unit; the default status when it is not loaded.
    fn status(&self, unit: &str) -> impl Future<Output = Result<UnitStatus, UnitError>> + Send;
    /// The same of many, in their order.
    fn statuses(
        &self,
        units: &[String],
    ) -> impl Future<Output = Result<Vec<UnitStatus>, UnitError>> + Send {
        async move {
            let mut all = Vec::with_capacity(units.len());
            for unit in units {
                all.push(self.status(unit).await?);
            }
            Ok(all)
        }
    }
    /// Has systemd read a unit's file if it doesn't know the unit yet, and says what it knows then.
    fn load(&self, unit: &str) -> impl Future<Output = Result<UnitStatus, UnitError>> + Send;
    /// Does until the next boot what a unit's `[Install]` section says; whether that changed anything.
    fn enable(&self, unit: &str) -> impl Future<Output = Result<bool, UnitError>> + Send;
    /// Takes that back; whether that changed anything.
    fn disable(&self, unit: &str) -> impl Future<Output = Result<bool, UnitError>> + Send;
    /// Makes systemd read all unit files again (for raw units only).
    fn reload(&self) -> impl Future<Output = Result<(), UnitError>> + Send;
    /// Forgets that a unit has failed.
    fn reset_failed(&self, unit: &str) -> impl Future<Output = Result<(), UnitError>> + Send;
    /// The last lines that a process printed; none when the journal does not answer.
    fn last_lines(&self, process: &str) -> impl Future<Output = Vec<String>> + Send;
    /// Where changes are told.
    fn inbox(&self) -> &Inbox;
}
