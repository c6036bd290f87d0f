//! What deisctl needs to know of a cluster that `deisctl cluster up` made on this machine.

use std::{fs, path::PathBuf};

use anyhow::Context;
use serde::Deserialize;

use super::failure::{Failure, Kind};
use crate::local::{authority::Certificate, state::STATE_ROOT};

/// The fields of `cluster.yaml` that matter here; the others are the provider's own.
#[derive(Debug, Clone, Deserialize)]
pub struct LocalCluster {
    /// `default`, `test`, ...
    pub name: String,
    /// Its network namespace; none is the machine's own.
    #[serde(default)]
    pub netns: Option<String>,
    /// Client URLs of etcd's members.
    pub etcd: Vec<String>,
    /// Private key for root on each host.
    pub ssh_key: PathBuf,
    /// The hosts' public keys.
    pub known_hosts: PathBuf,
    /// By what the operator proves himself; links are plain where there is nothing.
    #[serde(default)]
    pub tls: Option<Certificate>,
    /// The key of sealed values.
    pub cluster_key: PathBuf,
}

impl LocalCluster {
    fn path(name: &str) -> PathBuf {
        PathBuf::from(STATE_ROOT).join(name).join("cluster.yaml")
    }

    /// Whether there is a cluster of that name.
    #[must_use]
    pub fn exists(name: &str) -> bool {
        Self::path(name).exists()
    }

    /// Reads a cluster.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn load(name: &str) -> anyhow::Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            let message = format!("{name:?} is no name of a local cluster");
            return Err(Failure::new(Kind::Usage, message).into());
        }
        let path = Self::path(name);
        let text =
            fs::read_to_string(&path).with_context(|| {
                Failure::new(Kind::NotFound, format!("there is no local cluster {name:?}")).hint(
                "`make up` makes one; --endpoint or --tunnel lead to a cluster that is not local",
            )
            })?;
        serde_yaml::from_str(&text)
            .with_context(|| format!("{} is no cluster.yaml of this version", path.display()))
    }
}
