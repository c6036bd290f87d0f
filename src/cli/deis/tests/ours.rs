//! Certificates, logs, tokens and the audit trail.

use std::io::Cursor;

use super::{Sink, User};
use crate::{
    cli::deis::{Ui, run},
    logger::testing::Logger,
    sidecar::wire::Position,
};

#[tokio::test]
async fn certificates() {
    let user = User::with_app().await;
    let root = crate::cert::tests::Authority::new("Root");
    let files = root.sign(&["www.example.org", "example.org"]);
    let write = |name: &str, text: &str| std::fs::write(user.env.cwd.join(name), text);
    let chain = format!("{}{}", files.certificate, root.pem);
    write("www.crt", &chain).expect("file");
    write("www.key", &files.key).expect("file");
    assert_eq!(user.ok(&["certs"]).await, "No certs\n");
    assert_eq!(
        user.ok(&["certs:add", "www.crt", "www.key"]).await,
        "Adding SSL endpoint... done\n"
    );
    assert_eq!(
        user.ok(&["certs:list"]).await,
        "Common Name         Expires\n\
         ---------------     ----------------------\n\
         www.example.org     [time]\n"
    );
    let info = user.ok(&["certs:info", "www.example.org"]).await;
    let fingerprints = |text: &str| -> String {
        let plain = |line: &str| match line.strip_prefix("fingerprint: ") {
            Some(pairs) => format!("fingerprint: {} pairs", pairs.split(':').count()),
            None => line.to_owned(),
        };
        text.lines().map(|line| plain(line) + "\n").collect()
    };
    insta::assert_snapshot!(fingerprints(&info), @r"
    === www.example.org Certificate
    served for:  example.org, www.example.org
    expires:     [time]
    owner:       ada
    added:       [time]

    --- 1: CN=www.example.org
    issuer:      CN=Root
    names:       example.org, www.example.org
    valid:       [time] to [time]
    fingerprint: 32 pairs

    --- 2: CN=Root
    issuer:      CN=Root
    valid:       [time] to [time]
    fingerprint: 32 pairs
    ");
    assert_eq!(
        user.fails(&["certs:add", "www.crt", "www.key"]).await,
        "Adding SSL endpoint... \nError: 400 BAD REQUEST\n\
         common_name: This field must be unique.\n"
    );
    assert_eq!(
        user.ok(&["certs:remove", "www.example.org"]).await,
        "Removing www.example.org... done\n"
    );
    // As many certificates as there are names; the first refusal ends it, and says what is there.
    let names = "--subject-alt-names=example.org,other.org";
    let text = user
        .fails(&["certs:add", "www.crt", "www.key", names])
        .await;
    assert_eq!(
        text,
        "Adding SSL endpoint... \nError: added for example.org only: 400 BAD REQUEST\n\
         common_name: the certificate is not for other.org, but for example.org, \
         www.example.org: clients would refuse it\n"
    );
    let args = [
        "certs:add",
        "www.crt",
        "www.key",
        "--common-name=www.example.org",
    ];
    user.ok(&args).await;
    let list = user.ok(&["certs"]).await;
    assert!(
        list.contains("\nexample.org") && list.contains("\nwww.example.org"),
        "{list}"
    );
    let text = user.fails(&["certs:info", "none.example.org"]).await;
    assert_eq!(text, "Error: 404 NOT FOUND\ndetail: Not found\n");
    let text = user.fails(&["certs:add", "none.crt", "www.key"]).await;
    assert!(
        text.contains("can't read") && text.contains("none.crt"),
        "{text}"
    );
}

#[tokio::test]
async fn logs() {
    let user = User::with_app().await;
    let none = user.fails(&["logs", "-a", "blog"]).await;
    assert!(none.contains("no logger is running"), "{none}");
    let dir = tempfile::tempdir().expect("dir");
    let logger = Logger::fresh(dir.path(), "127.0.0.1").await;
    logger.register(&user.site.store).await;
    let created = "[time] blog[deis-controller]: ada created initial release\n";
    // It has waited for a logger.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while user.run(&["logs", "-a", "blog"], "").await != (0, created.to_owned()) {
        assert!(tokio::time::Instant::now() < deadline, "no event");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let text = "hello\n\u{1f980} \"quoted\"\n";
    logger
        .say("web.1", Position::default(), 4_000_000_000, text)
        .await;
    assert_eq!(
        user.ok(&["logs", "-a", "blog", "-n", "2"]).await,
        "[time] blog[web.1]: hello\n[time] blog[web.1]: \u{1f980} \"quoted\"\n"
    );
    assert_eq!(
        user.ok(&["logs", "-a", "blog", "--ps=web.1", "-n1", "--output=json"])
            .await,
        "{\"time\":\"2096-10-02T07:06:40Z\",\"process\":\"web.1\",\"text\":\"\u{1f980} \\\"quoted\\\"\"}\n"
    );
    assert_eq!(user.ok(&["logs", "-a", "blog", "--ps", "cron"]).await, "");
    let bad = user.fails(&["logs", "-a", "blog", "--since", "soon"]).await;
    assert!(bad.contains("400 BAD REQUEST"), "{bad}");
    assert!(
        bad.contains("\"soon\" is no time; write how long ago"),
        "{bad}"
    );

    // Followed until the app is gone.
    let (out, err) = (Sink::default(), Sink::default());
    let (sink, input) = (out.clone(), Box::new(Cursor::new(Vec::new())));
    let mut ui = Ui::pipes(Box::new(out), Box::new(err.clone()), input);
    let argv = ["deis", "logs", "-a", "blog", "-f", "-n", "1"].map(Into::into);
    let follow = run(&argv, &user.env, &mut ui);
    let shows = async |text: &str| {
        let has = || String::from_utf8_lossy(&sink.0.borrow()).contains(text);
        while !has() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{text:?} does not come"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let then = async {
        shows("quoted").await;
        let from = Position::default().after(text.as_bytes());
        logger.say("web.1", from, 4_000_000_001, "new\n").await;
        shows("blog[web.1]: new\n").await;
        user.ok(&["destroy", "-a", "blog", "--confirm=blog"]).await;
    };
    let (code, ()) = tokio::join!(follow, then);
    let why = String::from_utf8_lossy(&err.0.borrow()).into_owned();
    assert_eq!(code, 1, "{why}");
    assert!(why.contains("404 NOT FOUND"), "{why}");
}

/// The cells of a table's line.
fn cells(line: &str) -> Vec<&str> {
    let cells = line.split("  ").map(str::trim);
    cells.filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn tokens_for_programs() {
    let user = User::with_app().await;
    let made = [
        "tokens:create",
        "ci",
        "--scope=deploy",
        "--app=blog",
        "--expires=90d",
    ];
    let made = user.ok(&made).await;
    let (secret, rest) = made.split_once('\n').expect("lines");
    assert!(
        secret.len() == 40 && secret.bytes().all(|b| b.is_ascii_hexdigit()),
        "{secret}"
    );
    assert!(rest.starts_with("This is the only time that it is shown."));
    let list = user.ok(&["tokens"]).await;
    let lines: Vec<Vec<&str>> = list.lines().map(cells).collect();
    assert_eq!(lines[0], ["=== ada Tokens"]);
    assert_eq!(
        lines[1],
        ["ID", "NAME", "SCOPE", "APPS", "CREATED", "EXPIRES"]
    );
    assert_eq!(
        lines[2][1..],
        ["(this login)", "all", "all", "[time]", "never"]
    );
    assert_eq!(lines[3][1..], ["ci", "deploy", "blog", "[time]", "[time]"]);
    assert!(!list.contains(secret));

    // What it is good for, as a program uses it: in a profile of its own.
    let folder = user.home.path().join(".deis");
    let profile = std::fs::read_to_string(folder.join("client.json")).expect("profile");
    let mut profile: serde_json::Value = serde_json::from_str(&profile).expect("JSON");
    profile["token"] = secret.into();
    std::fs::write(folder.join("ci.json"), profile.to_string()).expect("written");
    let mut user = user;
    user.env.profile = "ci".into();
    user.ok(&["config:set", "A=1", "-a", "blog"]).await;
    let refused = user
        .fails(&["domains:add", "x.example.org", "-a", "blog"])
        .await;
    assert!(
        refused.contains("This token has the scope deploy; this needs all."),
        "{refused}"
    );
    user.env.profile = "client".into();
    assert_eq!(
        user.ok(&["tokens:revoke", "ci"]).await,
        "Revoking ci... done\n"
    );
    user.env.profile = "ci".into();
    let refused = user.fails(&["apps"]).await;
    assert!(refused.contains("401 UNAUTHORIZED"), "{refused}");
}

#[tokio::test]
async fn the_audit_trail() {
    let user = User::with_app().await;
    user.ok(&["config:set", "PASSWORD=hunter2", "-a", "blog"])
        .await;
    user.ok(&["domains:add", "blog.example.org", "-a", "blog"])
        .await;
    let list = user.ok(&["audit", "-n", "2", "-a", "blog"]).await;
    assert!(!list.contains("hunter2"), "{list}");
    let lines: Vec<Vec<&str>> = list.lines().map(cells).collect();
    assert_eq!(lines[0], ["=== blog Audit (2 of 3)"]);
    assert_eq!(lines[1], ["WHEN", "WHO", "BY", "ACTION", "RELEASE", "WHAT"]);
    assert_eq!(lines[2][..2], ["[time]", "ada"]);
    assert_eq!(lines[2][3..], ["domain-add", "-", "blog.example.org"]);
    assert_eq!(lines[3][3..], ["config", "v2", "added PASSWORD"]);
    let json = user.ok(&["audit", "--app=blog", "--output=json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[2]["action"], "create");
    user.ok(&["destroy", "--app=blog", "--confirm=blog"]).await;
    let list = user.ok(&["audit", "--platform"]).await;
    let lines: Vec<Vec<&str>> = list.lines().map(cells).collect();
    assert_eq!(lines[0], ["=== Platform Audit"]);
    assert_eq!(lines[2][3..], ["destroy", "-", "blog owner ada, v2"]);
    assert_eq!(lines[3][3..], ["register", "-", "ada"]);
}
