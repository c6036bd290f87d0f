//! The fence of a host: stops processes of single types when the host's lease has run out, whatever
//! has become of the agent.
//!
//! The agent writes until when the lease holds into a file each time that it is renewed, and an empty
//! file for each process that the fence is for. An agent that is dead, frozen or cut off from etcd
//! writes no later time; then systemd is told to stop these processes. systemd watches over the fence
//! in turn: one that doesn't turn round is killed and started again, and a lease that has run out
//! meanwhile is the first thing that it sees.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use sd_notify::NotifyState;

use crate::model::ProcessName;

/// Where the agent says until when the lease holds.
pub const LEASE: &str = "/run/deis/lease";
/// Folder of the processes of single types, by their names.
pub const FENCED: &str = "/run/deis/fence";
/// Longest wait between two looks; systemd's patience (`WatchdogSec=`) is three times as long.
const LOOK: Duration = Duration::from_secs(1);
/// Between two orders to stop what ought to be stopped already: something may have been about to start
/// it when it was stopped first.
const AGAIN: Duration = Duration::from_secs(1);

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The file with the lease's end.
    pub lease: PathBuf,
    /// The folder of names.
    pub fenced: PathBuf,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing for so long.
    Wait(Duration),
    /// The lease has run out.
    Stop,
}

/// Decides. No time, no lease.
fn turn(until: Option<Duration>, now: Duration) -> Turn {
    match until.and_then(|until| until.checked_sub(now)) {
        Some(left) if !left.is_zero() => Turn::Wait(left.min(LOOK)),
        Some(_) | None => Turn::Stop,
    }
}

/// Watches for ever.
///
/// # Errors
/// When there is no clock, or systemd can't be told that the fence stands.
pub fn run(options: &Options) -> io::Result<()> {
    uptime()?;
    sd_notify::notify(&[NotifyState::Ready]).map_err(io::Error::other)?;
    let mut stopped = Vec::new();
    loop {
        let (names, wait) = look(options, uptime()?)?;
        if !names.is_empty() {
            if names != stopped {
                eprintln!("the host's lease has run out: stopping {}", names.join(" "));
            }
            stop(&names);
        }
        stopped = names;
        // A lost sign of life costs a restart of the fence and nothing else.
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        thread::sleep(wait);
    }
}

/// What is to be stopped at this moment, and how long to wait until the next look.
pub(crate) fn look(options: &Options, now: Duration) -> io::Result<(Vec<String>, Duration)> {
    Ok(match turn(read_lease(&options.lease), now) {
        Turn::Wait(left) => (Vec::new(), left),
        Turn::Stop => (fenced(&options.fenced)?, AGAIN),
    })
}

/// Tells systemd to stop units; it sees to the rest, with its own bound.
fn stop(names: &[String]) {
    let units = names.iter().map(|name| format!("{name}.service"));
    let told = Command::new("systemctl")
        .args(["stop", "--no-block", "--quiet", "--"])
        .args(units)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // One that runs no more is not loaded, either: not worth a line each second.
        .stderr(Stdio::null())
        .status();
    if let Err(error) = told {
        eprintln!("systemctl can't be run: {error}; trying again");
    }
}

/// The processes that the fence is for. What is no process's name is not ours.
fn fenced(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str()
            && name.parse::<ProcessName>().is_ok()
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The file's text for a lease that holds until then, on the clock of [`uptime`].
#[must_use]
pub fn lease_text(until: Duration) -> String {
    format!("{}\n", until.as_millis())
}

/// Until when the lease holds, on the clock of [`uptime`]; none when nobody has said so.
#[must_use]
pub fn read_lease(path: &Path) -> Option<Duration> {
    let text = fs::read_to_string(path).ok()?;
    text.trim().parse().ok().map(Duration::from_millis)
}

/// Time since the kernel's start, suspended time included: a host that slept finds its lease run out.
///
/// # Errors
/// When the kernel doesn't say.
pub fn uptime() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_ascii_whitespace().next();
    let seconds = seconds.and_then(|text| text.parse().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| io::Error::other(format!("/proc/uptime says {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_holds_until_its_time() {
        let s = Duration::from_secs;
        for (until, now, want) in [
            (None, 5, Turn::Stop),
            (Some(4), 5, Turn::Stop),
            (Some(5), 5, Turn::Stop),
            (Some(9), 5, Turn::Wait(LOOK)),
        ] {
            assert_eq!(turn(until.map(s), s(now)), want, "{until:?} at {now}");
        }
        let left = Duration::from_millis(300);
        assert_eq!(turn(Some(s(5) + left), s(5)), Turn::Wait(left));
    }

    #[test]
    fn what_the_agent_writes_is_read() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("lease");
        assert_eq!(read_lease(&file), None);
        let until = uptime().expect("a clock") + Duration::from_millis(1234);
        fs::write(&file, lease_text(until)).expect("written");
        assert_eq!(
            read_lease(&file).map(|read| read.as_millis()),
            Some(until.as_millis())
        );
        fs::write(&file, "soon").expect("written");
        assert_eq!(read_lease(&file), None);
        assert_eq!(
            fenced(&dir.path().join("none")).expect("none"),
            [] as [&str; 0]
        );
        for name in ["blog_v7.web.1", "lease.new", "-x"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        assert_eq!(fenced(dir.path()).expect("read"), ["blog_v7.web.1"]);
    }
}
