//! Tests of [`super`]: the laws, and tables of single decisions (`table`).

#[path = "units_table_tests.rs"]
mod table;

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn wanted(uuid: u128, desired: Desired, kind: Kind) -> Wanted {
    Wanted {
        uuid: Uuid::from_u128(uuid),
        desired,
        kind,
        single: None,
    }
}

fn serving(uuid: u128) -> Seen {
    Seen {
        uuid: Uuid::from_u128(uuid),
        kind: Kind::Routable,
        started: true,
        loaded: false,
        running: Running::Up,
        healthy: Some(true),
        published: Published::Yes,
        reported: false,
        fenced: None,
        busy: None,
        retry_at: None,
    }
}

/// A model of the edge: what an action makes of the host, were everything to go well.
fn carry_out(plan: &Plan, wanted: &BTreeMap<String, Wanted>, seen: &mut BTreeMap<String, Seen>) {
    for (name, action) in &plan.actions {
        let Some(s) = seen.get_mut(name) else {
            assert_eq!(
                *action,
                Action::Start,
                "only a start is for what is not there"
            );
            let w = wanted[name];
            let load = w.desired == Desired::Load;
            let new = Seen {
                started: !load,
                loaded: load,
                kind: w.kind,
                uuid: w.uuid,
                published: Published::No,
                fenced: w.single,
                ..serving(0)
            };
            seen.insert(name.clone(), new);
            continue;
        };
        match action {
            Action::Start if wanted[name].desired == Desired::Load => s.loaded = true,
            Action::Start => {
                (s.running, s.started, s.healthy) = (Running::Up, true, Some(true));
                s.loaded = false;
                s.fenced = wanted[name].single;
            }
            Action::Halt => (s.running, s.started, s.loaded) = (Running::No, false, true),
            Action::Cancel => s.busy = None,
            Action::Publish => s.published = Published::Yes,
            Action::Withdraw => s.published = Published::No,
            Action::Report => s.reported = true,
            Action::Stop => {
                seen.remove(name);
            }
            Action::Suspend => (s.running, s.healthy) = (Running::No, None),
            Action::Fence => s.fenced = wanted[name].single,
            Action::Unfence => s.fenced = None,
        }
    }
    // Time passes: tasks end, systemd and the announcers finish what they do, one-offs end.
    for s in seen.values_mut() {
        (s.busy, s.retry_at) = (None, None);
        if s.running == Running::Changing {
            s.running = Running::Up;
        }
        if s.kind == Kind::Run && (s.started || s.running == Running::Up) {
            (s.started, s.running) = (true, Running::No);
        }
        if s.running == Running::Up && s.healthy != Some(true) {
            s.healthy = Some(true);
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Routable),
        Just(Kind::Plain),
        Just(Kind::Run),
        Just(Kind::Unit)
    ]
}

fn wishes() -> impl Strategy<Value = BTreeMap<String, Wanted>> {
    let desired = prop_oneof![
        Just(Desired::Run),
        Just(Desired::Load),
        Just(Desired::Drain),
        Just(Desired::Stop)
    ];
    let one =
        (0u128..3, desired, kinds(), any::<bool>()).prop_map(|(uuid, desired, kind, single)| {
            // Neither one-offs nor raw units have a type that could be marked.
            let single = single && matches!(kind, Kind::Routable | Kind::Plain);
            Wanted {
                single: single.then_some(0),
                ..wanted(uuid, desired, kind)
            }
        });
    prop::collection::btree_map("[a-e]", one, 0..5)
}

fn hosts() -> impl Strategy<Value = BTreeMap<String, Seen>> {
    let running = prop_oneof![
        Just(Running::No),
        Just(Running::Changing),
        Just(Running::Up)
    ];
    let published = prop_oneof![
        Just(Published::No),
        Just(Published::Yes),
        Just(Published::Unknown)
    ];
    let busy = prop_oneof![
        Just(Busy::Starting),
        Just(Busy::Stopping),
        Just(Busy::Publishing),
        Just(Busy::Reporting)
    ];
    let one = (
        0u128..3,
        kinds(),
        any::<bool>(),
        running,
        any::<Option<bool>>(),
        published,
        any::<bool>(),
    )
        .prop_flat_map(move |fields| {
            (
                Just(fields),
                prop::option::of(busy.clone()),
                prop::option::of(0u64..200),
            )
        })
        .prop_map(
            |((uuid, kind, started, running, healthy, published, reported), busy, retry)| Seen {
                uuid: Uuid::from_u128(uuid),
                kind,
                started,
                loaded: kind == Kind::Unit && !started && reported,
                running,
                healthy,
                published,
                reported,
                fenced: None,
                busy,
                retry_at: retry.map(Duration::from_secs),
            },
        );
    prop::collection::btree_map("[a-e]", one, 0..5)
}

/// A host agrees with the assignments on what kind of thing each uuid is.
fn agree(wanted: &BTreeMap<String, Wanted>, seen: &mut BTreeMap<String, Seen>) {
    for (name, s) in seen {
        if let Some(w) = wanted.get(name).filter(|w| w.uuid == s.uuid) {
            s.kind = w.kind;
        }
    }
}

proptest! {
    #[test]
    fn it_converges_and_then_rests(wanted in wishes(), mut seen in hosts()) {
        agree(&wanted, &mut seen);
        for _ in 0..10 {
            let plan = plan(Knowledge::Live, Lease::Held, &wanted, &seen, NOW);
            carry_out(&plan, &wanted, &mut seen);
        }
        let rest = plan(Knowledge::Live, Lease::Held, &wanted, &seen, NOW);
        prop_assert!(rest.actions.is_empty(), "{rest:?} for {seen:?}");
        prop_assert!(rest.waiting.is_empty(), "{rest:?} for {seen:?}");
        for (name, w) in &wanted {
            match (w.desired, seen.get(name)) {
                (Desired::Run, Some(s)) => {
                    prop_assert_eq!(s.uuid, w.uuid);
                    prop_assert_eq!(s.published == Published::Yes, w.kind == Kind::Routable || s.published == Published::Yes);
                }
                (Desired::Run, None) => prop_assert!(false, "{name} does not run"),
                (Desired::Drain, Some(s)) => prop_assert!(s.kind != Kind::Routable || s.published == Published::No),
                (Desired::Load, Some(s)) if w.kind == Kind::Unit => {
                    prop_assert_eq!((s.uuid, s.loaded, s.started), (w.uuid, true, false));
                }
                (Desired::Load, None) if w.kind == Kind::Unit => prop_assert!(false, "{name} is not loaded"),
                (Desired::Load, Some(s)) => prop_assert!(s.kind != Kind::Routable || s.published == Published::No),
                (Desired::Drain | Desired::Load, None) => {}
                (Desired::Stop, s) => prop_assert!(s.is_none(), "{name} is still there"),
            }
        }
        prop_assert!(seen.keys().all(|name| wanted.contains_key(name)), "something unassigned is left");
    }

    #[test]
    fn nothing_is_stopped_without_fresh_knowledge(wanted in wishes(), seen in hosts()) {
        for knowledge in [Knowledge::Nothing, Knowledge::Cached] {
            let plan = plan(knowledge, Lease::Held, &wanted, &seen, NOW);
            let harm = plan.actions.values().find(|a| matches!(a, Action::Stop | Action::Halt | Action::Withdraw | Action::Cancel));
            prop_assert_eq!(harm, None);
        }
    }

    /// The lease changes nothing for anybody else, and without it nothing single runs or comes up.
    #[test]
    fn the_lease_is_the_singles_business(wanted in wishes(), mut seen in hosts(), fenced in any::<u8>()) {
        for (at, s) in seen.values_mut().enumerate() { s.fenced = (fenced >> at & 1 == 1).then_some(0); }
        for knowledge in [Knowledge::Nothing, Knowledge::Cached, Knowledge::Live] {
            let with = plan(knowledge, Lease::Held, &wanted, &seen, NOW);
            let without = plan(knowledge, Lease::Expired, &wanted, &seen, NOW);
            for name in wanted.keys().chain(seen.keys()) {
                let action = without.actions.get(name);
                let is_single = wanted.get(name).is_some_and(|w| w.single.is_some());
                let is_fenced = seen.get(name).is_some_and(|s| s.fenced.is_some());
                if !is_single && !is_fenced {
                    prop_assert_eq!(with.actions.get(name), action);
                }
                if is_single { prop_assert_ne!(action, Some(&Action::Start)); }
                let runs = seen.get(name).is_some_and(|s| s.running != Running::No && s.busy.is_none() && s.retry_at.is_none());
                if is_fenced && runs && knowledge != Knowledge::Nothing {
                    prop_assert_eq!(action, Some(&Action::Suspend));
                }
            }
        }
    }

    #[test]
    fn one_name_does_not_touch_another(wanted in wishes(), seen in hosts()) {
        let whole = plan(Knowledge::Live, Lease::Held, &wanted, &seen, NOW);
        for name in wanted.keys().chain(seen.keys()) {
            let only = |key: &String| key == name;
            let wanted = wanted.clone().into_iter().filter(|(key, _)| only(key)).collect();
            let seen = seen.clone().into_iter().filter(|(key, _)| only(key)).collect();
            let alone = plan(Knowledge::Live, Lease::Held, &wanted, &seen, NOW);
            prop_assert_eq!(alone.actions.get(name), whole.actions.get(name));
            prop_assert_eq!(alone.waiting.get(name), whole.waiting.get(name));
        }
    }

    #[test]
    fn a_published_process_is_never_stopped(wanted in wishes(), seen in hosts()) {
        for (name, action) in plan(Knowledge::Live, Lease::Held, &wanted, &seen, NOW).actions {
            if action == Action::Stop {
                let s = &seen[&name];
                prop_assert!(s.kind != Kind::Routable || s.published == Published::No);
                prop_assert!(s.busy.is_none());
            }
        }
    }
}
