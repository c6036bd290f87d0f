//! A host's raw units: loaded, started and stopped as systemd does, and their text says what becomes of
//! them.

use std::collections::BTreeMap;

use tokio::time::sleep;
use uuid::Uuid;

use super::{SimUnits, lock};
use crate::{
    agent::files,
    systemd::{Active, UnitChange, UnitError, UnitStatus},
};

/// What becomes of a raw unit, as it stands in its text.
pub(in crate::sim) const ENDS: &str = "ExecStart=/bin/ends";
pub(in crate::sim) const CRASHES: &str = "ExecStart=/bin/crashes";

/// A raw unit that systemd knows.
#[derive(Debug)]
struct Raw {
    /// What was loaded; its file may be another by now.
    text: String,
    uuid: Uuid,
    active: Active,
    /// Counts what happens to it: whoever waited for an older one is too late.
    turn: u64,
}

/// All raw units that systemd knows.
#[derive(Debug, Default)]
pub(super) struct RawUnits {
    units: BTreeMap<String, Raw>,
    turns: u64,
}

impl SimUnits {
    fn raw<T>(&self, look: impl FnOnce(&mut RawUnits) -> T) -> T {
        look(&mut lock(&self.0.state).raw)
    }

    /// A raw unit's text and whose it is, from its files.
    fn raw_file(&self, unit: &str) -> Option<(String, Uuid)> {
        let text = files::read_raw(&self.0.paths, unit).ok()??;
        let owned = files::read_owned(&self.0.paths.owned(unit))?;
        Some((text, owned.uuid))
    }

    pub(super) fn raw_status(&self, unit: &str) -> UnitStatus {
        let file = self.raw_file(unit);
        self.raw(|raw| match (raw.units.get(unit), file) {
            (Some(raw), file) => UnitStatus {
                active: raw.active,
                needs_reload: file.is_some_and(|(text, _)| text != raw.text),
                load: "loaded".to_owned(),
                ..UnitStatus::default()
            },
            (None, Some(_)) => UnitStatus {
                load: "loaded".to_owned(),
                ..UnitStatus::default()
            },
            (None, None) => UnitStatus::default(),
        })
    }

    /// Changes a raw unit, if it is still at that turn, and tells the agent; gives the new turn.
    fn turn_raw(&self, unit: &str, turn: Option<u64>, active: Active) -> Option<u64> {
        let new = self.raw(|raw| {
            raw.turns += 1;
            let of = raw.units.get_mut(unit)?;
            if turn.is_some_and(|turn| of.turn != turn) {
                return None;
            }
            (of.turn, of.active) = (raw.turns, active);
            Some((of.turn, of.uuid))
        });
        let (turn, uuid) = new?;
        let judge = &self.0.world.judge;
        judge.raw_unit(self.0.host, unit, uuid, active.is_live());
        let told = UnitChange {
            active: Some(active),
            ..UnitChange::default()
        };
        self.0.inbox.change(unit, told);
        Some(turn)
    }

    pub(super) async fn start_raw(&self, unit: &str) -> Result<(), UnitError> {
        let failed = |result: &str| UnitError::Job {
            call: "start",
            unit: unit.to_owned(),
            result: result.to_owned(),
        };
        let Some((text, uuid)) = self.raw_file(unit) else {
            return Err(failed("no such unit file"));
        };
        let known = self.raw(|raw| {
            let known = raw.units.get(unit)?;
            Some((known.active, known.text != text))
        });
        match known {
            Some((active, is_other)) if active.is_live() && is_other => {
                return Err(UnitError::OtherText {
                    unit: unit.to_owned(),
                });
            }
            Some((Active::Active, _)) => return Ok(()),
            Some((Active::Inactive | Active::Failed, _)) | None => {}
            Some(_) => return Err(failed("another job is under way")),
        }
        let (ends, crashes) = (text.contains(ENDS), text.contains(CRASHES));
        self.raw(|raw| {
            let fresh = Raw {
                text,
                uuid,
                active: Active::Inactive,
                turn: 0,
            };
            raw.units.insert(unit.to_owned(), fresh);
        });
        self.0.world.judge.starts_raw(self.0.host, unit, uuid);
        let dice = &self.0.world.dice;
        let Some(turn) = self.turn_raw(unit, None, Active::Activating) else {
            return Err(failed("failed"));
        };
        sleep(dice.long_tail(5, 1500)).await;
        let Some(turn) = self.turn_raw(unit, Some(turn), Active::Active) else {
            return Err(failed("canceled"));
        };
        let end = match (ends, crashes) {
            (true, _) => Active::Inactive,
            (_, true) => Active::Failed,
            _ => return Ok(()),
        };
        let (units, unit) = (self.clone(), unit.to_owned());
        tokio::spawn(async move {
            sleep(units.0.world.dice.long_tail(100, 30_000)).await;
            units.turn_raw(&unit, Some(turn), end);
        });
        Ok(())
    }

    pub(super) async fn stop_raw(&self, unit: &str) {
        let known = self.raw(|raw| raw.units.get(unit).map(|raw| (raw.active, raw.uuid)));
        let Some((active, uuid)) = known else {
            return;
        };
        if active.is_live() {
            self.0.world.judge.stops_raw(self.0.host, unit, uuid);
            let turn = self.turn_raw(unit, None, Active::Deactivating);
            sleep(self.0.world.dice.long_tail(5, 5000)).await;
            self.turn_raw(unit, turn, Active::Inactive);
        }
        // Nothing refers to it any more.
        self.raw(|raw| {
            let is_idle = |raw: &Raw| !raw.active.is_live();
            if raw.units.get(unit).is_some_and(is_idle) {
                raw.units.remove(unit);
            }
        });
    }

    /// systemd reads all files again.
    pub(super) fn reload_raw(&self) {
        let names: Vec<String> = self.raw(|raw| raw.units.keys().cloned().collect());
        for name in names {
            if let Some((text, _)) = self.raw_file(&name) {
                self.raw(|raw| {
                    if let Some(known) = raw.units.get_mut(&name) {
                        known.text = text;
                    }
                });
            }
        }
        self.0.inbox.resync();
    }
}
