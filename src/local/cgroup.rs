//! One cgroup per host: in each hierarchy of cgroup v1, or in the one of v2.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

const ROOT: &str = "/sys/fs/cgroup";
/// Our place below each hierarchy's root.
pub const TOP: &str = "deis-local";

/// How the machine mounts its cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy for all.
    Unified,
    /// A hierarchy per controller; the names of the mounted ones.
    Legacy(Vec<String>),
}

impl Layout {
    /// What this machine has.
    pub fn of_this_machine() -> anyhow::Result<Layout> {
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            return Ok(Layout::Unified);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(ROOT).with_context(|| format!("read {ROOT}"))? {
            let entry = entry?;
            let is_link = entry.file_type()?.is_symlink(); // cpu -> cpu,cpuacct
            if !is_link && entry.path().join("cgroup.procs").exists() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(Layout::Legacy(names))
    }

    /// The host's cgroup in each hierarchy.
    pub fn dirs(&self, cluster: &str, host: &str) -> Vec<PathBuf> {
        let below = Path::new(TOP).join(cluster).join(host);
        match self {
            Layout::Unified => vec![Path::new(ROOT).join(below)],
            Layout::Legacy(names) => names
                .iter()
                .map(|name| Path::new(ROOT).join(name).join(&below))
                .collect(),
        }
    }

    /// Makes a host's cgroups and returns the files that take pids.
    pub fn create(&self, cluster: &str, host: &str) -> anyhow::Result<Vec<PathBuf>> {
        let below = [TOP, cluster, host];
        let hierarchies: Vec<PathBuf> = match self {
            Layout::Unified => vec![PathBuf::from(ROOT)],
            Layout::Legacy(names) => names
                .iter()
                .map(|name| Path::new(ROOT).join(name))
                .collect(),
        };
        for hierarchy in hierarchies {
            let mut dir = hierarchy;
            for part in below {
                let parent = dir.clone();
                dir.push(part);
                if *self == Layout::Unified {
                    delegate(&parent);
                }
                fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    copy_down(&parent.join(file), &dir.join(file));
                }
            }
        }
        Ok(self
            .dirs(cluster, host)
            .iter()
            .map(|dir| dir.join("cgroup.procs"))
            .collect())
    }

    /// Controllers that a host must remount to be writable.
    pub fn remounts(&self) -> Vec<&str> {
        match self {
            Layout::Unified => Vec::new(),
            Layout::Legacy(names) => names
                .iter()
                .map(String::as_str)
                .filter(|name| *name != "systemd" && *name != "unified")
                .collect(),
        }
    }
}

/// v2: children may use every controller that there is.
fn delegate(parent: &Path) {
    let controllers = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One at a time: one that the machine keeps for itself must not take the others along.
        let _ = fs::write(
            parent.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// v1: a new cpuset is empty, and takes no process until it isn't.
fn copy_down(from: &Path, to: &Path) {
    let (Ok(value), Ok(now)) = (fs::read_to_string(from), fs::read_to_string(to)) else {
        return;
    };
    if now.trim().is_empty() {
        let _ = fs::write(to, value.trim());
    }
}

/// Removes the cgroups of a cluster (or of one host) with everything below.
pub fn remove(cluster: &str, host: Option<&str>) {
    let below = match host {
        Some(host) => Path::new(TOP).join(cluster).join(host),
        None => Path::new(TOP).join(cluster),
    };
    let mut roots = vec![PathBuf::from(ROOT)];
    if let Ok(entries) = fs::read_dir(ROOT) {
        roots.extend(entries.flatten().map(|entry| entry.path()));
    }
    for root in roots {
        remove_dirs(&root.join(&below));
        let _ = fs::remove_dir(root.join(TOP)); // stays while another cluster is in it
    }
}

fn remove_dirs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_dirs(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// What is left of a cluster.
pub fn leftovers(cluster: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from(ROOT)];
    if let Ok(entries) = fs::read_dir(ROOT) {
        roots.extend(entries.flatten().map(|entry| entry.path()));
    }
    roots
        .into_iter()
        .map(|root| root.join(TOP).join(cluster))
        .filter(|dir| dir.exists())
        .collect()
}
