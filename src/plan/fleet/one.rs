//! One unit: where it is assigned, where it ought to be, and what makes the one the other.

use super::{
    super::{
        hosts::Losses,
        round::{Batch, Context, Plan},
        world::{HostView, Said, World},
    },
    Units, XFleet,
};
use crate::{
    model::*,
    store::{Txn, Versioned, keys},
};

/// An assignment of a unit, and on which host.
pub(super) type There<'w> = (&'w MachineId, &'w Versioned<Assignment>);

/// A unit that is being planned.
pub(super) struct Unit<'a, 'w> {
    pub name: &'w UnitFileName,
    /// Its options; none when it is not to run.
    pub wanted: Option<&'w XFleet>,
    /// Of its text: another text is another assignment.
    hash: &'w str,
    pub cx: &'a Context<'a>,
    batch: Batch,
}

/// What every change of a unit is based on.
pub(super) fn base(world: &World, name: &UnitFileName) -> Txn {
    let key = keys::unit(name);
    match world.units.get(name) {
        Some(file) => Txn::new().unchanged(&key, file.mod_revision),
        None => Txn::new().absent(&key),
    }
}

/// Plans the unit `name`, which is assigned `there`.
pub(super) fn plan<'w>(
    world: &'w World,
    name: &'w UnitFileName,
    there: &[There<'w>],
    units: &mut Units<'w>,
    losses: &Losses,
    cx: &Context<'_>,
    plan: &mut Plan,
) -> Batch {
    if world.unreadable().contains_key(keys::unit(name).as_str()) {
        return Batch::default();
    }
    let file = world.units.get(name);
    let launched = file.is_some_and(|file| file.value.target == UnitTarget::Launched);
    let options = units.options.get(name).copied();
    // What its options say can't be understood: what runs is left alone.
    if launched && options.is_none() {
        return Batch::default();
    }
    let mut unit = Unit {
        name,
        wanted: options.filter(|_| launched),
        hash: world.texts.get(name).map_or("", |text| &text.hash),
        cx,
        batch: Batch::default(),
    };
    let (lost, live): (Vec<There<'w>>, Vec<There<'w>>) = there
        .iter()
        .copied()
        .partition(|(id, _)| losses.lost.contains(*id));
    let is_there = !live.is_empty();
    let (leaving, live) = unit.leaving(world, live);
    let is_elsewhere = !live.is_empty();
    unit.settle(world, live, units, plan);
    unit.leave(world, &leaving, is_elsewhere, units, plan);
    match unit.targets(is_there, units) {
        Ok(targets) => unit.assign(&targets, &lost, units),
        // It stays assigned on a lost host, in case that one comes back first.
        Err(why) => plan.wait(name.as_str(), why),
    }
    unit.batch
}

impl<'w> Unit<'_, 'w> {
    /// Keeps the assignments that are right, with the unit's present text, and stops the others.
    fn settle(
        &mut self,
        world: &World,
        mut live: Vec<There<'w>>,
        units: &Units<'w>,
        plan: &mut Plan,
    ) {
        let runs = |(_, a): &There<'_>| a.value.desired == Desired::Run;
        let keep = match self.wanted {
            None => 0,
            Some(options) if options.global => live.len(),
            Some(_) => 1,
        };
        live.sort_by_key(|there| (!runs(there), there.0));
        for (at, there) in live.iter().enumerate() {
            let unfit = self.wanted.as_ref().is_some_and(|options| {
                options.global && units.refuses(self.name, options, there.0).is_some()
            });
            if at < keep && runs(there) && !unfit {
                self.refresh(*there);
            } else {
                self.stop(*there, world.hosts.get(there.0), plan);
            }
        }
    }

    /// The hosts that have to get it; an error says why there is none that can.
    fn targets(&self, is_there: bool, units: &Units<'w>) -> Result<Vec<&'w MachineId>, String> {
        match self.wanted {
            Some(options) if options.global => Ok(units
                .hosts
                .iter()
                .filter(|(id, host)| {
                    host.open
                        && !host.units.contains(self.name)
                        && units.refuses(self.name, options, id).is_none()
                })
                .map(|(id, _)| *id)
                .collect()),
            Some(options) if !is_there => Ok(vec![units.choose(self.name, options)?]),
            Some(_) | None => Ok(Vec::new()),
        }
    }

    /// Assigns it to `targets`, and takes it from the hosts that are lost in the same transaction.
    fn assign(&mut self, targets: &[&'w MachineId], lost: &[There<'w>], units: &mut Units<'w>) {
        let mut forgotten = lost.iter().fold(Txn::new(), |txn, (id, assignment)| {
            let key = keys::assignment(id, self.name.as_str());
            txn.absent(&keys::machine(id))
                .unchanged(&key, assignment.mod_revision)
                .delete(&key)
        });
        for id in targets {
            let Some(host) = units.hosts.get_mut(id) else {
                continue;
            };
            host.units.insert(self.name);
            let key = keys::assignment(id, self.name.as_str());
            let txn = Txn::new()
                .absent(&key)
                .present(&keys::machine(id))
                .put(&key, &self.assignment())
                .and(std::mem::take(&mut forgotten));
            let what = format!("{} to {}", self.name, host.view.name(id));
            self.batch.add(what, txn);
        }
        if !forgotten.is_empty() {
            let what = format!("forget {} on lost hosts", self.name);
            self.batch.add(what, forgotten);
        }
    }

    /// A new assignment of the unit's present text.
    fn assignment(&self) -> Assignment {
        Assignment {
            schema: SCHEMA,
            uuid: (self.cx.new_id)(),
            desired: Desired::Run,
            work: Work::Unit {
                hash: self.hash.to_owned(),
            },
        }
    }

    fn refresh(&mut self, (id, there): There<'_>) {
        if matches!(&there.value.work, Work::Unit { hash } if hash == self.hash) {
            return;
        }
        let key = keys::assignment(id, self.name.as_str());
        let txn = Txn::new()
            .unchanged(&key, there.mod_revision)
            .put(&key, &self.assignment());
        self.batch.add(format!("new text of {}", self.name), txn);
    }

    /// Stops it on a host, and forgets it there once the host says that it is gone.
    pub fn stop(&mut self, (id, there): There<'_>, host: Option<&HostView>, plan: &mut Plan) {
        let key = keys::assignment(id, self.name.as_str());
        let txn = Txn::new().unchanged(&key, there.mod_revision);
        if there.value.desired != Desired::Stop {
            let next = Assignment {
                desired: Desired::Stop,
                ..there.value.clone()
            };
            let what = format!("stop {}", self.name);
            self.batch.add(what, txn.put(&key, &next));
            return;
        }
        match host.map(|host| host.said(self.name.as_str(), there.value.uuid)) {
            Some(Said::Nothing) => {
                let what = format!("forget {}", self.name);
                self.batch.add(what, txn.delete(&key));
            }
            Some(Said::State(_) | Said::Unknown) | None => {
                plan.wait(self.name.as_str(), "stopping");
            }
        }
    }
}
