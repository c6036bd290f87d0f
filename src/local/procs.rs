//! Processes and mounts of this machine, read from /proc.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::command::succeeds;

/// All pids.
pub fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The words of a process's command line.
pub fn cmdline(pid: u32) -> Vec<String> {
    fs::read(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// A process's name.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Whether it runs (a zombie doesn't).
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(") ")
                .map(|(_, rest)| !rest.starts_with(['Z', 'X']))
        })
        .unwrap_or(false)
}

/// Direct children.
pub fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Whether the process is pid 1 of a namespace below ours.
pub fn is_leader(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
        status.lines().any(|line| {
            line.strip_prefix("NSpid:").is_some_and(|pids| {
                let pids: Vec<&str> = pids.split_whitespace().collect();
                pids.len() > 1 && pids.last() == Some(&"1")
            })
        })
    })
}

/// Processes in cgroups below `/deis-local/<cluster>/`, in any hierarchy.
pub fn in_cgroup(below: &str) -> Vec<u32> {
    pids()
        .into_iter()
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.lines().any(|line| line.contains(below)))
        })
        .collect()
}

/// Processes with a word in their command line that starts with `prefix`.
pub fn with_argument(prefix: &str) -> Vec<u32> {
    pids()
        .into_iter()
        .filter(|pid| cmdline(*pid).iter().any(|word| word.starts_with(prefix)))
        .collect()
}

/// Sends a signal; a process that is gone is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Asks a host's systemd to power off: SIGRTMIN+4.
pub fn poweroff(leader: u32) {
    succeeds(&["kill", "-s", "RTMIN+4", &leader.to_string()]);
}

/// Waits until none of them lives; `false` if some still do.
pub fn wait_gone(pids: &[u32], limit: Duration) -> bool {
    let begun = Instant::now();
    loop {
        if !pids.iter().any(|pid| alive(*pid)) {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Mount points at or below a directory, the innermost first.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Unmounts everything at or below a directory.
pub fn unmount_below(dir: &Path) -> anyhow::Result<()> {
    for point in mounts_below(dir) {
        if !succeeds(&["umount", &point]) {
            super::command::run(&["umount", "--lazy", &point])?;
        }
    }
    Ok(())
}

/// mountinfo writes blanks and backslashes as `\ooo`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .and_then(|code| std::str::from_utf8(code).ok());
        match octal.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape(r"/a\040b/c\134d"), r"/a b/c\d");
        assert_eq!(unescape("/plain"), "/plain");
        assert_eq!(unescape(r"/end\"), r"/end\");
    }
}
