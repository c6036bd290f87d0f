//! Reads what systemd's signals say.

use std::collections::HashMap;

use zbus::{Message, OwnedObjectPath, OwnedVariant};

use super::{Active, Exit, UnitChange, Words, proxies};
use crate::model::UNIT_SUFFIXES;

/// A signal that matters to us.
#[derive(Debug, PartialEq, Eq)]
pub enum Signal {
    /// A job ended.
    Job {
        /// Its object path.
        path: String,
        /// How.
        result: String,
    },
    /// A unit changed.
    Unit {
        /// Its name.
        name: String,
        /// How.
        change: UnitChange,
    },
    /// systemd knows a unit no more.
    Removed {
        /// Its name.
        name: String,
    },
    /// systemd reads all its units anew: that begins, or has ended.
    Reloading(bool),
}

/// What is to be done about a signal.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A job ended so.
    Job {
        /// Its object path.
        path: String,
        /// How.
        result: String,
    },
    /// A unit changed so.
    Unit {
        /// Its name.
        name: String,
        /// How.
        change: UnitChange,
    },
    /// Every unit is to be read again.
    Resync,
}

/// Makes sense of signals in their order: a reload (`systemctl daemon-reload`, by whomever) removes every
/// unit and makes it anew, whatever runs, so that meanwhile a removal means nothing.
#[derive(Debug, Default)]
pub struct Ear {
    reloading: bool,
}

impl Ear {
    /// Takes the next signal.
    pub fn hear(&mut self, signal: Signal) -> Option<Heard> {
        match signal {
            Signal::Job { path, result } => Some(Heard::Job { path, result }),
            Signal::Unit { name, change } => Some(Heard::Unit { name, change }),
            Signal::Removed { .. } if self.reloading => None,
            Signal::Removed { name } => Some(Heard::Unit {
                name,
                change: UnitChange {
                    active: Some(Active::Inactive),
                    ..UnitChange::default()
                },
            }),
            Signal::Reloading(begins) => {
                let ends = std::mem::replace(&mut self.reloading, begins) && !begins;
                ends.then_some(Heard::Resync)
            }
        }
    }
}

/// The property that says since when a unit is up.
pub const UP_SINCE: &str = "ActiveEnterTimestampMonotonic";

/// Properties of one interface as systemd sends them.
pub type Properties = HashMap<String, OwnedVariant>;

/// One property that is a text.
pub fn text(properties: &Properties, name: &str) -> Option<String> {
    <&str>::try_from(&**properties.get(name)?)
        .ok()
        .map(str::to_owned)
}

/// What the properties of org.freedesktop.systemd1.Unit say.
pub fn activity(properties: &Properties) -> Option<Active> {
    Some(Active::parse(
        &text(properties, "ActiveState")?,
        &text(properties, "SubState")?,
    ))
}

/// Since when a unit is up, by the same properties.
pub fn up_since(properties: &Properties) -> Option<u64> {
    u64::try_from(&**properties.get(UP_SINCE)?).ok()
}

/// The same in systemd's own words.
pub fn words(properties: &Properties) -> Option<Words> {
    Some(Words {
        active: text(properties, "ActiveState")?,
        sub: text(properties, "SubState")?,
    })
}

/// What the properties of org.freedesktop.systemd1.Service say.
pub fn service(properties: &Properties) -> (Option<Exit>, Option<u32>) {
    let number = |name: &str| properties.get(name).and_then(|v| i32::try_from(&**v).ok());
    let exit = text(properties, "Result").map(|result| Exit {
        result,
        code: number("ExecMainCode").unwrap_or_default(),
        status: number("ExecMainStatus").unwrap_or_default(),
    });
    (
        exit,
        properties
            .get("NRestarts")
            .and_then(|v| u32::try_from(&**v).ok()),
    )
}

/// Reads a signal; `None` when it is not for us.
pub fn read(message: &Message) -> Option<Signal> {
    let header = message.header();
    match header.member()?.as_str() {
        "JobRemoved" => {
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                message.body().deserialize().ok()?;
            Some(Signal::Job {
                path: path.as_str().to_owned(),
                result,
            })
        }
        "UnitRemoved" => {
            let (name, _): (String, OwnedObjectPath) = message.body().deserialize().ok()?;
            Some(Signal::Removed { name })
        }
        "Reloading" => Some(Signal::Reloading(message.body().deserialize().ok()?)),
        "PropertiesChanged" => {
            let name = proxies::unit_of_path(header.path()?.as_str())?;
            if !UNIT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                return None;
            }
            let (interface, changed, _): (String, Properties, Vec<String>) =
                message.body().deserialize().ok()?;
            let change = match interface.as_str() {
                proxies::UNIT => UnitChange {
                    active: Some(activity(&changed)?),
                    up_since: up_since(&changed),
                    words: words(&changed),
                    ..UnitChange::default()
                },
                proxies::SERVICE_UNIT => {
                    let (exit, restarts) = service(&changed);
                    UnitChange {
                        exit,
                        restarts,
                        ..UnitChange::default()
                    }
                }
                _ => return None,
            };
            Some(Signal::Unit { name, change })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_removes_still_runs() {
        let removed = |name: &str| Signal::Removed { name: name.into() };
        let inactive = |name: &str| {
            let change = UnitChange {
                active: Some(Active::Inactive),
                ..UnitChange::default()
            };
            let name = name.to_owned();
            Some(Heard::Unit { name, change })
        };
        let mut ear = Ear::default();
        for (signal, want) in [
            (removed("a.service"), inactive("a.service")),
            (Signal::Reloading(true), None),
            (removed("a.service"), None),
            (removed("b.service"), None),
            (Signal::Reloading(false), Some(Heard::Resync)),
            (removed("b.service"), inactive("b.service")),
            // The end of a reload whose beginning was before the connection's: it was read since.
            (Signal::Reloading(false), None),
        ] {
            let said = format!("{signal:?}");
            assert_eq!(ear.hear(signal), want, "{said}");
        }
    }
}
