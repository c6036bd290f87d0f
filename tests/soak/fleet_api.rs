//! What fleet's functional tests say of its HTTP API, its metadata, its settings and of `fleetctl`
//! through a tunnel, under the names that they have there.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    fleet_units::Units,
    ground::{APP, Ground, Notes},
    support::*,
};

const LIMIT: Duration = Duration::from_secs(30);

/// Asks the API at a host's socket; status and body.
fn ask(ground: &Ground, host: &Host, method: &str, path: &str, body: &str) -> (u16, Value) {
    let script = format!(
        "curl -sS -m 20 --unix-socket /run/deis/fleet.sock -H 'Content-Type: application/json' \
         -w '\\n%{{http_code}}' -X {method} --data-binary '{body}' 'http://domain-sock/fleet/v1/{path}'"
    );
    let out = ground.cluster.sh(host, &script).ok().out;
    let (body, status) = out.rsplit_once('\n').unwrap_or(("", &out));
    let value = serde_json::from_str(body).unwrap_or_default();
    (status.trim().parse().expect("a status"), value)
}

/// The metadata of a host, by the API.
fn metadata(ground: &Ground, host: &Host) -> Value {
    let (status, page) = ask(ground, host, "GET", "machines", "");
    assert_eq!(status, 200, "{page}");
    let mut machines = page["machines"].as_array().expect("machines").iter();
    let own = machines.find(|machine| machine["id"] == host.machine_id.as_str());
    own.unwrap_or_else(|| panic!("{page}"))["metadata"].clone()
}

/// Changes a label of a host, or removes it.
fn patch(ground: &Ground, host: &Host, op: &str, label: &str, value: &str) -> u16 {
    let path = format!("/{}/metadata/{label}", host.machine_id);
    let body = format!(r#"[{{"op":"{op}","path":"{path}","value":"{value}"}}]"#);
    ask(ground, host, "PATCH", "machines", &body).0
}

/// Takes a label from all hosts when a trial is over.
struct Unlabelled<'a>(&'a Ground, &'static str);

impl Drop for Unlabelled<'_> {
    fn drop(&mut self) {
        for host in &self.0.cluster.hosts {
            patch(self.0, host, "remove", self.1, "");
        }
    }
}

pub fn fleet_machines_api_list(ground: &Ground, notes: &mut Notes) {
    let hosts = &ground.cluster.hosts;
    for host in hosts {
        let (status, page) = ask(ground, host, "GET", "machines", "");
        assert_eq!(status, 200);
        let machines = page["machines"].as_array().expect("machines");
        assert_eq!(machines.len(), hosts.len(), "{page}");
        for known in hosts {
            let mut machines = machines.iter();
            let found = machines.find(|machine| machine["id"] == known.machine_id.as_str());
            let found = found.unwrap_or_else(|| panic!("{page}"));
            assert_eq!(found["primaryIP"], known.address.as_str());
            assert!(found["metadata"].is_object(), "{found}");
        }
    }
    for list in ["machines", "units", "state"] {
        let bad = format!("{list}?nextPageToken=EwBMLg==");
        assert_eq!(ask(ground, &hosts[0], "GET", &bad, "").0, 400, "{bad}");
    }

    let units = Units::new(ground);
    units.write("soak-page@.service", &[]);
    let mut names: Vec<String> = (0..120)
        .map(|n| format!("soak-page@{n:03}.service"))
        .collect();
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let begun = Instant::now();
    units.ctl(&[&["submit"], &words[..]].concat()).ok();
    notes.figure(format!(
        "120 units submitted within {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let (mut listed, mut pages, mut query) = (BTreeSet::new(), 0, String::new());
    loop {
        let (status, page) = ask(ground, &hosts[1], "GET", &format!("units{query}"), "");
        assert_eq!(status, 200);
        pages += 1;
        for unit in page["units"].as_array().expect("units") {
            let name = unit["name"].as_str().expect("a name");
            assert!(listed.insert(name.to_owned()), "{name} comes twice");
        }
        match page["nextPageToken"].as_str() {
            Some(token) => query = format!("?nextPageToken={token}"),
            None => break,
        }
    }
    names.retain(|name| !listed.contains(name));
    assert_eq!(names, Vec::<String>::new(), "are on no page");
    assert_eq!(pages, listed.len().div_ceil(100));
}

pub fn fleet_machines_api_patch(ground: &Ground, _: &mut Notes) {
    let _clean = Unlabelled(ground, "soak");
    let hosts = &ground.cluster.hosts;
    let listed = |host: &Host| {
        let all = ground
            .cluster
            .deisctl(&["list-machines", "--full"])
            .ok()
            .out;
        let mut lines = all.lines();
        let line = lines.find(|line| line.starts_with(&host.machine_id));
        line.unwrap_or_else(|| panic!("{all}")).to_owned()
    };
    for (op, value) in [("add", "one"), ("replace", "two"), ("add", "three")] {
        assert_eq!(patch(ground, &hosts[0], op, "soak", value), 204);
        assert_eq!(metadata(ground, &hosts[0])["soak"], value, "{op}");
        let line = listed(&hosts[0]);
        assert!(line.contains(&format!("soak={value}")), "{line}");
    }
    assert!(metadata(ground, &hosts[1])["soak"].is_null(), "one host's");
    // A label outlives its host's agent.
    let restart = "systemctl restart deis-agent";
    ground.cluster.sh(&hosts[0], restart).ok();
    ground.wait_machine(&hosts[0], "up", MINUTE);
    assert_eq!(metadata(ground, &hosts[0])["soak"], "three");

    let own = format!("/{}/metadata/soak", hosts[0].machine_id);
    let nobody = "/ffffffffffffffffffffffffffffffff/metadata/soak";
    for bad in [
        format!(r#"[{{"op":"remove","path":"{own}"}},{{"op":"noop","path":"{own}","value":"x"}}]"#),
        format!(r#"[{{"op":"remove","path":"{own}"}},{{"op":"add","path":"/soak","value":"x"}}]"#),
        format!(
            r#"[{{"op":"remove","path":"{own}"}},{{"op":"add","path":"{nobody}","value":"x"}}]"#
        ),
        format!(r#"[{{"op":"add","path":"{own}"}}]"#),
        "{}".to_owned(),
        "nonsense".to_owned(),
    ] {
        let (status, said) = ask(ground, &hosts[0], "PATCH", "machines", &bad);
        assert_eq!(status, 400, "{bad}: {said}");
        let message = said["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "in words: {said}");
        assert_eq!(metadata(ground, &hosts[0])["soak"], "three", "{bad}");
    }
    assert_eq!(patch(ground, &hosts[0], "remove", "soak", ""), 204);
    assert!(metadata(ground, &hosts[0])["soak"].is_null());
    assert!(!listed(&hosts[0]).contains("soak="));
}

pub fn fleet_templates_with_specifiers_in_metadata(ground: &Ground, notes: &mut Notes) {
    let _clean = Unlabelled(ground, "soak");
    let hosts = &ground.cluster.hosts;
    for (n, host) in hosts.iter().enumerate() {
        assert_eq!(patch(ground, host, "add", "soak", &format!("n{n}")), 204);
    }
    let units = Units::new(ground);
    units.write("soak-there@.service", &["MachineMetadata=soak=%i"]);
    for (n, host) in hosts.iter().enumerate() {
        let name = format!("soak-there@n{n}.service");
        units.ctl(&["start", &name]).ok();
        assert_eq!(units.wait_active(&name, 1), [host.name.clone()]);
    }
    // No host has this: it waits, and says for what.
    let nowhere = "soak-there@n9.service";
    units.ctl(&["start", "--no-block", nowhere]).ok();
    let why = units.ctl(&["explain", nowhere]).ok().out;
    assert!(why.contains("soak"), "{why}");
    assert_eq!(units.active(nowhere), Vec::<String>::new());
    // A label that moves takes its unit along.
    assert_eq!(patch(ground, &hosts[1], "add", "soak", "n9"), 204);
    let begun = Instant::now();
    assert_eq!(units.wait_active(nowhere, 1), [hosts[1].name.clone()]);
    units.wait_active("soak-there@n1.service", 0);
    notes.figure(format!(
        "a changed label is followed within {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
}

/// Puts a host's settings back as they were.
struct Resettled<'a>(&'a Ground, &'a Host);

impl Drop for Resettled<'_> {
    fn drop(&mut self) {
        let back = "cd /etc/deis && [ ! -e soak-host.yaml ] || { mv soak-host.yaml host.yaml; \
                    systemctl restart --no-block deis-agent; }";
        self.0.cluster.sh(self.1, back);
    }
}

pub fn fleet_reconfigure_server(ground: &Ground, notes: &mut Notes) {
    ground.steady();
    let cluster = &ground.cluster;
    let host = ground.busy_host();
    let lives = cluster.lives(APP);
    let _back = Resettled(ground, host);
    let before = metadata(ground, host);
    let change = "cd /etc/deis && cp -p host.yaml soak-host.yaml && grep -n '^metadata:' host.yaml";
    cluster.sh(host, change).ok();
    let mut longest = Duration::ZERO;
    for round in 1..=3 {
        let mut wanted = before.clone();
        wanted["soak-round"] = round.to_string().into();
        let settings = format!(
            "sed -i 's/^metadata:.*/metadata: {wanted}/' /etc/deis/host.yaml && systemctl kill -s HUP deis-agent"
        );
        cluster.sh(host, &settings).ok();
        let begun = Instant::now();
        eventually("the API answers with the new metadata", LIMIT, || {
            let script = "curl -sS -m 5 --unix-socket /run/deis/fleet.sock http://domain-sock/fleet/v1/machines";
            let said = cluster.sh(host, script).all();
            if said.contains(&format!(r#""soak-round":"{round}""#)) {
                Ok(())
            } else {
                Err(said)
            }
        });
        longest = longest.max(begun.elapsed());
        assert_eq!(cluster.lives(APP), lives, "no unit is touched");
    }
    ground.wait_machine(host, "up", MINUTE);
    ground.wait_settled(MINUTE);
    assert_eq!(cluster.lives(APP), lives, "no unit is touched");
    notes.figure(format!(
        "three times new metadata, in effect within {:.1} s at most",
        longest.as_secs_f64()
    ));
}

pub fn fleet_tunnel_schedule_batch_units(ground: &Ground, notes: &mut Notes) {
    let cluster = &ground.cluster;
    let path = format!("/var/lib/deis-local/{}/cluster.yaml", cluster.name);
    let text = std::fs::read_to_string(&path).expect("cluster.yaml");
    let known: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
    let (jump, other) = (&cluster.hosts[0], &cluster.hosts[1]);
    let units = Units::new(ground);
    units.write("soak-tunnel@.service", &[]);
    let through = |args: &[&str]| {
        let mut command = Command::new(DEISCTL);
        command
            .arg(format!("--tunnel=root@{}", jump.address))
            .arg(format!("--endpoint=http://{}:2379", other.address))
            .arg(format!(
                "--ssh-key={}",
                known["ssh_key"].as_str().expect("a path")
            ))
            .arg(format!(
                "--known-hosts-file={}",
                known["known_hosts"].as_str().expect("a path")
            ))
            .current_dir(units.dir())
            .args(args);
        run(&mut command, 3 * MINUTE)
    };
    let names: Vec<String> = (1..=30)
        .map(|n| format!("soak-tunnel@{n}.service"))
        .collect();
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let begun = Instant::now();
    through(&[&["submit"], &words[..]].concat()).ok();
    through(&[&["start"], &words[..]].concat()).ok();
    let took = begun.elapsed();
    let direct = units.on_hosts();
    assert_eq!(direct.len(), 30, "{direct:?}");
    eventually("all are active", LIMIT, || {
        let list = through(&["list-units", "--no-legend", "--fields=unit,active"])
            .ok()
            .out;
        let active = list.lines().filter(|line| line.starts_with("soak-tunnel@"));
        match active.filter(|line| line.ends_with(" active")).count() {
            30 => Ok(()),
            _ => Err(list),
        }
    });
    let hello = through(&["ssh", "soak-tunnel@7.service", "echo", "here"]).ok();
    assert_eq!(hello.out, "here\n");
    through(&["destroy", "soak-tunnel@*"]).ok();
    assert!(units.on_hosts().is_empty());
    notes.figure(format!(
        "30 units submitted and started within {:.1} s",
        took.as_secs_f64()
    ));
}
