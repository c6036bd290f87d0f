//! HTTPS: real handshakes, and certificates that come and go while the router runs.

use jiff::Timestamp;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    cert::tests::{Authority, Files, self_signed},
    model::{Certificate, Route},
    seal::cert_context,
};

/// Takes every certificate: the test looks at it itself.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, known)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, known)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A client that takes every certificate.
fn careless(version: &'static SupportedProtocolVersion) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider())))
        .with_no_client_auth()
}

/// A client that trusts one authority, as a browser would.
fn careful(authority: &Authority, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority.pem)).expect("root");
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("certificate")
}

fn record(name: &str, names: &[&str], files: &Files) -> Certificate {
    let name: crate::model::DomainName = name.parse().expect("name");
    Certificate {
        schema: SCHEMA,
        key: key().seal(&cert_context(&name), files.key.as_bytes()),
        name,
        names: names.iter().map(|n| n.parse().expect("name")).collect(),
        owner: "ada".parse().expect("user"),
        chain: files.certificate.clone(),
        expires: Timestamp::MAX,
        created: Timestamp::UNIX_EPOCH,
        auto: false,
    }
}

impl Cluster {
    async fn handshake(
        &self,
        host: &str,
        mut config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let address = self.router.https.expect("HTTPS");
        let stream = TcpStream::connect(address).await.expect("connect");
        // An address instead of a name is sent as no name at all.
        config.enable_sni = host.parse::<IpAddr>().is_err();
        let name = ServerName::try_from(host.to_owned()).expect("name");
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        timeout(PATIENCE, connecting)
            .await
            .expect("handshake in time")
    }

    /// The certificate that a client is shown.
    async fn shown(&self, host: &str) -> CertificateDer<'static> {
        let stream = self.handshake(host, careless(&TLS13)).await;
        let stream = stream.expect("handshake");
        let chain = stream.get_ref().1.peer_certificates().expect("chain");
        chain[0].clone().into_owned()
    }

    /// Waits until a client is shown this certificate: no longer than a second.
    async fn shows(&self, host: &str, want: &CertificateDer<'static>) {
        let seen = async {
            while self.shown(host).await != *want {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = timeout(Duration::from_secs(1), seen).await;
        seen.unwrap_or_else(|_| panic!("{host} is not shown that certificate within a second"));
    }

    async fn put_cert(&self, record: &Certificate) {
        self.put(&keys::cert(&record.name), record).await;
    }

    async fn metric(&self, name: &str) -> String {
        let mut stream = TcpStream::connect(self.router.health)
            .await
            .expect("connect");
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        let mut lines = answer.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("deis_router_{name} ")));
        line.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

#[tokio::test]
async fn certificates_are_served_by_name_as_soon_as_they_are_there() {
    let cluster = Cluster::start().await;
    let platform = cluster.shown("blog.localhost").await;
    let root = Authority::new("Root");
    let exact = root.sign(&["www.example.com"]);
    let wide = root.sign(&["*.example.com", "example.com"]);
    cluster
        .put_cert(&record("www.example.com", &["www.example.com"], &exact))
        .await;
    cluster
        .put_cert(&record(
            "example.com",
            &["*.example.com", "example.com"],
            &wide,
        ))
        .await;
    cluster
        .shows("www.example.com", &der(&exact.certificate))
        .await;
    let wide = der(&wide.certificate);
    cluster.shows("shop.example.com", &wide).await;
    for (host, want) in [
        ("WWW.Example.com", &der(&exact.certificate)),
        ("example.com", &wide),
        ("a.shop.example.com", &platform),
        ("example.org", &platform),
        ("blog.localhost", &platform),
        ("127.0.0.1", &platform),
    ] {
        assert_eq!(cluster.shown(host).await, *want, "{host}");
    }
    assert_eq!(cluster.metric("certificates").await, "2");

    // A renewed one takes over; one that goes leaves its names to the wildcard, then the platform's.
    let renewed = root.sign(&["www.example.com"]);
    cluster
        .put_cert(&record("www.example.com", &["www.example.com"], &renewed))
        .await;
    cluster
        .shows("www.example.com", &der(&renewed.certificate))
        .await;
    let remove = async |name: &str| {
        let txn = Txn::new().delete(&keys::cert(&name.parse().expect("name")));
        cluster.store.commit(txn).await.expect("removed");
    };
    remove("www.example.com").await;
    cluster.shows("www.example.com", &wide).await;
    remove("example.com").await;
    cluster.shows("www.example.com", &platform).await;
    assert_eq!(cluster.metric("certificates").await, "0");
}

#[tokio::test]
async fn a_whole_chain_is_sent_and_requests_pass_in_both_versions_of_tls() {
    let cluster = Cluster::start().await;
    let (blog, _) = backend(|head| ok(&head.to_lowercase())).await;
    cluster.publish("blog_v1.web.1", blog).await;
    let root = Authority::new("Root");
    let middle = root.below("Middle");
    let leaf = middle.sign(&["blog.example.com"]);
    let files = Files {
        certificate: format!("{}{}", leaf.certificate, middle.pem),
        key: leaf.key,
    };
    cluster
        .put_cert(&record("blog.example.com", &["blog.example.com"], &files))
        .await;
    cluster
        .shows("blog.example.com", &der(&files.certificate))
        .await;
    for version in [&TLS12, &TLS13] {
        let mut config = careful(&root, version);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut stream = cluster
            .handshake("blog.example.com", config)
            .await
            .expect("trusted");
        stream
            .write_all(get("blog.example.com").as_bytes())
            .await
            .expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("x-forwarded-proto: https"), "{answer}");
        // The same client doesn't take it for another name.
        let other = cluster
            .handshake("localhost", careful(&root, version))
            .await;
        assert!(other.is_err());
    }
}

#[tokio::test]
async fn a_bad_certificate_harms_its_own_name_only() {
    let cluster = Cluster::start().await;
    let platform = cluster.shown("good.example").await;
    let put = async |name: &str, change: &dyn Fn(&mut Certificate)| {
        let mut record = record(name, &[name], &self_signed(&[name]));
        change(&mut record);
        cluster.put_cert(&record).await;
        der(&record.chain)
    };
    let good = put("good.example", &|_| {}).await;
    let turns = put("turns.example", &|_| {}).await;
    cluster.shows("turns.example", &turns).await;

    // Sealed for another name, or under another cluster's key; of another pair; no PEM; no record.
    put("moved.example", &|record| {
        record.key = key().seal("cert/good.example", self_signed(&["x.y"]).key.as_bytes());
    })
    .await;
    put("foreign.example", &|record| {
        let other = ClusterKey::parse(&STANDARD.encode([8; 32])).expect("key");
        record.key = other.seal("cert/foreign.example", self_signed(&["x.y"]).key.as_bytes());
    })
    .await;
    put("mixed.example", &|record| {
        let context = cert_context(&record.name);
        record.key = key().seal(&context, self_signed(&["x.y"]).key.as_bytes());
    })
    .await;
    cluster
        .put(
            &keys::cert(&"broken.example".parse().expect("name")),
            &record(
                "other.example",
                &["good.example"],
                &self_signed(&["good.example"]),
            ),
        )
        .await;
    let turned = Certificate {
        chain: "-----BEGIN CERTIFICATE-----".into(),
        ..record(
            "turns.example",
            &["turns.example"],
            &self_signed(&["turns.example"]),
        )
    };
    cluster.put_cert(&turned).await;
    let late = put("late.example", &|_| {}).await;

    // The last one is there, so all before it have been seen.
    cluster.shows("late.example", &late).await;
    for host in ["moved", "foreign", "mixed", "broken", "turns"] {
        let host = format!("{host}.example");
        assert_eq!(cluster.shown(&host).await, platform, "{host}");
    }
    assert_eq!(cluster.shown("good.example").await, good);
    assert_eq!(cluster.metric("certificates").await, "2");
    assert_eq!(cluster.metric("certificates_left_out").await, "5");
    // And the routes go on changing.
    let (blog, _) = backend(|_| ok("blog")).await;
    cluster.publish("blog_v1.web.1", blog).await;
    assert!(cluster.get("blog.localhost").await.ends_with("blog"));
}

#[tokio::test]
async fn a_start_without_etcd_serves_the_saved_certificates() {
    let mut cluster = Cluster::start().await;
    let files = self_signed(&["www.example.com"]);
    let record = record("www.example.com", &["www.example.com"], &files);
    cluster.put_cert(&record).await;
    let saved = async {
        loop {
            let records = saved::load(cluster.state.path()).unwrap_or_default();
            if records
                .iter()
                .any(|r| r.key == "/deis/certs/www.example.com")
            {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, saved).await.expect("saved");
    let text = std::fs::read_to_string(cluster.state.path().join(saved::FILE)).expect("table");
    assert!(
        text.contains(&record.key.0) && !text.contains("PRIVATE KEY"),
        "sealed on disk"
    );

    cluster.memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    cluster.memory.break_watches();
    let former = cluster.router;
    cluster.router = start(options(cluster.state.path()), cluster.store.clone(), key())
        .await
        .expect("start");
    assert_eq!(
        cluster.shown("www.example.com").await,
        der(&files.certificate)
    );
    former.stop().await;

    // What has changed meanwhile is caught up with, also what is gone.
    cluster.memory.set_faults(Faults::default());
    let txn = Txn::new().delete(&keys::cert(&record.name));
    cluster.store.commit(txn).await.expect("removed");
    let gone = async {
        while cluster.shown("www.example.com").await == der(&files.certificate) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("caught up");
}

/// The operator's own certificate can't be used: names with one of their own are served all the same.
#[tokio::test]
async fn a_broken_platform_certificate_leaves_users_theirs() {
    let (memory, state) = (MemoryStore::new(), tempfile::tempdir().expect("dir"));
    for file in ["tls.crt", "tls.key"] {
        std::fs::write(state.path().join(file), "no PEM").expect("write");
    }
    let store = Store::from_memory(&memory);
    let router = start(options(state.path()), store.clone(), key())
        .await
        .expect("router");
    let cluster = Cluster {
        memory,
        store,
        router,
        state,
    };
    let files = self_signed(&["www.example.com"]);
    let record = record("www.example.com", &["www.example.com"], &files);
    cluster.put_cert(&record).await;
    let served = async {
        while cluster
            .handshake("www.example.com", careless(&TLS12))
            .await
            .is_err()
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, served).await.expect("served");
    assert!(
        cluster
            .handshake("localhost", careless(&TLS12))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_whitelist_lets_others_stay_outside() {
    let cluster = Cluster::start().await;
    let (blog, mut events) = backend(|_| ok("blog")).await;
    let (shop, _) = backend(|_| ok("shop")).await;
    cluster.publish("blog_v1.web.1", blog).await;
    cluster.publish("shop_v1.web.1", shop).await;
    let admit = async |list: &str| {
        let route = Route {
            schema: SCHEMA,
            whitelist: list.parse().unwrap_or_default(),
            ..Route::default()
        };
        cluster.put(&keys::route(&app("blog")), &route).await;
    };
    let until = async |want: &str| {
        let seen = async {
            while !cluster.get("blog.localhost").await.starts_with(want) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(1), seen)
            .await
            .unwrap_or_else(|_| panic!("{want} within a second"));
    };
    admit("192.0.2.7:office,10.0.0.0/8:vpn").await;
    until("HTTP/1.1 403 Forbidden").await;
    while events.try_recv().is_ok() {}
    // What a client says of itself proves nothing.
    let lie = get("blog.localhost").replace(
        "\r\n\r\n",
        "\r\nX-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n\r\n",
    );
    let answer = cluster.raw(&lie).await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden"), "{answer}");
    assert!(
        answer.contains("lets nobody in from your address"),
        "{answer}"
    );
    assert!(events.try_recv().is_err(), "the app hears nothing of it");
    assert!(
        cluster.get("shop.localhost").await.ends_with("shop"),
        "others' apps are open"
    );
    admit("192.0.2.7:office,127.0.0.0/8:here").await;
    until("HTTP/1.1 200 OK").await;
    admit("::1").await;
    until("HTTP/1.1 403 Forbidden").await;
    admit("").await;
    until("HTTP/1.1 200 OK").await;
}
