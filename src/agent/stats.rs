//! Live figures of a host and its processes: what `GET /v1/stats` of each agent answers, and how
//! controllers and operators ask all hosts at once. They are never written into etcd.
//!
//! CPU is given twice: all that a process has used since its unit came up, and its share since the
//! last time somebody asked (a quarter of a second when nobody did within a minute).

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time::{self, Instant},
};
use tracing::debug;
use uuid::Uuid;

use super::{
    cgroup::{Cgroups, Usage},
    steps::unit_of,
};
use crate::{
    api::stats::{DiskFigures, HostFigures, HostStats, ProcessFigures},
    inner_http,
    link::links,
    outside,
};

/// Where agents answer, on their host's address.
pub const PORT: u16 = 9091;
/// The path of the figures.
pub const PATH: &str = "/v1/stats";
/// How long all hosts together may take to answer.
pub const LIMIT: Duration = Duration::from_secs(1);

/// A measurement of CPU is no shorter than this.
const SHORTEST: Duration = Duration::from_millis(250);
/// An earlier sample that is older says nothing about now.
const OLDEST: Duration = Duration::from_secs(60);
/// Longest answer that is read.
const ANSWER_MAX: usize = 4 << 20;

/// What the agent knows of a process without looking at cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vital {
    /// The assignment's name.
    pub name: String,
    /// The assignment's uuid.
    pub uuid: Uuid,
    /// Since when it is up, in microseconds since the boot; none: it is not.
    pub up_since: Option<u64>,
    /// Memory that it may have.
    pub memory_limit_bytes: Option<u64>,
    /// Restarts by systemd.
    pub restarts: u32,
    /// How its last run ended.
    pub exit: Option<String>,
}

/// Takes samples, and remembers the last one for the share of CPU.
#[derive(Debug)]
pub struct Sampler {
    cgroups: Cgroups,
    last: Mutex<Option<Last>>,
}

/// What was told last.
#[derive(Debug)]
struct Last {
    sample: Sample,
    stats: HostStats,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    usages: HashMap<Uuid, Usage>,
}

impl Sampler {
    /// Nothing is sampled yet.
    #[must_use]
    pub fn new(cgroups: Cgroups) -> Self {
        Self {
            cgroups,
            last: Mutex::new(None),
        }
    }

    /// The figures of this host and these processes. However many ask at once, it costs what one does:
    /// an answer is good for a quarter of a second.
    pub async fn read(&self, vitals: Vec<Vital>, disks: &'static [&'static str]) -> HostStats {
        let mut last = self.last.lock().await;
        if let Some(fresh) = last.as_ref().filter(|l| l.sample.at.elapsed() < SHORTEST) {
            return fresh.stats.clone();
        }
        let before = match last.take() {
            Some(last) if last.sample.at.elapsed() < OLDEST => last.sample,
            _ => self.sample(&vitals).await,
        };
        time::sleep_until(before.at + SHORTEST).await;
        let now = self.sample(&vitals).await;
        let stats = tell(vitals, &before, &now, disks);
        *last = Some(Last {
            sample: now,
            stats: stats.clone(),
        });
        stats
    }

    async fn sample(&self, vitals: &[Vital]) -> Sample {
        let cgroups = self.cgroups.clone();
        let units: Vec<(Uuid, String)> = vitals
            .iter()
            .map(|vital| (vital.uuid, unit_of(&vital.name)))
            .collect();
        // Hundreds of small files: not on a thread that others wait for.
        let read = outside::blocking(move || {
            let usages = units
                .iter()
                .map(|(uuid, unit)| (*uuid, cgroups.usage(unit)));
            usages.collect()
        });
        Sample {
            usages: read.await.unwrap_or_default(),
            at: Instant::now(),
        }
    }
}

fn tell(vitals: Vec<Vital>, before: &Sample, now: &Sample, disks: &[&str]) -> HostStats {
    let boot_micros = boot_micros();
    let wall = now.at.duration_since(before.at);
    let figures = |vital: Vital| {
        let usage = now.usages.get(&vital.uuid).copied().unwrap_or_default();
        let up = vital.up_since.filter(|since| *since > 0);
        let age = up.map(|since| Duration::from_micros(boot_micros.saturating_sub(since)));
        // What came up since the last look is judged from its start on.
        let earlier = match before.usages.get(&vital.uuid) {
            Some(usage) => usage.cpu_micros.map(|micros| (micros, wall)),
            None => age.map(|age| (0, age)),
        };
        let share = earlier
            .zip(usage.cpu_micros)
            .and_then(|((earlier, over), now)| share(earlier, now, over));
        let figures = ProcessFigures {
            uuid: vital.uuid,
            memory_bytes: usage.memory_bytes,
            memory_limit_bytes: vital.memory_limit_bytes,
            cpu_micros: usage.cpu_micros,
            cpu_permille: share,
            uptime_secs: age.map(|age| age.as_secs()),
            restarts: vital.restarts,
            exit: vital.exit,
        };
        (vital.name, figures)
    };
    HostStats {
        host: host_figures(disks),
        processes: vitals.into_iter().map(figures).collect(),
    }
}

/// Thousandths of a processor; none when the count began anew meanwhile (a restart).
fn share(before: u64, now: u64, wall: Duration) -> Option<u32> {
    let micros = u64::try_from(wall.as_micros()).ok().filter(|m| *m > 0)?;
    let used = now.checked_sub(before)?;
    u32::try_from(used.saturating_mul(1000) / micros).ok()
}

/// What one host has to say, as far as it can be read.
#[must_use]
pub fn host_figures(disks: &[&str]) -> HostFigures {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let field = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib << 10)
    };
    let mut load = [0.0; 3];
    for (slot, word) in load.iter_mut().zip(read("/proc/loadavg").split(' ')) {
        *slot = word.parse().unwrap_or_default();
    }
    HostFigures {
        uptime_secs: boot_micros() / 1_000_000,
        cpus: super::machine::cpus(),
        load,
        memory_bytes: field("MemTotal:").unwrap_or_default(),
        memory_available_bytes: field("MemAvailable:").unwrap_or_default(),
        disks: disks.iter().filter_map(|path| disk(path).ok()).collect(),
    }
}

/// Size and room of the file system of a path.
///
/// # Errors
/// When it can't be asked.
pub fn disk(path: &str) -> io::Result<DiskFigures> {
    let found = rustix::fs::statvfs(path)?;
    Ok(DiskFigures {
        path: path.to_owned(),
        bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// Microseconds since the boot. (systemd's clock stands still while a machine is suspended, and this
/// does not: servers are not.)
#[must_use]
pub fn boot_micros() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let secs: Option<f64> = text.split(' ').next().and_then(|word| word.parse().ok());
    secs.map_or(0, |secs| (secs * 1e6) as u64)
}

/// Where to ask an agent.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Its own address, which its certificate is for.
    pub agent: SocketAddr,
    /// Where to connect to: the same, or the near end of a tunnel.
    pub via: SocketAddr,
}

impl Way {
    /// Straight to the agent of a host; none when its address is none.
    #[must_use]
    pub fn straight(host: &str) -> Option<Self> {
        let ip: IpAddr = host.parse().ok()?;
        let agent = SocketAddr::new(ip, PORT);
        Some(Self { agent, via: agent })
    }
}

/// Asks agents, all at once. Those that have not answered by `limit` are left out.
pub async fn ask_all<K: Ord + Send + 'static>(
    hosts: impl IntoIterator<Item = (K, Way)>,
    limit: Duration,
) -> BTreeMap<K, HostStats> {
    let mut asking = JoinSet::new();
    for (host, way) in hosts {
        asking.spawn(async move { (host, ask(way).await) });
    }
    let deadline = Instant::now() + limit;
    let mut answers = BTreeMap::new();
    while let Ok(Some(answer)) = time::timeout_at(deadline, asking.join_next()).await {
        match answer {
            Ok((host, Ok(stats))) => drop(answers.insert(host, stats)),
            Ok((_, Err(error))) => debug!(%error, "an agent did not give its figures"),
            Err(_) => {}
        }
    }
    answers
}

async fn ask(way: Way) -> io::Result<HostStats> {
    let stream = TcpStream::connect(way.via).await?;
    let link = links().secure(stream, way.agent).await?;
    let body = inner_http::get(link, way.agent, PATH, ANSWER_MAX).await?;
    Ok(serde_json::from_slice(&body)?)
}
