//! Hosts that go, one by one and many at once; and types of which there is never more than one.

use std::{collections::BTreeSet, time::Duration};

use super::{
    actor_tests::Health,
    case_tests::{deploy, running},
    sim_tests::{Sim, app, kind, machine, structure},
};
use crate::{model::*, store::keys};

const ROUTER: &[&str] = &["10.0.0.1"];

impl Sim {
    /// Whether anything is assigned to a host.
    fn has_work(&self, n: usize) -> bool {
        let prefix = format!("/deis/schedule/{}/", machine(n));
        self.kv.under(&prefix).next().is_some()
    }

    fn host(&self, n: usize) -> HostRecord {
        self.kv.get(&keys::host(&machine(n))).expect("a host").0
    }

    /// What `deisctl declare-lost` does.
    fn declare_lost(&mut self, n: usize) {
        let record = HostRecord {
            lost_since: Some(jiff::Timestamp::UNIX_EPOCH),
            declared_lost: true,
            ..self.host(n)
        };
        self.kv.put(&keys::host(&machine(n)), &record);
    }

    /// Goes on until `done`, second by second; says how many it took.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        for seconds in 0..600 {
            if done(self) {
                return seconds;
            }
            self.go(1, ROUTER);
            self.check_single();
        }
        panic!("not seen: {what}; {}", self.waiting());
    }

    /// The host of each process of a slot.
    fn slot(&self, slot: &str) -> Vec<(ProcessName, MachineId, Desired)> {
        let all = self.assignments().into_iter();
        all.filter_map(|(name, (host, assignment))| {
            let process: ProcessName = name.parse().ok()?;
            (process.id().to_string() == slot).then_some((process, host, assignment.desired))
        })
        .collect()
    }
}

fn web() -> BTreeSet<ProcessType> {
    [kind("web")].into()
}

/// An app with one process of a single type.
fn single(hosts: usize) -> Sim {
    let mut sim = Sim::new(hosts, 4, 1);
    sim.single = web();
    sim.deploy_first(&structure(1, 0));
    sim
}

fn at(sim: &Sim, slot: &str) -> usize {
    let (_, host, _) = sim.slot(slot).pop().expect("a process");
    usize::from_str_radix(host.as_str(), 16).expect("hex")
}

#[test]
fn a_network_that_goes_down_host_by_host_is_one_fault() {
    let mut sim = running(5, 5, 4, 1);
    sim.go(10, ROUTER);
    sim.lose(1);
    sim.go(5, ROUTER);
    assert!(!sim.has_work(1), "one is a lost host");
    sim.lose(2);
    sim.go(5, ROUTER);
    assert!(!sim.has_work(2), "two of five are not many yet");
    sim.lose(3);
    // In the middle the leader goes: the next one knows of the first two by their records.
    sim.elect();
    sim.go(120, ROUTER);
    assert!(sim.has_work(3), "the third one in a minute is a wave");
    let waiting = sim.waiting();
    assert!(
        waiting.contains(
            "3 of 5 hosts went away at once (deis-03; just before them deis-01, deis-02)"
        ),
        "{waiting}"
    );
    assert!(
        waiting.contains("deisctl declare-lost deis-03"),
        "{waiting}"
    );
    sim.join(1, 4);
    sim.settle();
    assert!(!sim.has_work(3), "two of five again");
    sim.check_converged(2, &structure(5, 0), None);
}

#[test]
fn hosts_that_go_one_a_day_are_no_wave() {
    let mut sim = running(4, 4, 4, 1);
    for n in [1, 2, 3] {
        sim.lose(n);
        sim.until("it has moved", |sim| !sim.has_work(n));
        sim.now += Duration::from_secs(24 * 3600);
    }
    sim.settle();
    sim.check_converged(2, &structure(4, 0), None);
}

#[test]
fn a_person_says_which_hosts_are_gone() {
    let mut sim = running(3, 3, 4, 1);
    sim.lose(1);
    sim.lose(2);
    sim.go(60, ROUTER);
    assert!(sim.has_work(1) && sim.has_work(2));
    sim.declare_lost(1);
    sim.go(60, ROUTER);
    assert!(
        !sim.has_work(1) && sim.has_work(2),
        "one was meant, not both"
    );
    sim.declare_lost(2);
    sim.settle();
    sim.check_converged(2, &structure(3, 0), None);
    sim.join(1, 4);
    sim.settle();
    assert!(sim.host(1).lost_since.is_none() && sim.host(2).lost_since.is_some());
}

#[test]
fn small_clusters() {
    // Of two hosts one is "a single one", and what it ran fits on the other.
    let mut sim = running(2, 2, 4, 1);
    sim.lose(1);
    sim.settle();
    sim.check_converged(2, &structure(2, 0), None);
    // Of one host all is gone: it is kept assigned, and runs again where it was.
    let mut sim = running(1, 1, 4, 1);
    sim.lose(1);
    sim.go(60, ROUTER);
    assert!(sim.has_work(1), "there is no other place");
    sim.join(1, 4);
    sim.settle();
    sim.check_converged(2, &structure(1, 0), None);
}

#[test]
fn a_view_that_broke_gives_hosts_their_time_again() {
    let gone_after = |break_view: bool, wait: u64| {
        let mut sim = running(3, 3, 4, 1);
        sim.go(10, ROUTER);
        if break_view {
            sim.view_since = sim.now;
        }
        sim.go(wait as usize, ROUTER);
        sim.lose(1);
        let lost = sim.now;
        sim.until("moved", |sim| !sim.has_work(1));
        (sim.now - lost).as_secs()
    };
    assert_eq!(gone_after(false, 0), 4, "the grace");
    // Seen to go in a view that is as old as a lease: had its time.
    assert_eq!(gone_after(true, 20), 4);
    assert_eq!(
        gone_after(true, 1),
        5,
        "a lease's time since the view is whole"
    );
    // Away when the view began: a lease's time, and the grace.
    let mut sim = running(3, 3, 4, 1);
    sim.lose(1);
    sim.elect();
    let seconds = sim.until("moved", |sim| !sim.has_work(1));
    assert_eq!(seconds, 9);
}

#[test]
fn a_host_that_is_back_for_a_moment_counts_anew() {
    let mut sim = single(3);
    let home = at(&sim, "web.1");
    sim.cut(home);
    sim.go(15, ROUTER);
    // It was there between two rounds: its lease began again.
    sim.heal(home, 4);
    sim.cut(home);
    sim.go(15, ROUTER);
    assert!(sim.has_work(home), "{}", sim.waiting());
    sim.until("moved", |sim| !sim.has_work(home));
    sim.settle();
}

#[test]
fn a_single_process_of_a_lost_host_is_replaced_when_it_must_have_stopped() {
    let mut sim = single(3);
    let home = at(&sim, "web.1");
    sim.cut(home);
    let cut = sim.now;
    sim.go(8, ROUTER);
    assert!(sim.host(home).lost_since.is_some(), "lost it is");
    let waiting = sim.waiting();
    assert!(
        waiting.contains("the type is single: it can be replaced in"),
        "{waiting}"
    );
    sim.until("moved", |sim| !sim.has_work(home));
    let took = (sim.now - cut).as_secs();
    assert!((19..=21).contains(&took), "{took} s");
    sim.heal(home, 4);
    sim.settle();
    sim.check_converged(2, &structure(1, 0), None);
    sim.check_single();
}

/// Its host was cut off already when its type was marked: nothing stops it there.
#[test]
fn one_that_does_not_know_that_it_is_single_is_not_replaced() {
    let mut sim = Sim::new(3, 4, 1);
    sim.deploy_first(&structure(1, 0));
    let home = at(&sim, "web.1");
    // The platform believes in the host for its lease's time, and tells it what it doesn't hear.
    let agent = sim.agents.get_mut(&machine(home)).expect("a host");
    agent.cut = Some(sim.now);
    sim.mark(web());
    sim.go(1, ROUTER);
    let (_, (_, told)) = sim.assignments().into_iter().next().expect("assigned");
    let Work::Process { single, marks, .. } = told.work else {
        panic!("{told:?}");
    };
    assert_eq!((single, marks), (true, 1));
    sim.cut(home);
    sim.go(60, ROUTER);
    assert!(sim.host(home).lost_since.is_some(), "lost it is");
    assert!(sim.has_work(home), "it may run on there");
    let waiting = sim.waiting();
    assert!(waiting.contains("deisctl declare-lost"), "{waiting}");
    sim.check_single();
    sim.heal(home, 4);
    sim.settle();
    sim.check_converged(2, &structure(1, 0), None);
    sim.check_single();
}

#[test]
fn one_that_was_marked_after_its_host_went_is_replaced_when_somebody_says_that_it_is_gone() {
    let mut sim = Sim::new(3, 4, 1);
    sim.deploy_first(&structure(1, 0));
    let home = at(&sim, "web.1");
    sim.cut(home);
    sim.mark(web());
    sim.go(60, ROUTER);
    assert!(sim.has_work(home), "{}", sim.waiting());
    sim.agents.remove(&machine(home));
    sim.declare_lost(home);
    sim.until("moved", |sim| !sim.has_work(home));
    sim.settle();
    sim.check_converged(2, &structure(1, 0), None);
}

/// What its host said before it was marked anew says nothing of the fence.
#[test]
fn only_the_last_mark_counts() {
    let mut sim = single(3);
    let home = at(&sim, "web.1");
    sim.mark(BTreeSet::new());
    sim.settle();
    sim.mark(web());
    sim.settle();
    let agent = sim.agents.get_mut(&machine(home)).expect("a host");
    agent.cut = Some(sim.now);
    sim.mark(BTreeSet::new());
    sim.go(1, ROUTER);
    sim.mark(web());
    sim.go(1, ROUTER);
    sim.cut(home);
    sim.go(60, ROUTER);
    assert!(sim.has_work(home), "{}", sim.waiting());
}

#[test]
fn a_declared_loss_does_not_hurry_a_single_process() {
    let mut sim = single(3);
    let home = at(&sim, "web.1");
    let other = 1 + home % 3;
    sim.cut(home);
    sim.lose(other);
    sim.declare_lost(home);
    sim.go(15, ROUTER);
    assert!(sim.has_work(home), "{}", sim.waiting());
    sim.until("moved", |sim| !sim.has_work(home));
    sim.check_single();
}

#[test]
fn the_old_one_of_a_single_type_goes_first() {
    let mut sim = single(3);
    deploy(&mut sim, 3, Health::Good, &structure(1, 0));
    sim.go(2, ROUTER);
    let there = sim.slot("web.1");
    assert_eq!(there.len(), 1, "{there:?}");
    assert_eq!(there[0].0.release, ReleaseNumber(2), "{there:?}");
    assert_ne!(there[0].2, Desired::Run, "it drains or stops: {there:?}");
    sim.settle();
    sim.check_converged(3, &structure(1, 0), Some(OutcomeResult::Succeeded));
    // A release that fails makes way for the one before it.
    deploy(&mut sim, 4, Health::Crashes, &structure(1, 0));
    sim.settle();
    sim.check_converged(3, &structure(1, 0), Some(OutcomeResult::Failed));
    // A restart is another process, after the one before.
    let uuids = |sim: &Sim| -> Vec<uuid::Uuid> {
        let all = sim.assignments().into_values();
        all.map(|(_, assignment)| assignment.uuid).collect()
    };
    let before = uuids(&sim);
    let change = RolloutKind::Restart {
        only: None,
        number: None,
    };
    sim.roll(change, 3, &structure(1, 0));
    sim.settle();
    sim.check_converged(3, &structure(1, 0), Some(OutcomeResult::Succeeded));
    assert_ne!(uuids(&sim), before);
}

#[test]
fn of_several_singles_one_at_a_time_is_down() {
    let mut sim = Sim::new(4, 4, 1);
    sim.single = web();
    sim.deploy_first(&structure(4, 0));
    deploy(&mut sim, 3, Health::Good, &structure(4, 0));
    for _ in 0..200 {
        sim.go(1, ROUTER);
        sim.check_single();
        let all = sim.agents.values().flat_map(|agent| agent.local.values());
        let ready = all.filter(|local| local.state.ready).count();
        assert!(ready >= 3, "{ready} serve");
        if sim.kv.get(&keys::rollout(&app())).is_none() {
            break;
        }
    }
    sim.check_converged(3, &structure(4, 0), Some(OutcomeResult::Succeeded));
}

#[test]
fn nothing_is_stopped_for_a_successor_without_a_place() {
    let mut sim = Sim::new(1, 1, 1);
    sim.single = web();
    sim.deploy_first(&structure(1, 0));
    // The same size fits when the old one is gone.
    deploy(&mut sim, 3, Health::Good, &structure(1, 0));
    sim.settle();
    sim.check_converged(3, &structure(1, 0), Some(OutcomeResult::Succeeded));
    // Twice the size never does.
    let (config, _) = sim
        .kv
        .get::<Config>(&keys::config(&app(), uuid::Uuid::from_u128(5)))
        .expect("a config");
    let big = Config {
        uuid: uuid::Uuid::from_u128(51),
        memory: [(kind("web"), "1024M".to_owned())].into(),
        ..config
    };
    sim.kv.put(&keys::config(&app(), big.uuid), &big);
    let before = sim.slot("web.1");
    sim.release(4, big.uuid);
    sim.roll(RolloutKind::Release, 4, &structure(1, 0));
    sim.settle();
    sim.check_converged(3, &structure(1, 0), Some(OutcomeResult::Failed));
    assert_eq!(sim.slot("web.1"), before, "it was not touched");
}

#[test]
fn a_mark_restarts_nothing() {
    let mut sim = running(2, 3, 4, 1);
    let uuids = |sim: &Sim| -> Vec<_> {
        let all = sim.assignments().into_values();
        all.map(|(_, assignment)| assignment.uuid).collect()
    };
    let marked = |sim: &Sim| {
        let all = sim.assignments().into_values();
        all.filter(|(_, a)| matches!(a.work, Work::Process { single: true, .. }))
            .count()
    };
    let before = uuids(&sim);
    sim.lose(3);
    sim.mark(web());
    sim.settle();
    assert_eq!((uuids(&sim), marked(&sim)), (before.clone(), 2));
    sim.mark(BTreeSet::new());
    sim.settle();
    assert_eq!((uuids(&sim), marked(&sim)), (before, 0));
}
