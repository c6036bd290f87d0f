//! What the owner of an app reads in its log about one of its processes on this host.

use super::{agent::Agent, runtime::Runtime};
use crate::{logger::tell::untold, model::ProcessName, systemd::Units};

/// Something that an app's owner is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// It ended by itself, and is started again.
    Crashed {
        /// How.
        reason: String,
        /// How often it was started again so far.
        restarts: u32,
    },
    /// It runs, and takes no requests any more.
    Unhealthy(String),
    /// It takes requests again.
    Healthy,
    /// Its type is single, and its host's lease has run out.
    Suspended,
}

impl Happened {
    /// The words that stand after the process's name.
    fn words(&self) -> String {
        match self {
            Self::Crashed { reason, restarts } => {
                let restarts = match restarts {
                    0 => String::new(),
                    1 => ", restarted once so far".to_owned(),
                    more => format!(", restarted {more} times so far"),
                };
                format!("crashed: {reason}{restarts}")
            }
            Self::Unhealthy(reason) if reason.is_empty() => "is unhealthy".to_owned(),
            Self::Unhealthy(reason) => format!("is unhealthy: {reason}"),
            Self::Healthy => "is healthy again".to_owned(),
            Self::Suspended => {
                "is stopped: its host can't reach etcd, and its type is single".to_owned()
            }
        }
    }
}

impl<U: Units, R: Runtime> Agent<U, R> {
    /// Tells it, unless the same process gave cause to a moment ago. Waits for nothing.
    pub(super) fn tell(&mut self, name: &str, happened: &Happened) {
        let now = self.clock.elapsed();
        let (Some(entry), Ok(process)) = (self.world.entry_mut(name), name.parse::<ProcessName>())
        else {
            return;
        };
        if let Some(before) = entry.damper.ask(now) {
            let text = format!("{}{}", happened.words(), untold(before));
            let id = process.id().to_string();
            self.edges.teller.say_of(&process.app, &id, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let crashed = |restarts| Happened::Crashed {
            reason: "exited with code 1".to_owned(),
            restarts,
        };
        for (happened, want) in [
            (crashed(0), "crashed: exited with code 1"),
            (
                crashed(1),
                "crashed: exited with code 1, restarted once so far",
            ),
            (
                crashed(7),
                "crashed: exited with code 1, restarted 7 times so far",
            ),
            (
                Happened::Unhealthy("port 5000: connection refused".into()),
                "is unhealthy: port 5000: connection refused",
            ),
            (Happened::Healthy, "is healthy again"),
        ] {
            assert_eq!(happened.words(), want);
        }
    }
}
