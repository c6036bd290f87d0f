//! What is on the wire besides JSON: status lines, headers, bodies to the letter (reference, 4.1).

use serde_json::{Value, json};

use crate::controller::testing::Site;

#[tokio::test]
async fn status_lines_and_headers_are_v1_s() {
    let site = Site::start().await;
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: deis\r\nConnection: close\r\n{headers}\r\n")
            .into_bytes()
    };
    let token = site.user("ada", false).await;
    let with = format!("Authorization: Token {token}\r\n");
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "/nothing",
            "",
            "HTTP/1.1 404 NOT FOUND",
            r#"{"detail":"Not found"}"#,
        ),
        (
            "/v1/nothing/",
            &with,
            "HTTP/1.1 404 NOT FOUND",
            r#"{"detail":"Not found"}"#,
        ),
        (
            "/v1/apps/nothing/",
            &with,
            "HTTP/1.1 404 NOT FOUND",
            r#"{"detail":"Not found"}"#,
        ),
        (
            "/v1/apps/..%2Fx/",
            &with,
            "HTTP/1.1 404 NOT FOUND",
            r#"{"detail":"Not found"}"#,
        ),
        ("/healthz", "", "HTTP/1.1 200 OK", "OK"),
        ("/v1/", &with, "HTTP/1.1 200 OK", "{}"),
        ("/v1", &with, "HTTP/1.1 200 OK", "{}"),
        (
            "/v1/",
            "",
            "HTTP/1.1 401 UNAUTHORIZED",
            r#"{"detail":"Authentication credentials were not provided."}"#,
        ),
        (
            "/v1/",
            "Authorization: token 0123\r\n",
            "HTTP/1.1 401 UNAUTHORIZED",
            r#"{"detail":"Invalid token"}"#,
        ),
        (
            "/v1/users/",
            &with,
            "HTTP/1.1 403 FORBIDDEN",
            r#"{"detail":"You do not have permission to perform this action."}"#,
        ),
        (
            "/v1/",
            "DEIS-VERSION: 2\r\n",
            "HTTP/1.1 405 METHOD NOT ALLOWED",
            r#"{"error":"Client and server versions do not match. Client version: 2 Server version: 1"}"#,
        ),
    ];
    for (path, headers, line, body) in cases {
        let reply = site.raw(&get(path, headers)).await;
        assert_eq!(reply.line, *line, "{path} {headers}");
        assert_eq!(reply.body, *body, "{path} {headers}");
        for (name, value) in [
            ("DEIS_API_VERSION", "1.7"),
            ("X_DEIS_API_VERSION", "1.7"),
            ("DEIS_PLATFORM_VERSION", env!("CARGO_PKG_VERSION")),
            ("X_DEIS_PLATFORM_VERSION", env!("CARGO_PKG_VERSION")),
            ("Access-Control-Allow-Origin", "*"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path} {name}");
        }
        assert!(
            reply
                .header("X-Request-Id")
                .is_some_and(|id| id.len() == 32)
        );
        let challenge = reply.header("WWW-Authenticate");
        assert_eq!(
            challenge,
            (reply.status() == 401).then_some("Token"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn methods_that_are_not_there() {
    let site = Site::start().await;
    let token = site.user("ada", false).await;
    for method in ["PUT", "PATCH"] {
        let reply = site.call(&token, method, "/v1/apps/", Value::Null).await;
        assert_eq!(reply.line, "HTTP/1.1 405 METHOD NOT ALLOWED");
        let want = json!({ "detail": format!("Method '{method}' not allowed.") });
        assert_eq!(reply.json(), want);
    }
    assert_eq!(
        site.call("", "HEAD", "/healthz", Value::Null)
            .await
            .status(),
        200
    );
    assert_eq!(
        site.call("", "OPTIONS", "/v1/apps/", Value::Null)
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn bodies() {
    let site = Site::start().await;
    let token = site.user("ada", false).await;
    let post = |body: &str| {
        format!(
            "POST /v1/apps HTTP/1.1\r\nHost: deis\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Authorization: token {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    for (body, line) in [
        ("", "HTTP/1.1 201 CREATED"),
        ("{}", "HTTP/1.1 201 CREATED"),
        (" \n", "HTTP/1.1 201 CREATED"),
        ("null", "HTTP/1.1 201 CREATED"),
        ("{", "HTTP/1.1 400 BAD REQUEST"),
        ("[]", "HTTP/1.1 400 BAD REQUEST"),
        ("\u{0}\u{1}", "HTTP/1.1 400 BAD REQUEST"),
    ] {
        assert_eq!(site.raw(&post(body)).await.line, line, "{body:?}");
    }
    let reply = site
        .call(
            &token,
            "POST",
            "/v1/apps/",
            json!({ "id": "a".repeat(1 << 20) }),
        )
        .await;
    assert_eq!(reply.line, "HTTP/1.1 413 REQUEST ENTITY TOO LARGE");
}

/// Every key of every shape, against the reference (4.4).
#[tokio::test]
async fn shapes_have_exactly_v1_s_fields() {
    let site = Site::start().await;
    let token = site.user("ada", true).await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGYih2RCKaV3pu5Kn45gQgMI8w8q6m9agpWVrxAEYPFI";
    for (path, body) in [
        ("/v1/apps/", json!({ "id": "blog" })),
        (
            "/v1/apps/blog/domains/",
            json!({ "domain": "blog.example.org" }),
        ),
        ("/v1/keys/", json!({ "id": "laptop", "public": key })),
    ] {
        assert_eq!(
            site.call(&token, "POST", path, body).await.status(),
            201,
            "{path}"
        );
    }
    site.push("blog", "ada").await;
    let fields = |value: &Value| {
        let mut names: Vec<&str> = value
            .as_object()
            .expect("object")
            .keys()
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names.join(" ")
    };
    let pages = [
        ("apps/", "created id owner structure updated url uuid"),
        (
            "apps/blog/builds/",
            "app created dockerfile image owner procfile sha updated uuid",
        ),
        (
            "apps/blog/releases/",
            "app build config created owner summary updated uuid version",
        ),
        (
            "apps/blog/containers/",
            "app created num owner release state type updated uuid",
        ),
        ("apps/blog/domains/", "app created domain owner updated"),
        (
            "keys/",
            "created fingerprint fingerprint_sha256 id owner public updated uuid",
        ),
        (
            "users/",
            "date_joined email first_name groups is_active is_staff is_superuser last_login \
             last_name user_permissions username",
        ),
        ("admin/perms/", "is_superuser username"),
    ];
    for (path, want) in pages {
        let page = site
            .call(&token, "GET", &format!("/v1/{path}"), Value::Null)
            .await
            .json();
        assert_eq!(fields(&page), "count next previous results", "{path}");
        assert_eq!(fields(&page["results"][0]), want, "{path}");
    }
    let config = site
        .call(&token, "GET", "/v1/apps/blog/config/", Value::Null)
        .await
        .json();
    let want = "app cpu created memory owner tags updated uuid values";
    assert_eq!(fields(&config), want);
    let app = site
        .call(&token, "GET", "/v1/apps/blog/", Value::Null)
        .await
        .json();
    assert_eq!(app["url"], "blog.example.com");
    assert_eq!(app["structure"], json!({ "web": 1 }));
    let created = app["created"].as_str().expect("time");
    assert!(
        created.ends_with("UTC") && created.len() == "2014-01-01T00:00:00UTC".len(),
        "{created}"
    );
}
