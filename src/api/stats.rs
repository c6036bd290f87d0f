//! Live figures of a host and its processes, as `GET /v1/stats` of each agent gives them. Whatever is
//! not known is absent, and whatever a reader does not know is skipped: hosts of different versions
//! ask each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A host's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostStats {
    /// The host itself.
    pub host: HostFigures,
    /// Its processes and units, by name.
    pub processes: BTreeMap<String, ProcessFigures>,
}

/// What a host has and uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFigures {
    /// Since its boot.
    pub uptime_secs: u64,
    /// Processors.
    pub cpus: u32,
    /// Load of the last 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory.
    pub memory_bytes: u64,
    /// Memory that is free, or can be made so.
    pub memory_available_bytes: u64,
    /// File systems that the platform writes to.
    pub disks: Vec<DiskFigures>,
}

/// A file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskFigures {
    /// What of the platform lies there.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// What is left for the platform.
    pub available_bytes: u64,
}

/// A process's figures; what is not known is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessFigures {
    /// Its assignment's uuid.
    pub uuid: Uuid,
    /// Memory, page cache that can be given back left out.
    pub memory_bytes: Option<u64>,
    /// Memory that it may have.
    pub memory_limit_bytes: Option<u64>,
    /// CPU time used since its unit came up.
    pub cpu_micros: Option<u64>,
    /// CPU of late, in thousandths of one processor.
    pub cpu_permille: Option<u32>,
    /// Since when it is up.
    pub uptime_secs: Option<u64>,
    /// Restarts by systemd.
    pub restarts: u32,
    /// How its last run ended.
    pub exit: Option<String>,
}
