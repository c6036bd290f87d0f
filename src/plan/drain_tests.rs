//! Hosts that are drained: nothing serves less, what waits is said, and a deadline ends it.

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    World,
    actor_tests::Health,
    drain::{self, DrainMemory},
    round::{Context, Plan, Policy},
    sim_tests::{Sim, app, kind, machine, structure, wall},
};
use crate::{model::*, store::keys};

impl Sim {
    fn record_of(&mut self, n: usize, change: impl FnOnce(&mut HostRecord)) {
        let key = keys::host(&machine(n));
        let mut record = self.kv.get(&key).expect("a host").0;
        change(&mut record);
        self.kv.put(&key, &record);
    }

    fn drain(&mut self, n: usize, deadline: Option<u64>) {
        let since = wall(self.now);
        let deadline = deadline.map(|secs| wall(self.now + Duration::from_secs(secs)));
        self.record_of(n, |host| host.drain = Some(HostDrain { since, deadline }));
    }

    fn undrain(&mut self, n: usize) {
        self.record_of(n, |host| host.drain = None);
    }

    /// Names of the processes on a host.
    fn on(&self, n: usize) -> Vec<String> {
        let prefix = format!("/deis/schedule/{}/", machine(n));
        let keys = self.kv.under(&prefix).map(|(key, _)| key);
        keys.map(|key| key[prefix.len()..].to_owned()).collect()
    }

    /// As many as run now have to serve at all times.
    fn hold_the_floor(&mut self) {
        self.floor = self.record().structure;
    }
}

pub(super) fn running(web: u32, worker: u32, hosts: usize, places: u64) -> Sim {
    let mut sim = Sim::new(hosts, places, 2);
    sim.deploy_first(&structure(web, worker));
    sim.hold_the_floor();
    sim
}

#[test]
fn a_drained_host_is_emptied_and_nothing_serves_less() {
    let mut sim = running(9, 3, 3, 8);
    assert_eq!(sim.on(2).len(), 4);
    sim.drain(2, None);
    sim.settle();
    assert_eq!(sim.on(2), Vec::<String>::new());
    sim.check_converged(2, &structure(9, 3), None);
    let second = |name: &&String| name.ends_with(".2");
    assert_eq!(sim.on(1).iter().chain(&sim.on(3)).filter(second).count(), 4);
    // It stays empty while the app changes, and takes part again when it is back.
    sim.roll(RolloutKind::Scale, 2, &structure(12, 3));
    sim.settle();
    assert_eq!(sim.on(2), Vec::<String>::new());
    sim.undrain(2);
    sim.roll(RolloutKind::Scale, 2, &structure(16, 3));
    sim.settle();
    assert_eq!(sim.on(2).len(), 4, "{:?}", sim.on(2));
}

#[test]
fn a_cordoned_host_keeps_what_it_has_and_gets_nothing() {
    let mut sim = running(3, 0, 3, 8);
    sim.record_of(2, |host| host.cordoned = true);
    sim.settle();
    sim.roll(RolloutKind::Scale, 2, &structure(7, 0));
    sim.settle();
    assert_eq!(sim.on(2).len(), 1);
    sim.check_converged(2, &structure(7, 0), Some(OutcomeResult::Succeeded));
}

#[test]
fn one_free_place_is_enough_to_begin_and_what_waits_is_said() {
    let mut sim = running(12, 0, 3, 6);
    sim.drain(3, None);
    sim.go(30, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(sim.on(3).len(), 0, "twelve places elsewhere");
    // Twelve places elsewhere for sixteen, one of them free.
    let mut sim = running(16, 0, 3, 6);
    assert_eq!(sim.on(3).len(), 5);
    sim.drain(3, None);
    sim.go(30, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(sim.on(3).len(), 4);
    let said = sim.waiting();
    assert!(
        said.contains("2 lack 512 MiB of free memory, 1 is being drained"),
        "{said}"
    );
    sim.join(4, 6);
    sim.settle();
    assert_eq!(sim.on(3), Vec::<String>::new());
    sim.check_converged(2, &structure(16, 0), None);
}

#[test]
fn moves_have_a_budget() {
    let mut sim = running(12, 0, 2, 20);
    sim.drain(2, None);
    sim.lead();
    assert_eq!(sim.last.acts.len(), 1);
    assert_eq!(sim.on(1).len(), 6 + 4);
    let said = sim.waiting();
    assert!(
        said.contains("2 have to leave their host; at most 4 move at once"),
        "{said}"
    );
}

#[test]
fn the_deadline_stops_what_is_left_after_the_barriers() {
    let mut sim = running(6, 2, 2, 4);
    let there = sim.on(2).len();
    sim.drain(2, Some(60));
    sim.go(50, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(sim.on(2).len(), there, "no place elsewhere: they run on");
    assert!(
        sim.last.wake.is_some(),
        "the leader comes back for the deadline"
    );
    sim.floor.clear();
    sim.settle();
    assert_eq!(sim.on(2), Vec::<String>::new());
    let said = sim.waiting();
    assert!(said.contains("no host can take it"), "{said}");
    sim.undrain(2);
    sim.settle();
    sim.check_converged(2, &structure(6, 2), None);
}

#[test]
fn a_clock_that_jumps_ends_no_drain_and_a_new_leader_knows_what_is_left() {
    let overdue = |memory: &mut DrainMemory, world: &World, now: u64, wall: u64| {
        let policy = Policy::default();
        let cx = Context {
            now: Duration::from_secs(now),
            wall: self::wall(Duration::from_secs(wall)),
            view_since: Duration::ZERO,
            fence: 1,
            policy: &policy,
            counts: None,
            new_id: &Uuid::nil,
        };
        let mut plan = Plan::default();
        let overdue = drain::overdue(world, memory, &cx, &mut plan);
        (!overdue.is_empty(), plan.wake.map(|wake| wake.as_secs()))
    };
    let mut sim = running(1, 0, 2, 4);
    let mut memory = DrainMemory::default();
    assert_eq!(overdue(&mut memory, &sim.world, 0, 0), (false, None));
    let at = |secs| wall(Duration::from_secs(secs));
    // The operator's clock is an hour behind this leader's; a minute is a minute.
    let drain = HostDrain {
        since: at(1_000),
        deadline: Some(at(1_060)),
    };
    sim.record_of(2, |host| host.drain = Some(drain));
    sim.lead();
    for (now, wall, want) in [
        (10, 4_600, (false, Some(70))),
        (40, 999_999, (false, Some(70))),
        (69, 0, (false, Some(70))),
        (70, 1_000, (true, None)),
    ] {
        assert_eq!(
            overdue(&mut memory, &sim.world, now, wall),
            want,
            "at {now} s"
        );
    }
    // Who comes to lead meanwhile asks the clock, and gives no more than the whole.
    for (wall, want) in [
        (1_020, (false, Some(540))),
        (1_060, (true, None)),
        (0, (false, Some(560))),
    ] {
        let mut memory = DrainMemory::default();
        assert_eq!(
            overdue(&mut memory, &sim.world, 500, wall),
            want,
            "at {wall}"
        );
    }
}

#[test]
fn after_the_deadline_a_silent_router_is_waited_for_only_so_long() {
    let mut sim = running(4, 0, 2, 8);
    sim.floor.clear();
    sim.drain(2, Some(1));
    // One router never lets go: its requests hold on, so the law of the stop can't be checked here.
    sim.go(20, &["10.0.0.1"]);
    assert_eq!(sim.on(2).len(), 2, "published no more, but up");
    sim.routers.remove("10.0.0.2");
    for _ in 0..40 {
        sim.now += Duration::from_secs(1);
        sim.lead();
        for id in sim.agents.keys().cloned().collect::<Vec<_>>() {
            sim.agent(&id);
        }
    }
    assert_eq!(sim.on(2), Vec::<String>::new());
}

#[test]
fn an_app_that_changes_moves_when_its_rollout_is_over() {
    let mut sim = running(4, 0, 3, 8);
    sim.release(3, Uuid::from_u128(5));
    sim.roll(RolloutKind::Release, 3, &structure(4, 0));
    sim.lead();
    let placed = |n: usize, sim: &Sim| sim.on(n).iter().filter(|name| name.contains("_v3")).count();
    let before = placed(2, &sim);
    sim.drain(2, None);
    sim.settle();
    assert!(before > 0, "the rollout had put something there");
    assert_eq!(sim.on(2), Vec::<String>::new());
    sim.check_converged(3, &structure(4, 0), Some(OutcomeResult::Succeeded));
}

#[test]
fn a_single_type_stops_first_and_only_when_it_has_a_place() {
    let mut sim = Sim::new(2, 4, 2);
    sim.single = [kind("web")].into();
    sim.deploy_first(&structure(4, 0));
    let full = sim.on(2).len();
    sim.drain(2, None);
    sim.settle();
    assert_eq!(sim.on(2), Vec::<String>::new(), "{full} have moved");
    sim.check_converged(2, &structure(4, 0), None);

    let mut sim = Sim::new(2, 4, 2);
    sim.single = [kind("web")].into();
    sim.deploy_first(&structure(8, 0));
    sim.drain(2, None);
    sim.go(20, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(sim.on(2).len(), 4, "no place elsewhere: it runs on");
    assert!(
        sim.waiting().contains("no host can take it"),
        "{}",
        sim.waiting()
    );
}

#[test]
fn what_does_not_get_up_elsewhere_leaves_the_old_one_serving() {
    let mut sim = running(4, 0, 2, 8);
    sim.health.insert(ReleaseNumber(2), Health::Hangs);
    sim.drain(2, None);
    sim.go(200, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(sim.on(2).len(), 2);
    // The drain is taken back: the old ones stay, the new ones that never served go.
    sim.undrain(2);
    sim.settle();
    sim.check_converged(2, &structure(4, 0), None);
    assert_eq!(sim.on(2).len(), 2);
}

#[test]
fn a_host_that_joins_gets_its_share_if_moves_are_allowed() {
    let mut sim = running(8, 4, 2, 12);
    sim.join(3, 12);
    sim.settle();
    assert_eq!(
        sim.on(3),
        Vec::<String>::new(),
        "off unless somebody wants it"
    );
    let key = keys::platform("rebalance-per-minute");
    sim.kv.put(&key, &"30".to_owned());
    sim.join(4, 12);
    let begun = sim.now;
    sim.settle();
    sim.check_converged(2, &structure(8, 4), None);
    for n in 1..=4 {
        assert_eq!(sim.on(n).len(), 3, "{:?}", sim.on(n));
    }
    assert!(
        sim.now >= begun + Duration::from_secs(2 * 5),
        "two seconds between moves"
    );
    // A leader that knows nothing but the store moves nothing more.
    sim.elect();
    sim.settle();
    for n in 1..=4 {
        assert_eq!(sim.on(n).len(), 3);
    }
}

#[test]
fn a_move_that_comes_to_nothing_is_taken_back_and_not_tried_again_at_once() {
    let mut sim = running(4, 0, 2, 12);
    let key = keys::platform("rebalance-per-minute");
    sim.kv.put(&key, &"60".to_owned());
    sim.health.insert(ReleaseNumber(2), Health::Hangs);
    sim.join(3, 12);
    sim.join(4, 12);
    let mut moves = 0;
    for _ in 0..300 {
        sim.go(1, &["10.0.0.1", "10.0.0.2"]);
        moves += sim
            .last
            .acts
            .iter()
            .filter(|act| act.what.contains(" to deis-0"))
            .count();
    }
    assert_eq!(moves, 1, "one try");
    assert_eq!(
        sim.on(1).len() + sim.on(2).len(),
        4,
        "the old ones serve on"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes in between: as many serve as the app wants, and in the end nothing is on hosts
    /// that are drained.
    #[test]
    fn drains_end_well(
        // One drained and one cordoned leave two with room for all: no rollout has to be given up.
        hosts in 4usize..6, web in 1u32..6, worker in 0u32..3,
        steps in prop::collection::vec((0usize..7, prop::collection::vec(any::<u8>(), 0..60)), 1..6),
    ) {
        let mut sim = Sim::new(hosts, 6, 2);
        sim.deploy_first(&structure(web, worker));
        sim.hold_the_floor();
        let (mut version, mut drained) = (2, std::collections::BTreeSet::new());
        for (what, choices) in steps {
            match what {
                0 => { sim.drain(1, None); drained.insert(1); }
                1 => { sim.drain(2, None); drained = [2].into(); sim.undrain(1); }
                2 => { sim.undrain(1); sim.undrain(2); drained.clear(); }
                3 => sim.elect(),
                4 if sim.kv.get(&keys::rollout(&app())).is_none() => {
                    version += 1;
                    sim.release(version, Uuid::from_u128(5));
                    sim.roll(RolloutKind::Release, version, &structure(web, worker));
                }
                5 => sim.record_of(3, |host| host.cordoned = !host.cordoned),
                _ => {}
            }
            choices.iter().for_each(|choice| sim.step(*choice));
        }
        sim.settle();
        sim.check_converged(version, &structure(web, worker), None);
        for n in drained {
            prop_assert_eq!(sim.on(n), Vec::<String>::new());
        }
        prop_assert!(sim.last.acts.is_empty());
    }
}

/// The end of a process is news of its app only; the unit that waits for it hears of it all the same.
#[test]
fn a_unit_that_is_on_all_hosts_leaves_with_the_last_process() {
    let mut sim = Sim::new(2, 4, 1);
    sim.deploy_first(&structure(4, 0));
    sim.unit("every.service", "[X-Fleet]\nGlobal=true\n");
    // Its hosts say nothing of it here: so it is forgotten as soon as it is to stop.
    sim.settle();
    assert_eq!(sim.hosts_of("every.service"), [1, 2]);
    sim.drain(1, None);
    sim.settle();
    assert!(sim.on(1).is_empty(), "{:?}", sim.on(1));
    assert_eq!(sim.hosts_of("every.service"), [2]);
}
