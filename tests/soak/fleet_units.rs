//! What fleet's functional tests say of units and their placement, under the names that they have there.

use std::{collections::BTreeMap, fs, time::Duration};

use crate::{
    ground::{Ground, Notes},
    support::*,
};

/// How long units may take to be as asked.
const LIMIT: Duration = Duration::from_secs(30);
const RUNS: &str =
    "[Service]\nExecStart=/bin/sh -c 'while true; do echo hello from %p; sleep 1; done'\n";

/// Unit files of a trial. They are destroyed with it.
pub struct Units<'a> {
    ground: &'a Ground,
    dir: tempfile::TempDir,
}

impl Drop for Units<'_> {
    fn drop(&mut self) {
        if !self.listed().is_empty() {
            self.ctl(&["destroy", "soak-*"]);
        }
    }
}

impl<'a> Units<'a> {
    pub fn new(ground: &'a Ground) -> Self {
        let dir = tempfile::TempDir::new().expect("folder");
        Self { ground, dir }
    }

    pub fn write(&self, name: &str, fleet: &[&str]) {
        let options: String = fleet.iter().map(|line| format!("{line}\n")).collect();
        fs::write(
            self.dir.path().join(name),
            format!("{RUNS}\n[X-Fleet]\n{options}"),
        )
        .expect("unit");
    }

    /// Where the files are.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn ctl(&self, args: &[&str]) -> Ran {
        self.ground.cluster.deisctl_in(self.dir.path(), args)
    }

    /// Unit files of the trials that the cluster knows: what is wanted of them and how far they are.
    fn listed(&self) -> BTreeMap<String, String> {
        self.rows("list-unit-files", "unit,dstate,state")
    }

    /// The trials' units on hosts: active, sub and the whole machine id.
    pub fn on_hosts(&self) -> BTreeMap<String, String> {
        self.rows("list-units", "unit,active,sub,machine")
    }

    /// A list's columns after the first one, between single spaces.
    fn rows(&self, list: &str, fields: &str) -> BTreeMap<String, String> {
        let fields = format!("--fields={fields}");
        let all = self.ctl(&[list, "--no-legend", "--full", &fields]).ok().out;
        let ours = all.lines().filter(|line| line.starts_with("soak-"));
        ours.map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            (name, words.collect::<Vec<_>>().join(" "))
        })
        .collect()
    }

    /// On which hosts systemd has a unit in that state, by systemd's own word.
    fn hosts_with(&self, unit: &str, state: &str) -> Vec<String> {
        let script =
            format!("systemctl show -p LoadState -p ActiveState --value '{unit}' | paste -sd' '");
        let hosts = self.ground.cluster.on_all(&script).into_iter();
        hosts
            .filter(|(_, ran)| ran.out.trim() == state)
            .map(|(host, _)| host)
            .collect()
    }

    pub fn active(&self, unit: &str) -> Vec<String> {
        self.hosts_with(unit, "loaded active")
    }

    /// Waits until a unit is active on so many hosts; says on which.
    #[track_caller]
    pub fn wait_active(&self, unit: &str, count: usize) -> Vec<String> {
        eventually(&format!("{unit} is active on {count} hosts"), LIMIT, || {
            let hosts = self.active(unit);
            if hosts.len() == count {
                Ok(hosts)
            } else {
                Err(format!("{hosts:?}; {}", self.ctl(&["list-units"]).all()))
            }
        })
    }

    /// How many of these are active anywhere, and stay so for a while.
    #[track_caller]
    fn wait_some(&self, units: &[&str], count: usize) -> Vec<String> {
        let now = || -> Vec<String> {
            let is_active = |unit: &&&str| !self.active(unit).is_empty();
            units
                .iter()
                .filter(is_active)
                .map(|unit| (*unit).to_owned())
                .collect()
        };
        let found = eventually(&format!("{count} of {units:?} are active"), LIMIT, || {
            let found = now();
            if found.len() == count {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        });
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(now(), found, "and it stays so");
        found
    }
}

pub fn fleet_unit_runnable(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &[]);
    units.ctl(&["start", "soak-hello.service"]).ok();
    let on = units.wait_active("soak-hello.service", 1);
    let host = ground.cluster.hosts.iter().find(|host| host.name == on[0]);
    let id = &host.expect("host").machine_id;
    eventually("`list-units` says so", LIMIT, || {
        let list = units.on_hosts();
        let line = list.get("soak-hello.service").map(String::as_str);
        let line = line.unwrap_or_default();
        if line.starts_with("active running") && line.contains(id.as_str()) {
            Ok(())
        } else {
            Err(format!("{list:?}"))
        }
    });
}

pub fn fleet_unit_submit(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &[]);
    units.ctl(&["submit", "soak-hello.service"]).ok();
    units.ctl(&["submit", "soak-hello.service"]).ok();
    assert_eq!(units.listed()["soak-hello.service"], "inactive inactive");
    assert_eq!(units.on_hosts(), BTreeMap::new());
    units.ctl(&["destroy", "soak-hello.service"]).ok();
    assert_eq!(units.listed(), BTreeMap::new());
    units.ctl(&["cat", "soak-hello.service"]).refused();
}

pub fn fleet_unit_load(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &[]);
    units.ctl(&["load", "soak-hello.service"]).ok();
    eventually("it is loaded on one host, not started", LIMIT, || {
        let hosts = units.hosts_with("soak-hello.service", "loaded inactive");
        if hosts.len() == 1 {
            Ok(())
        } else {
            Err(format!("{hosts:?}"))
        }
    });
    units.ctl(&["unload", "soak-hello.service"]).ok();
    eventually("it is on no host", LIMIT, || {
        let hosts = units.hosts_with("soak-hello.service", "not-found inactive");
        if hosts.len() == 3 {
            Ok(())
        } else {
            Err(format!("not on {hosts:?}"))
        }
    });
    assert_eq!(units.listed()["soak-hello.service"], "inactive inactive");
}

/// submit, load and start, each with --replace: the new text takes the old one's place.
fn replaces(ground: &Ground, verb: &str) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &[]);
    units.ctl(&[verb, "soak-hello.service"]).ok();
    units.write("soak-hello.service", &["# another text"]);
    units.ctl(&[verb, "--replace", "soak-hello.service"]).ok();
    let text = units.ctl(&["cat", "soak-hello.service"]).ok().out;
    assert!(text.contains("another text"), "{text}");
    if verb == "start" {
        eventually("the new text runs", LIMIT, || {
            let all = ground
                .cluster
                .on_all("systemctl cat soak-hello.service 2>/dev/null");
            let with = all
                .values()
                .filter(|ran| ran.out.contains("another text"))
                .count();
            if with == 1 {
                Ok(())
            } else {
                Err(format!("{all:#?}"))
            }
        });
        units.wait_active("soak-hello.service", 1);
    }
}

pub fn fleet_unit_submit_replace(ground: &Ground, _: &mut Notes) {
    replaces(ground, "submit");
}

pub fn fleet_unit_load_replace(ground: &Ground, _: &mut Notes) {
    replaces(ground, "load");
}

pub fn fleet_unit_start_replace(ground: &Ground, _: &mut Notes) {
    replaces(ground, "start");
}

pub fn fleet_unit_ssh_actions(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &[]);
    units.ctl(&["start", "soak-hello.service"]).ok();
    let hosts = units.wait_active("soak-hello.service", 1);
    let ssh = units
        .ctl(&["ssh", "soak-hello.service", "hostname"])
        .ok()
        .out;
    assert_eq!(ssh.trim(), hosts[0]);
    eventually("its journal is shown", LIMIT, || {
        let journal = units.ctl(&["journal", "soak-hello.service"]).ok().out;
        if journal.contains("hello from soak-hello") {
            Ok(())
        } else {
            Err(journal)
        }
    });
}

pub fn fleet_unit_cat(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &["MachineMetadata=a=b"]);
    units.ctl(&["submit", "soak-hello.service"]).ok();
    let text = fs::read_to_string(units.dir.path().join("soak-hello.service")).expect("unit");
    let cat = units.ctl(&["cat", "soak-hello.service"]).ok().out;
    assert_eq!(cat.trim(), text.trim());
}

pub fn fleet_unit_status(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &[]);
    units.ctl(&["start", "soak-hello.service"]).ok();
    units.wait_active("soak-hello.service", 1);
    let status = units.ctl(&["status", "soak-hello.service"]).ok().out;
    assert!(status.contains("Active: active (running)"), "{status}");
    units.ctl(&["status", "soak-nosuch.service"]).refused();
}

pub fn fleet_unit_restart(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-hello.service", &[]);
    units.ctl(&["start", "soak-hello.service"]).ok();
    units.wait_active("soak-hello.service", 1);
    let life = || {
        let all = ground
            .cluster
            .on_all("systemctl show -p InvocationID --value soak-hello.service");
        all.into_values()
            .map(|ran| ran.out.trim().to_owned())
            .collect::<String>()
    };
    let before = life();
    units.ctl(&["restart", "soak-hello.service"]).ok();
    units.wait_active("soak-hello.service", 1);
    assert_ne!(life(), before);
}

pub fn fleet_list_unit_files_order(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    let mut names: Vec<String> = (1..=20)
        .rev()
        .map(|n| format!("soak-{n:02}.service"))
        .collect();
    for name in &names {
        units.write(name, &[]);
    }
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    units.ctl(&[&["submit"], &words[..]].concat()).ok();
    let list = ["list-unit-files", "--no-legend", "--fields=unit"];
    let all = units.ctl(&list).ok().out;
    let listed: Vec<&str> = all.lines().filter(|l| l.starts_with("soak-")).collect();
    names.sort();
    assert_eq!(listed, names);
}

pub fn fleet_unit_batches(ground: &Ground, notes: &mut Notes) {
    let units = Units::new(ground);
    let names: Vec<String> = (1..=30)
        .map(|n| format!("soak-batch@{n}.service"))
        .collect();
    units.write("soak-batch@.service", &[]);
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let batch = |verb: &str| units.ctl(&[&[verb], &words[..]].concat()).ok();
    let count = || -> usize {
        let script =
            "systemctl list-units --plain --no-legend --state=active 'soak-batch@*' | wc -l";
        let all = ground.cluster.on_all(script).into_values();
        all.map(|ran| ran.out.trim().parse().unwrap_or(0)).sum()
    };
    let wait = |wanted: usize| {
        let begun = std::time::Instant::now();
        eventually(&format!("{wanted} run"), MINUTE, || match count() {
            found if found == wanted => Ok(()),
            found => Err(format!("{found}")),
        });
        begun.elapsed().as_secs_f64()
    };
    let begun = std::time::Instant::now();
    batch("start");
    wait(30);
    let started = begun.elapsed().as_secs_f64();
    batch("stop");
    wait(0);
    let listed = units.listed();
    assert!(
        listed.len() == 30 && listed.values().all(|states| states == "loaded loaded"),
        "{listed:?}"
    );
    let begun = std::time::Instant::now();
    units.ctl(&["start", "soak-batch@*"]).ok();
    wait(30);
    let again = begun.elapsed().as_secs_f64();
    units.ctl(&["destroy", "soak-batch@*"]).ok();
    wait(0);
    assert_eq!(units.listed(), BTreeMap::new());
    notes.figure(format!(
        "30 units: submitted, placed and started within {started:.1} s, started again within {again:.1} s"
    ));
}

pub fn fleet_install_unit(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    let text = format!("{RUNS}\n[Install]\nWantedBy=multi-user.target\n");
    fs::write(units.dir.path().join("soak-hello.service"), text).expect("unit");
    units.ctl(&["start", "soak-hello.service"]).ok();
    let hosts = units.wait_active("soak-hello.service", 1);
    let host = ground
        .cluster
        .hosts
        .iter()
        .find(|host| host.name == hosts[0])
        .expect("host");
    let enabled = ground
        .cluster
        .sh(host, "systemctl is-enabled soak-hello.service")
        .out;
    assert!(enabled.starts_with("enabled"), "{enabled}");
}

pub fn fleet_schedule_machine_of(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    for n in 1..=3 {
        units.write(
            &format!("soak-pod{n}.service"),
            &["Conflicts=soak-pod*.service"],
        );
        units.write(
            &format!("soak-side{n}.service"),
            &[&format!("MachineOf=soak-pod{n}.service")],
        );
    }
    for n in 1..=3 {
        // The one that follows is asked for first: it waits for the other.
        units
            .ctl(&["start", "--no-block", &format!("soak-side{n}.service")])
            .ok();
        units.ctl(&["start", &format!("soak-pod{n}.service")]).ok();
    }
    for n in 1..=3 {
        let pod = units.wait_active(&format!("soak-pod{n}.service"), 1);
        assert_eq!(units.wait_active(&format!("soak-side{n}.service"), 1), pod);
    }
}

pub fn fleet_schedule_conflicts(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    let names: Vec<String> = (1..=5)
        .map(|n| format!("soak-conflict{n}.service"))
        .collect();
    for name in &names {
        units.write(name, &["Conflicts=soak-conflict*.service"]);
        units.ctl(&["start", "--no-block", name]).ok();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let three = units.wait_some(&names, 3);
    let mut hosts: Vec<String> = three.iter().flat_map(|unit| units.active(unit)).collect();
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), 3, "one on each host");
}

pub fn fleet_schedule_one_way_conflict(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    let machine = format!("MachineID={}", ground.cluster.hosts[0].machine_id);
    units.write(
        "soak-hermit.service",
        &["Conflicts=soak-guest*.service", &machine],
    );
    units.write("soak-guest1.service", &[&machine]);
    units.ctl(&["start", "soak-hermit.service"]).ok();
    units.wait_active("soak-hermit.service", 1);
    units
        .ctl(&["start", "--no-block", "soak-guest1.service"])
        .ok();
    units.wait_some(&["soak-hermit.service", "soak-guest1.service"], 1);
    units.ctl(&["destroy", "soak-hermit.service"]).ok();
    units.wait_active("soak-guest1.service", 1);
}

pub fn fleet_schedule_multiple_conflicts(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    let machine = format!("MachineID={}", ground.cluster.hosts[0].machine_id);
    units.write(
        "soak-a.service",
        &[
            "Conflicts=soak-b.service",
            "Conflicts=soak-c.service",
            &machine,
        ],
    );
    units.write("soak-b.service", &[&machine]);
    units.write("soak-c.service", &[&machine]);
    units
        .ctl(&["start", "soak-b.service", "soak-c.service"])
        .ok();
    units.wait_some(&["soak-b.service", "soak-c.service"], 2);
    units.ctl(&["start", "--no-block", "soak-a.service"]).ok();
    units.wait_some(&["soak-a.service"], 0);
    units.ctl(&["destroy", "soak-b.service"]).ok();
    units.wait_some(&["soak-a.service"], 0);
    units.ctl(&["destroy", "soak-c.service"]).ok();
    units.wait_active("soak-a.service", 1);
}

pub fn fleet_schedule_replace(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-old.service", &[]);
    units.ctl(&["start", "soak-old.service"]).ok();
    let old = units.wait_active("soak-old.service", 1);
    let host = ground.cluster.hosts.iter().find(|host| host.name == old[0]);
    let machine = format!("MachineID={}", host.expect("host").machine_id);
    units.write("soak-new.service", &["Replaces=soak-old.service", &machine]);
    units.ctl(&["start", "soak-new.service"]).ok();
    assert_eq!(
        units.wait_active("soak-new.service", 1),
        old,
        "in its place"
    );
    eventually("the other one goes elsewhere", LIMIT, || {
        let now = units.active("soak-old.service");
        if now.len() == 1 && now != old {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
}

pub fn fleet_schedule_circular_replace(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-a.service", &["Replaces=soak-b.service"]);
    units.write("soak-b.service", &["Replaces=soak-a.service"]);
    units
        .ctl(&["start", "--no-block", "soak-a.service", "soak-b.service"])
        .ok();
    let running = || {
        [
            units.active("soak-a.service"),
            units.active("soak-b.service"),
        ]
        .concat()
    };
    eventually("one of them runs", LIMIT, || match running() {
        none if none.is_empty() => Err("none".to_owned()),
        _ => Ok(()),
    });
    std::thread::sleep(Duration::from_secs(10));
    let hosts = running();
    assert_eq!(hosts.len(), 1, "one of them wins: {hosts:?}");
}

pub fn fleet_schedule_condition_machine_id(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    for host in &ground.cluster.hosts {
        let name = format!("soak-on-{}.service", host.name);
        units.write(&name, &[&format!("MachineID={}", host.machine_id)]);
        units.ctl(&["start", &name]).ok();
        assert_eq!(units.wait_active(&name, 1), [host.name.clone()]);
    }
}

pub fn fleet_schedule_global_units(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    units.write("soak-global.service", &["Global=true"]);
    units.ctl(&["start", "soak-global.service"]).ok();
    units.wait_active("soak-global.service", 3);
    units.ctl(&["stop", "soak-global.service"]).ok();
    units.wait_active("soak-global.service", 0);
}

pub fn fleet_schedule_global_conflicts(ground: &Ground, _: &mut Notes) {
    let units = Units::new(ground);
    let machine = format!("MachineID={}", ground.cluster.hosts[0].machine_id);
    units.write("soak-only.service", &[&machine]);
    units.write(
        "soak-global.service",
        &["Global=true", "Conflicts=soak-only.service"],
    );
    units.ctl(&["start", "soak-only.service"]).ok();
    units.wait_active("soak-only.service", 1);
    units
        .ctl(&["start", "--no-block", "soak-global.service"])
        .ok();
    let hosts = units.wait_active("soak-global.service", 2);
    assert!(!hosts.contains(&ground.cluster.hosts[0].name), "{hosts:?}");
}

pub fn fleet_systemd_unit_flow(ground: &Ground, notes: &mut Notes) {
    let units = Units::new(ground);
    let name = "soak-hello.service";
    units.write(name, &[]);
    let mut took = Vec::new();
    for (verb, state, hosts) in [
        ("load", "loaded inactive", 1),
        ("start", "loaded active", 1),
        ("stop", "loaded inactive", 1),
        ("start", "loaded active", 1),
        ("unload", "not-found inactive", 3),
        ("start", "loaded active", 1),
        ("destroy", "not-found inactive", 3),
    ] {
        let begun = std::time::Instant::now();
        units.ctl(&[verb, name]).ok();
        took.push(begun.elapsed().as_secs_f64());
        // The command waits: when it is over, it is so.
        let found = units.hosts_with(name, state);
        assert_eq!(found.len(), hosts, "{verb}: {state} on {found:?}");
    }
    for (host, ran) in ground
        .cluster
        .on_all("ls /run/systemd/system /run/deis/units")
    {
        assert!(!ran.out.contains("soak-"), "left on {host}: {}", ran.out);
    }
    notes.figure(format!("load to destroy: {took:.1?} s"));
}
