//! What the user sees and types. The only place that writes to a terminal.

use std::{
    io::{BufRead, IsTerminal as _, Write},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// How a command shows what it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people, and for scripts that know Deis 1.13's
    #[default]
    Text,
    /// JSON, with the names of the API
    Json,
}

/// stdin, stdout and stderr, or stand-ins for them.
pub struct Ui {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    input: Box<dyn BufRead>,
    /// Whether stdout is a terminal: spinner and colours.
    out_terminal: bool,
    /// Whether stdin is one: passwords are not echoed.
    in_terminal: bool,
    colour: bool,
    format: Format,
    /// Why stdout takes no more.
    broken: Option<std::io::Error>,
}

impl Ui {
    /// The process's own; `colour` is whether colours are allowed at all.
    #[must_use]
    pub fn terminal(colour: bool) -> Self {
        let out_terminal = std::io::stdout().is_terminal();
        Self {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            input: Box::new(std::io::BufReader::new(std::io::stdin())),
            out_terminal,
            in_terminal: std::io::stdin().is_terminal(),
            colour: colour && out_terminal,
            format: Format::Text,
            broken: None,
        }
    }

    /// Pipes: no terminal anywhere.
    #[must_use]
    pub fn pipes(out: Box<dyn Write>, err: Box<dyn Write>, input: Box<dyn BufRead>) -> Self {
        Self {
            out,
            err,
            input,
            out_terminal: false,
            in_terminal: false,
            colour: false,
            format: Format::Text,
            broken: None,
        }
    }

    /// Whether to write colours.
    #[must_use]
    pub const fn colour(&self) -> bool {
        self.colour
    }

    /// Whether stdout is a terminal.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.out_terminal
    }

    /// Sets how things are shown from now on.
    pub const fn set_format(&mut self, format: Format) {
        self.format = format;
    }

    /// How things are shown.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether nobody reads stdout any more (`| head`): whoever follows something may stop.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.broken.is_some()
    }

    /// Writes to stdout what is not ours to format: a log, a command's output.
    pub fn data(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            let done = self.out.write_all(bytes).and_then(|()| self.out.flush());
            self.broken = done.err();
        }
    }

    /// Writes to stdout. A reader that has gone away (`| head`) is no error of ours.
    pub fn print(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    /// Writes a line to stdout.
    pub fn line(&mut self, text: &str) {
        self.print(text);
        self.print("\n");
    }

    /// Writes a line to stderr.
    pub fn error(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
        let _ = self.err.flush();
    }

    /// Waits for something; on a terminal a spinner turns meanwhile.
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> T {
        if !self.out_terminal {
            return work.await;
        }
        tokio::pin!(work);
        let mut turn = tokio::time::interval(TURN);
        let mut faces = ['|', '/', '-', '\\'].into_iter().cycle();
        loop {
            tokio::select! {
                result = &mut work => {
                    self.print(" \u{8}");
                    return result;
                }
                _ = turn.tick() => {
                    let face = faces.next().unwrap_or('.');
                    self.print(&format!("{face}\u{8}"));
                }
            }
        }
    }

    /// Asks for a line.
    pub fn ask(&mut self, prompt: &str) -> anyhow::Result<String> {
        self.print(prompt);
        self.read_line()
    }

    /// Asks for a line that is not shown while it is typed.
    pub fn ask_secret(&mut self, prompt: &str) -> anyhow::Result<String> {
        self.print(prompt);
        let quiet = self.in_terminal && stty("-echo");
        let line = self.read_line();
        if quiet {
            stty("echo");
            self.print("\n");
        }
        line
    }

    fn read_line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = self
            .input
            .read_line(&mut line)
            .context("can't read your answer")?;
        if read == 0 {
            bail!("no answer: the input has ended; give it as an option instead (see --help)");
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Sets the terminal's echo; false when it couldn't.
fn stty(word: &str) -> bool {
    Command::new("stty")
        .arg(word)
        .stdin(Stdio::inherit())
        .status()
        .is_ok_and(|status| status.success())
}

/// Rows of names and values in two columns, by name: v1's `PrettyTabs`.
#[must_use]
pub fn columns<'r>(rows: impl IntoIterator<Item = (&'r str, String)>, space: usize) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + space;
    rows.iter()
        .map(|(name, value)| format!("{name:width$}{value}\n"))
        .collect()
}

/// The end of a list's heading: says when it is not the whole list.
#[must_use]
pub fn part_of(shown: usize, count: u64) -> String {
    if shown as u64 == count {
        String::new()
    } else {
        format!(" ({shown} of {count})")
    }
}
