//! Operators' units, as fleetctl's users know them: with files, and by fleet's API at its socket.

use std::fs;

use crate::support::*;

const HELLO: &str = "[Unit]\nDescription=Hello\n\n[Service]\n\
    ExecStart=/bin/sh -c \"while true; do echo Hello, World!; sleep 1; done\"\n";
/// Started by the start of another unit, which its `[Install]` section asks for.
const FOLLOWER: &str = "[Unit]\nBindsTo=hello.service\n\n[Service]\nExecStart=/bin/sleep infinity\n\n\
    [Install]\nWantedBy=hello.service\n\n[X-Fleet]\nMachineOf=hello.service\n";

#[test]
fn a_unit_goes_all_the_way_and_back() {
    let cluster = Cluster::get();
    let dir = tempfile::tempdir().expect("dir");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("path").to_owned()
    };
    let hello = file("hello.service", HELLO);
    let follower = file("follower.service", FOLLOWER);
    let ctl = |args: &[&str]| cluster.deisctl(args);
    // One line per unit, its columns between single spaces.
    let units = |fields: &str| {
        let fields = format!("--fields={fields}");
        let list = ctl(&["list-units", "--no-legend", &fields]).ok().out;
        let columns = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        list.lines().map(columns).collect::<Vec<_>>().join("\n")
    };

    assert!(
        ctl(&["submit", &hello])
            .ok()
            .out
            .contains("Unit hello.service inactive")
    );
    assert!(!units("unit").contains("hello"), "nowhere yet");
    assert_eq!(ctl(&["cat", "hello.service"]).ok().out, HELLO);
    let loaded = ctl(&["load", &hello, &follower]).ok().out;
    assert!(loaded.contains("Unit hello.service loaded on "), "{loaded}");
    assert!(units("unit,load,active,sub").contains("hello.service loaded inactive dead"));

    let started = ctl(&["start", "hello.service"]).ok().out;
    assert!(
        started.contains("Unit hello.service launched on "),
        "{started}"
    );
    // The follower is wanted by it, and was only loaded: systemd starts it.
    eventually("both are active", MINUTE, || {
        let list = units("unit,active,sub");
        let is_up = |unit: &str| list.contains(&format!("{unit} active running"));
        if is_up("hello.service") && is_up("follower.service") {
            Ok(())
        } else {
            Err(list)
        }
    });
    let status = ctl(&["status", "hello.service"]).ok().out;
    assert!(status.contains("Active: active (running)"), "{status}");
    eventually("its journal is there", MINUTE, || {
        let journal = ctl(&["journal", "hello.service"]).ok().out;
        if journal.contains("Hello, World!") {
            Ok(())
        } else {
            Err(journal)
        }
    });
    // Another text is refused, unless it replaces the old one.
    let other = file("hello.service", &HELLO.replace("sleep 1", "sleep 2"));
    let refused = ctl(&["start", &other]).refused();
    assert!(refused.all().contains("another text"), "{}", refused.all());
    ctl(&["start", "--replace", &other]).ok();
    assert!(ctl(&["cat", "hello.service"]).ok().out.contains("sleep 2"));
    assert!(
        ctl(&["status", "hello.service"])
            .ok()
            .out
            .contains("sleep 2")
    );

    let stopped = ctl(&["stop", "hello.service"]).ok().out;
    assert!(
        stopped.contains("Unit hello.service loaded on "),
        "{stopped}"
    );
    assert!(
        ctl(&["unload", "hello.service", "follower.service"])
            .ok()
            .out
            .contains("Unit hello.service inactive")
    );
    assert!(!units("unit").contains("hello"));
    assert!(
        ctl(&["destroy", "hello.service", "follower.service"])
            .ok()
            .out
            .contains("Destroyed hello.service")
    );
    assert!(!ctl(&["list-unit-files"]).ok().out.contains("hello"));

    // Instances of a template, one per host, and all at once.
    file(
        "node@.service",
        &format!("{HELLO}\n[X-Fleet]\nConflicts=node@*.service\n"),
    );
    let instances = [1, 2, 3].map(|n| {
        dir.path()
            .join(format!("node@{n}.service"))
            .to_str()
            .expect("path")
            .to_owned()
    });
    let mut start = vec!["start"];
    start.extend(instances.iter().map(String::as_str));
    ctl(&start).ok();
    let machines = units("unit,machine");
    let mut on: Vec<&str> = machines
        .lines()
        .filter(|line| line.starts_with("node@"))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    on.sort_unstable();
    on.dedup();
    assert_eq!(on.len(), 3, "{machines}");
    ctl(&["destroy", "node@*"]).ok();
    for (host, ran) in cluster.on_all("ls /run/systemd/system /run/deis/units") {
        let left = ran.ok().out;
        assert!(
            !left.contains("node@") && !left.contains("hello"),
            "{host}: {left}"
        );
    }
}

#[test]
fn the_fleet_api_is_at_its_socket() {
    let cluster = Cluster::get();
    let host = &cluster.hosts[0];
    let ask = |request: &str, body: &str| {
        let script = format!(
            "curl -sS --unix-socket /run/deis/fleet.sock -H 'Content-Type: application/json' \
             -w ' %{{http_code}}' -X {} --data-binary '{body}' http://domain-sock/fleet/v1/{}",
            request.split(' ').next().expect("method"),
            request.split(' ').nth(1).expect("path"),
        );
        cluster.sh(host, &script).ok().out
    };
    let mode = cluster
        .sh(host, "stat -c '%a %U' /run/deis/fleet.sock")
        .ok()
        .out;
    assert_eq!(mode.trim(), "600 root");
    let unit = r#"{"desiredState":"launched","options":[{"section":"Service","name":"ExecStart","value":"/bin/sleep infinity"}]}"#;
    assert!(ask("PUT units/api.service", unit).ends_with(" 201"));
    eventually("it runs", MINUTE, || {
        let state = ask("GET state?unitName=api.service", "");
        if state.contains(r#""systemdSubState":"running""#) {
            Ok(())
        } else {
            Err(state)
        }
    });
    let shown = ask("GET units/api.service", "");
    assert!(shown.contains(r#""currentState":"launched""#), "{shown}");
    let machines = ask("GET machines", "");
    assert!(
        cluster
            .hosts
            .iter()
            .all(|host| machines.contains(&host.address)),
        "{machines}"
    );
    assert!(ask("PUT units/api.service", r#"{"desiredState":"inactive"}"#).ends_with(" 204"));
    assert!(ask("DELETE units/api.service", "").ends_with(" 204"));
    assert!(ask("GET units/api.service", "").ends_with(" 404"));
}
