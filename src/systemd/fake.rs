//! A service manager in memory, for tests: units start and stop at once unless told otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Active, Exit, Inbox, UnitChange, UnitError, UnitStatus, Units, Words};

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

/// What systemd would say of a service.
fn words(active: Active) -> Words {
    let (active, sub) = match active {
        Active::Inactive => ("inactive", "dead"),
        Active::Activating => ("activating", "start"),
        Active::AutoRestart => ("activating", "auto-restart"),
        Active::Active => ("active", "running"),
        Active::Deactivating => ("deactivating", "stop-sigterm"),
        Active::Failed => ("failed", "failed"),
    };
    Words {
        active: active.to_owned(),
        sub: sub.to_owned(),
    }
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
                words: Some(words(status.active)),
            }
        });
        self.shared.inbox.change(unit, change);
    }

    /// A unit changes its activity by itself.
    pub fn set(&self, unit: &str, active: Active) {
        self.world(|w| {
            let status = w.units.entry(unit.to_owned()).or_default();
            status.active = active;
            status.load = "loaded".to_owned();
            status.words = words(active);
        });
        self.shared.inbox.change(
            unit,
            UnitChange {
                active: Some(active),
                words: Some(words(active)),
                ..UnitChange::default()
            },
        );
    }
}

impl Units for FakeUnits {
    async fn start(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        let broken = self.world(|w| {
            w.calls.push(format!("start {unit}"));
            w.broken.contains(unit)
        });
        if broken {
            self.set(unit, Active::Failed);
            return Err(UnitError::Job {
                call: "start",
                unit: unit.to_owned(),
                result: "failed".into(),
            });
        }
        self.set(unit, Active::Active);
        self.status(unit).await
    }

    async fn stop(&self, unit: &str) -> Result<(), UnitError> {
        let known = self.world(|w| {
            w.calls.push(format!("stop {unit}"));
            w.units.remove(unit).is_some()
        });
        if known {
            let change = UnitChange {
                active: Some(Active::Inactive),
                words: Some(words(Active::Inactive)),
                ..UnitChange::default()
            };
            self.shared.inbox.change(unit, change);
        }
        Ok(())
    }

    async fn status(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        Ok(self.world(|w| w.units.get(unit).cloned().unwrap_or_default()))
    }

    async fn load(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        self.world(|w| {
            w.calls.push(format!("load {unit}"));
            let idle = || UnitStatus {
                load: "loaded".to_owned(),
                words: words(Active::Inactive),
                ..UnitStatus::default()
            };
            Ok(w.units.get(unit).cloned().unwrap_or_else(idle))
        })
    }

    async fn enable(&self, unit: &str) -> Result<bool, UnitError> {
        self.world(|w| w.calls.push(format!("enable {unit}")));
        Ok(true)
    }

    async fn disable(&self, unit: &str) -> Result<bool, UnitError> {
        self.world(|w| w.calls.push(format!("disable {unit}")));
        Ok(true)
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
