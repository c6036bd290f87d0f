//! Names that have been parsed: a value of one of these types is safe, unescaped, wherever its
//! documentation says so. Nothing else from outside may enter a unit, path, key or header.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Too short or too long.
    #[error("{kind} must have {min} to {max} characters, this has {len}")]
    Length {
        /// What was parsed.
        kind: &'static str,
        /// Shortest length allowed, in bytes.
        min: usize,
        /// Longest length allowed, in bytes.
        max: usize,
        /// Length found, in bytes.
        len: usize,
    },
    /// A character that is not allowed there.
    #[error("{kind} can't contain {found:?} at position {at}: {rule}")]
    Char {
        /// What was parsed.
        kind: &'static str,
        /// The offending character.
        found: char,
        /// Its byte position.
        at: usize,
        /// The rule in words.
        rule: &'static str,
    },
    /// The name has a meaning of its own.
    #[error("{name} is a reserved name")]
    Reserved {
        /// The name.
        name: String,
    },
}

/// Checks length and characters; `first` and `last` are stricter tests for the ends.
fn check(
    kind: &'static str,
    rule: &'static str,
    text: &str,
    (min, max): (usize, usize),
    allowed: impl Fn(char) -> bool,
    ends: impl Fn(char, bool) -> bool,
) -> Result<(), InvalidName> {
    let bad = |at: usize, found: char| InvalidName::Char {
        kind,
        found,
        at,
        rule,
    };
    if let Some((at, found)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        return Err(bad(at, found));
    }
    if text.len() < min || text.len() > max {
        return Err(InvalidName::Length {
            kind,
            min,
            max,
            len: text.len(),
        });
    }
    if let Some(first) = text.chars().next().filter(|c| !ends(*c, true)) {
        return Err(bad(0, first));
    }
    if let Some(last) = text.chars().last().filter(|c| !ends(*c, false)) {
        return Err(bad(text.len() - last.len_utf8(), last));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, |$text:ident| $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from($text: String) -> Result<Self, InvalidName> {
                let check: Result<(), InvalidName> = $check;
                check.map(|()| Self($text))
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

const fn lower_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

name!(
    /// Name of an application: 1 to 63 of `a-z 0-9 -`, neither first nor last a `-`; not `deis`.
    ///
    /// Safe in a unit name, an etcd key, a DNS label and a path.
    AppName,
    |text| {
        if text == "deis" {
            return Err(InvalidName::Reserved { name: text });
        }
        check(
            "an app name",
            "App IDs can only contain [a-z0-9-], and begin and end with one of [a-z0-9]",
            &text,
            (1, 63),
            |c| lower_or_digit(c) || c == '-',
            |c, _| c != '-',
        )
    }
);

name!(
    /// Type of a process (`web`, `worker`): 1 to 31 of `a-z 0-9 - _`, first a letter.
    ///
    /// `run` is the type of one-off processes, `release` that of what is run once per release. Safe in a unit name, an etcd key and a path.
    ProcessType,
    |text| check(
        "a process type",
        "use a-z, 0-9, - and _, beginning with a letter",
        &text,
        (1, 31),
        |c| lower_or_digit(c) || c == '-' || c == '_',
        |c, first| !first || c.is_ascii_lowercase(),
    )
);

impl ProcessType {
    /// The type of one-off processes.
    #[must_use]
    pub fn run() -> Self {
        Self("run".to_owned())
    }

    /// The type of the command that is run once for each release, before anything of it starts.
    #[must_use]
    pub fn release() -> Self {
        Self("release".to_owned())
    }

    /// Whether processes of this type are run once and never kept running: nobody scales them.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        matches!(self.as_str(), "run" | "release")
    }

    /// Whether processes of this type are published to the routers: `web` and `cmd`.
    #[must_use]
    pub fn is_routable(&self) -> bool {
        matches!(self.as_str(), "web" | "cmd")
    }
}

name!(
    /// A user's name: 1 to 30 of letters, digits and `@ . + - _` (Django's rule, as in Deis v1);
    /// never `.` or `..`. Safe in an etcd key and, quoted, in a log line.
    Username,
    |text| {
        if text == "." || text == ".." {
            return Err(InvalidName::Reserved { name: text });
        }
        check(
            "a username",
            "use letters, digits and @ . + - _",
            &text,
            (1, 30),
            |c| c.is_ascii_alphanumeric() || "@.+-_".contains(c),
            |_, _| true,
        )
    }
);

name!(
    /// What a user calls an SSH key: 1 to 128 bytes of anything but control characters, since old
    /// clients send the key's comment (`Ann at home`). It is shown and compared, and nothing else.
    KeyName,
    |text| check(
        "a key name",
        "control characters are not allowed, nor spaces at its ends",
        &text,
        (1, 128),
        |c| !c.is_control(),
        |c, _| !c.is_whitespace(),
    )
);

name!(
    /// What a user calls a token: 1 to 64 of `A-Z a-z 0-9 . _ -`, first a letter or digit. Safe in a
    /// path and, unquoted, in a log line.
    TokenName,
    |text| check(
        "a token name",
        "use letters, digits and . _ -, beginning with a letter or digit",
        &text,
        (1, 64),
        |c| c.is_ascii_alphanumeric() || "._-".contains(c),
        |c, first| !first || c.is_ascii_alphanumeric(),
    )
);

name!(
    /// Name of a config variable: `[A-Za-z_][A-Za-z0-9_]*`, at most 128 bytes.
    ///
    /// Safe as the name of an environment variable and as a program argument.
    ConfigName,
    |text| check(
        "a config key",
        "Config keys must start with a letter or underscore and only contain [A-z0-9_]",
        &text,
        (1, 128),
        |c| c.is_ascii_alphanumeric() || c == '_',
        |c, first| !first || !c.is_ascii_digit(),
    )
);

name!(
    /// A host's /etc/machine-id: 32 lower-case hexadecimal digits (machine-id(5)).
    MachineId,
    |text| check(
        "a machine id",
        "32 lower-case hexadecimal digits",
        &text,
        (32, 32),
        |c| c.is_ascii_digit() || ('a'..='f').contains(&c),
        |_, _| true,
    )
);

impl MachineId {
    /// The first in order: where a range of keys that end in a machine id begins.
    #[must_use]
    pub fn first() -> Self {
        Self("0".repeat(32))
    }

    /// The last in order.
    #[must_use]
    pub fn last() -> Self {
        Self("f".repeat(32))
    }
}

name!(
    /// A domain name in lower case: labels of `a-z 0-9 -`, at most 253 bytes; the first may be `*`.
    DomainName,
    |text| {
        check(
            "a domain",
            "Hostname does not look valid.",
            &text,
            (1, 253),
            |c| lower_or_digit(c) || "-.*".contains(c),
            |c, first| c != '.' && c != '-' && (first || c != '*'),
        )?;
        let rest = text.strip_prefix("*.").unwrap_or(&text);
        for label in rest.split('.') {
            check(
                "a domain's label",
                "Hostname does not look valid.",
                label,
                (1, 63),
                |c| lower_or_digit(c) || c == '-',
                |c, _| c != '-',
            )?;
        }
        Ok(())
    }
);

name!(
    /// Token of an ACME challenge (RFC 8555, 8.1): 1 to 128 of base64url's letters. Safe in an etcd key
    /// and a path.
    ChallengeToken,
    |text| check(
        "a challenge's token",
        "use A-Z, a-z, 0-9, - and _",
        &text,
        (1, 128),
        |c| c.is_ascii_alphanumeric() || "-_".contains(c),
        |_, _| true,
    )
);

name!(
    /// Fingerprint of an SSH key: MD5 as 16 colon-separated pairs of hexadecimal digits.
    Fingerprint,
    |text| check(
        "a key fingerprint",
        "16 pairs of hexadecimal digits with colons",
        &text,
        (47, 47),
        |c| c.is_ascii_digit() || ('a'..='f').contains(&c) || c == ':',
        |c, _| c != ':',
    )
);

/// The types of units that the platform runs.
pub const UNIT_SUFFIXES: [&str; 7] = [
    ".service",
    ".socket",
    ".timer",
    ".path",
    ".target",
    ".mount",
    ".automount",
];

name!(
    /// File name of a systemd unit: `a-z A-Z 0-9 : - _ . @`, at most 200 bytes, with a type suffix
    /// that the platform runs ([`UNIT_SUFFIXES`]). Safe in a path and an etcd key.
    UnitFileName,
    |text| {
        let known = UNIT_SUFFIXES.iter().any(|suffix| text.ends_with(suffix));
        if !known || text.starts_with(['.', '@', '-']) {
            return Err(InvalidName::Reserved { name: text });
        }
        check(
            "a unit name",
            "use letters, digits and : - _ . @",
            &text,
            (3, 200),
            |c| c.is_ascii_alphanumeric() || ":-_.@".contains(c),
            |_, _| true,
        )
    }
);

impl UnitFileName {
    /// The name without its type: fleet's and systemd's `%N`.
    #[must_use]
    pub fn stem(&self) -> &str {
        self.0.rsplit_once('.').map_or(&*self.0, |(stem, _)| stem)
    }

    /// What stands before the `@`, or the whole stem: `%p`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or(self.stem(), |(prefix, _)| prefix)
    }

    /// What stands after the `@`; empty in a template, none in a plain unit: `%i`.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.stem().split_once('@').map(|(_, instance)| instance)
    }

    /// Whether it is a template: `name@.service`, which runs only as its instances.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.instance() == Some("")
    }

    /// The template that an instance is made from.
    #[must_use]
    pub fn template(&self) -> Option<Self> {
        let suffix = &self.0[self.stem().len()..];
        self.instance()
            .filter(|instance| !instance.is_empty())
            .map(|_| Self(format!("{}@{suffix}", self.prefix())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_and_instances() {
        // name, stem, prefix, instance, template
        let cases = [
            ("hello.service", "hello", "hello", None, None),
            ("hello@.service", "hello@", "hello", Some(""), None),
            (
                "hello@1.service",
                "hello@1",
                "hello",
                Some("1"),
                Some("hello@.service"),
            ),
            (
                "a.b@c@d.e.timer",
                "a.b@c@d.e",
                "a.b",
                Some("c@d.e"),
                Some("a.b@.timer"),
            ),
        ];
        for (name, stem, prefix, instance, template) in cases {
            let name: UnitFileName = name.parse().expect("name");
            assert_eq!(
                (name.stem(), name.prefix(), name.instance()),
                (stem, prefix, instance)
            );
            assert_eq!(name.template().as_ref().map(UnitFileName::as_str), template);
        }
        for bad in [
            "@1.service",
            "-x.service",
            ".service",
            "x.scope",
            "x",
            "a/b.service",
            "a b.service",
            "a\n.service",
            "%i.service",
        ] {
            assert!(bad.parse::<UnitFileName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn app_names() {
        let cases: &[(&str, bool)] = &[
            ("blog", true),
            ("b", true),
            ("4ever", true),
            ("deis", false),
            ("", false),
            ("-blog", false),
            ("blog-", false),
            ("Blog", false),
            ("blog/../x", false),
            ("blog\n[Service]", false),
            ("bl%n", false),
            ("a'; rm -rf /", false),
        ];
        for (input, ok) in cases {
            assert_eq!(
                input.parse::<AppName>().is_ok(),
                *ok,
                "AppName of {input:?}"
            );
        }
        assert!("x".repeat(63).parse::<AppName>().is_ok());
        assert!("x".repeat(64).parse::<AppName>().is_err());
    }

    #[test]
    fn domains() {
        let cases: &[(&str, bool)] = &[
            ("example.com", true),
            ("*.example.com", true),
            ("localhost", true),
            ("a..b", false),
            ("*", false),
            ("a.*.b", false),
            ("-a.b", false),
            ("a_b.c", false),
        ];
        for (input, ok) in cases {
            assert_eq!(
                input.parse::<DomainName>().is_ok(),
                *ok,
                "DomainName of {input:?}"
            );
        }
    }

    #[test]
    fn other_names() {
        assert!("FOO_1".parse::<ConfigName>().is_ok());
        assert!("1FOO".parse::<ConfigName>().is_err());
        assert!("A=B".parse::<ConfigName>().is_err());
        assert!("web".parse::<ProcessType>().is_ok());
        assert!("Web".parse::<ProcessType>().is_err());
        assert!("web.1".parse::<ProcessType>().is_err());
        assert!("deis-router@1.service".parse::<UnitFileName>().is_ok());
        assert!("../x.service".parse::<UnitFileName>().is_err());
        assert!("ada@example.com".parse::<Username>().is_ok());
        assert!("a/b".parse::<Username>().is_err());
    }
}
