//! TLS of port 443, and the platform's own certificate: the operator's, else one that this router
//! signs itself. Users' certificates are in `certs`.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    server::ResolvesServerCert,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{process::Command, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::info;

use crate::{
    cert::{self, CertError},
    model::DomainName,
};

/// openssl has so long to make a certificate.
const OPENSSL: Duration = Duration::from_secs(20);

/// Why there is no HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("can't use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no PEM certificate or key.
    #[error("{path} holds no PEM {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key don't go together.
    #[error("the certificate in {path} can't be used with its key")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertError,
    },
    /// TLS as we want it can't be had.
    #[error("TLS can't be set up")]
    Setup(#[source] rustls::Error),
    /// No certificate could be made.
    #[error(
        "openssl can't make a self-signed certificate: {0}; put one into /etc/deis/router/tls.crt and tls.key"
    )]
    Openssl(String),
}

/// The certificate in `configured` (tls.crt, tls.key), else the self-signed one for the platform's
/// domain in `state`, made if it is not there yet.
///
/// # Errors
/// When neither can be used.
pub async fn platform(
    configured: &Path,
    state: &Path,
    domain: Option<&DomainName>,
) -> Result<CertifiedKey, TlsError> {
    let (certificate, key) = (configured.join("tls.crt"), configured.join("tls.key"));
    if certificate.exists() && key.exists() {
        return load(&certificate, &key);
    }
    let name = domain.map_or("deis", |domain| domain.as_str());
    let (certificate, key) = (
        state.join(format!("self-signed-{name}.crt")),
        state.join(format!("self-signed-{name}.key")),
    );
    // One that can't be read (a crash in the middle of writing) is made again.
    if let Ok(pair) = load(&certificate, &key) {
        return Ok(pair);
    }
    self_signed(name, &certificate, &key, state).await?;
    info!(domain = name, "made a self-signed certificate for port 443");
    load(&certificate, &key)
}

/// TLS as clients are offered it.
pub struct Tls {
    usual: TlsAcceptor,
    only_tls13: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// TLS 1.2 and 1.3, or 1.3 alone, with a certificate for each handshake.
    ///
    /// # Errors
    /// When the crypto library has none of them.
    pub fn new(certificates: &Arc<dyn ResolvesServerCert>) -> Result<Self, TlsError> {
        let acceptor = |versions: &[&'static SupportedProtocolVersion]| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .map_err(TlsError::Setup)?
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(certificates));
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Ok(TlsAcceptor::from(Arc::new(config)))
        };
        Ok(Self {
            usual: acceptor(&[&TLS13, &TLS12])?,
            only_tls13: acceptor(&[&TLS13])?,
        })
    }

    /// What a connection is accepted with.
    #[must_use]
    pub const fn acceptor(&self, only_tls13: bool) -> &TlsAcceptor {
        if only_tls13 {
            &self.only_tls13
        } else {
            &self.usual
        }
    }
}

fn load(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, what, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| match chain.is_empty() {
            true => Err(rustls_pki_types::pem::Error::NoItemsFound),
            false => Ok(chain),
        })
        .map_err(pem(certificate, "certificate"))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(pem(key, "key"))?;
    cert::pair(chain, secret).map_err(|source| TlsError::Pair {
        path: certificate.to_owned(),
        source,
    })
}

/// Asks openssl for a certificate for `name` and `*.name`, good for ten years.
async fn self_signed(
    name: &str,
    certificate: &Path,
    key: &Path,
    state: &Path,
) -> Result<(), TlsError> {
    let file = |source| TlsError::File {
        path: state.to_owned(),
        source,
    };
    // 0700: nobody sees the key while it is written.
    let work = tempfile::tempdir_in(state).map_err(file)?;
    let (new_certificate, new_key) = (work.path().join("crt"), work.path().join("key"));
    let config = work.path().join("cnf");
    std::fs::write(&config, openssl_config(name)).map_err(file)?;
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "3650"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .arg("-config")
        .arg(&config)
        .arg("-keyout")
        .arg(&new_key)
        .arg("-out")
        .arg(&new_certificate)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match timeout(OPENSSL, made).await {
        Err(_) => return Err(TlsError::Openssl("it takes too long".to_owned())),
        Ok(Err(error)) => return Err(TlsError::Openssl(error.to_string())),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(TlsError::Openssl(text));
    }
    // The key first: a certificate without its key would be of no use.
    std::fs::rename(&new_key, key).map_err(file)?;
    std::fs::rename(&new_certificate, certificate).map_err(file)
}

/// The distribution's own settings would make it a CA's certificate, which clients refuse.
fn openssl_config(name: &str) -> String {
    // X.509 allows 64 bytes there; nobody reads it any more.
    let common_name = if name.len() <= 64 { name } else { "deis" };
    format!(
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n\
         [name]\nCN = {common_name}\n\
         [extensions]\nsubjectAltName = DNS:{name}, DNS:*.{name}\n\
         basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
         extendedKeyUsage = serverAuth\n"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_self_signed_certificate_is_made_once_and_the_operators_comes_first() {
        let state = tempfile::tempdir().expect("dir");
        let configured = tempfile::tempdir().expect("dir");
        let domain: DomainName = "example.com".parse().expect("domain");
        let make = || platform(configured.path(), state.path(), Some(&domain));
        make().await.expect("made");
        let path = state.path().join("self-signed-example.com.crt");
        let first = std::fs::read(&path).expect("certificate");
        let key = path.with_extension("key");
        let mode = std::fs::metadata(&key).expect("key").permissions().mode();
        assert_eq!(mode & 0o077, 0, "the key is for nobody else");
        make().await.expect("again");
        assert_eq!(std::fs::read(&path).expect("certificate"), first);

        std::fs::write(configured.path().join("tls.crt"), "no PEM").expect("write");
        std::fs::write(configured.path().join("tls.key"), "no PEM").expect("write");
        let error = make().await.map(|_| ()).expect_err("the operator's is bad");
        assert!(error.to_string().contains("tls.crt"), "{error}");
    }
}
