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

/// Processes that this one has started and that run.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let children = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("children")).ok()?;
        Some(
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>(),
        )
    });
    children.flatten().collect()
}

/// A process and all that it has started, as far as they run.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

/// CPU time of a process and all that it has started, those that have ended and been waited for
/// included.
///
/// # Panics
/// When there is no such process.
pub fn cpu_time_of_tree(pid: u32) -> Duration {
    // One that ends in this moment is counted with its parent the next time.
    let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let ticks = tree(pid)
        .into_iter()
        .filter_map(stat)
        .map(|text| ticks(&text, 4));
    Duration::from_millis(ticks.sum::<u64>() * 1000 / USER_HZ)
}

/// The first of these: user mode, kernel mode, and both of children that were waited for.
fn ticks(stat: &str, fields: usize) -> u64 {
    // The name stands in parentheses, and may hold blanks and parentheses itself.
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    rest.split_whitespace()
        .skip(11)
        .take(fields)
        .map(|field| field.parse::<u64>().expect("a number of ticks"))
        .sum()
}

fn cpu_time_in(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    Duration::from_millis(ticks(&text, 2) * 1000 / USER_HZ)
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
