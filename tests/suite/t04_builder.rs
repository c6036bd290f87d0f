//! Pushes that build, and pushes that are refused.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use crate::support::*;

/// This machine, as the hosts see it.
const GATEWAY: &str = "10.21.8.1";

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

/// A web server for the files below a folder, as long as the tests run: git reads a repository so.
fn serve(folder: PathBuf) -> SocketAddr {
    let server = TcpListener::bind((GATEWAY, 0)).expect("bind");
    let address = server.local_addr().expect("address");
    std::thread::spawn(move || {
        for socket in server.incoming() {
            let mut socket = socket.expect("a client");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head);
            let path = head.split([' ', '?']).nth(1).unwrap_or("/");
            let (status, body) = match std::fs::read(folder.join(path.trim_start_matches('/'))) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.0 {status}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = socket.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

#[test]
fn a_buildpack_of_ones_own() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let folder = tempfile::tempdir().expect("folder");
    let script = r#"
        set -e
        git init -q -b main pack && cd pack
        git config user.name pack && git config user.email pack@example.com
        mkdir bin
        printf '#!/bin/sh\necho Parrot\n' >bin/detect
        printf '#!/bin/sh\necho "       teaching $(cat "$3/WORD")"\ncp "$3/WORD" "$1/word"\n' >bin/compile
        printf '#!/bin/sh\necho "default_process_types: {web: python3 app.py}"\n' >bin/release
        chmod +x bin/* && git add . && git commit -qm parrot && git tag v1
        printf '#!/bin/sh\nexit 1\n' >bin/detect && git commit -qam 'takes nothing'
        git clone -q --bare . ../pack.git && cd ../pack.git && git update-server-info
    "#;
    let mut shell = std::process::Command::new("sh");
    run(
        shell.args(["-c", script]).current_dir(folder.path()),
        MINUTE,
    )
    .ok();
    let url = format!("http://{}/pack.git", serve(folder.path().to_owned()));

    let files = [("app.py", include_str!("app/app.py"))];
    let app = App::create(&user, "parrot", &files);
    let set = |value: &str| {
        app.deis(&[
            "config:set",
            &format!("BUILDPACK_URL={value}"),
            "WORD=hello",
        ])
    };
    set(&format!("{url}#v1")).ok();
    let push = app.push().ok();
    for line in [
        "-----> Fetching custom buildpack",
        "-----> Parrot app detected",
        "teaching hello",
    ] {
        assert!(push.err.contains(line), "no {line:?}: {push:#?}");
    }
    assert!(
        push.err.contains("Default process types -> web"),
        "{push:#?}"
    );
    assert_eq!(app.page()["release"], "v3");

    // What can't be had is said, and changes nothing.
    for (value, why) in [
        (url.clone(), "does not build such an app"),
        (format!("{url}#v9"), "has no v9"),
        (format!("{url}x"), "can not be fetched"),
        ("ext::sh -c touch% /tmp/x".to_owned(), "no git repository"),
        (
            "https://example.com/x#--upload-pack=x".to_owned(),
            "no git repository",
        ),
    ] {
        set(&value).ok();
        app.commit(&[("notes", &value)]);
        let push = app.push().refused();
        assert!(push.err.contains(why), "{value}: {push:#?}");
    }
    assert!(app.deis(&["ps"]).ok().out.contains("web.1 up (v8)"));
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
