//! What the user sees and types. The only place that writes to a terminal.
//!
//! There are two kinds of output. What a command *shows* ([`Ui::show`], [`Ui::list`]) is text, or JSON
//! under `--output json`. What it *says* besides ([`Ui::print`], [`Ui::line`], [`Ui::step`]) is for
//! people: under `--output json` only those at a terminal read it, on stderr.

use std::{
    io::{BufRead, ErrorKind, IsTerminal as _, Read as _, Write},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use serde::Serialize;

use crate::{api::wire::Page, cli::table::Table};

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

/// The user has pressed Ctrl-C where something was asked for.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// stdin, stdout and stderr, or stand-ins for them.
pub struct Ui {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    input: Box<dyn BufRead>,
    format: Format,
    /// Whether these are the process's own.
    own: bool,
    /// Whether stdout is a terminal that can move its cursor: spinner, and tables that fit.
    out_terminal: bool,
    /// Whether stderr is one.
    err_terminal: bool,
    /// Whether stdin is one: passwords are not echoed.
    in_terminal: bool,
    colour: bool,
    /// Columns of the terminal that stdout is.
    width: Option<usize>,
    /// Why stdout takes no more.
    broken: Option<std::io::Error>,
}

impl Ui {
    /// The process's own, as the environment wants them to be used.
    #[must_use]
    pub fn terminal() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        let out_terminal = std::io::stdout().is_terminal();
        let dumb = var("TERM").is_some_and(|term| term == "dumb");
        Self {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            input: Box::new(std::io::BufReader::new(std::io::stdin())),
            format: Format::Text,
            own: true,
            out_terminal: out_terminal && !dumb,
            err_terminal: std::io::stderr().is_terminal() && !dumb,
            in_terminal: std::io::stdin().is_terminal(),
            colour: wants_colour(var, out_terminal),
            width: out_terminal.then(columns_of_stdout).flatten(),
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
            format: Format::Text,
            own: false,
            out_terminal: false,
            err_terminal: false,
            in_terminal: false,
            colour: false,
            width: None,
            broken: None,
        }
    }

    /// The same, as if stdout were a terminal of so many columns.
    #[cfg(test)]
    pub(super) fn with_width(mut self, width: usize) -> Self {
        self.width = Some(width);
        self
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

    /// Whether nobody reads stdout any more (`| head`): whoever follows something may stop.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.broken.is_some()
    }

    /// Why stdout could not be written, unless its reader just went away, which is no error of ours.
    pub fn take_failure(&mut self) -> Option<std::io::Error> {
        let broken = self.broken.take()?;
        (broken.kind() != ErrorKind::BrokenPipe).then_some(broken)
    }

    /// Writes to stdout what is not ours to format: a log, a command's output, a completion script.
    pub fn data(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            let done = self.out.write_all(bytes).and_then(|()| self.out.flush());
            self.broken = done.err();
        }
    }

    /// Says something to people.
    pub fn print(&mut self, text: &str) {
        match self.format {
            Format::Text => self.data(text.as_bytes()),
            Format::Json if self.err_terminal => self.prompt(text),
            Format::Json => {}
        }
    }

    /// Says a line to people.
    pub fn line(&mut self, text: &str) {
        self.print(&format!("{text}\n"));
    }

    /// Writes a line to stderr.
    pub fn error(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
        let _ = self.err.flush();
    }

    /// Shows what was asked for: as it is in JSON, or by `text`.
    pub fn show<T: Serialize + ?Sized>(&mut self, value: &T, text: impl FnOnce(&mut Self)) {
        match self.format {
            Format::Text => text(self),
            Format::Json => match serde_json::to_string_pretty(value) {
                Ok(json) => self.data(format!("{json}\n").as_bytes()),
                Err(e) => self.error(&format!("Error: can't write this as JSON: {e}")),
            },
        }
    }

    /// Shows a list: in JSON as an array, in text below `=== <heading>`, which says when it is not
    /// the whole list.
    pub fn list<T: Serialize>(
        &mut self,
        heading: &str,
        page: &Page<T>,
        text: impl FnOnce(&mut Self, &[T]),
    ) {
        let part = part_of(page.results.len(), page.count);
        if self.format == Format::Json && !part.is_empty() {
            self.error(&format!("{heading}{part}: --limit shows more"));
        }
        self.show(&page.results, |ui| {
            ui.line(&format!("=== {heading}{part}"));
            text(ui, &page.results);
        });
    }

    /// Prints a table, as wide as the terminal at most; whole when it goes elsewhere.
    pub fn table(&mut self, table: &Table) {
        let text = table.fit(self.width);
        self.print(&text);
    }

    /// Prints rows with tabs between, as v1 did; on a terminal as a table that fits.
    pub fn rows<const N: usize>(&mut self, rows: impl IntoIterator<Item = [String; N]>) {
        let mut table = Table::plain();
        for row in rows {
            match self.width {
                Some(_) => table.row(row),
                None => self.line(&row.join("\t")),
            }
        }
        self.table(&table);
    }

    /// Says what is being done and waits for it; whoever called says how it went, unless it failed.
    pub async fn step<T>(
        &mut self,
        doing: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.print(doing);
        let result = self.wait(work).await;
        if result.is_err() && !doing.ends_with('\n') {
            self.print("\n");
        }
        result
    }

    /// Waits for something; on a terminal a spinner turns meanwhile.
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> T {
        if !self.out_terminal && !self.err_terminal {
            return work.await;
        }
        tokio::pin!(work);
        let mut turn = tokio::time::interval(TURN);
        let mut faces = ['|', '/', '-', '\\'].into_iter().cycle();
        loop {
            tokio::select! {
                result = &mut work => {
                    self.spin(" \u{8}");
                    return result;
                }
                _ = turn.tick() => {
                    let face = faces.next().unwrap_or('.');
                    self.spin(&format!("{face}\u{8}"));
                }
            }
        }
    }

    /// Writes to whichever of stdout and stderr is a terminal: never into a file.
    fn spin(&mut self, text: &str) {
        if self.out_terminal && self.format == Format::Text {
            self.data(text.as_bytes());
        } else if self.err_terminal {
            self.prompt(text);
        }
    }

    fn prompt(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes());
        let _ = self.err.flush();
    }

    /// Asks for a line.
    pub fn ask(&mut self, question: &str) -> anyhow::Result<String> {
        self.question(question);
        self.read_line()
    }

    /// Asks for a line that is not shown while it is typed.
    pub fn ask_secret(&mut self, question: &str) -> anyhow::Result<String> {
        if !self.in_terminal {
            return self.ask(question);
        }
        // Before the question: an answer may be typed as soon as that can be read.
        let quiet = Quiet::new().context("can't keep the terminal from showing your answer")?;
        self.question(question);
        let line = self.read_secret();
        drop(quiet);
        self.question("\n");
        line
    }

    /// A question is for people in either format: they have to answer it.
    fn question(&mut self, text: &str) {
        match self.format {
            Format::Text => self.data(text.as_bytes()),
            Format::Json => self.prompt(text),
        }
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

    /// Reads a line key by key: thereby Ctrl-C comes as a key, and never leaves a silent terminal.
    fn read_secret(&mut self) -> anyhow::Result<String> {
        let mut typed = Vec::new();
        loop {
            let mut key = [0];
            if self
                .input
                .read(&mut key)
                .context("can't read your answer")?
                == 0
            {
                bail!("no answer: the input has ended; give it as an option instead (see --help)");
            }
            match key[0] {
                b'\r' | b'\n' => break,
                CTRL_C => return Err(Interrupted.into()),
                CTRL_D if typed.is_empty() => return Err(Interrupted.into()),
                key => edit(&mut typed, key),
            }
        }
        String::from_utf8(typed).context("what you typed is no UTF-8 text")
    }
}

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const CTRL_U: u8 = 21;
const BACKSPACE: u8 = 8;
const DELETE: u8 = 127;

/// What a key does to what has been typed.
fn edit(typed: &mut Vec<u8>, key: u8) {
    match key {
        BACKSPACE | DELETE => {
            // A character, not a byte of it.
            while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
        }
        CTRL_U => typed.clear(),
        key => typed.push(key),
    }
}

/// A terminal that shows nothing of what is typed, as long as this lives.
struct Quiet {
    before: Termios,
}

impl Quiet {
    fn new() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes -=
            LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &quiet)?;
        Ok(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether colours are wanted, by the conventions of no-color.org and of CLICOLOR.
fn wants_colour(var: impl Fn(&str) -> Option<String>, terminal: bool) -> bool {
    let set = |name| var(name).filter(|value| !value.is_empty());
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        return true;
    }
    terminal
        && set("CLICOLOR").is_none_or(|value| value != "0")
        && set("TERM").is_none_or(|term| term != "dumb")
}

fn columns_of_stdout() -> Option<usize> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
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
pub fn part_of(shown: usize, count: u64) -> String {
    if shown as u64 == count {
        String::new()
    } else {
        format!(" ({shown} of {count})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours() {
        type Vars<'v> = &'v [(&'v str, &'v str)];
        let cases: &[(Vars<'_>, bool, bool)] = &[
            (&[], true, true),
            (&[], false, false),
            (&[("NO_COLOR", "1")], true, false),
            (&[("NO_COLOR", "")], true, true),
            (&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], true, false),
            (&[("CLICOLOR", "0")], true, false),
            (&[("CLICOLOR", "1")], false, false),
            (&[("CLICOLOR_FORCE", "1")], false, true),
            (&[("CLICOLOR_FORCE", "0")], false, false),
            (&[("TERM", "dumb")], true, false),
            (&[("TERM", "xterm")], true, true),
        ];
        for (vars, terminal, want) in cases {
            let var = |name: &str| {
                let found = vars.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(wants_colour(var, *terminal), *want, "{vars:?} {terminal}");
        }
    }

    #[test]
    fn keys_of_a_password() {
        let cases: &[(&[u8], &str)] = &[
            (b"abc", "abc"),
            (b"abx\x7fc", "abc"),
            (b"xy\x15abc", "abc"),
            (b"\x7f\x08a", "a"),
            ("aé\u{8}b".as_bytes(), "ab"),
        ];
        for (typed, want) in cases {
            let mut line = Vec::new();
            for key in *typed {
                edit(&mut line, *key);
            }
            assert_eq!(line, want.as_bytes(), "{typed:?}");
        }
    }
}
