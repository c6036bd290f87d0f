//! A service manager in memory, for tests: units start and stop at once unless told otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Active, Exit, Inbox, UnitChange, UnitError, UnitStatus, Units};

/// Units in memory; clones share them.
#[derive(Debug, Clone, Default)]
pub struct FakeUnits {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Inbox,
    world: Mutex<World>,
}

#[derive(Debug, Default)]
struct World {
    units: BTreeMap<String, UnitStatus>,
    broken: BTreeSet<String>,
    calls: Vec<String>,
}

impl FakeUnits {
    fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(
            &mut self
                .shared
                .world
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Units that are up.
    #[must_use]
    pub fn active(&self) -> BTreeSet<String> {
        self.world(|w| {
            w.units
                .iter()
                .filter(|(_, s)| s.active == Active::Active)
                .map(|(n, _)| n.clone())
                .collect()
        })
    }

    /// Every start and stop so far, in order: `start blog_v7.web.1.service`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.world(|w| w.calls.clone())
    }

    /// From now on, starting this unit fails.
    pub fn break_unit(&self, unit: &str) {
        self.world(|w| w.broken.insert(unit.to_owned()));
    }

    /// A unit's process ends, and systemd is about to start it again.
    pub fn crash(&self, unit: &str, exit: Exit) {
        let change = self.world(|w| {
            let status = w.units.entry(unit.to_owned()).or_default();
            status.active = Active::AutoRestart;
            status.exit = exit.clone();
            status.restarts += 1;
            UnitChange {
                active: Some(status.active),
                exit: Some(exit),
                restarts: Some(status.restarts),
                up_since: None,
            }
        });
        self.shared.inbox.change(unit, change);
    }

    /// A unit changes its activity by itself.
    pub fn set(&self, unit: &str, active: Active) {
        self.world(|w| w.units.entry(unit.to_owned()).or_default().active = active);
        self.shared.inbox.change(
            unit,
            UnitChange {
                active: Some(active),
                ..UnitChange::default()
            },
        );
    }
}

impl Units for FakeUnits {
    async fn start(&self, unit: &str) -> Result<(), UnitError> {
        let broken = self.world(|w| {
            w.calls.push(format!("start {unit}"));
            w.broken.contains(unit)
        });
        if broken {
            return Err(UnitError::Job {
                call: "start",
                unit: unit.to_owned(),
                result: "failed".into(),
            });
        }
        self.set(unit, Active::Active);
        Ok(())
    }

    async fn stop(&self, unit: &str) -> Result<(), UnitError> {
        let known = self.world(|w| {
            w.calls.push(format!("stop {unit}"));
            w.units.remove(unit).is_some()
        });
        if known {
            let change = UnitChange {
                active: Some(Active::Inactive),
                ..UnitChange::default()
            };
            self.shared.inbox.change(unit, change);
        }
        Ok(())
    }

    async fn status(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        Ok(self.world(|w| w.units.get(unit).cloned().unwrap_or_default()))
    }

    async fn reload(&self) -> Result<(), UnitError> {
        self.world(|w| w.calls.push("reload".into()));
        Ok(())
    }

    async fn reset_failed(&self, _: &str) -> Result<(), UnitError> {
        Ok(())
    }

    async fn last_lines(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn inbox(&self) -> &Inbox {
        &self.shared.inbox
    }
}
