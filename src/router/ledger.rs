//! What this router has acknowledged, as a pure structure: events in, acknowledgements out.

use std::collections::BTreeMap;

use crate::{
    model::{AppName, DrainedByApp, Revision, RouterPresence},
    plan::routes::Endpoint,
};

/// Apps that are listed by themselves at most: the record stays small, whatever tenants' requests do.
/// What lags beyond that is acknowledged together.
const LISTED: usize = 64;

/// The acknowledgements of the router's presence record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acks {
    /// Every change of `/deis/services/` up to this revision is in the table.
    pub applied: Revision,
    /// No request holds a backend that was withdrawn at or before this revision, in whatever app.
    pub drained: Revision,
    /// The same app by app; none while no app lags behind.
    pub by_app: Option<DrainedByApp>,
    /// Every change of `/deis/routes/` up to this revision is in the table.
    pub routes: Revision,
}

impl Acks {
    /// Writes them into the record.
    pub fn tell(self, said: &mut RouterPresence) {
        said.applied = self.applied;
        said.drained = self.drained;
        said.drained_by_app = self.by_app;
        said.routes = Some(self.routes);
    }
}

/// Keeps the books of withdrawn backends that requests still hold.
///
/// A withdrawal is counted from the first revision at which it may have happened: the one after
/// what was applied before. So a resync, which doesn't tell when a key went, never acknowledges
/// too much. All acknowledgements only grow.
#[derive(Debug, Default)]
pub struct Ledger {
    applied: Revision,
    held: BTreeMap<Endpoint, Holding>,
}

#[derive(Debug)]
struct Holding {
    app: Option<AppName>,
    since: Revision,
}

impl Ledger {
    /// A backend left the table while requests held it, in changes that are not yet
    /// [applied](Self::applied).
    pub fn withdrawn(&mut self, backend: Endpoint) {
        let app = backend.process().map(|process| process.app);
        let since = self.applied + 1;
        self.held.insert(backend, Holding { app, since });
    }

    /// The last request that held a withdrawn backend is over. Others are ignored.
    pub fn released(&mut self, backend: &Endpoint) {
        self.held.remove(backend);
    }

    /// All changes up to this revision are in the table.
    pub fn applied(&mut self, revision: Revision) {
        self.applied = self.applied.max(revision);
    }

    /// What may be acknowledged; of routes it knows nothing.
    #[must_use]
    pub fn acks(&self) -> Acks {
        let mut others = self.applied;
        let mut lagging: BTreeMap<&AppName, Revision> = BTreeMap::new();
        for holding in self.held.values() {
            let drained = holding.since - 1;
            let of = match &holding.app {
                Some(app) => lagging.entry(app).or_insert(drained),
                None => &mut others,
            };
            *of = drained.min(*of);
        }
        let drained = lagging.values().copied().fold(others, Revision::min);
        let mut lagging: Vec<(Revision, &AppName)> =
            lagging.into_iter().map(|(app, at)| (at, app)).collect();
        // Those that lag most are listed: the rest is held up by as little as possible.
        lagging.sort_unstable();
        if let Some((at, _)) = lagging.get(LISTED) {
            others = others.min(*at);
        }
        let listed = lagging.into_iter().take(LISTED);
        let apps: BTreeMap<AppName, Revision> = listed
            .filter(|(at, _)| *at < others)
            .map(|(at, app)| (app.clone(), at))
            .collect();
        Acks {
            applied: self.applied,
            drained,
            routes: 0,
            by_app: (!apps.is_empty()).then_some(DrainedByApp { others, apps }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Backends 0 to 2 are of app `a0`, 3 to 5 of `a1`, and so on.
    fn backend(n: usize) -> Endpoint {
        let app = format!("a{}", n / 3);
        Endpoint {
            key: format!("/deis/services/{app}/{app}_v1.web.{}", n + 1),
            revision: 1,
            address: "10.0.0.1:20000".parse().expect("address"),
        }
    }

    fn app(n: usize) -> AppName {
        format!("a{n}").parse().expect("app")
    }

    /// As the leader reads it.
    fn drained_of(acks: &Acks, app: &AppName) -> Revision {
        let mut said = RouterPresence {
            schema: 1,
            id: uuid::Uuid::nil(),
            address: String::new(),
            applied: 0,
            drained: 0,
            drained_by_app: None,
            routes: None,
        };
        acks.clone().tell(&mut said);
        said.drained_of(app)
    }

    #[test]
    fn drained_waits_for_the_last_holder_in_its_own_app_only() {
        let mut ledger = Ledger::default();
        ledger.applied(10);
        let read = |ledger: &Ledger| {
            let acks = ledger.acks();
            let of = |n| drained_of(&acks, &app(n));
            (acks.applied, acks.drained, of(0), of(1), of(9))
        };
        assert_eq!(read(&ledger), (10, 10, 10, 10, 10));
        assert_eq!(
            ledger.acks().by_app,
            None,
            "nothing lags, nothing is listed"
        );
        ledger.withdrawn(backend(0));
        ledger.applied(14);
        ledger.withdrawn(backend(3));
        ledger.applied(20);
        ledger.withdrawn(backend(1));
        ledger.applied(21);
        assert_eq!(read(&ledger), (21, 10, 10, 14, 21));
        ledger.released(&backend(0));
        assert_eq!(read(&ledger), (21, 14, 20, 14, 21));
        ledger.released(&backend(7));
        ledger.released(&backend(3));
        assert_eq!(read(&ledger), (21, 20, 20, 21, 21));
        ledger.released(&backend(1));
        assert_eq!(read(&ledger), (21, 21, 21, 21, 21));
        assert_eq!(ledger.acks().by_app, None);
    }

    #[test]
    fn many_slow_apps_are_listed_as_far_as_there_is_room() {
        let mut ledger = Ledger::default();
        ledger.applied(10);
        for n in 0..LISTED + 2 {
            ledger.withdrawn(backend(3 * n));
            ledger.applied(11 + n as Revision);
        }
        let acks = ledger.acks();
        let by_app = acks.by_app.as_ref().expect("a list");
        assert_eq!(by_app.apps.len(), LISTED);
        for n in 0..LISTED + 2 {
            let want = (10 + n as Revision).min(by_app.others);
            assert_eq!(drained_of(&acks, &app(n)), want, "{n}");
        }
        assert_eq!(by_app.others, 10 + LISTED as Revision);
    }

    #[derive(Debug, Clone)]
    enum Event {
        /// The revision of a backend's withdrawal lies somewhere in what the update covers.
        Withdraw {
            backend: usize,
            covers: i64,
            at: i64,
        },
        Release(usize),
        Apply(i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0usize..300, 1i64..9, 0i64..9).prop_map(|(backend, covers, at)| Event::Withdraw {
                backend,
                covers,
                at: at % covers
            }),
            (0usize..300).prop_map(Event::Release),
            (1i64..9).prop_map(Event::Apply),
        ]
    }

    proptest! {
        #[test]
        fn never_acknowledges_too_much(
            begin in 0usize..200,
            events in prop::collection::vec(event(), 0..80),
        ) {
            let mut ledger = Ledger::default();
            let mut truth: BTreeMap<usize, Revision> = BTreeMap::new();
            let mut now = 0;
            let mut last = Acks::default();
            let begun = (0..begin).map(|backend| Event::Withdraw { backend, covers: 1, at: 0 });
            for event in begun.chain(events) {
                match event {
                    Event::Withdraw { backend: n, covers, at } => {
                        if truth.contains_key(&n) { continue; }
                        truth.insert(n, now + 1 + at);
                        ledger.withdrawn(backend(n));
                        now += covers;
                        ledger.applied(now);
                    }
                    Event::Release(n) => { truth.remove(&n); ledger.released(&backend(n)); }
                    Event::Apply(more) => { now += more; ledger.applied(now); }
                }
                let acks = ledger.acks();
                prop_assert_eq!(acks.applied, now);
                for n in 0..100 {
                    let (name, drained) = (app(n), drained_of(&acks, &app(n)));
                    let held = truth.range(3 * n..3 * n + 3);
                    let held = held.map(|(_, at)| *at).min();
                    prop_assert!(held.is_none_or(|at| drained < at), "{name}: a held backend was acknowledged");
                    prop_assert!(drained >= drained_of(&last, &name), "{name} went back");
                    let few = truth.keys().map(|n| n / 3).collect::<std::collections::BTreeSet<_>>();
                    prop_assert!(held.is_some() || few.len() > LISTED || drained == now, "{name} holds nothing");
                }
                prop_assert!(truth.values().all(|at| acks.drained < *at), "a held backend was acknowledged");
                prop_assert!(!truth.is_empty() || acks.drained == now, "nothing is held");
                prop_assert!(acks.applied >= last.applied && acks.drained >= last.drained, "went back");
                last = acks;
            }
        }
    }
}
