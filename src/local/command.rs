//! Running other programs: bounded, with their last words in the error.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::report::detail;

/// A command line for people.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// A command of words.
pub fn command<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Command {
    let (program, args) = words
        .split_first()
        .expect("invariant: a command has a program");
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// A command that ends with this program, and all that it started with it; its mounts too.
pub fn bound<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Command {
    let mut bound = command(&[
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
    ]);
    bound.args(["--fork", "--kill-child", "--mount-proc", "--"]);
    bound.args(words);
    bound
}

/// Runs it and returns its standard output; fails with its standard error.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let said = if said.trim().is_empty() {
            String::from_utf8_lossy(&done.stdout)
        } else {
            said
        };
        bail!(
            "`{}` failed ({}): {}",
            shown(command),
            done.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// [`output`] of words.
pub fn run<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> anyhow::Result<String> {
    output(&mut command(words))
}

/// Whether it succeeds; what it says is dropped.
pub fn succeeds<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> bool {
    command(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs it, shows each line of its output, and repeats the last ones in the error.
pub fn stream(command: &mut Command) -> anyhow::Result<()> {
    let (reader, writer) = std::io::pipe().context("pipe")?;
    let text = shown(command);
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("could not start `{text}`"))?;
    // The command holds the writing ends: let go of them, or the reading never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut last: Vec<String> = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        detail(&line);
        if last.len() == 15 {
            last.remove(0);
        }
        last.push(line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!(
            "`{text}` failed ({status}); it said last:\n{}",
            last.join("\n")
        );
    }
    Ok(())
}

/// Runs it with a limit; `None` when it took longer (it's killed then).
pub fn within(limit: Duration, command: &mut Command) -> anyhow::Result<Option<(bool, String)>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let mut said = String::new();
            if let Some(mut out) = child.stdout.take() {
                out.read_to_string(&mut said)?;
            }
            return Ok(Some((status.success(), said)));
        }
        if begun.elapsed() > limit {
            child.kill().ok();
            child.wait().ok();
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks until it answers `Some`; says what it's waiting for every five seconds.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    let mut spoke = begun;
    loop {
        let why = match ask()? {
            Ok(value) => return Ok(value),
            Err(why) => why,
        };
        if begun.elapsed() > limit {
            bail!("{what}: not within {} s: {why}", limit.as_secs());
        }
        if spoke.elapsed() > Duration::from_secs(5) {
            spoke = Instant::now();
            detail(&format!("waiting for {what}: {why}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
