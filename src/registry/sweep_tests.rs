//! With real registries.

use std::collections::BTreeMap;

use serde_json::json;
use uuid::Uuid;

use super::replicas::repository_of;
use crate::{
    image::digest_of,
    model::*,
    ops::{app, change},
    registry::testing::{Registry, config, eventually},
    store::{Store, Txn, keys},
};

struct Rig {
    store: Store,
    blog: AppName,
    ada: Username,
}

impl Rig {
    async fn create(&self) -> Uuid {
        let made = app::create(&self.store, &self.ada, Some(self.blog.clone())).await;
        made.expect("made").1.uuid
    }

    /// What the leader does in the end.
    async fn destroy(&self) {
        let txn = Txn::new()
            .delete_prefix(&keys::app_tree(&self.blog))
            .delete(&keys::route(&self.blog))
            .delete(&keys::app(&self.blog));
        self.store.commit(txn).await.expect("destroyed");
    }

    async fn deploy(&self, image: &str) {
        let build = change::NewBuild {
            image: image.to_owned(),
            source: None,
            kind: ImageKind::Image,
            port: 5000,
            sha: String::new(),
            procfile: BTreeMap::new(),
            dockerfile: false,
        };
        let mut say = |_: &str| {};
        let done = change::deploy(&self.store, &self.blog, &self.ada, &build, &mut say).await;
        done.expect("deployed");
    }
}

fn blob(registry: &Registry, digest: &str) -> bool {
    let hex = digest.trim_start_matches("sha256:");
    let path = format!(
        "storage/docker/registry/v2/blobs/sha256/{}/{hex}/data",
        &hex[..2]
    );
    registry.dir.join(path).exists()
}

#[tokio::test]
async fn a_replica_holds_what_it_should() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig {
        store: Store::memory(),
        blog: "blog".parse().expect("a name"),
        ada: "ada".parse().expect("a name"),
    };
    let place = |name: &str| dir.path().join(name);
    let one = Registry::start(&rig.store, "127.0.0.1", place("one")).await;
    let first = rig.create().await;
    let repository = repository_of(&rig.blog, first);
    let cmd = |text: &str| config(json!({"Cmd": [text]}));
    let digest = one.put(&repository, None, &cmd("first")).await;
    let image = format!("{repository}@{digest}");
    rig.deploy(&image).await;
    // The stack's, one that the original builder has pushed, and one of an app that never was.
    let stack = one.put("deis/stack", None, &cmd("stack")).await;
    one.put("blog", Some("git-01234567"), &cmd("pushed")).await;
    let nobody = repository_of(&rig.blog, Uuid::new_v4());
    one.put(&nobody, None, &cmd("nobody")).await;

    // A replica that was away when it was pushed gets it when it comes.
    let two = Registry::start(&rig.store, "127.0.0.2", place("two")).await;
    eventually("the other has it, too", async || two.has(&image).await).await;
    // The one that was there looked again when the other came.
    let want = json!(["blog", repository, "deis/stack"]);
    eventually("what is nobody's goes", async || {
        one.catalog().await == want
    })
    .await;
    assert_eq!(two.catalog().await, json!([repository]));

    // Destroyed and made anew while one of them is away.
    two.stop().await;
    rig.destroy().await;
    eventually("it is gone", async || {
        one.catalog().await == json!(["deis/stack"])
    })
    .await;
    let second = rig.create().await;
    let again = repository_of(&rig.blog, second);
    assert_eq!(
        one.put(&again, None, &cmd("first")).await,
        digest,
        "the same image"
    );
    let image = format!("{again}@{digest}");
    rig.deploy(&image).await;
    let two = Registry::start(&rig.store, "127.0.0.2", place("two")).await;
    eventually("only the new one's is there", async || {
        two.has(&image).await && two.catalog().await == json!([again])
    })
    .await;
    assert!(one.has(&image).await, "it was never gone here");

    // Blobs go when nobody pushes: before the next start.
    let pushed = digest_of(cmd("pushed").to_string().as_bytes());
    assert!(blob(&one, &pushed) && blob(&one, &digest) && blob(&one, &stack));
    one.stop().await;
    let one = Registry::start(&rig.store, "127.0.0.1", place("one")).await;
    assert!(!blob(&one, &pushed));
    assert!(blob(&one, &digest) && blob(&one, &stack));
    assert!(one.has(&image).await && one.has(&format!("deis/stack@{stack}")).await);
}
