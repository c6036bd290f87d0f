//! When a unit that has been stopped is forgotten, and may be placed elsewhere; both were found by the
//! simulation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::sim_tests::{Sim, machine};
use crate::{model::*, store::keys};

const UNIT: &str = "a.service";

/// What host 1 says: nothing, or that it runs some assignment of the unit.
fn say(sim: &mut Sim, runs: bool) {
    say_of(sim, None, runs);
}

/// The same of one of its registrations.
fn say_of(sim: &mut Sim, registration: Option<Revision>, runs: bool) {
    let state = ProcessState {
        uuid: Uuid::nil(),
        phase: Phase::Up,
        ready: true,
        port: None,
        withdrawn: None,
        fenced: None,
        restarts: 0,
        exit: None,
        exit_code: None,
        since: Timestamp::UNIX_EPOCH,
        reason: None,
        log: Vec::new(),
        unit: None,
    };
    let report = MachineState {
        schema: SCHEMA,
        registration,
        processes: BTreeMap::from_iter(runs.then(|| (UNIT.to_owned(), state))),
    };
    sim.kv.put(&keys::state(&machine(1)), &report);
}

/// A host on which a unit has been stopped.
fn stopped() -> Sim {
    let mut sim = Sim::new(1, 4, 0);
    sim.unit(UNIT, "[Service]\nExecStart=/bin/sleep infinity\n");
    sim.lead();
    assert_eq!(sim.hosts_of(UNIT), [1]);
    sim.kv
        .delete(keys::unit(&UNIT.parse().expect("unit")).to_string());
    sim
}

fn rounds(sim: &mut Sim) -> Vec<usize> {
    for _ in 0..4 {
        sim.lead();
    }
    sim.hosts_of(UNIT)
}

/// The text changed twice in a moment, and the host still runs the first one.
#[test]
fn what_runs_of_an_older_assignment_is_waited_for() {
    let mut sim = stopped();
    say(&mut sim, true);
    assert_eq!(rounds(&mut sim), [1]);
    assert!(sim.waiting().contains("a.service: stopping"));
    say(&mut sim, false);
    assert!(rounds(&mut sim).is_empty());
}

#[test]
fn what_a_host_does_that_is_away_nobody_knows() {
    let mut sim = stopped();
    say(&mut sim, false);
    let key = keys::machine(&machine(1));
    let (presence, _) = sim.kv.get(&key).expect("there");
    sim.kv.delete(key.to_string());
    assert_eq!(rounds(&mut sim), [1]);
    assert!(sim.waiting().contains("a.service: its host is away"));
    sim.kv.put(&key, &presence);
    assert!(rounds(&mut sim).is_empty());
}

/// What it has begun since its last report is known once it has reported of its new registration.
#[test]
fn what_a_host_does_that_has_just_come_back_nobody_knows() {
    let mut sim = stopped();
    let key = keys::machine(&machine(1));
    let (presence, entry) = sim.kv.get(&key).expect("there");
    let before = entry.create_revision;
    say_of(&mut sim, Some(before), false);
    sim.kv.delete(key.to_string());
    let back = sim.kv.put(&key, &presence);
    assert_eq!(rounds(&mut sim), [1]);
    assert!(sim.waiting().contains("a.service: stopping"));
    say_of(&mut sim, Some(back), false);
    assert!(rounds(&mut sim).is_empty());
}
