//! What lies between the nodes and the store: who reaches it, how long it takes, and what goes wrong
//! on the way; all of it drawn from the seed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use crate::{
    outside::simulated::splitmix,
    store::faulty::{Fate, Passage, Weather},
};

/// Locks what only this thread uses.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The seed's numbers, one after the other.
#[derive(Debug)]
pub(super) struct Dice(Mutex<u64>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    pub fn number(&self) -> u64 {
        splitmix(&mut lock(&self.0))
    }

    pub fn below(&self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    /// True so often in ten thousand times.
    pub fn falls(&self, of_ten_thousand: u32) -> bool {
        of_ten_thousand > 0 && self.number() % 10_000 < u64::from(of_ten_thousand)
    }

    pub fn between(&self, from: u64, to: u64) -> u64 {
        from + self.number() % (to - from + 1)
    }

    /// A time between two numbers of milliseconds.
    pub fn time(&self, from: u64, to: u64) -> Duration {
        ms(self.between(from, to))
    }

    /// A time that is mostly short, and now and then long.
    pub fn long_tail(&self, from: u64, to: u64) -> Duration {
        let spread = self.between(0, 1000);
        let part = spread * spread / 1000 * spread / 1000;
        ms(from + (to - from) * part / 1000)
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What runs on a host and talks to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Agent,
    Router,
    Controller,
    /// Whoever asks for changes; on no host.
    User,
}

/// A daemon on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    pub host: usize,
    pub role: Role,
}

/// How often things go wrong, in ten thousand times.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    pub lost: u32,
    pub unanswered: u32,
    pub late: u32,
    pub twice: u32,
    pub dies: u32,
    /// Agents when systemd has just begun with a start of theirs.
    pub dies_at_start: u32,
    /// Processes that take their time to stop.
    pub stubborn: u32,
    pub breaks: u32,
    pub silence: u32,
    pub repeats: u32,
    /// Calls and events that take seconds.
    pub slow: u32,
    /// Nothing takes so long that a lease runs out.
    pub patient: bool,
    /// The usual way, at most, in milliseconds.
    pub latency: u64,
}

#[derive(Debug, Default)]
struct Air {
    rates: Rates,
    /// Hosts that don't reach the store.
    cut: BTreeSet<usize>,
    /// The store has no leader: nobody is answered.
    leaderless: bool,
    writer: Option<Node>,
}

/// The weather of all nodes.
#[derive(Debug)]
pub(super) struct Sky {
    pub dice: Arc<Dice>,
    air: Mutex<Air>,
    changed: Arc<Notify>,
    deaths: mpsc::UnboundedSender<(Node, Arc<AtomicBool>)>,
}

impl Sky {
    pub fn new(
        dice: Arc<Dice>,
        deaths: mpsc::UnboundedSender<(Node, Arc<AtomicBool>)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            dice,
            air: Mutex::default(),
            changed: Arc::default(),
            deaths,
        })
    }

    pub fn set_rates(&self, rates: Rates) {
        lock(&self.air).rates = rates;
    }

    pub fn set_leaderless(&self, leaderless: bool) {
        lock(&self.air).leaderless = leaderless;
        self.changed.notify_waiters();
    }

    pub fn cut(&self, host: usize, cut: bool) {
        let mut air = lock(&self.air);
        if cut {
            air.cut.insert(host);
        } else {
            air.cut.remove(&host);
        }
        drop(air);
        self.changed.notify_waiters();
    }

    /// Whether an agent dies now that a start of its has begun.
    pub fn dies_at_start(&self) -> bool {
        let often = lock(&self.air).rates.dies_at_start;
        self.dice.falls(often)
    }

    /// How long a process takes to stop: now and then all the time that it is given.
    pub fn stopping(&self) -> Duration {
        let often = lock(&self.air).rates.stubborn;
        if self.dice.falls(often) {
            self.dice.time(2000, 10_000)
        } else {
            self.dice.long_tail(5, 1500)
        }
    }

    /// A node's life has ended by itself.
    pub fn died(&self, node: Node, alive: Arc<AtomicBool>) {
        let _ = self.deaths.send((node, alive));
    }

    /// Who is writing at this moment.
    pub fn writer(&self) -> Option<Node> {
        lock(&self.air).writer
    }

    /// The weather of one life of a node; it ends when the flag is cleared.
    pub fn over(self: &Arc<Self>, node: Node) -> (Arc<dyn Weather>, Arc<AtomicBool>) {
        let alive = Arc::new(AtomicBool::new(true));
        let weather = Over {
            sky: Arc::clone(self),
            node,
            alive: Arc::clone(&alive),
        };
        (Arc::new(weather), alive)
    }
}

struct Over {
    sky: Arc<Sky>,
    node: Node,
    alive: Arc<AtomicBool>,
}

impl Over {
    fn rates(&self) -> Rates {
        lock(&self.sky.air).rates
    }
}

impl Weather for Over {
    fn latency(&self) -> Duration {
        let rates = self.rates();
        if self.sky.dice.falls(rates.slow) {
            return self
                .sky
                .dice
                .long_tail(100, if rates.patient { 1500 } else { 4000 });
        }
        self.sky.dice.time(1, rates.latency.max(1))
    }

    fn fate(&self, changes: bool) -> Fate {
        let (dice, rates) = (&self.sky.dice, self.rates());
        if self.node.role != Role::User && changes && dice.falls(rates.dies) {
            return if dice.falls(5000) {
                Fate::DiesBefore
            } else {
                Fate::DiesAfter
            };
        }
        if dice.falls(rates.lost) {
            return Fate::Lost(dice.long_tail(10, if rates.patient { 2000 } else { 12_000 }));
        }
        if !changes {
            return Fate::Fine;
        }
        if dice.falls(rates.unanswered) {
            Fate::Unanswered(dice.long_tail(10, 8_000))
        } else if dice.falls(rates.late) {
            Fate::Late(dice.long_tail(10, 8_000))
        } else if dice.falls(rates.twice) {
            Fate::Twice
        } else {
            Fate::Fine
        }
    }

    fn passage(&self) -> (Passage, Duration) {
        let (dice, rates) = (&self.sky.dice, self.rates());
        let delay = self.latency();
        let passage = if dice.falls(rates.breaks) {
            Passage::Breaks
        } else if dice.falls(rates.silence) {
            Passage::Silence
        } else if dice.falls(rates.repeats) {
            Passage::Twice
        } else {
            Passage::Comes
        };
        (passage, delay)
    }

    fn reaches(&self) -> bool {
        let air = lock(&self.sky.air);
        let cut = air.cut.contains(&self.node.host) && self.node.role != Role::User;
        self.alive.load(Ordering::Relaxed) && !air.leaderless && !cut
    }

    fn changes(&self) -> Arc<Notify> {
        Arc::clone(&self.sky.changed)
    }

    fn writes(&self, now: bool) {
        lock(&self.sky.air).writer = now.then_some(self.node);
    }

    fn die(&self) {
        self.sky.died(self.node, Arc::clone(&self.alive));
    }
}
