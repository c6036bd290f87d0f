//! How all hosts stand for a unit, for people who ask why it is where it is.

use super::{
    super::{explain::Verdict, hosts::Losses, round::Plan, schedule::Closed, world::World},
    XFleet, gather,
};
use crate::model::*;

/// All hosts, the best first, as if the unit were placed now.
pub(in crate::plan) fn verdicts(world: &World, name: &UnitFileName) -> Vec<Verdict> {
    let (units, _) = gather(world, &Losses::default(), &mut Plan::default());
    let file = world.units.get(name);
    let options = file.map(|file| XFleet::parse(name, &file.value.text));
    let Some(Ok(options)) = options else {
        return Vec::new();
    };
    let mut verdicts: Vec<_> = units
        .hosts
        .iter()
        .map(|(id, host)| {
            let closed = Closed::of(host.view).map(|closed| closed.words().to_owned());
            let refusal = closed.or_else(|| units.refuses(name, &options, id));
            let here = host.units.contains(name);
            let others = host.units.len() - usize::from(here);
            let verdict = Verdict {
                host: host.view.name(id).to_owned(),
                here,
                peers: u32::try_from(others).unwrap_or(u32::MAX),
                refusal,
                ..Verdict::default()
            };
            (
                verdict.refusal.is_some(),
                others,
                host.view.processes.len(),
                *id,
                verdict,
            )
        })
        .collect();
    verdicts.sort_by_key(|(refused, units, processes, id, _)| (*refused, *units, *processes, *id));
    verdicts.into_iter().map(|(.., verdict)| verdict).collect()
}
