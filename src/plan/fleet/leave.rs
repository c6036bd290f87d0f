//! Units on hosts that are drained.
//!
//! A unit is in one place only, so it stops before it starts elsewhere, and stops only once there is a
//! place for it. Of a template's instances one moves at a time: a part of the platform with several
//! goes on serving. Global units stay: they belong to the host.

use super::{
    super::{
        drain,
        hosts::Losses,
        round::Plan,
        world::{Said, World},
    },
    Assigned, Units,
    one::{There, Unit},
};
use crate::model::*;

/// What instances of one template have in common: `deis-router` of `deis-router@1.service`.
fn part(name: &UnitFileName) -> &str {
    let name = name.as_str();
    name.split_once('@').map_or(name, |(part, _)| part)
}

impl<'w> Units<'w> {
    /// Notes the parts of which an instance that is to run doesn't, or is on its way.
    pub fn note_moving(&mut self, assigned: &Assigned<'w>, losses: &Losses) {
        let hosts = &self.hosts;
        let runs = |name: &UnitFileName| {
            let there = assigned.get(name).into_iter().flatten();
            there
                .filter(|(id, there)| {
                    !losses.lost.contains(*id) && there.value.desired == Desired::Run
                })
                .filter_map(|(id, there)| Some((hosts.get(id)?, there)))
                .any(|(host, there)| {
                    let said = host.view.said(name.as_str(), there.value.uuid);
                    matches!(said, Said::State(state) if state.ready)
                })
        };
        let of_several = self.options.iter().filter(|(_, options)| !options.global);
        self.moving = of_several
            .filter(|(name, _)| !runs(name))
            .map(|(name, _)| part(name))
            .collect();
    }
}

impl<'w> Unit<'_, 'w> {
    /// Takes those out that have to leave their host.
    pub fn leaving(&self, world: &World, live: Vec<There<'w>>) -> (Vec<There<'w>>, Vec<There<'w>>) {
        let moves = self.wanted.as_ref().is_some_and(|options| !options.global);
        let drained = |id: &MachineId| {
            let host = world.hosts.get(id);
            host.is_some_and(|host| host.drain().is_some())
        };
        live.into_iter().partition(|(id, _)| moves && drained(id))
    }

    /// The next step for those that have to leave.
    pub fn leave(
        &mut self,
        world: &World,
        leaving: &[There<'w>],
        is_elsewhere: bool,
        units: &mut Units<'w>,
        plan: &mut Plan,
    ) {
        for there in leaving {
            let Some(host) = world.hosts.get(there.0) else {
                continue;
            };
            let goes = is_elsewhere
                || there.1.value.desired == Desired::Stop
                || drain::is_over(host.drain(), self.cx.wall);
            let hold = if goes { None } else { self.hold(units) };
            match hold {
                None => {
                    units.moving.insert(part(self.name));
                    self.stop(*there, Some(host), plan);
                }
                Some(why) => {
                    let host = host.name(there.0);
                    plan.wait(
                        self.name.as_str(),
                        format!("{host} is being drained: {why}"),
                    );
                }
            }
        }
    }

    /// Why it can't leave yet.
    fn hold(&self, units: &Units<'w>) -> Option<String> {
        let options = self.wanted.as_ref()?;
        if let Err(why) = units.choose(self.name, options) {
            return Some(why);
        }
        let part = part(self.name);
        units
            .moving
            .contains(part)
            .then(|| format!("another {part} is on its way; one moves at a time"))
    }
}
