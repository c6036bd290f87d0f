//! Which unit and which host an operator means by a word. Pure.

use super::{
    fleet::{Fleet, unit_of},
    platform::{Instance, Part, Target},
};
use crate::model::{MachineId, UnitFileName};

/// Why a word can't be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Nothing has such a name.
    #[error("nothing that runs or is installed is called {0:?}")]
    Unknown(String),
    /// Several have.
    #[error("{word:?} may be {}", .candidates.join(", "))]
    Ambiguous {
        /// The word.
        word: String,
        /// What it may be.
        candidates: Vec<String>,
    },
    /// It is known, and on no host.
    #[error("{0} is on no host")]
    Nowhere(String),
    /// No host has such a name, address or id.
    #[error("no host is called {0:?}")]
    UnknownHost(String),
}

/// A unit on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The unit.
    pub unit: UnitFileName,
    /// Where it is.
    pub machine: MachineId,
}

/// The host that is meant by a name, an address or the beginning of an id (four digits or more).
///
/// # Errors
/// When none or several are meant.
pub fn host(fleet: &Fleet, word: &str) -> Result<MachineId, SubjectError> {
    let ids = fleet.machines.keys().chain(fleet.hosts.keys());
    let mut found: Vec<&MachineId> = ids
        .filter(|id| {
            let named = [
                fleet
                    .machines
                    .get(*id)
                    .map(|machine| machine.hostname.as_str()),
                fleet.hosts.get(*id).map(|host| host.hostname.as_str()),
                fleet.address(id),
            ];
            let by_id = word.trim_end_matches("...");
            named.contains(&Some(word)) || (by_id.len() >= 4 && id.as_str().starts_with(by_id))
        })
        .collect();
    found.sort();
    found.dedup();
    match found[..] {
        [] => Err(SubjectError::UnknownHost(word.to_owned())),
        [one] => Ok(one.clone()),
        ref many => Err(SubjectError::Ambiguous {
            word: word.to_owned(),
            candidates: many.iter().map(|id| fleet.host_label(id)).collect(),
        }),
    }
}

/// The unit that is meant: a unit's file name, a process (`blog_v7.web.1`), an instance
/// (`router@1`), a part, or the beginning of a name that only one has.
///
/// `on` names the host; without it the unit must be on one only.
///
/// # Errors
/// When none or several are meant.
pub fn unit(fleet: &Fleet, word: &str, on: Option<&str>) -> Result<Located, SubjectError> {
    let machine = on.map(|on| host(fleet, on)).transpose()?;
    let everywhere = places(fleet);
    let exact = exact_names(word);
    let matches = |wanted: &dyn Fn(&str) -> bool| -> Vec<Located> {
        let here = |located: &&Located| machine.as_ref().is_none_or(|m| *m == located.machine);
        let meant = everywhere.iter().filter(|l| wanted(l.unit.as_str()));
        meant.filter(here).cloned().collect()
    };
    let mut found = matches(&|unit| exact.iter().any(|name| name == unit));
    if found.is_empty() {
        found = matches(&|unit| begins_with(unit, word));
    }
    if found.is_empty() {
        // A unit that the platform didn't assign (deis-agent.service, sshd.service), on a host
        // that was named.
        if let (Some(machine), Some(Ok(unit))) = (&machine, exact.last().map(|name| name.parse())) {
            return Ok(Located {
                unit,
                machine: machine.clone(),
            });
        }
    }
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => {
            let installed = |name: &String| fleet.units.keys().any(|unit| unit.as_str() == name);
            Err(match exact.iter().find(|name| installed(name)) {
                Some(name) => SubjectError::Nowhere(name.clone()),
                None => SubjectError::Unknown(word.to_owned()),
            })
        }
        many => Err(SubjectError::Ambiguous {
            word: word.to_owned(),
            candidates: many
                .iter()
                .map(|l| format!("{} on {}", l.unit, fleet.host_label(&l.machine)))
                .collect(),
        }),
    }
}

/// All units that are somewhere.
fn places(fleet: &Fleet) -> Vec<Located> {
    let assigned = fleet.assignments.keys();
    let assigned = assigned.map(|(name, machine)| (name.as_str(), machine));
    let reported = fleet.states.iter().flat_map(|(machine, state)| {
        let names = state.processes.keys();
        names.map(move |name| (name.as_str(), machine))
    });
    let mut all: Vec<Located> = assigned
        .chain(reported)
        .filter_map(|(name, machine)| {
            Some(Located {
                unit: unit_of(name).parse().ok()?,
                machine: machine.clone(),
            })
        })
        .collect();
    all.sort_by(|a, b| (&a.unit, &a.machine).cmp(&(&b.unit, &b.machine)));
    all.dedup();
    all
}

/// The unit names that a word says in full.
fn exact_names(word: &str) -> Vec<String> {
    let instance = match word.parse::<Target>() {
        Ok(Target::Instance(instance)) => Some(instance.to_string()),
        _ => None,
    };
    instance
        .into_iter()
        .chain([word.to_owned(), format!("{word}.service")])
        .filter(|name| name.parse::<UnitFileName>().is_ok())
        .collect()
}

/// Whether a unit's name begins with the word, which ends where one of the name's parts ends.
fn begins_with(unit: &str, word: &str) -> bool {
    if let (Ok(part), Some(instance)) = (word.parse::<Part>(), Instance::of_unit(unit)) {
        return part == instance.part;
    }
    let rest = unit.strip_prefix(word).filter(|_| !word.is_empty());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.', '@', '-']))
}
