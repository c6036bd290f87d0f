//! Against a real authority (pebble, Let's Encrypt's own for tests), through a real router.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    process::Stdio,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use tokio::process::{Child, Command};

use super::*;
use crate::{
    cert::tests::Authority,
    model::{AcmeOrder, Certificate, Domain, SCHEMA},
    router::{self, Router, RouterOptions},
    seal::cert_context,
    store::Key,
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(90);

/// An authority with a DNS of its own, both children of the test.
struct Pebble {
    directory: String,
    ca: String,
    dns: SocketAddr,
    _programs: [Child; 2],
    _files: tempfile::TempDir,
}

fn free() -> SocketAddr {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("address")
}

impl Pebble {
    /// One that looks for proof on this port of 127.0.0.1, whatever the name.
    async fn start(http: u16) -> Self {
        let files = tempfile::tempdir().expect("dir");
        let authority = Authority::new("Test");
        let own = authority.sign(&["localhost"]);
        let path = |name: &str| files.path().join(name);
        std::fs::write(path("crt"), &own.certificate).expect("write");
        std::fs::write(path("key"), &own.key).expect("write");
        let (listen, inner, dns, manage) = (free(), free(), free(), free());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": listen.to_string(),
            "managementListenAddress": inner.to_string(),
            "certificate": path("crt"),
            "privateKey": path("key"),
            "httpPort": http,
            "tlsPort": 1,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        std::fs::write(path("config"), config.to_string()).expect("write");
        let program = |name: &str, args: &[&str]| {
            Command::new(name)
                .args(args)
                .env("PEBBLE_VA_NOSLEEP", "1")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap_or_else(|error| panic!("{name} (package pebble): {error}"))
        };
        let (dns_text, manage_text) = (dns.to_string(), manage.to_string());
        let servers = program(
            "pebble-challtestsrv",
            &[
                "-dns01",
                &dns_text,
                "-management",
                &manage_text,
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
            ],
        );
        let config = path("config");
        let config = config.to_str().expect("text");
        let pebble = program("pebble", &["-config", config, "-dnsserver", &dns_text]);
        for address in [listen, manage] {
            wait("a server", async || {
                tokio::net::TcpStream::connect(address).await.ok()
            })
            .await;
        }
        Self {
            directory: format!("https://localhost:{}/dir", listen.port()),
            ca: authority.pem,
            dns: manage,
            _programs: [servers, pebble],
            _files: files,
        }
    }

    /// Lets a name lead to where nobody listens.
    async fn lead_astray(&self, name: &str) {
        let record = serde_json::json!({ "host": format!("{name}."), "addresses": ["127.0.0.99"] });
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("client");
        let url = format!("http://{}/add-a", self.dns);
        let sent = client.post(url).body(record.to_string()).send().await;
        assert!(sent.expect("DNS").status().is_success());
    }
}

/// Asks again until there is an answer.
async fn wait<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = timeout(PATIENCE, asking).await;
    found.unwrap_or_else(|_| panic!("{what} never came"))
}

struct Platform {
    store: Store,
    router: Router,
    _state: tempfile::TempDir,
}

fn key() -> ClusterKey {
    ClusterKey::parse(&STANDARD.encode([7; 32])).expect("key")
}

fn name(text: &str) -> DomainName {
    text.parse().expect("name")
}

impl Platform {
    async fn start() -> Self {
        let (store, state) = (Store::memory(), tempfile::tempdir().expect("dir"));
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = RouterOptions {
            ip: Ipv4Addr::LOCALHOST.into(),
            http: any,
            https: any,
            git: any,
            health: any,
            state: state.path().to_owned(),
            tls: state.path().to_owned(),
            workers: 1,
            etcd_patience: Duration::from_secs(5),
        };
        // It registers with the port that it is asked for.
        let options = RouterOptions {
            http: free(),
            ..options
        };
        let router = router::start(options, store.clone(), key()).await;
        Self {
            store,
            router: router.expect("router"),
            _state: state,
        }
    }

    async fn put<T: Record>(&self, key: &Key<T>, value: &T) {
        let put = self.store.commit(Txn::new().put(key, value)).await;
        put.expect("put");
    }

    async fn domain(&self, domain: &str) {
        let record = Domain {
            schema: SCHEMA,
            domain: name(domain),
            app: "blog".parse().expect("app"),
            owner: "ada".parse().expect("user"),
            created: Timestamp::now(),
        };
        self.put(&keys::domain(&record.domain), &record).await;
    }

    async fn get<T: Record>(&self, key: &Key<T>) -> Option<T> {
        self.store
            .get(key)
            .await
            .expect("read")
            .map(|found| found.value)
    }

    async fn cert(&self, domain: &str) -> Certificate {
        let key = keys::cert(&name(domain));
        wait(domain, async || self.get(&key).await).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_ordered_renewed_and_removed() {
    let platform = Platform::start().await;
    let pebble = Pebble::start(platform.router.http.port()).await;
    pebble.lead_astray("astray.example.org").await;
    for (setting, value) in [
        ("acme-directory", &pebble.directory),
        ("acme-ca", &pebble.ca),
    ] {
        platform.put(&keys::platform(setting), value).await;
    }
    for domain in ["www.example.org", "astray.example.org", "*.example.org"] {
        platform.domain(domain).await;
    }
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(
        platform.store.clone(),
        Arc::new(key()),
        "10.0.0.1".to_owned(),
        Teller::mute(),
        stop.clone(),
    ));
    // Somebody else leads: nothing happens until that is over.
    let leader = |address: &str| Leader {
        schema: SCHEMA,
        id: uuid::Uuid::nil(),
        address: address.to_owned(),
    };
    platform.put(&keys::leader(), &leader("10.0.0.2")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(platform.get(&keys::acme_account()).await, None);
    platform.put(&keys::leader(), &leader("10.0.0.1")).await;

    let first = platform.cert("www.example.org").await;
    assert!(first.auto && first.expires > Timestamp::now());
    assert_eq!(first.names, [name("www.example.org")].into());
    let secret = key().open_text(&cert_context(&first.name), &first.key);
    let chain = cert_pair(&first.chain, secret.expect("sealed").expose());
    assert!(chain >= 2, "the authority's intermediate comes with it");

    // The one that can't be proven: why, and when it is tried again; no one else is held up.
    let failed = wait("a note on the failure", async || {
        platform
            .get(&keys::acme_order(&name("astray.example.org")))
            .await
    })
    .await;
    let AcmeOrder {
        failures,
        error,
        next,
        ..
    } = failed;
    assert_eq!(failures, 1);
    assert!(
        error.contains("127.0.0.99") || error.contains("refused"),
        "{error}"
    );
    assert!(next > Timestamp::now());
    let standing = |domain: &'static str| async {
        let view = view(&platform.store).await.expect("view");
        plan::standing(&name(domain), &view, Timestamp::now())
    };
    assert!(matches!(
        standing("www.example.org").await,
        plan::Standing::Served { .. }
    ));
    assert!(matches!(
        standing("astray.example.org").await,
        plan::Standing::Failed { .. }
    ));
    assert_eq!(standing("*.example.org").await, plan::Standing::Wildcard);
    wait("an end to all answers", async || {
        let left = platform
            .store
            .list(&keys::acme_challenges())
            .await
            .expect("list");
        left.entries.is_empty().then_some(())
    })
    .await;

    // Time passes: a third of its life is left.
    let old = Certificate {
        created: Timestamp::now() - SignedDuration::from_hours(20),
        expires: Timestamp::now() + SignedDuration::from_hours(5),
        ..first.clone()
    };
    platform.put(&keys::cert(&old.name), &old).await;
    let renewed = wait("a renewed certificate", async || {
        let cert = platform.get(&keys::cert(&old.name)).await;
        cert.filter(|cert| cert.chain != first.chain)
    })
    .await;
    assert!(renewed.auto && renewed.expires > old.expires);

    let gone = Txn::new().delete(&keys::domain(&old.name));
    platform.store.commit(gone).await.expect("delete");
    wait(
        "an end to the certificate of a domain that is gone",
        async || {
            platform
                .get(&keys::cert(&old.name))
                .await
                .is_none()
                .then_some(())
        },
    )
    .await;
    stop.cancel();
    running.await.expect("ends");
    platform.router.stop().await;
}

/// How many certificates a chain has that a router can serve with this key.
fn cert_pair(chain: &str, key: &str) -> usize {
    let chain = crate::cert::read_chain(chain).expect("chain");
    let key = crate::cert::read_key(key).expect("key");
    crate::cert::pair(chain.clone(), key).expect("a pair");
    chain.len()
}
