//! How all hosts stand for a unit, for people who ask why it is where it is.

use super::{
    super::{explain::Verdict, hosts::Losses, round::Plan, world::World},
    gather,
    place::Refusal,
};
use crate::model::*;

/// All hosts, the best first, as if the unit were placed now.
pub(in crate::plan) fn verdicts(world: &World, name: &UnitFileName) -> Vec<Verdict> {
    let (units, ..) = gather(world, &Losses::default(), &mut Plan::default());
    let text = world.texts.get(name).map(|text| &text.options);
    let Some(Ok(options)) = text else {
        return Vec::new();
    };
    let mut verdicts: Vec<_> = units
        .hosts
        .iter()
        .map(|(id, host)| {
            let foe = |other: &&UnitFileName| units.neighbours.are_foes(name, other);
            let refusal = host.shut.map(Refusal::Shut);
            let refusal = refusal.or_else(|| match units.refuses(name, options, host) {
                Some(Refusal::Foe(_)) => Some(Refusal::Foe(host.units.iter().copied().find(foe))),
                other => other,
            });
            let here = host.units.contains(name);
            let others = host.units.len() - usize::from(here);
            let verdict = Verdict {
                host: host.view.name(id).to_owned(),
                here,
                peers: u32::try_from(others).unwrap_or(u32::MAX),
                refusal: refusal.map(|refusal| refusal.to_string()),
                ..Verdict::default()
            };
            let rank = (verdict.refusal.is_some(), others, host.view.processes.len());
            (rank, *id, verdict)
        })
        .collect();
    verdicts.sort_by_key(|(rank, id, _)| (*rank, *id));
    verdicts.into_iter().map(|(.., verdict)| verdict).collect()
}
