//! Operators' units, and the platform's own: fleet's `[X-Fleet]` options, and which host runs which.
//!
//! A unit that is to be loaded or launched is on one host, or with `Global=` on each that fits;
//! whether it is started there is the agent's business. It goes to the host with the fewest units that
//! fits, and stays there until it is unloaded, its host is lost or drained, or doesn't fit any more: then it
//! is stopped first and placed anew, so that there are never two of it.
//!
//! - `options`: what stands in `[X-Fleet]`; `pattern`: patterns of names;
//! - `neighbours`: who keeps away from whom, and circles of `Replaces=`;
//! - `place`: which host takes a unit; `one`: what makes of each unit what it ought to be.
//!
//! `Replaces=` keeps two units apart as `Conflicts=` does. When no host is free for a unit that replaces
//! another, the other one gives its place up, as long as a host is left for it by its own options.
//! Of units that replace each other in a circle only one runs.

mod neighbours;
mod one;
pub mod options;
pub mod pattern;
mod place;
mod verdicts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use sha2::{Digest, Sha256};

pub(super) use self::verdicts::verdicts;
use self::{
    neighbours::{Counts, Neighbours},
    one::There,
    place::{Host, Units},
};
pub use self::{
    options::{InvalidXFleet, XFleet},
    pattern::glob,
};
use super::{
    hosts::Losses,
    round::{Batch, Context, Plan, fenced},
    schedule::labels,
    waiting::Reason,
    world::World,
};
use crate::{model::*, store::keys};

/// What identifies a unit's text: SHA-256 in hexadecimal digits.
#[must_use]
pub fn text_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hash, byte| {
            let _ = write!(hash, "{byte:02x}");
            hash
        })
}

/// The options of all units that are to be somewhere; says which can't be.
fn wanted<'w>(world: &'w World, plan: &mut Plan) -> BTreeMap<&'w UnitFileName, &'w XFleet> {
    let mut wanted = BTreeMap::new();
    for (name, unit) in &world.units {
        if unit.value.target == UnitTarget::Inactive {
            continue;
        }
        match world.texts.get(name).map(|text| &text.options) {
            Some(Ok(_)) if name.is_template() => {
                let why = "it is a template, and runs only as its instances";
                plan.wait(name.as_str(), Reason::Unit(why.to_owned()));
            }
            Some(Ok(options)) => drop(wanted.insert(name, options)),
            Some(Err(error)) => {
                let why = format!("its [X-Fleet] section: {error}");
                plan.wait(name.as_str(), Reason::Unit(why));
            }
            None => {}
        }
    }
    wanted
}

/// Where each unit is assigned.
type Assigned<'w> = BTreeMap<&'w UnitFileName, Vec<There<'w>>>;

/// What is known of units and hosts, where units are, and the names of all.
fn gather<'w>(
    world: &'w World,
    losses: &Losses,
    plan: &mut Plan,
) -> (Units<'w>, Assigned<'w>, Vec<&'w UnitFileName>) {
    let prefix = keys::units();
    let unreadable = world
        .unreadable()
        .range(prefix.as_str().to_owned()..)
        .next();
    if let Some((key, why)) = unreadable.filter(|(key, _)| key.starts_with(prefix.as_str())) {
        let why = format!("{key} can't be read ({why}): what it runs is left alone");
        plan.wait("units", Reason::Unreadable(why));
    }
    let options = wanted(world, plan);
    let mut assigned = Assigned::new();
    for (id, view) in &world.hosts {
        for (name, assignment) in &view.units {
            assigned.entry(name).or_default().push((id, assignment));
        }
    }
    let names: BTreeMap<&str, &UnitFileName> = world
        .units
        .keys()
        .chain(assigned.keys().copied())
        .map(|name| (name.as_str(), name))
        .collect();
    // Also a unit that is being stopped keeps others away until it is gone.
    let known = names.values().filter_map(|name| {
        let text = world.texts.get(*name)?;
        Some((*name, text.options.as_ref().ok()?))
    });
    let neighbours = Neighbours::new(&names, &known.collect());
    let circles = neighbours::circles(&options, |name| assigned.contains_key(name));
    let mut hosts = BTreeMap::new();
    for (id, view) in &world.hosts {
        let Some(machine) = view.presence.machine() else {
            continue;
        };
        let mut counts = Counts::default();
        for name in view.units.keys() {
            neighbours.count(name, &mut counts);
        }
        let host = Host {
            view,
            machine,
            labels: labels(view, machine),
            shut: if losses.lost.contains(id) {
                Some("is lost")
            } else {
                place::why_shut(view)
            },
            units: view.units.keys().collect(),
            counts,
        };
        hosts.insert(id, host);
    }
    let units = Units {
        options,
        neighbours,
        circles,
        hosts,
        displaced: BTreeMap::new(),
        moving: BTreeSet::new(),
    };
    (units, assigned, names.into_values().collect())
}

/// Plans where units run.
pub(super) fn step(world: &World, losses: &Losses, cx: &Context<'_>, plan: &mut Plan) {
    let (mut units, assigned, mut order) = gather(world, losses, plan);
    // In order of name; but those that take others' places go first, and those beside others last.
    order.sort_by_cached_key(|name| {
        let options = units.options.get(name);
        let is_follower = options.is_some_and(|options| !options.machine_of.is_empty());
        let replaces = options.is_some_and(|options| !options.replaces.is_empty());
        (is_follower, !replaces, *name)
    });
    let mut batch = Batch::default();
    for name in order {
        let there = assigned.get(name).map_or(&[][..], Vec::as_slice);
        batch.append(
            one::plan(world, name, there, &mut units, losses, cx, plan),
            &one::base(world, name),
        );
    }
    // All units together: hundreds that are launched at once are a few transactions.
    batch.pack("units", world, &fenced(cx), plan);
}
