//! Keys, domains and administrators: what belongs to whom.

use serde_json::{Value, json};

use super::flows::site_with_app;
use crate::controller::testing::Site;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGYih2RCKaV3pu5Kn45gQgMI8w8q6m9agpWVrxAEYPFI";

#[tokio::test]
async fn keys_are_unique_over_all_users() {
    let site = Site::start().await;
    let ada = site.user("ada", true).await;
    let bob = site.user("bob", false).await;
    let add = async |token: &str, id: &str| {
        let reply = site
            .call(
                token,
                "POST",
                "/v1/keys/",
                json!({ "id": id, "public": KEY }),
            )
            .await;
        (reply.status(), reply.body)
    };
    assert_eq!(add(&bob, "laptop").await.0, 201);
    let taken = (
        400,
        r#"{"public":["This field must be unique."]}"#.to_owned(),
    );
    assert_eq!(add(&ada, "mine").await, taken);
    assert_eq!(add(&bob, "again").await, taken);
    let body = json!({ "id": "x", "public": "ssh-rsa AAA" });
    let reply = site.call(&ada, "POST", "/v1/keys/", body).await;
    assert_eq!(reply.body, r#"{"public":["Incorrect padding"]}"#);
    // Others' keys are not there, for administrators either.
    assert_eq!(
        site.call(&ada, "GET", "/v1/keys/laptop", Value::Null)
            .await
            .status(),
        404
    );
    assert_eq!(
        site.call(&ada, "DELETE", "/v1/keys/laptop", Value::Null)
            .await
            .status(),
        404
    );
    assert_eq!(
        site.call(&bob, "DELETE", "/v1/keys/laptop", Value::Null)
            .await
            .status(),
        204
    );
    assert_eq!(add(&ada, "mine").await.0, 201);
}

#[tokio::test]
async fn domains_belong_to_one_app() {
    let (site, token) = site_with_app().await;
    site.call(&token, "POST", "/v1/apps/", json!({ "id": "shop" }))
        .await;
    let add = async |app: &str, domain: &str| {
        let path = format!("/v1/apps/{app}/domains/");
        let reply = site
            .call(&token, "POST", &path, json!({ "domain": domain }))
            .await;
        (reply.status(), reply.body)
    };
    assert_eq!(add("blog", "blog.example.org").await.0, 201);
    let unique = r#"{"domain":["This field must be unique."]}"#;
    assert_eq!(
        add("blog", "Blog.example.org").await,
        (400, unique.to_owned())
    );
    let other = r#"{"domain":["The domain blog.example.org is already in use by another app"]}"#;
    assert_eq!(
        add("shop", "blog.example.org").await,
        (400, other.to_owned())
    );
    // Another app's own name, or the controller's, can't be taken.
    for domain in ["shop.example.com", "deis.example.com", "example.com"] {
        let (status, body) = add("blog", domain).await;
        assert!(
            status == 400 && body.contains("belongs to the platform"),
            "{domain}: {body}"
        );
    }
    let remove = async |app: &str| {
        let path = format!("/v1/apps/{app}/domains/blog.example.org");
        site.call(&token, "DELETE", &path, Value::Null)
            .await
            .status()
    };
    assert_eq!(
        (
            remove("shop").await,
            remove("blog").await,
            remove("blog").await
        ),
        (404, 204, 404)
    );
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let site = Site::start().await;
    let ada = site.user("ada", true).await;
    site.user("carol", false).await;
    let demote = async |name: &str| {
        let path = format!("/v1/admin/perms/{name}");
        site.call(&ada, "DELETE", &path, Value::Null).await.status()
    };
    assert_eq!(demote("ada").await, 409);
    assert_eq!(
        site.call(&ada, "DELETE", "/v1/auth/cancel/", Value::Null)
            .await
            .status(),
        409
    );
    site.user("bob", true).await;
    assert_eq!(demote("ada").await, 204);
}

/// Two keys made on one computer have the same comment, and v1's clients name them by it.
#[tokio::test]
async fn keys_of_the_same_name_are_told_by_their_fingerprints() {
    let site = Site::start().await;
    let ada = site.user("ada", true).await;
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDEGl2LqqDEQRqlaKFa5ytPhhVQJPBnRPPLVxLm1yVjT";
    let mut prints = Vec::new();
    for public in [KEY, other] {
        let body = json!({ "id": "ada@laptop", "public": public });
        let added = site.call(&ada, "POST", "/v1/keys/", body).await;
        assert_eq!(added.status(), 201, "{}", added.body);
        prints.push(added.json()["fingerprint_sha256"].clone());
    }
    let call = async |method: &str, name: &str| {
        let path = format!("/v1/keys/{name}");
        site.call(&ada, method, &path, Value::Null).await
    };
    let which = call("DELETE", "ada@laptop").await;
    assert_eq!(which.status(), 409);
    assert!(which.body.contains("fingerprint"), "{}", which.body);
    let first = prints[0].as_str().expect("text");
    assert_eq!(call("GET", first).await.json()["public"], KEY);
    assert_eq!(call("DELETE", first).await.status(), 204);
    // The name is enough again.
    assert_eq!(call("DELETE", "ada@laptop").await.status(), 204);
    assert_eq!(call("GET", "ada@laptop").await.status(), 404);
}
