//! A cluster's authority: it signs the certificate by which each host proves itself to the others, and
//! the operator's. Kept with the cluster's other keys, on the operator's machine only.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::state::write_atomically;
use crate::cert::to_pem;

/// Years that certificates are good for; hosts get new ones with new user-data.
const YEARS: i32 = 10;

/// Somebody's certificate and what goes with it: files, as PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Certificate {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The authority of one cluster.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority whose files are in `dir`, made if there is none.
    ///
    /// # Errors
    /// When its files can't be read or written.
    pub fn ensure(dir: &Path, cluster: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let key = key(&dir.join("ca.key"))?;
        let mut params = params(&format!("deis cluster {cluster}"))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let path = dir.join("ca.pem");
        if !path.exists() {
            let own = params
                .self_signed(&key)
                .context("sign the authority's own certificate")?;
            write_atomically(&path, to_pem("CERTIFICATE", own.der()).as_bytes(), 0o644)?;
        }
        let issuer = Issuer::new(params, key);
        Ok(Self {
            dir: dir.to_owned(),
            issuer,
        })
    }

    /// A certificate for somebody at an address, made if there is none; the operator has no address.
    ///
    /// # Errors
    /// When its files can't be read or written.
    pub fn certificate(
        &self,
        name: &str,
        address: Option<Ipv4Addr>,
    ) -> anyhow::Result<Certificate> {
        let files = Certificate {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        if files.cert.exists() && files.key.exists() {
            return Ok(files);
        }
        let key = key(&files.key)?;
        let mut params = params(name)?;
        // Loopback too: programs on the host itself, and what comes through an SSH tunnel.
        params.subject_alt_names = address
            .into_iter()
            .chain([Ipv4Addr::LOCALHOST])
            .map(|ip| SanType::IpAddress(IpAddr::V4(ip)))
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("sign {name}'s certificate"))?;
        write_atomically(
            &files.cert,
            to_pem("CERTIFICATE", leaf.der()).as_bytes(),
            0o644,
        )?;
        Ok(files)
    }
}

/// What all of them have in common.
fn params(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = jiff::Zoned::now();
    let year = i32::from(now.year());
    // From the day before: hosts' clocks differ.
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + YEARS, 1, 1);
    Ok(params)
}

/// The key in a file, made if there is none.
fn key(path: &Path) -> anyhow::Result<KeyPair> {
    if path.exists() {
        let key = PrivateKeyDer::from_pem_file(path);
        let key = key.with_context(|| format!("{} holds no key", path.display()))?;
        return KeyPair::try_from(&key)
            .with_context(|| format!("use the key in {}", path.display()));
    }
    let key = KeyPair::generate().context("make a key")?;
    write_atomically(
        path,
        to_pem("PRIVATE KEY", &key.serialize_der()).as_bytes(),
        0o600,
    )?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link::Links, settings::HostTls};

    #[test]
    fn certificates_stay_and_make_links() {
        let dir = tempfile::tempdir().expect("dir");
        let read = |files: &Certificate| {
            let read = |path: &PathBuf| fs::read(path).expect("a file");
            HostTls {
                ca: read(&files.ca),
                cert: read(&files.cert),
                key: read(&files.key),
            }
        };
        let make = || {
            let authority = Authority::ensure(dir.path(), "test").expect("an authority");
            let host = authority.certificate("deis-01", Some(Ipv4Addr::new(10, 0, 0, 1)));
            read(&host.expect("a certificate"))
        };
        let (first, again) = (make(), make());
        assert_eq!(
            (first.ca.clone(), first.cert.clone()),
            (again.ca, again.cert)
        );
        assert!(Links::new(Some(&first)).expect("links").is_tls());
        // A host that comes later is signed by the same authority, read from its file.
        let later = Authority::ensure(dir.path(), "test").expect("an authority");
        read(
            &later
                .certificate("deis-02", Some(Ipv4Addr::new(10, 0, 0, 2)))
                .expect("a certificate"),
        );
    }
}
