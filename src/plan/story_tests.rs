//! Random stories of a small cluster: deploys, scalings and restarts with trouble in the middle.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    actor_tests::Health,
    sim_tests::{Sim, app, kind, structure},
};
use crate::{model::*, store::keys};

/// What happens in a story.
#[derive(Debug, Clone)]
enum Event {
    Release(Health, (u32, u32)),
    Scale((u32, u32), Health),
    Restart(Option<&'static str>),
}

/// What comes in between.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    NewLeader,
    HostLost {
        back: bool,
    },
    Both,
    Superseded,
    /// A host can't reach the store any more, but runs on.
    Cut {
        back: bool,
    },
    /// The same, and the leader is another.
    CutAndNewLeader,
    /// Single are from now on these types.
    Marked(bool, bool),
}

fn events() -> impl Strategy<Value = Event> {
    let wanted = (0u32..5, 0u32..3);
    let health = prop_oneof![
        3 => Just(Health::Good),
        1 => Just(Health::Crashes),
        1 => Just(Health::Hangs),
        1 => (1u32..4).prop_map(Health::CrashesFrom),
    ];
    prop_oneof![
        3 => (health, wanted.clone()).prop_map(|(h, w)| Event::Release(h, w)),
        2 => (wanted, any::<bool>()).prop_map(|(w, bad)| Event::Scale(
            w, if bad { Health::CrashesFrom(4) } else { Health::Good })),
        1 => prop_oneof![Just(None), Just(Some("web")), Just(Some("worker"))].prop_map(Event::Restart),
    ]
}

fn troubles() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        3 => Just(Trouble::None),
        2 => Just(Trouble::NewLeader),
        2 => any::<bool>().prop_map(|back| Trouble::HostLost { back }),
        1 => Just(Trouble::Both),
        1 => Just(Trouble::Superseded),
        2 => any::<bool>().prop_map(|back| Trouble::Cut { back }),
        1 => Just(Trouble::CutAndNewLeader),
        1 => any::<(bool, bool)>().prop_map(|(web, worker)| Trouble::Marked(web, worker)),
    ]
}

/// Types that are marked as single.
fn single(web: bool, worker: bool) -> BTreeSet<ProcessType> {
    let all = [(kind("web"), web), (kind("worker"), worker)];
    all.into_iter()
        .filter_map(|(kind, single)| single.then_some(kind))
        .collect()
}

/// Whether a release of this health can get all of these up.
fn succeeds(health: Health, wanted: &Structure, had: &Structure) -> bool {
    let numbers = |kind: &ProcessType, count: u32| {
        // Scaling counts on from what is there; deploys keep the numbers.
        count.max(had.get(kind).copied().unwrap_or(0).min(count))
    };
    match health {
        Health::Good => true,
        Health::Crashes | Health::Hangs => wanted.values().all(|count| *count == 0),
        Health::CrashesFrom(from) => wanted.iter().all(|(kind, n)| numbers(kind, *n) < from),
    }
}

proptest! {
    #[test]
    fn stories_end_well(
        hosts in 3usize..5, routers in 0usize..3,
        (web, worker) in (1u32..5, 0u32..3),
        (single_web, single_worker) in any::<(bool, bool)>(),
        event in events(), trouble in troubles(),
        before in prop::collection::vec(any::<u8>(), 0..80),
        after in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let first = structure(web, worker);
        // Room for the larger of old and new and one more, with one host lost.
        let mut sim = Sim::new(hosts, 5, routers);
        sim.single = single(single_web, single_worker);
        sim.deploy_first(&first);
        let (mut active, mut wanted, mut outcome) = (2, first.clone(), OutcomeResult::Succeeded);
        match &event {
            Event::Release(health, (web, worker)) => {
                let next = structure(*web, *worker);
                sim.health.insert(ReleaseNumber(3), *health);
                sim.release(3, Uuid::from_u128(5));
                sim.roll(RolloutKind::Release, 3, &next);
                if succeeds(*health, &next, &first) {
                    (active, wanted) = (3, next);
                } else {
                    outcome = OutcomeResult::Failed;
                }
            }
            Event::Scale((web, worker), health) => {
                let next = structure(*web, *worker);
                // Only what the scale adds may be bad: what runs, runs.
                let bad = succeeds(*health, &next, &first) || !succeeds(*health, &first, &first);
                let health = if bad { Health::Good } else { *health };
                sim.health.insert(ReleaseNumber(2), health);
                sim.roll(RolloutKind::Scale, 2, &next);
                if succeeds(health, &next, &first) { wanted = next; } else { outcome = OutcomeResult::Failed; }
            }
            Event::Restart(only) => {
                let only = only.map(kind);
                sim.roll(RolloutKind::Restart { only, number: None }, 2, &first);
            }
        }
        before.iter().for_each(|choice| sim.step(*choice));
        match trouble {
            Trouble::None => {}
            Trouble::NewLeader => sim.elect(),
            Trouble::HostLost { .. } => sim.lose(1),
            Trouble::Both => { sim.lose(2); sim.elect(); }
            Trouble::Cut { .. } => sim.cut(1),
            Trouble::CutAndNewLeader => { sim.cut(2); sim.elect(); }
            Trouble::Marked(web, worker) => sim.mark(single(web, worker)),
            Trouble::Superseded => {
                if sim.kv.get(&keys::rollout(&app())).is_some() {
                    sim.release(4, Uuid::from_u128(5));
                    sim.roll(RolloutKind::Release, 4, &first);
                    (active, wanted, outcome) = (4, first.clone(), OutcomeResult::Succeeded);
                }
            }
        }
        after.iter().for_each(|choice| sim.step(*choice));
        if matches!(trouble, Trouble::HostLost { back: true }) {
            sim.join(1, 5);
        }
        if matches!(trouble, Trouble::Cut { back: true }) {
            sim.heal(1, 5);
        }
        sim.settle();
        sim.check_converged(active, &wanted, Some(outcome));
        if matches!(event, Event::Release(..)) && active != 4 {
            sim.check_outcome(3, outcome);
        }
        prop_assert!(sim.last.acts.is_empty(), "converged means an empty plan");
        // A leader that knows nothing but the store agrees.
        sim.elect();
        sim.lead();
        prop_assert!(sim.last.acts.is_empty(), "{:?}", sim.last.acts);
    }
}
