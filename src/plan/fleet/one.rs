//! One unit: where it is assigned, where it ought to be, and what makes the one the other.

use super::{
    super::{
        hosts::Losses,
        round::{Batch, Context, Plan},
        waiting::Reason,
        world::{HostView, World},
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
struct Unit<'a, 'w> {
    name: &'w UnitFileName,
    /// Its options, and what its host is to do with it; none when it is to be nowhere.
    wanted: Option<(&'w XFleet, Desired)>,
    /// Of its text: another text is another assignment.
    hash: &'w str,
    losses: &'a Losses,
    cx: &'a Context<'a>,
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
    let file = world.units.get(name).map(|file| &file.value);
    let desired = match file.map(|file| file.target) {
        Some(UnitTarget::Launched) => Some(Desired::Run),
        Some(UnitTarget::Loaded) => Some(Desired::Load),
        Some(UnitTarget::Inactive) | None => None,
    };
    let options = units.options.get(name).copied();
    // What its options say can't be understood: what runs is left alone.
    if desired.is_some() && options.is_none() {
        return Batch::default();
    }
    let mut unit = Unit {
        name,
        wanted: options.zip(desired),
        hash: world.texts.get(name).map_or("", |text| &text.hash),
        losses,
        cx,
        batch: Batch::default(),
    };
    let (lost, live): (Vec<There<'w>>, Vec<There<'w>>) = there
        .iter()
        .copied()
        .partition(|(id, _)| losses.lost.contains(*id));
    let is_there = !live.is_empty();
    unit.settle(world, live, units, plan);
    match unit.targets(is_there, units) {
        Ok(targets) => unit.assign(&targets, &lost, units),
        // It stays assigned on a lost host, in case that one comes back first.
        Err(why) => plan.wait(name.as_str(), why),
    }
    unit.batch
}

/// Whether the host is to have it, as far as it has been told.
const fn is_to_stay(assignment: &Assignment) -> bool {
    matches!(assignment.desired, Desired::Run | Desired::Load)
}

impl<'w> Unit<'_, 'w> {
    /// Keeps the assignments that are right, with the unit's present text, and stops the others.
    fn settle(
        &mut self,
        world: &World,
        mut live: Vec<There<'w>>,
        units: &mut Units<'w>,
        plan: &mut Plan,
    ) {
        let keep = match self.wanted {
            None => 0,
            Some((options, _)) if options.global => live.len(),
            Some(_) => 1,
        };
        live.sort_by_key(|(id, assignment)| (!is_to_stay(&assignment.value), *id));
        for (at, there) in live.into_iter().enumerate() {
            let why = match self.wanted {
                Some((options, desired)) if at < keep && is_to_stay(&there.1.value) => {
                    match self.leaves(options, there.0, units, plan) {
                        Some(why) => why,
                        None => {
                            self.refresh(there, desired);
                            continue;
                        }
                    }
                }
                _ => String::new(),
            };
            self.stop(there, &why, world.hosts.get(there.0), plan);
        }
    }

    /// Why it has to leave a host that it is assigned to: nothing of it is asked of a host that is away.
    fn leaves(
        &self,
        options: &XFleet,
        id: &'w MachineId,
        units: &mut Units<'w>,
        plan: &mut Plan,
    ) -> Option<String> {
        if let Some((_, other)) = units.displaced.get(self.name).filter(|(on, _)| *on == id) {
            return Some(format!("gives its place to {other}"));
        }
        let host = units.hosts.get(id)?;
        if let Some(refusal) = units.ousts(self.name, options, host) {
            return Some(format!("{} {refusal}", host.view.name(id)));
        }
        host.view.drain()?;
        self.leaves_drained(options, id, units, plan)
    }

    /// The same of a host that is being drained: it leaves when another one takes it, or in the end. Of
    /// the instances of a template one moves at a time: such a unit stops before it starts elsewhere.
    /// One that is on all hosts leaves last.
    fn leaves_drained(
        &self,
        options: &XFleet,
        id: &'w MachineId,
        units: &mut Units<'w>,
        plan: &mut Plan,
    ) -> Option<String> {
        let host = units.hosts.get(id)?;
        let name = host.view.name(id);
        if self.losses.overdue.contains(id) {
            return Some(format!(
                "{name} has been drained for as long as it was given"
            ));
        }
        if options.global {
            let is_global = |unit: &&UnitFileName| {
                units
                    .options
                    .get(*unit)
                    .is_some_and(|options| options.global)
            };
            let is_empty = host.view.processes.is_empty() && host.units.iter().all(is_global);
            return is_empty.then(|| format!("{name} is drained of all else"));
        }
        match units.choose(self.name, options, Some(id)) {
            Ok(other) => match units.sibling_on_its_way(self.name) {
                None => {
                    let why = format!("{name} is being drained");
                    // So that the next unit doesn't count on the same place, and waits for its turn.
                    units.add(self.name, other);
                    units.moving.insert(self.name);
                    Some(why)
                }
                Some(sibling) => {
                    let after = sibling.to_string();
                    self.stays(name, Reason::Turn { after }, plan);
                    None
                }
            },
            Err(why) => {
                self.stays(name, why, plan);
                None
            }
        }
    }

    /// Says that it stays on a host that is being drained, and why.
    fn stays(&self, on: &str, why: Reason, plan: &mut Plan) {
        let (on, why) = (on.to_owned(), Box::new(why));
        plan.wait(self.name.as_str(), Reason::Stays { on, why });
    }

    /// The hosts that have to get it; an error says why there is none that can.
    fn targets(&self, is_there: bool, units: &mut Units<'w>) -> Result<Vec<&'w MachineId>, Reason> {
        match self.wanted {
            Some((options, _)) if options.global => Ok(units
                .hosts
                .iter()
                .filter(|(_, host)| {
                    host.shut.is_none()
                        && !host.units.contains(self.name)
                        && units.refuses(self.name, options, host).is_none()
                })
                .map(|(id, _)| *id)
                .collect()),
            Some((options, _)) if !is_there => Ok(vec![units.place(self.name, options)?]),
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
            let (Some((_, desired)), Some(host)) = (self.wanted, units.hosts.get(id)) else {
                continue;
            };
            let key = keys::assignment(id, self.name.as_str());
            let txn = Txn::new()
                .absent(&key)
                .present(&keys::machine(id))
                .put(&key, &self.assignment(desired))
                .and(std::mem::take(&mut forgotten));
            let what = format!("{} to {}", self.name, host.view.name(id));
            units.add(self.name, id);
            units.moving.insert(self.name);
            self.batch.add(what, txn);
        }
        if !forgotten.is_empty() {
            let what = format!("forget {} on lost hosts", self.name);
            self.batch.add(what, forgotten);
        }
    }

    /// A new assignment of the unit's present text.
    fn assignment(&self, desired: Desired) -> Assignment {
        Assignment {
            schema: SCHEMA,
            uuid: (self.cx.new_id)(),
            desired,
            work: Work::Unit {
                hash: self.hash.to_owned(),
            },
        }
    }

    fn refresh(&mut self, (id, there): There<'_>, desired: Desired) {
        let is_same = there.value.is_of_text(self.hash);
        let (next, what) = match is_same {
            true if there.value.desired == desired => return,
            true => {
                let verb = if desired == Desired::Run {
                    "start"
                } else {
                    "only load"
                };
                let next = Assignment {
                    desired,
                    ..there.value.clone()
                };
                (next, format!("{verb} {}", self.name))
            }
            false => (
                self.assignment(desired),
                format!("new text of {}", self.name),
            ),
        };
        let key = keys::assignment(id, self.name.as_str());
        let txn = Txn::new()
            .unchanged(&key, there.mod_revision)
            .put(&key, &next);
        self.batch.add(what, txn);
    }

    /// Stops it on a host, and forgets it there once the host says that it is gone.
    fn stop(
        &mut self,
        (id, there): There<'_>,
        why: &str,
        host: Option<&HostView>,
        plan: &mut Plan,
    ) {
        let key = keys::assignment(id, self.name.as_str());
        let txn = Txn::new().unchanged(&key, there.mod_revision);
        if there.value.desired != Desired::Stop {
            let next = Assignment {
                desired: Desired::Stop,
                ..there.value.clone()
            };
            let why = if why.is_empty() {
                String::new()
            } else {
                format!(" ({why})")
            };
            let what = format!("stop {}{why}", self.name);
            self.batch.add(what, txn.put(&key, &next));
            return;
        }
        // What runs there may be of an older assignment that is still in the way of this one.
        let is_there = host.is_none_or(|host| host.names(self.name.as_str()) || !host.is_current());
        let is_away = host.is_some_and(|host| host.presence.is_absent());
        if is_there {
            plan.wait(self.name.as_str(), Reason::Unit("stopping".to_owned()));
        } else if is_away {
            // What it has begun since its last report nobody knows before it is back, or lost.
            let grace = self.cx.policy.host_grace.as_secs();
            let why = format!("its host is away; lost {grace} s after its lease");
            plan.wait(self.name.as_str(), Reason::Unit(why));
        } else {
            let what = format!("forget {}", self.name);
            self.batch.add(what, txn.delete(&key));
        }
    }
}
