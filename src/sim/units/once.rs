//! A host's one-off processes: they end by themselves, and how stays behind.

use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::{SimUnits, lock, process_of};
use crate::{
    render::RunFiles,
    systemd::{Active, Exit},
};

impl SimUnits {
    /// A one-off begins, and ends by itself; gives whether it got up.
    pub(super) async fn run_once(&self, name: &str, turn: u64) -> bool {
        let dice = &self.0.world.dice;
        let Some(turn) = self.change(name, Some(turn), |unit| {
            unit.status.active = Active::Activating;
        }) else {
            return false;
        };
        sleep(dice.long_tail(30, 1500)).await;
        let Some(turn) = self.change(name, Some(turn), |unit| {
            unit.status.active = Active::Active;
        }) else {
            return false;
        };
        let (units, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            let world = &units.0.world;
            sleep(world.dice.long_tail(50, 40_000)).await;
            let goes_wrong = world.dice.falls(1500) && !world.peace.load(Ordering::Relaxed);
            units.end_once(&name, Some(turn), i32::from(goes_wrong));
        });
        true
    }

    /// A one-off ends: how stays on the host, and systemd forgets it.
    pub(super) fn end_once(&self, name: &str, turn: Option<u64>, code: i32) {
        let result = if code == 0 { "success" } else { "exit-code" };
        let process = process_of(name).expect("a process");
        let exit = self.0.paths.at(&RunFiles::of(&process).exit);
        let ended = self.change(name, turn, |unit| {
            std::fs::write(exit, format!("exited {code} {result}\n")).expect("written");
            unit.status.active = Active::Inactive;
            unit.status.exit = Exit {
                result: result.into(),
                code: 1,
                status: code,
            };
        });
        if ended.is_some() {
            lock(&self.0.state).units.remove(name);
            self.0.world.judge.ended(self.0.host, &process, code);
        }
    }
}
