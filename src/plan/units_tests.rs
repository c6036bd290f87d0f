//! Tests of [`super`]: a table of single decisions, and the laws.

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn wanted(uuid: u128, desired: Desired, kind: Kind) -> Wanted {
    Wanted {
        uuid: Uuid::from_u128(uuid),
        desired,
        kind,
        single: false,
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
        fenced: false,
        busy: None,
        retry_at: None,
    }
}

fn one(
    knowledge: Knowledge,
    wanted: Option<Wanted>,
    seen: Option<Seen>,
) -> (Option<Action>, Option<Waiting>) {
    with_lease(knowledge, Lease::Held, wanted, seen)
}

fn with_lease(
    knowledge: Knowledge,
    lease: Lease,
    wanted: Option<Wanted>,
    seen: Option<Seen>,
) -> (Option<Action>, Option<Waiting>) {
    let name = "blog_v1.web.1".to_owned();
    let wanted = wanted.map(|w| (name.clone(), w)).into_iter().collect();
    let seen = seen.map(|s| (name.clone(), s)).into_iter().collect();
    let plan = plan(knowledge, lease, &wanted, &seen, NOW);
    (
        plan.actions.get(&name).copied(),
        plan.waiting.get(&name).copied(),
    )
}

#[test]
fn decisions() {
    use Knowledge::{Cached, Live, Nothing};
    let run = wanted(1, Desired::Run, Kind::Routable);
    let drain = wanted(1, Desired::Drain, Kind::Routable);
    let stop = wanted(1, Desired::Stop, Kind::Routable);
    let once = wanted(1, Desired::Run, Kind::Run);
    let s = serving(1);
    let down = Seen {
        running: Running::No,
        healthy: None,
        published: Published::No,
        ..s
    };
    let ended = Seen {
        kind: Kind::Run,
        ..down
    };
    type Case = (
        &'static str,
        Knowledge,
        Option<Wanted>,
        Option<Seen>,
        (Option<Action>, Option<Waiting>),
    );
    let cases: Vec<Case> = vec![
        ("new", Live, Some(run), None, (Some(Action::Start), None)),
        (
            "new, from the cache",
            Cached,
            Some(run),
            None,
            (Some(Action::Start), None),
        ),
        (
            "one-off, from the cache",
            Cached,
            Some(once),
            None,
            (None, Some(Waiting::Etcd)),
        ),
        ("serving", Live, Some(run), Some(s), (None, None)),
        (
            "serving, agent restarted",
            Live,
            Some(run),
            Some(Seen {
                published: Published::Unknown,
                healthy: None,
                ..s
            }),
            (None, Some(Waiting::Healthy)),
        ),
        (
            "serving, agent restarted, word came",
            Live,
            Some(run),
            Some(Seen {
                published: Published::Unknown,
                ..s
            }),
            (Some(Action::Publish), None),
        ),
        (
            "healthy",
            Live,
            Some(run),
            Some(Seen {
                published: Published::No,
                ..s
            }),
            (Some(Action::Publish), None),
        ),
        (
            "healthy, etcd away",
            Cached,
            Some(run),
            Some(Seen {
                published: Published::No,
                ..s
            }),
            (None, Some(Waiting::Etcd)),
        ),
        (
            "unhealthy",
            Live,
            Some(run),
            Some(Seen {
                healthy: Some(false),
                ..s
            }),
            (Some(Action::Withdraw), None),
        ),
        (
            "crashed",
            Live,
            Some(run),
            Some(Seen {
                running: Running::Changing,
                healthy: None,
                ..s
            }),
            (Some(Action::Withdraw), None),
        ),
        (
            "crashed, withdrawn",
            Live,
            Some(run),
            Some(Seen {
                running: Running::Changing,
                healthy: None,
                published: Published::No,
                ..s
            }),
            (None, Some(Waiting::Systemd)),
        ),
        (
            "stopped by hand",
            Live,
            Some(run),
            Some(down),
            (Some(Action::Start), None),
        ),
        (
            "stopped by hand, etcd away",
            Cached,
            Some(run),
            Some(Seen {
                published: Published::Unknown,
                ..down
            }),
            (Some(Action::Start), None),
        ),
        (
            "starting after a boot, its address may stand there since before",
            Live,
            Some(run),
            Some(Seen {
                published: Published::Unknown,
                busy: Some(Busy::Starting),
                ..down
            }),
            (None, Some(Waiting::Task(Busy::Starting))),
        ),
        (
            "the same, to drain",
            Live,
            Some(drain),
            Some(Seen {
                published: Published::Unknown,
                busy: Some(Busy::Starting),
                ..down
            }),
            (Some(Action::Cancel), None),
        ),
        (
            "to drain",
            Live,
            Some(drain),
            Some(s),
            (Some(Action::Withdraw), None),
        ),
        (
            "drained",
            Live,
            Some(drain),
            Some(Seen {
                published: Published::No,
                ..s
            }),
            (None, None),
        ),
        (
            "drained and dead",
            Live,
            Some(drain),
            Some(down),
            (None, None),
        ),
        (
            "to stop, published",
            Live,
            Some(stop),
            Some(s),
            (Some(Action::Withdraw), None),
        ),
        (
            "to stop",
            Live,
            Some(stop),
            Some(Seen {
                published: Published::No,
                ..s
            }),
            (Some(Action::Stop), None),
        ),
        (
            "to stop, etcd away",
            Cached,
            Some(stop),
            Some(Seen {
                published: Published::No,
                ..s
            }),
            (None, Some(Waiting::Etcd)),
        ),
        ("to stop, not there", Live, Some(stop), None, (None, None)),
        (
            "unassigned",
            Live,
            None,
            Some(Seen {
                published: Published::No,
                ..s
            }),
            (Some(Action::Stop), None),
        ),
        (
            "unassigned, etcd away",
            Cached,
            None,
            Some(s),
            (None, Some(Waiting::Etcd)),
        ),
        ("nothing known", Nothing, None, Some(s), (None, None)),
        (
            "another's",
            Live,
            Some(wanted(2, Desired::Run, Kind::Routable)),
            Some(Seen {
                published: Published::No,
                ..s
            }),
            (Some(Action::Stop), None),
        ),
        (
            "starting, to stop",
            Live,
            Some(stop),
            Some(Seen {
                busy: Some(Busy::Starting),
                ..down
            }),
            (Some(Action::Cancel), None),
        ),
        (
            "starting",
            Live,
            Some(run),
            Some(Seen {
                busy: Some(Busy::Starting),
                ..down
            }),
            (None, Some(Waiting::Task(Busy::Starting))),
        ),
        (
            "failed a moment ago",
            Live,
            Some(run),
            Some(Seen {
                retry_at: Some(NOW + Duration::from_secs(1)),
                ..down
            }),
            (None, Some(Waiting::Retry(NOW + Duration::from_secs(1)))),
        ),
        (
            "failed a while ago",
            Live,
            Some(run),
            Some(Seen {
                retry_at: Some(NOW),
                ..down
            }),
            (Some(Action::Start), None),
        ),
        (
            "one-off ended",
            Live,
            Some(once),
            Some(ended),
            (Some(Action::Report), None),
        ),
        (
            "one-off reported",
            Live,
            Some(once),
            Some(Seen {
                reported: true,
                ..ended
            }),
            (None, None),
        ),
        (
            "one-off runs",
            Live,
            Some(once),
            Some(Seen {
                running: Running::Up,
                ..ended
            }),
            (None, Some(Waiting::End)),
        ),
        (
            "raw unit ended by itself",
            Live,
            Some(wanted(1, Desired::Run, Kind::Unit)),
            Some(Seen {
                kind: Kind::Unit,
                ..down
            }),
            (None, None),
        ),
    ];
    for (what, knowledge, wanted, seen, want) in cases {
        assert_eq!(one(knowledge, wanted, seen), want, "{what}");
    }
}

#[test]
fn singles_live_by_the_lease() {
    use Knowledge::{Cached, Live, Nothing};
    use Lease::{Expired, Held};
    let single = |desired| Wanted {
        single: true,
        ..wanted(1, desired, Kind::Routable)
    };
    let run = single(Desired::Run);
    let plain = wanted(1, Desired::Run, Kind::Routable);
    let up = Seen {
        fenced: true,
        ..serving(1)
    };
    let down = Seen {
        running: Running::No,
        healthy: None,
        ..up
    };
    let busy = |busy| Seen {
        busy: Some(busy),
        ..up
    };
    let waits = |waiting| (None, Some(waiting));
    let does = |action| (Some(action), None);
    let cases = [
        ("new", Live, Held, Some(run), None, does(Action::Start)),
        (
            "new, no lease",
            Live,
            Expired,
            Some(run),
            None,
            waits(Waiting::Lease),
        ),
        (
            "never from the cache",
            Cached,
            Held,
            Some(run),
            None,
            waits(Waiting::Etcd),
        ),
        ("serving", Live, Held, Some(run), Some(up), (None, None)),
        (
            "the agent restarts, its lease holds",
            Cached,
            Held,
            Some(run),
            Some(up),
            (None, None),
        ),
        (
            "the lease runs out",
            Live,
            Expired,
            Some(run),
            Some(up),
            does(Action::Suspend),
        ),
        (
            "also without etcd",
            Cached,
            Expired,
            Some(run),
            Some(up),
            does(Action::Suspend),
        ),
        (
            "nothing known yet: the fence's own business",
            Nothing,
            Expired,
            None,
            Some(up),
            (None, None),
        ),
        (
            "draining",
            Live,
            Expired,
            Some(single(Desired::Drain)),
            Some(up),
            does(Action::Suspend),
        ),
        (
            "to be stopped",
            Live,
            Expired,
            Some(single(Desired::Stop)),
            Some(up),
            does(Action::Suspend),
        ),
        (
            "not assigned any more",
            Live,
            Expired,
            None,
            Some(up),
            does(Action::Suspend),
        ),
        (
            "starting",
            Live,
            Expired,
            Some(run),
            Some(busy(Busy::Starting)),
            does(Action::Cancel),
        ),
        (
            "publishing, to an etcd that is away",
            Live,
            Expired,
            Some(run),
            Some(busy(Busy::Publishing)),
            does(Action::Cancel),
        ),
        (
            "being stopped",
            Live,
            Expired,
            Some(run),
            Some(busy(Busy::Stopping)),
            waits(Waiting::Task(Busy::Stopping)),
        ),
        (
            "stopped",
            Live,
            Expired,
            Some(run),
            Some(down),
            waits(Waiting::Lease),
        ),
        (
            "the lease is back: the old address goes",
            Live,
            Held,
            Some(run),
            Some(down),
            does(Action::Withdraw),
        ),
        (
            "and it starts",
            Live,
            Held,
            Some(run),
            Some(Seen {
                published: Published::No,
                ..down
            }),
            does(Action::Start),
        ),
        (
            "moved away meanwhile",
            Live,
            Held,
            None,
            Some(Seen {
                published: Published::No,
                ..down
            }),
            does(Action::Stop),
        ),
        (
            "marked while it runs",
            Live,
            Held,
            Some(run),
            Some(serving(1)),
            does(Action::Fence),
        ),
        (
            "no longer marked",
            Live,
            Held,
            Some(plain),
            Some(up),
            does(Action::Unfence),
        ),
        (
            "others run on",
            Live,
            Expired,
            Some(plain),
            Some(serving(1)),
            (None, None),
        ),
        (
            "others start",
            Cached,
            Expired,
            Some(plain),
            None,
            does(Action::Start),
        ),
    ];
    for (what, knowledge, lease, wanted, seen, want) in cases {
        assert_eq!(with_lease(knowledge, lease, wanted, seen), want, "{what}");
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
            Action::Fence => s.fenced = true,
            Action::Unfence => s.fenced = false,
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
                single,
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
                fenced: false,
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
        for (at, s) in seen.values_mut().enumerate() { s.fenced = fenced >> at & 1 == 1; }
        for knowledge in [Knowledge::Nothing, Knowledge::Cached, Knowledge::Live] {
            let with = plan(knowledge, Lease::Held, &wanted, &seen, NOW);
            let without = plan(knowledge, Lease::Expired, &wanted, &seen, NOW);
            for name in wanted.keys().chain(seen.keys()) {
                let action = without.actions.get(name);
                let is_single = wanted.get(name).is_some_and(|w| w.single);
                let is_fenced = seen.get(name).is_some_and(|s| s.fenced);
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
