//! `cluster.yaml`: what a local cluster is and where its things are. The contract with tests and
//! with the rest of deisctl.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::authority::Certificate;

/// Where all local clusters live.
pub const STATE_ROOT: &str = "/var/lib/deis-local";
/// Root file systems and images that are made once.
pub const CACHE_ROOT: &str = "/var/cache/deis-local";

/// A local cluster, as `cluster.yaml` holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cluster {
    /// `default`, `test`, ...
    pub name: String,
    /// Its network namespace; `null` is the machine's own.
    pub netns: Option<String>,
    /// The platform's domain.
    pub domain: String,
    /// The bridge's subnet.
    pub subnet: String,
    /// The machine's (or the namespace's) address in it.
    pub gateway: Ipv4Addr,
    /// The hosts, `deis-01` first.
    pub hosts: Vec<Host>,
    /// Client URLs of the etcd members.
    pub etcd: Vec<String>,
    /// Private key for `root@` and `core@` each host.
    pub ssh_key: PathBuf,
    /// The hosts' public keys.
    pub known_hosts: PathBuf,
    /// The AEAD key of the cluster's config values.
    pub cluster_key: PathBuf,
    /// By what the operator proves himself to etcd and hosts; links are plain where there is none.
    #[serde(default)]
    pub tls: Option<Certificate>,
    /// The root file system that the hosts were made from.
    pub rootfs: PathBuf,
    /// The stack's image store, shared by the hosts.
    pub image_store: PathBuf,
    /// The entry point's process.
    #[serde(default)]
    pub forward_pid: Option<u32>,
    /// Programs, units and templates that agents and platform run: each file's digest.
    #[serde(default)]
    pub runs: BTreeMap<String, String>,
    /// How far `up` came.
    pub reached: Reached,
}

/// How far `up` came; each step once finished is not done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reached {
    /// The hosts were never all up.
    Nothing,
    /// Hosts, etcd and agents are up.
    Hosts,
    /// The platform runs.
    Platform,
    /// The example app answered.
    Demo,
}

/// One host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// `deis-01`.
    pub name: String,
    /// In the bridge's subnet.
    pub address: Ipv4Addr,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Pid of the host's systemd, seen from the machine.
    #[serde(default)]
    pub leader_pid: Option<u32>,
    /// Pid of its systemd-nspawn.
    #[serde(default)]
    pub nspawn_pid: Option<u32>,
    /// Whether the host is a member of etcd.
    pub etcd_member: bool,
}

/// Paths of one cluster.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The cluster's name.
    pub name: String,
    /// `/var/lib/deis-local/<name>`.
    pub dir: PathBuf,
}

impl Paths {
    /// Paths of the cluster `name`, which must be short and plain: it names a bridge.
    pub fn new(name: &str) -> anyhow::Result<Paths> {
        let plain = name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if name.is_empty() || name.len() > 9 || !plain || name.starts_with('-') {
            bail!(
                "a cluster's name is 1 to 9 of a-z, 0-9 and '-', not starting with '-': {name:?} is not"
            );
        }
        Ok(Paths {
            name: name.to_owned(),
            dir: Path::new(STATE_ROOT).join(name),
        })
    }

    /// `cluster.yaml`.
    pub fn cluster_yaml(&self) -> PathBuf {
        self.dir.join("cluster.yaml")
    }

    /// SSH keys; outlives `down`.
    pub fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// The staged /opt/deis of the hosts.
    pub fn opt(&self) -> PathBuf {
        self.dir.join("opt")
    }

    /// The directory of all hosts.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// One host's directory.
    pub fn host(&self, host: &str) -> PathBuf {
        self.hosts().join(host)
    }

    /// Facts that names alone don't tell (see [`Paths::note`]).
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// Writes down what is about to be made, before it is made.
    pub fn note(&self, line: &str) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.journal();
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)?;
        writeln!(file, "{line}").with_context(|| format!("write {}", path.display()))
    }

    /// The noted lines of a kind, without the kind.
    pub fn noted(&self, kind: &str) -> Vec<String> {
        fs::read_to_string(self.journal())
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))
            .map(str::to_owned)
            .collect()
    }
}

impl Cluster {
    /// The hosts that are members of etcd.
    pub fn members(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.etcd_member)
    }

    /// `http` or `https`: how etcd is spoken to.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Reads the cluster, `None` if there is none.
    pub fn load(paths: &Paths) -> anyhow::Result<Option<Cluster>> {
        let path = paths.cluster_yaml();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let cluster = serde_yaml::from_str(&text)
            .with_context(|| format!("{} is no cluster.yaml of this version", path.display()))?;
        Ok(Some(cluster))
    }

    /// Reads the cluster or says how to get one.
    pub fn expect(paths: &Paths) -> anyhow::Result<Cluster> {
        Cluster::load(paths)?.with_context(|| {
            format!(
                "there is no local cluster {:?}: `make up` makes one",
                paths.name
            )
        })
    }

    /// Writes the cluster, atomically.
    pub fn save(&self, paths: &Paths) -> anyhow::Result<()> {
        let text = serde_yaml::to_string(self).context("cluster.yaml")?;
        write_atomically(&paths.cluster_yaml(), text.as_bytes(), 0o644)
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .with_context(|| {
                let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
                format!("no host {name:?}; there are {}", names.join(", "))
            })
    }
}

/// Writes a file by way of a temporary one beside it.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let parent = path.parent().context("a file has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = PathBuf::from(tmp);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .open(&tmp)
        .with_context(|| format!("write {}", tmp.display()))?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&tmp, path).with_context(|| format!("write {}", path.display()))
}
