//! Certificates over the wire, wildcards, and who speaks for a name (reference, 4.3 and 4.4).

use serde_json::{Value, json};

use super::flows::site_with_app;
use crate::{
    cert::tests::{Authority, Files, self_signed},
    controller::testing::Site,
    model::{Certificate, Route},
    seal::cert_context,
    store::keys,
};

async fn add(site: &Site, token: &str, files: &Files, name: Option<&str>) -> (u16, Value) {
    let mut body = json!({ "certificate": files.certificate, "key": files.key });
    if let Some(name) = name {
        body["common_name"] = name.into();
    }
    let reply = site.call(token, "POST", "/v1/certs/", body).await;
    (reply.status(), reply.json())
}

async fn call(site: &Site, token: &str, method: &str, path: &str) -> (u16, String) {
    let reply = site.call(token, method, path, Value::Null).await;
    (reply.status(), reply.body)
}

#[tokio::test]
async fn a_certificate_is_its_owners_alone() {
    let site = Site::start().await;
    let ada = site.user("ada", true).await;
    let bob = site.user("bob", false).await;
    let files = self_signed(&["www.example.org", "example.org"]);
    let (status, cert) = add(&site, &bob, &files, None).await;
    assert_eq!(status, 201, "{cert}");
    // Exactly v1's fields: neither certificate nor key comes back.
    let created = cert["created"].as_str().expect("time");
    let want = json!({
        "id": cert["id"], "owner": "bob", "common_name": "www.example.org",
        "expires": "2090-01-01T00:00:00UTC", "created": created, "updated": created,
    });
    assert_eq!(cert, want);
    assert!(cert["id"].is_u64(), "a JSON number: {cert}");
    let (_, other) = add(&site, &bob, &self_signed(&["b.example.org"]), None).await;
    assert_ne!(other["id"], cert["id"], "a number of its own");

    let (status, page) = call(&site, &bob, "GET", "/v1/certs/").await;
    let page: Value = serde_json::from_str(&page).expect("json");
    assert_eq!((status, &page["count"]), (200, &json!(2)));
    assert_eq!(page["results"], json!([want, other]));
    let one = call(&site, &bob, "GET", "/v1/certs/www.example.org").await;
    assert_eq!(
        (one.0, serde_json::from_str::<Value>(&one.1).expect("json")),
        (200, want)
    );

    // In etcd the key is sealed.
    let name = "www.example.org".parse().expect("name");
    let record: Certificate = site
        .store
        .get(&keys::cert(&name))
        .await
        .expect("store")
        .expect("record")
        .value;
    assert_eq!(record.chain, files.certificate);
    let stored = serde_json::to_string(&record).expect("json");
    assert!(!stored.contains("PRIVATE KEY"), "{stored}");
    let opened = site.state.key.open_text(&cert_context(&name), &record.key);
    assert_eq!(*opened.expect("opens").expose(), files.key);

    // Nobody else sees it, administrators included.
    let page = call(&site, &ada, "GET", "/v1/certs/").await;
    assert!(page.1.contains(r#""count":0"#), "{page:?}");
    for path in [
        "/v1/certs/www.example.org",
        "/v1/certs/www.example.org/chain",
    ] {
        assert_eq!(call(&site, &ada, "GET", path).await.0, 404, "{path}");
    }
    let path = "/v1/certs/www.example.org/";
    assert_eq!(call(&site, &ada, "DELETE", path).await.0, 404);
    let unique = json!({ "common_name": ["This field must be unique."] });
    assert_eq!(add(&site, &ada, &files, None).await, (400, unique));
    assert_eq!(call(&site, "", "GET", "/v1/certs/").await.0, 401);
    assert_eq!(call(&site, "", "DELETE", path).await.0, 401);

    assert_eq!(
        call(&site, &bob, "DELETE", path).await,
        (204, String::new())
    );
    assert_eq!(call(&site, &bob, "DELETE", path).await.0, 404);
    assert_eq!(call(&site, &bob, "GET", "/v1/certs/none%2Fx").await.0, 404);
    assert_eq!(
        add(&site, &ada, &files, None).await.0,
        201,
        "the name is free again"
    );
    // Who goes takes his certificates along.
    assert_eq!(call(&site, &bob, "DELETE", "/v1/auth/cancel/").await.0, 204);
    let left = site
        .store
        .list(&keys::certs())
        .await
        .expect("store")
        .entries;
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn what_no_router_could_serve_is_refused() {
    let site = Site::start().await;
    let bob = site.user("bob", false).await;
    let (good, other) = (
        self_signed(&["a.example.org"]),
        self_signed(&["a.example.org"]),
    );
    let no_names = Authority::new("Root").sign(&[]);
    let of = |certificate: &str, key: &str| Files {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    for (files, name, field, want) in [
        (
            of("no PEM", &good.key),
            None,
            "certificate",
            "Could not load certificate: there is no certificate in it",
        ),
        (
            of(&good.certificate, "no PEM"),
            None,
            "key",
            "there is no private key in it",
        ),
        (
            of(&good.certificate, &other.key),
            None,
            "key",
            "the private key does not belong to the certificate",
        ),
        (
            good.clone(),
            Some("b.example.org"),
            "common_name",
            "the certificate is not for b.example.org, but for a.example.org",
        ),
        (
            no_names,
            None,
            "common_name",
            "the certificate names no domain",
        ),
    ] {
        let (status, body) = add(&site, &bob, &files, name).await;
        let why = body[field][0]
            .as_str()
            .unwrap_or_else(|| panic!("{field}: {body}"));
        assert_eq!(status, 400);
        assert!(why.starts_with(want), "{why}");
        let secret = good.key.lines().nth(1).expect("key");
        assert!(!body.to_string().contains(secret), "{body}");
    }
    assert!(
        site.store
            .list(&keys::certs())
            .await
            .expect("store")
            .entries
            .is_empty()
    );
}

#[tokio::test]
async fn names_one_by_one_wildcards_and_the_chain() {
    let site = Site::start().await;
    let bob = site.user("bob", false).await;
    let root = Authority::new("Root");
    let leaf = root.sign(&["*.example.org", "example.org"]);
    let files = Files {
        certificate: format!("{}{}", leaf.certificate, root.pem),
        key: leaf.key,
    };
    let name = |cert: &Value| cert["common_name"].clone();
    let (status, cert) = add(&site, &bob, &files, None).await;
    assert_eq!((status, name(&cert)), (201, json!("*.example.org")));
    // As `certs:add --subject-alt-names` does it: one for each name.
    for one in ["example.org", "Shop.example.org."] {
        let (status, cert) = add(&site, &bob, &files, Some(one)).await;
        let want = one.to_lowercase();
        assert_eq!(
            (status, name(&cert)),
            (201, json!(want.trim_end_matches('.')))
        );
    }
    let (status, chain) = call(&site, &bob, "GET", "/v1/certs/%2A.example.org/chain/").await;
    let chain: Value = serde_json::from_str(&chain).expect("json");
    assert_eq!(status, 200, "{chain}");
    assert_eq!(chain["names"], json!(["*.example.org", "example.org"]));
    assert_eq!(chain["chain"][0]["issuer"], "CN=Root");
    assert_eq!(chain["chain"][1]["subject"], "CN=Root");
    let record = keys::cert(&"shop.example.org".parse().expect("name"));
    let record = site
        .store
        .get(&record)
        .await
        .expect("store")
        .expect("record");
    assert_eq!(record.value.names.len(), 1, "for that name alone");
    assert_eq!(
        call(&site, &bob, "DELETE", "/v1/certs/*.example.org/")
            .await
            .0,
        204
    );
}

#[tokio::test]
async fn nobody_speaks_for_others() {
    let (site, ada) = site_with_app().await;
    let bob = site.user("bob", false).await;
    let domain = async |token: &str, app: &str, domain: &str| {
        let path = format!("/v1/apps/{app}/domains/");
        let reply = site
            .call(token, "POST", &path, json!({ "domain": domain }))
            .await;
        (reply.status(), reply.body)
    };
    site.call(&bob, "POST", "/v1/apps/", json!({ "id": "bobs" }))
        .await;
    assert_eq!(domain(&ada, "blog", "*.ada.org").await.0, 201);
    assert_eq!(domain(&ada, "blog", "www.ada.net").await.0, 201);
    let refused = async |names: &[&str]| {
        let (status, body) = add(&site, &bob, &self_signed(names), None).await;
        assert_eq!(status, 400, "{body}");
        body["common_name"][0].as_str().expect("why").to_owned()
    };
    let taken = "The domain www.ada.net is already in use by another app";
    assert_eq!(refused(&["www.ada.net"]).await, taken);
    assert_eq!(refused(&["bob.org", "*.ada.net"]).await, taken);
    for names in [
        ["deis.example.com"],
        ["*.example.com"],
        ["blog.example.com"],
    ] {
        assert!(
            refused(&names).await.contains("belongs to the platform"),
            "{names:?}"
        );
    }
    // For the one name that is his he may use it.
    let files = self_signed(&["bob.org", "www.ada.net"]);
    assert_eq!(add(&site, &bob, &files, Some("bob.org")).await.0, 201);
    assert_eq!(add(&site, &ada, &files, Some("www.ada.net")).await.0, 201);

    // What lies below somebody's wildcard is his.
    let below = r#"{"domain":["The domain shop.ada.org is already in use by another app"]}"#;
    assert_eq!(
        domain(&bob, "bobs", "shop.ada.org").await,
        (400, below.to_owned())
    );
    assert_eq!(domain(&ada, "blog", "shop.ada.org").await.0, 201);
    let own = r#"{"domain":["*.example.com belongs to the platform"]}"#;
    assert_eq!(
        domain(&bob, "bobs", "*.example.com").await,
        (400, own.to_owned())
    );

    // With the app its domains go, and are free for others; certificates stay with their owner.
    assert_eq!(call(&site, &ada, "DELETE", "/v1/apps/blog").await.0, 204);
    assert_eq!(domain(&bob, "bobs", "shop.ada.org").await.0, 201);
    assert_eq!(
        call(&site, &ada, "GET", "/v1/certs/www.ada.net").await.0,
        200
    );
}

#[tokio::test]
async fn an_app_that_goes_gets_no_domain() {
    let (site, ada) = site_with_app().await;
    let key = keys::app(&"blog".parse().expect("app"));
    // The site's leader destroys it at once; this app is the moment before.
    let mut app = site
        .store
        .get(&key)
        .await
        .expect("store")
        .expect("app")
        .value;
    app.destroying = true;
    let key = keys::app(&"going".parse().expect("app"));
    let txn = crate::store::Txn::new().put(&key, &app);
    let body = json!({ "domain": "www.example.org" });
    let adding = site.call(&ada, "POST", "/v1/apps/going/domains/", body);
    site.store.commit(txn).await.expect("going");
    let status = adding.await.status();
    assert!(status == 409 || status == 404, "{status}");
    let left = site.store.list(&keys::domains()).await.expect("store");
    assert!(left.entries.is_empty());
}

#[tokio::test]
async fn a_whitelist_goes_with_the_release_that_is_active() {
    let (site, ada) = site_with_app().await;
    let blog = "blog".parse().expect("app");
    let set = async |values: Value| {
        let body = json!({ "values": values });
        let reply = site.call(&ada, "POST", "/v1/apps/blog/config/", body).await;
        (reply.status(), reply.body)
    };
    let admitted = async || {
        let route = site.store.get(&keys::route(&blog)).await.expect("store");
        let route: Route = route.expect("route").value;
        route.whitelist.to_string()
    };
    let list = "10.0.0.0/8:vpn,192.0.2.7:office";
    // Before the first build a release is active at once; after it, when its rollout is done.
    for push in [false, true] {
        if push {
            site.push("blog", "ada").await;
        }
        assert_eq!(set(json!({ "DEIS_WHITELIST": list })).await.0, 201);
        assert_eq!(admitted().await, "10.0.0.0/8,192.0.2.7/32");
        assert_eq!(set(json!({ "OTHER": "1" })).await.0, 201);
        assert_eq!(admitted().await, "10.0.0.0/8,192.0.2.7/32", "it stays");
        assert_eq!(set(json!({ "DEIS_WHITELIST": null })).await.0, 201);
        assert_eq!(admitted().await, "");
        let back = site
            .call(
                &ada,
                "POST",
                "/v1/apps/blog/releases/rollback/",
                Value::Null,
            )
            .await;
        assert_eq!(back.status(), 201, "{}", back.body);
        assert_eq!(admitted().await, "10.0.0.0/8,192.0.2.7/32", "it comes back");
    }
    // A release that fails changes nothing.
    let failed = set(json!({ "DEIS_WHITELIST": "192.0.2.9", "FAIL": "1" })).await;
    assert_eq!(failed.0, 503, "{failed:?}");
    assert_eq!(admitted().await, "10.0.0.0/8,192.0.2.7/32");
    let (status, body) = set(json!({ "DEIS_WHITELIST": "everybody" })).await;
    assert_eq!(status, 400);
    assert!(
        body.contains(r#"DEIS_WHITELIST: \"everybody\" is neither"#),
        "{body}"
    );
    // The value itself is a config value as any other.
    let config = call(&site, &ada, "GET", "/v1/apps/blog/config/").await.1;
    assert!(config.contains(list), "{config}");
}
