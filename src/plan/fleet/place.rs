//! Which host takes a unit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    neighbours::{Counts, Neighbours},
    options::XFleet,
};
use crate::{
    model::{Desired, Machine, MachineId, Phase, UnitFileName},
    plan::{
        waiting::{NoHost, Reason},
        world::{HostView, Said},
    },
};

/// A host that is there, as units see it.
pub(super) struct Host<'w> {
    pub view: &'w HostView,
    pub machine: &'w Machine,
    pub labels: BTreeMap<String, String>,
    /// Why it takes nothing new.
    pub shut: Option<&'static str>,
    /// What is assigned to it, with what is being assigned in this round.
    pub units: BTreeSet<&'w UnitFileName>,
    pub counts: Counts,
}

/// All units and hosts of a round.
pub(super) struct Units<'w> {
    /// Options of the units that are to be somewhere.
    pub options: BTreeMap<&'w UnitFileName, &'w XFleet>,
    pub neighbours: Neighbours<'w>,
    /// Units that stay away because another one of their circle runs.
    pub circles: BTreeMap<&'w UnitFileName, &'w UnitFileName>,
    pub hosts: BTreeMap<&'w MachineId, Host<'w>>,
    /// Units that give up their place on a host, and for which one.
    pub displaced: BTreeMap<&'w UnitFileName, (&'w MachineId, &'w UnitFileName)>,
    /// Units that this round takes from a drained host, or gives to one.
    pub moving: BTreeSet<&'w UnitFileName>,
}

/// Why a host takes no new unit at all.
pub(super) fn why_shut(view: &HostView) -> Option<&'static str> {
    let record = view.record.as_ref().map(|record| &record.value);
    if !view.unreadable.is_empty() {
        Some("has records that can't be read")
    } else if record.is_some_and(|record| record.drain.is_some()) {
        Some("is being drained")
    } else if record.is_some_and(|record| record.cordoned) {
        Some("is cordoned")
    } else {
        None
    }
}

/// Why a unit can't be on a host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal<'o> {
    Shut(&'static str),
    MachineId,
    BootId,
    Label(&'o str),
    Peer(&'o str),
    /// A unit there keeps away from it, or the other way round.
    Foe(Option<&'o UnitFileName>),
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shut(why) => f.write_str(why),
            Self::MachineId => f.write_str("has another machine id"),
            Self::BootId => f.write_str("has another boot id"),
            Self::Label(key) => write!(f, "doesn't have the metadata {key}"),
            Self::Peer(peer) => write!(f, "doesn't run {peer}"),
            Self::Foe(Some(foe)) => write!(f, "runs {foe}, a conflict"),
            Self::Foe(None) => f.write_str("runs a conflict"),
        }
    }
}

impl<'w> Host<'w> {
    /// What of a unit's own wishes the host doesn't meet.
    fn lacks<'o>(&self, options: &'o XFleet) -> Option<Refusal<'o>> {
        let is_other = |wanted: &Option<String>, own: &str| {
            wanted.as_ref().is_some_and(|wanted| wanted != own)
        };
        if is_other(&options.machine_id, self.machine.id.as_str()) {
            return Some(Refusal::MachineId);
        }
        if is_other(&options.boot_id, &self.machine.boot_id) {
            return Some(Refusal::BootId);
        }
        let is_met = |key: &String, wishes: &BTreeSet<_>| {
            let label = self.labels.get(key);
            label.is_some_and(|label| {
                wishes
                    .iter()
                    .any(|wish: &super::options::Wish| wish.is_met(label))
            })
        };
        if let Some((key, _)) = options
            .metadata
            .iter()
            .find(|(key, wishes)| !is_met(key, wishes))
        {
            return Some(Refusal::Label(key));
        }
        let is_here = |peer: &str| self.units.iter().any(|unit| unit.as_str() == peer);
        let peer = options.machine_of.iter().find(|peer| !is_here(peer));
        peer.map(|peer| Refusal::Peer(peer))
    }

    /// Whether it is told to stop what is assigned to it under this name.
    fn is_stopping(&self, name: &UnitFileName) -> bool {
        let assignment = self.view.units.get(name);
        assignment.is_some_and(|assignment| assignment.value.desired == Desired::Stop)
    }

    fn rank(&self) -> (usize, usize) {
        (self.units.len(), self.view.processes.len())
    }
}

impl<'w> Units<'w> {
    /// Why a host can't take a unit that it doesn't have.
    pub fn refuses<'o>(
        &self,
        name: &UnitFileName,
        options: &'o XFleet,
        host: &Host<'_>,
    ) -> Option<Refusal<'o>> {
        let is_there = host.units.contains(name);
        let is_kept_away = || {
            let kept = self.neighbours.is_kept_away(name, &host.counts, is_there);
            kept.then_some(Refusal::Foe(None))
        };
        host.lacks(options).or_else(is_kept_away)
    }

    /// Why a unit that is assigned to a host has to go from there: what it wants has changed, or the
    /// host, or an older neighbour keeps away from it.
    pub fn ousts<'s>(
        &'s self,
        name: &UnitFileName,
        options: &'s XFleet,
        host: &Host<'w>,
    ) -> Option<Refusal<'s>> {
        // What is known of the host may be less than there is.
        if !host.view.unreadable.is_empty() {
            return None;
        }
        if let Some(refusal) = host.lacks(options) {
            return Some(refusal);
        }
        if !self.neighbours.is_kept_away(name, &host.counts, true) {
            return None;
        }
        let own = host.view.units.get(name)?.create_revision;
        let older = host.view.units.iter().find(|(other, assignment)| {
            // Those of one transaction are of one age: then the name decides.
            (assignment.create_revision, *other) < (own, name)
                && assignment.value.desired != Desired::Stop
                && self.neighbours.are_foes(name, other)
        });
        older.map(|(older, _)| {
            let (name, _) = self.options.get_key_value(older).unzip();
            Refusal::Foe(name.copied())
        })
    }

    /// The host with the fewest units that can take one more, or why none can.
    pub fn choose(
        &self,
        name: &UnitFileName,
        options: &XFleet,
        but: Option<&MachineId>,
    ) -> Result<&'w MachineId, Reason> {
        let hosts = self.hosts.iter().filter(|(id, _)| Some(**id) != but);
        let open = hosts
            .filter(|(_, host)| host.shut.is_none() && self.refuses(name, options, host).is_none());
        let best = open.min_by_key(|(id, host)| (host.rank(), **id));
        best.map(|(id, _)| *id)
            .ok_or_else(|| Reason::NoHost(self.why_nowhere(name, options)))
    }

    fn why_nowhere(&self, name: &UnitFileName, options: &XFleet) -> NoHost {
        let mut lacks: Vec<String> = Vec::new();
        for (id, host) in &self.hosts {
            let refusal = host.shut.map(Refusal::Shut);
            let refusal = refusal.or_else(|| self.refuses(name, options, host));
            let foe = |other: &&UnitFileName| self.neighbours.are_foes(name, other);
            let refusal = match refusal {
                Some(Refusal::Foe(_)) => Refusal::Foe(host.units.iter().copied().find(foe)),
                Some(refusal) => refusal,
                None => continue,
            };
            lacks.push(format!("{} {refusal}", host.view.name(id)));
        }
        NoHost { lacks }
    }

    /// The host for a unit that is nowhere, or why it has to wait; notes whose place it takes.
    pub fn place(
        &mut self,
        name: &'w UnitFileName,
        options: &XFleet,
    ) -> Result<&'w MachineId, Reason> {
        if let Some(other) = self.circles.get(name) {
            return Err(Reason::Unit(format!(
                "it replaces {other}, which replaces it: only one of them runs"
            )));
        }
        let why = match self.choose(name, options, None) {
            Ok(id) => return Ok(id),
            Err(why) if options.replaces.is_empty() => return Err(why),
            Err(why) => why,
        };
        let Some((id, displaced)) = self.find_place_to_take(name, options) else {
            return Err(why);
        };
        let names: Vec<&str> = displaced.iter().map(|other| other.as_str()).collect();
        let why = format!(
            "it takes the place of {} on {}, once that is stopped there",
            names.join(", "),
            self.hosts
                .get(id)
                .map_or(id.as_str(), |host| host.view.name(id))
        );
        self.displaced
            .extend(displaced.into_iter().map(|other| (other, (id, name))));
        Err(Reason::Unit(why))
    }

    /// The host on which a unit can take the place of others that find another one, and these.
    fn find_place_to_take(
        &self,
        name: &UnitFileName,
        options: &XFleet,
    ) -> Option<(&'w MachineId, Vec<&'w UnitFileName>)> {
        let candidates = self.hosts.iter().filter_map(|(id, host)| {
            if host.shut.is_some() || host.lacks(options).is_some() {
                return None;
            }
            let units = host.units.iter().copied();
            let foes: Vec<&'w UnitFileName> = units
                .filter(|other| self.neighbours.are_foes(name, other))
                .collect();
            let gives_way = |other: &&UnitFileName| {
                host.is_stopping(other)
                    || self.options.get(*other).is_some_and(|of_other| {
                        options.takes_place_of(other)
                            && !of_other.global
                            && self.choose(other, of_other, Some(id)).is_ok()
                    })
            };
            foes.iter().all(gives_way).then_some((*id, host, foes))
        });
        let best = candidates.min_by_key(|(id, host, foes)| (foes.len(), host.rank(), *id));
        best.map(|(id, _, foes)| (id, foes))
    }

    /// Another instance of its template that is just being moved or started, if there is one. One that
    /// has failed keeps nobody waiting.
    pub fn sibling_on_its_way(&self, name: &UnitFileName) -> Option<&'w UnitFileName> {
        let template = name.template()?;
        let mut siblings = self.options.iter().filter(|(other, options)| {
            **other != name && !options.global && other.template().as_ref() == Some(&template)
        });
        let found = siblings.find(|(other, options)| self.is_on_its_way(other, options));
        found.map(|(other, _)| *other)
    }

    fn is_on_its_way(&self, name: &UnitFileName, options: &XFleet) -> bool {
        if self.moving.contains(name) {
            return true;
        }
        let there = |host: &Host<'w>| Some((host.view, host.view.units.get(name)?));
        let mut there = self.hosts.values().filter_map(there).peekable();
        if there.peek().is_none() {
            return self.choose(name, options, None).is_ok();
        }
        there.any(|(view, assignment)| match assignment.value.desired {
            Desired::Run => match view.said(name.as_str(), assignment.value.uuid) {
                Said::Nothing => true,
                Said::State(state) => matches!(
                    state.phase,
                    Phase::Preparing | Phase::Starting | Phase::Stopping
                ),
                Said::Unknown => false,
            },
            Desired::Load => false,
            Desired::Drain | Desired::Stop => true,
        })
    }

    /// Counts a unit among a host's from here on.
    pub fn add(&mut self, name: &'w UnitFileName, id: &MachineId) {
        if let Some(host) = self.hosts.get_mut(id)
            && host.units.insert(name)
        {
            self.neighbours.count(name, &mut host.counts);
        }
    }
}
