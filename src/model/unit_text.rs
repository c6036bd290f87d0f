//! What stands in a unit file: sections with options, as systemd reads them, and the same written
//! again. Nothing gets from one option into another: what is written is read as what it was.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProcessName, UnitFileName};

/// The longest unit file, in bytes.
pub const MAX_UNIT_BYTES: usize = 64 << 10;

/// One option of a unit file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct UnitOption {
    /// Its section, without brackets.
    pub section: String,
    /// Its name.
    pub name: String,
    /// Its value. One that goes over several lines has a backslash before each line break.
    pub value: String,
}

/// What is wrong with a unit file or its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// A line that is neither a section, nor an option in one, nor a comment.
    #[error("line {line} is neither a [Section] nor an Option=value in one: {text:?}")]
    Line {
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// The last line ends in a backslash.
    #[error("it ends in the middle of a value: a backslash says that another line follows")]
    Unfinished,
    /// A character that no unit file can hold.
    #[error("it holds a control character, {0:?}")]
    Control(char),
    /// Too long.
    #[error("it has {0} bytes; {MAX_UNIT_BYTES} are the most")]
    TooLong(usize),
    /// Nothing in it.
    #[error("it has no option in any section")]
    Empty,
    /// The name of a section or option has characters that it can't have.
    #[error("{0:?} is no name for a section or an option")]
    Name(String),
    /// A value would end its line.
    #[error("the value of {option} has a line break without a backslash before it")]
    Break {
        /// Whose value.
        option: String,
    },
    /// A value would go on in the next line.
    #[error("the value of {option} ends in a backslash")]
    Open {
        /// Whose value.
        option: String,
    },
    /// An app's process could have the same unit.
    #[error("{0} is what a process of an app is called: choose another name")]
    Process(UnitFileName),
}

/// A line of a unit file that says something; continued lines are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'t> {
    /// `[Service]`.
    Section(&'t str),
    /// `Name=value`; line breaks of the value have a backslash before them.
    Option(&'t str, &'t str),
    /// Neither.
    Junk(&'t str),
}

/// Whether a line goes on in the next one: an odd number of backslashes at its end.
fn is_open(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// The lines that say something, with their numbers from 1.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, Said<'_>)> {
    let (mut rest, mut number) = (text, 0);
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let first = number + 1;
            let is_comment = rest.trim_start_matches([' ', '\t']).starts_with(['#', ';']);
            let mut end = 0;
            loop {
                let line = rest[end..].split('\n').next().unwrap_or_default();
                number += 1;
                end += line.len();
                if is_comment || !is_open(line) || end >= rest.len() {
                    break;
                }
                end += 1;
            }
            let whole = rest[..end].trim();
            rest = rest.get(end + 1..).unwrap_or_default();
            if is_comment || whole.is_empty() {
                continue;
            }
            let section = whole.strip_prefix('[').and_then(|s| s.strip_suffix(']'));
            let said = match (section, whole.split_once('=')) {
                (Some(name), _) => Said::Section(name),
                (None, Some((name, value))) => Said::Option(name.trim(), value.trim()),
                (None, None) => Said::Junk(whole),
            };
            return Some((first, said));
        }
    })
}

/// Reads a unit file.
///
/// # Errors
/// When systemd would ignore something in it, or it has nothing to say.
pub fn parse(text: &str) -> Result<Vec<UnitOption>, InvalidUnit> {
    if text.len() > MAX_UNIT_BYTES {
        return Err(InvalidUnit::TooLong(text.len()));
    }
    let control = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
    if let Some(bad) = text.chars().find(control) {
        return Err(InvalidUnit::Control(bad));
    }
    if text
        .trim_end_matches('\n')
        .lines()
        .last()
        .is_some_and(is_open)
    {
        return Err(InvalidUnit::Unfinished);
    }
    let mut section = None;
    let mut options = Vec::new();
    for (line, said) in lines(text) {
        match (said, section) {
            (Said::Section(name), _) if is_name(name) => section = Some(name),
            (Said::Option(name, value), Some(section)) if is_name(name) => {
                options.push(UnitOption {
                    section: section.to_owned(),
                    name: name.to_owned(),
                    value: value.to_owned(),
                });
            }
            (Said::Section(text) | Said::Option(text, _) | Said::Junk(text), _) => {
                let text = text.chars().take(60).collect();
                return Err(InvalidUnit::Line { line, text });
            }
        }
    }
    if options.is_empty() {
        return Err(InvalidUnit::Empty);
    }
    Ok(options)
}

/// Whether something can be called so without being taken for anything else.
fn is_name(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b' ')
        && text.trim() == text
}

/// Writes options as a unit file: sections in the order in which they come first.
///
/// # Errors
/// When an option can't be written so that it is read as what it was.
pub fn write(options: &[UnitOption]) -> Result<String, InvalidUnit> {
    if options.is_empty() {
        return Err(InvalidUnit::Empty);
    }
    let mut sections: Vec<&str> = Vec::new();
    for option in options {
        for name in [&option.section, &option.name] {
            if !is_name(name) {
                return Err(InvalidUnit::Name(name.chars().take(60).collect()));
            }
        }
        check_value(option)?;
        if !sections.contains(&option.section.as_str()) {
            sections.push(&option.section);
        }
    }
    let mut text = String::new();
    for section in sections {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}[{section}]");
        for option in options.iter().filter(|option| option.section == section) {
            let _ = writeln!(text, "{}={}", option.name, option.value);
        }
    }
    if text.len() > MAX_UNIT_BYTES {
        return Err(InvalidUnit::TooLong(text.len()));
    }
    Ok(text)
}

fn check_value(option: &UnitOption) -> Result<(), InvalidUnit> {
    let named = || format!("{}={}", option.section, option.name);
    let control = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
    if let Some(bad) = option.value.chars().find(control) {
        return Err(InvalidUnit::Control(bad));
    }
    let mut lines = option.value.split('\n').peekable();
    while let Some(line) = lines.next() {
        match (lines.peek().is_some(), is_open(line)) {
            (true, false) => return Err(InvalidUnit::Break { option: named() }),
            (false, true) => return Err(InvalidUnit::Open { option: named() }),
            (true, true) | (false, false) => {}
        }
    }
    Ok(())
}

/// Refuses names that are those of apps' processes and what belongs to them.
///
/// # Errors
/// When it is one.
pub fn check_name(name: &UnitFileName) -> Result<(), InvalidUnit> {
    let stem = name.stem();
    let stems = [
        Some(stem),
        stem.strip_suffix("-announce"),
        stem.strip_suffix("-log"),
    ];
    let is_process = |stem: &str| stem.parse::<ProcessName>().is_ok();
    if stems.into_iter().flatten().any(is_process) {
        return Err(InvalidUnit::Process(name.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn option(section: &str, name: &str, value: &str) -> UnitOption {
        UnitOption {
            section: section.into(),
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn a_unit_is_read_as_systemd_reads_it() {
        let text = "# a comment \\\n[Unit]\n; another\nDescription = Hello, World! \n\n[Service]\n\
                    ExecStart=/bin/sh -c \"a \\\n  b\"\nEnvironment=\n[X-Fleet]\nGlobal=true";
        let want = [
            option("Unit", "Description", "Hello, World!"),
            option("Service", "ExecStart", "/bin/sh -c \"a \\\n  b\""),
            option("Service", "Environment", ""),
            option("X-Fleet", "Global", "true"),
        ];
        assert_eq!(parse(text).expect("a unit"), want);
        let written = write(&want).expect("written");
        assert_eq!(parse(&written).expect("a unit"), want);
        assert!(
            written.starts_with("[Unit]\nDescription=Hello, World!\n\n[Service]\n"),
            "{written}"
        );
    }

    #[test]
    fn what_is_no_unit_is_refused_with_its_line() {
        let cases = [
            ("", "no option"),
            ("[Service]\n", "no option"),
            ("ExecStart=/bin/true\n", "line 1"),
            ("[Service]\nExecStart\n", "line 2"),
            ("[Service]\n\nA=1 \\\n2\nhello\n", "line 5"),
            ("[Service\nA=1\n", "line 1"),
            ("[Serv[ice]]\nA=1\n", "line 1"),
            ("[Service]\nA\u{7f}=1\n", "control"),
            ("[Service]\nA=1\r\n", "control"),
            ("[Service]\nA=1\0\n", "control"),
            ("[Service]\nA=1\\", "middle of a value"),
            ("[Service]\nA=1\\\n", "middle of a value"),
        ];
        for (text, want) in cases {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
        let long = format!("[Service]\nA={}\n", "x".repeat(MAX_UNIT_BYTES));
        assert!(matches!(parse(&long), Err(InvalidUnit::TooLong(_))));
    }

    #[test]
    fn options_smuggle_nothing() {
        let bad = [
            option("Service", "ExecStart", "/bin/true\n[X-Fleet]\nGlobal=true"),
            option("Service", "ExecStart", "/bin/true \\\\\nUser=root"),
            option("Service", "ExecStart", "/bin/true\\"),
            option("Service", "ExecStart", "/bin/true\rUser=root"),
            option("Service", "ExecStart", "/bin/true\0"),
            option("Service", "ExecStart=/bin/false\nUser", "root"),
            option("Service", "User=root\nA", ""),
            option("Service", "", "x"),
            option("Service]\n[X-Fleet", "Global", "true"),
            option("", "Global", "true"),
            option("Service", "#User", "x"),
        ];
        for option in bad {
            assert!(write(std::slice::from_ref(&option)).is_err(), "{option:?}");
        }
    }

    #[test]
    fn names_of_processes_are_the_apps() {
        for (name, ok) in [
            ("hello.service", true),
            ("hello_v1.service", true),
            ("deis-router@1.service", true),
            ("blog_v7.web.1.service", false),
            ("blog_v7.web.1.2.service", false),
            ("blog_v7.web.1-log.socket", false),
            ("blog_v7.web.1-announce.service", false),
        ] {
            let name = name.parse().expect("name");
            assert_eq!(check_name(&name).is_ok(), ok, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(options in prop::collection::vec(
            ("[A-Z][a-z-]{0,5}", "[A-Z][A-Za-z0-9]{0,6}", "([ -~\t]|\\\\\n|é|\\PC){0,12}"), 1..6))
        {
            let options: Vec<UnitOption> = options
                .iter()
                .map(|(section, name, value)| option(section, name, value.trim()))
                .collect();
            if let Ok(text) = write(&options) {
                let mut read = parse(&text).expect("what was written can be read");
                let mut wanted = options;
                // Sections that come twice are put together.
                read.sort();
                wanted.sort();
                prop_assert_eq!(read, wanted);
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in "([ -~]|\\n|\\\\|\\[|\\]|=|#){0,60}") {
            if let Ok(options) = parse(&text) {
                prop_assert!(!options.is_empty());
                prop_assert_eq!(parse(&write(&options).expect("readable, so writable")).expect("again").len(), options.len());
            }
        }
    }
}
