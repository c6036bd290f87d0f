//! Names that try to break out get a clear answer, and nothing is executed.

use crate::support::*;

const NASTY: &[&str] = &[
    "a'b",
    "a\"b",
    "a;touch /tmp/owned",
    "a%n",
    "a\nb",
    "../etc",
    "a/../../b",
    "a`touch /tmp/owned`",
    "$(touch /tmp/owned)",
    "a b",
    "-rf",
    "é",
];

fn nothing_was_executed(cluster: &Cluster) {
    for (host, ran) in cluster.on_all("ls /tmp/owned* /owned* /app/owned* 2>/dev/null; find /var/lib/deis/git -name 'owned*' 2>/dev/null") {
        assert!(ran.out.trim().is_empty(), "{host}: {ran:#?}");
    }
    assert!(!std::path::Path::new("/tmp/owned").exists());
}

#[test]
fn app_names() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    for name in NASTY {
        let ran = user.deis(&["create", "--no-remote", "--", name]).refused();
        assert!(
            ran.all().to_lowercase().contains("app"),
            "{name:?}: a clear answer: {ran:#?}"
        );
        // As a repository, past our own client.
        let quoted = name.replace('\'', "'\\''");
        let mut ssh = user.git_command(&user.home, &["--version"]);
        let command = ssh.get_envs().find(|(key, _)| *key == "GIT_SSH_COMMAND");
        let command = command
            .and_then(|(_, value)| value)
            .expect("ssh")
            .to_string_lossy()
            .into_owned();
        let script = format!(
            "{command} -p 2222 git@deis.localhost \"git-receive-pack '{}'\"",
            quoted
                .replace('"', "\\\"")
                .replace('$', "\\$")
                .replace('`', "\\`")
        );
        ssh = std::process::Command::new("sh");
        run(ssh.args(["-c", &script]), MINUTE).refused();
    }
    nothing_was_executed(&cluster);
}

#[test]
fn ssh_gives_no_shell() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let version = user.git_command(&user.home, &["--version"]);
    let ssh = version
        .get_envs()
        .find(|(key, _)| *key == "GIT_SSH_COMMAND");
    let ssh = ssh
        .and_then(|(_, value)| value)
        .expect("ssh")
        .to_string_lossy()
        .into_owned();
    for words in [
        "",
        "id",
        "bash -c id",
        "git-shell",
        "scp -t /tmp",
        "git-upload-archive 'x.git'",
    ] {
        let script = format!("{ssh} -p 2222 git@deis.localhost {words} </dev/null");
        let ran = run(
            std::process::Command::new("sh").args(["-c", &script]),
            MINUTE,
        )
        .refused();
        assert!(!ran.all().contains("uid="), "{words:?}: {ran:#?}");
    }
    let script = format!(
        "{ssh} -p 2222 -o ExitOnForwardFailure=yes -N -R 127.0.0.1:0:127.0.0.1:22 git@deis.localhost"
    );
    run(
        std::process::Command::new("sh").args(["-c", &script]),
        MINUTE,
    )
    .refused();
}

#[test]
fn procfile_entries_and_branches() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "hostile");
    let procfiles = [
        "web: [a, b]\n",
        "\"we b\": x\n",
        "'web;touch /tmp/owned': x\n",
        "\"web%n\": x\n",
        "../web: x\n",
        "WEB\n",
        "web: !python x\n",
        "? [1]\n: x\n",
    ];
    for text in procfiles {
        app.commit(&[("Procfile", text)]);
        let push = app.push().refused();
        assert!(
            push.err.to_lowercase().contains("procfile"),
            "{text:?}: {push:#?}"
        );
    }
    // A command may say anything; it stays inside its container.
    let command =
        "web: sh -c 'touch /tmp/owned; echo \"it is 100%n $PORT\"; exec python3 app.py' # ; \"\n";
    app.commit(&[("Procfile", command)]);
    app.push().ok();
    assert_eq!(app.get("/").expect("answer").status, 200);
    let host = cluster.host_of("hostile_v3.web.1");
    let inside = cluster.sh(host, "podman exec hostile_v3.web.1 ls /tmp/owned");
    inside.ok();
    nothing_was_executed(&cluster);

    for branch in [
        "a'b",
        "a;touch${IFS}owned",
        "a%n",
        "a$(touch${IFS}owned)",
        "feature/x",
    ] {
        let target = format!("HEAD:refs/heads/{branch}");
        let push = user.git(app.repo.path(), &["push", "deis", &target]);
        assert!(!push.err.contains("Launching"), "{branch}: {push:#?}");
        assert!(
            push.err.contains("main"),
            "says which branch is built: {push:#?}"
        );
    }
    let delete = user
        .git(app.repo.path(), &["push", "deis", ":main"])
        .refused();
    assert!(!delete.err.contains("Launching"), "{delete:#?}");
    nothing_was_executed(&cluster);
}
