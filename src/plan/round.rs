//! One planning round: hosts, then units, then every app that something changed for.
//!
//! The answer is data. All transactions of one plan are independent of each other, each compares
//! what it was based on, and each is fenced by the leader's key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    fleet,
    hosts::{self, HostMemory, Losses},
    rollout::{self, AppMemory},
    schedule::{Pool, Waiting},
    world::{Changed, World},
};
use crate::{
    model::*,
    store::{Compare, Op, Txn, keys},
};

/// Most comparisons or changes in one transaction; etcd's default limit is 128 of either.
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
    /// How long a new process may take to get ready once its image is there.
    pub ready: Duration,
    /// How long a new process may take in all, and how long a rollout waits for a free place.
    pub total: Duration,
    /// How long a router may take to acknowledge before it counts as silent.
    pub router_silence: Duration,
    /// How long a router that went away may still be serving its last table.
    pub router_linger: Duration,
    /// Processes that a rollout may have in flight, if that is more than the percentage.
    pub surge: usize,
    /// Share of the wanted processes that a rollout may have in flight, in percent.
    pub surge_percent: usize,
    /// Restarts from which on a crashed process counts as crash-looping.
    pub crash_restarts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            host_ttl: Duration::from_secs(6),
            host_grace: Duration::from_secs(3),
            lost_percent: 50,
            ready: Duration::from_secs(60),
            total: Duration::from_secs(600),
            router_silence: Duration::from_secs(30),
            router_linger: Duration::from_secs(10),
            surge: 4,
            surge_percent: 25,
            crash_restarts: 3,
        }
    }
}

impl Policy {
    /// The defaults, with what an operator has set below `/deis/platform/`.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let mut policy = Self::default();
        let percent = world.settings.get("lost-hosts-percent");
        if let Some(percent) = percent.and_then(|text| text.trim().parse().ok()) {
            policy.lost_percent = percent;
        }
        policy
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
    /// When to plan again even if nothing changes, on the caller's monotonic clock.
    pub wake: Option<Duration>,
}

impl Plan {
    /// Notes that something waits.
    pub(super) fn wait(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.waiting.push(Waiting {
            what: what.into(),
            why: why.into(),
        });
    }

    /// Asks to be called again at `at`.
    pub(super) fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
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

/// Changes that belong to one app or unit set, packed into as few transactions as fit.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<(String, Txn, Option<Saying>)>,
}

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

    /// Packs all of it; `base` holds the comparisons that every transaction makes.
    pub fn pack(self, about: &str, base: &Txn, plan: &mut Plan) {
        let (mut what, mut txn, mut tell) = (Vec::new(), base.clone(), Vec::new());
        for (words, item, saying) in self.items {
            let compares = txn.compares().len() + item.compares().len();
            if !txn.is_empty()
                && (compares > TXN_OPS || txn.ops().len() + item.ops().len() > TXN_OPS)
            {
                let full = std::mem::replace(&mut txn, base.clone());
                plan.act(about, std::mem::take(&mut what).join(", "), full);
                plan.tell(std::mem::take(&mut tell));
            }
            what.push(words);
            tell.extend(saying);
            txn = txn.and(item);
        }
        if !txn.is_empty() {
            plan.act(about, what.join(", "), txn);
            plan.tell(tell);
        }
    }
}

/// What the rounds remember; lost with the leader, and nothing but timers and caution.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) apps: BTreeMap<AppName, AppMemory>,
    pub(super) hosts: HostMemory,
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
    let mut plan = Plan::default();
    let first = !std::mem::replace(&mut memory.started, true);
    let losses = hosts::assess(world, &mut memory.hosts, cx, &mut plan);
    let mut pool = LazyPool { world, pool: None };

    if first || changed.units || changed.hosts || losses.new || memory.units_busy {
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
    plan
}

/// The hosts of a round, put in order only when something is to be placed.
pub(super) struct LazyPool<'w> {
    world: &'w World,
    pool: Option<Pool>,
}

impl LazyPool<'_> {
    pub fn get(&mut self) -> &mut Pool {
        self.pool.get_or_insert_with(|| Pool::of(self.world))
    }
}

/// Whether a host can be given something: it is there and was not found lost.
pub(super) fn is_usable(world: &World, losses: &Losses, id: &MachineId) -> bool {
    !losses.lost.contains(id)
        && world
            .hosts
            .get(id)
            .is_some_and(|host| host.presence.machine().is_some())
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
