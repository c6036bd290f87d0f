//! Route by route, who may: nobody, a stranger, a collaborator, the owner, an administrator
//! (reference, 4.2 and 4.3). Each case has an app of its own.

use serde_json::{Value, json};

use crate::{
    controller::testing::Site,
    ops,
    store::{Txn, keys},
};

const WHO: [&str; 5] = ["nobody", "stranger", "collaborator", "owner", "admin"];

#[tokio::test]
async fn who_may_do_what_with_an_app() {
    let read = [401, 403, 200, 200, 200];
    let take = [401, 403, 403, 204, 204];
    let none = Value::Null;
    let cases: &[(&str, &str, Value, [u16; 5])] = &[
        ("GET", "", none.clone(), read),
        (
            "POST",
            "",
            json!({ "owner": "stranger" }),
            [401, 403, 403, 200, 200],
        ),
        ("DELETE", "", none.clone(), take),
        ("GET", "config/", none.clone(), read),
        (
            "POST",
            "config/",
            json!({ "values": { "A": "1" } }),
            [401, 403, 201, 201, 201],
        ),
        ("POST", "config/", none.clone(), [401, 403, 201, 201, 201]),
        ("GET", "builds/", none.clone(), read),
        (
            "POST",
            "builds/",
            json!({ "image": "deis/controller" }),
            [401, 403, 403, 403, 403],
        ),
        ("GET", "releases/", none.clone(), read),
        ("GET", "releases/v2/", none.clone(), read),
        (
            "GET",
            "releases/v9/",
            none.clone(),
            [401, 403, 404, 404, 404],
        ),
        (
            "POST",
            "releases/rollback/",
            json!({ "version": 2 }),
            [401, 403, 201, 201, 201],
        ),
        ("GET", "containers/", none.clone(), read),
        ("GET", "containers/web/", none.clone(), read),
        ("GET", "containers/web/1/", none.clone(), read),
        (
            "GET",
            "containers/web/9/",
            none.clone(),
            [401, 403, 404, 404, 404],
        ),
        ("POST", "containers/restart/", none.clone(), read),
        ("POST", "containers/web/restart/", none.clone(), read),
        ("POST", "containers/web/1/restart/", none.clone(), read),
        (
            "POST",
            "scale/",
            json!({ "web": 2 }),
            [401, 403, 204, 204, 204],
        ),
        ("POST", "run", json!({ "command": "true" }), read),
        // No logger is there: it is asked for, and the refusal comes after the permission.
        ("GET", "logs", none.clone(), [401, 403, 500, 500, 500]),
        ("GET", "domains/", none.clone(), read),
        (
            "POST",
            "domains/",
            json!({ "domain": "APP.example.org" }),
            [401, 403, 201, 201, 201],
        ),
        (
            "DELETE",
            "domains/none.example.org",
            none.clone(),
            [401, 403, 403, 404, 404],
        ),
        ("GET", "perms/", none.clone(), read),
        (
            "POST",
            "perms/",
            json!({ "username": "stranger" }),
            [401, 403, 403, 201, 201],
        ),
        (
            "POST",
            "perms/",
            json!({ "username": "unknown" }),
            [401, 403, 403, 404, 404],
        ),
        (
            "DELETE",
            "perms/collaborator",
            none.clone(),
            [401, 403, 204, 204, 204],
        ),
        (
            "DELETE",
            "perms/stranger",
            none.clone(),
            [401, 403, 403, 403, 403],
        ),
    ];
    let site = Site::start().await;
    let mut tokens = vec![String::new()];
    for who in &WHO[1..] {
        tokens.push(site.user(who, *who == "admin").await);
    }
    for (at, (method, path, body, want)) in cases.iter().enumerate() {
        for (who, token) in tokens.iter().enumerate() {
            let app = format!("app-{at}-{who}");
            let name = app.parse().expect("name");
            let owner = "owner".parse().expect("name");
            ops::app::create(&site.store, &owner, Some(app.parse().expect("name")))
                .await
                .expect("app");
            ops::app::update(&site.store, &name, |app| {
                app.collaborators
                    .insert("collaborator".parse().expect("name"));
                Ok(())
            })
            .await
            .expect("shared");
            site.push(&app, "owner").await;
            let body: Value =
                serde_json::from_str(&body.to_string().replace("APP", &app)).expect("json");
            let url = format!("/v1/apps/{app}/{path}");
            let reply = site.call(token, method, &url, body).await;
            assert_eq!(
                reply.status(),
                want[who],
                "{method} {path} by {}: {}",
                WHO[who],
                reply.body
            );
        }
    }
}

#[tokio::test]
async fn who_may_administer() {
    let site = Site::start().await;
    let user = site.user("user", false).await;
    let admin = site.user("admin", true).await;
    site.user("other", true).await;
    site.user("third", false).await;
    let cases: &[(&str, &str, Value, [u16; 3])] = &[
        ("GET", "/v1/users/", Value::Null, [401, 403, 200]),
        ("GET", "/v1/admin/perms/", Value::Null, [401, 403, 200]),
        (
            "POST",
            "/v1/admin/perms/",
            json!({ "username": "third" }),
            [401, 403, 201],
        ),
        (
            "POST",
            "/v1/admin/perms/",
            json!({ "username": "unknown" }),
            [401, 403, 404],
        ),
        (
            "DELETE",
            "/v1/admin/perms/third",
            Value::Null,
            [401, 403, 204],
        ),
        (
            "DELETE",
            "/v1/admin/perms/unknown",
            Value::Null,
            [401, 403, 404],
        ),
        (
            "POST",
            "/v1/auth/tokens/",
            json!({ "username": "other" }),
            [401, 403, 200],
        ),
        (
            "POST",
            "/v1/auth/passwd/",
            json!({ "username": "other", "new_password": "x" }),
            [401, 403, 200],
        ),
        (
            "DELETE",
            "/v1/auth/cancel/",
            json!({ "username": "other" }),
            [401, 403, 204],
        ),
        ("GET", "/v1/keys/", Value::Null, [401, 200, 200]),
        ("GET", "/v1/apps/", Value::Null, [401, 200, 200]),
    ];
    for (method, path, body, want) in cases {
        for (token, want) in ["", &user, &admin].into_iter().zip(want) {
            let reply = site.call(token, method, path, body.clone()).await;
            assert_eq!(reply.status(), *want, "{method} {path}: {}", reply.body);
        }
    }
}

/// An app is listed for its owner, its collaborators and administrators.
#[tokio::test]
async fn lists_show_what_one_may_use() {
    let site = Site::start().await;
    let names = ["owner", "collaborator", "stranger", "admin"];
    let mut tokens = Vec::new();
    for name in names {
        tokens.push(site.user(name, name == "admin").await);
    }
    site.call(&tokens[0], "POST", "/v1/apps/", json!({ "id": "blog" }))
        .await;
    let share = json!({ "username": "collaborator" });
    site.call(&tokens[0], "POST", "/v1/apps/blog/perms/", share)
        .await;
    for (name, (token, count)) in names.iter().zip(tokens.iter().zip([1, 1, 0, 1])) {
        let page = site
            .call(token, "GET", "/v1/apps/", Value::Null)
            .await
            .json();
        assert_eq!(page["count"], count, "{name}");
    }
}

/// A token of a deleted user proves nobody, even when the name is taken again.
#[tokio::test]
async fn a_name_that_is_taken_again_is_somebody_else() {
    let site = Site::start().await;
    let old = site.user("ada", false).await;
    let name = "ada".parse().expect("name");
    site.store
        .commit(Txn::new().delete(&keys::user(&name)))
        .await
        .expect("deleted");
    assert_eq!(
        site.call(&old, "GET", "/v1/", Value::Null).await.status(),
        401
    );
    let new = site.user("ada", false).await;
    assert_eq!(
        site.call(&old, "GET", "/v1/", Value::Null).await.status(),
        401
    );
    assert_eq!(
        site.call(&new, "GET", "/v1/", Value::Null).await.status(),
        200
    );
}
