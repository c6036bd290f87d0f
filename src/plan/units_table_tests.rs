//! Tables of single decisions.

use super::*;

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
        single: Some(0),
        ..wanted(1, desired, Kind::Routable)
    };
    let run = single(Desired::Run);
    let plain = wanted(1, Desired::Run, Kind::Routable);
    let up = Seen {
        fenced: Some(0),
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
            "marked anew while it runs",
            Live,
            Held,
            Some(Wanted {
                single: Some(2),
                ..run
            }),
            Some(up),
            does(Action::Fence),
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
