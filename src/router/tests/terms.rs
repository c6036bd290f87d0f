//! What operators set: each setting does what it says at the next request, and a bad one nothing.

use uuid::Uuid;

use super::*;
use crate::model::Route;

fn post(host: &str, framing: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{framing}\r\n\r\n{body}")
}

impl Cluster {
    /// An app whose process says what it was asked.
    async fn with_echo() -> Self {
        let cluster = Self::start().await;
        let (address, _) = backend(|head| ok(&head)).await;
        cluster.publish("blog_v1.web.1", address).await;
        cluster
    }

    async fn with_head(&self, host: &str, lines: &str) -> String {
        let request =
            format!("GET /a?b HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n");
        self.raw(&request).await
    }
}

#[tokio::test]
async fn bodies_are_as_large_as_operators_allow() {
    let cluster = Cluster::with_echo().await;
    let length = |n: usize| {
        post(
            "blog.localhost",
            &format!("Content-Length: {n}"),
            &"x".repeat(n),
        )
    };
    let answer = cluster.raw(&length(1 << 20)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    cluster.set("bodySize", "10").await;
    let chunked = |body: &str| post("blog.localhost", "Transfer-Encoding: chunked", body);
    for (request, status) in [
        (length(10), "200"),
        (length(11), "413"),
        (chunked("5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"), "200"),
        (chunked("5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n"), "413"),
    ] {
        let answer = cluster.raw(&request).await;
        let want = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&want), "{request}: {answer}");
    }
    cluster.set("bodySize", "much").await;
    assert!(
        cluster.raw(&length(11)).await.contains(" 200 "),
        "the default again"
    );
    let metrics = cluster.metrics().await;
    assert!(
        metrics.contains("deis_router_settings_left_out 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn https_is_enforced_and_remembered_by_browsers() {
    let cluster = Cluster::with_echo().await;
    cluster.set("hsts/enabled", "true").await;
    cluster.set("hsts/maxAge", "60").await;
    let answer = cluster.with_head("blog.localhost:8080", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 301 Moved Permanently"),
        "{answer}"
    );
    assert!(
        answer.contains("Location: https://blog.localhost/a?b\r\n"),
        "{answer}"
    );
    assert!(
        !answer.contains("Strict-Transport"),
        "not in clear: {answer}"
    );
    let answer = cluster.with_head("nobody.localhost", "").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let config = https::careless(&rustls::version::TLS13);
    let mut tls = cluster
        .handshake("blog.localhost", config)
        .await
        .expect("TLS");
    tls.write_all(get("blog.localhost").as_bytes())
        .await
        .expect("send");
    let mut answer = String::new();
    let _ = tls.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("Strict-Transport-Security: max-age=60\r\n"),
        "{answer}"
    );
    // A stranger's word is none.
    let told = "X-Forwarded-Proto: https\r\n";
    let answer = cluster.with_head("blog.localhost", told).await;
    assert!(answer.starts_with("HTTP/1.1 301"), "{answer}");
    cluster.set("proxyRealIpCidr", "127.0.0.0/8").await;
    let answer = cluster.with_head("blog.localhost", told).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for wanted in [
        "X-Forwarded-Proto: https\r\n",
        "X-Forwarded-Port: 443\r\n",
        "X-Forwarded-Ssl: on\r\n",
    ] {
        assert!(answer.contains(wanted), "{wanted}: {answer}");
    }
    // TLS 1.2 goes when it is not wanted.
    let old = || https::careless(&rustls::version::TLS12);
    assert!(cluster.handshake("blog.localhost", old()).await.is_ok());
    cluster.set("sslProtocols", "TLSv1.3").await;
    assert!(cluster.handshake("blog.localhost", old()).await.is_err());
}

#[tokio::test]
async fn whitelists_know_clients_behind_load_balancers() {
    let cluster = Cluster::with_echo().await;
    let (controller, _) = backend(|_| ok("controller")).await;
    let part = crate::model::PartPresence {
        schema: 1,
        id: Uuid::nil(),
        address: controller.to_string(),
    };
    cluster
        .put(&keys::part("controller", "10.0.0.1"), &part)
        .await;
    let route = Route {
        schema: SCHEMA,
        whitelist: "192.0.2.7:office".parse().expect("list"),
        ..Route::default()
    };
    let (shop, _) = backend(|head| ok(&head)).await;
    cluster.put(&keys::route(&app("shop")), &route).await;
    cluster.publish("shop_v1.web.1", shop).await;
    let office = "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n";
    let ask = async |host: &str, lines: &str, status: &str| {
        let answer = loop {
            // Neither controllers nor routes are acknowledged.
            let answer = cluster.with_head(host, lines).await;
            if !answer.contains("no process") {
                break answer;
            }
            tokio::task::yield_now().await;
        };
        assert!(
            answer.contains(&format!(" {status} ")),
            "{host} {lines}: {answer}"
        );
    };
    ask("deis.localhost", "", "200").await;
    ask("shop.localhost", office, "403").await;
    cluster
        .set("controller/whitelist", "192.0.2.0/24:office")
        .await;
    ask("deis.localhost", office, "403").await;
    // Load balancers that add headers.
    cluster.set("proxyRealIpCidr", "127.0.0.1").await;
    for host in ["deis.localhost", "shop.localhost"] {
        ask(host, office, "200").await;
        ask(host, "X-Forwarded-For: 192.0.2.7, 6.6.6.6\r\n", "403").await;
        ask(host, "", "403").await;
    }
    ask("blog.localhost", "", "200").await;
    cluster.set("enforceWhitelist", "true").await;
    ask("blog.localhost", "", "403").await;
    // Load balancers that speak the PROXY protocol: then headers are anybody's.
    cluster.set("proxyProtocol", "true").await;
    let header = "PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n";
    let request = get("shop.localhost");
    let answer = cluster.raw(&format!("{header}{request}")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("X-Forwarded-For: 192.0.2.7\r\n"),
        "{answer}"
    );
    let other = header.replace("192.0.2.7", "6.6.6.6");
    let answer = cluster.raw(&format!("{other}{request}")).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // Without one there is no answer at all.
    assert_eq!(cluster.raw(&request).await, "");
    // It comes before TLS.
    let https = cluster.router.https.expect("https");
    let mut stream = TcpStream::connect(https).await.expect("connect");
    stream.write_all(header.as_bytes()).await.expect("send");
    let config = Arc::new(https::careless(&rustls::version::TLS13));
    let name = rustls_pki_types::ServerName::try_from("shop.localhost").expect("name");
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, stream);
    let mut tls = tls.await.expect("TLS");
    tls.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    let _ = tls.read_to_string(&mut answer).await;
    assert!(
        answer.contains("X-Forwarded-For: 192.0.2.7\r\n"),
        "{answer}"
    );
    // Those who are no load balancer can't pretend, and don't have to.
    cluster.set("proxyRealIpCidr", "10.9.9.9").await;
    let answer = cluster.raw(&format!("{header}{request}")).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(cluster.raw(&request).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn an_argument_keeps_its_process() {
    let cluster = Cluster::start().await;
    for n in 1..=4 {
        let (address, _) = backend(move |_| ok(&format!("<{n}>"))).await;
        cluster.publish(&format!("blog_v1.web.{n}"), address).await;
    }
    cluster.set("affinityArg", "user").await;
    let ask = async |user: &str| {
        let request = format!(
            "GET /?a=1&user={user} HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\n\r\n"
        );
        let answer = cluster.raw(&request).await;
        answer[answer.rfind('<').expect("process")..].to_owned()
    };
    let mut used = std::collections::BTreeSet::new();
    for user in 0..20 {
        let first = ask(&user.to_string()).await;
        for _ in 0..3 {
            assert_eq!(ask(&user.to_string()).await, first, "{user}");
        }
        used.insert(first);
    }
    assert!(used.len() > 1, "{used:?}");
}

#[tokio::test]
async fn settings_hold_at_a_start_without_etcd() {
    let cluster = Cluster::with_echo().await;
    cluster.set("enforceHTTPS", "true").await;
    let Cluster {
        router,
        state,
        memory,
        store,
    } = cluster;
    router.stop().await;
    memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    let router = start(options(state.path()), store.clone(), key()).await;
    let cluster = Cluster {
        router: router.expect("started"),
        state,
        memory,
        store,
    };
    let answer = cluster.get("blog.localhost").await;
    assert!(answer.starts_with("HTTP/1.1 301"), "{answer}");
}
