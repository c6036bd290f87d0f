//! What a process costs, as the kernel counts it.

use std::{fs, time::Duration};

/// Ticks of a second in /proc: part of Linux's interface to programs, whatever the kernel's own HZ.
const USER_HZ: u64 = 100;

/// CPU time that a process has used so far, in user and kernel mode.
///
/// # Panics
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Duration {
    cpu_time_in(&format!("/proc/{pid}/stat"))
}

/// The same of a thread of this process.
///
/// # Panics
/// When there is no such thread.
pub fn thread_cpu_time(thread: u32) -> Duration {
    cpu_time_in(&format!("/proc/self/task/{thread}/stat"))
}

fn cpu_time_in(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    // The name stands in parentheses, and may hold blanks and parentheses itself.
    let (_, rest) = text.rsplit_once(')').expect("a name in parentheses");
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number of ticks"))
        .sum();
    Duration::from_millis(ticks * 1000 / USER_HZ)
}

/// Memory that only this process has, and all that it has in RAM; in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Private, clean and dirty.
    pub private: u64,
    /// Resident, shared pages included.
    pub resident: u64,
    /// Resident, and no file's.
    pub anonymous: u64,
}

/// What a process holds.
///
/// # Panics
/// When there is no such process.
pub fn memory(pid: u32) -> Memory {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let sum = |names: &[&str]| -> u64 {
        text.lines()
            .filter_map(|line| {
                let (name, rest) = line.split_once(':')?;
                let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
                names.contains(&name).then_some(kib << 10)
            })
            .sum()
    };
    Memory {
        private: sum(&["Private_Clean", "Private_Dirty"]),
        resident: sum(&["Rss"]),
        anonymous: sum(&["Anonymous"]),
    }
}
