use std::net::IpAddr;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::cert;

const LIMIT: Duration = Duration::from_secs(5);

/// An authority that makes hosts' certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect("certificate");
        let pem = cert::to_pem("CERTIFICATE", authority.der());
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn host(&self, address: &str) -> HostTls {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![]).expect("params");
        let ip: IpAddr = address.parse().expect("address");
        params.subject_alt_names = vec![SanType::IpAddress(ip)];
        let leaf = params.signed_by(&key, &self.issuer).expect("certificate");
        HostTls {
            ca: self.pem.clone().into_bytes(),
            cert: cert::to_pem("CERTIFICATE", leaf.der()).into_bytes(),
            key: cert::to_pem("PRIVATE KEY", &key.serialize_der()).into_bytes(),
        }
    }

    fn links(&self, address: &str) -> Links {
        Links::new(Some(&self.host(address))).expect("links")
    }
}

/// A port that answers every caller that it lets in with what it got; where it is.
async fn echo(links: &Links) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let mut listener = links.listen(listener);
    tokio::spawn(async move {
        loop {
            let (mut link, _) = listener.accept().await.expect("accept");
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(&mut link);
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

/// Whether something comes back from there.
async fn passes(links: &Links, address: SocketAddr) -> io::Result<()> {
    let mut link = links.connect(address, LIMIT).await?;
    link.write_all(b"hello").await?;
    link.shutdown().await?;
    let mut back = Vec::new();
    timeout(LIMIT, link.read_to_end(&mut back)).await??;
    match back == b"hello" {
        true => Ok(()),
        false => Err(io::Error::other(format!("{back:?} came back"))),
    }
}

#[tokio::test]
async fn hosts_of_one_cluster_link_and_nobody_else_does() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let plain = Links::default();
    let here = ours.links("127.0.0.1");
    let at = echo(&here).await;
    let cases = [
        ("another host of the cluster", ours.links("10.0.0.7"), true),
        ("a host of another cluster", theirs.links("10.0.0.7"), false),
        ("somebody without a certificate", plain.clone(), false),
    ];
    for (who, links, welcome) in cases {
        let passed = passes(&links, at).await;
        assert_eq!(passed.is_ok(), welcome, "{who}: {passed:?}");
    }
    // Nor do we speak with whoever answers at an address: it has to be the host with that address.
    let impostor = echo(&ours.links("10.0.0.9")).await;
    passes(&here, impostor)
        .await
        .expect_err("its certificate is for another address");
    let open = echo(&plain).await;
    passes(&here, open).await.expect_err("it speaks no TLS");
    passes(&plain, open)
        .await
        .expect("a local cluster needs no certificates");
}

#[tokio::test]
async fn programs_that_know_no_certificates_reach_each_other_through_links() {
    let ours = Authority::new();
    // A program on loopback, put behind the links of its host; another one, elsewhere, that wants it.
    let program = echo(&Links::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address");
    let behind = ours.links("127.0.0.1").listen(listener);
    tokio::spawn(pass_on(behind, program));
    let here = ours.links("10.0.0.7").tunnel(port).expect("a tunnel");
    passes(&Links::default(), here)
        .await
        .expect("in clear, and back");
    passes(&Links::default(), port)
        .await
        .expect_err("but not past the links");
}

#[tokio::test]
async fn callers_that_say_nothing_hold_nobody_up() {
    let ours = Authority::new();
    let at = echo(&ours.links("127.0.0.1")).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(at).await.expect("connected"));
    }
    passes(&ours.links("10.0.0.7"), at)
        .await
        .expect("served beside them");
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let ours = Authority::new();
    let good = ours.host("127.0.0.1");
    let cases = [
        (
            HostTls {
                ca: b"x".to_vec(),
                ..good.clone()
            },
            "authority",
        ),
        (
            HostTls {
                cert: b"x".to_vec(),
                ..good.clone()
            },
            "together",
        ),
        (
            HostTls {
                key: b"x".to_vec(),
                ..good.clone()
            },
            "key (tls.key)",
        ),
        (
            HostTls {
                key: ours.host("127.0.0.1").key,
                ..good.clone()
            },
            "together",
        ),
    ];
    for (files, word) in cases {
        let error = Links::new(Some(&files)).expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    }
}
