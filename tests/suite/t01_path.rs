//! From a push to a page, and what a user does next.

use std::{collections::BTreeSet, time::Duration};

use crate::support::*;

#[test]
fn push_scale_config_rollback_destroy() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::test_app(&user, "path");

    // An app without processes is known, and says so.
    let answer = app.get("/").expect("an answer");
    assert_eq!(answer.status, 503, "{answer:?}");

    let push = app.push().ok();
    for line in [
        "-----> ",
        "Launching...",
        "done, path:v2 deployed to Deis",
        "http://path.localhost",
    ] {
        assert!(
            push.err.contains(line),
            "{line:?} is in the push's output: {push:#?}"
        );
    }
    assert_eq!(app.page()["release"], "v2");

    // Through each router, as its own host.
    for host in &cluster.hosts {
        let answer = get(&format!("{}:80", host.address), "path.localhost", "/").expect("answer");
        assert_eq!(answer.status, 200, "through {}: {answer:?}", host.name);
    }

    app.deis(&["scale", "web=3"]).ok();
    let ps = app.deis(&["ps"]).ok().out;
    for line in ["web.1 up (v2)", "web.2 up (v2)", "web.3 up (v2)"] {
        assert!(ps.contains(line), "{line} is in {ps}");
    }
    let containers: BTreeSet<String> = (0..60)
        .map(|_| app.page()["container"].to_string())
        .collect();
    assert_eq!(containers.len(), 3, "all three answer: {containers:?}");

    // One on each host, as deisctl and systemd both say.
    let list = cluster.deisctl(&["list"]).ok().out;
    for host in &cluster.hosts {
        let listed: Vec<&str> = list
            .lines()
            .filter(|l| {
                l.starts_with("path_v2.web.")
                    && (l.contains(&host.address) || l.contains(&host.name))
            })
            .collect();
        assert_eq!(listed.len(), 1, "one process on {} in:\n{list}", host.name);
        let units = cluster
            .sh(
                host,
                "systemctl list-units --plain --no-legend --state=active 'path_v2.web.?.service'",
            )
            .ok();
        assert_eq!(units.out.lines().count(), 1, "{}: {units:#?}", host.name);
        let unit = listed[0].split_whitespace().next().expect("a name");
        assert!(
            units.out.contains(unit.trim_end_matches(".service")),
            "{unit} in {}",
            units.out
        );
    }

    let set = app.deis(&["config:set", "GREETING=hello world"]).ok();
    assert!(set.out.contains("done, v3"), "{set:#?}");
    let page = app.page();
    assert_eq!(
        (page["release"].as_str(), page["greeting"].as_str()),
        (Some("v3"), Some("hello world"))
    );
    let list = app.deis(&["config:list"]).ok().out;
    assert!(
        list.contains("GREETING") && list.contains("hello world"),
        "{list}"
    );

    let back = app.deis(&["rollback", "v2"]).ok();
    assert!(
        back.out.contains("Rolling back to v2") && back.out.contains("done, v4"),
        "{back:#?}"
    );
    let page = app.page();
    assert_eq!(
        (page["release"].as_str(), page["greeting"].as_str()),
        (Some("v4"), None)
    );
    app.deis(&["config:set", "OTHER=1"]).ok();
    assert_eq!(
        app.page()["greeting"].as_str(),
        None,
        "a value rolled back stays away"
    );
    let releases = app.deis(&["releases"]).ok().out;
    for text in [
        "v1",
        "created initial release",
        "v2",
        "deployed",
        "v3",
        "added GREETING",
        "v4",
        "rolled back to v2",
    ] {
        assert!(releases.contains(text), "{text} in {releases}");
    }

    let one_off = app.deis(&["run", "--", "echo \"a  b\" $OTHER; echo oops >&2; exit 3"]);
    assert_eq!(one_off.status, Some(3), "{one_off:#?}");
    assert!(
        one_off.all().contains("a  b 1") && one_off.all().contains("oops"),
        "{one_off:#?}"
    );

    app.deis(&["scale", "web=1", "worker=1"]).ok();
    eventually("the worker's lines in the log", MINUTE, || {
        let logs = app.deis(&["logs", "-n", "200"]).ok().out;
        let worker = logs
            .lines()
            .find(|line| line.contains("path[worker.1]: working"));
        match worker {
            Some(line) if line.starts_with("20") => Ok(()),
            _ => Err(logs),
        }
    });
    assert_eq!(app.page()["release"], "v5");

    app.deis(&["scale", "web=0"]).ok();
    assert_eq!(app.get("/").expect("answer").status, 503);
    app.deis(&["scale", "web=1"]).ok();
    assert_eq!(app.page()["release"], "v5");

    app.destroy();
    let answer = get("127.0.0.1:80", "path.localhost", "/").expect("answer");
    assert!(
        answer.status == 404 && answer.body.contains("404 Not Found"),
        "{answer:?}"
    );
    let keys = cluster
        .etcdctl(&cluster.hosts[0], "get --prefix --keys-only /deis")
        .ok()
        .out;
    assert!(
        !keys.contains("/path"),
        "nothing of it is left in etcd: {keys}"
    );
    eventually("no unit of it is left", MINUTE, || {
        let units = cluster.on_all("systemctl list-units --all --plain --no-legend 'path_*'; ls /run/systemd/system | grep ^path_; podman ps -aq --filter name=^path_");
        match units.values().find(|ran| !ran.out.trim().is_empty()) {
            None => Ok(()),
            Some(left) => Err(format!("{left:#?}")),
        }
    });
}

#[test]
fn the_router_keeps_the_contract() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let unknown = get("127.0.0.1:80", "nobody-has-this.localhost", "/").expect("answer");
    assert!(
        unknown.status == 404 && unknown.body.contains("404 Not Found"),
        "{unknown:?}"
    );
    // The controller's own reason phrases, through the router.
    let missing = get("127.0.0.1:80", "deis.localhost", "/v1/nothing-here").expect("answer");
    assert!(
        missing.head.starts_with("HTTP/1.1 404 NOT FOUND\r\n"),
        "{missing:?}"
    );
    assert!(
        missing
            .head
            .to_lowercase()
            .contains("deis_api_version: 1.7"),
        "{missing:?}"
    );
    let anonymous = get("127.0.0.1:80", "deis.localhost", "/v1/").expect("answer");
    assert!(
        anonymous.head.starts_with("HTTP/1.1 401 UNAUTHORIZED\r\n"),
        "{anonymous:?}"
    );

    let app = App::pushed(&user, "headers");
    let mut connection = Connection::open("127.0.0.1:80").expect("connection");
    let request =
        "GET /headers HTTP/1.1\r\nHost: headers.localhost\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    let answer = connection.request(request).expect("answer");
    let headers: serde_json::Value =
        serde_json::from_str(&answer.body.to_lowercase()).expect("JSON");
    assert_eq!(headers["x-forwarded-proto"], "http", "{headers}");
    assert_eq!(headers["host"], "headers.localhost", "{headers}");
    assert!(
        headers["x-forwarded-for"]
            .as_str()
            .is_some_and(|v| v.starts_with("192.0.2.7, ")),
        "{headers}"
    );
    // A protocol upgrade passes, and bytes go both ways, for longer than one exchange.
    let mut tunnel = Connection::open("127.0.0.1:80").expect("connection");
    let upgrade = "GET /echo HTTP/1.1\r\nHost: headers.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(tunnel.request(upgrade).expect("answer").status, 101);
    for text in ["hello", "\u{0}\u{1} and again"] {
        assert_eq!(tunnel.exchange(text).expect("echo"), text);
    }
    drop(tunnel);
    // IPv6 loopback leads to the same place.
    assert_eq!(
        get("[::1]:80", "headers.localhost", "/")
            .expect("answer")
            .status,
        200
    );
    drop(app);
}

#[test]
fn a_release_that_does_not_start_never_serves() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "brittle");
    let load = Load::start("brittle", 20);
    app.commit(&[("app.py", "raise SystemExit('this release is broken')\n")]);
    let push = app.push().refused();
    assert!(
        push.err.contains("this release is broken"),
        "the last lines are shown: {push:#?}"
    );
    let loaded = load.finish();
    assert_eq!(app.page()["release"], "v2", "the old one serves on");
    assert!(loaded.failures.is_empty(), "{loaded:?}");
    let releases = app.deis(&["releases"]).ok().out;
    assert!(
        releases.contains("v3"),
        "the failed release keeps its number: {releases}"
    );
    app.commit(&[("app.py", include_str!("app/app.py"))]);
    let push = app.push().ok();
    assert!(push.err.contains("brittle:v4"), "{push:#?}");
    assert_eq!(app.page()["release"], "v4");
}

#[test]
fn deploys_lose_no_request() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "smooth");
    app.deis(&["scale", "web=3"]).ok();
    let load = Load::start("smooth", 50);
    // A slow request is under way while its process is replaced.
    let slow = std::thread::spawn(|| get("127.0.0.1:80", "smooth.localhost", "/slow?s=4"));
    for round in 0..4 {
        app.deis(&["config:set", &format!("ROUND={round}")]).ok();
    }
    app.deis(&["scale", "web=1"]).ok();
    app.deis(&["scale", "web=4"]).ok();
    app.deis(&["restart"]).ok();
    app.deis(&["rollback", "v2"]).ok();
    std::thread::sleep(Duration::from_secs(1));
    let loaded = load.finish();
    println!(
        "{} requests over 4 deploys, 2 scalings, a restart and a rollback",
        loaded.sent
    );
    assert!(
        loaded.sent > 100 && loaded.failures.is_empty(),
        "{loaded:?}"
    );
    assert_eq!(slow.join().expect("thread").expect("answer").body, "slow\n");
}
