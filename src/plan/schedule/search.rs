//! The hosts for a batch of equal processes, best first.
//!
//! A domain is *opened* when it has peers or when its turn comes: from then on its next host waits in a
//! queue. Domains that are not opened have no peers, so the order of their least loaded hosts, which
//! the pool keeps, is their order; the next host is the better one of the two heads.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    ops::Bound,
};

use super::{Load, Pool, Wanted};

/// Peers in the domain, peers on the host, load: less is better.
type Rank = (u32, u32, Load);

#[derive(Debug, Default)]
struct Opened {
    /// Processes of the type in this domain.
    peers: u32,
    /// Up to here there is no host without peers that could take one.
    walked: Option<(Load, u32)>,
    /// The hosts that have peers.
    beside: BTreeSet<(u32, Load, u32)>,
}

#[derive(Debug)]
pub(super) struct Search<'s> {
    wanted: &'s Wanted<'s>,
    /// Processes of the type on each host that has some.
    peers: HashMap<u32, u32>,
    opened: HashMap<u32, Opened>,
    /// The next host of each opened domain.
    queue: BTreeSet<(Rank, u32)>,
    /// Up to here all domains are opened, or have no host that could take one.
    walked: Option<(Load, u32)>,
}

/// A place in the order of hosts: load, then index.
type At = (Load, u32);

fn after(walked: Option<At>) -> (Bound<At>, Bound<At>) {
    (
        walked.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    )
}

impl<'s> Search<'s> {
    pub fn new(pool: &Pool, wanted: &'s Wanted<'s>) -> Self {
        let mut search = Self {
            wanted,
            peers: HashMap::new(),
            opened: HashMap::new(),
            queue: BTreeSet::new(),
            walked: None,
        };
        for (id, number) in wanted.peers {
            let Some(at) = pool.find(id).filter(|_| *number > 0) else {
                continue;
            };
            let host = &pool.hosts[at as usize];
            search.peers.insert(at, *number);
            let opened = search.opened.entry(host.domain).or_default();
            opened.peers += number;
            opened.beside.insert((*number, host.load, at));
        }
        let domains: Vec<u32> = search.opened.keys().copied().collect();
        for domain in domains {
            search.queue_next(pool, domain);
        }
        search
    }

    /// The best host that can take one; it is to be [taken](Self::took).
    pub fn next(&mut self, pool: &Pool) -> Option<u32> {
        while let Some(&(load, at)) = pool.fronts.range(after(self.walked)).next() {
            let better = |(rank, queued): &(Rank, u32)| ((0, 0, load), at) > (*rank, *queued);
            if self.queue.first().is_some_and(better) {
                break;
            }
            self.walked = Some((load, at));
            let domain = pool.hosts[at as usize].domain;
            let alone = pool.domains[domain as usize].order.len() == 1;
            if alone && pool.hosts[at as usize].room.refuses(self.wanted).is_some() {
                continue;
            }
            if let Entry::Vacant(new) = self.opened.entry(domain) {
                new.insert(Opened::default());
                self.queue_next(pool, domain);
            }
        }
        self.queue.pop_first().map(|(_, at)| at)
    }

    /// Notes that the host has one more; its resources are reserved already.
    pub fn took(&mut self, pool: &Pool, at: u32) {
        let host = &pool.hosts[at as usize];
        let number = self.peers.entry(at).or_default();
        let Some(opened) = self.opened.get_mut(&host.domain) else {
            return;
        };
        // The one that was next of its domain is the first of those beside peers, if it had any.
        if *number > 0 {
            opened.beside.pop_first();
        }
        *number += 1;
        opened.peers += 1;
        opened.beside.insert((*number, host.load, at));
        self.queue_next(pool, host.domain);
    }

    /// Finds the next host of an opened domain.
    fn queue_next(&mut self, pool: &Pool, domain: u32) {
        let Some(opened) = self.opened.get_mut(&domain) else {
            return;
        };
        let refuses = |at: u32| pool.hosts[at as usize].room.refuses(self.wanted).is_some();
        let order = &pool.domains[domain as usize].order;
        for &(load, at) in order.range(after(opened.walked)) {
            if !self.peers.contains_key(&at) && !refuses(at) {
                self.queue.insert(((opened.peers, 0, load), at));
                return;
            }
            opened.walked = Some((load, at));
        }
        while let Some(&(number, load, at)) = opened.beside.first() {
            if !refuses(at) {
                self.queue.insert(((opened.peers, number, load), at));
                return;
            }
            // One that can't take this one can't take the next, equal one either.
            opened.beside.pop_first();
        }
    }
}
