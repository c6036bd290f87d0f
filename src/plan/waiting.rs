//! What waits, and why: reasons are data, and their `Display` is the words for people.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::schedule::{Refusal, Resources};
use crate::model::ProcessId;

/// Names of processes, or of hosts, that one sentence takes.
const NAMED: usize = 8;

/// Something that waits, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    /// What waits: an app, a unit, a host.
    pub what: String,
    /// Why.
    pub why: Reason,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Why something waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No host can take processes of a type.
    NoPlace(NoPlace),
    /// No host can take a unit.
    NoHost(NoHost),
    /// A unit stays on a host that is being drained.
    Stays {
        /// The host's name.
        on: String,
        /// Why no other one takes it, or not yet.
        why: Box<Reason>,
    },
    /// A unit leaves a drained host after another instance of its template.
    Turn {
        /// The instance whose turn it is.
        after: String,
    },
    /// A host is away, and not lost yet.
    HostAway {
        /// The time that it still has.
        left: Duration,
    },
    /// More hosts went at once than can be believed.
    ManyLost(String),
    /// A record can't be read.
    Unreadable(String),
    /// A setting makes no sense.
    Setting(String),
    /// A unit's own options, or its state.
    Unit(String),
    /// A step of a rollout, a repair or a removal.
    Step(String),
}

impl Reason {
    /// The classes of all reasons.
    pub const CLASSES: [&'static str; 7] = [
        "capacity", "host", "fault", "record", "setting", "unit", "rollout",
    ];

    /// Its class: one of [`Self::CLASSES`].
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::NoPlace(_) | Self::NoHost(_) => "capacity",
            Self::Stays { why, .. } => why.class(),
            Self::HostAway { .. } => "host",
            Self::ManyLost(_) => "fault",
            Self::Unreadable(_) => "record",
            Self::Setting(_) => "setting",
            Self::Turn { .. } | Self::Unit(_) => "unit",
            Self::Step(_) => "rollout",
        }
    }
}

impl From<String> for Reason {
    fn from(step: String) -> Self {
        Self::Step(step)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlace(why) => why.fmt(f),
            Self::NoHost(why) => why.fmt(f),
            Self::Stays { on, why } => write!(f, "it stays on {on}, which is being drained: {why}"),
            Self::Turn { after } => write!(f, "its turn comes when {after} is up elsewhere"),
            Self::HostAway { left } => write!(
                f,
                "is away; it counts as lost after {} s",
                left.as_secs() + 1
            ),
            Self::ManyLost(words)
            | Self::Unreadable(words)
            | Self::Setting(words)
            | Self::Unit(words)
            | Self::Step(words) => f.write_str(words),
        }
    }
}

/// Reasons of one app, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Reasons(Vec<Reason>);

impl Reasons {
    pub fn push(&mut self, reason: impl Into<Reason>) {
        self.0.push(reason.into());
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Reason> {
        self.0.iter()
    }

    /// One line for people out of all.
    pub fn summary(&self) -> Option<String> {
        let (first, rest) = self.0.split_first()?;
        Some(match rest.len() {
            0 => first.to_string(),
            more => format!("{first}; and {more} more"),
        })
    }
}

/// Processes for which there is no place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoPlace {
    /// Which.
    pub slots: Vec<ProcessId>,
    /// The host that is being drained, and that they stay on meanwhile.
    pub stay_on: Option<String>,
    /// What all hosts lack.
    pub shortage: Shortage,
    /// Others fill the slots meanwhile.
    pub old_ones_stay: bool,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = self.slots.len() > 1;
        match &self.stay_on {
            Some(host) => {
                list(f, &self.slots)?;
                let verb = if many { "stay" } else { "stays" };
                write!(f, " {verb} on {host}, which is being drained")?;
            }
            None => {
                if let Some(first) = self.slots.first() {
                    write!(f, "{first}")?;
                }
                if many {
                    write!(f, " and {} more", self.slots.len() - 1)?;
                }
            }
        }
        write!(f, ": {}", self.shortage)?;
        if self.old_ones_stay && self.stay_on.is_none() {
            f.write_str("; the old ones keep their places until new ones serve")?;
        }
        Ok(())
    }
}

/// `web.1, web.2 and 7 more`
fn list(f: &mut fmt::Formatter<'_>, names: &[impl fmt::Display]) -> fmt::Result {
    for (at, name) in names.iter().take(NAMED).enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        write!(f, "{comma}{name}")?;
    }
    if names.len() > NAMED {
        write!(f, " and {} more", names.len() - NAMED)?;
    }
    Ok(())
}

/// What hosts lack for a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shortage {
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of them refuse it for which reason.
    pub refusals: BTreeMap<Refusal, usize>,
    /// What it reserves.
    pub needs: Resources,
    /// Labels that a host must have.
    pub tags: BTreeMap<String, String>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts == 0 {
            return NoHost::default().fmt(f);
        }
        let part = |(refusal, number): (&Refusal, &usize)| {
            let words = refusal.words(self.needs, &self.tags, *number > 1);
            format!("{number} {words}")
        };
        let parts: Vec<String> = self.refusals.iter().map(part).collect();
        let parts = parts.join(", ");
        write!(f, "no host can take it: of {}, {parts}", self.hosts)
    }
}

/// What each host lacks for a unit; nothing when there is no host.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoHost {
    /// `deis-01 is cordoned`
    pub lacks: Vec<String>,
}

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lacks.is_empty() {
            return f.write_str("no host is there; start one with deis-agent.service");
        }
        let named = self.lacks.len().min(NAMED);
        let (named, rest) = self.lacks.split_at(named);
        write!(f, "no host can take it: {}", named.join("; "))?;
        if !rest.is_empty() {
            write!(f, "; and {} more", rest.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_place(slots: u32, stay_on: Option<&str>) -> Reason {
        let slot = |number| ProcessId {
            kind: "web".parse().expect("a type"),
            number,
        };
        Reason::NoPlace(NoPlace {
            slots: (1..=slots).map(slot).collect(),
            stay_on: stay_on.map(str::to_owned),
            shortage: Shortage {
                hosts: 3,
                refusals: [(Refusal::Memory, 2), (Refusal::Tags, 1)].into(),
                needs: Resources {
                    memory_bytes: 1 << 29,
                    cpu_shares: 0,
                },
                tags: [("disk".to_owned(), "ssd".to_owned())].into(),
            },
            old_ones_stay: true,
        })
    }

    #[test]
    fn words_and_classes() {
        let cases = [
            (
                no_place(1, None),
                "capacity",
                "web.1: no host can take it: of 3, 2 lack 512 MiB of free memory, 1 doesn't have the \
                 tags disk=ssd; the old ones keep their places until new ones serve",
            ),
            (
                no_place(2, Some("deis-02")),
                "capacity",
                "web.1, web.2 stay on deis-02, which is being drained: no host can take it: of 3, 2 \
                 lack 512 MiB of free memory, 1 doesn't have the tags disk=ssd",
            ),
            (
                Reason::NoHost(NoHost::default()),
                "capacity",
                "no host is there; start one with deis-agent.service",
            ),
            (
                Reason::Stays {
                    on: "deis-02".to_owned(),
                    why: Box::new(Reason::Turn {
                        after: "deis-router@1.service".to_owned(),
                    }),
                },
                "unit",
                "it stays on deis-02, which is being drained: its turn comes when \
                 deis-router@1.service is up elsewhere",
            ),
            (
                Reason::HostAway {
                    left: Duration::from_millis(2_500),
                },
                "host",
                "is away; it counts as lost after 3 s",
            ),
        ];
        for (reason, class, words) in cases {
            assert_eq!(reason.to_string(), words);
            assert_eq!(reason.class(), class, "{words}");
            assert!(Reason::CLASSES.contains(&class));
        }
    }
}
