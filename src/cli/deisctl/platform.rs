//! What the platform is made of, seen by an operator: parts, their instances, and the targets that
//! the commands take. Pure.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::model::UnitFileName;

/// A part of the platform that the platform itself runs, from `units/deis-<part>@.service`.
///
/// In the order in which an operator wants to see them start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Keeps images.
    Registry,
    /// Keeps and serves app logs.
    Logger,
    /// HTTP API, scheduler and rollouts.
    Controller,
    /// Takes pushes.
    Builder,
    /// Takes requests.
    Router,
}

impl Part {
    /// All parts, in start order.
    pub const ALL: [Part; 5] = [
        Part::Registry,
        Part::Logger,
        Part::Controller,
        Part::Builder,
        Part::Router,
    ];

    /// Its name in units and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Part::Registry => "registry",
            Part::Logger => "logger",
            Part::Controller => "controller",
            Part::Builder => "builder",
            Part::Router => "router",
        }
    }

    /// Its name in etcd, below `/deis/`: where it has its settings and registers its hosts.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Part::Logger => "logs",
            other => other.name(),
        }
    }

    /// File name of its unit template.
    #[must_use]
    pub fn template(self) -> String {
        format!("deis-{}@.service", self.name())
    }

    /// How many instances a fleet of `hosts` gets unless the operator says otherwise.
    #[must_use]
    pub fn default_count(self, hosts: usize) -> usize {
        let most = match self {
            Part::Controller | Part::Builder | Part::Router => 3,
            Part::Registry => 2,
            Part::Logger => 1,
        };
        hosts.min(most)
    }

    /// Whether another number of instances than the default makes sense.
    #[must_use]
    pub const fn scales(self) -> bool {
        !matches!(self, Part::Logger)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Part {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        Part::ALL
            .into_iter()
            .find(|part| part.name() == text || part.key() == text)
            .ok_or_else(|| TargetError::UnknownPart(text.to_owned()))
    }
}

/// One instance of a part: `deis-router@2.service`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The part.
    pub part: Part,
    /// Its number, from 1.
    pub number: u8,
}

impl Instance {
    /// Its unit.
    #[must_use]
    pub fn unit(self) -> UnitFileName {
        self.to_string()
            .parse()
            .expect("invariant: deis-<part>@<n>.service is a unit name")
    }

    /// The instance that a unit is, if it is one of ours.
    #[must_use]
    pub fn of_unit(unit: &str) -> Option<Self> {
        let (part, number) = unit
            .strip_prefix("deis-")?
            .strip_suffix(".service")?
            .split_once('@')?;
        let part = Part::ALL.into_iter().find(|known| known.name() == part)?;
        Some(Self {
            part,
            number: instance_number(number)?,
        })
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deis-{}@{}.service", self.part, self.number)
    }
}

/// A decimal number from 1 to 99 without sign or leading zero.
fn instance_number(text: &str) -> Option<u8> {
    if text.starts_with(['0', '+']) {
        return None;
    }
    text.parse().ok().filter(|number| *number <= 99)
}

/// What a command is about: `platform`, `router`, `router@2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Every part.
    Platform,
    /// All instances of a part.
    Part(Part),
    /// One instance.
    Instance(Instance),
}

/// Why a target can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No such part.
    #[error(
        "{0:?} is no part of the platform: use platform, controller, router, builder, registry or logger"
    )]
    UnknownPart(String),
    /// The instance is not a number from 1 to 99.
    #[error("{0:?} names no instance: use a number from 1, like router@1")]
    BadInstance(String),
    /// Nothing of it is installed.
    #[error("{0} is not installed: `deisctl install {1}` installs it")]
    NotInstalled(String, String),
    /// The fleet has no host at all.
    #[error(
        "no host is registered, so nothing can be installed: deis-agent.service must run on at least one"
    )]
    NoHosts,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text == "platform" {
            return Ok(Target::Platform);
        }
        let plain = text.strip_prefix("deis-").unwrap_or(text);
        let plain = plain.strip_suffix(".service").unwrap_or(plain);
        match plain.split_once('@') {
            None => Ok(Target::Part(plain.parse()?)),
            Some((part, "*")) => Ok(Target::Part(part.parse()?)),
            Some((part, number)) => Ok(Target::Instance(Instance {
                part: part.parse()?,
                number: instance_number(number)
                    .ok_or_else(|| TargetError::BadInstance(text.to_owned()))?,
            })),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Platform => f.write_str("platform"),
            Target::Part(part) => part.fmt(f),
            Target::Instance(Instance { part, number }) => write!(f, "{part}@{number}"),
        }
    }
}

/// The instances that `install` makes for the targets on a fleet of `hosts`.
///
/// # Errors
/// When there is no host.
pub fn to_install(targets: &[Target], hosts: usize) -> Result<Vec<Instance>, TargetError> {
    if hosts == 0 {
        return Err(TargetError::NoHosts);
    }
    let first = |part: Part| {
        let count = u8::try_from(part.default_count(hosts)).unwrap_or(u8::MAX);
        (1..=count).map(move |number| Instance { part, number })
    };
    let all: BTreeSet<Instance> = targets
        .iter()
        .flat_map(|target| match *target {
            Target::Platform => Part::ALL.into_iter().flat_map(first).collect::<Vec<_>>(),
            Target::Part(part) => first(part).collect(),
            Target::Instance(instance) => vec![instance],
        })
        .collect();
    Ok(all.into_iter().collect())
}

/// The installed instances that the targets mean, in start order.
///
/// # Errors
/// When a target means none.
pub fn installed(
    targets: &[Target],
    installed: &BTreeSet<Instance>,
) -> Result<Vec<Instance>, TargetError> {
    let mut all = BTreeSet::new();
    for target in targets {
        let meant = installed.iter().copied().filter(|instance| match target {
            Target::Platform => true,
            Target::Part(part) => instance.part == *part,
            Target::Instance(one) => instance == one,
        });
        let meant: Vec<Instance> = meant.collect();
        if meant.is_empty() {
            let what = match target {
                Target::Platform => "the platform".to_owned(),
                other => other.to_string(),
            };
            return Err(TargetError::NotInstalled(what, target.to_string()));
        }
        all.extend(meant);
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(texts: &[&str]) -> Vec<Target> {
        texts
            .iter()
            .map(|text| text.parse().unwrap_or_else(|e| panic!("{text}: {e}")))
            .collect()
    }

    fn words(instances: &[Instance]) -> String {
        let words: Vec<String> = instances
            .iter()
            .map(|i| format!("{}@{}", i.part, i.number))
            .collect();
        words.join(" ")
    }

    #[test]
    fn install_expands_targets_by_the_number_of_hosts() {
        let platform_of_3 = "registry@1 registry@2 logger@1 controller@1 controller@2 controller@3 \
             builder@1 builder@2 builder@3 router@1 router@2 router@3";
        let cases: &[(&[&str], usize, &str)] = &[
            (&["platform"], 3, platform_of_3),
            (&["platform"], 5, platform_of_3),
            (
                &["platform"],
                1,
                "registry@1 logger@1 controller@1 builder@1 router@1",
            ),
            (&["router"], 2, "router@1 router@2"),
            (&["router@*"], 2, "router@1 router@2"),
            (&["router@3", "logger"], 2, "logger@1 router@3"),
            (&["deis-router@2.service"], 3, "router@2"),
            (&["logs"], 3, "logger@1"),
            (&["router", "router@1", "router"], 1, "router@1"),
        ];
        for (given, hosts, want) in cases {
            let got = to_install(&targets(given), *hosts).expect("some");
            assert_eq!(words(&got), *want, "install {given:?} on {hosts} hosts");
        }
        assert_eq!(
            to_install(&targets(&["platform"]), 0),
            Err(TargetError::NoHosts)
        );
    }

    #[test]
    fn other_commands_expand_to_what_is_installed() {
        let have: BTreeSet<Instance> = to_install(&targets(&["router", "logger"]), 2)
            .expect("some")
            .into_iter()
            .collect();
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["platform"], Some("logger@1 router@1 router@2")),
            (&["router"], Some("router@1 router@2")),
            (&["router@2", "logger@1"], Some("logger@1 router@2")),
            (&["router@3"], None),
            (&["logger", "controller"], None),
        ];
        for (given, want) in cases {
            let got = installed(&targets(given), &have).ok();
            assert_eq!(got.as_deref().map(words).as_deref(), *want, "{given:?}");
        }
        assert!(installed(&targets(&["platform"]), &BTreeSet::new()).is_err());
    }

    #[test]
    fn bad_targets() {
        for bad in [
            "",
            "routers",
            "router@0",
            "router@01",
            "router@-1",
            "router@x",
            "router@1@2",
            "router@100",
            "deis-",
            "platform@1",
            "router@1;reboot",
            "../router",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn units_and_back() {
        for part in Part::ALL {
            let instance = Instance { part, number: 2 };
            assert_eq!(Instance::of_unit(instance.unit().as_str()), Some(instance));
        }
        assert_eq!(Instance::of_unit("deis-agent.service"), None);
        assert_eq!(Instance::of_unit("deis-router@.service"), None);
        assert_eq!(Instance::of_unit("blog_v1.web.1.service"), None);
    }
}
