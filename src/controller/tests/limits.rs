//! What is too much: tries, and bytes. And what is said about it.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use crate::{
    controller::{
        attempts::ClientAddress,
        testing::{Reply, Site},
    },
    model::{RouterPresence, SCHEMA},
    store::{Txn, keys},
};

async fn login(site: &Site, name: &str, password: &str, forwarded: &str) -> Reply {
    let body = json!({ "username": name, "password": password }).to_string();
    let request = format!(
        "POST /v1/auth/login/ HTTP/1.1\r\nHost: deis\r\nConnection: close\r\n\
         X-Forwarded-For: {forwarded}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    site.raw(request.as_bytes()).await
}

async fn register(site: &Site, name: &str) -> Reply {
    let body = json!({ "username": name, "password": "secret" });
    site.call("", "POST", "/v1/auth/register/", body).await
}

#[tokio::test]
async fn a_password_is_not_guessed() {
    let site = Site::start().await;
    for name in ["ada", "bob"] {
        assert_eq!(register(&site, name).await.status(), 201);
    }
    // The right one costs nothing.
    for _ in 0..15 {
        assert_eq!(login(&site, "ada", "secret", "").await.status(), 200);
    }
    let mut refused = None;
    for at in 0..20 {
        let reply = login(&site, "ada", "guess", "").await;
        if reply.status() == 429 {
            refused = Some((at, reply));
            break;
        }
        assert_eq!(reply.status(), 400);
    }
    let (at, reply) = refused.expect("an end");
    assert_eq!(
        (at, reply.line.as_str()),
        (10, "HTTP/1.1 429 TOO MANY REQUESTS")
    );
    let wait: u64 = reply
        .header("retry-after")
        .expect("wait")
        .parse()
        .expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    let want = format!("Too many wrong passwords for ada; try again in {wait} s.");
    assert_eq!(reply.json(), json!({ "detail": want }));
    // Not even with the right one, for nobody can tell who asks; and by no other way.
    assert_eq!(login(&site, "ada", "secret", "").await.status(), 429);
    let token = site.user("admin", true).await;
    let passwd = json!({ "username": "ada", "password": "guess", "new_password": "x" });
    let reply = site.call(&token, "POST", "/v1/auth/passwd/", passwd).await;
    assert_eq!(reply.status(), 429);
    // Others are not concerned.
    assert_eq!(login(&site, "bob", "secret", "").await.status(), 200);
}

/// Through a router it is the client's address that counts; whoever is no router can say what he likes.
#[tokio::test]
async fn addresses_have_a_limit_of_their_own() {
    for (is_router, counted) in [(false, "127.0.0.1"), (true, "1.2.3.4")] {
        let site = Site::start().await;
        if is_router {
            let presence = RouterPresence {
                schema: SCHEMA,
                id: Uuid::nil(),
                address: "127.0.0.1:80".to_owned(),
                applied: 0,
                drained: 0,
                drained_by_app: None,
                routes: None,
            };
            let txn = Txn::new().put(&keys::router("127.0.0.1"), &presence);
            site.store.commit(txn).await.expect("router");
        }
        // All tries of that address, without the time that a password takes.
        let counted_as = counted.parse().expect("address");
        let counted_as = ClientAddress::new(counted_as, false, &HeaderMap::new());
        while site.state.attempts.login(&counted_as).is_ok() {}
        let reply = login(&site, "nobody", "x", "6.6.6.6, 1.2.3.4").await;
        assert_eq!(reply.status(), 429, "{is_router}");
        let want = format!("Too many logins from {counted}; ");
        assert!(reply.body.contains(&want), "{}", reply.body);
        let other = login(&site, "nobody", "x", "1.2.3.5").await;
        assert_eq!(other.status(), if is_router { 400 } else { 429 });
    }
}

#[tokio::test]
async fn registrations_have_a_limit() {
    let site = Site::start().await;
    assert_eq!(register(&site, "ada").await.status(), 201);
    let mut last = None;
    for _ in 0..12 {
        let reply = register(&site, "ada").await;
        last = Some(reply.status());
        if last == Some(429) {
            assert!(reply.body.contains("Too many registrations of ada; "));
            break;
        }
    }
    assert_eq!(last, Some(429));
    assert_eq!(register(&site, "bob").await.status(), 201);
    // Whoever administers registers as many as he likes.
    let admin = site.user("admin", true).await;
    for _ in 0..12 {
        let body = json!({ "username": "ada", "password": "x" });
        let reply = site.call(&admin, "POST", "/v1/auth/register/", body).await;
        assert_eq!(reply.status(), 400);
    }
}

#[tokio::test]
async fn a_new_password_ends_the_other_logins() {
    let site = Site::start().await;
    register(&site, "admin").await;
    register(&site, "ada").await;
    let token = async |name: &str, password: &str| {
        let reply = login(&site, name, password, "").await;
        reply.json()["token"].as_str().expect("token").to_owned()
    };
    let (one, two) = (token("ada", "secret").await, token("ada", "secret").await);
    let admin = token("admin", "secret").await;
    let ci = json!({ "name": "ci", "scope": "deploy" });
    let ci = site.call(&one, "POST", "/v1/tokens/", ci).await.json();
    let ci = ci["token"].as_str().expect("token");
    let passwd = async |token: &str, body: Value| {
        let reply = site.call(token, "POST", "/v1/auth/passwd/", body).await;
        assert_eq!(reply.body, r#"{"status":"password set"}"#);
    };
    let who = async |token: &str| site.call(token, "GET", "/v1/", Value::Null).await.status();
    passwd(&one, json!({ "password": "secret", "new_password": "new" })).await;
    assert_eq!(
        (
            who(&one).await,
            who(&two).await,
            who(ci).await,
            who(&admin).await
        ),
        (200, 401, 200, 200)
    );
    // An administrator's own logins stay when it is another's password.
    passwd(
        &admin,
        json!({ "username": "ada", "new_password": "newer" }),
    )
    .await;
    assert_eq!(
        (who(&one).await, who(ci).await, who(&admin).await),
        (401, 200, 200)
    );
}

/// Every route says so, whether it wants a body or not, and the client can read it.
#[tokio::test]
async fn bodies_that_are_too_large() {
    let site = Site::start().await;
    let token = site.user("ada", false).await;
    let large = vec![b' '; 5 << 20];
    let head = |method: &str, path: &str, rest: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: deis\r\nConnection: close\r\n\
             Authorization: token {token}\r\n{rest}\r\n"
        )
        .into_bytes()
    };
    let length = format!("Content-Length: {}\r\n", large.len());
    let chunk = [
        format!("{:x}\r\n", large.len()).as_bytes(),
        &large,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    for (method, path) in [
        ("POST", "/v1/apps/"),
        ("GET", "/v1/apps/"),
        ("POST", "/v1/auth/login/"),
        ("POST", "/v1/apps/blog/containers/restart/"),
        ("DELETE", "/v1/nothing/"),
    ] {
        let reply = site
            .raw(&[head(method, path, &length), large.clone()].concat())
            .await;
        assert_eq!(
            reply.line, "HTTP/1.1 413 REQUEST ENTITY TOO LARGE",
            "{path}"
        );
        assert_eq!(
            reply.json(),
            json!({ "detail": "The request is larger than 1024 KiB." })
        );
    }
    let chunked = head("POST", "/v1/apps/", "Transfer-Encoding: chunked\r\n");
    let reply = site.raw(&[chunked, chunk].concat()).await;
    assert_eq!(reply.status(), 413);
    // Who asks first is told before he sends anything.
    let asking = head(
        "POST",
        "/v1/apps/",
        &format!("{length}Expect: 100-continue\r\n"),
    );
    assert_eq!(site.raw(&asking).await.status(), 413);
    // Who says nothing of it and sends nothing is not waited for.
    let mut socket = tokio::net::TcpStream::connect(site.address)
        .await
        .expect("connect");
    let small = head("GET", "/v1/", "Content-Length: 9\r\n");
    socket.write_all(&small).await.expect("sent");
    let mut answer = [0; 15];
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_exact(&mut answer)).await;
    read.expect("in time").expect("answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

/// Whatever is the platform's fault can be found in its logs by the id that the user is told.
#[tokio::test]
async fn faults_of_the_platform_have_an_id() {
    let site = Site::start().await;
    let token = site.user("ada", false).await;
    site.call(&token, "POST", "/v1/apps/", json!({ "id": "blog" }))
        .await;
    // No logger is there.
    let reply = site
        .call(&token, "GET", "/v1/apps/blog/logs", Value::Null)
        .await;
    let id = reply.header("x-request-id").expect("id");
    assert_eq!(
        (reply.status(), &reply.json()["request_id"]),
        (500, &json!(id))
    );
    // What the app itself is to blame for has none.
    site.push("blog", "ada").await;
    let fail = json!({ "values": { "FAIL": "1" } });
    let reply = site
        .call(&token, "POST", "/v1/apps/blog/config/", fail)
        .await;
    assert_eq!(
        (reply.status(), reply.json().get("request_id")),
        (503, None)
    );
    // A broken record.
    let txn = Txn::new().put(&keys::setting("users", "bob"), &"no JSON".to_owned());
    site.store.commit(txn).await.expect("broken");
    let admin = site.user("admin", true).await;
    let reply = site.call(&admin, "GET", "/v1/users/", Value::Null).await;
    let id = reply.header("x-request-id").expect("id");
    assert_eq!(
        (reply.status(), &reply.json()["request_id"]),
        (500, &json!(id))
    );
    // A router's id is kept, so that both logs name the same request.
    let request =
        "GET /v1/ HTTP/1.1\r\nHost: deis\r\nConnection: close\r\nX-Request-Id: abc-1\r\n\r\n";
    let reply = site.raw(request.as_bytes()).await;
    assert_eq!(reply.header("x-request-id"), Some("abc-1"));
}
