//! The file `.env`: `NAME=value` lines. A value with line breaks or quotes stands in double quotes
//! with escapes, so that every value comes back as it was. Pure.

use std::collections::BTreeMap;

use crate::model::ConfigName;

/// Why a file can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Invalid {
    /// Where, from 1.
    pub line: usize,
    /// Why.
    pub why: &'static str,
}

/// Writes variables.
pub fn write(values: &BTreeMap<String, String>) -> String {
    values
        .iter()
        .map(|(name, value)| format!("{name}={}\n", quote(value)))
        .collect()
}

fn quote(value: &str) -> String {
    let plain =
        !value.contains(['\n', '\r']) && !value.starts_with(['"', '\'']) && value.trim() == value;
    if plain {
        return value.to_owned();
    }
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '"' | '\\' => text.extend(['\\', c]),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

/// Reads variables; empty lines and lines that begin with `#` say nothing.
pub fn read(text: &str) -> Result<BTreeMap<String, String>, Invalid> {
    let mut values = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        let invalid = |why| Invalid { line: at + 1, why };
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| invalid("expected NAME=value"))?;
        let name: ConfigName = name
            .parse()
            .map_err(|_| invalid("a name is letters, digits and _, and begins with no digit"))?;
        let value = unquote(value).ok_or_else(|| invalid("the quotes don't match"))?;
        values.insert(name.into(), value);
    }
    Ok(values)
}

fn unquote(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix('\'') {
        return rest.strip_suffix('\'').map(str::to_owned);
    }
    let Some(rest) = text.strip_prefix('"') else {
        return Some(text.trim().to_owned());
    };
    let mut value = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().trim().is_empty().then_some(value),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_without_a_last_line_break_loses_nothing() {
        let read = read("# mine\nA=1\n\nexport B='x y'\nC=\"a\\nb\"\nD=a=b").expect("file");
        let rows: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            rows,
            [("A", "1"), ("B", "x y"), ("C", "a\nb"), ("D", "a=b")]
        );
    }

    #[test]
    fn errors_name_the_line() {
        let cases = [
            ("A=1\nB", 2),
            ("1A=1", 1),
            ("A=\"x", 1),
            ("A='x", 1),
            ("A=\"x\" y", 1),
        ];
        for (text, line) in cases {
            assert_eq!(read(text).map_err(|e| e.line), Err(line), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in "\\PC*|[\\n\\r\"'\\\\ a#=%$]*") {
            let values = BTreeMap::from([("A".to_owned(), value)]);
            prop_assert_eq!(read(&write(&values)), Ok(values));
        }
    }
}
