//! Where units run, under the names of fleet's own functional tests, and past them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::sim_tests::{Sim, machine};
use crate::{model::*, store::keys};

const HELLO: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

fn with(options: &str) -> String {
    format!("{HELLO}\n[X-Fleet]\n{options}\n")
}

impl Sim {
    /// Rounds until nothing is left to do.
    fn rest(&mut self) {
        for _ in 0..20 {
            self.lead();
            if self.last.acts.is_empty() {
                return;
            }
        }
        panic!("the plan never rests: {:?}", self.last.acts);
    }

    fn start(&mut self, name: &str, options: &str) {
        self.unit(name, &with(options));
        self.rest();
    }

    fn target(&mut self, name: &str, target: UnitTarget) {
        let key = keys::unit(&name.parse().expect("unit"));
        let file = self.kv.get(&key).expect("a unit").0;
        self.kv.put(&key, &UnitFile { target, ..file });
        self.rest();
    }

    fn destroy(&mut self, name: &str) {
        let key = keys::unit(&name.parse().expect("unit"));
        self.kv.delete(key.to_string());
        self.rest();
    }

    fn amend(&mut self, n: usize, change: impl FnOnce(&mut HostRecord)) {
        let key = keys::host(&machine(n));
        let mut record = self.kv.get(&key).expect("a host").0;
        change(&mut record);
        self.kv.put(&key, &record);
        self.rest();
    }

    fn label(&mut self, n: usize, key: &str, value: &str) {
        self.amend(n, |host| drop(host.labels.insert(key.into(), value.into())));
    }

    #[track_caller]
    fn assert_waits(&self, unit: &str, why: &str) {
        assert_eq!(self.hosts_of(unit), [] as [usize; 0], "{unit}");
        self.assert_says(unit, why);
    }

    #[track_caller]
    fn assert_says(&self, unit: &str, why: &str) {
        let said = self.waiting();
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("{unit}: ")));
        assert!(
            line.is_some_and(|line| line.contains(why)),
            "{unit}: {why}, not\n{said}"
        );
    }
}

#[test]
fn schedule_machine_of_pairs() {
    let mut sim = Sim::new(3, 4, 0);
    for n in 0..3 {
        sim.unit(&format!("ping.{n}.service"), HELLO);
        sim.unit(
            &format!("pong.{n}.service"),
            &with(&format!("MachineOf=ping.{n}.service")),
        );
    }
    sim.rest();
    let pair = |sim: &Sim, n: usize| {
        let of = |what: &str| sim.hosts_of(&format!("{what}.{n}.service"));
        (of("ping"), of("pong"))
    };
    let mut all = BTreeSet::new();
    for n in 0..3 {
        let (ping, pong) = pair(&sim, n);
        assert_eq!((ping.len(), &ping), (1, &pong), "pair {n}");
        all.extend(ping);
    }
    assert_eq!(all.len(), 3, "they are spread");
    // A pair moves together.
    let lost = pair(&sim, 1).0[0];
    sim.lose(lost);
    sim.go(15, &[]);
    sim.rest();
    let (ping, pong) = pair(&sim, 1);
    assert!(
        ping.len() == 1 && ping == pong && ping[0] != lost,
        "{ping:?} {pong:?}"
    );
    // A follower goes where what it follows goes, and nowhere without it.
    sim.destroy("ping.0.service");
    sim.assert_waits("pong.0.service", "doesn't run ping.0.service");
    sim.start("late.service", "MachineOf=nobody.service");
    sim.assert_waits("late.service", "doesn't run nobody.service");
}

#[test]
fn schedule_conflicts_3_of_5_start() {
    let mut sim = Sim::new(3, 4, 0);
    for n in 0..5 {
        sim.unit(
            &format!("conflict.{n}.service"),
            &with("X-Conflicts=conflict.*.service"),
        );
    }
    sim.rest();
    let hosts: Vec<usize> = (0..5)
        .flat_map(|n| sim.hosts_of(&format!("conflict.{n}.service")))
        .collect();
    assert_eq!(hosts.len(), 3);
    assert_eq!(hosts.iter().collect::<BTreeSet<_>>().len(), 3);
    sim.assert_waits("conflict.4.service", "a conflict");
}

#[test]
fn schedule_one_way_conflict() {
    let mut sim = Sim::new(1, 4, 0);
    sim.start("conflicts-with-hello.service", "Conflicts=hello.service");
    sim.start("hello.service", "");
    assert_eq!(sim.hosts_of("conflicts-with-hello.service"), [1]);
    sim.assert_waits(
        "hello.service",
        "runs conflicts-with-hello.service, a conflict",
    );
    sim.destroy("conflicts-with-hello.service");
    assert_eq!(sim.hosts_of("hello.service"), [1]);
}

#[test]
fn schedule_multiple_conflicts() {
    let mut sim = Sim::new(1, 4, 0);
    sim.start(
        "multi.service",
        "Conflicts=a.* b.*\nConflicts=\"c.service\"",
    );
    for unit in ["a.1.service", "b.2.service", "c.service", "d.service"] {
        sim.start(unit, "");
    }
    for unit in ["a.1.service", "b.2.service", "c.service"] {
        sim.assert_waits(unit, "runs multi.service");
    }
    assert_eq!(sim.hosts_of("d.service"), [1]);
}

#[test]
fn schedule_replace() {
    let mut sim = Sim::new(2, 4, 0);
    sim.start("replace.0.service", "");
    sim.start("replace.1.service", "Replaces=replace.0.service");
    let (old, new) = (
        sim.hosts_of("replace.0.service"),
        sim.hosts_of("replace.1.service"),
    );
    assert!(
        old.len() == 1 && new.len() == 1 && old != new,
        "{old:?} {new:?}"
    );
}

#[test]
fn a_replaced_unit_gives_its_place_and_keeps_its_own_constraints() {
    let mut sim = Sim::new(3, 4, 0);
    sim.label(2, "disk", "ssd");
    sim.label(3, "disk", "ssd");
    sim.start("old.service", "MachineMetadata=disk=ssd");
    assert_eq!(sim.hosts_of("old.service"), [2]);
    // The new one fits on host 2 only; the old one may go to host 3, and not to host 1.
    let here = format!("MachineID={}\nReplaces=old.service", machine(2));
    sim.unit("new.service", &with(&here));
    sim.lead();
    assert_eq!(
        sim.assignments()["old.service"].1.desired,
        Desired::Stop,
        "first it stops"
    );
    assert_eq!(
        sim.hosts_of("new.service"),
        [] as [usize; 0],
        "never beside it"
    );
    sim.assert_says("new.service", "takes the place of old.service on deis-02");
    sim.rest();
    assert_eq!(
        (sim.hosts_of("new.service"), sim.hosts_of("old.service")),
        (vec![2], vec![3])
    );
    // One that can't go anywhere else stays, and the other waits.
    sim.start("pinned.service", &format!("MachineID={}", machine(1)));
    let here = format!("MachineID={}\nReplaces=pinned.service", machine(1));
    sim.start("pusher.service", &here);
    sim.assert_waits("pusher.service", "deis-01 runs pinned.service, a conflict");
    assert_eq!(sim.hosts_of("pinned.service"), [1]);
}

#[test]
fn schedule_circular_replace_only_one_wins() {
    let mut sim = Sim::new(3, 4, 0);
    sim.start("replace.0.service", "Replaces=replace.1.service");
    sim.start("replace.1.service", "Replaces=replace.0.service");
    assert_eq!(sim.hosts_of("replace.0.service").len(), 1);
    sim.assert_waits("replace.1.service", "only one of them runs");
    // Three in a circle, all at once, and one that only looks on.
    let mut sim = Sim::new(3, 4, 0);
    sim.unit("a.service", &with("Replaces=b.service"));
    sim.unit("b.service", &with("Replaces=c.service"));
    sim.unit("c.service", &with("Replaces=a.service"));
    sim.unit("d.service", &with("Replaces=a.service"));
    sim.rest();
    let placed: Vec<bool> = ["a", "b", "c", "d"]
        .map(|unit| !sim.hosts_of(&format!("{unit}.service")).is_empty())
        .to_vec();
    assert_eq!(placed, [true, false, false, true]);
    // When the winner goes, another one wins.
    sim.destroy("a.service");
    assert_eq!(sim.hosts_of("b.service").len(), 1);
}

#[test]
fn schedule_condition_machine_id() {
    let mut sim = Sim::new(3, 4, 0);
    for (n, option) in [
        (1, "MachineID"),
        (2, "X-ConditionMachineID"),
        (3, "MachineID"),
    ] {
        sim.start(
            &format!("on{n}.service"),
            &format!("{option}={}", machine(n)),
        );
        assert_eq!(sim.hosts_of(&format!("on{n}.service")), [n]);
    }
    sim.start(
        "nowhere.service",
        "MachineID=f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0",
    );
    sim.assert_waits("nowhere.service", "has another machine id");
    let boot = sim
        .kv
        .get(&keys::machine(&machine(2)))
        .expect("there")
        .0
        .boot_id;
    sim.start("boot.service", &format!("X-ConditionMachineBootID={boot}x"));
    sim.assert_waits("boot.service", "has another boot id");
    sim.start(
        "booted.service",
        &format!("X-ConditionMachineBootID={boot}"),
    );
    assert_eq!(sim.hosts_of("booted.service").len(), 1);
}

#[test]
fn schedule_global_units() {
    let mut sim = Sim::new(3, 4, 0);
    for unit in ["hello.service", "goodbye.service"] {
        sim.start(unit, "");
    }
    sim.start("global.service", "Global=true");
    assert_eq!(sim.hosts_of("global.service"), [1, 2, 3]);
    sim.join(4, 4);
    sim.rest();
    assert_eq!(
        sim.hosts_of("global.service"),
        [1, 2, 3, 4],
        "a host that joins gets it"
    );
    sim.label(2, "zone", "b");
    sim.start(
        "zoned.service",
        "Global=true\nMachineMetadata=zone=b zone=c",
    );
    assert_eq!(sim.hosts_of("zoned.service"), [2]);
    sim.label(3, "zone", "c");
    assert_eq!(sim.hosts_of("zoned.service"), [2, 3]);
    sim.label(2, "zone", "d");
    assert_eq!(sim.hosts_of("zoned.service"), [3]);
}

#[test]
fn schedule_global_conflicts() {
    let mut sim = Sim::new(3, 4, 0);
    sim.start("single.service", "");
    let single = sim.hosts_of("single.service");
    sim.start("global.service", "Global=true\nConflicts=single.service");
    let global = sim.hosts_of("global.service");
    assert_eq!(global.len(), 2);
    assert!(!global.contains(&single[0]));
    // Two global ones that conflict share the hosts out, and stay where they are.
    sim.start("other.service", "Global=true\nConflicts=global.service");
    assert_eq!(sim.hosts_of("other.service"), single);
    assert_eq!(sim.hosts_of("global.service"), global);
}

#[test]
fn templates_with_specifiers_in_metadata() {
    let mut sim = Sim::new(3, 4, 0);
    for n in 1..=3 {
        sim.label(n, "hostname", &format!("host{n}"));
    }
    for n in 1..=3 {
        let name = format!("metadata@host{n}.service");
        sim.start(&name, "MachineMetadata=\"hostname=%i\"");
        assert_eq!(sim.hosts_of(&name), [n]);
    }
    sim.label(2, "ram", "2048");
    sim.start("ram.service", "MachineMetadata=\"ram>=1024\"");
    assert_eq!(sim.hosts_of("ram.service"), [2]);
    sim.start("metadata@.service", "MachineMetadata=\"hostname=%i\"");
    sim.assert_waits("metadata@.service", "runs only as its instances");
}

#[test]
fn what_does_not_fit_any_more_moves() {
    let mut sim = Sim::new(2, 4, 0);
    sim.label(1, "disk", "ssd");
    sim.start("a.service", "MachineMetadata=disk=ssd");
    assert_eq!(sim.hosts_of("a.service"), [1]);
    sim.amend(1, |host| host.labels.clear());
    sim.assert_waits("a.service", "doesn't have the metadata disk");
    sim.label(2, "disk", "ssd");
    assert_eq!(sim.hosts_of("a.service"), [2]);
}

#[test]
fn loaded_is_placed_and_not_started() {
    let mut sim = Sim::new(2, 4, 0);
    let desired = |sim: &Sim| {
        sim.assignments()
            .get("hello.service")
            .map(|(_, a)| a.desired)
    };
    sim.start("hello.service", "");
    let before = sim.assignments()["hello.service"].clone();
    sim.target("hello.service", UnitTarget::Loaded);
    assert_eq!(desired(&sim), Some(Desired::Load));
    sim.target("hello.service", UnitTarget::Launched);
    assert_eq!(
        sim.assignments()["hello.service"],
        before,
        "the same one in the same place"
    );
    sim.target("hello.service", UnitTarget::Inactive);
    assert_eq!(desired(&sim), None);
    sim.target("hello.service", UnitTarget::Loaded);
    assert_eq!(desired(&sim), Some(Desired::Load));
}

#[test]
fn a_drained_host_is_left_when_another_one_takes_it() {
    let mut sim = Sim::new(2, 4, 0);
    let drain = |minutes: Option<i64>| {
        let at = |minutes| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        Some(HostDrain {
            since: Timestamp::UNIX_EPOCH,
            deadline: minutes.map(at),
        })
    };
    sim.start("free.service", &format!("MachineID={}", machine(1)));
    sim.start("pinned.service", &format!("MachineID={}", machine(1)));
    sim.start("global.service", "Global=true");
    sim.start("free.service", "");
    sim.amend(1, |host| host.drain = drain(Some(5)));
    assert_eq!(sim.hosts_of("free.service"), [2]);
    assert_eq!(sim.hosts_of("pinned.service"), [1]);
    sim.assert_says("pinned.service", "stays on deis-01, which is being drained");
    assert_eq!(sim.hosts_of("global.service"), [1, 2], "the last to go");
    sim.destroy("pinned.service");
    assert_eq!(sim.hosts_of("global.service"), [2]);
    sim.amend(1, |host| host.drain = None);
    sim.start("pinned.service", &format!("MachineID={}", machine(1)));
    sim.amend(1, |host| host.drain = drain(Some(0)));
    sim.assert_waits("pinned.service", "is being drained");
}

/// Every host reports what it is to run as up, and nothing else.
fn obey(sim: &mut Sim) {
    let mut states: BTreeMap<MachineId, MachineState> = BTreeMap::new();
    for (name, (host, assignment)) in sim.assignments() {
        let state = states.entry(host).or_insert_with(|| MachineState {
            schema: SCHEMA,
            registration: None,
            processes: BTreeMap::new(),
        });
        if assignment.desired != Desired::Stop {
            let report = ProcessState {
                unit: None,
                uuid: assignment.uuid,
                phase: Phase::Up,
                ready: true,
                port: None,
                withdrawn: None,
                fenced: None,
                exit: None,
                exit_code: None,
                restarts: 0,
                since: Timestamp::UNIX_EPOCH,
                reason: None,
                log: Vec::new(),
            };
            state.processes.insert(name, report);
        }
    }
    for (host, state) in states {
        sim.kv.put(&keys::state(&host), &state);
    }
}

#[test]
fn of_the_instances_of_a_part_one_moves_at_a_time() {
    let mut sim = Sim::new(4, 4, 0);
    for n in 1..=2 {
        let options = with("Conflicts=router@*.service");
        sim.unit(&format!("router@{n}.service"), &options);
    }
    sim.rest();
    obey(&mut sim);
    let on = |sim: &Sim, n: usize| sim.hosts_of(&format!("router@{n}.service"));
    assert_eq!([on(&sim, 1), on(&sim, 2)], [[1], [2]]);
    for n in 1..=2 {
        let key = keys::host(&machine(n));
        let mut record = sim.kv.get(&key).expect("a host").0;
        record.drain = Some(HostDrain {
            since: Timestamp::UNIX_EPOCH,
            deadline: None,
        });
        sim.kv.put(&key, &record);
    }
    let (mut both_stay, mut moves) = (false, 0);
    for _ in 0..20 {
        sim.lead();
        let all = sim.assignments();
        let runs = |(_, assignment): &&(MachineId, Assignment)| assignment.desired == Desired::Run;
        let running = all.values().filter(runs).count();
        assert!(running >= 1, "one of them is always there");
        moves += usize::from(running == 1);
        let why = "its turn comes when router@1.service is up elsewhere";
        both_stay |= sim.waiting().contains(why);
        obey(&mut sim);
    }
    assert!(both_stay && moves >= 2, "{moves}");
    let both: BTreeSet<usize> = [on(&sim, 1), on(&sim, 2)].concat().into_iter().collect();
    assert_eq!(both, BTreeSet::from([3, 4]));
}

#[test]
fn hundreds_of_units_are_planned_in_milliseconds() {
    let plan = |options: &str| {
        let mut sim = Sim::new(3, 4, 0);
        for n in 0..600 {
            sim.unit(&format!("hello@{n:03}.service"), &with(options));
        }
        let begun = Instant::now();
        sim.rest();
        let first = begun.elapsed();
        let placed = sim.assignments().len();
        let key = keys::unit(&"hello@001.service".parse().expect("unit"));
        let file = sim.kv.get(&key).expect("there").0;
        sim.kv.put(&key, &file);
        let begun = Instant::now();
        sim.lead();
        (placed, first, begun.elapsed())
    };
    for (options, want) in [
        ("", 600),
        ("Conflicts=other@*.service", 600),
        ("Conflicts=%p@%i1.service", 600),
        ("Conflicts=hello@*.service", 3),
        ("Replaces=hello@*.service", 1),
    ] {
        let (placed, first, change) = plan(options);
        println!("{options}: {placed} placed in {first:?}, one change in {change:?}");
        assert_eq!(placed, want, "{options}");
        // Generous: a debug build on a busy machine. Quadratic in units and hosts would be minutes.
        assert!(
            change.as_secs() < 2,
            "{options}: one change takes {change:?}"
        );
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Start(usize, usize),
    Stop(usize),
    Destroy(usize),
    Label(usize, bool),
    Cordon(usize, bool),
}

const OPTIONS: [&str; 8] = [
    "",
    "Conflicts=u*.service",
    "Conflicts=u1.service",
    "MachineMetadata=disk=ssd",
    "MachineOf=u1.service",
    "Replaces=u2.service",
    "Global=true",
    "Global=true\nConflicts=u3.service",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let unit = 0..5_usize;
    let step = prop_oneof![
        4 => (unit.clone(), 0..OPTIONS.len()).prop_map(|(unit, options)| Step::Start(unit, options)),
        1 => unit.clone().prop_map(Step::Stop),
        1 => unit.prop_map(Step::Destroy),
        1 => (1..=3_usize, any::<bool>()).prop_map(|(host, on)| Step::Label(host, on)),
        1 => (1..=3_usize, any::<bool>()).prop_map(|(host, on)| Step::Cordon(host, on)),
    ];
    prop::collection::vec(step, 0..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever operators do: plans come to rest, and then no unit is where it may not be, none is
    /// anywhere twice that is not global, and none waits that a host would take.
    #[test]
    fn plans_rest_and_keep_the_rules(steps in steps()) {
        let mut sim = Sim::new(3, 4, 0);
        let mut texts: std::collections::BTreeMap<String, &str> = Default::default();
        for step in steps {
            match step {
                Step::Start(unit, options) => {
                    texts.insert(format!("u{unit}.service"), OPTIONS[options]);
                    sim.start(&format!("u{unit}.service"), OPTIONS[options]);
                }
                Step::Stop(unit) => {
                    let name = format!("u{unit}.service");
                    if texts.contains_key(&name) {
                        sim.target(&name, UnitTarget::Inactive);
                        texts.remove(&name);
                    }
                }
                Step::Destroy(unit) => {
                    texts.remove(&format!("u{unit}.service"));
                    sim.destroy(&format!("u{unit}.service"));
                }
                Step::Label(host, true) => sim.label(host, "disk", "ssd"),
                Step::Label(host, false) => sim.amend(host, |host| host.labels.clear()),
                Step::Cordon(host, on) => sim.amend(host, |host| host.cordoned = on),
            }
        }
        let there = |name: &str| sim.hosts_of(name);
        for (name, options) in &texts {
            let on = there(name);
            prop_assert!(options.contains("Global") || on.len() <= 1, "{name} on {on:?}");
            for host in on {
                let beside: Vec<&String> = texts
                    .keys()
                    .filter(|other| *other != name && there(other).contains(&host))
                    .collect();
                let foe = |other: &&&String| match *options {
                    "Conflicts=u*.service" => true,
                    "Conflicts=u1.service" => **other == "u1.service",
                    "Replaces=u2.service" => **other == "u2.service",
                    "Global=true\nConflicts=u3.service" => **other == "u3.service",
                    _ => false,
                };
                prop_assert!(!beside.iter().any(|other| foe(&other)), "{name} beside {beside:?}");
                if *options == "MachineOf=u1.service" && name != "u1.service" {
                    prop_assert!(beside.iter().any(|other| *other == "u1.service"), "{name} follows");
                }
                if *options == "MachineMetadata=disk=ssd" {
                    let record = sim.kv.get(&keys::host(&machine(host))).expect("host").0;
                    prop_assert_eq!(record.labels.get("disk").map(String::as_str), Some("ssd"));
                }
            }
        }
        for name in sim.assignments().keys() {
            prop_assert!(texts.contains_key(name), "{name} is left");
        }
    }
}
