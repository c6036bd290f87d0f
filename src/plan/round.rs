//! One planning round: hosts, then units, then every app that something changed for.
//!
//! The answer is data. All transactions of one plan are independent of each other, each compares
//! what it was based on, and each is fenced by the leader's key.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    ops::Bound::Excluded,
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    drain::{self, DrainMemory},
    fleet,
    hosts::{self, HostMemory},
    rebalance::{self, RebalanceMemory},
    receipt::Gathered,
    rollout::{self, AppMemory},
    schedule::Pool,
    settings::Placing,
    waiting::{Reason, Waiting},
    world::{Changed, World},
};
use crate::{
    model::*,
    render::unit::STOP_GRACE_SECS,
    store::{Compare, MAX_TXN_OPS, Op, Txn, compacted, keys},
};

/// Most changes in one transaction; etcd's default limit is 128, of comparisons as well.
const TXN_OPS: usize = 100;

/// The bounds of all waits, and how much may happen at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Hosts' lease.
    pub host_ttl: Duration,
    /// How long a host may be away after its lease before its processes are moved.
    pub host_grace: Duration,
    /// When more than this share of the hosts is lost at once, in percent, nothing moves.
    pub lost_percent: u32,
    /// Hosts that went within this time of each other went at once.
    pub loss_window: Duration,
    /// How long a process may take to stop.
    pub stop: Duration,
    /// How long a new process may take to get ready once its image is there.
    pub ready: Duration,
    /// How long a new process may take in all, and how long a rollout waits for a free place.
    pub total: Duration,
    /// How long the `release:` command of a Procfile may take.
    pub command: Duration,
    /// How long routers may take to say what they have counted.
    pub receipt: Duration,
    /// How long a router may take to acknowledge before it counts as silent.
    pub router_silence: Duration,
    /// How long a router that went away may still be serving its last table. With its lease that is longer
    /// than twenty seconds: so long one may be stopped and wake up to processes that still are.
    pub router_linger: Duration,
    /// Processes that a rollout may have in flight, if that is more than the percentage.
    pub surge: usize,
    /// Share of the wanted processes that a rollout may have in flight, in percent.
    pub surge_percent: usize,
    /// Processes that scaling up may have in flight for each host, if that is more than both. A host of
    /// one slow core starts so many within [`Self::ready`].
    pub starts_per_host: usize,
    /// Restarts from which on a crashed process counts as crash-looping.
    pub crash_restarts: u32,
    /// Where processes are placed.
    pub placing: Placing,
    /// Settings that make no sense; the defaults are used.
    pub faults: Vec<Waiting>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            host_ttl: Duration::from_secs(6),
            host_grace: Duration::from_secs(3),
            lost_percent: 50,
            loss_window: Duration::from_secs(60),
            stop: Duration::from_secs(STOP_GRACE_SECS as u64),
            ready: Duration::from_secs(60),
            total: Duration::from_secs(600),
            command: Duration::from_secs(600),
            receipt: Duration::from_secs(2),
            router_silence: Duration::from_secs(30),
            router_linger: Duration::from_secs(20),
            surge: 4,
            surge_percent: 25,
            starts_per_host: 20,
            crash_restarts: 3,
            placing: Placing::default(),
            faults: Vec::new(),
        }
    }
}

impl Policy {
    /// The defaults, with what an operator has set below `/deis/platform/`.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let (placing, faults) = Placing::of(&world.settings);
        let mut policy = Self {
            placing,
            faults,
            ..Self::default()
        };
        let percent = world.settings.get("lost-hosts-percent");
        if let Some(percent) = percent.and_then(|text| text.trim().parse().ok()) {
            policy.lost_percent = percent;
        }
        policy
    }

    /// After that time of absence a host's agent must have stopped all processes of single types: its
    /// own lease has run out by then, whichever way it was lost, and each has had its time to stop.
    #[must_use]
    pub const fn until_fenced(&self) -> Duration {
        self.host_ttl
            .saturating_add(self.host_grace)
            .saturating_add(self.stop)
    }
}

/// What a round is told besides the world.
#[derive(Clone, Copy)]
pub struct Context<'c> {
    /// Now, on a monotonic clock of the caller's.
    pub now: Duration,
    /// Now, for people.
    pub wall: Timestamp,
    /// Since when the view of the store has been unbroken, on the same clock as `now`.
    pub view_since: Duration,
    /// `create_revision` of the leader's key: every transaction compares it.
    pub fence: Revision,
    /// Bounds.
    pub policy: &'c Policy,
    /// What routers have counted, by app, as far as they were asked ([`Plan::asks`]); none where nobody
    /// can ask them.
    pub counts: Option<&'c BTreeMap<AppName, Gathered>>,
    /// Draws a new id.
    pub new_id: &'c dyn Fn() -> Uuid,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("now", &self.now)
            .field("fence", &self.fence)
            .finish()
    }
}

/// A transaction to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What it is about: an app, a host, a unit.
    pub about: String,
    /// What it does, for the log.
    pub what: String,
    /// The transaction.
    pub txn: Txn,
    /// What is to be said in the app's own log when it is done.
    pub tell: Vec<Saying>,
}

/// Something for an app's owner to read in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// Whose log.
    pub app: AppName,
    /// Which process it is about (`web.1`); none when it is the whole app.
    pub process: Option<String>,
    /// The words; after the process's name, if there is one.
    pub text: String,
}

/// What to do now, and why the rest waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Transactions, in any order.
    pub acts: Vec<Act>,
    /// What waits.
    pub waiting: Vec<Waiting>,
    /// Apps of which routers are to be asked what they have counted.
    pub asks: BTreeSet<AppName>,
    /// When to plan again even if nothing changes, on the caller's monotonic clock.
    pub wake: Option<Duration>,
}

impl Plan {
    /// Notes that something waits.
    pub(super) fn wait(&mut self, what: impl Into<String>, why: impl Into<Reason>) {
        self.waiting.push(Waiting {
            what: what.into(),
            why: why.into(),
        });
    }

    /// Asks to be called again at `at`.
    pub(super) fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Has the routers asked what they have counted of an app.
    pub(super) fn ask(&mut self, app: &AppName) {
        self.asks.insert(app.clone());
    }

    pub(super) fn act(&mut self, about: &str, what: impl Into<String>, txn: Txn) {
        self.acts.push(Act {
            about: about.to_owned(),
            what: what.into(),
            txn,
            tell: Vec::new(),
        });
    }

    /// Has the act that was added last tell something, too.
    pub(super) fn tell(&mut self, sayings: impl IntoIterator<Item = Saying>) {
        if let Some(act) = self.acts.last_mut() {
            act.tell.extend(sayings);
        }
    }
}

/// A transaction that nothing but the leader with this fence can commit.
pub(super) fn fenced(cx: &Context<'_>) -> Txn {
    Txn::new().created_at(&keys::leader(), cx.fence)
}

/// Changes that belong to one app, or to units, packed into as few transactions as fit.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<Item>,
}

/// A change that happens whole.
type Item = (String, Txn, Option<Saying>);

impl Batch {
    /// Adds a change with its own comparisons.
    pub fn add(&mut self, what: String, txn: Txn) {
        self.items.push((what, txn, None));
    }

    /// The same, and tells it in the app's log when it is done.
    pub fn add_and_tell(&mut self, what: String, txn: Txn, saying: Saying) {
        self.items.push((what, txn, Some(saying)));
    }

    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds another's changes, each based on `base` as well.
    pub fn append(&mut self, other: Self, base: &Txn) {
        let based = |(what, txn, saying)| (what, base.clone().and(txn), saying);
        self.items.extend(other.items.into_iter().map(based));
    }

    /// Packs all of it; `base` holds the comparisons that every transaction makes.
    pub fn pack(self, about: &str, world: &World, base: &Txn, plan: &mut Plan) {
        let cuts = self.cuts(world, base);
        let mut items = self.items.into_iter();
        for (number, compares) in cuts {
            let (mut whats, mut ops, mut sayings) = (Vec::new(), Vec::new(), Vec::new());
            for (what, txn, saying) in items.by_ref().take(number) {
                whats.push(what);
                ops.extend(txn.into_ops());
                sayings.extend(saying);
            }
            plan.act(about, whats.join(", "), Txn::of(compares, ops));
            plan.tell(sayings);
        }
    }

    /// How many of the changes, in order, are one transaction each, and what those compare.
    fn cuts(&self, world: &World, base: &Txn) -> Vec<(usize, Vec<Compare>)> {
        // Few batches have two new keys beside each other.
        let planned = LazyCell::new(|| -> BTreeSet<&str> {
            let ops = self.items.iter().flat_map(|(_, txn, _)| txn.ops());
            ops.map(op_key).collect()
        });
        let is_gap = |from: &str, to: &str| {
            let between = (Excluded(from), Excluded(to));
            world.is_gap(from, to) && planned.range::<str, _>(between).next().is_none()
        };
        let mut cuts = Vec::new();
        let mut rest = &self.items[..];
        while !rest.is_empty() {
            let mut ops = 0;
            let fits = |(_, txn, _): &&Item| {
                ops += txn.ops().len();
                ops <= TXN_OPS
            };
            let fit = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(fit);
            cut(now, base, &is_gap, &mut cuts);
            rest = later;
        }
        cuts
    }
}

/// How many of `items` become one transaction, and what that compares: all, or fewer at a time when they
/// compare too much.
fn cut(
    items: &[Item],
    base: &Txn,
    is_gap: &impl Fn(&str, &str) -> bool,
    cuts: &mut Vec<(usize, Vec<Compare>)>,
) {
    let own = items.iter().flat_map(|(_, txn, _)| txn.compares());
    let compares = compacted(base.compares().iter().chain(own), is_gap);
    if compares.len() > MAX_TXN_OPS && items.len() > 1 {
        let (first, second) = items.split_at(items.len() / 2);
        cut(first, base, is_gap, cuts);
        cut(second, base, is_gap, cuts);
    } else {
        cuts.push((items.len(), compares));
    }
}

/// What the rounds remember; lost with the leader, and nothing but timers and caution.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) apps: BTreeMap<AppName, AppMemory>,
    pub(super) hosts: HostMemory,
    /// The process that this round is to move, so that its app is spread better.
    pub(super) mover: Option<ProcessName>,
    rebalance: RebalanceMemory,
    drains: DrainMemory,
    pool: KeptPool,
    /// Apps that wait for something other than a change of their own keys.
    busy: BTreeSet<AppName>,
    units_busy: bool,
    started: bool,
}

impl Memory {
    /// Watches what a leader has to know from before its term, while somebody else leads.
    pub fn follow(&mut self, world: &World, now: Duration, policy: &Policy) {
        self.hosts.follow(world, now, policy.router_linger);
    }

    /// Begins a term: nothing but what was watched before is known.
    pub fn new_term(&mut self) {
        let hosts = std::mem::take(&mut self.hosts).new_term();
        *self = Self {
            hosts,
            ..Self::default()
        };
    }

    /// Has the next round look at everything, whatever changed.
    pub const fn look_at_everything(&mut self) {
        self.started = false;
    }
}

/// Plans one round. `changed` says what is new since the last round of this memory.
///
/// Apps that nothing changed for and that wait for nothing cost nothing.
#[must_use]
pub fn round(world: &World, changed: &Changed, memory: &mut Memory, cx: &Context<'_>) -> Plan {
    let mut plan = Plan {
        waiting: cx.policy.faults.clone(),
        ..Plan::default()
    };
    let first = !std::mem::replace(&mut memory.started, true);
    let mut losses = hosts::assess(world, changed, first, &mut memory.hosts, cx, &mut plan);
    losses.overdue = drain::overdue(world, &mut memory.drains, cx, &mut plan);
    let kept = std::mem::take(&mut memory.pool);
    let mut pool = kept.resume(world, changed, &losses.lost, &cx.policy.placing);

    // A unit that is on all hosts leaves a drained one after all else.
    let is_emptied = |id: &MachineId| {
        let view = world.hosts.get(id);
        view.is_some_and(|view| view.drain().is_some() && view.processes.is_empty())
    };
    let emptied = changed.rooms.iter().any(is_emptied);
    if first || changed.units || changed.hosts || losses.new || memory.units_busy || emptied {
        let before = (plan.acts.len(), plan.waiting.len());
        fleet::step(world, &losses, cx, &mut plan);
        memory.units_busy = (plan.acts.len(), plan.waiting.len()) != before;
    }

    let mut apps: BTreeSet<AppName> = std::mem::take(&mut memory.busy);
    apps.extend(changed.apps.iter().cloned());
    if first {
        apps.extend(world.apps.keys().cloned());
    }
    for lost in losses.lost.iter().filter_map(|id| world.hosts.get(id)) {
        apps.extend(lost.processes.iter().map(|process| process.app.clone()));
    }
    for host in world.drained.iter().filter_map(|id| world.hosts.get(id)) {
        apps.extend(host.processes.iter().map(|process| process.app.clone()));
    }
    let rebalance = &mut memory.rebalance;
    memory.mover = rebalance::choose(world, changed, rebalance, &apps, cx, &mut pool, &mut plan);
    apps.extend(memory.mover.iter().map(|mover| mover.app.clone()));
    for app in apps {
        let Some(view) = world.apps.get(&app) else {
            memory.apps.remove(&app);
            continue;
        };
        let before = (plan.acts.len(), plan.waiting.len());
        rollout::step(world, &app, view, &losses, memory, cx, &mut pool, &mut plan);
        if (plan.acts.len(), plan.waiting.len()) != before || view.rollout.is_some() {
            memory.busy.insert(app);
        } else {
            memory.apps.remove(&app);
        }
    }
    memory.mover = None;
    memory.pool = pool.kept;
    plan
}

/// The hosts in order, kept from round to round: a round brings up to date what has changed of them.
#[derive(Debug, Default)]
struct KeptPool {
    pool: Option<Pool>,
    /// What it was made for.
    lost: BTreeSet<MachineId>,
    placing: Placing,
    /// Hosts of which something has changed since it was looked at last.
    stale: BTreeSet<MachineId>,
}

impl KeptPool {
    /// Takes note of what has changed. A host that came or went, or that has another record, has all
    /// hosts put in order anew; so have other settings.
    fn resume<'w>(
        mut self,
        world: &'w World,
        changed: &Changed,
        lost: &BTreeSet<MachineId>,
        placing: &Placing,
    ) -> LazyPool<'w> {
        if changed.hosts || self.lost != *lost || self.placing != *placing {
            self.pool = None;
            self.lost.clone_from(lost);
            self.placing.clone_from(placing);
        }
        if self.pool.is_some() {
            self.stale.extend(changed.rooms.iter().cloned());
        }
        LazyPool {
            world,
            kept: self,
            is_fresh: false,
        }
    }
}

/// The hosts of a round, put in order only when something is to be placed.
#[derive(Debug)]
pub(super) struct LazyPool<'w> {
    world: &'w World,
    kept: KeptPool,
    is_fresh: bool,
}

impl LazyPool<'_> {
    pub fn get(&mut self) -> &mut Pool {
        let kept = &mut self.kept;
        let stale = std::mem::take(&mut kept.stale);
        if !std::mem::replace(&mut self.is_fresh, true)
            && let Some(pool) = &mut kept.pool
        {
            pool.refresh(self.world, &stale);
        }
        kept.pool
            .get_or_insert_with(|| Pool::of(self.world, &kept.placing, &kept.lost))
    }
}

/// A key that a transaction changes, for tests and logs.
#[must_use]
pub fn op_key(op: &Op) -> &str {
    match op {
        Op::Put { key, .. } | Op::Delete(key) | Op::DeletePrefix(key) => key,
    }
}

/// Whether a transaction is fenced by a leader's key.
#[must_use]
pub fn is_fenced(txn: &Txn, fence: Revision) -> bool {
    let leader = keys::leader();
    let fences = |compare: &Compare| {
        matches!(compare, Compare::CreateRevision(key, revision)
            if key == leader.as_str() && *revision == fence)
    };
    txn.compares().iter().any(fences)
}
