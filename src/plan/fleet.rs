//! Operators' units: fleet's `[X-Fleet]` options, and which host runs which unit.
//!
//! `MachineID`, `MachineOf`, `MachineMetadata` (all keys, any value of a key), `Conflicts` (globs,
//! both ways) and `Global` are honoured; `Replaces` is read, and keeps a unit off the other's host.

mod leave;
mod one;
mod verdicts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use sha2::{Digest, Sha256};

use self::one::There;
pub(super) use self::verdicts::verdicts;
use super::{
    hosts::Losses,
    round::{Batch, Context, Plan, fenced},
    schedule::{Closed, labels},
    world::{HostView, World},
};
use crate::{model::*, store::keys};

/// A unit's `[X-Fleet]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XFleet {
    /// One on every host that fits.
    pub global: bool,
    /// Only on this machine.
    pub machine_id: Option<String>,
    /// Only beside these units.
    pub machine_of: Vec<String>,
    /// Labels that the host must have: each key with one of its values.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
    /// Never beside units whose names match.
    pub conflicts: Vec<String>,
    /// Takes the place of these units.
    pub replaces: Vec<String>,
}

/// What in a unit's `[X-Fleet]` section can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidXFleet {
    /// A value without its form.
    #[error("line {line}: {option}={value} is not understood: {rule}")]
    Value {
        /// Line in the unit file, from 1.
        line: usize,
        /// The option.
        option: String,
        /// Its value.
        value: String,
        /// What would be right.
        rule: &'static str,
    },
    /// A quote that is never closed.
    #[error("line {line}: a quote is not closed")]
    Quote {
        /// Line in the unit file, from 1.
        line: usize,
    },
}

impl XFleet {
    /// Reads the section out of the text of the unit `name`. Unknown options are ignored.
    ///
    /// # Errors
    /// When a known option's value is not of its form.
    pub fn parse(name: &UnitFileName, text: &str) -> Result<Self, InvalidXFleet> {
        let mut options = Self::default();
        let mut inside = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('[') {
                inside = line == "[X-Fleet]";
                continue;
            }
            if !inside || line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some((option, value)) = line.split_once('=') {
                let value = expand(value.trim(), name.as_str());
                options.set(number + 1, option.trim(), &value)?;
            }
        }
        Ok(options)
    }

    fn set(&mut self, line: usize, option: &str, value: &str) -> Result<(), InvalidXFleet> {
        let invalid = |rule| InvalidXFleet::Value {
            line,
            option: option.to_owned(),
            value: value.to_owned(),
            rule,
        };
        let words = || split_words(value).ok_or(InvalidXFleet::Quote { line });
        match option {
            "Global" => {
                self.global = match value {
                    "true" | "yes" | "1" | "on" => true,
                    "false" | "no" | "0" | "off" | "" => false,
                    _ => return Err(invalid("use true or false")),
                };
            }
            "MachineID" => self.machine_id = Some(value.to_owned()),
            "MachineOf" => self.machine_of.extend(words()?),
            "Conflicts" => self.conflicts.extend(words()?),
            "Replaces" => self.replaces.extend(words()?),
            "MachineMetadata" => {
                for word in words()? {
                    let (key, value) = word
                        .split_once('=')
                        .ok_or_else(|| invalid("use key=value"))?;
                    let values = self.metadata.entry(key.to_owned()).or_default();
                    values.insert(value.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn is_wary(&self) -> bool {
        !(self.conflicts.is_empty() && self.replaces.is_empty())
    }

    fn conflicts_with(&self, other: &str) -> bool {
        self.conflicts
            .iter()
            .chain(&self.replaces)
            .any(|pattern| glob(pattern, other))
    }
}

/// fleet's specifiers: `%n` the full name, `%N` without suffix, `%p` before the `@`, `%i` after it.
fn expand(value: &str, name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => out.push_str(name),
            Some('N') => out.push_str(stem),
            Some('p') => out.push_str(prefix),
            Some('i') => out.push_str(instance),
            Some('%') | None => out.push('%'),
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

/// Words at spaces; a quoted word may hold spaces. None when a quote is not closed.
fn split_words(value: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in value.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            None => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    quote.is_none().then_some(words)
}

/// Whether `text` matches a shell pattern of `*`, `?` and `[...]`. Linear but for nested stars.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(next) = one(&pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The position in the pattern after one that matches `c`.
fn one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match *pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => {
            let end = at + 2 + pattern.get(at + 2..)?.iter().position(|c| *c == ']')?;
            let set = &pattern[at + 1..end];
            let (set, negated) = match set.split_first() {
                Some(('!' | '^', rest)) => (rest, true),
                _ => (set, false),
            };
            let mut hit = false;
            let mut rest = set;
            while let [first, tail @ ..] = rest {
                rest = match tail {
                    ['-', last, after @ ..] => {
                        hit |= (*first..=*last).contains(&c);
                        after
                    }
                    _ => {
                        hit |= *first == c;
                        tail
                    }
                };
            }
            (hit != negated).then_some(end + 1)
        }
        '\\' => (*pattern.get(at + 1)? == c).then_some(at + 2),
        literal => (literal == c).then_some(at + 1),
    }
}

/// What identifies a unit's text: SHA-256 in hexadecimal digits.
#[must_use]
pub fn text_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hash, byte| {
            let _ = write!(hash, "{byte:02x}");
            hash
        })
}

/// A host as units see it.
struct Host<'w> {
    view: &'w HostView,
    labels: BTreeMap<String, String>,
    open: bool,
    units: BTreeSet<&'w UnitFileName>,
}

struct Units<'w> {
    options: BTreeMap<&'w UnitFileName, &'w XFleet>,
    /// Those that may conflict with others by their own options.
    wary: Vec<&'w UnitFileName>,
    hosts: BTreeMap<&'w MachineId, Host<'w>>,
    /// Parts of which an instance is on the move, when hosts are drained: `deis-router`.
    moving: BTreeSet<&'w str>,
}

impl<'w> Units<'w> {
    /// Why a unit can't run on a host.
    fn refuses(&self, name: &UnitFileName, options: &XFleet, id: &MachineId) -> Option<String> {
        let host = self.hosts.get(id)?;
        if options
            .machine_id
            .as_ref()
            .is_some_and(|wanted| wanted != id.as_str())
        {
            return Some("has another machine id".to_owned());
        }
        let fits = |(key, values): (&String, &BTreeSet<String>)| {
            host.labels
                .get(key)
                .is_some_and(|value| values.contains(value))
        };
        if !options.metadata.iter().all(fits) {
            return Some("doesn't have the metadata".to_owned());
        }
        let peer = |peer: &&String| !host.units.iter().any(|unit| unit.as_str() == **peer);
        if let Some(peer) = options.machine_of.iter().find(peer) {
            return Some(format!("doesn't run {peer}"));
        }
        let mut others = host.units.iter().copied();
        let theirs = |other: &&UnitFileName| {
            let options = self.options.get(other);
            **other != *name
                && host.units.contains(*other)
                && options.is_some_and(|options| options.conflicts_with(name.as_str()))
        };
        let conflict = others
            .find(|other| {
                options.is_wary() && *other != name && options.conflicts_with(other.as_str())
            })
            .or_else(|| self.wary.iter().copied().find(theirs));
        conflict.map(|other| format!("runs {other}, a conflict"))
    }

    /// The host with the fewest units that can take one more, or why none can.
    fn choose(&self, name: &UnitFileName, options: &XFleet) -> Result<&'w MachineId, String> {
        let mut best: Option<(usize, usize, &'w MachineId)> = None;
        let mut reasons = BTreeSet::new();
        for (id, host) in &self.hosts {
            if !host.open {
                let why = Closed::of(host.view).map_or("is lost", Closed::words);
                reasons.insert(format!("{} {why}", host.view.name(id)));
            } else if let Some(why) = self.refuses(name, options, id) {
                reasons.insert(format!("{} {why}", host.view.name(id)));
            } else {
                let rank = (host.units.len(), host.view.processes.len(), *id);
                best = Some(best.map_or(rank, |best| best.min(rank)));
            }
        }
        if self.hosts.is_empty() {
            return Err("no host is there; start one with deis-agent.service".to_owned());
        }
        let reasons: Vec<String> = reasons.into_iter().collect();
        best.map(|(_, _, id)| id)
            .ok_or_else(|| format!("no host can take it: {}", reasons.join("; ")))
    }
}

/// Where each unit is assigned.
type Assigned<'w> = BTreeMap<&'w UnitFileName, Vec<There<'w>>>;

/// What is known of units and hosts, and where units are.
fn gather<'w>(
    world: &'w World,
    losses: &Losses,
    plan: &mut Plan,
) -> (Units<'w>, Assigned<'w>) {
    let bad = |prefix: String| {
        world
            .unreadable()
            .range(prefix.clone()..)
            .next()
            .filter(|(key, _)| key.starts_with(&prefix))
    };
    if let Some((key, why)) = bad(keys::units().as_str().to_owned()) {
        plan.wait(
            "units",
            format!("{key} can't be read ({why}): what it runs is left alone"),
        );
    }
    let mut options = BTreeMap::new();
    for (name, unit) in &world.units {
        if unit.value.target != UnitTarget::Launched {
            continue;
        }
        match world.texts.get(name).map(|text| &text.options) {
            Some(Ok(parsed)) => {
                options.insert(name, parsed);
            }
            None => {}
            Some(Err(error)) => plan.wait(name.as_str(), format!("its [X-Fleet] section: {error}")),
        }
    }
    let mut assigned = Assigned::new();
    let is_wary =
        |(name, options): (&&'w UnitFileName, &&XFleet)| options.is_wary().then_some(*name);
    let mut units = Units {
        wary: options.iter().filter_map(is_wary).collect(),
        options,
        hosts: BTreeMap::new(),
        moving: BTreeSet::new(),
    };
    for (id, view) in &world.hosts {
        for (name, assignment) in &view.units {
            assigned.entry(name).or_default().push((id, assignment));
        }
        if let Some(machine) = view.presence.machine() {
            let open = Closed::of(view).is_none() && !losses.lost.contains(id);
            let labels = labels(view, machine);
            units.hosts.insert(
                id,
                Host {
                    view,
                    labels,
                    open,
                    units: view.units.keys().collect(),
                },
            );
        }
    }
    (units, assigned)
}

/// Plans where units run.
pub(super) fn step<'w>(world: &'w World, losses: &Losses, cx: &Context<'_>, plan: &mut Plan) {
    let (mut units, assigned) = gather(world, losses, plan);
    let names: BTreeSet<&UnitFileName> =
        world.units.keys().chain(assigned.keys().copied()).collect();
    let none = Vec::new();
    if world.hosts.values().any(|host| host.drain().is_some()) {
        units.note_moving(&assigned, losses);
    }
    // Units go in order of name, except that those beside others go after them.
    let (first, then): (Vec<&UnitFileName>, Vec<&UnitFileName>) =
        names.into_iter().partition(|name| {
            units
                .options
                .get(name)
                .is_none_or(|o| o.machine_of.is_empty())
        });
    let mut batch = Batch::default();
    for name in first.into_iter().chain(then) {
        let there = assigned.get(name).unwrap_or(&none);
        batch.append(
            one::plan(world, name, there, &mut units, losses, cx, plan),
            &one::base(world, name),
        );
    }
    // All units together: hundreds that are launched at once are a few transactions.
    batch.pack("units", world, &fenced(cx), plan);
}
