//! What `start`, `stop` and `restart` are about: parts of the platform, or operators' units. Pure.
//!
//! One grammar, without surprise: a name of the platform means the platform (`router`, `router@1`,
//! `deis-router@1.service`); a path, a name with a unit's suffix, an instance (`hello@1`) or a pattern
//! (`hello@*`) means units. Any other word is refused.

use std::{fmt, path::Path, str::FromStr};

use super::platform::{Target, TargetError};
use crate::{
    model::{UNIT_SUFFIXES, UnitFileName},
    plan::fleet::pattern::is_pattern,
};

/// A word on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aim {
    /// Something of the platform.
    Platform(Target),
    /// Units.
    Units(UnitWord),
}

/// A word that means units: a file, a name or a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitWord {
    /// A unit, and where its file may be.
    One {
        /// Its name.
        name: UnitFileName,
        /// The word as it was given.
        path: String,
    },
    /// All units that there are whose names match.
    Pattern(String),
}

/// Why a word means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AimError {
    /// It means no part of the platform and doesn't look like a unit.
    #[error("{why}; a unit is meant by its file or its whole name, like hello.service")]
    Neither {
        /// Why it is no part.
        #[source]
        why: TargetError,
    },
    /// It looks like a unit and is no name for one.
    #[error("{name:?} is no name for a unit: {why}")]
    Name {
        /// What would be its name.
        name: String,
        /// Why not.
        why: String,
    },
}

impl FromStr for Aim {
    type Err = AimError;

    fn from_str(text: &str) -> Result<Self, AimError> {
        let is_path = text.contains('/');
        match text.parse::<Target>() {
            Ok(target) if !is_path => return Ok(Self::Platform(target)),
            Err(why) if !is_path && !looks_like_unit(text) => {
                return Err(AimError::Neither { why });
            }
            Ok(_) | Err(_) => {}
        }
        text.parse().map(Self::Units)
    }
}

fn looks_like_unit(text: &str) -> bool {
    UNIT_SUFFIXES.iter().any(|suffix| text.ends_with(suffix))
        || (text.contains('@') && !text.starts_with("deis-"))
        || is_pattern(text)
}

impl FromStr for UnitWord {
    type Err = AimError;

    /// As fleetctl read it: the last part of a path, and `.service` when there is no suffix.
    fn from_str(text: &str) -> Result<Self, AimError> {
        let base = Path::new(text).file_name().and_then(|name| name.to_str());
        let base = base.unwrap_or_default();
        let has_suffix = UNIT_SUFFIXES.iter().any(|suffix| base.ends_with(suffix));
        let name = if has_suffix || base.is_empty() {
            base.to_owned()
        } else {
            format!("{base}.service")
        };
        if is_pattern(&name) && !text.contains('/') {
            return Ok(Self::Pattern(name));
        }
        match name.parse() {
            Ok(name) => Ok(Self::One {
                name,
                path: text.to_owned(),
            }),
            Err(error) => Err(AimError::Name {
                why: error.to_string(),
                name,
            }),
        }
    }
}

impl fmt::Display for UnitWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One { name, .. } => name.fmt(f),
            Self::Pattern(pattern) => f.write_str(pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_wins_and_units_are_written_out() {
        let cases = [
            ("platform", "platform"),
            ("router", "platform"),
            ("router@1", "platform"),
            ("router@*", "platform"),
            ("deis-router@1.service", "platform"),
            ("logs", "platform"),
            ("hello.service", "unit hello.service"),
            ("./router.service", "unit router.service"),
            ("units/hello@1.service", "unit hello@1.service"),
            ("units/hello", "unit hello.service"),
            ("hello@1", "unit hello@1.service"),
            ("a.timer", "unit a.timer"),
            ("hello@*", "pattern hello@*.service"),
            ("*.timer", "pattern *.timer"),
            ("routr", "error"),
            ("hello", "error"),
            ("", "error"),
            ("/", "error"),
            ("deis-routr@1", "error"),
            ("a b.service", "error"),
            ("../x;reboot.service", "error"),
            ("units/*.service", "error"),
        ];
        for (text, want) in cases {
            let got = match text.parse::<Aim>() {
                Ok(Aim::Platform(_)) => "platform".to_owned(),
                Ok(Aim::Units(UnitWord::One { name, .. })) => format!("unit {name}"),
                Ok(Aim::Units(UnitWord::Pattern(pattern))) => format!("pattern {pattern}"),
                Err(_) => "error".to_owned(),
            };
            assert_eq!(got, want, "{text:?}");
        }
    }
}
