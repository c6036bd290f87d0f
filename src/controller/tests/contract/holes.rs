//! Placeholders: what a fixture can't know beforehand. One with a name stands for the same text
//! wherever it comes again.
//!
//! `{uuid}`, `{time}` (`2014-01-01T00:00:00UTC`), `{iso}` (`2014-01-01T00:00:00Z`), `{token}` (40
//! digits), `{name}` (of an app), `{int}` (a JSON number), `{text}` (anything, but not nothing).

use std::collections::BTreeMap;

use serde_json::Value;

/// What the placeholders with names stand for.
#[derive(Default)]
pub(in crate::controller::tests) struct Holes(BTreeMap<String, String>);

/// A piece of a text with placeholders.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    Hole { kind: &'t str, whole: &'t str },
}

const KINDS: [&str; 7] = ["uuid", "time", "iso", "token", "name", "int", "text"];

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut rest, mut from) = (text, 0);
    while let Some(open) = rest[from..].find('{').map(|at| at + from) {
        let inner = rest[open + 1..].split_once('}').map(|(inner, _)| inner);
        let kind = inner.map(|inner| inner.split(':').next().unwrap_or(inner));
        match (inner, kind) {
            (Some(inner), Some(kind)) if KINDS.contains(&kind) => {
                if open > 0 {
                    pieces.push(Piece::Text(&rest[..open]));
                }
                pieces.push(Piece::Hole { kind, whole: inner });
                (rest, from) = (&rest[open + inner.len() + 2..], 0);
            }
            _ => from = open + 1,
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

/// Whether a text has the shape that a kind of placeholder stands for.
fn fits(kind: &str, text: &str) -> bool {
    let like = |pattern: &str| {
        text.len() == pattern.len()
            && text.chars().zip(pattern.chars()).all(|(c, p)| match p {
                '0' => c.is_ascii_digit(),
                'x' => c.is_ascii_digit() || ('a'..='f').contains(&c),
                other => c == other,
            })
    };
    match kind {
        "uuid" => like("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"),
        "time" => like("0000-00-00T00:00:00UTC"),
        "iso" => {
            let seconds = text.strip_suffix('Z').map(|t| t.split('.').next());
            seconds.flatten().is_some_and(|t| {
                t.len() == 19 && fits("time", &format!("{t}UTC")) && text.len() < 28
            })
        }
        "token" => like(&"x".repeat(40)),
        "name" => {
            let words: Vec<&str> = text.split('-').collect();
            let letters = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase());
            words.len() >= 2 && words[..2].iter().all(|word| letters(word))
        }
        "int" => text.parse::<u64>().is_ok(),
        _ => !text.is_empty(),
    }
}

impl Holes {
    pub(in crate::controller::tests) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    pub(in crate::controller::tests) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A text of a request, with its placeholders filled in.
    pub(super) fn fill(&self, text: &str) -> String {
        let fill = |piece: &Piece<'_>| match piece {
            Piece::Text(text) => (*text).to_owned(),
            Piece::Hole { whole, .. } => match self.0.get(*whole) {
                Some(value) => value.clone(),
                None => panic!("{{{whole}}} stands for nothing yet"),
            },
        };
        pieces(text).iter().map(fill).collect()
    }

    /// Compares a text with what is expected.
    pub(super) fn text(&mut self, want: &str, got: &str) -> Result<(), String> {
        let wrong = || format!("expected {want:?}\n     got {got:?}");
        let pieces = pieces(want);
        let mut rest = got;
        for (at, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) => rest = rest.strip_prefix(text).ok_or_else(wrong)?,
                Piece::Hole { kind, whole } => {
                    let end = match pieces.get(at + 1) {
                        Some(Piece::Text(next)) => rest.find(next).ok_or_else(wrong)?,
                        Some(Piece::Hole { .. }) => {
                            panic!("{want}: placeholders need text between")
                        }
                        None => rest.len(),
                    };
                    let (value, after) = rest.split_at(end);
                    if !fits(kind, value) {
                        return Err(format!("{} ({value:?} is no {kind})", wrong()));
                    }
                    self.bind(whole, value)
                        .map_err(|why| format!("{} ({why})", wrong()))?;
                    rest = after;
                }
            }
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(wrong())
        }
    }

    /// A placeholder with a name stands for one text only.
    fn bind(&mut self, whole: &str, value: &str) -> Result<(), String> {
        if !whole.contains(':') {
            return Ok(());
        }
        match self.0.get(whole) {
            None => self.set(whole, value),
            Some(before) if before == value => {}
            Some(before) => return Err(format!("{{{whole}}} was {before:?} before")),
        }
        Ok(())
    }

    /// Compares JSON: no field more or less, numbers are no texts, null is not nothing; the order of
    /// fields is free.
    pub(super) fn json(&mut self, at: &str, want: &Value, got: &Value) -> Result<(), String> {
        match (want, got) {
            (Value::Object(want), Value::Object(got)) => {
                let names = |map: &serde_json::Map<String, Value>| {
                    let mut names: Vec<_> = map.keys().cloned().collect();
                    names.sort_unstable();
                    names
                };
                if names(want) != names(got) {
                    let (want, got) = (names(want), names(got));
                    return Err(format!(
                        "{at}: expected the fields {want:?}\n     got {got:?}"
                    ));
                }
                want.iter().try_for_each(|(name, value)| {
                    self.json(&format!("{at}.{name}"), value, &got[name])
                })
            }
            (Value::Array(want), Value::Array(got)) if want.len() == got.len() => want
                .iter()
                .zip(got)
                .enumerate()
                .try_for_each(|(i, (want, got))| self.json(&format!("{at}[{i}]"), want, got)),
            (Value::String(want), Value::Number(got)) if want.starts_with("{int") => self
                .text(want, &got.to_string())
                .map_err(|why| format!("{at}: {why}")),
            (Value::String(want), Value::String(got)) if !want.starts_with("{int") => {
                self.text(want, got).map_err(|why| format!("{at}: {why}"))
            }
            (want, got) if want == got => Ok(()),
            (want, got) => Err(format!("{at}: expected {want}\n     got {got}")),
        }
    }
}

#[test]
fn placeholders() {
    let mut holes = Holes::default();
    let uuid = "de1bf5b5-4a72-4f94-a10c-d2a3741cdf75";
    let json = format!(r#"{{"a":"{uuid}","b":"{uuid}"}}"#);
    for (want, got, ok) in [
        (
            r#"{"detail":"Not found"}"#,
            r#"{"detail":"Not found"}"#,
            true,
        ),
        (
            r#"{"detail":"Not found"}"#,
            r#"{"detail": "Not found"}"#,
            false,
        ),
        (r#"{"a":"{uuid:x}","b":"{uuid:x}"}"#, json.as_str(), true),
        ("{uuid:x}", "de1bf5b5-4a72-4f94-a10c-d2a3741cdf76", false),
        ("{uuid}", "DE1BF5B5-4a72-4f94-a10c-d2a3741cdf75", false),
        ("at {time}!", "at 2014-01-01T00:00:00UTC!", true),
        ("{time}", "2014-01-01T00:00:00Z", false),
        ("{iso}", "2014-01-01T00:00:00Z", true),
        ("{iso}", "2014-01-01T00:00:00.601Z", true),
        ("{iso}", "2014-01-01T00:00:00UTC", false),
        ("{text}", "", false),
        ("a", "ab", false),
    ] {
        assert_eq!(holes.text(want, got).is_ok(), ok, "{want} {got}");
    }
    let mut json = |want: &str, got: &str| {
        let read = |text: &str| serde_json::from_str::<Value>(text).expect("json");
        holes.json("", &read(want), &read(got)).is_ok()
    };
    assert!(json(r#"{"a":1,"b":null}"#, r#"{"b":null,"a":1}"#));
    assert!(json(r#""{int}""#, "7") && !json(r#""{int}""#, r#""7""#));
    for (want, got) in [
        (r#"{"a":1}"#, r#"{"a":"1"}"#),
        (r#"{"a":1}"#, r#"{"a":1,"b":2}"#),
        (r#"{"a":null}"#, "{}"),
        ("[1,2]", "[1]"),
        ("[1,2]", "[2,1]"),
    ] {
        assert!(!json(want, got), "{want} {got}");
    }
}
