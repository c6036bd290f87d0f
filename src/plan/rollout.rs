//! What an app's processes should be, and the next step there: rollouts, repairs, removal.
//!
//! Level-triggered: a step looks at what is assigned, reported and acknowledged now, and never at
//! what an earlier step meant to do; so a step repeated, or taken by the next leader, goes on where
//! the last one stopped. A slot (`web.1`) has one *keeper*, the process that is to stay; whatever
//! else fills the slot goes once the keeper serves.

mod command;
mod end;
mod goal;
mod hold;
mod leave;
mod place;
mod single;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use goal::{Goal, Mode};
use uuid::Uuid;

use super::{
    hosts::{HostMemory, Losses},
    removal,
    round::{Batch, Context, LazyPool, Memory, Plan},
    standing::{Hold, Lag, Proc},
    waiting::{Reason, Reasons},
    world::{AppView, World},
};
use crate::{
    model::*,
    store::{Txn, Versioned},
};

/// What a timer measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// All of a process's start.
    Total(Uuid),
    /// A process's start since its image is there.
    Ready(Uuid),
    /// Its agent's silence about it.
    Unreported(Uuid),
    /// Routers that don't have its address.
    Applied(Uuid),
    /// Routers that may have requests with it.
    Drained(Uuid),
    /// A free place for anything.
    Place,
    /// Routers that don't know yet that they have to hold requests.
    Hold,
    /// What the first processes of a rollout do with requests.
    Watch(Uuid),
}

/// What the rounds remember of one app.
#[derive(Debug, Default)]
pub struct AppMemory {
    /// Rollout and direction that the timers belong to.
    of: Option<(Uuid, bool)>,
    timers: BTreeMap<Timer, Duration>,
    voiced: Option<Duration>,
    /// Since when nothing is left to do but to ask the routers.
    done: Option<Duration>,
}

/// The state of one step.
struct Step<'s, 'w> {
    world: &'w World,
    app: &'s AppName,
    view: &'w AppView,
    record: &'w Versioned<App>,
    losses: &'s Losses,
    hosts: &'s HostMemory,
    cx: &'s Context<'s>,
    goal: Goal<'w>,
    /// The process that is to move, so that the app is spread better.
    mover: Option<&'s ProcessName>,
    timers: BTreeMap<Timer, Duration>,
    next_timers: BTreeMap<Timer, Duration>,
    batch: Batch,
    waiting: Reasons,
    failure: Option<(String, Vec<String>)>,
    /// The rollout's own next step: its record, with what goes along with that.
    turn: Option<(String, Txn, Rollout)>,
}

/// What is in slots besides their keepers.
type Others<'w> = BTreeMap<ProcessId, Vec<Proc<'w>>>;

/// Plans the next step of one app.
#[expect(
    clippy::too_many_arguments,
    reason = "a round's parts, passed on as they are"
)]
pub(super) fn step(
    world: &World,
    app: &AppName,
    view: &AppView,
    losses: &Losses,
    memory: &mut Memory,
    cx: &Context<'_>,
    pool: &mut LazyPool<'_>,
    plan: &mut Plan,
) {
    if let Some(key) = view.unreadable.first() {
        let why = world.unreadable().get(key).map_or("", String::as_str);
        plan.wait(
            app.as_str(),
            Reason::Unreadable(format!("left alone: {key} can't be read ({why})")),
        );
        return;
    }
    let procs: Vec<Proc<'_>> = view
        .placed
        .iter()
        .filter_map(|((name, machine), assignment)| {
            Proc::of(
                world,
                name,
                machine,
                assignment,
                losses.lost.contains(machine),
            )
        })
        .collect();
    let record = match &view.record {
        Some(record) if !record.value.destroying => record,
        _ => return removal::take_away(world, app, view, &procs, &memory.hosts, cx, plan),
    };
    let own = memory.apps.entry(app.clone()).or_default();
    let goal = Goal::of(&record.value, view.rollout.as_ref());
    let of = goal.id().map(|id| (id, goal.mode == Mode::Reverting));
    if own.of != of {
        *own = AppMemory {
            of,
            ..AppMemory::default()
        };
    }
    let mut step = Step {
        world,
        app,
        view,
        record,
        losses,
        hosts: &memory.hosts,
        cx,
        goal,
        mover: memory.mover.as_ref(),
        timers: std::mem::take(&mut own.timers),
        next_timers: BTreeMap::new(),
        batch: Batch::default(),
        waiting: Reasons::default(),
        failure: None,
        turn: None,
    };
    step.one_offs(&procs);
    step.command(&procs, pool, plan);
    let is_done = step.processes(&procs, pool, plan);
    step.finish(is_done, own, plan);
}

impl<'w> Step<'_, 'w> {
    /// How long this has been going on, and a call when it has for `bound`.
    fn waited(&mut self, timer: Timer, bound: Duration, plan: &mut Plan) -> bool {
        let since = self.timers.get(&timer).copied().unwrap_or(self.cx.now);
        self.next_timers.insert(timer, since);
        let over = self.cx.now >= since + bound;
        if !over {
            plan.wake_at(since + bound);
        }
        over
    }

    fn lag(&self, proc: &Proc<'_>) -> Option<Lag> {
        proc.lag(self.world, self.view, self.cx.policy.crash_restarts)
    }

    /// One-off processes: those on lost hosts are gone, those that have stopped are forgotten, and of
    /// those for which nobody waits those that have ended.
    fn one_offs(&mut self, procs: &[Proc<'w>]) {
        for proc in procs.iter().filter(|proc| proc.is_one_off()) {
            if proc.lost {
                removal::forget_lost(proc, self.view, &mut self.batch);
            } else if self.is_done_with(proc) {
                removal::retire(proc, None, self.cx, &mut self.batch, &mut self.waiting);
            } else if proc.host.drain().is_some() {
                let why = "its host is being drained; a one-off process is waited for";
                self.waiting.push(format!("{}: {why}", proc.label()));
            }
        }
    }

    /// Whether a one-off process is to go.
    fn is_done_with(&self, proc: &Proc<'w>) -> bool {
        let rollout = self.view.rollout.as_ref();
        let has_ended = if proc.name.kind == ProcessType::release() {
            !command::is_awaited(proc, rollout)
        } else {
            proc.is_over()
        };
        proc.desired() == Desired::Stop || has_ended || self.is_out_of_time(proc)
    }

    /// Everything but one-offs; whether the goal is reached.
    fn processes(&mut self, procs: &[Proc<'w>], pool: &mut LazyPool<'_>, plan: &mut Plan) -> bool {
        let procs: Vec<Proc<'w>> = procs
            .iter()
            .filter(|proc| !proc.is_one_off())
            .copied()
            .collect();
        if self.tell_hosts(&procs) {
            // On what these assignments are then, the next round goes on.
            self.next_timers = std::mem::take(&mut self.timers);
            return false;
        }
        let wanted = self.wanted(&procs);
        let keepers = self.keepers(&procs, &wanted);
        let kept = |proc: &Proc<'_>| {
            keepers
                .get(&proc.name.id())
                .is_some_and(|keeper| same(keeper, proc))
        };
        let mut others = Others::new();
        for proc in procs.iter().filter(|proc| !kept(proc)) {
            others.entry(proc.name.id()).or_default().push(*proc);
        }

        let mut settled: BTreeSet<ProcessId> = BTreeSet::new();
        let mut unsettled = 0;
        for (slot, keeper) in &keepers {
            if keeper.desired() == Desired::Drain {
                self.put_desired(keeper, Desired::Run);
            }
            match self.lag(keeper) {
                None => {
                    settled.insert(slot.clone());
                }
                Some(lag) => {
                    if self.mode() != Mode::Steady && self.is_overdue(keeper, &lag, plan) {
                        // Going back can't fail: what doesn't get up again is kept as it is.
                        settled.insert(slot.clone());
                    } else if self.mode() == Mode::Reverting || self.goal.belongs(keeper) {
                        unsettled += 1;
                        self.waiting.push(say(keeper, &lag));
                    } else if others.contains_key(slot) {
                        // It takes over from one that leaves its host.
                        self.is_overdue(keeper, &lag, plan);
                        self.waiting.push(say(keeper, &lag));
                    }
                }
            }
        }
        let missing: BTreeSet<&ProcessId> = wanted
            .iter()
            .filter(|slot| !keepers.contains_key(*slot))
            .collect();
        // Whoever goes back, or has nothing to roll out, doesn't wait for what only a host's return ends.
        let is_stuck = |slot: &&&ProcessId| {
            let mut procs = others.get(**slot).into_iter().flatten();
            self.mode() != Mode::Forward && procs.any(|proc| self.is_unstoppable(proc))
        };
        let missing_now = missing.len() - missing.iter().filter(is_stuck).count();
        let all_settled = missing_now == 0 && unsettled == 0;

        self.hold(&wanted, &keepers, &settled);
        let open = self.open(&missing, &keepers);
        let is_complete = open.is_empty()
            && unsettled == 0
            && !keepers.keys().any(|slot| others.contains_key(slot));
        let is_watched = self.watch(is_complete, plan);
        let slots = self.stop_first(&open, &keepers, &settled, &others, pool, plan);
        let free: BTreeSet<&ProcessId> = open
            .iter()
            .filter(|slot| !slots.taken.contains(**slot))
            .copied()
            .collect();
        let due = self.due(&free, &wanted, &keepers, &settled, &others);
        let covered = self.place(&due, &keepers, &others, pool, plan);
        for (slot, proc) in others
            .iter()
            .flat_map(|(slot, procs)| procs.iter().map(move |proc| (slot, proc)))
        {
            if proc.lost {
                // Its replacement takes it along; or it is kept in case its host comes back first.
                if slots.taken.contains(slot) || (covered.contains(slot) && self.goes_along(proc)) {
                    continue;
                }
                if !missing.contains(slot) && self.may_still_run(proc, plan) {
                    continue;
                }
                if !missing.contains(slot) || !self.is_replaceable(proc) {
                    removal::forget_lost(proc, self.view, &mut self.batch);
                } else if !covered.contains(slot) {
                    self.waiting
                        .push(format!("{}: its host is lost", proc.label()));
                }
                continue;
            }
            let replaced = keepers.contains_key(slot);
            let may_go = if self.is_single(&slot.kind) && wanted.contains(slot) {
                proc.desired() == Desired::Stop
                    || replaced
                    || slots.yielding.contains(slot)
                    || self.is_out_of_time(proc)
            } else {
                self.may_go(proc, &wanted, &settled, all_settled, replaced)
            };
            if may_go {
                self.retire(proc, plan);
            }
        }
        let is_gone = others
            .values()
            .flatten()
            .all(|proc| self.is_unstoppable(proc));
        let is_through = missing_now == 0 && unsettled == 0 && is_gone;
        is_through && !is_watched && self.failure.is_none()
    }

    const fn mode(&self) -> Mode {
        self.goal.mode
    }

    fn wanted(&self, procs: &[Proc<'w>]) -> BTreeSet<ProcessId> {
        let mut there: BTreeMap<&ProcessType, BTreeSet<u32>> = BTreeMap::new();
        for proc in procs {
            there
                .entry(&proc.name.kind)
                .or_default()
                .insert(proc.name.number);
        }
        let none = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        for (kind, count) in self.goal.structure {
            let numbers = self.goal.numbers(there.get(kind).unwrap_or(&none), *count);
            wanted.extend(numbers.into_iter().map(|number| ProcessId {
                kind: kind.clone(),
                number,
            }));
        }
        wanted
    }

    /// The process that is to stay, for each wanted slot that has one.
    fn keepers(
        &self,
        procs: &[Proc<'w>],
        wanted: &BTreeSet<ProcessId>,
    ) -> BTreeMap<ProcessId, Proc<'w>> {
        let mut best: BTreeMap<ProcessId, (_, Proc<'w>)> = BTreeMap::new();
        for proc in procs {
            let slot = proc.name.id();
            let stays = wanted.contains(&slot)
                && !proc.lost
                && proc.desired() != Desired::Stop
                && self.goal.is_current(proc)
                && !self.has_to_leave(proc);
            if !stays {
                continue;
            }
            let newcomer = self.mode() == Mode::Reverting && self.goal.belongs(proc);
            let draining = proc.desired() == Desired::Drain;
            let incarnation = i64::from(proc.name.incarnation.get());
            // With nothing to roll out, two live ones are a move: the newer is to take over, unless
            // it has had its time.
            let (lags, incarnation) = match self.mode() {
                Mode::Steady => (self.has_had_its_time(proc), -incarnation),
                Mode::Forward | Mode::Reverting => (self.lag(proc).is_some(), incarnation),
            };
            let rank = (newcomer, draining, lags, incarnation, proc.machine);
            match best.get(&slot) {
                Some((better, _)) if *better <= rank => {}
                _ => {
                    best.insert(slot, (rank, *proc));
                }
            }
        }
        best.into_iter()
            .map(|(slot, (_, proc))| (slot, proc))
            .collect()
    }

    /// Whether a keeper has had its time. Going forward that is the end of the rollout.
    fn is_overdue(&mut self, proc: &Proc<'_>, lag: &Lag, plan: &mut Plan) -> bool {
        if self.mode() == Mode::Forward && !self.goal.belongs(proc) {
            return false;
        }
        let policy = self.cx.policy;
        let uuid = proc.assignment.value.uuid;
        let seconds = |bound: Duration| format!("within {} s", bound.as_secs());
        let said = |reason: &Option<String>| {
            reason
                .as_ref()
                .map_or(String::new(), |reason| format!(": {reason}"))
        };
        let total = self.waited(Timer::Total(uuid), policy.total, plan);
        let (over, why, log) = match lag {
            // Its replacement gets its own time.
            Lag::HostAway => (false, String::new(), vec![]),
            Lag::Broken { reason, log } => (true, reason.clone(), log.clone()),
            Lag::Unreported => {
                let over = self.waited(Timer::Unreported(uuid), policy.ready, plan);
                let bound = seconds(policy.ready);
                (
                    over,
                    format!("its agent didn't take it up {bound}; see deis-agent there"),
                    vec![],
                )
            }
            Lag::Preparing(reason) => {
                let why = format!(
                    "its image wasn't ready {}{}",
                    seconds(policy.total),
                    said(reason)
                );
                (total, why, vec![])
            }
            Lag::Starting(reason) => {
                let over = self.waited(Timer::Ready(uuid), policy.ready, plan);
                let log = proc
                    .state()
                    .map(|state| state.log.clone())
                    .unwrap_or_default();
                let why = format!(
                    "it didn't get healthy {}{}",
                    seconds(policy.ready),
                    said(reason)
                );
                (over || total, why, log)
            }
            Lag::Routers(ips) => {
                let over = self.waited(Timer::Applied(uuid), policy.router_silence, plan);
                let bound = seconds(policy.router_silence);
                let routers = ips.join(", ");
                (
                    over,
                    format!("router {routers} didn't take its address {bound}"),
                    vec![],
                )
            }
        };
        if over && self.mode() == Mode::Forward {
            self.failure
                .get_or_insert((format!("{}: {why}", proc.label()), log));
        }
        over
    }

    /// Whether a process that is not to stay may go now.
    fn may_go(
        &self,
        proc: &Proc<'_>,
        wanted: &BTreeSet<ProcessId>,
        settled: &BTreeSet<ProcessId>,
        all_settled: bool,
        replaced: bool,
    ) -> bool {
        if proc.desired() == Desired::Stop || self.is_out_of_time(proc) {
            return true;
        }
        let slot = proc.name.id();
        let served = if wanted.contains(&slot) {
            settled.contains(&slot)
        } else {
            all_settled
        };
        // What takes no traffic is missed by nobody; but a release that is to be gone back to is. One
        // that a router doesn't know yet (it has just begun) takes traffic from the others.
        let useless = || {
            let lag = self.lag(proc);
            lag.is_some_and(|lag| !matches!(lag, Lag::HostAway | Lag::Routers(_)))
        };
        match self.mode() {
            // What serves badly on a host that it has to leave is better than nothing.
            Mode::Steady => !wanted.contains(&slot) || served || (replaced && useless()),
            Mode::Reverting => served || useless(),
            Mode::Forward => {
                let previous = self.goal.rollout.map(|rollout| rollout.value.previous);
                served || (Some(proc.name.release) != previous && useless())
            }
        }
    }

    fn put_desired(&mut self, proc: &Proc<'_>, desired: Desired) {
        removal::put_desired(proc, desired, &mut self.batch);
    }

    /// The next step out for a process.
    fn retire(&mut self, proc: &Proc<'w>, plan: &mut Plan) {
        let mut hold = proc.hold(self.world, self.view, self.hosts);
        if hold.is_some() && proc.desired() == Desired::Drain {
            let timer = Timer::Drained(proc.assignment.value.uuid);
            let silent = self.waited(timer, self.cx.policy.router_silence, plan);
            if silent && self.is_out_of_time(proc) {
                // The operator's deadline is over, and so is the routers' time.
                hold = None;
            } else if silent && let Some(Hold::Routers(ips)) = &hold {
                let silence = self.cx.policy.router_silence.as_secs();
                self.waiting.push(format!(
                    "{} stays up: router {} has not let go of it for {silence} s",
                    proc.label(),
                    ips.join(", "),
                ));
                return;
            }
        }
        removal::retire(proc, hold, self.cx, &mut self.batch, &mut self.waiting);
    }
}

fn same(one: &Proc<'_>, other: &Proc<'_>) -> bool {
    one.name == other.name && one.machine == other.machine
}

/// What a keeper waits for, in words.
fn say(proc: &Proc<'_>, lag: &Lag) -> String {
    let because = |reason: &Option<String>| {
        reason
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"))
    };
    let what = match lag {
        Lag::HostAway => "its host is away".to_owned(),
        Lag::Unreported => "its agent has not taken it up yet".to_owned(),
        Lag::Preparing(reason) => format!("its image is being prepared{}", because(reason)),
        Lag::Starting(reason) => format!("starting{}", because(reason)),
        Lag::Broken { reason, .. } => reason.clone(),
        Lag::Routers(ips) => format!("router {} doesn't have its address yet", ips.join(", ")),
    };
    format!("{}: {what}", proc.label())
}
