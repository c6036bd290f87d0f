//! What a unit's processes use, from its cgroup: version 2, or version 1 with a hierarchy for each
//! controller.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Controllers whose names can't begin a cgroup's name before a dot (systemd's cg_escape).
const CONTROLLERS: [&str; 16] = [
    "cgroup",
    "cpu",
    "cpuacct",
    "cpuset",
    "io",
    "blkio",
    "memory",
    "devices",
    "pids",
    "freezer",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

/// What a cgroup has used; none where it can't be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory, inactive page cache left out.
    pub memory_bytes: Option<u64>,
    /// CPU time, in microseconds.
    pub cpu_micros: Option<u64>,
}

/// How this host mounts its cgroups, and where systemd's own is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 2.
    Unified {
        /// systemd's cgroup.
        base: PathBuf,
    },
    /// Version 1.
    Legacy {
        /// systemd's cgroup in the hierarchy of memory.
        memory: PathBuf,
        /// systemd's cgroup in the hierarchy of CPU time.
        cpu: PathBuf,
    },
}

impl Cgroups {
    /// What this host has.
    #[must_use]
    pub fn of_this_host() -> Self {
        let of_systemd = fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
        Self::find(Path::new(ROOT), &of_systemd)
    }

    /// The same for a mount point and the text of systemd's /proc/1/cgroup.
    #[must_use]
    pub fn find(root: &Path, of_systemd: &str) -> Self {
        let base = |controller: &str| {
            let lines = of_systemd.lines().filter_map(|line| {
                let (_, rest) = line.split_once(':')?;
                rest.split_once(':')
            });
            let mut lines =
                lines.filter(|(names, _)| names.split(',').any(|name| name == controller));
            // A path with `..` lies outside of what this mount shows.
            let path = lines.next().map_or("", |(_, path)| path);
            let path = path.strip_suffix("/init.scope").unwrap_or(path);
            let hidden = path.split('/').any(|part| part == "..");
            let below = if hidden { "" } else { path };
            below.trim_matches('/').to_owned()
        };
        if root.join("cgroup.controllers").exists() {
            return Self::Unified {
                base: root.join(base("")),
            };
        }
        let of = |controller: &str| {
            let at = root.join(controller).join(base(controller));
            let own = root.join(controller).join(base("name=systemd"));
            // The namespace may show a whole hierarchy, or systemd's part of it alone.
            if at.join("system.slice").exists() {
                at
            } else {
                own
            }
        };
        Self::Legacy {
            memory: of("memory"),
            cpu: of("cpuacct"),
        }
    }

    /// What a unit uses.
    #[must_use]
    pub fn usage(&self, unit: &str) -> Usage {
        let below = place(unit);
        match self {
            Self::Unified { base } => {
                let dir = base.join(below);
                Usage {
                    memory_bytes: memory(&dir, "memory.current", "inactive_file"),
                    cpu_micros: field(&dir.join("cpu.stat"), "usage_usec"),
                }
            }
            Self::Legacy { memory: m, cpu } => Usage {
                memory_bytes: memory(
                    &m.join(&below),
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                ),
                cpu_micros: number(&cpu.join(&below).join("cpuacct.usage"))
                    .map(|nanos| nanos / 1000),
            },
        }
    }
}

/// Where systemd puts a service, as long as it names no slice: `system.slice/blog_v7.web.1.service`,
/// `system.slice/system-deis\x2drouter.slice/deis-router@1.service`.
fn place(unit: &str) -> PathBuf {
    let mut place = PathBuf::from("system.slice");
    if let Some((template, _)) = unit.split_once('@') {
        let mut slice = String::from("system-");
        for byte in template.bytes() {
            if byte.is_ascii_alphanumeric() || b":_.".contains(&byte) {
                slice.push(char::from(byte));
            } else {
                slice.push_str(&format!("\\x{byte:02x}"));
            }
        }
        place.push(format!("{slice}.slice"));
    }
    let controller = unit
        .split_once('.')
        .is_some_and(|(first, _)| CONTROLLERS.contains(&first));
    let escaped = controller || unit.starts_with(['_', '.']);
    place.push(if escaped {
        format!("_{unit}")
    } else {
        unit.to_owned()
    });
    place
}

fn memory(dir: &Path, all: &str, inactive: &str) -> Option<u64> {
    let used = number(&dir.join(all))?;
    let cache = field(&dir.join("memory.stat"), inactive).unwrap_or_default();
    Some(used.saturating_sub(cache))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn version_two() {
        let dir = tempfile::tempdir().expect("dir");
        let unit = "a/b/system.slice/blog_v7.web.1.service";
        write(dir.path(), "cgroup.controllers", "cpu memory\n");
        write(dir.path(), &format!("{unit}/memory.current"), "1048576\n");
        write(
            dir.path(),
            &format!("{unit}/memory.stat"),
            "inactive_anon 5\ninactive_file 48576\n",
        );
        write(
            dir.path(),
            &format!("{unit}/cpu.stat"),
            "usage_usec 77\nuser_usec 70\n",
        );
        let cgroups = Cgroups::find(dir.path(), "0::/a/b/init.scope\n");
        let used = Usage {
            memory_bytes: Some(1_000_000),
            cpu_micros: Some(77),
        };
        assert_eq!(cgroups.usage("blog_v7.web.1.service"), used);
        assert_eq!(cgroups.usage("blog_v7.web.2.service"), Usage::default());
    }

    #[test]
    fn version_one() {
        let dir = tempfile::tempdir().expect("dir");
        let unit = r"system.slice/system-deis\x2drouter.slice/deis-router@1.service";
        write(
            dir.path(),
            &format!("memory/{unit}/memory.usage_in_bytes"),
            "500\n",
        );
        write(
            dir.path(),
            &format!("memory/{unit}/memory.stat"),
            "inactive_file 1\ntotal_inactive_file 100\n",
        );
        write(
            dir.path(),
            &format!("cpuacct/{unit}/cpuacct.usage"),
            "9000\n",
        );
        let used = Usage {
            memory_bytes: Some(400),
            cpu_micros: Some(9),
        };
        // Whether the host's own part of the hierarchies is shown alone, or all of them.
        let alone = "5:memory:/init.scope\n3:cpu,cpuacct:/init.scope\n1:name=systemd:/init.scope\n";
        assert_eq!(
            Cgroups::find(dir.path(), alone).usage("deis-router@1.service"),
            used
        );
        let outside = "5:memory:/../..\n3:cpuacct:/\n1:name=systemd:/../init.scope\n";
        assert_eq!(
            Cgroups::find(dir.path(), outside).usage("deis-router@1.service"),
            used
        );
    }

    #[test]
    fn places() {
        for (unit, want) in [
            (
                "blog_v7.web.1.service",
                "system.slice/blog_v7.web.1.service",
            ),
            ("memory.service", "system.slice/_memory.service"),
            (
                "memory_v1.web.1.service",
                "system.slice/memory_v1.web.1.service",
            ),
            (
                "deis-logger@2.service",
                r"system.slice/system-deis\x2dlogger.slice/deis-logger@2.service",
            ),
        ] {
            assert_eq!(place(unit), PathBuf::from(want));
        }
    }
}
