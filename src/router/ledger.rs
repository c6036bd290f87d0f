//! What this router has acknowledged, as a pure structure: events in, `(applied, drained)` out.

use std::collections::BTreeMap;

use crate::{model::Revision, plan::routes::Endpoint};

/// The two acknowledgements of the router's presence record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acks {
    /// Every change of `/deis/services/` up to this revision is in the table.
    pub applied: Revision,
    /// No request holds a backend that was withdrawn at or before this revision.
    pub drained: Revision,
}

/// Keeps the books of withdrawn backends that requests still hold.
///
/// A withdrawal is counted from the first revision at which it may have happened: the one after
/// what was applied before. So a resync, which doesn't tell when a key went, never acknowledges
/// too much. Both acknowledgements only grow.
#[derive(Debug, Default)]
pub struct Ledger {
    applied: Revision,
    held: BTreeMap<Endpoint, Revision>,
}

impl Ledger {
    /// A backend left the table while requests held it, in changes that are not yet
    /// [applied](Self::applied).
    pub fn withdrawn(&mut self, backend: Endpoint) {
        self.held.insert(backend, self.applied + 1);
    }

    /// The last request that held a withdrawn backend is over. Others are ignored.
    pub fn released(&mut self, backend: &Endpoint) {
        self.held.remove(backend);
    }

    /// All changes up to this revision are in the table.
    pub fn applied(&mut self, revision: Revision) {
        self.applied = self.applied.max(revision);
    }

    /// What may be acknowledged.
    #[must_use]
    pub fn acks(&self) -> Acks {
        let drained = match self.held.values().min() {
            Some(first_held) => first_held - 1,
            None => self.applied,
        };
        Acks {
            applied: self.applied,
            drained,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backend(n: usize) -> Endpoint {
        Endpoint {
            key: format!("/deis/services/a/a_v1.web.{}", n + 1),
            revision: 1,
            address: "10.0.0.1:20000".parse().expect("address"),
        }
    }

    #[test]
    fn drained_waits_for_the_last_holder() {
        let mut ledger = Ledger::default();
        ledger.applied(10);
        assert_eq!(
            ledger.acks(),
            Acks {
                applied: 10,
                drained: 10
            }
        );
        ledger.withdrawn(backend(0));
        ledger.applied(14);
        ledger.withdrawn(backend(1));
        ledger.applied(20);
        assert_eq!(
            ledger.acks(),
            Acks {
                applied: 20,
                drained: 10
            }
        );
        ledger.released(&backend(0));
        assert_eq!(
            ledger.acks(),
            Acks {
                applied: 20,
                drained: 14
            }
        );
        ledger.released(&backend(7));
        ledger.released(&backend(1));
        assert_eq!(
            ledger.acks(),
            Acks {
                applied: 20,
                drained: 20
            }
        );
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
            (0usize..6, 1i64..9, 0i64..9).prop_map(|(backend, covers, at)| Event::Withdraw {
                backend,
                covers,
                at: at % covers
            }),
            (0usize..6).prop_map(Event::Release),
            (1i64..9).prop_map(Event::Apply),
        ]
    }

    proptest! {
        #[test]
        fn never_acknowledges_too_much(events in prop::collection::vec(event(), 0..80)) {
            let mut ledger = Ledger::default();
            let mut truth: BTreeMap<usize, Revision> = BTreeMap::new();
            let mut now = 0;
            let mut last = Acks::default();
            for event in events {
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
                prop_assert!(truth.values().all(|at| acks.drained < *at), "a held backend was acknowledged");
                prop_assert!(!truth.is_empty() || acks.drained == now, "nothing is held");
                prop_assert!(acks.applied >= last.applied && acks.drained >= last.drained, "went back");
                last = acks;
            }
        }
    }
}
