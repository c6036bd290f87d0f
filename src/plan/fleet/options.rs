//! A unit's `[X-Fleet]` section: where it may run.

use std::collections::{BTreeMap, BTreeSet};

use super::pattern::glob;
use crate::model::{
    UnitFileName,
    unit_text::{self, Said},
};

/// A unit's `[X-Fleet]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XFleet {
    /// One on every host that fits.
    pub global: bool,
    /// Only on this machine.
    pub machine_id: Option<String>,
    /// Only on a machine until its next boot.
    pub boot_id: Option<String>,
    /// Only beside these units.
    pub machine_of: Vec<String>,
    /// Labels that the host must have: each key with one of its values.
    pub metadata: BTreeMap<String, BTreeSet<Wish>>,
    /// Never beside units whose names match.
    pub conflicts: Vec<String>,
    /// Takes the place of these units.
    pub replaces: Vec<String>,
}

/// What is wanted of a label's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Exactly this.
    Is(String),
    /// Anything else.
    IsNot(String),
    /// A number that compares so with another one.
    Compares(Comparison, i64),
}

/// How two numbers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

impl Wish {
    /// Whether a label with this value will do.
    #[must_use]
    pub fn is_met(&self, value: &str) -> bool {
        match self {
            Self::Is(wanted) => value == wanted,
            Self::IsNot(unwanted) => value != unwanted,
            Self::Compares(comparison, wanted) => {
                value.parse().is_ok_and(|value: i64| match comparison {
                    Comparison::Less => value < *wanted,
                    Comparison::AtMost => value <= *wanted,
                    Comparison::More => value > *wanted,
                    Comparison::AtLeast => value >= *wanted,
                })
            }
        }
    }

    /// Reads `key=value`, `key!=value`, `key>=5` and so on.
    fn parse(text: &str) -> Result<(&str, Self), &'static str> {
        const RULE: &str = "use key=value, or key<5, key<=5, key>5, key>=5, key!=value";
        let at = text.find(['=', '<', '>', '!']).ok_or(RULE)?;
        let (key, rest) = text.split_at(at);
        let compares = |comparison, text: &str| {
            let number = text
                .parse()
                .map_err(|_| "only whole numbers can be compared so")?;
            Ok::<Self, &'static str>(Self::Compares(comparison, number))
        };
        let wish = if let Some(value) = rest.strip_prefix("<=") {
            compares(Comparison::AtMost, value)?
        } else if let Some(value) = rest.strip_prefix(">=") {
            compares(Comparison::AtLeast, value)?
        } else if let Some(value) = rest.strip_prefix('<') {
            compares(Comparison::Less, value)?
        } else if let Some(value) = rest.strip_prefix('>') {
            compares(Comparison::More, value)?
        } else if let Some(value) = rest.strip_prefix("!=") {
            Self::IsNot(value.to_owned())
        } else if let Some(value) = rest.strip_prefix("==").or(rest.strip_prefix('=')) {
            Self::Is(value.to_owned())
        } else {
            return Err(RULE);
        };
        if key.is_empty() || rest.ends_with('=') {
            return Err(RULE);
        }
        Ok((key, wish))
    }
}

/// What in a unit's `[X-Fleet]` section can't be understood, or can't be had.
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
    /// No such option.
    #[error(
        "line {line}: [X-Fleet] has no option {option}: it has Global, MachineID, MachineOf, \
         MachineMetadata, Conflicts and Replaces"
    )]
    Unknown {
        /// Line in the unit file, from 1.
        line: usize,
        /// The option.
        option: String,
    },
    /// Two options of which only one can be met.
    #[error("{0} and {1} can't both be met")]
    Contradiction(&'static str, &'static str),
    /// A unit that is to be beside what it is not to be beside.
    #[error(
        "it is to run beside {peer}, which Conflicts={pattern} or Replaces={pattern} keeps away"
    )]
    PeerConflicts {
        /// The unit beside which it is to run.
        peer: String,
        /// The pattern that matches it.
        pattern: String,
    },
}

impl XFleet {
    /// Reads the section out of the text of the unit `name`. Unknown options are ignored.
    ///
    /// # Errors
    /// When a known option's value is not of its form.
    pub fn parse(name: &UnitFileName, text: &str) -> Result<Self, InvalidXFleet> {
        Self::read(name, text, false)
    }

    /// The same for a text that is new: unknown options are errors, and so is what can't be met
    /// wherever it runs.
    ///
    /// # Errors
    /// When something in it is wrong.
    pub fn check(name: &UnitFileName, text: &str) -> Result<Self, InvalidXFleet> {
        let options = Self::read(name, text, true)?;
        for (is_set, other) in [
            (!options.machine_of.is_empty(), "MachineOf"),
            (!options.replaces.is_empty(), "Replaces"),
            (options.machine_id.is_some(), "MachineID"),
            (options.boot_id.is_some(), "MachineBootID"),
        ] {
            if options.global && is_set {
                return Err(InvalidXFleet::Contradiction("Global", other));
            }
        }
        for peer in &options.machine_of {
            if let Some(pattern) = options.foes().find(|pattern| glob(pattern, peer)) {
                let (peer, pattern) = (peer.clone(), pattern.to_owned());
                return Err(InvalidXFleet::PeerConflicts { peer, pattern });
            }
        }
        Ok(options)
    }

    fn read(name: &UnitFileName, text: &str, strict: bool) -> Result<Self, InvalidXFleet> {
        let mut options = Self::default();
        let mut inside = false;
        for (line, said) in unit_text::lines(text) {
            match said {
                Said::Section(section) => inside = section == "X-Fleet",
                Said::Option(option, value) if inside => {
                    let value = expand(&value.replace("\\\n", " "), name);
                    let is_known = options.set(line, option, &value)?;
                    if strict && !is_known {
                        let option = option.to_owned();
                        return Err(InvalidXFleet::Unknown { line, option });
                    }
                }
                Said::Option(..) | Said::Junk(_) => {}
            }
        }
        Ok(options)
    }

    /// Takes an option in; false when there is none of that name.
    fn set(&mut self, line: usize, option: &str, value: &str) -> Result<bool, InvalidXFleet> {
        let invalid = |rule| InvalidXFleet::Value {
            line,
            option: option.to_owned(),
            value: value.to_owned(),
            rule,
        };
        let words = || split_words(value).ok_or(InvalidXFleet::Quote { line });
        match option {
            // The last one counts.
            "Global" => {
                self.global = match value.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "1" | "on" | "t" => true,
                    "false" | "no" | "0" | "off" | "f" | "" => false,
                    _ => return Err(invalid("use true or false")),
                };
            }
            // The first one counts.
            "MachineID" | "X-ConditionMachineID" => {
                self.machine_id.get_or_insert_with(|| value.to_owned());
            }
            "MachineBootID" | "X-ConditionMachineBootID" => {
                self.boot_id.get_or_insert_with(|| value.to_owned());
            }
            "MachineOf" | "X-ConditionMachineOf" => self.machine_of.extend(words()?),
            "Conflicts" | "X-Conflicts" => self.conflicts.extend(words()?),
            "Replaces" => self.replaces.extend(words()?),
            "MachineMetadata" | "X-ConditionMachineMetadata" => {
                for word in words()? {
                    let (key, wish) = Wish::parse(&word).map_err(invalid)?;
                    self.metadata
                        .entry(key.to_owned())
                        .or_default()
                        .insert(wish);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Names and patterns of the units that it is not to run beside.
    pub fn foes(&self) -> impl Iterator<Item = &str> {
        self.conflicts
            .iter()
            .chain(&self.replaces)
            .map(String::as_str)
    }

    /// Whether it takes the place of another unit.
    pub(super) fn takes_place_of(&self, other: &UnitFileName) -> bool {
        self.replaces
            .iter()
            .any(|pattern| glob(pattern, other.as_str()))
    }
}

/// fleet's specifiers: `%n` the full name, `%N` without suffix, `%p` before the `@`, `%i` after it. In a
/// template they stay as they are: what they mean, its instances tell.
fn expand(value: &str, name: &UnitFileName) -> String {
    if name.is_template() {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => out.push_str(name.as_str()),
            Some('N') => out.push_str(name.stem()),
            Some('p') => out.push_str(name.prefix()),
            Some('i') => out.push_str(name.instance().unwrap_or_default()),
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
