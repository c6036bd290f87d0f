//! What the user sees and types. The only place that writes to a terminal.

use std::{
    io::{BufRead, IsTerminal as _, Write},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// stdin, stdout and stderr, or stand-ins for them.
pub struct Ui {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    input: Box<dyn BufRead>,
    /// Whether these are the process's own.
    own: bool,
    /// Whether stdout is a terminal: spinner and colours.
    out_terminal: bool,
    /// Whether stdin is one: passwords are not echoed.
    in_terminal: bool,
    colour: bool,
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
            own: true,
            out_terminal,
            in_terminal: std::io::stdin().is_terminal(),
            colour: colour && out_terminal,
        }
    }

    /// Pipes: no terminal anywhere.
    #[must_use]
    pub fn pipes(out: Box<dyn Write>, err: Box<dyn Write>, input: Box<dyn BufRead>) -> Self {
        Self {
            out,
            err,
            input,
            own: false,
            out_terminal: false,
            in_terminal: false,
            colour: false,
        }
    }

    /// Whether to write colours.
    #[must_use]
    pub const fn colour(&self) -> bool {
        self.colour
    }

    /// Whether these are the process's own streams, which others may use beside us.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.own
    }

    /// Whether stdin is a terminal.
    #[must_use]
    pub const fn reads_terminal(&self) -> bool {
        self.in_terminal
    }

    /// All of a stand-in's input.
    pub fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.input.read_to_end(&mut bytes);
        bytes
    }

    /// Writes bytes as they are to stdout or, for `errors`, stderr.
    pub fn write_raw(&mut self, bytes: &[u8], errors: bool) -> std::io::Result<()> {
        let stream = if errors { &mut self.err } else { &mut self.out };
        stream.write_all(bytes)?;
        stream.flush()
    }

    /// Whether stdout is a terminal.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.out_terminal
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
