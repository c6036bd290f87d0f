//! `deis` against a controller in process: what users see, to the letter (reference, 5.3).

mod failures;
mod help;
mod json;
mod ours;

use std::{
    cell::RefCell,
    ffi::OsString,
    io::{Cursor, Write},
    path::Path,
    process::Command,
    rc::Rc,
};

use super::{Env, Ui, run};
use crate::controller::testing::Site;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGYih2RCKaV3pu5Kn45gQgMI8w8q6m9agpWVrxAEYPFI ada@laptop\n";

#[derive(Clone, Default)]
struct Sink(Rc<RefCell<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A user at a shell, in a git repository of his own.
struct User {
    site: Site,
    home: tempfile::TempDir,
    env: Env,
}

impl User {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("home");
        let cwd = home.path().join("Work");
        std::fs::create_dir(&cwd).expect("folder");
        git(&cwd, &["init", "-q"]);
        let env = Env {
            home: Some(home.path().to_owned()),
            cwd,
            profile: "client".into(),
            drink: "coffee".into(),
            browser: None,
        };
        Self {
            site: Site::start().await,
            home,
            env,
        }
    }

    /// Somebody who has registered and created the app `blog`.
    async fn with_app() -> Self {
        let user = Self::new().await;
        let controller = user.controller();
        let register = [
            "register",
            &controller,
            "--username=ada",
            "--password=x",
            "--email=a@b.c",
        ];
        assert_eq!(user.run(&register, "").await.0, 0);
        assert_eq!(user.run(&["create", "blog"], "").await.0, 0);
        user
    }

    fn controller(&self) -> String {
        format!("http://{}", self.site.address)
    }

    /// Exit code and what was printed, with what changes from run to run made equal.
    async fn run(&self, args: &[&str], input: &str) -> (u8, String) {
        let sink = Sink::default();
        let mut ui = Ui::pipes(Box::new(sink.clone()), Box::new(sink.clone()), typed(input));
        let code = run(&argv(args), &self.env, &mut ui).await;
        (code, self.equalled(&sink))
    }

    /// Exit code, stdout and stderr.
    async fn both(&self, args: &[&str]) -> (u8, String, String) {
        let (out, err) = (Sink::default(), Sink::default());
        let mut ui = Ui::pipes(Box::new(out.clone()), Box::new(err.clone()), typed(""));
        let code = run(&argv(args), &self.env, &mut ui).await;
        (code, self.equalled(&out), self.equalled(&err))
    }

    /// What was printed on a terminal of so many columns.
    async fn on_terminal(&self, args: &[&str], width: usize) -> String {
        let sink = Sink::default();
        let ui = Ui::pipes(Box::new(sink.clone()), Box::new(sink.clone()), typed(""));
        let code = run(&argv(args), &self.env, &mut ui.with_width(width)).await;
        let text = String::from_utf8(sink.0.borrow().clone()).expect("text");
        assert_eq!(code, 0, "{args:?}: {text}");
        text
    }

    fn equalled(&self, sink: &Sink) -> String {
        let text = String::from_utf8(sink.0.borrow().clone()).expect("text");
        let text = text.replace(&self.site.address.to_string(), "[controller]");
        redact(&text.replace(&self.home.path().display().to_string(), "[home]"))
    }

    /// What was printed by a command that succeeds.
    async fn ok(&self, args: &[&str]) -> String {
        let (code, text) = self.run(args, "").await;
        assert_eq!(code, 0, "{args:?}: {text}");
        text
    }

    /// What was printed by a command that fails.
    async fn fails(&self, args: &[&str]) -> String {
        let (code, text) = self.run(args, "").await;
        assert_eq!(code, 1, "{args:?}: {text}");
        text
    }
}

fn argv(args: &[&str]) -> Vec<OsString> {
    let words = std::iter::once("deis").chain(args.iter().copied());
    words.map(Into::into).collect()
}

fn typed(input: &str) -> Box<Cursor<Vec<u8>>> {
    Box::new(Cursor::new(input.as_bytes().to_owned()))
}

fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(args)
        .output()
        .expect("git");
    assert!(output.status.success(), "git {args:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Replaces uuids and times.
fn redact(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let time = word.len() == 22 && word.ends_with("UTC");
        match word.parse::<uuid::Uuid>() {
            Ok(_) => out.push_str("[uuid]"),
            Err(_) if time => out.push_str("[time]"),
            Err(_) => out.push_str(word),
        }
        word.clear();
    };
    for c in text.chars() {
        if c.is_whitespace() {
            flush(&mut word, &mut out);
            out.push(c);
        } else {
            word.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

#[tokio::test]
async fn accounts() {
    use std::os::unix::fs::PermissionsExt as _;
    let user = User::new().await;
    let controller = user.controller();
    assert_eq!(
        user.fails(&["whoami"]).await,
        "Error: Not logged in. Use 'deis login' or 'deis register' to get started.\n"
    );
    let (code, text) = user
        .run(&["register", &controller], "ada\nx\nx\na@b.c\n")
        .await;
    insta::assert_snapshot!(format!("{code}\n{text}"), @r"
    0
    username: password: password (confirm): email: Registered ada
    Logged in as ada
    ");
    let file = user.home.path().join(".deis/client.json");
    let mode = std::fs::metadata(&file)
        .expect("profile")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let profile: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("profile")).expect("json");
    let mut fields: Vec<&str> = profile
        .as_object()
        .expect("object")
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "controller",
            "response_limit",
            "ssl_verify",
            "token",
            "username"
        ]
    );
    assert_eq!(
        user.ok(&["auth:whoami"]).await,
        "You are ada at http://[controller]\n"
    );
    assert_eq!(user.ok(&["users:list"]).await, "=== Users\nada\n");
    assert_eq!(
        user.ok(&["perms:list", "--admin"]).await,
        "=== Administrators\nada\n"
    );
    assert_eq!(user.ok(&["auth:regenerate"]).await, "Token Regenerated\n");
    assert_eq!(
        user.ok(&["auth:passwd", "--password=x", "--new-password=y"])
            .await,
        "Password change succeeded.\n"
    );
    assert_eq!(user.ok(&["logout"]).await, "Logged out\n");
    let login = ["login", &controller, "--username=ada", "--password=x"];
    insta::assert_snapshot!(user.fails(&login).await, @r"
    Error: 400 BAD REQUEST
    non_field_errors: Unable to log in with provided credentials.
    ");
    let login = ["login", &controller, "--username=ada", "--password=y"];
    assert_eq!(user.ok(&login).await, "Logged in as ada\n");
    let register = [
        "register",
        &controller,
        "--username=bob",
        "--password=x",
        "--email=",
    ];
    assert_eq!(
        user.ok(&register).await,
        "Registered bob\nLogged in as bob\n"
    );
    insta::assert_snapshot!(user.fails(&["users"]).await, @r"
    Error: 403 FORBIDDEN
    detail: You do not have permission to perform this action.
    ");
    assert_eq!(
        user.ok(&["auth:cancel", "--password=x", "--yes"]).await,
        "Account cancelled\n"
    );
    assert!(!file.exists());
}

#[tokio::test]
async fn an_app_from_creation_to_destruction() {
    let user = User::new().await;
    let controller = user.controller();
    user.ok(&[
        "register",
        &controller,
        "--username=ada",
        "--password=x",
        "--email=a@b.c",
    ])
    .await;
    let created = user.ok(&["create", "blog"]).await;
    assert_eq!(
        created,
        "Creating Application... done, created blog\nGit remote deis added\n"
    );
    let remotes = git(&user.env.cwd, &["remote", "-v"]);
    assert!(
        remotes.contains("ssh://git@127.0.0.1:2222/blog.git"),
        "{remotes}"
    );
    insta::assert_snapshot!(user.fails(&["create", "blog"]).await, @r"
    Creating Application... 
    Error: 400 BAD REQUEST
    id: This field must be unique.
    ");
    let other = user.ok(&["create", "shop", "--no-remote"]).await;
    assert_eq!(
        other,
        "Creating Application... done, created shop\nremote available at ssh://git@127.0.0.1:2222/shop.git\n"
    );
    assert_eq!(user.ok(&["apps"]).await, "=== Apps\nblog\nshop\n");
    assert_eq!(
        user.ok(&["apps:list", "-l1"]).await,
        "=== Apps (1 of 2)\nblog\n"
    );
    user.site.push("blog", "ada").await;
    assert_eq!(
        user.ok(&["domains:add", "blog.example.org"]).await,
        "Adding blog.example.org to blog... done\n"
    );
    insta::assert_snapshot!(user.ok(&["info"]).await, @r"
    === blog Application
    updated:  [time]
    uuid:     [uuid]
    created:  [time]
    url:      blog.example.com
    owner:    ada
    id:       blog

    === blog Processes
    --- web:
    web.1 up (v2)

    === blog Domains
    blog.example.org

    ");
    let (code, text) = user.run(&["destroy"], "shop\n").await;
    insta::assert_snapshot!(format!("{code}\n{text}"), @r#"
    1
     !    WARNING: Potentially Destructive Action
     !    This command will destroy the application: blog
     !    To proceed, type "blog" or re-run this command with --confirm=blog

    > Error: App blog does not match confirm shop, aborting.
    "#);
    let gone = user.ok(&["apps:destroy", "--confirm=blog"]).await;
    assert_eq!(
        gone,
        "Destroying blog...\ndone in 0s\nGit remote deis removed\n"
    );
    assert_eq!(user.ok(&["apps"]).await, "=== Apps\nshop\n");
    insta::assert_snapshot!(user.fails(&["info", "-a", "blog"]).await, @r"
    Error: 404 NOT FOUND
    detail: Not found
    ");
}

#[tokio::test]
async fn config() {
    let user = User::with_app().await;
    user.site.push("blog", "ada").await;
    insta::assert_snapshot!(user.ok(&["config:set", "FOO=bar", "LONGER=a=b c"]).await, @r"
    Creating config... done, v3

    === blog Config
    FOO         bar
    LONGER      a=b c
    ");
    assert_eq!(
        user.ok(&["config", "--oneline"]).await,
        "FOO=bar LONGER=a=b c\n"
    );
    insta::assert_snapshot!(user.ok(&["config:unset", "LONGER"]).await, @r"
    Removing config... done, v4

    === blog Config
    FOO      bar
    ");
    assert_eq!(
        user.fails(&["config:set", "1FOO"]).await,
        "Error: '1FOO' does not match the pattern 'key=var', ex: MODE=test\n"
    );
    // The last line has no line break, and is not lost.
    std::fs::write(user.env.cwd.join(".env"), "A=1\nB=\"x\\ny\"\nC=last").expect("file");
    user.ok(&["config:push"]).await;
    std::fs::remove_file(user.env.cwd.join(".env")).expect("file");
    user.ok(&["config:pull"]).await;
    let pulled = std::fs::read_to_string(user.env.cwd.join(".env")).expect("file");
    assert_eq!(pulled, "A=1\nB=\"x\\ny\"\nC=last\nFOO=bar\n");
    insta::assert_snapshot!(user.fails(&["config:set", "FAIL=1"]).await, @r"
    Creating config... 
    Error: 503 SERVICE UNAVAILABLE
    detail: aborting, failed to create some containers: web.1 exits with 1
    no such module
    ");
    let releases = user.ok(&["releases"]).await;
    let failed = releases.lines().nth(1).expect("the newest");
    let failed = failed.split_whitespace().next().expect("its number");
    insta::assert_snapshot!(user.ok(&["releases:info", failed]).await, @r"
    === blog Release v6
    build:    [uuid]
    config:   [uuid]
    owner:    ada
    created:  [time]
    summary:  ada added FAIL (failed)
    updated:  [time]
    uuid:     [uuid]
    failed:   web.1 exits with 1
              no such module
    ");
    insta::assert_snapshot!(user.ok(&["limits"]).await, @r"
    === blog Limits

    --- Memory
    Unlimited

    --- CPU
    Unlimited
    ");
    insta::assert_snapshot!(user.ok(&["limits:set", "web=256M"]).await, @r"
    Applying limits... done

    === blog Limits

    --- Memory
    web     256M

    --- CPU
    Unlimited
    ");
    insta::assert_snapshot!(user.fails(&["limits:set", "-c", "web=2000"]).await, @r"
    Applying limits... 
    Error: 400 BAD REQUEST
    cpu: CPU shares must be between 0 and 1024
    ");
}

#[tokio::test]
async fn processes_and_releases() {
    let user = User::with_app().await;
    insta::assert_snapshot!(user.fails(&["scale", "web=2"]).await, @r"
    Scaling processes... but first, coffee!
    Error: 400 BAD REQUEST
    detail: No build associated with this release
    ");
    user.site.push("blog", "ada").await;
    insta::assert_snapshot!(user.ok(&["ps:scale", "web=2", "worker=1"]).await, @r"
    Scaling processes... but first, coffee!
    done in 0s
    === blog Processes
    --- web:
    web.1 up (v2)
    web.2 up (v2)
    --- worker:
    worker.1 up (v2)
    ");
    assert_eq!(
        user.fails(&["scale", "web=x"]).await,
        "Error: 'web=x' does not match the pattern 'type=num', ex: web=2\n"
    );
    insta::assert_snapshot!(user.ok(&["ps:restart", "web.2"]).await, @r"
    Restarting processes... but first, coffee!
    done in 0s
    === blog Processes
    --- web:
    web.2 up (v2)
    ");
    user.ok(&["config:set", "A=1"]).await;
    assert_eq!(
        user.ok(&["rollback", "v2"]).await,
        "Rolling back to v2... done, v4\n"
    );
    assert_eq!(
        user.ok(&["rollback"]).await,
        "Rolling back one release... done, v5\n"
    );
    let want = "=== blog Releases\n\
                v5\t[time]\tada rolled back to v3\n\
                v4\t[time]\tada rolled back to v2\n\
                v3\t[time]\tada added A\n\
                v2\t[time]\tada deployed 0123456\n\
                v1\t[time]\tada created initial release\n";
    assert_eq!(user.ok(&["releases"]).await, want);
    let narrow = user.on_terminal(&["releases"], 40).await;
    let second = narrow.lines().nth(2).expect("v4");
    assert!(
        second.starts_with("v4  20") && second.ends_with('…'),
        "{narrow}"
    );
    assert!(
        narrow.lines().all(|line| line.chars().count() <= 40),
        "{narrow}"
    );
    insta::assert_snapshot!(user.ok(&["releases:info", "v2"]).await, @r"
    === blog Release v2
    build:    [uuid]
    config:   [uuid]
    owner:    ada
    created:  [time]
    summary:  ada deployed 0123456
    updated:  [time]
    uuid:     [uuid]
    ");
    assert_eq!(
        user.ok(&["builds"]).await,
        "=== blog Builds\n[uuid] [time]\n"
    );
    insta::assert_snapshot!(user.fails(&["pull", "deis/example"]).await, @r"
    Creating build... 
    Error: 503 SERVICE UNAVAILABLE
    detail: no registry is up; `deisctl list` shows deis-registry
    request_id: [uuid]
    ");
    let ran = user.run(&["run", "echo", "-n", "hi"], "").await;
    let want = "Running 'echo -n hi'...\necho -n hi\n".to_owned();
    assert_eq!(ran, (0, want));
    let ran = user.run(&["run", "--", "exit 3"], "").await;
    let want = "Running 'exit 3'...\nexit 3\n".to_owned();
    assert_eq!(ran, (3, want));
    // Several arguments arrive as they are; one is a line.
    let ran = user.run(&["run", "--", "echo", "a b", "$HOME"], "").await;
    assert!(ran.1.contains("\necho 'a b' '$HOME'\n"), "{}", ran.1);
    let ran = user.run(&["run", "cat"], "line 1\nline 2\n").await;
    assert_eq!(ran, (0, "Running 'cat'...\nline 1\nline 2\n".to_owned()));
    let ran = user.run(&["run", "--no-input", "broken"], "").await;
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    assert_eq!(ran, (0, format!("Running 'broken'...\n{lines}")));
    let ran = user.run(&["run", "big 3000000"], "").await;
    assert_eq!((ran.0, ran.1.matches('x').count()), (0, 3_000_000));
    let ran = user.run(&["run", "--detach", "exit 3"], "").await;
    assert_eq!(ran, (0, "Running 'exit 3' as run.1\n".to_owned()));
    let ran = user.run(&["run", "refuse"], "").await;
    let want = "Running 'refuse'...\nError: host-1 can't run it: no image\n";
    assert_eq!(ran, (255, want.to_owned()));
}

#[tokio::test]
async fn keys_and_sharing() {
    let user = User::with_app().await;
    std::fs::create_dir(user.home.path().join(".ssh")).expect("folder");
    std::fs::write(user.home.path().join(".ssh/k.pub"), KEY).expect("key");
    let (code, text) = user.run(&["keys:add"], "1\n").await;
    insta::assert_snapshot!(format!("{code}\n{text}"), @r"
    0
    Found the following SSH public keys:
    1) k.pub ada@laptop
    0) Enter path to pubfile (or use keys:add <key_path>)
    Which would you like to use with Deis? Uploading k.pub to deis... done
    ");
    assert_eq!(
        user.ok(&["keys"]).await,
        "=== ada Keys\nada@laptop ssh-ed25519 AAAA...ada@laptop\n"
    );
    let again = user.fails(&["keys:add", "../.ssh/k.pub"]).await;
    assert_eq!(
        again,
        "Uploading k.pub to deis...\nError: 400 BAD REQUEST\npublic: This field must be unique.\n"
    );
    assert_eq!(
        user.ok(&["keys:remove", "ada@laptop"]).await,
        "Removing ada@laptop SSH Key... done\n"
    );
    user.site.user("bob", false).await;
    assert_eq!(
        user.ok(&["perms:create", "bob"]).await,
        "Adding bob to blog collaborators... done\n"
    );
    assert_eq!(user.ok(&["sharing"]).await, "=== blog's Users\nbob\n");
    assert_eq!(
        user.ok(&["perms:delete", "bob"]).await,
        "Removing bob from blog collaborators... done\n"
    );
    assert_eq!(
        user.ok(&["apps:transfer", "bob"]).await,
        "Transferring blog to bob... done\n"
    );
}
