//! fleet's HTTP API v1: its entities, pages and errors as they are on the wire. Pure.
//!
//! Fields stand in the order in which fleet wrote them, and what is empty is left out, as fleet did.

mod discovery;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::model::{
    Assignment, Desired, Machine, MachineId, MachineState, UnitFile, UnitFileName, UnitTarget,
    UnitWords,
    unit_text::{self, UnitOption},
};
use crate::{
    plan::fleet::{XFleet, text_hash},
    store::Versioned,
};
pub use discovery::discovery;

/// Entities on a page.
pub const PAGE: usize = 100;

/// An option of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its section.
    #[serde(default)]
    pub section: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

impl From<UnitOption> for Entry {
    fn from(option: UnitOption) -> Self {
        let UnitOption {
            section,
            name,
            value,
        } = option;
        Self {
            name,
            section,
            value,
        }
    }
}

impl From<Entry> for UnitOption {
    fn from(entry: Entry) -> Self {
        let Entry {
            name,
            section,
            value,
        } = entry;
        Self {
            section,
            name,
            value,
        }
    }
}

/// A unit: what is wanted of it, and how far that is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Unit {
    /// `inactive`, `loaded` or `launched`; none for one that is on all hosts.
    #[serde(
        rename = "currentState",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub current_state: String,
    /// The same words.
    #[serde(
        rename = "desiredState",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub desired_state: String,
    /// Where it is assigned.
    #[serde(
        rename = "machineID",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub machine_id: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What stands in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Entry>,
}

/// A unit on a host, as systemd has it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnitState {
    /// SHA-1 of its text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// The host.
    #[serde(rename = "machineID")]
    pub machine_id: String,
    /// The unit's name.
    pub name: String,
    /// systemd's ActiveState.
    #[serde(rename = "systemdActiveState")]
    pub active: String,
    /// systemd's LoadState.
    #[serde(rename = "systemdLoadState")]
    pub load: String,
    /// systemd's SubState.
    #[serde(rename = "systemdSubState")]
    pub sub: String,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Its machine id.
    pub id: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Its address.
    #[serde(rename = "primaryIP")]
    pub primary_ip: String,
}

/// A page of units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UnitPage {
    /// Asks for the next page; none on the last one.
    #[serde(rename = "nextPageToken", skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// Units, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<Unit>,
}

/// A page of states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StatePage {
    /// Asks for the next page; none on the last one.
    #[serde(rename = "nextPageToken", skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// States, by unit and host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<UnitState>,
}

/// A page of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MachinePage {
    /// Hosts, by id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<Host>,
    /// Asks for the next page; none on the last one.
    #[serde(rename = "nextPageToken", skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// Why a request is refused: the status, and what is said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// In words.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    /// Its entity.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "error": { "code": self.code, "message": self.message } })
    }
}

/// A change of a host's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relabel {
    /// The host.
    pub machine: MachineId,
    /// The label.
    pub key: String,
    /// Its value; none: it is removed.
    pub value: Option<String>,
}

/// An operation of a JSON patch.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct PatchOp {
    /// `add`, `remove` or `replace`.
    pub op: String,
    /// `/<machine id>/metadata/<label>`.
    pub path: String,
    /// The label's value.
    #[serde(default)]
    pub value: Option<Value>,
}

impl TryFrom<PatchOp> for Relabel {
    type Error = Refusal;

    fn try_from(PatchOp { op, path, value }: PatchOp) -> Result<Self, Refusal> {
        let bad = |why: String| Refusal::new(400, why);
        let parts: Vec<&str> = path.split('/').collect();
        let ["", machine, "metadata", key] = parts[..] else {
            return Err(bad(format!(
                "malformed metadata path {path:?}: use /<machine id>/metadata/<name>"
            )));
        };
        let is_label = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !(1..=128).contains(&key.len()) || !key.chars().all(is_label) {
            return Err(bad(format!(
                "{key:?} is no name for metadata: use letters, digits and _ . -"
            )));
        }
        let machine = machine
            .parse()
            .map_err(|_| bad(format!("{machine:?} is no machine id")))?;
        let value = match (op.as_str(), value) {
            ("remove", _) => None,
            ("add" | "replace", Some(Value::String(value)))
                if (1..=256).contains(&value.len()) && !value.contains(char::is_control) =>
            {
                Some(value)
            }
            ("add" | "replace", _) => {
                return Err(bad(format!(
                    "{op} of {path} needs a value of 1 to 256 characters"
                )));
            }
            _ => {
                return Err(bad(format!(
                    "invalid operation {op:?}: use add, remove or replace"
                )));
            }
        };
        let key = key.to_owned();
        Ok(Self {
            machine,
            key,
            value,
        })
    }
}

/// Which page a token asks for; the first one without a token.
///
/// # Errors
/// When it is none of ours.
pub fn page_of(token: Option<&str>) -> Result<usize, Refusal> {
    let Some(token) = token else { return Ok(1) };
    let bad = || Refusal::new(400, "invalid value of nextPageToken query parameter");
    let bytes = URL_SAFE.decode(token).map_err(|_| bad())?;
    match bytes[..] {
        [a, b, c, d] if usize::from(u16::from_le_bytes([a, b])) == PAGE => {
            let page = u16::from_le_bytes([c, d]);
            if page == 0 {
                Err(bad())
            } else {
                Ok(page.into())
            }
        }
        _ => Err(bad()),
    }
}

/// The part of `all` that is on a page, and the next page's token.
#[must_use]
pub fn cut<T>(all: Vec<T>, page: usize) -> (Vec<T>, String) {
    let (from, to) = ((page - 1) * PAGE, page * PAGE);
    let next = u16::try_from(page + 1).ok().filter(|_| all.len() > to);
    let token = next.map(|next| {
        let [c, d] = next.to_le_bytes();
        let [a, b] = u16::try_from(PAGE).unwrap_or(u16::MAX).to_le_bytes();
        URL_SAFE.encode([a, b, c, d])
    });
    let items = all.into_iter().skip(from).take(PAGE).collect();
    (items, token.unwrap_or_default())
}

/// fleet's word for what is wanted of a unit.
#[must_use]
pub const fn word(target: UnitTarget) -> &'static str {
    match target {
        UnitTarget::Inactive => "inactive",
        UnitTarget::Loaded => "loaded",
        UnitTarget::Launched => "launched",
    }
}

/// The other way round.
///
/// # Errors
/// When it is no such word.
pub fn target(word: &str) -> Result<UnitTarget, Refusal> {
    match word {
        "inactive" => Ok(UnitTarget::Inactive),
        "loaded" => Ok(UnitTarget::Loaded),
        "launched" => Ok(UnitTarget::Launched),
        _ => Err(Refusal::new(
            400,
            format!("invalid value {word:?} for desiredState: use inactive, loaded or launched"),
        )),
    }
}

/// fleet's hash of a unit's text: SHA-1 of its options as fleet wrote them.
#[must_use]
pub fn hash(text: &str) -> String {
    let options = unit_text::parse(text).and_then(|options| unit_text::write(&options));
    let digest = Sha1::digest(options.unwrap_or_else(|_| text.to_owned()));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a unit is on all hosts.
#[must_use]
pub fn is_global(name: &UnitFileName, file: &UnitFile) -> bool {
    XFleet::parse(name, &file.text).is_ok_and(|options| options.global)
}

/// What is known of units: files, assignments and reports.
#[derive(Debug, Clone, Copy)]
pub struct View<'v> {
    /// Unit files.
    pub units: &'v BTreeMap<UnitFileName, Versioned<UnitFile>>,
    /// Assignments, by name and host; those of apps' processes don't matter.
    pub assignments: &'v BTreeMap<(String, MachineId), Assignment>,
    /// What the hosts report.
    pub states: &'v BTreeMap<MachineId, MachineState>,
}

impl<'v> View<'v> {
    /// Where a unit is assigned: hosts that are to have it before those that are to stop it.
    #[must_use]
    pub fn places(&self, name: &UnitFileName) -> Vec<(&'v MachineId, &'v Assignment)> {
        let from = (name.to_string(), MachineId::first());
        let mut places: Vec<(&MachineId, &Assignment)> = self
            .assignments
            .range(from..)
            .take_while(|((unit, _), _)| unit == name.as_str())
            .map(|((_, machine), assignment)| (machine, assignment))
            .collect();
        places.sort_by_key(|(_, assignment)| assignment.desired == Desired::Stop);
        places
    }

    /// What systemd on a host says of the very assignment.
    #[must_use]
    pub fn words(
        &self,
        name: &UnitFileName,
        machine: &MachineId,
        assignment: &Assignment,
    ) -> Option<&'v UnitWords> {
        let state = self.states.get(machine)?.processes.get(name.as_str())?;
        let is_same = state.uuid == assignment.uuid;
        state.unit.as_ref().filter(|_| is_same)
    }

    /// How far a unit is that is on one host, and on which.
    #[must_use]
    pub fn current(&self, name: &UnitFileName) -> (UnitTarget, Option<&'v MachineId>) {
        match self.places(name).first() {
            None => (UnitTarget::Inactive, None),
            Some((machine, assignment)) => {
                let words = self.words(name, machine, assignment);
                let done = words.map_or(UnitTarget::Inactive, |words| words.done);
                (done, Some(machine))
            }
        }
    }

    /// A unit's entity.
    #[must_use]
    pub fn unit(&self, name: &UnitFileName, file: &UnitFile) -> Unit {
        let options = unit_text::parse(&file.text).unwrap_or_default();
        let mut unit = Unit {
            desired_state: word(file.target).to_owned(),
            name: name.to_string(),
            options: options.into_iter().map(Entry::from).collect(),
            ..Unit::default()
        };
        if !is_global(name, file) {
            let (current, machine) = self.current(name);
            unit.current_state = word(current).to_owned();
            unit.machine_id = machine.map(MachineId::to_string).unwrap_or_default();
        }
        unit
    }

    /// All units, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Unit> {
        let units = self.units.iter();
        units
            .map(|(name, file)| self.unit(name, &file.value))
            .collect()
    }

    /// The states of all units that are on hosts, by unit and host.
    #[must_use]
    pub fn unit_states(&self) -> Vec<UnitState> {
        let mut states = Vec::new();
        for ((name, machine), assignment) in self.assignments {
            let Ok(name) = name.parse::<UnitFileName>() else {
                continue;
            };
            let Some(words) = self.words(&name, machine, assignment) else {
                continue;
            };
            let file = self.units.get(&name).map(|file| &file.value.text);
            let text = file.filter(|text| assignment.is_of_text(&text_hash(text)));
            states.push(UnitState {
                hash: text.map(|text| hash(text)).unwrap_or_default(),
                machine_id: machine.to_string(),
                name: name.to_string(),
                active: words.active.clone(),
                load: words.load.clone(),
                sub: words.sub.clone(),
            });
        }
        states
    }
}

/// A host's entity.
#[must_use]
pub fn host(machine: &Machine, labels: &BTreeMap<String, String>) -> Host {
    let mut metadata = machine.metadata.clone();
    metadata.extend(labels.clone());
    Host {
        id: machine.id.to_string(),
        metadata,
        primary_ip: machine.address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_fleets() {
        let all: Vec<usize> = (0..250).collect();
        let (first, next) = cut(all.clone(), page_of(None).expect("first"));
        assert_eq!((first.len(), next.as_str()), (100, "ZAACAA=="));
        let (second, next) = cut(all.clone(), page_of(Some(&next)).expect("second"));
        assert_eq!((second[0], next.as_str()), (100, "ZAADAA=="));
        let (third, next) = cut(all, page_of(Some(&next)).expect("third"));
        assert_eq!((third.len(), next.as_str()), (50, ""));
        assert_eq!(cut(vec![1], 65535), (vec![], String::new()));
        for bad in ["EwBMLg==", "ZAAAAA==", "ZAACAA", "ZAACAAA=", "x", ""] {
            assert_eq!(page_of(Some(bad)).expect_err(bad).code, 400);
        }
    }

    #[test]
    fn patches() {
        let id = "0123456789abcdef0123456789abcdef";
        let cases = [
            (
                json!({ "op": "add", "path": format!("/{id}/metadata/foo"), "value": "bar" }),
                true,
            ),
            (
                json!({ "op": "replace", "path": format!("/{id}/metadata/a.b-c_1"), "value": "x=y" }),
                true,
            ),
            (
                json!({ "op": "remove", "path": format!("/{id}/metadata/foo") }),
                true,
            ),
            (
                json!({ "op": "noop", "path": format!("/{id}/metadata/foo"), "value": "bar" }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("/{id}/foo"), "value": "bar" }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("/{id}/metadata/foo"), "value": "" }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("/{id}/metadata/foo") }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("/{id}/metadata/foo"), "value": 5 }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("/{id}/metadata/foo"), "value": "a\nb" }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("/{id}/metadata/f o"), "value": "bar" }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("/{id}/metadata/foo/bar"), "value": "bar" }),
                false,
            ),
            (
                json!({ "op": "add", "path": format!("{id}/metadata/foo"), "value": "bar" }),
                false,
            ),
            (
                json!({ "op": "add", "path": "/../metadata/foo", "value": "bar" }),
                false,
            ),
        ];
        for (patch, ok) in cases {
            let op: PatchOp = serde_json::from_value(patch.clone()).expect("shape");
            assert_eq!(Relabel::try_from(op).is_ok(), ok, "{patch}");
        }
    }
}
