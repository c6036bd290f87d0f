//! For tests: a real registry on loopback, and images for it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http::header;
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Places, RegistryError, run_at};
use crate::{
    image::{digest_of, manifest},
    store::{Store, keys},
};

/// Longest wait for anything.
const LONG: Duration = Duration::from_secs(30);

/// A real registry, as long as this lives.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    pub(crate) dir: PathBuf,
    store: Store,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), RegistryError>>>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !look().await {
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
}

/// The configuration of an image of one layer, for these hosts.
pub(crate) fn config(run: Value) -> Value {
    json!({
        "architecture": manifest::architecture(std::env::consts::ARCH), "os": "linux", "config": run,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(b"a layer")]},
    })
}

impl Registry {
    /// A registry at an address of loopback (each of a store's needs its own), with files in a
    /// directory that outlives it.
    pub(crate) async fn start(store: &Store, ip: &str, dir: PathBuf) -> Self {
        let free = std::net::TcpListener::bind((ip, 0)).expect("a port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let places = Places {
            program: "/usr/bin/docker-registry".into(),
            storage: dir.join("storage"),
            run: dir.join("run"),
            listen: address,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(run_at(places, store.clone(), stop.clone()));
        let key = keys::part("registry", ip);
        eventually("a registry", async || {
            store.get(&key).await.expect("asked").is_some()
        })
        .await;
        Self {
            address,
            dir,
            store: store.clone(),
            stop,
            running: Some(running),
        }
    }

    /// Stops it; what it has kept stays.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let running = self.running.take().expect("running");
        let ended = timeout(LONG, running).await.expect("in time");
        ended.expect("joined").expect("well");
        let key = keys::part("registry", &self.address.ip().to_string());
        assert!(self.store.get(&key).await.expect("asked").is_none());
    }

    /// Puts an image there, under a tag or its digest; returns its digest.
    pub(crate) async fn put(&self, repository: &str, tag: Option<&str>, config: &Value) -> String {
        let root = format!("http://{}/v2/{repository}", self.address);
        let mut blobs = Vec::new();
        for bytes in [config.to_string().into_bytes(), b"a layer".to_vec()] {
            let begun = client().post(format!("{root}/blobs/uploads/")).send().await;
            let begun = begun.expect("begun");
            let to = begun.headers()[header::LOCATION].to_str().expect("a place");
            let (to, digest, size) = (to.to_owned(), digest_of(&bytes), bytes.len());
            let put = client().put(format!("{to}&digest={digest}")).body(bytes);
            let done = put.send().await.expect("sent");
            assert_eq!(done.status(), 201);
            blobs.push(json!({"digest": digest, "size": size}));
        }
        blobs[1]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
        blobs[0]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": blobs[0], "layers": [blobs[1]],
        });
        self.put_manifest(repository, tag, kind, &manifest).await
    }

    /// Puts a manifest there.
    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        kind: &str,
        what: &Value,
    ) -> String {
        let text = what.to_string();
        let digest = digest_of(text.as_bytes());
        let tag = tag.unwrap_or(&digest);
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        let put = client().put(url).header(header::CONTENT_TYPE, kind);
        let done = put.body(text).send().await.expect("sent");
        assert_eq!(done.status(), 201, "{}", done.text().await.expect("text"));
        digest
    }

    /// Whether it has an image, by digest.
    pub(crate) async fn has(&self, image: &str) -> bool {
        let (repository, digest) = image.split_once('@').expect("an image");
        let url = format!("http://{}/v2/{repository}/manifests/{digest}", self.address);
        let asked = client().get(url).header(header::ACCEPT, manifest::ACCEPT);
        asked.send().await.expect("asked").status() == 200
    }

    /// Its repositories, sorted: upstream lists them as it finds them.
    pub(crate) async fn catalog(&self) -> Value {
        let url = format!("http://{}/v2/_catalog", self.address);
        let answer = client().get(url).send().await.expect("asked");
        let text = answer.text().await.expect("text");
        let catalog: Value = serde_json::from_str(&text).expect("JSON");
        let mut names: Vec<&str> = catalog["repositories"]
            .as_array()
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        names.sort_unstable();
        json!(names)
    }
}
