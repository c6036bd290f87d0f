//! What an app's processes should be, and the next step there: rollouts, repairs, removal.
//!
//! Level-triggered: a step looks at what is assigned, reported and acknowledged now, and never at
//! what an earlier step meant to do; so a step repeated, or taken by the next leader, goes on where
//! the last one stopped. A slot (`web.1`) has one *keeper*, the process that is to stay; whatever
//! else fills the slot goes once the keeper serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use uuid::Uuid;

use super::{
    hosts::{HostMemory, Losses},
    removal,
    round::{Batch, Context, LazyPool, Memory, Plan, fenced, is_usable},
    schedule::Wanted,
    standing::{Hold, Lag, Proc},
    world::{AppView, Needs, World},
};
use crate::{
    model::*,
    store::{Txn, Versioned, keys},
};

/// Least time between two writes of what a rollout waits for.
const VOICE: Duration = Duration::from_secs(1);

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
}

/// What the rounds remember of one app.
#[derive(Debug, Default)]
pub struct AppMemory {
    /// Rollout and direction that the timers belong to.
    of: Option<(Uuid, bool)>,
    timers: BTreeMap<Timer, Duration>,
    voiced: Option<Duration>,
}

/// Where an app is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nowhere: what is wanted is kept.
    Steady,
    /// To the rollout's target.
    Forward,
    /// Back to where the rollout came from.
    Reverting,
}

struct Goal<'w> {
    mode: Mode,
    release: ReleaseNumber,
    structure: &'w Structure,
    rollout: Option<&'w Versioned<Rollout>>,
}

impl<'w> Goal<'w> {
    fn of(app: &'w App, rollout: Option<&'w Versioned<Rollout>>) -> Self {
        let Some(versioned) = rollout else {
            let (release, structure) = (app.active, &app.structure);
            return Self {
                mode: Mode::Steady,
                release,
                structure,
                rollout,
            };
        };
        let value = &versioned.value;
        match value.phase {
            RolloutPhase::Forward => Self {
                mode: Mode::Forward,
                release: value.release,
                structure: &value.structure,
                rollout,
            },
            RolloutPhase::Reverting { .. } => Self {
                mode: Mode::Reverting,
                release: value.previous,
                structure: &value.previous_structure,
                rollout,
            },
        }
    }

    fn id(&self) -> Option<Uuid> {
        self.rollout.map(|rollout| rollout.value.id)
    }

    /// Whether a process is what the goal wants in its slot.
    fn is_current(&self, proc: &Proc<'_>) -> bool {
        let selected = match (self.mode, self.rollout.map(|rollout| &rollout.value.change)) {
            (Mode::Forward, Some(RolloutKind::Restart { only, number })) => {
                only.as_ref().is_none_or(|kind| *kind == proc.name.kind)
                    && number.is_none_or(|number| number == proc.name.number)
            }
            _ => false,
        };
        proc.name.release == self.release && (!selected || self.belongs(proc))
    }

    /// Whether this rollout has put it there.
    fn belongs(&self, proc: &Proc<'_>) -> bool {
        self.id().is_some() && proc.rollout() == self.id()
    }

    /// The numbers wanted of a type, given those that are there.
    ///
    /// The lowest stay. A scale-up counts on from the highest, as Deis v1 did; repairs and deploys
    /// fill gaps, so that a number survives the loss of its process.
    fn numbers(&self, there: &BTreeSet<u32>, count: u32) -> BTreeSet<u32> {
        let mut wanted: BTreeSet<u32> = there.iter().copied().take(count as usize).collect();
        let scaling = self.mode == Mode::Forward
            && self
                .rollout
                .is_some_and(|rollout| rollout.value.change == RolloutKind::Scale);
        let from = if scaling {
            there.last().map_or(1, |highest| highest + 1)
        } else {
            1
        };
        let free = (from..).filter(|number| !there.contains(number));
        wanted.extend(free.take(count as usize - wanted.len()));
        wanted
    }
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
    timers: BTreeMap<Timer, Duration>,
    next_timers: BTreeMap<Timer, Duration>,
    batch: Batch,
    waiting: Vec<String>,
    failure: Option<(String, Vec<String>)>,
}

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
            format!("left alone: {key} can't be read ({why})"),
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
        timers: std::mem::take(&mut own.timers),
        next_timers: BTreeMap::new(),
        batch: Batch::default(),
        waiting: Vec::new(),
        failure: None,
    };
    step.one_offs(&procs);
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

    /// One-off processes: those on lost hosts are gone, those that have stopped are forgotten.
    fn one_offs(&mut self, procs: &[Proc<'w>]) {
        for proc in procs.iter().filter(|proc| proc.is_one_off()) {
            if proc.lost {
                removal::forget_lost(proc, self.view, &mut self.batch);
            } else if proc.desired() == Desired::Stop {
                removal::retire(proc, None, self.cx, &mut self.batch, &mut self.waiting);
            }
        }
    }

    /// Everything but one-offs; whether the goal is reached.
    fn processes(&mut self, procs: &[Proc<'w>], pool: &mut LazyPool<'_>, plan: &mut Plan) -> bool {
        let procs: Vec<Proc<'w>> = procs
            .iter()
            .filter(|proc| !proc.is_one_off())
            .copied()
            .collect();
        let wanted = self.wanted(&procs);
        let keepers = self.keepers(&procs, &wanted);
        let kept = |proc: &Proc<'_>| {
            keepers
                .get(&proc.name.id())
                .is_some_and(|keeper| same(keeper, proc))
        };
        let others: Vec<Proc<'w>> = procs.iter().filter(|proc| !kept(proc)).copied().collect();

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
                    }
                }
            }
        }
        let missing: Vec<&ProcessId> = wanted
            .iter()
            .filter(|slot| !keepers.contains_key(*slot))
            .collect();
        let missing_now = missing.len();
        let all_settled = missing.is_empty() && unsettled == 0;

        let room = self.room(&wanted, &keepers, &settled, &others);
        let covered = self.place(&missing, room, &keepers, &others, pool, plan);
        for proc in &others {
            let slot = proc.name.id();
            if proc.lost {
                // Its replacement takes it along; or it is kept in case its host comes back first.
                if !missing.contains(&&slot) || !self.is_replaceable(proc) {
                    removal::forget_lost(proc, self.view, &mut self.batch);
                } else if !covered.contains(&slot) {
                    self.waiting
                        .push(format!("{}: its host is lost", proc.label()));
                }
                continue;
            }
            if self.may_go(proc, &wanted, &settled, all_settled) {
                self.retire(proc, plan);
            }
        }
        missing_now == 0 && unsettled == 0 && others.is_empty() && self.failure.is_none()
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
                && self.goal.is_current(proc);
            if !stays {
                continue;
            }
            let newcomer = self.mode() == Mode::Reverting && self.goal.belongs(proc);
            let draining = proc.desired() == Desired::Drain;
            let lags = self.lag(proc).is_some();
            let rank = (
                newcomer,
                draining,
                lags,
                proc.name.incarnation,
                proc.machine,
            );
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

    /// How many more processes may be put in flight now.
    fn room(
        &self,
        wanted: &BTreeSet<ProcessId>,
        keepers: &BTreeMap<ProcessId, Proc<'w>>,
        settled: &BTreeSet<ProcessId>,
        others: &[Proc<'w>],
    ) -> usize {
        if self.mode() != Mode::Forward {
            return usize::MAX;
        }
        let leaving: BTreeSet<ProcessId> = others.iter().map(|proc| proc.name.id()).collect();
        let in_flight = keepers
            .iter()
            .filter(|(slot, keeper)| {
                self.goal.belongs(keeper) && (!settled.contains(*slot) || leaving.contains(*slot))
            })
            .count();
        let share = (wanted.len() * self.cx.policy.surge_percent).div_ceil(100);
        self.cx.policy.surge.max(share).saturating_sub(in_flight)
    }

    /// Whether a lost process is what the goal wants: then its replacement takes it along.
    fn is_replaceable(&self, proc: &Proc<'_>) -> bool {
        proc.desired() == Desired::Run && self.goal.is_current(proc)
    }

    /// Places processes into missing slots; gives the slots that got one.
    fn place(
        &mut self,
        missing: &[&ProcessId],
        room: usize,
        keepers: &BTreeMap<ProcessId, Proc<'w>>,
        others: &[Proc<'w>],
        pool: &mut LazyPool<'_>,
        plan: &mut Plan,
    ) -> BTreeSet<ProcessId> {
        let mut covered = BTreeSet::new();
        if missing.is_empty() {
            return covered;
        }
        let Some(needs) = self.view.needs(self.goal.release) else {
            let why = format!(
                "release {} or its config is not in the store",
                self.goal.release
            );
            if self.mode() == Mode::Forward {
                self.failure.get_or_insert((why.clone(), vec![]));
            }
            self.waiting.push(why);
            return covered;
        };
        let mut by_kind: BTreeMap<&ProcessType, Vec<&ProcessId>> = BTreeMap::new();
        for slot in missing.iter().take(room) {
            by_kind.entry(&slot.kind).or_default().push(slot);
        }
        let mut short = None;
        for (kind, slots) in by_kind {
            let mut peers: BTreeMap<MachineId, u32> = BTreeMap::new();
            for keeper in keepers.values().filter(|keeper| keeper.name.kind == *kind) {
                *peers.entry(keeper.machine.clone()).or_default() += 1;
            }
            let memory_bytes = needs.memory_bytes(kind);
            let wanted = Wanted {
                memory_bytes,
                tags: &needs.tags,
                peers: &peers,
            };
            let hosts = pool.get().place(&wanted, slots.len());
            if hosts.len() < slots.len() {
                let why = pool.get().shortage(&wanted);
                short = Some(format!("{}: {why}", slots[hosts.len()]));
            }
            for (slot, machine) in slots.into_iter().zip(hosts) {
                if is_usable(self.world, self.losses, &machine) {
                    self.put_new(slot, &machine, needs, others);
                    covered.insert(slot.clone());
                }
            }
        }
        if let Some(why) = short {
            // Nothing of ours is on its way that could make room: the rollout waits for others.
            if self.mode() == Mode::Forward
                && covered.is_empty()
                && self.waited(Timer::Place, self.cx.policy.total, plan)
            {
                self.failure.get_or_insert((why.clone(), vec![]));
            }
            let olds = others.iter().any(|proc| !proc.lost);
            let hint = if olds {
                "; the old ones keep their places until new ones serve"
            } else {
                ""
            };
            self.waiting.push(format!("{why}{hint}"));
        }
        covered
    }

    /// A new process in a slot, in one transaction with the end of those it replaces on lost hosts.
    fn put_new(
        &mut self,
        slot: &ProcessId,
        machine: &MachineId,
        needs: &Needs,
        others: &[Proc<'w>],
    ) {
        let first = ProcessName::first(
            self.app.clone(),
            self.goal.release,
            slot.kind.clone(),
            slot.number,
        );
        let process = self.view.next_incarnation(first);
        let key = keys::assignment(machine, &process.to_string());
        let memory_bytes = needs.memory_bytes(&slot.kind);
        let assignment = Assignment {
            schema: SCHEMA,
            uuid: (self.cx.new_id)(),
            desired: Desired::Run,
            work: Work::Process {
                rollout: self.goal.id(),
                memory_bytes,
            },
        };
        let mut txn = Txn::new()
            .absent(&key)
            .present(&keys::machine(machine))
            .put(&key, &assignment);
        let mut what = format!("{process} to {}", self.host_name(machine));
        let replaced = others
            .iter()
            .filter(|old| old.lost && old.name.id() == *slot && self.is_replaceable(old));
        for old in replaced {
            txn = txn.and(removal::forget(old, self.view));
            what = format!("{what} instead of {}", old.label());
        }
        self.batch.add(what, txn);
    }

    fn host_name(&self, machine: &MachineId) -> String {
        let view = self.world.hosts.get(machine);
        view.map_or_else(|| machine.to_string(), |view| view.name(machine).to_owned())
    }

    /// Whether a process that is not to stay may go now.
    fn may_go(
        &self,
        proc: &Proc<'_>,
        wanted: &BTreeSet<ProcessId>,
        settled: &BTreeSet<ProcessId>,
        all_settled: bool,
    ) -> bool {
        if proc.desired() == Desired::Stop {
            return true;
        }
        let slot = proc.name.id();
        let served = if wanted.contains(&slot) {
            settled.contains(&slot)
        } else {
            all_settled
        };
        // What takes no traffic is missed by nobody; but a release that is to be gone back to is.
        let useless = || self.lag(proc).is_some_and(|lag| lag != Lag::HostAway);
        match self.mode() {
            Mode::Steady => !wanted.contains(&slot) || served || useless(),
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
        let hold = proc.hold(self.world, self.view, self.hosts);
        if let Some(Hold::Routers(ips)) = &hold
            && proc.desired() == Desired::Drain
        {
            let timer = Timer::Drained(proc.assignment.value.uuid);
            if self.waited(timer, self.cx.policy.router_silence, plan) {
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

    /// Commits what was found out: the failure, the end, the steps, or what is waited for.
    fn finish(mut self, is_done: bool, own: &mut AppMemory, plan: &mut Plan) {
        own.timers = std::mem::take(&mut self.next_timers);
        for why in &self.waiting {
            plan.wait(self.app.as_str(), why.as_str());
        }
        let app = keys::app(self.app);
        let key = keys::rollout(self.app);
        let base = fenced(self.cx).unchanged(&app, self.record.mod_revision);
        let Some(rollout) = self.goal.rollout else {
            self.batch.pack(self.app.as_str(), &base.absent(&key), plan);
            return;
        };
        let base = base.unchanged(&key, rollout.mod_revision);
        let id = &rollout.value;
        if let Some((reason, log)) = self.failure.take() {
            let what = format!("rollout of {} is given up: {reason}", id.release);
            let phase = RolloutPhase::Reverting { reason, log };
            let next = Rollout {
                phase,
                waiting: None,
                ..id.clone()
            };
            plan.act(self.app.as_str(), what, base.put(&key, &next));
        } else if !self.batch.is_empty() {
            self.batch.pack(self.app.as_str(), &base, plan);
        } else if is_done {
            let (what, txn) = self.end(rollout);
            plan.act(self.app.as_str(), what, base.and(txn));
        } else {
            let waiting = summary(&self.waiting);
            if waiting == id.waiting {
                return;
            }
            let at = own.voiced.map_or(self.cx.now, |last| last + VOICE);
            if self.cx.now < at {
                plan.wake_at(at);
                return;
            }
            own.voiced = Some(self.cx.now);
            let next = Rollout {
                waiting,
                ..id.clone()
            };
            plan.act(self.app.as_str(), "waiting", base.put(&key, &next));
        }
    }

    /// The end of a rollout, whichever way it went.
    fn end(&self, rollout: &Versioned<Rollout>) -> (String, Txn) {
        let rollout = &rollout.value;
        let (result, reason, log) = match &rollout.phase {
            RolloutPhase::Forward => (OutcomeResult::Succeeded, None, vec![]),
            RolloutPhase::Reverting { reason, log } => {
                (OutcomeResult::Failed, Some(reason.clone()), log.clone())
            }
        };
        let app = App {
            active: self.goal.release,
            structure: self.goal.structure.clone(),
            updated: self.cx.wall,
            last_rollout: Some(RolloutEnd {
                id: rollout.id,
                result,
                reason: reason.clone(),
            }),
            ..self.record.value.clone()
        };
        let mut txn = Txn::new()
            .put(&keys::app(self.app), &app)
            .delete(&keys::rollout(self.app));
        let version = rollout.release;
        if rollout.change == RolloutKind::Release && !self.view.outcomes.contains(&version) {
            let finished = self.cx.wall;
            let outcome = Outcome {
                schema: SCHEMA,
                version,
                result,
                reason,
                log,
                finished,
            };
            let key = keys::outcome(self.app, version);
            txn = txn.absent(&key).put(&key, &outcome);
        }
        (
            format!("rollout of {version} has {result:?}").to_lowercase(),
            txn,
        )
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

/// One line for people out of all reasons.
fn summary(waiting: &[String]) -> Option<String> {
    let (first, rest) = waiting.split_first()?;
    Some(match rest.len() {
        0 => first.clone(),
        more => format!("{first}; and {more} more"),
    })
}
