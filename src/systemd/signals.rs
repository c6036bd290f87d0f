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
            Some(Signal::Unit {
                name,
                change: UnitChange {
                    active: Some(Active::Inactive),
                    ..UnitChange::default()
                },
            })
        }
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
