//! Pushes that build, and pushes that are refused.

use std::{process::Stdio, time::Duration};

use crate::support::*;

#[test]
fn a_build_that_fails_changes_nothing() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "unlucky");
    app.commit(&[("requirements.txt", "no-such-package-of-deis-tests===99\n")]);
    let push = app.push().refused();
    assert!(
        push.err.contains("no-such-package-of-deis-tests"),
        "{push:#?}"
    );
    assert_eq!(app.page()["release"], "v2");
    let releases = app.deis(&["releases"]).ok().out;
    assert!(!releases.contains("v3"), "{releases}");
    // The repository did not move either.
    let remote = user
        .git(app.repo.path(), &["ls-remote", "deis", "refs/heads/main"])
        .ok()
        .out;
    let before = user.git(app.repo.path(), &["rev-parse", "HEAD~1"]).ok().out;
    assert!(remote.starts_with(before.trim()), "{remote} is at {before}");
}

#[test]
fn requirements_are_installed() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let script = "import six, os, http.server\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200); self.end_headers(); self.wfile.write(('six ' + six.__version__).encode())\nhttp.server.HTTPServer(('', int(os.environ['PORT'])), H).serve_forever()\n";
    let files = [
        ("requirements.txt", "six==1.16.0\n"),
        ("app.py", script),
        ("Procfile", "web: python app.py\n"),
    ];
    let app = App::create(&user, "needy", &files);
    let push = app.push().ok();
    assert!(push.err.contains("Python app detected"), "{push:#?}");
    let mut connection = Connection::open("127.0.0.1:80").expect("connection");
    let answer = connection
        .request("GET / HTTP/1.0\r\nHost: needy.localhost\r\n\r\n")
        .expect("answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_dockerfile_is_built() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let dockerfile = "FROM localhost/deis/stack:latest\nCOPY app.py /srv/app.py\nENV PORT=8080\nEXPOSE 8080\nCMD [\"python3\", \"/srv/app.py\"]\n";
    let files = [
        ("Dockerfile", dockerfile),
        ("app.py", include_str!("app/app.py")),
    ];
    let app = App::create(&user, "dockerish", &files);
    app.push().ok();
    assert_eq!(app.page()["release"], "v2");
    let ps = app.deis(&["ps"]).ok().out;
    assert!(ps.contains("cmd.1 up (v2)"), "{ps}");
}

#[test]
fn a_key_that_nobody_added() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "locked");
    let stranger = tempfile::TempDir::new().expect("directory");
    let key = stranger.path().join("key");
    let mut keygen = std::process::Command::new("ssh-keygen");
    run(
        keygen
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key),
        MINUTE,
    )
    .ok();
    let ssh = format!(
        "ssh -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        key.display()
    );
    app.commit(&[("x.txt", "x")]);
    let mut push = user.git_command(app.repo.path(), &["push", "deis", "main"]);
    let ran = run(push.env("GIT_SSH_COMMAND", ssh), MINUTE).refused();
    assert!(
        ran.err.contains("keys:add") || ran.err.contains("Permission denied"),
        "{ran:#?}"
    );
    assert!(!ran.err.contains("Launching"), "{ran:#?}");

    // Another user's key opens that user's apps only.
    let other = User::named(&cluster, "other");
    let mut push = other.git_command(app.repo.path(), &["push", "deis", "main"]);
    let ran = run(&mut push, MINUTE).refused();
    assert!(
        ran.err.to_lowercase().contains("denied") || ran.err.contains("permission"),
        "{ran:#?}"
    );
    let mut clone = other.git_command(
        &other.home,
        &[
            "clone",
            "ssh://git@deis.localhost:2222/locked.git",
            "stolen",
        ],
    );
    run(&mut clone, MINUTE).refused();
    assert_eq!(app.page()["release"], "v2");
}

#[test]
fn two_pushes_at_once() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "twice");
    // The second is refused while the first one builds; a client that goes away frees the app.
    app.commit(&[("requirements.txt", "six==1.16.0\n"), ("x.txt", "1")]);
    let push = ["push", "deis", "HEAD:refs/heads/main"];
    let mut first = user.git_command(app.repo.path(), &push);
    let mut first = first
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("git");
    eventually("the first push holds the app", MINUTE, || {
        let lock = cluster
            .etcdctl(&cluster.hosts[0], "get /deis/apps/twice/push")
            .ok()
            .out;
        if lock.is_empty() {
            Err("no lock".into())
        } else {
            Ok(())
        }
    });
    let second = app.push().refused();
    assert!(
        second.err.contains("Another git push is ongoing"),
        "{second:#?}"
    );
    let _ = first.kill();
    let _ = first.wait();
    // ssh lives on for a moment after git; its end frees the app.
    let push = eventually("a push after the first one was killed", 2 * MINUTE, || {
        let push = app.push();
        if push.status == Some(0) {
            Ok(push)
        } else {
            std::thread::sleep(Duration::from_secs(1));
            Err(format!("{push:#?}"))
        }
    });
    assert!(
        push.err.contains("deployed to Deis") || push.err.contains("up-to-date"),
        "{push:#?}"
    );
}
