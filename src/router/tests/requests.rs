//! One request at a time: where it goes, and what passes.

use uuid::Uuid;

use super::*;

#[tokio::test]
async fn host_names_lead_to_apps_and_to_clear_refusals() {
    let cluster = Cluster::start().await;
    let (blog, _) = backend(|_| ok("blog")).await;
    let (shop, _) = backend(|_| ok("shop")).await;
    let route = |maintenance| crate::model::Route {
        schema: 1,
        maintenance,
        page: None,
        hold: false,
        ..Default::default()
    };
    cluster
        .put(&keys::route(&app("empty")), &route(false))
        .await;
    cluster.put(&keys::route(&app("shut")), &route(true)).await;
    cluster.publish("shut_v1.web.1", shop).await;
    cluster.publish("blog_v1.web.1", blog).await;
    cluster.publish("shop_v1.web.1", shop).await;
    let cases = [
        (get("blog.localhost"), "HTTP/1.1 200 OK", "\r\n\r\nblog"),
        (get("SHOP.localhost:8080"), "HTTP/1.1 200 OK", "\r\n\r\nshop"),
        (get("nobody.localhost"), "HTTP/1.1 404 Not Found", "404 Not Found\n"),
        (get("empty.localhost"), "HTTP/1.1 503 Service Unavailable", "no process"),
        (get("shut.localhost"), "HTTP/1.1 503 Service Unavailable", "maintenance"),
        (get("deis.localhost"), "HTTP/1.1 503 Service Unavailable", "no process"),
        (get("blog..localhost"), "HTTP/1.1 400 Bad Request", "no valid host"),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".into(), "HTTP/1.1 400 Bad Request", "no valid host"),
        (
            "GET / HTTP/1.1\r\nHost: blog.localhost\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n".into(),
            "HTTP/1.1 400 Bad Request",
            "no valid host",
        ),
        (
            "GET http://shop.localhost/x HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\n\r\n".into(),
            "HTTP/1.1 200 OK",
            "shop",
        ),
        (
            "CONNECT blog.localhost:80 HTTP/1.1\r\nHost: blog.localhost:80\r\nConnection: close\r\n\r\n".into(),
            "HTTP/1.1 405 Method Not Allowed",
            "no forward proxy",
        ),
        ("GET / HTTP/1.0\r\nHost: blog.localhost\r\n\r\n".into(), "HTTP/1.0 200 OK", "blog"),
    ];
    for (request, status, text) in cases {
        let answer = cluster.raw(&request).await;
        assert!(
            answer.starts_with(status) && answer.contains(text),
            "{request}: {answer}"
        );
        assert!(answer.contains("X-Request-Id: "), "{request}: {answer}");
    }
    assert!(
        cluster.health().await.starts_with("HTTP/1.1 200"),
        "registered and serving"
    );
    cluster.router.stop().await;
    let gone = cluster
        .store
        .get(&keys::router("127.0.0.1"))
        .await
        .expect("read");
    assert!(gone.is_none(), "a clean goodbye");
}

#[tokio::test]
async fn who_has_a_connection_when_the_router_stops_is_answered_once_more() {
    let cluster = Cluster::start().await;
    let (address, _) = backend(|_| ok("blog")).await;
    cluster.publish("blog_v1.web.1", address).await;
    // One that has been used, one on which nothing has been said, and one in mid-word.
    let mut used = cluster.connect().await;
    let request = "GET / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n";
    used.write_all(request.as_bytes()).await.expect("send");
    read_until(&mut used, "blog").await;
    let mut silent = cluster.connect().await;
    let mut begun = cluster.connect().await;
    let (first, rest) = request.split_at(9);
    begun.write_all(first.as_bytes()).await.expect("send");
    let idle = cluster.connect().await;
    cluster.counted("deis_router_connections_total 4").await;

    let address = cluster.router.http;
    let stopping = tokio::spawn(cluster.router.stop());
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("nobody new");
    for (client, words) in [
        (&mut used, request),
        (&mut silent, request),
        (&mut begun, rest),
    ] {
        client.write_all(words.as_bytes()).await.expect("send");
        let answer = read_until(client, "blog").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    timeout(PATIENCE, stopping)
        .await
        .expect("in time")
        .expect("stopped");
    drop(idle);
}

#[tokio::test]
async fn heads_pass_as_they_should() {
    let cluster = Cluster::start().await;
    let answer = |head: String| {
        format!(
            "HTTP/1.1 404 NOT FOUND\r\nContent-Length: {}\r\nConnection: keep-alive, X-Secret\r\n\
             X-Secret: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5\r\n\r\n{head}",
            head.len()
        )
    };
    let (address, _) = backend(answer).await;
    let part = crate::model::PartPresence {
        schema: 1,
        id: Uuid::nil(),
        address: address.to_string(),
    };
    cluster
        .put(&keys::part("controller", "10.0.0.1"), &part)
        .await;
    let request = "GET /v1/x?y=%20z HTTP/1.1\r\nHost: DEIS.localhost:8080\r\nConnection: close, X-Drop\r\n\
                   X-Drop: 1\r\nTE: trailers\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: gopher\r\n\
                   X-Request-Id: mine-1\r\nExpect: 100-continue\r\n\r\n";
    let answer = loop {
        // The controllers' feed has no acknowledgement to wait for.
        let answer = cluster.raw(request).await;
        if !answer.contains("no process") {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    let (head, body) = answer.split_once("\r\n\r\n").expect("body");
    assert!(
        head.starts_with("HTTP/1.1 404 NOT FOUND\r\n"),
        "reason phrase: {head}"
    );
    for wanted in ["Set-Cookie: a=1", "Set-Cookie: b=2", "X-Request-Id: mine-1"] {
        assert!(head.contains(wanted), "{wanted}: {head}");
    }
    for unwanted in ["X-Secret", "Keep-Alive"] {
        assert!(!head.contains(unwanted), "{unwanted}: {head}");
    }
    let port = format!("X-Forwarded-Port: {}", cluster.router.http.port());
    for wanted in [
        "GET /v1/x?y=%20z HTTP/1.1\r\n",
        "Host: DEIS.localhost:8080",
        "X-Forwarded-For: 1.2.3.4, 127.0.0.1",
        "X-Forwarded-Proto: http\r\n",
        &port,
        "X-Request-Id: mine-1",
    ] {
        assert!(body.contains(wanted), "{wanted}: {body}");
    }
    for unwanted in ["X-Drop", "Te:", "Expect", "gopher", "Connection"] {
        assert!(!body.contains(unwanted), "{unwanted}: {body}");
    }
}

#[tokio::test]
async fn a_dead_backend_costs_nobody_a_request() {
    let cluster = Cluster::start().await;
    let (alive, _) = backend(|_| ok("alive")).await;
    cluster.publish("blog_v1.web.1", dead().await).await;
    cluster.publish("blog_v1.web.2", alive).await;
    for n in 0..20 {
        let answer = cluster.get("blog.localhost").await;
        assert!(answer.ends_with("alive"), "GET {n}: {answer}");
        let post = "POST / HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let answer = cluster.raw(post).await;
        assert!(answer.ends_with("alive"), "POST {n}: {answer}");
    }
    // The last one is tried although it is not trusted.
    cluster.publish("dead_v1.web.1", dead().await).await;
    for _ in 0..2 {
        let answer = cluster.get("dead.localhost").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
    }
    let (back, _) = backend(|_| ok("back")).await;
    cluster.publish("dead_v1.web.1", back).await;
    assert!(cluster.get("dead.localhost").await.ends_with("back"));
}

#[tokio::test]
async fn a_kept_connection_that_breaks_is_replaced_unless_that_could_do_harm() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("blog_v1.web.1", address).await;
    // Answers the first request of each connection and breaks off at the second.
    let (sender, mut heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let head = read_until(&mut stream, "\r\n\r\n").await;
                let _ = sender.send(head);
                stream
                    .write_all(ok("first").as_bytes())
                    .await
                    .expect("answer");
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
            });
        }
    });
    let mut client = cluster.connect().await;
    let request = |method: &str| format!("{method} / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n");
    for n in 0..3 {
        client
            .write_all(request("GET").as_bytes())
            .await
            .expect("send");
        let answer = read_until(&mut client, "first").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "GET {n}: {answer}");
        assert!(heads.recv().await.is_some());
    }
    // It may have done its work: nobody but the client can know whether to send it again.
    client
        .write_all(request("POST").as_bytes())
        .await
        .expect("send");
    let answer = read_until(&mut client, "answered.\n").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "POST: {answer}");
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("blog_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    let head = "POST /up HTTP/1.1\r\nHost: blog.localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    // Each side sees a part before the next one is sent.
    client.write_all(b"3\r\none\r\n").await.expect("send");
    read_until(&mut stream, "one\r\n").await;
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nun \r\n";
    stream.write_all(head).await.expect("answer");
    read_until(&mut client, "un \r\n").await;
    client
        .write_all(b"3\r\ntwo\r\n0\r\n\r\n")
        .await
        .expect("send");
    read_until(&mut stream, "two\r\n0\r\n\r\n").await;
    stream
        .write_all(b"4\r\ndeux\r\n0\r\n\r\n")
        .await
        .expect("answer");
    read_until(&mut client, "deux\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn tcp_goes_to_the_first_builder_that_answers() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    for (ip, address) in [("10.0.0.1", dead().await), ("10.0.0.2", address)] {
        let part = crate::model::PartPresence {
            schema: 1,
            id: Uuid::nil(),
            address: address.to_string(),
        };
        cluster.put(&keys::part("builder", ip), &part).await;
    }
    let (mut client, mut stream) = loop {
        // The builders' feed has no acknowledgement to wait for.
        let mut client = TcpStream::connect(cluster.router.git)
            .await
            .expect("connect");
        tokio::select! {
            accepted = listener.accept() => break (client, accepted.expect("accept").0),
            closed = client.read_u8() => assert!(closed.is_err()),
        }
    };
    client.write_all(b"pack").await.expect("send");
    client.shutdown().await.expect("half-close");
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("read");
    assert_eq!(all, "pack");
    stream.write_all(b"report").await.expect("send");
    drop(stream);
    let mut all = String::new();
    client.read_to_string(&mut all).await.expect("read");
    assert_eq!(all, "report");
}

#[tokio::test]
async fn https_says_so_to_the_app() {
    let cluster = Cluster::with_domain("example.com").await;
    let (address, _) = backend(|head| ok(&head)).await;
    cluster.publish("blog_v1.web.1", address).await;
    let https = cluster.router.https.expect("openssl made a certificate");
    let pem = std::fs::read(cluster.state.path().join("self-signed-example.com.crt"))
        .expect("certificate");
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("certificate")])
        .no_proxy()
        .resolve("blog.example.com", https)
        .build()
        .expect("client");
    let url = format!("https://blog.example.com:{}/", https.port());
    let body = client
        .get(url)
        .send()
        .await
        .expect("sent")
        .text()
        .await
        .expect("body");
    assert!(body.contains("X-Forwarded-Proto: https\r\n"), "{body}");
}

#[tokio::test]
async fn ambiguous_framing_reaches_no_app() {
    let cluster = Cluster::start().await;
    let (address, mut events) = backend(|head| ok(&head)).await;
    cluster.publish("blog_v1.web.1", address).await;
    let post = |framing: &str| {
        let head = "POST / HTTP/1.1\r\nHost: blog.localhost\r\n";
        format!(
            "{head}{framing}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: blog.localhost\r\n\r\n"
        )
    };
    for framing in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Content-Length: 3, 3",
        "Transfer-Encoding: chunked, identity\r\nConnection: close",
        "Transfer-Encoding: gzip, chunked\r\nConnection: close",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nConnection: close",
        "Transfer-Encoding: xchunked\r\nConnection: close",
        "Transfer-Encoding : chunked\r\nConnection: close",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 300",
        "Content-Length: 0\nTransfer-Encoding: chunked",
        "X: 1\r\n Transfer-Encoding: chunked",
        "X: 1\rTransfer-Encoding: chunked",
    ] {
        let answer = cluster.raw(&post(framing)).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{framing}: {answer}");
    }
    assert!(events.try_recv().is_err(), "no connection was made");
    // What was asked before is answered first.
    let first = "GET /first HTTP/1.1\r\nHost: blog.localhost\r\n\r\n";
    let both = format!("{first}{}", post("Content-Length : 3"));
    let answer = cluster.raw(&both).await;
    assert!(
        answer.contains("GET /first") && answer.contains("HTTP/1.1 400"),
        "{answer}"
    );
    assert!(!answer.contains("smuggled"), "{answer}");
}

/// What a client of the API sees behind a router is what the controller wrote: status lines with
/// v1's reason phrases, and its header names as they are spelt.
#[tokio::test]
async fn the_controller_s_answers_pass_to_the_letter() {
    let cluster = Cluster::start().await;
    let site = crate::controller::testing::Site::start().await;
    let token = site.user("ada", false).await;
    let part = crate::model::PartPresence {
        schema: 1,
        id: Uuid::nil(),
        address: site.address.to_string(),
    };
    cluster
        .put(&keys::part("controller", "10.0.0.1"), &part)
        .await;
    let request = |method: &str, path: &str, token: &str, body: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: deis.localhost\r\nUser-Agent: Deis Client v1.13.4\r\n\
             Content-Length: {}\r\n{token}Content-Type: application/json\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    while cluster
        .raw(&request("GET", "/healthz", "", ""))
        .await
        .contains("no process")
    {
        // The controllers' feed has no acknowledgement to wait for.
        tokio::task::yield_now().await;
    }
    let token = format!("Authorization: token {token}\r\n");
    let big = format!("{{\"id\":\"{}\"}}", "a".repeat(2 << 20));
    for (method, path, token, body, line) in [
        ("GET", "/v1/", "", "", "HTTP/1.1 401 UNAUTHORIZED"),
        ("GET", "/v1/", token.as_str(), "", "HTTP/1.1 200 OK"),
        (
            "GET",
            "/v1/apps/nothing/",
            &token,
            "",
            "HTTP/1.1 404 NOT FOUND",
        ),
        ("GET", "/v1/users/", &token, "", "HTTP/1.1 403 FORBIDDEN"),
        (
            "POST",
            "/v1/apps/",
            &token,
            "{\"id\":\"shop\"}",
            "HTTP/1.1 201 CREATED",
        ),
        (
            "POST",
            "/v1/apps/",
            &token,
            "{\"id\":\"shop\"}",
            "HTTP/1.1 400 BAD REQUEST",
        ),
        (
            "PUT",
            "/v1/apps/",
            &token,
            "",
            "HTTP/1.1 405 METHOD NOT ALLOWED",
        ),
        (
            "DELETE",
            "/v1/auth/cancel/",
            &token,
            "",
            "HTTP/1.1 409 CONFLICT",
        ),
        (
            "POST",
            "/v1/apps/",
            &token,
            &big,
            "HTTP/1.1 413 REQUEST ENTITY TOO LARGE",
        ),
        (
            "GET",
            "/v1/apps/shop/logs",
            &token,
            "",
            "HTTP/1.1 500 INTERNAL SERVER ERROR",
        ),
        (
            "DELETE",
            "/v1/apps/shop/",
            &token,
            "",
            "HTTP/1.1 204 NO CONTENT",
        ),
    ] {
        let answer = cluster.raw(&request(method, path, token, body)).await;
        let head = answer.split("\r\n\r\n").next().expect("head");
        assert_eq!(head.lines().next(), Some(line), "{method} {path}");
        for wanted in [
            "DEIS_API_VERSION: 1.7",
            "X_DEIS_API_VERSION: 1.7",
            "DEIS_PLATFORM_VERSION: ",
        ] {
            let found = head.lines().filter(|line| line.starts_with(wanted)).count();
            assert_eq!(found, 1, "{wanted}: {head}");
        }
        assert_eq!(
            head.contains("WWW-Authenticate: Token"),
            line.contains("401"),
            "{head}"
        );
    }
}
