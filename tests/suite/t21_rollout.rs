//! The switch from one release to the next, as its users see it: the command before it, the requests in
//! it, and what the routers say of it afterwards.

use crate::support::*;

const APP: &str = include_str!("app/app.py");

#[test]
fn a_release_command_a_receipt_and_maintenance() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let procfile = |command: &str| format!("web: python3 app.py\nrelease: {command}\n");
    let good = procfile("echo migrating for $DEIS_RELEASE");
    let app = App::create(&user, "switch", &[("app.py", APP), ("Procfile", &good)]);
    let pushed = app.push().ok().all();
    assert!(pushed.contains("migrating for v2"), "{pushed}");
    assert_eq!(app.page()["release"], "v2");
    let said = app.deis(&["logs", "--ps=release"]).ok().out;
    assert!(said.contains("migrating for v2"), "{said}");
    let refused = app.deis(&["scale", "release=1"]).refused().all();
    assert!(refused.contains("it can't be scaled"), "{refused}");

    // A command that fails ends the deploy before anything of it has served.
    let load = Load::start("switch", 100);
    let bad = procfile("echo no such table >&2; exit 3");
    app.commit(&[("Procfile", &bad)]);
    let refused = app.push().refused().all();
    for said in ["the release command failed", "exit code 3", "no such table"] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
    assert_eq!(app.page()["release"], "v2");
    let ps = app.deis(&["ps"]).ok().out;
    assert!(ps.contains("web.1 up (v2)") && !ps.contains("(v3)"), "{ps}");

    // One that does well: the receipt counts what the clients have seen.
    app.commit(&[("Procfile", &good)]);
    app.push().ok();
    let loaded = load.finish();
    assert!(loaded.failures.is_empty(), "{:?}", loaded.failures);
    let info = ["releases:info", "v4", "--output=json"];
    let info: serde_json::Value = serde_json::from_str(&app.deis(&info).ok().out).expect("JSON");
    let receipt = &info["receipt"];
    let number = |what: &serde_json::Value| what.as_u64().expect("a number");
    assert_eq!(number(&receipt["routers"]), 3, "{receipt}");
    assert_eq!(number(&receipt["unserved"]["failed"]), 0, "{receipt}");
    let releases = receipt["releases"].as_object().expect("releases");
    assert!(
        releases.values().all(|of| number(&of["failed"]) == 0),
        "{receipt}"
    );
    assert!(number(&releases["v4"]["served"]) > 0, "{receipt}");
    assert!(number(&releases["v4"]["p99_us"]) > 0, "{receipt}");
    let shown = app.deis(&["releases:info", "v4"]).ok().out;
    assert!(shown.contains("Receipt of the switch"), "{shown}");

    // Out of service, and back: nothing is restarted.
    let before = app.page()["container"].clone();
    app.commit(&[("page.html", "<h1>Back at noon</h1>")]);
    let page = app.repo.path().join("page.html");
    let page = format!("--page={}", page.display());
    app.deis(&["maintenance:on", &page]).ok();
    let closed = |what: &str, status: u16, text: &str| {
        eventually(what, MINUTE, || match app.get("/") {
            Ok(answer) if answer.status == status && answer.body.contains(text) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    closed("the app's own page", 503, "Back at noon");
    assert_eq!(app.deis(&["maintenance"]).ok().out.trim(), "on");
    let ps = app.deis(&["ps"]).ok().out;
    assert!(ps.contains("web.1 up (v4)"), "{ps}");
    app.deis(&["maintenance:off"]).ok();
    closed("the app", 200, "release");
    assert_eq!(app.page()["container"], before);
}

/// A single type has a gap between two processes: its clients wait, and none of them is refused.
#[test]
fn requests_are_held_while_a_single_process_is_replaced() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "alone");
    app.deis(&["ps:single", "web", "on"]).ok();
    let load = Load::start("alone", 50);
    app.deis(&["config:set", "GREETING=hello"]).ok();
    let loaded = load.finish();
    assert!(loaded.failures.is_empty(), "{:?}", loaded.failures);
    assert_eq!(app.page()["greeting"], "hello");
    let shown = app.deis(&["releases:info", "v3", "--output=json"]).ok().out;
    let info: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let releases = info["receipt"]["releases"].as_object().expect("releases");
    let held: u64 = releases.values().filter_map(|of| of["held"].as_u64()).sum();
    assert!(held > 0, "{shown}");
}
