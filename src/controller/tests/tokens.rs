//! Tokens of narrower scopes, over a real socket.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::flows::site_with_app;
use crate::{
    api::{grant::Access, openapi::Operation},
    controller::{auth, routes, testing::Site},
    model::Scope,
    store::{Txn, keys},
};

async fn mint(site: &Site, token: &str, body: Value) -> String {
    let reply = site.call(token, "POST", "/v1/tokens/", body).await;
    assert_eq!(reply.status(), 201, "{}", reply.body);
    reply.json()["token"].as_str().expect("token").to_owned()
}

/// Route by route, scope by scope: what a token lets through, and that no other code decides it.
#[tokio::test]
async fn each_route_keeps_to_the_scope() {
    let site = Site::start().await;
    let login = site.user("ada", true).await;
    let mut tokens = Vec::new();
    for scope in Scope::EACH {
        for apps in [None, Some("app"), Some("other")] {
            let mut body = json!({
                "name": format!("{}-{}", scope.word(), apps.unwrap_or("every")), "scope": scope.word(),
            });
            if let Some(app) = apps {
                body["apps"] = json!([app]);
            }
            tokens.push((scope, apps, mint(&site, &login, body).await));
        }
    }
    for row in routes::table() {
        let Operation {
            method,
            path,
            access: Access::Token(needs),
            ..
        } = row.operation
        else {
            continue;
        };
        let about_app = path.contains("{app}");
        for (scope, apps, token) in &tokens {
            // What is let through comes upon an app, user or token that doesn't exist, or lacks fields.
            let body = json!({ "username": "nobody", "app": "app" });
            let sample = path.replace(['{', '}'], "");
            let let_through = *scope >= needs
                && match apps {
                    None => true,
                    Some(app) if about_app => *app == "app",
                    Some(_) => needs == Scope::Read,
                };
            if let_through && (path.starts_with("/v1/auth/") || path == "/v1/apps") {
                // These would end the tokens, or make an app.
                continue;
            }
            let reply = site.call(token, method.as_str(), &sample, body).await;
            let refused = reply.status() == 403 && reply.body.contains("This token");
            assert_eq!(
                refused, !let_through,
                "{method} {path} with {scope:?} for {apps:?}: {} {}",
                reply.line, reply.body
            );
        }
    }
}

#[tokio::test]
async fn a_deploy_token_deploys_and_a_read_token_reads() {
    let (site, login) = site_with_app().await;
    site.call(&login, "POST", "/v1/apps/", json!({ "id": "shop" }))
        .await;
    site.push("blog", "ada").await;
    let deploy = json!({ "name": "ci", "scope": "deploy", "apps": ["blog"], "expires": "90d" });
    let deploy = mint(&site, &login, deploy).await;
    let read = mint(&site, &login, json!({ "name": "board", "scope": "read" })).await;
    let config = json!({ "values": { "A": "1" } });
    let cases = [
        (&deploy, "POST", "apps/blog/config/", config.clone(), 201),
        (
            &deploy,
            "POST",
            "apps/blog/scale/",
            json!({ "web": 2 }),
            204,
        ),
        (
            &deploy,
            "POST",
            "apps/blog/releases/rollback/",
            Value::Null,
            201,
        ),
        (
            &deploy,
            "POST",
            "apps/blog/run",
            json!({ "command": "true" }),
            200,
        ),
        (&deploy, "GET", "apps/blog/releases/", Value::Null, 200),
        (&deploy, "GET", "apps/shop/", Value::Null, 403),
        (&deploy, "POST", "apps/shop/config/", config.clone(), 403),
        (&deploy, "DELETE", "apps/blog/", Value::Null, 403),
        (
            &deploy,
            "POST",
            "tokens/",
            json!({ "name": "x", "scope": "read" }),
            403,
        ),
        (&read, "GET", "apps/shop/", Value::Null, 200),
        (&read, "GET", "apps/blog/config/", Value::Null, 200),
        (&read, "POST", "apps/blog/config/", config, 403),
        (
            &read,
            "POST",
            "apps/blog/run",
            json!({ "command": "true" }),
            403,
        ),
        (&read, "GET", "", Value::Null, 200),
    ];
    for (token, method, path, body, want) in cases {
        let reply = site.call(token, method, &format!("/v1/{path}"), body).await;
        assert_eq!(reply.status(), want, "{method} {path}: {}", reply.body);
    }
    for (token, apps) in [(&deploy, 1), (&read, 2), (&login, 2)] {
        let page = site.call(token, "GET", "/v1/apps/", Value::Null).await;
        assert_eq!(page.json()["count"], apps);
    }
}

#[tokio::test]
async fn tokens_are_listed_without_their_secret_and_revoked() {
    let site = Site::start().await;
    let ada = site.user("ada", false).await;
    let bob = site.user("bob", false).await;
    let made = json!({ "name": "ci", "scope": "deploy", "apps": ["blog"], "expires": "12h" });
    let made = site.call(&ada, "POST", "/v1/tokens/", made).await.json();
    let secret = made["token"].as_str().expect("token").to_owned();
    assert_eq!(
        (
            &made["name"],
            &made["scope"],
            &made["apps"],
            &made["current"]
        ),
        (
            &json!("ci"),
            &json!("deploy"),
            &json!(["blog"]),
            &json!(false)
        )
    );
    let again = json!({ "name": "ci", "scope": "read" });
    let again = site.call(&ada, "POST", "/v1/tokens/", again).await;
    assert_eq!(again.body, r#"{"name":["This field must be unique."]}"#);
    let list = site.call(&ada, "GET", "/v1/tokens/", Value::Null).await;
    assert!(!list.body.contains(&secret) && !list.body.contains(&ada));
    let rows = list.json()["results"].clone();
    assert_eq!(rows.as_array().expect("rows").len(), 2);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["current"], &rows[1]["id"]),
        (&Value::Null, &json!(true), &made["id"])
    );
    let (entries, _) = site.store.list_raw("/deis/").await.expect("entries");
    for (key, entry) in entries {
        let text = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(!key.contains(&secret) && !text.contains(&secret), "{key}");
    }

    let id = made["id"].as_str().expect("id");
    let revoke = async |token: &str, which: &str| {
        let path = format!("/v1/tokens/{which}/");
        site.call(token, "DELETE", &path, Value::Null)
            .await
            .status()
    };
    for which in [id, "ci", "nothing", "..%2F..%2Fusers%2Fada", &secret] {
        assert_eq!(revoke(&bob, which).await, 404, "{which}");
    }
    let who = async |token: &str| site.call(token, "GET", "/v1/", Value::Null).await.status();
    assert_eq!(who(&secret).await, 200);
    assert_eq!((revoke(&ada, id).await, who(&secret).await), (204, 401));
    assert_eq!(revoke(&ada, "ci").await, 404);
    mint(&site, &ada, json!({ "name": "ci", "scope": "all" })).await;
    assert_eq!(revoke(&ada, "ci").await, 204);
    assert_eq!((revoke(&ada, "current").await, who(&ada).await), (204, 401));
}

#[tokio::test]
async fn a_token_ends_and_says_so() {
    let site = Site::start().await;
    let login = site.user("ada", false).await;
    let short = mint(
        &site,
        &login,
        json!({ "name": "short", "scope": "read", "expires": "1m" }),
    )
    .await;
    let key = keys::token(&auth::token_hash(&short));
    let mut token = site
        .store
        .get(&key)
        .await
        .expect("store")
        .expect("token")
        .value;
    token.expires = Some(Timestamp::now() - SignedDuration::from_secs(1));
    let txn = Txn::new().put(&key, &token);
    site.store.commit(txn).await.expect("aged");
    let reply = site.call(&short, "GET", "/v1/apps/", Value::Null).await;
    assert_eq!(reply.line, "HTTP/1.1 401 UNAUTHORIZED");
    assert!(
        reply.body.contains("This token expired on "),
        "{}",
        reply.body
    );
    // Its name is free again.
    mint(&site, &login, json!({ "name": "short", "scope": "read" })).await;
    let reply = site.call(&short, "GET", "/v1/apps/", Value::Null).await;
    assert_eq!(reply.body, r#"{"detail":"Invalid token"}"#);
}

/// Not even a token that is good for everything makes one that outlives it.
#[tokio::test]
async fn nothing_wider_is_minted() {
    let site = Site::start().await;
    let login = site.user("ada", false).await;
    let all = json!({ "name": "robot", "scope": "all", "expires": "10d" });
    let all = mint(&site, &login, all).await;
    for (expires, want) in [(json!(null), 403), (json!("11d"), 403), (json!("9d"), 201)] {
        let body = json!({ "name": "child", "scope": "read", "expires": expires });
        let reply = site.call(&all, "POST", "/v1/tokens/", body).await;
        assert_eq!(reply.status(), want, "{}", reply.body);
    }
    let ended = site.call(&all, "POST", "/v1/auth/tokens/", json!({})).await;
    let new = ended.json()["token"].as_str().expect("token").to_owned();
    for (token, want) in [(&login, 401), (&all, 401), (&new, 200)] {
        let reply = site.call(token, "GET", "/v1/", Value::Null).await;
        assert_eq!(reply.status(), want);
    }
}
