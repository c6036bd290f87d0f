//! What goes with the switch to a new release: its command before it, held requests and the watch during
//! it, the receipt after it; and routers that come and go meanwhile.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    actor_tests::{Health, Router},
    case_tests::{deploy, running},
    receipt::{AppCounts, Counts},
    sim_tests::{Sim, app, kind, machine, structure},
};
use crate::{
    model::*,
    store::{Txn, keys},
};

/// The types of a release's processes that are assigned.
fn assigned(sim: &Sim, release: u32) -> Vec<String> {
    let names = sim.assignments().into_keys();
    let names = names.map(|name| name.parse::<ProcessName>().expect("process"));
    names
        .filter(|name| name.release == ReleaseNumber(release))
        .map(|name| name.id().to_string())
        .collect()
}

fn outcome(sim: &Sim, release: u32) -> Outcome {
    let key = keys::outcome(&app(), ReleaseNumber(release));
    sim.kv.get(&key).expect("an outcome").0
}

fn with_command(ends: Option<i32>) -> Sim {
    let mut sim = running(2, 3, 4, 1);
    (sim.has_command, sim.command) = (true, ends);
    deploy(&mut sim, 3, Health::Good, &structure(2, 1));
    sim
}

#[test]
fn a_release_command_comes_before_all_else() {
    let mut sim = with_command(None);
    sim.go(30, &["10.0.0.1"]);
    assert_eq!(assigned(&sim, 3), ["release.1"]);
    assert_eq!(assigned(&sim, 2).len(), 2, "the old ones serve");
    assert!(
        sim.waiting().contains("the release command runs"),
        "{}",
        sim.waiting()
    );
    sim.command = Some(0);
    sim.settle();
    sim.check_converged(3, &structure(2, 1), Some(OutcomeResult::Succeeded));
    assert_eq!(sim.commands[&ReleaseNumber(3)], 1);
}

#[test]
fn a_release_command_that_fails_ends_the_rollout() {
    let mut sim = with_command(Some(3));
    let begun = sim.now;
    sim.settle();
    sim.check_converged(2, &structure(2, 0), Some(OutcomeResult::Failed));
    let outcome = outcome(&sim, 3);
    assert_eq!(
        outcome.reason.as_deref(),
        Some("the release command failed: ended with exit code 3")
    );
    assert_eq!(outcome.log, ["no such table"]);
    assert!(sim.now < begun + Duration::from_secs(20), "{:?}", sim.now);

    let mut sim = with_command(None);
    sim.settle();
    sim.check_converged(2, &structure(2, 0), Some(OutcomeResult::Failed));
    let reason = self::outcome(&sim, 3).reason.expect("a reason");
    assert!(reason.contains("it has not ended within 600 s"), "{reason}");
}

#[test]
fn a_release_command_whose_host_is_lost_is_not_run_again() {
    let mut sim = with_command(None);
    sim.go(3, &["10.0.0.1"]);
    let (host, _) = sim.assignments()["blog_v3.release.1"].clone();
    let n = (1..=3).find(|n| machine(*n) == host).expect("a host");
    sim.lose(n);
    sim.command = Some(0);
    sim.settle();
    sim.check_converged(2, &structure(2, 0), Some(OutcomeResult::Failed));
    let reason = outcome(&sim, 3).reason.expect("a reason");
    assert!(
        reason.contains("whether it was carried out is not known"),
        "{reason}"
    );
    assert_eq!(sim.commands[&ReleaseNumber(3)], 1);
}

#[test]
fn two_release_commands_never_run_at_once() {
    let mut sim = with_command(None);
    sim.go(3, &["10.0.0.1"]);
    // A rollback takes over.
    sim.release(4, Uuid::from_u128(5));
    sim.roll(RolloutKind::Release, 4, &structure(2, 0));
    for _ in 0..10 {
        sim.lead();
        let commands = assigned(&sim, 3).len() + assigned(&sim, 4).len();
        assert!(commands <= 1, "{:?}", sim.assignments().keys());
        for n in 1..=3 {
            sim.agent(&machine(n));
        }
    }
    sim.command = Some(0);
    sim.settle();
    sim.check_converged(4, &structure(2, 0), Some(OutcomeResult::Succeeded));
    assert_eq!(sim.commands[&ReleaseNumber(4)], 1);
}

proptest! {
    /// Whoever crashes between whichever two steps: it is begun once, and what comes out is one release.
    #[test]
    fn a_release_command_is_begun_once(
        ends in prop_oneof![Just(0), Just(1)],
        leaders in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..15), 1..5),
        lost in prop::option::of(1usize..4),
    ) {
        let mut sim = with_command(Some(ends));
        for steps in leaders {
            steps.iter().for_each(|choice| sim.step(*choice));
            sim.elect();
        }
        if let Some(host) = lost {
            sim.lose(host);
        }
        sim.settle();
        prop_assert!(sim.commands.values().all(|begun| *begun == 1), "{:?}", sim.commands);
        let result = outcome(&sim, 3).result;
        let succeeded = result == OutcomeResult::Succeeded;
        prop_assert!(succeeded == (ends == 0) || (lost.is_some() && !succeeded));
        let (active, wanted) = if succeeded { (3, structure(2, 1)) } else { (2, structure(2, 0)) };
        sim.check_converged(active, &wanted, Some(result));
    }
}

fn holds(sim: &Sim) -> bool {
    sim.kv
        .get(&keys::route(&app()))
        .is_some_and(|(route, _)| route.hold)
}

#[test]
fn routers_hold_requests_before_a_single_process_leaves() {
    let mut sim = Sim::new(3, 4, 2);
    sim.single = [kind("web")].into();
    sim.deploy_first(&structure(1, 0));
    assert!(!holds(&sim), "it serves");
    deploy(&mut sim, 3, Health::Good, &structure(1, 0));
    // One router hears of nothing.
    sim.go(10, &["10.0.0.1"]);
    assert!(holds(&sim));
    let (_, old) = &sim.assignments()["blog_v2.web.1"];
    assert_eq!(old.desired, Desired::Run, "not before all routers hold");
    assert!(
        sim.waiting().contains("router 10.0.0.2 doesn't know yet"),
        "{}",
        sim.waiting()
    );
    while sim.kv.get(&keys::rollout(&app())).is_some() {
        let published = sim.kv.under("/deis/services/").count();
        assert!(published > 0 || holds(&sim), "a gap that nobody minds");
        sim.go(1, &["10.0.0.1", "10.0.0.2"]);
        assert!(sim.now.as_secs() < 1000, "it comes to an end");
    }
    sim.settle();
    assert!(!holds(&sim), "it serves again");
    sim.check_converged(3, &structure(1, 0), Some(OutcomeResult::Succeeded));
    // One that fails is gone back from the same way.
    deploy(&mut sim, 4, Health::Crashes, &structure(1, 0));
    sim.settle();
    assert!(!holds(&sim));
    sim.check_converged(3, &structure(1, 0), Some(OutcomeResult::Failed));
}

fn said(releases: &[(u32, u64, u64)]) -> Option<AppCounts> {
    let releases = releases.iter().map(|(release, served, errors)| {
        let counts = Counts {
            errors: *errors,
            latency: vec![*served],
            ..Counts::default()
        };
        (ReleaseNumber(*release), counts)
    });
    Some(AppCounts {
        since_ms: 1500,
        releases: releases.collect(),
        ..AppCounts::default()
    })
}

fn watched(counted: Option<AppCounts>) -> Sim {
    let mut sim = running(4, 3, 8, 1);
    sim.policy = Some(RolloutPolicy::default());
    sim.said = counted;
    deploy(&mut sim, 3, Health::Good, &structure(4, 0));
    sim
}

#[test]
fn a_release_that_is_watched_comes_by_its_share() {
    let well = said(&[(2, 300, 0), (3, 100, 0)]);
    for (counted, lasts) in [(well.clone(), 60), (said(&[]), 60), (None, 60)] {
        let mut sim = watched(counted.clone());
        let mut first = 0;
        for second in 0..200 {
            if sim.kv.get(&keys::rollout(&app())).is_none() {
                break;
            }
            if assigned(&sim, 3).len() > 1 {
                break;
            }
            // The next leader begins its watch anew, and not more.
            if second == 20 {
                sim.elect();
            }
            first = second;
            sim.go(1, &["10.0.0.1"]);
        }
        assert!(
            (lasts..lasts + 40).contains(&first),
            "{first} s: {counted:?}"
        );
        sim.settle();
        sim.check_converged(3, &structure(4, 0), Some(OutcomeResult::Succeeded));
        assert_eq!(outcome(&sim, 3).receipt.is_some(), counted == well);
    }
}

#[test]
fn a_release_that_does_badly_is_gone_back_from() {
    let mut sim = watched(said(&[(2, 300, 0), (3, 100, 0)]));
    sim.go(20, &["10.0.0.1"]);
    assert_eq!(assigned(&sim, 3), ["web.1"]);
    assert!(
        sim.waiting()
            .contains("are watched for 60 s: all is well so far"),
        "{}",
        sim.waiting()
    );
    sim.said = said(&[(2, 400, 1), (3, 130, 30)]);
    sim.settle();
    sim.check_converged(2, &structure(4, 0), Some(OutcomeResult::Failed));
    let outcome = outcome(&sim, 3);
    let reason = outcome.reason.expect("a reason");
    assert!(
        reason.contains("30 of 130 answers were errors (of the release before 1 of 400)"),
        "{reason}"
    );
    let receipt = outcome.receipt.expect("a receipt");
    assert_eq!(receipt.releases[&ReleaseNumber(3)].errors, 30);
}

#[test]
fn a_deploy_has_a_receipt() {
    let mut sim = running(2, 3, 4, 2);
    sim.said = said(&[(2, 7, 0), (3, 5, 0)]);
    deploy(&mut sim, 3, Health::Good, &structure(2, 0));
    sim.settle();
    let receipt = outcome(&sim, 3).receipt.expect("a receipt");
    assert_eq!((receipt.routers, receipt.failed()), (2, 0));
    assert_eq!(receipt.releases[&ReleaseNumber(2)].served, 14);
    // What isn't known is not made up, and nobody waits for it for long.
    for said in [said(&[(2, 7, 0)]), None] {
        let mut sim = running(2, 3, 4, 2);
        sim.said = said;
        deploy(&mut sim, 3, Health::Good, &structure(2, 0));
        sim.settle();
        sim.check_converged(3, &structure(2, 0), Some(OutcomeResult::Succeeded));
        assert_eq!(outcome(&sim, 3).receipt, None);
    }
}

/// What happens to a router.
#[derive(Debug, Clone, Copy)]
enum Luck {
    Comes,
    /// It ends well: its requests are over.
    Leaves,
    /// It does nothing for so many steps.
    Hangs(u8),
    Steps(u8),
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        1 => Just(Luck::Comes),
        1 => Just(Luck::Leaves),
        2 => any::<u8>().prop_map(Luck::Hangs),
        6 => any::<u8>().prop_map(Luck::Steps),
    ]
}

proptest! {
    /// Whatever routers do: nothing is stopped that one of them may have requests with (the agents check
    /// that), and one release is left.
    #[test]
    fn routers_come_hang_and_go(
        single: bool,
        health in prop_oneof![3 => Just(Health::Good), 1 => Just(Health::Crashes)],
        luck in prop::collection::vec(luck(), 0..60),
    ) {
        let mut sim = Sim::new(3, 6, 2);
        sim.single = single.then(|| kind("web")).into_iter().collect::<BTreeSet<_>>();
        sim.deploy_first(&structure(2, 0));
        deploy(&mut sim, 3, health, &structure(2, 0));
        let mut next = 10;
        for luck in luck {
            match luck {
                Luck::Comes => {
                    let ip = format!("10.0.0.{next}");
                    next += 1;
                    sim.routers.insert(ip.clone(), Router { id: next, ..Router::default() });
                    // It registers, then reads, then listens.
                    sim.acknowledge(&ip);
                    sim.route(&ip);
                }
                Luck::Leaves => {
                    let Some(ip) = sim.routers.keys().next().cloned() else { continue };
                    sim.routers.remove(&ip);
                    sim.kv.commit(&Txn::new().delete(&keys::router(&ip))).expect("no comparison");
                }
                Luck::Hangs(steps) => {
                    let Some((ip, hung)) = sim.routers.pop_first() else { continue };
                    for step in 0..steps {
                        // The law holds for it all the same.
                        sim.routers.insert(ip.clone(), hung.clone());
                        if step % 4 != 3 {
                            sim.step(step);
                        }
                    }
                    sim.routers.insert(ip, hung);
                }
                Luck::Steps(steps) => (0..steps).for_each(|choice| sim.step(choice.wrapping_mul(37))),
            }
        }
        sim.settle();
        let result = outcome(&sim, 3).result;
        let active = if result == OutcomeResult::Succeeded { 3 } else { 2 };
        prop_assert!(health == Health::Good || active == 2);
        sim.check_converged(active, &structure(2, 0), Some(result));
        prop_assert!(!holds(&sim));
    }
}
