//! A host's settings: /etc/deis/host.yaml, parsed and checked once, at the start of each role.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::store::{EtcdOptions, EtcdTls};

/// Where the settings lie unless a flag says otherwise.
pub const DEFAULT_PATH: &str = "/etc/deis/host.yaml";

/// Why a host's settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file can't be read.
    #[error("can't read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is no valid host.yaml")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong where.
        #[source]
        source: serde_yaml::Error,
    },
    /// Not a local cluster, and no certificates.
    #[error(
        "{path} has no `tls`: outside of a local cluster (`local: true`) control-plane links are \
         mutually authenticated TLS; set tls.ca, tls.cert and tls.key"
    )]
    NoTls {
        /// The file.
        path: String,
    },
    /// The machine has no id.
    #[error("can't read this machine's id from /etc/machine-id")]
    MachineId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    cluster: String,
    #[serde(default)]
    local: bool,
    address: IpAddr,
    etcd: Vec<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default = "cluster_key")]
    cluster_key: PathBuf,
    #[serde(default)]
    tls: Option<RawTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

fn cluster_key() -> PathBuf {
    "/etc/deis/cluster.key".into()
}

/// What a role on a host has to know before it can ask etcd.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// The cluster's name.
    pub cluster: String,
    /// A cluster whose links never leave one machine; any other demands TLS.
    pub local: bool,
    /// This host's address.
    pub address: IpAddr,
    /// How to reach etcd.
    pub etcd: EtcdOptions,
    /// Labels for placement.
    pub metadata: BTreeMap<String, String>,
    /// Where the cluster key lies.
    pub cluster_key: PathBuf,
    /// By what this host proves itself to others; none in a local cluster.
    pub tls: Option<HostTls>,
}

/// Certificates of a host, as PEM.
pub type HostTls = EtcdTls;

impl HostSettings {
    /// Reads and checks a host's settings.
    ///
    /// # Errors
    /// When a file is missing or wrong, or a cluster that is not local has no TLS.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = read(path)?;
        let name = || path.display().to_string();
        let raw: Raw = serde_yaml::from_slice(&text).map_err(|source| SettingsError::Parse {
            path: name(),
            source,
        })?;
        let tls = match raw.tls {
            Some(tls) => Some(EtcdTls {
                ca: read(&tls.ca)?,
                cert: read(&tls.cert)?,
                key: read(&tls.key)?,
            }),
            None if raw.local => None,
            None => return Err(SettingsError::NoTls { path: name() }),
        };
        Ok(Self {
            cluster: raw.cluster,
            local: raw.local,
            address: raw.address,
            etcd: EtcdOptions {
                endpoints: raw.etcd,
                tls: tls.clone(),
            },
            metadata: raw.metadata,
            cluster_key: raw.cluster_key,
            tls,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SettingsError> {
    std::fs::read(path).map_err(|source| SettingsError::File {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<HostSettings, SettingsError> {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("write");
        HostSettings::load(file.path())
    }

    #[test]
    fn a_local_cluster_needs_no_tls_and_any_other_does() {
        let local = "cluster: a\nlocal: true\naddress: 10.0.0.1\netcd: [http://10.0.0.1:2379]\n";
        let settings = load(local).expect("valid");
        assert!(settings.local && settings.etcd.tls.is_none());
        let other = local.replace("local: true", "local: false");
        assert!(matches!(load(&other), Err(SettingsError::NoTls { .. })));
    }

    #[test]
    fn a_typo_is_named() {
        let text = "cluster: a\nlocal: true\nadress: 10.0.0.1\netcd: []\n";
        let error = load(text).expect_err("typo");
        let source = std::error::Error::source(&error)
            .expect("source")
            .to_string();
        assert!(source.contains("adress"), "{source}");
    }
}
