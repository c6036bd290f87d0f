//! What came of the trials: on the terminal, and in docs/soak.md.

use std::{fmt, fs, path::PathBuf, time::Duration};

use jiff::Timestamp;

use crate::{TRIALS, Trial, ground::Notes};

const BEGIN: &str = "<!-- results: written by `make soak` -->";
const END: &str = "<!-- end of results -->";
const HEAD: &str =
    "| trial | form | date (UTC) | took | result | figures |\n|---|---|---|---|---|---|\n";
/// So much of a failure is told in the table.
const FAILURE_MAX: usize = 300;

/// One run of a trial.
pub struct Entry {
    name: &'static str,
    date: Timestamp,
    took: Duration,
    notes: Notes,
    pub failure: Option<String>,
}

impl Entry {
    pub fn new(
        trial: &Trial,
        date: Timestamp,
        took: Duration,
        notes: Notes,
        failure: Option<String>,
    ) -> Self {
        Self {
            name: trial.name,
            date,
            took,
            notes,
            failure,
        }
    }

    fn row(&self) -> String {
        let result = match &self.failure {
            None => "passed".to_owned(),
            Some(why) => {
                let why: String = why.split_whitespace().collect::<Vec<_>>().join(" ");
                // Where this machine keeps its checkout is nobody's business.
                let why = why.replace(concat!(env!("CARGO_MANIFEST_DIR"), "/"), "");
                let cut: String = why.chars().take(FAILURE_MAX).collect();
                format!("**failed**: {}", cut.replace('|', "/"))
            }
        };
        format!(
            "| {} | {} | {} | {:.0?} | {result} | {} |",
            self.name,
            self.notes.form,
            self.date.strftime("%Y-%m-%d %H:%M"),
            Duration::from_secs(self.took.as_secs().max(1)),
            self.notes.figures.join("; ").replace('|', "/"),
        )
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = if self.failure.is_some() {
            "FAILED"
        } else {
            "passed"
        };
        write!(f, "--- {} {result} after {:.0?}", self.name, self.took)?;
        for figure in &self.notes.figures {
            write!(f, "\n    {figure}")?;
        }
        if let Some(why) = &self.failure {
            write!(f, "\n    {why}")?;
        }
        Ok(())
    }
}

/// The rows as a table.
pub fn table(entries: &[Entry]) -> String {
    entries
        .iter()
        .fold(HEAD.to_owned(), |all, entry| all + &entry.row() + "\n")
}

/// docs/soak.md: the latest run of each trial in each form. What people wrote around it stays.
pub struct Book {
    path: PathBuf,
    before: String,
    rows: Vec<String>,
    after: String,
}

impl Book {
    pub fn open() -> Self {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/soak.md"));
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("docs/soak.md: {error}"));
        let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
            let (rows, after) = rest.split_once(END)?;
            Some((before, rows, after))
        });
        let (before, rows, after) =
            parts.unwrap_or_else(|| panic!("docs/soak.md has no lines {BEGIN:?} and {END:?}"));
        let rows = rows.lines().filter(|line| line.starts_with('|')).skip(2);
        Self {
            path,
            rows: rows.map(str::to_owned).collect(),
            before: before.to_owned(),
            after: after.to_owned(),
        }
    }

    /// Enters a run, in the place of the last one of the same trial in the same form.
    pub fn write(&mut self, entry: &Entry) {
        let new = entry.row();
        self.rows.retain(|row| key(row) != key(&new));
        self.rows.push(new);
        let place = |row: &String| {
            let (name, form) = key(row);
            let place = TRIALS.iter().position(|trial| trial.name == name);
            (place.unwrap_or(TRIALS.len()), form.to_owned())
        };
        self.rows.sort_by_key(place);
        let checks: String = TRIALS
            .iter()
            .map(|trial| format!("- `{}`: {}\n", trial.name, trial.checks))
            .collect();
        let Self {
            before,
            rows,
            after,
            ..
        } = self;
        let rows = rows.join("\n");
        let text = format!("{before}{BEGIN}\n{HEAD}{rows}\n\n{checks}{END}{after}");
        fs::write(&self.path, text).unwrap_or_else(|error| panic!("docs/soak.md: {error}"));
    }
}

/// A row's trial and form.
fn key(row: &str) -> (&str, &str) {
    let mut cells = row.split('|').map(str::trim).skip(1);
    (
        cells.next().unwrap_or_default(),
        cells.next().unwrap_or_default(),
    )
}
