//! What users do, step by step, and what goes wrong (reference, 2.5, 4.3 and 13).

use serde_json::{Value, json};

use crate::{
    controller::testing::{Site, machine},
    model::AppName,
    ops,
    store::keys,
};

pub(super) async fn site_with_app() -> (Site, String) {
    let site = Site::start().await;
    let token = site.user("ada", true).await;
    let reply = site
        .call(&token, "POST", "/v1/apps/", json!({ "id": "blog" }))
        .await;
    assert_eq!(reply.status(), 201);
    (site, token)
}

#[tokio::test]
async fn accounts() {
    let site = Site::start().await;
    let post = async |token: &str, path: &str, body: Value| {
        site.call(token, "POST", &format!("/v1/auth/{path}/"), body)
            .await
    };
    let register = |name: &str| json!({ "username": name, "password": "secret", "email": "a@b.c" });
    let first = post("", "register", register("ada")).await;
    assert_eq!(
        (first.status(), &first.json()["is_superuser"]),
        (201, &json!(true))
    );
    assert!(!first.body.contains("secret") && first.json().get("password").is_none());
    let second = post("", "register", register("bob")).await;
    assert_eq!(
        (second.status(), &second.json()["is_superuser"]),
        (201, &json!(false))
    );
    let again = post("", "register", register("ada")).await;
    assert_eq!(
        (again.status(), again.body.as_str()),
        (400, r#"{"username":["This field must be unique."]}"#)
    );

    let login = async |password: &str| {
        post(
            "",
            "login",
            json!({ "username": "bob", "password": password }),
        )
        .await
    };
    let wrong = login("guess").await;
    let want = r#"{"non_field_errors":["Unable to log in with provided credentials."]}"#;
    assert_eq!((wrong.status(), wrong.body.as_str()), (400, want));
    let token = |reply: &crate::controller::testing::Reply| {
        reply.json()["token"].as_str().expect("token").to_owned()
    };
    let one = token(&login("secret").await);
    let two = token(&login("secret").await);
    assert!(one != two && one.len() == 40, "each login mints a token");
    let who = async |token: &str| site.call(token, "GET", "/v1/", Value::Null).await.status();
    assert_eq!((who(&one).await, who(&two).await), (200, 200));
    // Neither a token nor a password can be read from etcd.
    let (entries, _) = site.store.list_raw("/deis/").await.expect("entries");
    for (key, entry) in entries {
        let text = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(
            !key.contains(&one) && !text.contains(&one) && !text.contains("secret"),
            "{key}"
        );
    }
    let three = token(&post(&one, "tokens", json!({})).await);
    assert_eq!(
        (who(&one).await, who(&two).await, who(&three).await),
        (401, 401, 200)
    );

    let body = json!({ "password": "guess", "new_password": "new" });
    let refused = post(&three, "passwd", body).await;
    assert_eq!(
        refused.body,
        r#"{"detail":"Current password does not match"}"#
    );
    let body = json!({ "password": "secret", "new_password": "new" });
    let changed = post(&three, "passwd", body).await;
    assert_eq!(
        (changed.status(), changed.body.as_str()),
        (200, r#"{"status":"password set"}"#)
    );
    assert_eq!(
        (login("secret").await.status(), login("new").await.status()),
        (400, 200)
    );

    site.call(&three, "POST", "/v1/apps/", json!({ "id": "blog" }))
        .await;
    let cancel = async || {
        site.call(&three, "DELETE", "/v1/auth/cancel/", json!({}))
            .await
    };
    let refused = cancel().await;
    let want = r#"{"detail":"bob still has applications assigned. Delete or transfer ownership"}"#;
    assert_eq!(
        (refused.line.as_str(), refused.body.as_str()),
        ("HTTP/1.1 409 CONFLICT", want)
    );
    site.call(&three, "DELETE", "/v1/apps/blog/", Value::Null)
        .await;
    assert_eq!(cancel().await.status(), 204);
    assert_eq!((who(&three).await, login("new").await.status()), (401, 400));
}

#[tokio::test]
async fn two_who_register_first_at_once_make_one_administrator() {
    let site = Site::start().await;
    let register = |name: &'static str| {
        site.call(
            "",
            "POST",
            "/v1/auth/register/",
            json!({ "username": name, "password": "x" }),
        )
    };
    let (a, b) = tokio::join!(register("ada"), register("bob"));
    let administrators = [&a, &b]
        .iter()
        .filter(|r| r.json()["is_superuser"] == true)
        .count();
    assert_eq!((a.status(), b.status(), administrators), (201, 201, 1));
}

#[tokio::test]
async fn registration_can_be_closed() {
    let site = Site::start().await;
    let admin = site.user("admin", true).await;
    let register = async |token: &str, name: &str| {
        let body = json!({ "username": name, "password": "x" });
        site.call(token, "POST", "/v1/auth/register/", body)
            .await
            .status()
    };
    for (mode, nobody, administrator) in [
        ("disabled", 403, 403),
        ("admin_only", 403, 201),
        ("enabled", 201, 201),
    ] {
        let key = keys::setting("controller", "registrationMode");
        let txn = crate::store::Txn::new().put(&key, &mode.to_owned());
        site.store.commit(txn).await.expect("mode");
        assert_eq!(register("", &format!("a-{mode}")).await, nobody, "{mode}");
        assert_eq!(
            register(&admin, &format!("b-{mode}")).await,
            administrator,
            "{mode}"
        );
    }
}

#[tokio::test]
async fn every_config_post_makes_a_release() {
    let (site, token) = site_with_app().await;
    let post = async |body: Value| {
        site.call(&token, "POST", "/v1/apps/blog/config/", body)
            .await
    };
    // Before the first build there is nothing to roll out.
    let reply = post(json!({ "values": { "A": "1" } })).await;
    assert_eq!(
        (reply.status(), reply.header("Deis-Release")),
        (201, Some("2"))
    );
    assert_eq!(reply.header("X-Deis-Release"), Some("2"));
    let want = json!({ "A": "1", "DEIS_APP": "blog", "DEIS_RELEASE": "v2" });
    assert_eq!(reply.json()["values"], want);
    site.push("blog", "ada").await;
    let odd = "line\r\nline\n%n $X \"'\\ é 🦀 ";
    let reply =
        post(json!({ "values": { "ODD": odd, "A": null, "EMPTY": "" }, "cpu": { "web": 512 } }))
            .await;
    assert_eq!(reply.header("Deis-Release"), Some("4"), "{}", reply.body);
    let config = site
        .call(&token, "GET", "/v1/apps/blog/config/", Value::Null)
        .await
        .json();
    assert_eq!(config["values"], json!({ "ODD": odd, "EMPTY": "" }));
    assert_eq!(config["cpu"], json!({ "web": 512 }));
    let reply = post(Value::Null).await;
    assert_eq!(reply.header("Deis-Release"), Some("5"));
    // Sealed: etcd holds the names only.
    let (entries, _) = site.store.list_raw("/deis/").await.expect("entries");
    for (key, entry) in entries {
        assert!(
            !String::from_utf8_lossy(&entry.value).contains("🦀"),
            "{key}"
        );
    }
    let releases = site
        .call(&token, "GET", "/v1/apps/blog/releases/", Value::Null)
        .await
        .json();
    let rows: Vec<_> = releases["results"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|r| &r["summary"])
        .collect();
    let want = [
        "ada changed nothing",
        "ada added EMPTY, ODD, deleted A and changed limits for cpu",
        "ada deployed 0123456",
        "ada added A",
        "ada created initial release",
    ];
    assert_eq!(rows, want);
}

#[tokio::test]
async fn a_config_that_fails_changes_nothing_but_the_history() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let before = site
        .call(&token, "GET", "/v1/apps/blog/containers/", Value::Null)
        .await
        .body;
    let body = json!({ "values": { "FAIL": "1" } });
    let reply = site
        .call(&token, "POST", "/v1/apps/blog/config/", body)
        .await;
    assert_eq!(reply.line, "HTTP/1.1 503 SERVICE UNAVAILABLE");
    assert_eq!(
        reply.json(),
        json!({ "detail": "aborting, failed to create some containers: web.1 exits with 1\nno such module" })
    );
    let after = site
        .call(&token, "GET", "/v1/apps/blog/containers/", Value::Null)
        .await
        .body;
    assert_eq!(before, after, "the old processes serve on");
    // The next change is based on what runs, and the number is not used again.
    let body = json!({ "values": { "B": "2" } });
    let reply = site
        .call(&token, "POST", "/v1/apps/blog/config/", body)
        .await;
    assert_eq!(reply.header("Deis-Release"), Some("4"));
    assert_eq!(reply.json()["values"].get("FAIL"), None);
    let failed = site
        .call(&token, "GET", "/v1/apps/blog/releases/v3/", Value::Null)
        .await
        .json();
    assert_eq!(failed["summary"], "ada added FAIL (failed)");
    let reply = site
        .call(
            &token,
            "POST",
            "/v1/apps/blog/releases/rollback/",
            Value::Null,
        )
        .await;
    assert_eq!(
        (reply.status(), reply.body.as_str()),
        (201, r#"{"version":5}"#)
    );
    let back = site
        .call(&token, "GET", "/v1/apps/blog/releases/v5/", Value::Null)
        .await
        .json();
    assert_eq!(back["summary"], "ada rolled back to v2");
}

#[tokio::test]
async fn scaling_and_rollback_are_refused_in_v1_s_words() {
    let (site, token) = site_with_app().await;
    let post = async |path: &str, body: Value| {
        let reply = site
            .call(&token, "POST", &format!("/v1/apps/blog/{path}/"), body)
            .await;
        (reply.status(), reply.body)
    };
    let no_build = (
        400,
        r#"{"detail":"No build associated with this release"}"#.to_owned(),
    );
    assert_eq!(post("scale", json!({ "web": 1 })).await, no_build);
    assert_eq!(post("run", json!({ "command": "true" })).await, no_build);
    site.push("blog", "ada").await;
    let unknown = r#"{"detail":"Container type nope does not exist in application"}"#;
    assert_eq!(
        post("scale", json!({ "nope": 1 })).await,
        (400, unknown.to_owned())
    );
    let negative = r#"{"detail":"Invalid scaling format: Must be greater than or equal to zero"}"#;
    assert_eq!(
        post("scale", json!({ "web": -1 })).await,
        (400, negative.to_owned())
    );
    let below = r#"{"detail":"version cannot be below 0"}"#;
    assert_eq!(
        post("releases/rollback", json!({ "version": 0 })).await,
        (400, below.to_owned())
    );
    assert_eq!(
        post("releases/rollback", json!({ "version": 9 })).await.0,
        404
    );
    assert_eq!(
        post("scale", json!({ "web": 3, "worker": 1 })).await,
        (204, String::new())
    );
    let page = site
        .call(&token, "GET", "/v1/apps/blog/containers/", Value::Null)
        .await
        .json();
    let row = |c: &Value| format!("{}.{} {} {}", c["type"], c["num"], c["state"], c["release"]);
    let rows: Vec<_> = page["results"]
        .as_array()
        .expect("rows")
        .iter()
        .map(row)
        .collect();
    let want = [1, 2, 3].map(|n| format!(r#""web".{n} "up" "v2""#));
    assert_eq!(rows[..3], want);
    assert_eq!(
        (rows.len(), rows[3].as_str()),
        (4, r#""worker".1 "up" "v2""#)
    );
    let restarted = site
        .call(
            &token,
            "POST",
            "/v1/apps/blog/containers/web/2/restart/",
            Value::Null,
        )
        .await;
    assert_eq!(
        restarted.json().as_array().map(Vec::len),
        Some(1),
        "a bare array: {}",
        restarted.body
    );
    let none = site
        .call(
            &token,
            "POST",
            "/v1/apps/blog/containers/web/7/restart/",
            Value::Null,
        )
        .await;
    assert_eq!(none.status(), 404);
}

#[tokio::test]
async fn a_change_in_the_way_is_named() {
    let (site, token) = site_with_app().await;
    let create = json!({ "id": "stuck" });
    let first = site.call(&token, "POST", "/v1/apps/", create.clone());
    assert_eq!(first.await.status(), 201);
    let taken = site.call(&token, "POST", "/v1/apps/", create).await;
    let want = r#"{"id":["This field must be unique."]}"#;
    assert_eq!((taken.status(), taken.body.as_str()), (400, want));
    site.push("stuck", "ada").await;
    let app: AppName = "stuck".parse().expect("name");
    let by = "bob".parse().expect("name");
    ops::change::restart(&site.store, &app, &by, None, None)
        .await
        .expect("begun");
    let path = "/v1/apps/stuck/config/";
    let reply = site.call(&token, "POST", path, Value::Null).await;
    assert_eq!(reply.line, "HTTP/1.1 409 CONFLICT");
    let why = reply.json()["error"].as_str().expect("why").to_owned();
    assert!(why.contains("restart, by bob"), "{why}");
}

#[tokio::test]
async fn one_off_processes() {
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    let run = async |command: &str| {
        site.call(
            &token,
            "POST",
            "/v1/apps/blog/run",
            json!({ "command": command }),
        )
        .await
    };
    let odd = "echo 'a b' \"$HOME\" %n é; exit 0";
    for (command, want) in [
        (odd, json!([0, format!("{odd}\nto stderr\n")])),
        ("exit 3", json!([3, "exit 3\nto stderr\n"])),
        ("impostor", json!([0, "impostor\nto stderr\n"])),
        (
            "broken",
            json!([0, (0..100).map(|n| format!("{n}\n")).collect::<String>()]),
        ),
    ] {
        let reply = run(command).await;
        assert_eq!((reply.status(), reply.json()), (200, want), "{command}");
        assert_eq!(
            reply.header("Content-Type"),
            Some("text/plain; charset=utf-8")
        );
        let left = site
            .call(&token, "GET", "/v1/apps/blog/containers/run/", Value::Null)
            .await
            .json();
        assert_eq!(left["count"], 0, "{command} is cleaned up");
    }
    let reply = run("refuse").await;
    let want = json!("host-1 can't run it: no image");
    assert_eq!((reply.status(), &reply.json()["detail"]), (503, &want));
    let reply = run("vanish").await;
    assert_eq!(reply.status(), 503);
    assert!(
        reply.body.contains("The host host-1 was lost"),
        "{}",
        reply.body
    );
    let reply = run("true").await;
    assert_eq!(reply.status(), 503, "no host is left: {}", reply.body);
    let schedule = site
        .store
        .list(&keys::schedule_of(&machine()))
        .await
        .expect("schedule");
    assert!(
        schedule
            .entries
            .iter()
            .all(|(key, _)| !key.contains(".run."))
    );
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_process() {
    use tokio::io::AsyncWriteExt as _;
    let (site, token) = site_with_app().await;
    site.push("blog", "ada").await;
    // Nobody answers on this address: the process would run for ever.
    let agentless = crate::store::Txn::new().delete(&keys::machine(&machine()));
    site.store.commit(agentless).await.expect("deleted");
    let other = crate::model::Machine {
        schema: 1,
        id: "2".repeat(32).parse().expect("id"),
        hostname: "host-2".into(),
        address: "10.0.0.2".into(),
        memory_bytes: 8 << 30,
        cpus: 1,
        version: String::new(),
        boot_id: String::new(),
        metadata: Default::default(),
    };
    let txn = crate::store::Txn::new().put(&keys::machine(&other.id), &other);
    site.store.commit(txn).await.expect("machine");
    let mut feed = site.store.follow(keys::schedule_of(&other.id).as_str());
    feed.next().await;
    let mut socket = tokio::net::TcpStream::connect(site.address)
        .await
        .expect("connect");
    let body = r#"{"command":"sleep"}"#;
    let request = format!(
        "POST /v1/apps/blog/run HTTP/1.1\r\nHost: x\r\nAuthorization: token {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    let placed = feed.next().await;
    assert!(placed.changes[0].entry.is_some());
    drop(socket);
    let removed = tokio::time::timeout(std::time::Duration::from_secs(10), feed.next()).await;
    assert!(removed.expect("in time").changes[0].entry.is_none());
}
