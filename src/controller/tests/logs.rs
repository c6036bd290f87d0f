//! Logs: real loggers on loopback, read through the API.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::flows::site_with_app;
use crate::{
    controller::{auth, testing::Site},
    logger::testing::Logger,
    sidecar::wire::Position,
    store::{Txn, keys},
};

const PATIENCE: Duration = Duration::from_secs(30);
const LOGS: &str = "/v1/apps/blog/logs/";

/// A log that is followed.
struct Follower(tokio::io::Lines<BufReader<TcpStream>>);

impl Follower {
    async fn start(site: &Site, token: &str, query: &str) -> Self {
        let mut socket = TcpStream::connect(site.address).await.expect("connect");
        // HTTP/1.0: the body as it is, without chunks around it.
        let request = format!(
            "GET {LOGS}?follow=1&{query} HTTP/1.0\r\nHost: deis.example.com\r\n\
             Authorization: token {token}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut follower = Self(BufReader::new(socket).lines());
        let status = follower.raw().await.expect("status");
        assert!(status.ends_with(" 200 OK"), "{status}");
        while follower.raw().await.is_some_and(|line| !line.is_empty()) {}
        follower
    }

    async fn raw(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.0.next_line()).await;
        line.expect("in time").expect("read")
    }

    /// The next line after its time; none at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            let line = self.raw().await?;
            if !line.is_empty() {
                return Some(line[23..].to_owned());
            }
        }
    }
}

/// What the lines say, without their times.
fn said(body: &str) -> Vec<&str> {
    body.lines().map(|line| &line[23..]).collect()
}

async fn eventually(site: &Site, token: &str, query: &str, want: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = site
            .call(token, "GET", &format!("{LOGS}?{query}"), Value::Null)
            .await;
        if said(&reply.body) == want {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{want:?} is not {:?}",
            reply.body
        );
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn v1s_form_and_what_happens_in_between() {
    let (site, ada) = site_with_app().await;
    let get = async |query: &str| {
        site.call(&ada, "GET", &format!("{LOGS}{query}"), Value::Null)
            .await
    };
    let none = get("").await;
    assert_eq!(none.status(), 503, "{}", none.body);
    assert!(
        none.body
            .contains("Error accessing logs for blog: no logger is running")
    );

    let dir = tempfile::tempdir().expect("dir");
    let logger = Logger::fresh(dir.path(), "127.0.0.1").await;
    logger.register(&site.store).await;
    // The events that had to wait for a logger are there, too.
    let created = "blog[deis-controller]: ada created initial release";
    eventually(&site, &ada, "log_lines=1", &[created]).await;
    logger
        .say("web.1", Position::default(), 4_000_000_000, "hello\n")
        .await;
    let reply = get("?log_lines=1").await;
    assert_eq!(reply.body, "2096-10-02T07:06:40UTC blog[web.1]: hello\n");
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    for query in ["", "?log_lines=", "?log_lines=x", "?log_lines=-5"] {
        assert_eq!(get(query).await.body.lines().count(), 2, "{query}");
    }
    assert_eq!(said(&get("?ps=web").await.body), ["blog[web.1]: hello"]);
    assert_eq!(said(&get("?ps=deis-controller").await.body), [created]);
    assert_eq!(get("?ps=worker").await.status(), 204);
    assert_eq!(get("?since=2096-10-02T07:06:41Z").await.status(), 204);
    assert_eq!(get("?since=1h").await.body.lines().count(), 2);
    for (query, why) in [
        ("?ps=web.x", "ps: \\\"web.x\\\" names no process"),
        ("?since=soon", "since: \\\"soon\\\" is no time"),
        ("?follow=maybe", "follow: \\\"maybe\\\" is neither 0 nor 1"),
    ] {
        let reply = get(query).await;
        assert_eq!(reply.status(), 400, "{query}");
        assert!(reply.body.contains(why), "{}", reply.body);
    }

    // Whoever may not use the app reads nothing.
    let eve = site.user("eve", false).await;
    for (token, want) in [(eve.as_str(), 403), ("", 401), (&ada, 200)] {
        for query in ["", "?follow=0"] {
            let path = format!("{LOGS}{query}");
            let reply = site.call(token, "GET", &path, Value::Null).await;
            assert_eq!(reply.status(), want, "{query}");
        }
    }
    let reply = site
        .call(&ada, "GET", "/v1/apps/none/logs", Value::Null)
        .await;
    assert_eq!(reply.status(), 404);

    // Scaling and config.
    site.push("blog", "ada").await;
    let scale = site.call(&ada, "POST", "/v1/apps/blog/scale", json!({"web": 2}));
    assert_eq!(scale.await.status(), 204);
    let scaled = "blog[deis-controller]: ada scaled web=2";
    eventually(&site, &ada, "ps=deis-controller", &[created, scaled]).await;
    let set = json!({"values": {"A": "1"}});
    let set = site.call(&ada, "POST", "/v1/apps/blog/config", set).await;
    assert_eq!(set.status(), 201);
    let set = "blog[deis-controller]: ada added A: v3";
    eventually(&site, &ada, "ps=deis-controller", &[created, scaled, set]).await;
}

#[tokio::test]
async fn a_log_in_two_loggers_is_one() {
    let (site, ada) = site_with_app().await;
    let (one, two) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let one = Logger::fresh(one.path(), "127.0.0.1").await;
    let two = Logger::fresh(two.path(), "127.0.0.2").await;
    one.register(&site.store).await;
    two.register(&site.store).await;
    let start = Position::default();
    let a = one.say("web.1", start, 100, "a\nb\n").await;
    // The first one was away for a while; what it had acknowledged last is sent again.
    let c = two
        .say(
            "web.1",
            Position {
                offset: 2,
                lines: 1,
            },
            101,
            "b\nc\n",
        )
        .await;
    one.say("worker.1", start, 101, "other\n").await;
    one.say("web.1", c, 102, "d\n").await;
    assert_eq!(
        a,
        Position {
            offset: 4,
            lines: 2
        }
    );
    let want = [
        "blog[web.1]: a",
        "blog[web.1]: b",
        "blog[web.1]: c",
        "blog[worker.1]: other",
        "blog[web.1]: d",
    ];
    let read = async |query: &str| {
        let path = format!("{LOGS}?{query}");
        site.call(&ada, "GET", &path, Value::Null).await.body
    };
    let all = read("since=1970-01-01T00:00:00Z").await;
    let processes: Vec<&str> = said(&all)
        .into_iter()
        .filter(|line| !line.contains("deis-controller"))
        .collect();
    let web = |lines: &[&str]| -> Vec<String> {
        let of_web = lines.iter().filter(|line| line.contains("web.1"));
        of_web.map(|line| (*line).to_owned()).collect()
    };
    assert_eq!(
        web(&processes),
        web(&want),
        "each line once, in order: {all}"
    );
    assert_eq!(processes.len(), want.len());
    let last = read("log_lines=2&ps=web.1").await;
    assert_eq!(said(&last), ["blog[web.1]: c", "blog[web.1]: d"]);
    // One of them goes: the other's lines are there, and it says that some are missing.
    drop(two);
    let left = read("since=1970-01-01T00:00:00Z&ps=web").await;
    assert!(left.contains("its lines are missing here"), "{left}");
    assert!(left.contains("blog[web.1]: a") && left.contains("blog[web.1]: d"));
}

#[tokio::test]
async fn following_across_a_restart_until_the_app_is_gone() {
    let (site, ada) = site_with_app().await;
    let dir = tempfile::tempdir().expect("dir");
    let logger = Logger::fresh(dir.path(), "127.0.0.1").await;
    logger.register(&site.store).await;
    let created = "blog[deis-controller]: ada created initial release";
    eventually(&site, &ada, "", &[created]).await;
    let mut follower = Follower::start(&site, &ada, "log_lines=1").await;
    assert_eq!(follower.next().await.as_deref(), Some(created));
    let mut of_worker = Follower::start(&site, &ada, "log_lines=0&ps=worker").await;
    let at = logger.say("web.1", Position::default(), 100, "one\n").await;
    assert_eq!(follower.next().await.as_deref(), Some("blog[web.1]: one"));

    let logger = logger.again(dir.path()).await;
    let at = logger.say("web.1", at, 100, "two\n").await;
    assert_eq!(follower.next().await.as_deref(), Some("blog[web.1]: two"));
    logger
        .say("worker.1", Position::default(), 100, "work\n")
        .await;
    assert_eq!(
        follower.next().await.as_deref(),
        Some("blog[worker.1]: work")
    );
    assert_eq!(
        of_worker.next().await.as_deref(),
        Some("blog[worker.1]: work")
    );
    logger.say("web.1", at, 101, "three\n").await;
    assert_eq!(follower.next().await.as_deref(), Some("blog[web.1]: three"));

    let reply = site
        .call(&ada, "DELETE", "/v1/apps/blog/", Value::Null)
        .await;
    assert_eq!(reply.status(), 204);
    assert_eq!(follower.next().await, None);
    assert_eq!(of_worker.next().await, None);
    // The name's next owner.
    let bob = site.user("bob", false).await;
    let create = site.call(&bob, "POST", "/v1/apps/", json!({"id": "blog"}));
    assert_eq!(create.await.status(), 201);
    let created = "blog[deis-controller]: bob created initial release";
    eventually(&site, &bob, "", &[created]).await;
}

#[tokio::test]
async fn whose_right_ends_follows_no_more() {
    let (site, ada) = site_with_app().await;
    let dir = tempfile::tempdir().expect("dir");
    let logger = Logger::fresh(dir.path(), "127.0.0.1").await;
    logger.register(&site.store).await;
    let bob = site.user("bob", false).await;
    let grant = json!({"username": "bob"});
    let path = "/v1/apps/blog/perms/";
    assert_eq!(site.call(&ada, "POST", path, grant).await.status(), 201);
    let mut by_right = Follower::start(&site, &bob, "log_lines=0").await;
    let mut by_token = Follower::start(&site, &ada, "log_lines=0").await;
    let path = "/v1/apps/blog/perms/bob/";
    assert_eq!(
        site.call(&ada, "DELETE", path, Value::Null).await.status(),
        204
    );
    while by_right.next().await.is_some() {}

    let token = keys::token(&auth::token_hash(&ada));
    let txn = Txn::new().delete(&token);
    site.store.commit(txn).await.expect("ended");
    while by_token.next().await.is_some() {}
    // Its socket is closed, not just silent.
    let mut rest = Vec::new();
    let closed = by_token.0.into_inner().read_to_end(&mut rest).await;
    assert_eq!(closed.expect("closed"), 0);
}
