//! What the user sees while something is made: steps with their times.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Prints steps and remembers what each took.
#[derive(Debug)]
pub struct Report {
    started: Instant,
    steps: Vec<(String, Duration)>,
    colour: bool,
}

impl Default for Report {
    fn default() -> Report {
        Report::new()
    }
}

impl Report {
    /// Starts the clock.
    pub fn new() -> Report {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Report {
            started: Instant::now(),
            steps: Vec::new(),
            colour,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// One step: its name first, what it found or made and the time after. An error names the step.
    pub fn step<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Note) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let clock = format!("[{:6.1}s]", self.started.elapsed().as_secs_f64());
        say(&format!(
            "{} {}",
            self.paint("2", &clock),
            self.paint("1", name)
        ));
        let mut note = Note::default();
        let done = work(&mut note);
        let took = begun.elapsed();
        self.steps.push((name.to_owned(), took));
        let seconds = self.paint("2", &format!("({:.1} s)", took.as_secs_f64()));
        match &done {
            Ok(_) => say(&format!(
                "          {} {}",
                if note.0.is_empty() { "done" } else { &note.0 },
                seconds
            )),
            Err(_) => say(&format!(
                "          {} {}",
                self.paint("31", "failed"),
                seconds
            )),
        }
        done.with_context(|| format!("the step \"{name}\" failed"))
    }

    /// The steps that took long, in one line.
    pub fn summary(&self) -> String {
        let mut steps: Vec<String> = self
            .steps
            .iter()
            .filter(|(_, took)| *took >= Duration::from_millis(500))
            .map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64()))
            .collect();
        steps.push(format!(
            "in all {:.1} s",
            self.started.elapsed().as_secs_f64()
        ));
        steps.join(", ")
    }
}

/// What a step has to say once it's done.
#[derive(Debug, Default)]
pub struct Note(String);

impl Note {
    /// Replaces the word "done".
    pub fn set(&mut self, text: impl Into<String>) {
        self.0 = text.into();
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line of output of something that the user is waiting for.
pub fn detail(line: &str) {
    say(&format!("          | {}{line}", LABEL.get()));
}

thread_local! {
    static LABEL: Cell<&'static str> = const { Cell::new("") };
}

/// Puts a word before this thread's details: two things are made at a time.
pub fn label(word: &'static str) {
    LABEL.set(word);
}

/// Prints a line; a closed terminal is no reason to stop.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
