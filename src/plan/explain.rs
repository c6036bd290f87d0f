//! Why a process or unit is where it is, or why it waits: all hosts in the order in which they would be
//! taken for it now, and what each that can't take it lacks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    fleet, preview,
    round::Policy,
    schedule::{Pool, Ranked, Resources, Wanted},
    world::{AppView, Said, World},
};
use crate::model::*;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What it is about: `blog web.1`, a unit.
    pub what: String,
    /// Where it is, and how it is there.
    pub places: Vec<Place>,
    /// What a process of it reserves; units reserve nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Resources>,
    /// Labels that a host must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// All hosts, the best first, as if it were placed now.
    pub hosts: Vec<Verdict>,
    /// What the leader would do about it now.
    pub next: Vec<String>,
    /// What waits of it.
    pub waiting: Vec<String>,
}

/// One place of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The process's or unit's name there.
    pub name: String,
    /// The host's name.
    pub host: String,
    /// What the leader wants of it.
    pub desired: Desired,
    /// What its host says.
    pub state: String,
    /// Whether the host is to be left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves: Option<&'static str>,
}

/// How a host stands. Units are placed by the number of units and processes alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The host's name.
    pub host: String,
    /// Whether it is there already.
    pub here: bool,
    /// Its failure domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Others of the type in that domain.
    pub domain_peers: u32,
    /// Others of the type on the host; for a unit, other units there.
    pub peers: u32,
    /// How full it is, in percent.
    pub load_percent: u64,
    /// What is free there.
    pub free: Resources,
    /// Why it can't take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

impl Verdict {
    fn of(ranked: Ranked, here: bool) -> Self {
        Self {
            host: ranked.host,
            here,
            domain: ranked.domain,
            domain_peers: ranked.domain_peers,
            peers: ranked.peers,
            load_percent: ranked.load_percent,
            free: ranked.free,
            refusal: ranked.refusal,
        }
    }
}

/// What can be asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A slot of an app.
    Process(AppName, ProcessId),
    /// A unit.
    Unit(UnitFileName),
}

impl Subject {
    /// What somebody means by a word: `blog_v7.web.1` (with or without an incarnation, a unit's suffix
    /// or a release: `blog.web.1`), or a unit's name.
    #[must_use]
    pub fn parse(word: &str, world: &World) -> Option<Self> {
        let stem = word.strip_suffix(".service").unwrap_or(word);
        if let Ok(name) = stem.parse::<ProcessName>() {
            return Some(Self::Process(name.app.clone(), name.id()));
        }
        let names = [
            word.to_owned(),
            format!("{word}.service"),
            format!("deis-{word}.service"),
        ];
        let units = names.iter().filter_map(|name| name.parse().ok());
        let assigned = |unit: &UnitFileName| {
            world
                .hosts
                .values()
                .any(|host| host.units.contains_key(unit))
        };
        if let Some(unit) = units
            .into_iter()
            .find(|unit| world.units.contains_key(unit) || assigned(unit))
        {
            return Some(Self::Unit(unit));
        }
        let mut parts = stem.split(['.', ' ']);
        let (app, kind, number) = (parts.next()?, parts.next()?, parts.next()?);
        let slot = ProcessId {
            kind: kind.parse().ok()?,
            number: number.parse().ok()?,
        };
        let app: AppName = app.parse().ok()?;
        (parts.next().is_none() && world.apps.contains_key(&app))
            .then_some(Self::Process(app, slot))
    }
}

/// Explains it; none when there is no such app.
#[must_use]
pub fn explain(world: &World, subject: &Subject, wall: Timestamp) -> Option<Explanation> {
    match subject {
        Subject::Process(app, slot) => process(world, app, slot, wall),
        Subject::Unit(name) => Some(unit(world, name, wall)),
    }
}

fn process(world: &World, app: &AppName, slot: &ProcessId, wall: Timestamp) -> Option<Explanation> {
    let view = world.apps.get(app)?;
    let record = &view.record.as_ref()?.value;
    let rollout = view.rollout.as_ref().map(|rollout| &rollout.value);
    let release = match rollout {
        Some(rollout) if rollout.phase == RolloutPhase::Forward => rollout.release,
        _ => record.active,
    };
    let needs = view.needs(release);
    let (mut needed, tags) = needs.map_or_else(Default::default, |needs| {
        (needs.of(&slot.kind), needs.tags.clone())
    });
    let own: Vec<_> = view
        .placed
        .iter()
        .filter(|((name, _), _)| name.id() == *slot)
        .collect();
    if needs.is_none()
        && let Some((_, assignment)) = own.first()
    {
        needed = Resources::of(&assignment.value.work);
    }
    let placing = Policy::of(world).placing;
    let mut pool = Pool::of(world, &placing, &Default::default());
    for ((_, machine), assignment) in &own {
        pool.release(machine, Resources::of(&assignment.value.work));
    }
    let peers = peers(view, slot);
    let wanted = Wanted {
        needs: needed,
        tags: &tags,
        peers: &peers,
    };
    let is_here = |id: &MachineId| own.iter().any(|((_, machine), _)| machine == id);
    let hosts = pool.ranked(&wanted).into_iter();
    let hosts = hosts.map(|ranked| {
        let here = is_here(&ranked.id);
        Verdict::of(ranked, here)
    });
    let places = own.iter().filter_map(|((name, machine), assignment)| {
        place(world, &name.to_string(), machine, &assignment.value)
    });
    let (places, hosts) = (places.collect::<Vec<_>>(), hosts.collect());
    let plan = preview::next_round(world, wall);
    let own_words = |words: &str| mentions(words, &slot.to_string());
    let acts = plan.acts.iter().filter(|act| act.about == app.as_str());
    let next = acts.flat_map(|act| act.what.split(", "));
    let waits = plan
        .waiting
        .iter()
        .filter(|waiting| waiting.what == app.as_str());
    let (about, rest): (Vec<_>, Vec<_>) =
        waits.partition(|waiting| own_words(&waiting.why.to_string()));
    // What has no place and isn't named waits for what the app waits for.
    let waits = if about.is_empty() && places.is_empty() {
        rest
    } else {
        about
    };
    Some(Explanation {
        what: format!("{app} {slot}"),
        places,
        needs: Some(needed),
        tags: tags.clone(),
        hosts,
        next: next
            .filter(|words| own_words(words))
            .map(str::to_owned)
            .collect(),
        waiting: waits
            .into_iter()
            .map(|waiting| waiting.why.to_string())
            .collect(),
    })
}

/// Whether the words name the slot: `web.1`, and not `web.12`.
fn mentions(words: &str, slot: &str) -> bool {
    words.match_indices(slot).any(|(at, _)| {
        let before = words[..at].chars().next_back();
        let after = words[at + slot.len()..].chars().next();
        before.is_none_or(|c| !c.is_ascii_alphanumeric())
            && after.is_none_or(|c| !c.is_ascii_alphanumeric())
    })
}

/// The other processes of the type that are to stay, by host.
fn peers(view: &AppView, slot: &ProcessId) -> BTreeMap<MachineId, u32> {
    let mut peers = BTreeMap::new();
    for ((name, machine), assignment) in &view.placed {
        if name.kind == slot.kind
            && name.number != slot.number
            && assignment.value.desired == Desired::Run
        {
            *peers.entry(machine.clone()).or_default() += 1;
        }
    }
    peers
}

fn unit(world: &World, name: &UnitFileName, wall: Timestamp) -> Explanation {
    let places = world
        .hosts
        .iter()
        .filter_map(|(id, view)| place(world, name.as_str(), id, &view.units.get(name)?.value));
    let plan = preview::next_round(world, wall);
    let acts = plan
        .acts
        .iter()
        .filter(|act| mentions(&format!("{} {}", act.about, act.what), name.as_str()));
    let waits = plan
        .waiting
        .iter()
        .filter(|waiting| waiting.what == name.as_str());
    Explanation {
        what: name.to_string(),
        places: places.collect(),
        needs: None,
        tags: BTreeMap::new(),
        hosts: fleet::verdicts(world, name),
        next: acts.map(|act| act.what.clone()).collect(),
        waiting: waits.map(|waiting| waiting.why.to_string()).collect(),
    }
}

fn place(world: &World, name: &str, machine: &MachineId, assignment: &Assignment) -> Option<Place> {
    let view = world.hosts.get(machine)?;
    let state = match view.said(name, assignment.uuid) {
        _ if view.presence.is_absent() => "its host is away".to_owned(),
        Said::State(state) => {
            let phase = format!("{:?}", state.phase).to_lowercase();
            let ready = if state.ready { ", ready" } else { "" };
            let reason = state.reason.as_ref().map(|reason| format!(": {reason}"));
            format!("{phase}{ready}{}", reason.unwrap_or_default())
        }
        Said::Nothing => "not reported by its host".to_owned(),
        Said::Unknown if !view.is_current() => "not reported since its host came back".to_owned(),
        Said::Unknown => "its host's report can't be read".to_owned(),
    };
    let leaves = if view.drain().is_some() {
        Some("its host is being drained")
    } else {
        None
    };
    Some(Place {
        name: name.to_owned(),
        host: view.name(machine).to_owned(),
        desired: assignment.desired,
        state,
        leaves,
    })
}
