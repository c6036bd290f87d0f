//! What an operator has set below `/deis/platform/` about placement. A value that makes no sense is
//! said, and the default is used in its place.

use std::collections::BTreeMap;

use super::waiting::{Reason, Waiting};

/// The label that names failure domains when nobody says otherwise.
pub const DEFAULT_DOMAIN_LABEL: &str = "zone";

/// Settings of placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placing {
    /// Share of the hosts' memory that may be reserved, in percent.
    pub memory_percent: u64,
    /// Share of the hosts' CPU that may be reserved, in percent.
    pub cpu_percent: u64,
    /// The label whose values are failure domains.
    pub domain_label: String,
    /// Processes that may be moved to spread apps better, per minute; 0: none.
    pub moves_per_minute: u32,
}

impl Default for Placing {
    fn default() -> Self {
        Self {
            memory_percent: 100,
            cpu_percent: 100,
            domain_label: DEFAULT_DOMAIN_LABEL.to_owned(),
            // A move is a restart: nobody's app is touched unless an operator wants it.
            moves_per_minute: 0,
        }
    }
}

/// A setting of the scheduler: its name, what it may be, and where it goes.
struct Setting {
    name: &'static str,
    rule: &'static str,
    set: fn(&mut Placing, &str) -> Option<()>,
}

const SETTINGS: [Setting; 4] = [
    Setting {
        name: "memory-overcommit-percent",
        rule: "a whole number from 1 to 10000",
        set: |placing, text| {
            placing.memory_percent = number(text, 1, 10_000)?;
            Some(())
        },
    },
    Setting {
        name: "cpu-overcommit-percent",
        rule: "a whole number from 1 to 10000",
        set: |placing, text| {
            placing.cpu_percent = number(text, 1, 10_000)?;
            Some(())
        },
    },
    Setting {
        name: "failure-domain",
        rule: "the name of a label: letters, digits, . _ and -",
        set: |placing, text| {
            placing.domain_label = label(text)?.to_owned();
            Some(())
        },
    },
    Setting {
        name: "rebalance-per-minute",
        rule: "a whole number from 0 to 600",
        set: |placing, text| {
            placing.moves_per_minute = u32::try_from(number(text, 0, 600)?).ok()?;
            Some(())
        },
    },
];

impl Placing {
    /// What is set below `/deis/platform/`, by name, and what of it makes no sense.
    #[must_use]
    pub fn of(settings: &BTreeMap<String, String>) -> (Self, Vec<Waiting>) {
        let (mut placing, mut faults) = (Self::default(), Vec::new());
        for setting in &SETTINGS {
            let Some(text) = settings.get(setting.name) else {
                continue;
            };
            if (setting.set)(&mut placing, text.trim()).is_none() {
                let words = format!("{text:?} is ignored: it has to be {}", setting.rule);
                faults.push(Waiting {
                    what: format!("setting {}", setting.name),
                    why: Reason::Setting(words),
                });
            }
        }
        (placing, faults)
    }
}

/// Checks a value before it is set below `/deis/platform/`.
///
/// # Errors
/// What the value has to be. Names that don't belong to the scheduler may have any value.
pub fn check(name: &str, value: &str) -> Result<(), &'static str> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    match setting {
        Some(setting) => (setting.set)(&mut Placing::default(), value.trim()).ok_or(setting.rule),
        None => Ok(()),
    }
}

fn number(text: &str, least: u64, most: u64) -> Option<u64> {
    let number = text.parse().ok()?;
    (least..=most).contains(&number).then_some(number)
}

fn label(text: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (!text.is_empty() && text.len() <= 63 && text.chars().all(plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_said_and_not_used() {
        let cases = [
            ("memory-overcommit-percent", "150", None),
            ("cpu-overcommit-percent", "0", Some("from 1 to 10000")),
            ("failure-domain", "rack/1", Some("name of a label")),
            ("rebalance-per-minute", " 6 ", None),
        ];
        let settings = cases.map(|(name, value, _)| (name.to_owned(), value.to_owned()));
        let (placing, faults) = Placing::of(&settings.into());
        let want = Placing {
            memory_percent: 150,
            moves_per_minute: 6,
            ..Placing::default()
        };
        assert_eq!(placing, want);
        for (name, value, fault) in cases {
            let said = faults.iter().find(|said| said.what.ends_with(name));
            assert_eq!(said.is_some(), fault.is_some(), "{name}");
            assert_eq!(check(name, value).is_err(), fault.is_some(), "{name}");
            if let (Some(said), Some(fault)) = (said, fault) {
                assert!(said.why.to_string().contains(fault), "{said}");
            }
        }
        assert_eq!(check("domain", "anything"), Ok(()));
    }
}
