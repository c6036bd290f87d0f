//! Images by name and the original builder's hooks, with real registries on loopback: one that is
//! somebody's, and two replicas of the platform's.

use std::net::{Ipv4Addr, SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::Path as UrlPath,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::flows::site_with_app;
use crate::{
    controller::testing::{Reply, Site},
    image::{digest_of, manifest},
    model::{AppName, ImageKind, ReleaseNumber},
    ops,
    registry::testing::{Registry, config},
    store::{Store, Txn, keys},
};

fn here() -> &'static str {
    manifest::architecture(std::env::consts::ARCH)
}

fn blog() -> AppName {
    "blog".parse().expect("a name")
}

/// The user ada with her app blog, two replicas, and a registry of somebody's.
struct Rig {
    site: Site,
    ada: String,
    replicas: Vec<Registry>,
    world: Registry,
    _dir: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let (site, ada) = site_with_app().await;
        let dir = tempfile::tempdir().expect("a directory");
        let place = |name: &str| dir.path().join(name);
        let elsewhere = Store::memory();
        let (one, two, world) = tokio::join!(
            Registry::start(&site.store, "127.0.0.1", place("one")),
            Registry::start(&site.store, "127.0.0.2", place("two")),
            Registry::start(&elsewhere, "127.0.0.3", place("world")),
        );
        Self {
            site,
            ada,
            replicas: vec![one, two],
            world,
            _dir: dir,
        }
    }

    async fn setting(&self, target: &str, name: &str, value: &str) {
        let put = Txn::new().put(&keys::setting(target, name), &value.to_owned());
        self.site.store.commit(put).await.expect("set");
    }

    async fn deploy(&self, body: Value) -> Reply {
        let path = "/v1/apps/blog/builds/";
        self.site.call(&self.ada, "POST", path, body).await
    }

    async fn latest(&self) -> ReleaseNumber {
        let app = ops::app::get(&self.site.store, &blog()).await;
        app.expect("the app").value.latest
    }

    /// The image of a release, which all replicas have.
    async fn image_of(&self, release: u32) -> (String, ImageKind) {
        let release = ReleaseNumber(release);
        let found = ops::change::contents(&self.site.store, &blog(), release).await;
        let (_, _, build) = found.expect("read").expect("a release");
        let build = build.expect("a build");
        for replica in &self.replicas {
            assert!(replica.has(&build.image).await, "{}", build.image);
        }
        (build.image, build.kind)
    }
}

#[tokio::test]
async fn an_image_by_its_name() {
    let rig = Rig::start().await;
    let world = rig.world.address;
    let run = json!({"Cmd": ["serve"], "ExposedPorts": {"8080/tcp": {}, "9000/tcp": {}}});
    let digest = rig.world.put("team/app", Some("v1"), &config(run)).await;
    let image = format!("{world}/team/app:v1");

    // Loopback is where the platform's own services are.
    let reply = rig.deploy(json!({ "image": image })).await;
    assert_eq!(
        (reply.status(), rig.latest().await.0),
        (403, 1),
        "{reply:?}"
    );
    assert!(
        reply.body.contains("deisctl config registry set"),
        "{reply:?}"
    );

    rig.setting("registry", "insecure", &format!("other:1,{world}"))
        .await;
    let reply = rig.deploy(json!({ "image": image })).await;
    assert_eq!(reply.status(), 201, "{reply:?}");
    assert_eq!(reply.header("deis-release"), Some("2"));
    assert_eq!(reply.header("x-deis-release"), Some("2"));
    let build = reply.json();
    assert_eq!(
        (&build["image"], &build["sha"]),
        (&json!(image), &json!(""))
    );
    assert_eq!(
        (&build["dockerfile"], &build["procfile"]),
        (&json!(""), &json!({}))
    );
    let (stored, kind) = rig.image_of(2).await;
    assert!(stored.ends_with(&format!("@{digest}")), "{stored}");
    assert_eq!(kind, ImageKind::Image);
    let app = ops::app::get(&rig.site.store, &blog())
        .await
        .expect("app")
        .value;
    assert_eq!(
        serde_json::to_value(&app.structure).expect("json"),
        json!({"cmd": 1})
    );
    let release = "/v1/apps/blog/releases/v2/";
    let release = rig.site.call(&rig.ada, "GET", release, Value::Null).await;
    assert_eq!(release.json()["summary"], format!("ada deployed {image}"));

    // By digest, with a Procfile, as an object or as v1's clients may send it: a text.
    let pinned = format!("{world}/team/app@{digest}");
    for procfile in [json!({"web": "bash run"}), json!(r#"{"web": "bash run"}"#)] {
        let reply = rig
            .deploy(json!({ "image": pinned, "procfile": procfile }))
            .await;
        assert_eq!(reply.status(), 201, "{reply:?}");
        assert_eq!(reply.json()["procfile"], json!({"web": "bash run"}));
    }

    // One of several platforms.
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let entry = |digest: &str, os: &str, architecture: &str| {
        json!({
            "digest": digest, "size": 1, "platform": {"os": os, "architecture": architecture},
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        })
    };
    let both = json!({
        "schemaVersion": 2, "mediaType": list,
        "manifests": [entry(&digest, "windows", here()), entry(&digest, "linux", here())],
    });
    rig.world
        .put_manifest("team/app", Some("both"), list, &both)
        .await;
    let reply = rig
        .deploy(json!({ "image": format!("{world}/team/app:both") }))
        .await;
    assert_eq!(reply.status(), 201, "{reply:?}");
    assert_eq!(rig.image_of(5).await.0, stored);
}

#[tokio::test]
async fn what_fails_takes_no_number() {
    let mut rig = Rig::start().await;
    let world = rig.world.address;
    rig.setting("registry", "insecure", &world.to_string())
        .await;
    let idle = config(json!({}));
    rig.world.put("team/idle", Some("latest"), &idle).await;
    let mut other = config(json!({"Cmd": ["x"]}));
    other["architecture"] = json!("s390x");
    rig.world.put("team/other", Some("latest"), &other).await;
    let ours = rig.replicas[0].address;
    let image = |name: &str| json!({ "image": name });
    let at = |name: &str| json!({ "image": format!("{world}/{name}") });
    let cases = [
        (json!({}), 400, r#"{"image":["This field is required."]}"#),
        (image("a b"), 400, "no name of an image"),
        (image("../../etc/passwd"), 400, "no name of an image"),
        (image(&"a".repeat(257)), 400, "no more than 256 characters"),
        (at("team/none"), 400, "image not found: "),
        (at("team/idle:v9"), 400, "image not found: "),
        (at("team/idle"), 400, "neither CMD nor ENTRYPOINT"),
        (at("team/other"), 400, "it is for linux/s390x"),
        (
            image("deis/controller"),
            403,
            r#"{"detail":"Repository name deis/controller is not allowed"}"#,
        ),
        (image("127.0.0.1:2379/x"), 403, "not on the public internet"),
        (
            image("169.254.169.254/x"),
            403,
            "not on the public internet",
        ),
        (image("localhost:2379/x"), 403, "not on the public internet"),
        (
            image(&format!("{ours}/x")),
            403,
            "the platform's own registry",
        ),
        (
            json!({"image": "nginx", "procfile": {"run": "x"}}),
            400,
            "procfile",
        ),
        (
            json!({"image": "nginx", "procfile": {"web": 1}}),
            400,
            "procfile",
        ),
        (json!({"image": "nginx", "sha": "zzz"}), 400, "sha"),
        (
            json!({"image": "other", "sha": "01234567"}),
            400,
            "the image must be blog",
        ),
        (
            json!({"image": "blog", "sha": "01234567"}),
            400,
            "image not found: ",
        ),
    ];
    for (body, status, text) in cases {
        let reply = rig.deploy(body.clone()).await;
        assert_eq!(reply.status(), status, "{body}: {reply:?}");
        assert!(reply.body.contains(text), "{body}: {reply:?}");
        assert_eq!(rig.latest().await, ReleaseNumber(1), "{body}");
    }
    // Without a registry of ours.
    for replica in std::mem::take(&mut rig.replicas) {
        replica.stop().await;
    }
    let reply = rig.deploy(at("team/idle")).await;
    assert_eq!(
        (reply.status(), rig.latest().await.0),
        (503, 1),
        "{reply:?}"
    );
}

/// A registry that lies: `private` wants ada's credentials, `moved` leads to loopback, `forged` sends
/// other bytes than it says, `endless` never ends.
async fn liar() -> SocketAddr {
    async fn answer(UrlPath(path): UrlPath<String>, headers: HeaderMap) -> Response {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let config = config(json!({"Cmd": ["x"]})).to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"digest": digest_of(config.as_bytes()), "size": config.len()},
            "layers": [{"mediaType": layer, "digest": digest_of(b"a layer"), "size": 7}],
        });
        let given = headers.get(header::AUTHORIZATION);
        let given = given
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let (repository, what) = path.split_once('/').unwrap_or((&path, ""));
        let host = headers[header::HOST].to_str().expect("a host");
        match (repository, what.split('/').next()) {
            ("token", _) if given == "Basic YWRhOnNlY3JldA==" => {
                json!({"token": "abc"}).to_string().into_response()
            }
            ("token", _) => StatusCode::UNAUTHORIZED.into_response(),
            ("private", _) if given != "Bearer abc" => {
                let realm = format!("Bearer realm=\"http://{host}/v2/token\",service=\"x\"");
                (
                    StatusCode::UNAUTHORIZED,
                    [(header::WWW_AUTHENTICATE, realm)],
                )
                    .into_response()
            }
            ("moved", _) => {
                let to = [(header::LOCATION, "http://127.0.0.1:2379/version")];
                (StatusCode::TEMPORARY_REDIRECT, to).into_response()
            }
            (_, Some("manifests")) => manifest.to_string().into_response(),
            (_, Some("blobs")) if what.ends_with(&digest_of(config.as_bytes())) => {
                config.into_response()
            }
            ("forged", _) => "b layer".into_response(),
            ("endless", _) => {
                let chunk = || Ok::<_, std::io::Error>(vec![0u8; 1 << 16]);
                Body::from_stream(futures_util::stream::repeat_with(chunk)).into_response()
            }
            _ => "a layer".into_response(),
        }
    }
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("its address");
    let app = Router::new().route("/v2/{*path}", get(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn registries_that_lie_and_those_that_are_private() {
    let rig = Rig::start().await;
    let liar = liar().await;
    rig.setting("registry", "insecure", &liar.to_string()).await;
    for (name, status, text) in [
        ("forged", 503, "sent something else than the layer"),
        ("endless", 503, "sent something else than the layer"),
        ("moved", 403, "127.0.0.1:2379 would be asked in clear"),
        ("private", 400, "image not found: "),
    ] {
        let reply = rig
            .deploy(json!({ "image": format!("{liar}/{name}") }))
            .await;
        assert_eq!(reply.status(), status, "{name}: {reply:?}");
        assert!(reply.body.contains(text), "{name}: {reply:?}");
        assert_eq!(rig.latest().await, ReleaseNumber(1), "{name}");
    }
    let values = json!({"REGISTRY_USERNAME": "ada", "REGISTRY_PASSWORD": "secret"});
    let path = "/v1/apps/blog/config/";
    let set = rig
        .site
        .call(&rig.ada, "POST", path, json!({ "values": values }));
    assert_eq!(set.await.status(), 201);
    let reply = rig
        .deploy(json!({ "image": format!("{liar}/private") }))
        .await;
    assert_eq!(reply.status(), 201, "{reply:?}");
    rig.image_of(3).await;
}

impl Rig {
    async fn hook(&self, path: &str, headers: &str, body: &Value) -> Reply {
        let body = body.to_string();
        let request = format!(
            "POST /v1/hooks/{path} HTTP/1.1\r\nHost: deis.example.com\r\nConnection: close\r\n\
             Content-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.site.raw(request.as_bytes()).await
    }
}

#[tokio::test]
async fn hooks_of_the_original_builder() {
    let rig = Rig::start().await;
    let push = json!({
        "receive_user": "ada", "receive_repo": "blog", "sha": "0".repeat(40),
        "fingerprint": "54:6d", "ssh_connection": "10.0.0.1 1 10.0.0.2 2222",
        "ssh_original_command": "git-receive-pack 'blog.git'",
    });
    // Who is the builder?
    rig.setting("controller", "builderKey", "s3cr3t+/=").await;
    let key = "X-Deis-Builder-Auth: s3cr3t+/=\r\n";
    let token = format!("Authorization: token {}\r\n", rig.ada);
    for (headers, status) in [
        ("", 401),
        ("X-Deis-Builder-Auth: \r\n", 401),
        ("X-Deis-Builder-Auth: s3cr3t+/\r\n", 401),
        (
            "Authorization: token 0000000000000000000000000000000000000000\r\n",
            401,
        ),
        (token.as_str(), 403),
        (key, 201),
    ] {
        let reply = rig.hook("push/", headers, &push).await;
        assert_eq!(reply.status(), status, "{headers:?}: {reply:?}");
    }
    // What an operator set in clear does not stay so.
    let stored = keys::setting("controller", "builderKey");
    let stored = rig
        .site
        .store
        .get(&stored)
        .await
        .expect("read")
        .expect("a key");
    assert!(stored.value.starts_with("sealed1:"), "{}", stored.value);

    let reply = rig.hook("push/", key, &push).await;
    let shape = reply.json();
    for (field, value) in push.as_object().expect("fields") {
        assert_eq!(&shape[field], value, "{field}");
    }
    assert_eq!(
        (&shape["owner"], &shape["app"]),
        (&json!("ada"), &json!("blog"))
    );
    assert_eq!(shape.as_object().expect("fields").len(), 11, "{shape}");

    // About whom, and what?
    rig.site.user("bob", false).await;
    let mut built = json!({
        "sha": "01234567", "receive_user": "ada", "receive_repo": "blog", "image": "blog",
        "procfile": {"web": "serve", "worker": "work"}, "dockerfile": "",
    });
    for path in ["push/", "build/", "config/"] {
        for (user, repository, status) in [
            ("ada", "none", 404),
            ("nobody", "blog", 404),
            ("bob", "blog", 403),
            ("ada", "../x", 404),
        ] {
            let mut body = if path == "push/" {
                push.clone()
            } else {
                built.clone()
            };
            body["receive_user"] = json!(user);
            body["receive_repo"] = json!(repository);
            let reply = rig.hook(path, key, &body).await;
            assert_eq!(
                reply.status(),
                status,
                "{path} {user} {repository}: {reply:?}"
            );
        }
    }

    let values = json!({"values": {"NAME": "zoë\n%n"}});
    rig.site
        .call(&rig.ada, "POST", "/v1/apps/blog/config/", values)
        .await;
    let who = json!({"receive_user": "ada", "receive_repo": "blog"});
    let reply = rig.hook("config/", key, &who).await;
    assert_eq!(
        (reply.status(), &reply.json()["values"]["NAME"]),
        (200, &json!("zoë\n%n"))
    );
    assert!(
        reply.json()["created"]
            .as_str()
            .expect("a time")
            .ends_with("UTC"),
        "{reply:?}"
    );

    // The builder has pushed to one of the replicas.
    let reply = rig.hook("build/", key, &built).await;
    assert_eq!(
        (reply.status(), rig.latest().await.0),
        (400, 2),
        "{reply:?}"
    );
    let slug = config(json!({"Entrypoint": ["/runner/init"]}));
    rig.replicas[1]
        .put("blog", Some("git-01234567"), &slug)
        .await;
    let reply = rig.hook("build/", key, &built).await;
    assert_eq!(reply.status(), 200, "{reply:?}");
    let want = json!({"release": {"version": 3}, "domains": ["blog.example.com"]});
    assert_eq!(reply.json(), want);
    let (_, kind) = rig.image_of(3).await;
    assert_eq!(kind, ImageKind::Runner);
    let release = rig
        .site
        .call(&rig.ada, "GET", "/v1/apps/blog/releases/v3/", Value::Null)
        .await;
    assert_eq!(release.json()["summary"], "ada deployed 0123456");
    built["dockerfile"] = json!("true");
    assert_eq!(rig.hook("build/", key, &built).await.status(), 200);
    assert_eq!(rig.image_of(4).await.1, ImageKind::Image);
}

/// Only a while of pushes is kept.
#[tokio::test]
async fn pushes_are_bounded() {
    let (site, _) = site_with_app().await;
    let put = Txn::new().put(&keys::setting("controller", "builderKey"), &"k".to_owned());
    site.store.commit(put).await.expect("set");
    let body = json!({
        "receive_user": "ada", "receive_repo": "blog", "sha": "0", "fingerprint": "x",
        "ssh_connection": "x", "ssh_original_command": "x",
    })
    .to_string();
    let request = format!(
        "POST /v1/hooks/push/ HTTP/1.1\r\nHost: d\r\nConnection: close\r\nX-Deis-Builder-Auth: k\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..103 {
        assert_eq!(site.raw(request.as_bytes()).await.status(), 201);
    }
    let kept = site.store.list(&keys::pushes(&blog())).await.expect("read");
    assert_eq!(kept.entries.len(), 100);
}
