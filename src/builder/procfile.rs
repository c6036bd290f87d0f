//! Procfiles: a YAML map from process type to command line.

use std::collections::BTreeMap;

use crate::model::{InvalidName, ProcessType};

/// Command per process type.
pub type Procfile = BTreeMap<ProcessType, String>;

/// Largest Procfile that is read.
pub const MAX_SIZE: usize = 64 << 10;
/// Longest command line.
const MAX_COMMAND: usize = 8 << 10;
/// Most process types.
const MAX_TYPES: usize = 50;

/// Why a text is no Procfile.
#[derive(Debug, thiserror::Error)]
pub enum ProcfileError {
    /// Too large.
    #[error("the Procfile has {0} bytes, more than {MAX_SIZE}")]
    Size(usize),
    /// Not a map of texts.
    #[error("the Procfile is no map of process type to command, one `type: command` a line: {0}")]
    Form(String),
    /// A key that is no process type.
    #[error("the Procfile names the process type {name:?}: {source}")]
    Type {
        /// The key.
        name: String,
        /// The rule that it breaks.
        #[source]
        source: InvalidName,
    },
    /// A type that the platform uses itself.
    #[error("the Procfile names the process type `run`, which stands for one-off processes")]
    Run,
    /// Too many types.
    #[error("the Procfile names {0} process types, more than {MAX_TYPES}")]
    TooMany(usize),
    /// An empty, too long or unprintable command.
    #[error("the command of process type {kind} {why}")]
    Command {
        /// Its type.
        kind: ProcessType,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Parses a Procfile. An empty one has no types.
///
/// # Errors
/// When it is not a map from process types to command lines.
pub fn parse(text: &str) -> Result<Procfile, ProcfileError> {
    if text.len() > MAX_SIZE {
        return Err(ProcfileError::Size(text.len()));
    }
    // A mapping, not a BTreeMap: that would let the second of two equal keys win unseen.
    let map: Option<serde_yaml::Mapping> = serde_yaml::from_str(text)
        .map_err(|error| ProcfileError::Form(one_line(&error.to_string())))?;
    let map = map.unwrap_or_default();
    if map.len() > MAX_TYPES {
        return Err(ProcfileError::TooMany(map.len()));
    }
    let text = |value: &serde_yaml::Value| {
        // A tag would be dropped silently, and with it what the author meant.
        let untagged = (!matches!(value, serde_yaml::Value::Tagged(_))).then_some(value);
        let text = untagged.and_then(|value| value.as_str()).map(str::to_owned);
        text.ok_or_else(|| ProcfileError::Form(one_line(&format!("{value:?} is no text"))))
    };
    map.iter()
        .map(|(name, command)| entry(text(name)?, &text(command)?))
        .collect()
}

fn entry(name: String, command: &str) -> Result<(ProcessType, String), ProcfileError> {
    let kind: ProcessType = match name.parse() {
        Ok(kind) => kind,
        Err(source) => {
            let name = name.chars().take(80).collect();
            return Err(ProcfileError::Type { name, source });
        }
    };
    if kind == ProcessType::run() {
        return Err(ProcfileError::Run);
    }
    let command = command.trim();
    let why = match command {
        "" => Some("is empty"),
        _ if command.len() > MAX_COMMAND => Some("is longer than 8192 bytes"),
        _ if command.contains('\0') => Some("contains a NUL"),
        _ => None,
    };
    match why {
        Some(why) => Err(ProcfileError::Command { kind, why }),
        None => Ok((kind, command.to_owned())),
    }
}

/// The `default_process_types` of a buildpack's `bin/release`.
///
/// # Errors
/// When it is not YAML, or its types are none.
pub fn parse_release(text: &str) -> Result<Procfile, ProcfileError> {
    #[derive(serde::Deserialize, Default)]
    struct Release {
        #[serde(default)]
        default_process_types: BTreeMap<String, String>,
    }
    let release: Option<Release> = serde_yaml::from_str(text)
        .map_err(|error| ProcfileError::Form(one_line(&error.to_string())))?;
    let types = release.unwrap_or_default().default_process_types;
    types
        .into_iter()
        .map(|(name, command)| entry(name, &command))
        .collect()
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_ones() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("web: python3 app.py\n", &[("web", "python3 app.py")]),
            (
                "web: gunicorn app:app -b 0.0.0.0:$PORT\nworker: ./work --fast\n",
                &[
                    ("web", "gunicorn app:app -b 0.0.0.0:$PORT"),
                    ("worker", "./work --fast"),
                ],
            ),
            (
                "web: \"echo 'a; b' && exec %n\"\n",
                &[("web", "echo 'a; b' && exec %n")],
            ),
            ("", &[]),
            ("# nothing\n", &[]),
        ];
        for (text, want) in cases {
            let got = parse(text).expect(text);
            let got: Vec<_> = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(got, *want, "{text}");
        }
    }

    #[test]
    fn hostile_ones() {
        let cases = [
            "- web",
            "web",
            "web: [a, b]",
            "web: {a: b}",
            "web: ''",
            "Web: x",
            "'../x': y",
            "'web\nX': y",
            "'web;id': y",
            "'web%n': y",
            "run: x",
            "web: a\nweb: b",
            "web: \"a\\0b\"",
            "\"",
            "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
        ];
        for text in cases {
            let error = parse(text)
                .map(|map| format!("{map:?}"))
                .expect_err(text)
                .to_string();
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(parse(&format!("web: {}", "x".repeat(MAX_SIZE))).is_err());
        assert!(parse(&(0..51).map(|n| format!("t{n}: x\n")).collect::<String>()).is_err());
    }

    #[test]
    fn releases() {
        let text = "---\naddons: []\ndefault_process_types:\n  web: python3 app.py\n";
        assert_eq!(parse_release(text).expect("a release").len(), 1);
        assert!(parse_release("").expect("an empty one").is_empty());
        assert!(parse_release("default_process_types: [x]").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = parse(&text);
            let _ = parse_release(&text);
        }

        /// What is written is what is read.
        #[test]
        fn round_trip(map in prop::collection::btree_map("[a-z][a-z0-9_-]{0,30}", "[!-~][ -~]{0,60}[!-~]", 0..10)) {
            prop_assume!(!map.contains_key("run"));
            let text = serde_yaml::to_string(&map).expect("YAML");
            let read = parse(&text).expect("a Procfile");
            let read: BTreeMap<String, String> =
                read.into_iter().map(|(kind, command)| (kind.to_string(), command)).collect();
            prop_assert_eq!(read, map);
        }
    }
}
