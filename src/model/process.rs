//! Who a process is: app, release, type, number and incarnation, and its one text form.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

use super::name::{AppName, InvalidName, ProcessType};

/// Number of a release, from 1; written `v7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(pub u32);

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl ReleaseNumber {
    /// The release after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Why a text is not a process name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProcessName {
    /// Not of the form `app_v7.web.1` or `app_v7.web.1.2`.
    #[error("{0:?} is no process name: expected app_v7.web.1")]
    Form(String),
    /// One of its names is not allowed.
    #[error("{text:?} is no process name")]
    Name {
        /// The whole text.
        text: String,
        /// What is wrong with the part.
        #[source]
        source: InvalidName,
    },
}

/// One process of a release: `blog_v7.web.1`, or `blog_v7.web.1.2` for its second incarnation.
///
/// The text form is the stem of its unit files, its container's name and the last part of its keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProcessName {
    /// The application.
    pub app: AppName,
    /// The release that it runs.
    pub release: ReleaseNumber,
    /// The process type.
    pub kind: ProcessType,
    /// Its number within the type, from 1; survives deploys.
    pub number: u32,
    /// Which copy of the same process, from 1 (restart, drain and rebalance make the next one).
    pub incarnation: NonZeroU32,
}

/// The slot that a process fills, whatever release or incarnation: `web.1` of an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process type.
    pub kind: ProcessType,
    /// Its number within the type, from 1.
    pub number: u32,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.number)
    }
}

impl ProcessName {
    /// The first incarnation of a process.
    #[must_use]
    pub fn first(app: AppName, release: ReleaseNumber, kind: ProcessType, number: u32) -> Self {
        Self {
            app,
            release,
            kind,
            number,
            incarnation: NonZeroU32::MIN,
        }
    }

    /// The slot that it fills.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        ProcessId {
            kind: self.kind.clone(),
            number: self.number,
        }
    }

    /// How its lines are tagged in logs: `blog[web.1]`.
    #[must_use]
    pub fn log_tag(&self) -> String {
        format!("{}[{}.{}]", self.app, self.kind, self.number)
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}_{}.{}.{}",
            self.app, self.release, self.kind, self.number
        )?;
        if self.incarnation.get() > 1 {
            write!(f, ".{}", self.incarnation)?;
        }
        Ok(())
    }
}

/// A positive decimal number without sign or leading zero.
fn number(text: &str) -> Option<u32> {
    if text.starts_with(['0', '+']) {
        return None;
    }
    text.parse().ok()
}

impl FromStr for ProcessName {
    type Err = InvalidProcessName;

    fn from_str(text: &str) -> Result<Self, InvalidProcessName> {
        let form = || InvalidProcessName::Form(text.to_owned());
        let name = |source| InvalidProcessName::Name {
            text: text.to_owned(),
            source,
        };
        let (app, rest) = text.split_once("_v").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('.').collect();
        let (release, kind, num, incarnation) = match parts[..] {
            [release, kind, num] => (release, kind, num, NonZeroU32::MIN),
            [release, kind, num, incarnation] => {
                let incarnation = number(incarnation).filter(|n| *n > 1).ok_or_else(form)?;
                (
                    release,
                    kind,
                    num,
                    NonZeroU32::new(incarnation).ok_or_else(form)?,
                )
            }
            _ => return Err(form()),
        };
        Ok(Self {
            app: app.parse().map_err(name)?,
            release: ReleaseNumber(number(release).ok_or_else(form)?),
            kind: kind.parse().map_err(name)?,
            number: number(num).ok_or_else(form)?,
            incarnation,
        })
    }
}

impl TryFrom<String> for ProcessName {
    type Error = InvalidProcessName;
    fn try_from(text: String) -> Result<Self, InvalidProcessName> {
        text.parse()
    }
}

impl From<ProcessName> for String {
    fn from(name: ProcessName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        for good in [
            "blog_v7.web.1",
            "b_v1.worker.12",
            "blog_v7.web.1.2",
            "a-b_v10.my_type.3",
        ] {
            let name: ProcessName = good.parse().unwrap_or_else(|e| panic!("{good}: {e}"));
            assert_eq!(name.to_string(), good);
        }
        for bad in [
            "blog",
            "blog_v7",
            "blog_v7.web",
            "blog_v7.web.0",
            "blog_v07.web.1",
            "blog_v7.web.1.1",
            "blog_v7.web.1.2.3",
            "blog_v7.web.-1",
            "blog_v7.we b.1",
            "../x_v1.web.1",
            "_v1.web.1",
        ] {
            assert!(bad.parse::<ProcessName>().is_err(), "{bad} must be refused");
        }
    }

    proptest! {
        #[test]
        fn text_and_back(app in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", v in 1u32.., kind in "[a-z][a-z0-9_-]{0,9}", n in 1u32.., i in 1u32..) {
            prop_assume!(app != "deis");
            let name = ProcessName {
                app: app.parse().expect("app"), release: ReleaseNumber(v),
                kind: kind.parse().expect("kind"), number: n,
                incarnation: NonZeroU32::new(i).expect("positive"),
            };
            prop_assert_eq!(name.to_string().parse::<ProcessName>(), Ok(name));
        }
    }
}
