//! Reasons: why no host takes a process, what waiting may bring, and how all hosts rank for it.

use std::collections::{BTreeMap, HashMap};

use super::{Closed, Load, Pool, Resources, Wanted};
use crate::{model::MachineId, plan::waiting::Shortage};

/// Why a host can't take a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Too little free memory.
    Memory,
    /// Too little free CPU.
    Cpu,
    /// It doesn't have the tags.
    Tags,
    /// It takes nothing new.
    Closed(Closed),
}

impl Refusal {
    /// `lacks 512 MiB of free memory`, or in the plural.
    pub(in crate::plan) fn words(
        self,
        needs: Resources,
        tags: &BTreeMap<String, String>,
        many: bool,
    ) -> String {
        let verb = |one: &'static str, more: &'static str| if many { more } else { one };
        match self {
            Self::Memory => format!(
                "{} {} MiB of free memory",
                verb("lacks", "lack"),
                needs.memory_bytes.div_ceil(1 << 20)
            ),
            Self::Cpu => format!(
                "{} {} free CPU shares",
                verb("lacks", "lack"),
                needs.cpu_shares
            ),
            Self::Tags => {
                let tags = tags.iter().map(|(k, v)| format!("{k}={v}"));
                let tags: Vec<String> = tags.collect();
                format!(
                    "{} have the tags {}",
                    verb("doesn't", "don't"),
                    tags.join(" ")
                )
            }
            Self::Closed(Closed::Cordoned) => format!("{} cordoned", verb("is", "are")),
            Self::Closed(Closed::Draining) => format!("{} being drained", verb("is", "are")),
            Self::Closed(Closed::Unreadable) => {
                format!("{} records that can't be read", verb("has", "have"))
            }
        }
    }
}

/// What may come of waiting for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chance {
    /// A host that could take it may get room.
    Room,
    /// Only a host that is away might be able to.
    Away,
    /// No host could take it even if it were empty.
    None,
}

/// How a host stands for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    /// The host.
    pub id: MachineId,
    /// Its name for people.
    pub host: String,
    /// Its failure domain, if it has a name.
    pub domain: Option<String>,
    /// Processes of the type in its domain.
    pub domain_peers: u32,
    /// Processes of the type on it.
    pub peers: u32,
    /// How much is reserved of what it is shortest of, in percent.
    pub load_percent: u64,
    /// What is free.
    pub free: Resources,
    /// Why it can't take it, in words.
    pub refusal: Option<String>,
}

impl Pool {
    /// What waiting for a place may bring, when there is none now.
    #[must_use]
    pub fn chance(&self, wanted: &Wanted<'_>) -> Chance {
        let could = |offered: Resources| {
            offered.memory_bytes >= wanted.needs.memory_bytes
                && offered.cpu_shares >= wanted.needs.cpu_shares
        };
        let mut rooms = self.hosts.iter().map(|host| &host.room);
        if self.hosts.is_empty() || rooms.any(|room| room.has(wanted.tags) && could(room.offered)) {
            Chance::Room
        } else if self.incomplete {
            Chance::Away
        } else {
            Chance::None
        }
    }

    /// Says why no host takes such a process, and what would help.
    #[must_use]
    pub fn shortage(&self, wanted: &Wanted<'_>) -> Shortage {
        let mut refusals: BTreeMap<Refusal, usize> = BTreeMap::new();
        let rooms = self.hosts.iter().map(|host| &host.room);
        for refusal in rooms.filter_map(|room| room.refuses(wanted)) {
            *refusals.entry(refusal).or_default() += 1;
        }
        Shortage {
            hosts: self.hosts.len(),
            refusals,
            needs: wanted.needs,
            tags: wanted.tags.clone(),
        }
    }

    /// All hosts in the order in which they would be taken; those that can't take it come last.
    #[must_use]
    pub fn ranked(&self, wanted: &Wanted<'_>) -> Vec<Ranked> {
        let mut domains: HashMap<u32, u32> = HashMap::new();
        for (id, number) in wanted.peers {
            if let Some(at) = self.find(id) {
                *domains.entry(self.hosts[at as usize].domain).or_default() += number;
            }
        }
        let mut ranked: Vec<((bool, u32, u32, Load), Ranked)> = self
            .hosts
            .iter()
            .map(|host| {
                let room = &host.room;
                let peers = wanted.peers.get(&room.id).copied().unwrap_or(0);
                let domain_peers = domains.get(&host.domain).copied().unwrap_or(0);
                let refusal = room.refuses(wanted);
                let ranked = Ranked {
                    id: room.id.clone(),
                    host: room.name.clone(),
                    domain: self.domains[host.domain as usize].name.clone(),
                    domain_peers,
                    peers,
                    load_percent: host.load.0 / 10_000,
                    free: room.free(),
                    refusal: refusal.map(|refusal| refusal.words(wanted.needs, wanted.tags, false)),
                };
                ((refusal.is_some(), domain_peers, peers, host.load), ranked)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, ranked)| ranked).collect()
    }
}
