//! What the benches share: statistics, runs that alternate, a table on stdout, and the same rows as
//! `bench/results/NAME.json`, which is committed.
//!
//! A bench is a program (`harness = false`): it measures, adds a row for each figure, and ends with
//! [`Report::finish`]. A missed target is said, and fails nothing: docs/benchmarks.md says why. What
//! fails a bench is that it could not measure.

#![allow(dead_code, reason = "no bench uses all of it")]

pub mod etcd;
pub mod process;
pub mod stats;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use deis::cli::table::Table;
use serde::Serialize;

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// A figure for people, without a target.
    None,
}

impl Target {
    const fn value(self) -> Option<f64> {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => Some(value),
            Self::None => None,
        }
    }

    fn holds(self, result: f64) -> bool {
        match self {
            Self::AtMost(most) => result <= most,
            Self::AtLeast(least) => result >= least,
            Self::None => true,
        }
    }
}

/// One row of `bench/results/NAME.json`.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    target: Option<f64>,
    result: f64,
    unit: &'static str,
    pass: bool,
}

/// The rows of one bench.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    rows: Vec<(Row, Target)>,
    broken: Vec<String>,
}

impl Report {
    /// No row yet.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            rows: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// Measures a part of the bench. When it breaks off (the panic has said why), the others' rows are
    /// written all the same, and the bench fails in the end.
    pub fn part(&mut self, what: &str, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            eprintln!("{what}: broke off");
            self.broken.push(what.to_owned());
        }
    }

    /// Adds a figure, and says it at once: a bench takes minutes.
    pub fn row(
        &mut self,
        what: impl Into<String>,
        target: Target,
        result: f64,
        unit: &'static str,
    ) {
        let row = Row {
            what: what.into(),
            target: target.value(),
            result: short(result),
            unit,
            pass: target.holds(result),
        };
        eprintln!("{}: {} {}", row.what, row.result, row.unit);
        self.rows.push((row, target));
    }

    /// Prints the table and writes the file.
    ///
    /// # Panics
    /// When a part broke off, or the file can't be written: then the bench has not been worth its time.
    pub fn finish(self) {
        let mut table = Table::new(&["WHAT", "TARGET", "RESULT", "UNIT", "RATIO", ""]);
        for (row, target) in &self.rows {
            let (want, ratio, word) = match target {
                Target::AtMost(most) => (format!("<= {most}"), ratio(row.result, *most), row.pass),
                Target::AtLeast(least) => {
                    (format!(">= {least}"), ratio(row.result, *least), row.pass)
                }
                Target::None => (String::new(), String::new(), true),
            };
            let word = match (target, word) {
                (Target::None, _) => "",
                (_, true) => "ok",
                (_, false) => "MISSED",
            };
            table.row([
                row.what.clone(),
                want,
                row.result.to_string(),
                row.unit.to_owned(),
                ratio,
                word.to_owned(),
            ]);
        }
        println!("\n{}", table.render());
        let rows: Vec<&Row> = self.rows.iter().map(|(row, _)| row).collect();
        let text = serde_json::to_string_pretty(&rows).expect("rows are JSON");
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/results");
        let path = dir.join(format!("{}.json", self.name));
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(&path, text + "\n"))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        println!("bench/results/{}.json is written", self.name);
        assert!(self.broken.is_empty(), "not measured: {:?}", self.broken);
    }
}

fn ratio(result: f64, target: f64) -> String {
    if target == 0.0 {
        return String::new();
    }
    format!("{:.2}", result / target)
}

/// Three digits after the first one: no figure here is better than that.
fn short(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    if digits <= 0 {
        return value.round();
    }
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// A number from the environment, to make a bench smaller (or larger) than it is.
///
/// # Panics
/// When it is set and no number.
pub fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{name}={text:?}: {error}")),
        Err(_) => default,
    }
}
