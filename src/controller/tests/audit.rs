//! The audit trail: who changed what, and nothing that is secret.

use serde_json::{Value, json};

use super::flows::site_with_app;
use crate::{
    controller::testing::{Reply, Site},
    model::{Action, AppName},
    ops::audit::{self, Actor},
    store::{Txn, keys},
};

fn rows(reply: &Reply) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let page = reply.json();
    page["results"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            (
                text(&row["action"]),
                text(&row["detail"]),
                row["release"].clone(),
            )
        })
        .collect()
}

#[tokio::test]
async fn every_change_of_an_app_is_written_down() {
    let (site, login) = site_with_app().await;
    site.user("bob", false).await;
    site.push("blog", "ada").await;
    let ci = json!({ "name": "ci", "scope": "deploy" });
    let ci = site.call(&login, "POST", "/v1/tokens/", ci).await.json();
    let ci = ci["token"].as_str().expect("token");
    let steps = [
        (
            ci,
            "POST",
            "config/",
            json!({ "values": { "PASSWORD": "hunter2", "URL": "postgres://x" } }),
        ),
        (
            ci,
            "POST",
            "config/",
            json!({ "memory": { "web": "256M" } }),
        ),
        (ci, "POST", "scale/", json!({ "web": 2, "worker": 1 })),
        (ci, "POST", "containers/web/1/restart/", Value::Null),
        (
            ci,
            "POST",
            "run",
            json!({ "command": "TOKEN=hunter2 rake db:migrate hunter2" }),
        ),
        (ci, "POST", "releases/rollback/", json!({ "version": 2 })),
        (
            &login,
            "POST",
            "domains/",
            json!({ "domain": "blog.example.org" }),
        ),
        (&login, "DELETE", "domains/blog.example.org", Value::Null),
        (&login, "POST", "perms/", json!({ "username": "bob" })),
        (&login, "POST", "perms/", json!({ "username": "bob" })),
        (&login, "DELETE", "perms/bob", Value::Null),
        (&login, "POST", "", json!({ "owner": "bob" })),
    ];
    for (token, method, path, body) in steps {
        let reply = site
            .call(token, method, &format!("/v1/apps/blog/{path}"), body)
            .await;
        assert!(reply.status() < 300, "{path}: {}", reply.body);
    }
    let reply = site
        .call(&login, "GET", "/v1/apps/blog/audit/", Value::Null)
        .await;
    let none = Value::Null;
    let want = [
        ("transfer", "from ada to bob", none.clone()),
        ("perms-revoke", "bob", none.clone()),
        ("perms-grant", "bob", none.clone()),
        ("domain-remove", "blog.example.org", none.clone()),
        ("domain-add", "blog.example.org", none.clone()),
        ("rollback", "rolled back to v2", json!("v5")),
        ("run", "rake …", none.clone()),
        ("restart", "web.1", none.clone()),
        ("scale", "web=2 worker=1", none.clone()),
        ("config", "changed limits for memory", json!("v4")),
        ("config", "added PASSWORD, URL", json!("v3")),
        ("deploy", "deployed 0123456", json!("v2")),
        ("create", "", json!("v1")),
    ];
    let want: Vec<_> = want
        .into_iter()
        .map(|(action, detail, release)| (action.to_owned(), detail.to_owned(), release))
        .collect();
    assert_eq!(rows(&reply), want);
    let row = &reply.json()["results"][8];
    assert_eq!(
        (&row["user"], &row["token"], &row["app"]),
        (&json!("ada"), &json!("ci"), &json!("blog"))
    );
    assert_eq!(row["request_id"].as_str().map(str::len), Some(32));

    let page = "/v1/apps/blog/audit/?page=2&page_size=5";
    let page = site.call(&login, "GET", page, Value::Null).await;
    assert_eq!(rows(&page), want[5..10]);
    assert_eq!(page.json()["count"], 13);

    // Neither values nor passwords nor tokens stand in any entry.
    let (entries, _) = site.store.list_raw("/deis/").await.expect("entries");
    for (key, entry) in entries.iter().filter(|(key, _)| key.contains("/audit/")) {
        let text = String::from_utf8_lossy(&entry.value);
        for secret in ["hunter2", "postgres", ci, &login] {
            assert!(!text.contains(secret), "{key}: {text}");
        }
    }

    // What is destroyed leaves its end in the platform's trail, and nothing else.
    let gone = site
        .call(&login, "DELETE", "/v1/apps/blog/", Value::Null)
        .await;
    assert_eq!(gone.status(), 204);
    let app: AppName = "blog".parse().expect("name");
    assert_eq!(audit::of_app(&site.store, &app).await.expect("store"), []);
    let reply = site.call(&login, "GET", "/v1/audit/", Value::Null).await;
    assert_eq!(
        rows(&reply)[0],
        (
            "destroy".to_owned(),
            "owner bob, v5".to_owned(),
            Value::Null
        )
    );
    assert_eq!(reply.json()["results"][0]["app"], "blog");
}

#[tokio::test]
async fn what_is_refused_or_changes_nothing_leaves_no_entry() {
    let (site, login) = site_with_app().await;
    let bob = site.user("bob", false).await;
    for (token, path, body) in [
        (&bob, "config/", json!({ "values": { "A": "1" } })),
        (&login, "config/", json!({ "values": { "1": "1" } })),
        (&login, "scale/", json!({ "web": 1 })),
        (&login, "releases/rollback/", json!({ "version": 9 })),
        (&login, "domains/", json!({ "domain": "x.example.com" })),
        (&login, "perms/", json!({ "username": "ada" })),
    ] {
        site.call(token, "POST", &format!("/v1/apps/blog/{path}"), body)
            .await;
    }
    let reply = site
        .call(&login, "GET", "/v1/apps/blog/audit/", Value::Null)
        .await;
    assert_eq!(reply.json()["count"], 1, "{}", reply.body);
    let reply = site
        .call(&bob, "GET", "/v1/apps/blog/audit/", Value::Null)
        .await;
    assert_eq!(reply.status(), 403);
    let reply = site.call(&bob, "GET", "/v1/audit/", Value::Null).await;
    assert_eq!(reply.status(), 403);
}

#[tokio::test]
async fn accounts_are_in_the_platform_s_trail() {
    let site = Site::start().await;
    let admin = site.user("admin", true).await;
    let post = async |token: &str, path: &str, body: Value| {
        let reply = site.call(token, "POST", &format!("/v1/{path}"), body).await;
        assert!(reply.status() < 300, "{path}: {}", reply.body);
        reply
    };
    let delete = async |token: &str, path: &str, body: Value| {
        let reply = site
            .call(token, "DELETE", &format!("/v1/{path}"), body)
            .await;
        assert_eq!(reply.status(), 204, "{path}: {}", reply.body);
    };
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGYih2RCKaV3pu5Kn45gQgMI8w8q6m9agpWVrxAEYPFI";
    let ada = json!({ "username": "ada", "password": "hunter2" });
    post("", "auth/register/", ada.clone()).await;
    let token = post("", "auth/login/", ada).await.json()["token"].clone();
    let token = token.as_str().expect("token");
    post(token, "keys/", json!({ "id": "laptop", "public": key })).await;
    delete(token, "keys/laptop", Value::Null).await;
    let board = json!({ "name": "board", "scope": "read", "apps": ["blog"] });
    post(token, "tokens/", board).await;
    delete(token, "tokens/board/", Value::Null).await;
    let passwd = json!({ "password": "hunter2", "new_password": "hunter3" });
    post(token, "auth/passwd/", passwd).await;
    post(&admin, "admin/perms/", json!({ "username": "ada" })).await;
    delete(&admin, "admin/perms/ada", Value::Null).await;
    post(&admin, "auth/tokens/", json!({ "username": "ada" })).await;
    delete(&admin, "auth/cancel/", json!({ "username": "ada" })).await;
    let reply = site.call(&admin, "GET", "/v1/audit/", Value::Null).await;
    let page = reply.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let got: Vec<_> = page["results"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            format!(
                "{} {} {}",
                text(&row["user"]),
                text(&row["action"]),
                text(&row["detail"])
            )
        })
        .collect();
    let fingerprint = "SHA256:lT9nOzIpAeFgP0GuFAWcJBM92+RwFCj3xl+mnJaHHSY";
    assert_eq!(
        got,
        [
            "admin cancel ada".to_owned(),
            "admin regenerate all tokens of ada".to_owned(),
            "admin admin-revoke ada".to_owned(),
            "admin admin-grant ada".to_owned(),
            "ada password ada".to_owned(),
            "ada token-revoke board: scope read, apps blog".to_owned(),
            "ada token-create board: scope read, apps blog".to_owned(),
            format!("ada key-remove laptop {fingerprint}"),
            format!("ada key-add laptop {fingerprint}"),
            "ada register ada".to_owned(),
        ]
    );
    assert!(!reply.body.contains("hunter") && !reply.body.contains(token));
}

/// The oldest go when there are too many, of one app and of no other.
#[tokio::test]
async fn trails_are_bounded() {
    let site = Site::start().await;
    let ada: Actor = Actor::from(&"ada".parse().expect("name"));
    let [blog, shop] = ["blog", "shop"].map(|name| name.parse::<AppName>().expect("name"));
    audit::commit(&site.store, &shop, Txn::new(), ada.note(Action::Create, ""))
        .await
        .expect("written");
    for n in 0..audit::KEPT_OF_APP + 7 {
        let note = ada.note(Action::Run, n.to_string());
        let written = audit::commit(&site.store, &blog, Txn::new(), note).await;
        written.expect("written");
    }
    let kept = audit::of_app(&site.store, &blog).await.expect("store");
    assert_eq!(kept.len(), audit::KEPT_OF_APP);
    let newest: usize = kept[0].detail.parse().expect("number");
    let oldest: usize = kept[kept.len() - 1].detail.parse().expect("number");
    assert_eq!((oldest, newest), (7, audit::KEPT_OF_APP + 6));
    assert_eq!(
        audit::of_app(&site.store, &shop)
            .await
            .expect("store")
            .len(),
        1
    );
    let long = ada.note(Action::Config, "ä".repeat(10_000));
    let txn = long.of_app(&shop);
    site.store.commit(txn).await.expect("written");
    let first = audit::of_app(&site.store, &shop)
        .await
        .expect("store")
        .remove(0);
    assert_eq!(first.detail.chars().count(), 301);
    assert!(keys::audits().as_str() == "/deis/audit/");
}
