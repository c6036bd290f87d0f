//! Which units keep away from which. `Conflicts=` and `Replaces=` count both ways, and name units by
//! patterns: each pattern is matched once against the units that it may match, and each host counts
//! which patterns its units declare and match. Whether a unit fits there is then a few look-ups,
//! however many units there are.

use std::{
    collections::BTreeMap,
    ops::Bound::{Included, Unbounded},
};

use super::{
    options::XFleet,
    pattern::{glob, is_pattern, literal_prefix},
};
use crate::model::UnitFileName;

/// Number of a pattern.
type Pattern = usize;

/// What patterns have to do with one unit, each list in order.
#[derive(Debug, Default)]
struct Sides {
    /// Those that it declares.
    declares: Vec<Pattern>,
    /// Those that it matches, its own among them.
    matches: Vec<Pattern>,
}

/// Who keeps away from whom.
#[derive(Debug, Default)]
pub(super) struct Neighbours<'w> {
    units: BTreeMap<&'w UnitFileName, Sides>,
}

/// How many of a host's units declare and match each pattern.
#[derive(Debug, Default)]
pub(super) struct Counts {
    declared: BTreeMap<Pattern, u32>,
    matched: BTreeMap<Pattern, u32>,
}

impl<'w> Neighbours<'w> {
    /// Of all units that there are; `options` are those of the units that are to be somewhere.
    pub fn new(
        names: &BTreeMap<&'w str, &'w UnitFileName>,
        options: &BTreeMap<&'w UnitFileName, &'w XFleet>,
    ) -> Self {
        let mut patterns: BTreeMap<&str, Pattern> = BTreeMap::new();
        let mut neighbours = Self::default();
        for (name, options) in options {
            for pattern in options.foes() {
                let next = patterns.len();
                let number = *patterns.entry(pattern).or_insert(next);
                neighbours
                    .units
                    .entry(*name)
                    .or_default()
                    .declares
                    .push(number);
            }
        }
        for (pattern, number) in patterns {
            for (_, name) in matching(pattern, names) {
                neighbours
                    .units
                    .entry(*name)
                    .or_default()
                    .matches
                    .push(number);
            }
        }
        for sides in neighbours.units.values_mut() {
            sides.declares.sort_unstable();
            sides.declares.dedup();
            sides.matches.sort_unstable();
        }
        neighbours
    }

    /// Whether a unit that counts in `counts` keeps away from `name`, or the other way round;
    /// `is_there` says that `name` itself counts.
    pub fn is_kept_away(&self, name: &UnitFileName, counts: &Counts, is_there: bool) -> bool {
        let Some(sides) = self.units.get(name) else {
            return false;
        };
        let own =
            |side: &[Pattern], pattern| u32::from(is_there && side.binary_search(pattern).is_ok());
        let others = |of: &BTreeMap<Pattern, u32>, pattern: &Pattern, own: u32| {
            of.get(pattern).is_some_and(|count| *count > own)
        };
        let declares = |p| others(&counts.matched, p, own(&sides.matches, p));
        let matches = |p| others(&counts.declared, p, own(&sides.declares, p));
        sides.declares.iter().any(declares) || sides.matches.iter().any(matches)
    }

    /// Whether two units keep away from each other.
    pub fn are_foes(&self, one: &UnitFileName, other: &UnitFileName) -> bool {
        let (Some(a), Some(b)) = (self.units.get(one), self.units.get(other)) else {
            return false;
        };
        let meet = |declares: &[Pattern], matches: &[Pattern]| {
            declares
                .iter()
                .any(|pattern| matches.binary_search(pattern).is_ok())
        };
        one != other && (meet(&a.declares, &b.matches) || meet(&b.declares, &a.matches))
    }

    /// Counts a unit among a host's.
    pub fn count(&self, name: &UnitFileName, counts: &mut Counts) {
        let Some(sides) = self.units.get(name) else {
            return;
        };
        for pattern in &sides.declares {
            *counts.declared.entry(*pattern).or_default() += 1;
        }
        for pattern in &sides.matches {
            *counts.matched.entry(*pattern).or_default() += 1;
        }
    }
}

/// The names that a pattern matches: few are looked at, for most patterns begin like a name.
fn matching<'n, T>(
    pattern: &'n str,
    names: &'n BTreeMap<&str, T>,
) -> impl Iterator<Item = (&'n str, &'n T)> {
    let prefix = literal_prefix(pattern);
    names
        .range::<str, _>((Included(prefix), Unbounded))
        .map(|(name, of_name)| (*name, of_name))
        .take_while(move |(name, _)| name.starts_with(prefix))
        .filter(move |(name, _)| *name == pattern || (is_pattern(pattern) && glob(pattern, name)))
}

/// Units that replace each other in a circle, of which only one is to run: each that has to stay
/// away, and the one that runs. Whoever is somewhere already (`is_placed`) goes before the others.
pub(super) fn circles<'w>(
    options: &BTreeMap<&'w UnitFileName, &'w XFleet>,
    is_placed: impl Fn(&UnitFileName) -> bool,
) -> BTreeMap<&'w UnitFileName, &'w UnitFileName> {
    let mut replacing: Vec<(&'w UnitFileName, &'w XFleet)> = options
        .iter()
        .map(|(name, options)| (*name, *options))
        .filter(|(_, options)| !options.replaces.is_empty())
        .collect();
    replacing.sort_by_key(|(name, _)| (!is_placed(name), *name));
    // Units lead to what they declare, and that to the units that it matches.
    let names: BTreeMap<&str, usize> = replacing
        .iter()
        .enumerate()
        .map(|(at, (name, _))| (name.as_str(), at))
        .collect();
    let mut patterns: BTreeMap<&str, usize> = BTreeMap::new();
    let mut next: Vec<Vec<usize>> = Vec::new();
    for (_, options) in &replacing {
        let first = replacing.len();
        let declared = options.replaces.iter().map(|pattern| {
            let number = patterns.len();
            first + *patterns.entry(pattern).or_insert(number)
        });
        next.push(declared.collect());
    }
    let mut matched = vec![Vec::new(); patterns.len()];
    for (pattern, number) in patterns {
        matched[number] = matching(pattern, &names).map(|(_, at)| *at).collect();
    }
    next.extend(matched);
    let mut winners: BTreeMap<usize, &'w UnitFileName> = BTreeMap::new();
    let mut losers = BTreeMap::new();
    for ((name, _), circle) in replacing.iter().zip(components(&next)) {
        match winners.get(&circle) {
            Some(winner) => drop(losers.insert(*name, *winner)),
            None => drop(winners.insert(circle, name)),
        }
    }
    losers
}

/// For each node the number of its strongly connected component (Kosaraju's way, without recursion).
fn components(next: &[Vec<usize>]) -> Vec<usize> {
    let mut back = vec![Vec::new(); next.len()];
    for (from, tos) in next.iter().enumerate() {
        for to in tos {
            back[*to].push(from);
        }
    }
    let mut finished = Vec::with_capacity(next.len());
    let mut seen = vec![false; next.len()];
    for start in 0..next.len() {
        let mut path = vec![(start, 0)];
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        while let Some((node, edge)) = path.last_mut() {
            let to = next[*node].get(*edge).copied();
            *edge += 1;
            match to {
                Some(to) if !std::mem::replace(&mut seen[to], true) => path.push((to, 0)),
                Some(_) => {}
                None => {
                    finished.push(*node);
                    path.pop();
                }
            }
        }
    }
    let mut component = vec![usize::MAX; next.len()];
    for root in finished.into_iter().rev() {
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            if component[node] == usize::MAX {
                component[node] = root;
                open.extend(&back[node]);
            }
        }
    }
    component
}
