//! The builder with the real thing on each side: git and OpenSSH clients against our sshd, and
//! Debian's docker-registry. All on loopback. Needs root, as the builder does.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use deis::{
    builder::{self, Places, authorized::OfferedKey, build::BuildSettings, refs::Sha},
    image::{
        Blob, config,
        layer::{self, Limits},
        push::{Image, Registry},
    },
    model::*,
    registry,
    seal::ClusterKey,
    store::{Store, Txn, keys},
};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest wait for anything.
const LONG: Duration = Duration::from_secs(30);

fn name<T: std::str::FromStr<Err = InvalidName>>(text: &str) -> T {
    text.parse().expect("a name")
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: not within {LONG:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// A builder on loopback over a store in memory, with the user ada and her app hello.
struct Rig {
    dir: TempDir,
    store: Store,
    address: SocketAddr,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), builder::BuilderError>>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.pam());
    }
}

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

impl Rig {
    async fn new() -> Self {
        let rig = Self {
            dir: tempfile::tempdir().expect("a directory"),
            store: Store::memory(),
            address: free_port(),
            stop: CancellationToken::new(),
            running: None,
        };
        rig.user("ada").await;
        rig.add_key("ada").await;
        rig.app("hello", "ada").await;
        rig.start().await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// PAM looks nowhere else; each rig has a service of its own.
    fn pam(&self) -> PathBuf {
        format!("/etc/pam.d/deis-test-{}", self.address.port()).into()
    }

    async fn start(mut self) -> Self {
        let places = Places {
            program: env!("CARGO_BIN_EXE_deisd").into(),
            user: "root".into(),
            socket: self.path("run/builder.sock"),
            run: self.path("run"),
            repositories: self.path("git"),
            pam: self.pam(),
            given_host_key: self.path("no-key"),
            listen: self.address,
            build: BuildSettings {
                buildpacks: concat!(env!("CARGO_MANIFEST_DIR"), "/buildpacks").into(),
                stack: self.path("no-stack"),
                host: self.path("no-host"),
                data: self.path("data"),
                run: self.path("run"),
            },
        };
        let key = ClusterKey::parse(KEY).expect("a key");
        let (store, stop) = (self.store.clone(), self.stop.clone());
        let running = tokio::spawn(builder::run_at(places, store, key, stop));
        self.running = Some(running);
        let ip = self.address.ip().to_string();
        eventually("the builder is registered", async || {
            if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
                let ended = self.running.take().expect("running").await;
                panic!("the builder ended: {ended:?}");
            }
            self.store
                .get(&keys::part("builder", &ip))
                .await
                .expect("asked")
        })
        .await;
        self
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let running = self.running.take().expect("running");
        tokio::time::timeout(LONG, running)
            .await
            .expect("in time")
            .expect("joined")
            .expect("well");
    }

    async fn put(&self, txn: Txn) {
        self.store.commit(txn).await.expect("put");
    }

    async fn user(&self, who: &str) {
        let user = User {
            schema: SCHEMA,
            uuid: Uuid::new_v4(),
            username: name(who),
            email: String::new(),
            first_name: String::new(),
            last_name: String::new(),
            password: String::new(),
            is_superuser: false,
            created: Timestamp::now(),
            last_login: None,
        };
        self.put(Txn::new().put(&keys::user(&user.username), &user))
            .await;
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(self.path(who))
            .status();
        assert!(made.expect("ssh-keygen").success());
    }

    async fn add_key(&self, who: &str) {
        let public = std::fs::read_to_string(self.path(who).with_extension("pub")).expect("a key");
        let mut words = public.split_ascii_whitespace();
        let kind = words.next().expect("a type");
        let offered = OfferedKey::parse(kind, words.next().expect("a key")).expect("a key");
        let key = SshKey {
            schema: SCHEMA,
            uuid: Uuid::new_v4(),
            owner: name(who),
            id: name("laptop"),
            public: public.trim().to_owned(),
            fingerprint: offered.fingerprint().clone(),
            created: Timestamp::now(),
        };
        self.put(Txn::new().put(&keys::ssh_key(&key.fingerprint), &key))
            .await;
    }

    async fn app(&self, app: &str, owner: &str) {
        deis::ops::app::create(&self.store, &name(owner), Some(name(app)))
            .await
            .expect("created");
    }

    /// A repository with one commit of the given files.
    fn work(&self, at: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path(at);
        std::fs::create_dir(&dir).expect("a directory");
        run(self.git(&dir, "ada").args(["init", "-q", "-b", "main"])).ok();
        self.commit(&dir, files);
        dir
    }

    fn commit(&self, dir: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            std::fs::write(dir.join(name), content).expect("written");
        }
        run(self.git(dir, "ada").args(["add", "-A"])).ok();
        run(self
            .git(dir, "ada")
            .args(["commit", "-q", "--allow-empty", "-m", "x"]))
        .ok();
    }

    fn ssh(&self, keys: &[&str]) -> String {
        let mut ssh = format!(
            "ssh -F none -p {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null",
            self.address.port()
        );
        for key in keys {
            ssh.push_str(&format!(" -i {}", self.path(key).display()));
        }
        ssh
    }

    fn git(&self, dir: &Path, who: &str) -> Command {
        let mut git = Command::new("git");
        git.current_dir(dir)
            .env("GIT_SSH_COMMAND", self.ssh(&[who]))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("SSH_AUTH_SOCK", "")
            .args(["-c", "user.name=ada", "-c", "user.email=ada@example.com"]);
        git
    }

    fn url(&self, app: &str) -> String {
        format!("root@127.0.0.1:{app}.git")
    }

    async fn push(&self, dir: &Path, who: &str, app: &str, refs: &[&str]) -> Ran {
        let mut git = self.git(dir, who);
        git.arg("push").arg(self.url(app)).args(refs);
        tokio::task::spawn_blocking(move || run(&mut git))
            .await
            .expect("joined")
    }
}

#[derive(Debug)]
struct Ran {
    good: bool,
    text: String,
}

fn run(command: &mut Command) -> Ran {
    let output: Output = command.stdin(Stdio::null()).output().expect("started");
    let text = [output.stdout, output.stderr].concat();
    Ran {
        good: output.status.success(),
        text: String::from_utf8_lossy(&text).into_owned(),
    }
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert!(self.good, "{}", self.text);
        self.text
    }

    #[track_caller]
    fn refused(self, why: &str) -> String {
        assert!(
            !self.good && self.text.contains(why),
            "expected {why:?}: {}",
            self.text
        );
        self.text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_push_what() {
    let rig = Rig::new().await;
    let work = rig.work(
        "work",
        &[("Procfile", "web: python3 app.py\n"), ("app.py", "")],
    );

    // Branches and tags that are not deployed are stored, and can be cloned again.
    let text = rig
        .push(&work, "ada", "hello", &["HEAD:refs/heads/feature"])
        .await
        .ok();
    assert!(text.contains("only main and master are deployed"), "{text}");
    let mut clone = rig.git(rig.dir.path(), "ada");
    run(clone.args(["clone", "-q", "-b", "feature", &rig.url("hello"), "clone"])).ok();
    assert!(rig.path("clone/Procfile").exists());

    // Rules about refs.
    rig.push(
        &work,
        "ada",
        "hello",
        &["HEAD:refs/heads/main", "HEAD:refs/heads/master"],
    )
    .await
    .refused("main and master were pushed at once");
    rig.push(&work, "ada", "hello", &[":refs/heads/feature"])
        .await
        .refused("can't be deleted here");
    rig.push(&work, "ada", "hello", &["HEAD:refs/odd/x"])
        .await
        .refused("neither a branch nor a tag");
    let odd = "HEAD:refs/heads/a';id;%n\"";
    rig.push(&work, "ada", "hello", &[odd]).await.ok();

    // Other users and other apps.
    rig.user("bob").await;
    let text = rig.push(&work, "bob", "hello", &["main"]).await;
    let text = text.refused("deis keys:add");
    assert_eq!(text.matches("deis keys:add").count(), 1, "{text}");
    rig.add_key("bob").await;
    rig.push(&work, "bob", "hello", &["main"])
        .await
        .refused("push denied");
    run(rig
        .git(rig.dir.path(), "bob")
        .args(["clone", &rig.url("hello"), "stolen"]))
    .refused("push denied");
    rig.push(&work, "ada", "none", &["main"])
        .await
        .refused("push denied");
    rig.push(&work, "ada", "../hello", &["main"])
        .await
        .refused("can't be an app");

    // A known key that comes after an unknown one still gets in.
    rig.user("old").await;
    let mut ssh = Command::new("sh");
    ssh.args([
        "-c",
        &format!("{} root@127.0.0.1 ping", rig.ssh(&["old", "ada"])),
    ]);
    let text = run(&mut ssh).ok();
    assert!(text.contains("pong\n"), "{text}");

    // Nothing but git.
    for (command, why) in [
        ("", "gives no shell"),
        ("id", "only git push"),
        ("git-receive-pack 'hello.git'; id", "no repository"),
        ("git-receive-pack '$(id).git'", "can't be an app"),
    ] {
        let mut ssh = Command::new("sh");
        ssh.args([
            "-c",
            &format!("{} root@127.0.0.1 \"$0\"", rig.ssh(&["ada"])),
            command,
        ]);
        let text = run(&mut ssh).refused(why);
        assert!(!text.contains("uid="), "{text}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_fails_changes_nothing() {
    let rig = Rig::new().await;
    let work = rig.work("work", &[("Procfile", "web;id: x\n")]);
    let hello: AppName = name("hello");
    rig.push(&work, "ada", "hello", &["main"])
        .await
        .refused("Procfile names the process type");
    rig.commit(&work, &[("Procfile", "- web\n")]);
    rig.push(&work, "ada", "hello", &["main"])
        .await
        .refused("Procfile is no map");
    std::os::unix::fs::symlink("/etc/passwd", work.join("out")).expect("a link");
    rig.commit(&work, &[("Procfile", "web: x\n")]);
    rig.push(&work, "ada", "hello", &["main"])
        .await
        .refused("outside of the repository");

    let app = rig
        .store
        .get(&keys::app(&hello))
        .await
        .expect("asked")
        .expect("there")
        .value;
    assert_eq!(app.latest, ReleaseNumber(1));
    assert!(
        rig.store
            .get(&keys::push_lock(&hello))
            .await
            .expect("asked")
            .is_none()
    );
    let refs = run(rig.git(&work, "ada").args(["ls-remote", &rig.url("hello")])).ok();
    assert!(!refs.contains("refs/"), "{refs}");

    // Another push holds the app.
    let lock = PushLock {
        schema: SCHEMA,
        id: Uuid::new_v4(),
        user: name("bob"),
        builder: "10.0.0.9".into(),
        started: Timestamp::now(),
    };
    rig.put(Txn::new().put(&keys::push_lock(&hello), &lock))
        .await;
    let text = rig.push(&work, "ada", "hello", &["main"]).await;
    let text = text.refused("Another git push is ongoing: bob began it");
    assert!(text.contains("s ago"), "{text}");
    assert_eq!(
        rig.store
            .get(&keys::push_lock(&hello))
            .await
            .expect("asked")
            .expect("there")
            .value,
        lock
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_builders_have_one_host_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::memory();
    let key = ClusterKey::parse(KEY).expect("a key");
    let given = dir.path().join("given");
    let (one, two) = tokio::join!(
        builder::sshd::host_key(&store, &key, dir.path(), &given),
        builder::sshd::host_key(&store, &key, dir.path(), &given),
    );
    let one = one.expect("a key");
    assert_eq!(one, two.expect("a key"));
    assert!(one.starts_with(b"-----BEGIN OPENSSH PRIVATE KEY-----"));
    let sealed = store
        .get(&keys::builder_host_key())
        .await
        .expect("asked")
        .expect("there");
    assert!(sealed.value.0.starts_with("sealed"), "{sealed:?}");
    let public = store
        .get(&keys::builder_host_public_key())
        .await
        .expect("asked")
        .expect("there");
    assert!(public.value.starts_with("ssh-ed25519 AAAA"), "{public:?}");

    // A host that was given a key brings that one into a cluster that has none.
    std::fs::write(&given, &one).expect("written");
    std::fs::write(given.with_extension("pub"), &public.value).expect("written");
    let fresh = Store::memory();
    let kept = builder::sshd::host_key(&fresh, &key, dir.path(), &given).await;
    assert_eq!(kept.expect("a key"), one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_go_into_a_registry_that_comes_and_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::memory();
    let listen = free_port();
    let places = registry::Places {
        program: "/usr/bin/docker-registry".into(),
        storage: dir.path().join("storage"),
        run: dir.path().join("run"),
        listen,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(registry::run_at(places, store.clone(), stop.clone()));
    let key = keys::part("registry", "127.0.0.1");
    let there = eventually("the registry is registered", async || {
        store.get(&key).await.expect("asked")
    })
    .await;
    assert_eq!(there.value.address, listen.to_string());

    // A base of one layer, and an app's layer on it.
    let base = layer_of(dir.path(), "base", "app/base");
    let top = layer_of(dir.path(), "top", "app/run");
    let base_config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [base.0.diff_id] },
    });
    let base_manifest = serde_json::json!({
        "schemaVersion": 2, "config": {},
        "layers": [{ "mediaType": config::LAYER, "digest": base.1.digest, "size": base.1.size }],
    });
    let commit = Sha::try_from("c".repeat(40)).expect("an id");
    let composed = config::compose(
        base_config.to_string().as_bytes(),
        base_manifest.to_string().as_bytes(),
        &top.0,
        &commit,
    )
    .expect("an image");
    let image = Image {
        manifest: composed.manifest,
        media_type: config::MANIFEST.to_owned(),
        config: composed.config,
        layers: vec![base.1, top.1],
        mount_from: Some("deis/stack".into()),
    };
    let registry = Registry::new(&listen.to_string());
    registry.push("hello", &image).await.expect("pushed");
    registry.push("hello", &image).await.expect("pushed again");
    // Another app's image mounts the layers from the first one's repository.
    let image = Image {
        mount_from: Some("hello".into()),
        ..image
    };
    registry.push("other", &image).await.expect("pushed");

    // What comes back is what went in.
    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    for repository in ["hello", "other"] {
        let url = format!(
            "http://{listen}/v2/{repository}/manifests/{}",
            image.manifest.digest
        );
        let answer = http
            .get(url)
            .header("Accept", config::MANIFEST)
            .send()
            .await
            .expect("asked");
        assert!(answer.status().is_success(), "{answer:?}");
        assert_eq!(answer.bytes().await.expect("bytes"), image.manifest.bytes);
        for layer in &image.layers {
            let url = format!("http://{listen}/v2/{repository}/blobs/{}", layer.digest);
            let bytes = http
                .get(url)
                .send()
                .await
                .expect("asked")
                .bytes()
                .await
                .expect("bytes");
            assert_eq!(deis::image::digest_of(&bytes), layer.digest);
        }
    }
    stop.cancel();
    tokio::time::timeout(LONG, running)
        .await
        .expect("in time")
        .expect("joined")
        .expect("well");
    assert!(
        store.get(&key).await.expect("asked").is_none(),
        "it is withdrawn when it stops"
    );
    assert!(registry.push("hello", &image).await.is_err());
}

fn layer_of(dir: &Path, name: &str, path: &str) -> (layer::Layer, Blob) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, name.as_bytes())
        .expect("appended");
    let tar = tar.into_inner().expect("finished");
    let mut spool = tempfile::tempfile().expect("a file");
    let path = dir.join(name);
    let out = std::fs::File::create(&path).expect("a file");
    let layer = layer::write(tar.as_slice(), &mut spool, out, Limits::default()).expect("a layer");
    let blob = Blob {
        digest: layer.digest.clone(),
        size: layer.size,
        media_type: config::LAYER.to_owned(),
        path,
    };
    (layer, blob)
}
