//! New processes: how many may be under way, where they go, and what they take along.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Mode, Others, Step, Timer};
use crate::{
    model::*,
    plan::{
        removal,
        round::{LazyPool, Plan, Saying},
        schedule::{Chance, Wanted},
        standing::Proc,
        waiting::{NoPlace, Reason, Shortage},
        world::Needs,
    },
    store::{Txn, keys},
};

impl<'w> Step<'_, 'w> {
    /// The missing slots that are to get a process now.
    ///
    /// A rollout has a budget of processes in flight: of those it replaces something with, a share; of
    /// those that come to a release that runs already, as many as the hosts can start in time. So have
    /// moves, of processes that run and have to leave their host; what is simply missing is replaced at
    /// once.
    pub(super) fn due<'m>(
        &mut self,
        missing: &BTreeSet<&'m ProcessId>,
        wanted: &BTreeSet<ProcessId>,
        keepers: &BTreeMap<ProcessId, Proc<'w>>,
        settled: &BTreeSet<ProcessId>,
        others: &Others<'w>,
    ) -> Vec<&'m ProcessId> {
        let share = (wanted.len() * self.cx.policy.surge_percent).div_ceil(100);
        let mut budget = self.cx.policy.surge.max(share);
        if self.mode() == Mode::Forward {
            if self.goal.is_scaling() {
                budget = budget.max(self.cx.policy.starts_per_host * self.world.hosts.len());
            }
            let in_flight = keepers
                .iter()
                .filter(|(slot, keeper)| {
                    self.goal.belongs(keeper)
                        && (!settled.contains(*slot) || others.contains_key(*slot))
                })
                .count();
            let room = budget.saturating_sub(in_flight);
            return missing.iter().copied().take(room).collect();
        }
        let runs = |slot: &ProcessId| {
            others.get(slot).is_some_and(|procs| {
                let mut procs = procs.iter();
                procs.any(|proc| !proc.lost && proc.desired() == Desired::Run)
            })
        };
        let (moves, mut due): (Vec<&ProcessId>, Vec<&ProcessId>) =
            missing.iter().copied().partition(|slot| runs(slot));
        let moving = keepers.keys().filter(|slot| others.contains_key(*slot));
        let room = budget.saturating_sub(moving.count());
        if let Some(next) = moves.get(room) {
            let more = moves.len() - room;
            self.waiting.push(format!(
                "{next}: {more} have to leave their host; at most {budget} move at once"
            ));
        }
        due.extend(moves.into_iter().take(room));
        due
    }

    /// Whether a lost process is what the goal wants: then its replacement takes it along.
    pub(super) fn is_replaceable(&self, proc: &Proc<'_>) -> bool {
        proc.desired() == Desired::Run && self.goal.is_current(proc)
    }

    /// Whether a lost process goes in the transaction that places another one in its slot. One of a
    /// single type does in any case: should its host come back first, there would be two.
    pub(super) fn goes_along(&self, proc: &Proc<'_>) -> bool {
        self.is_replaceable(proc) || self.is_single(&proc.name.kind)
    }

    /// Places processes into missing slots; gives the slots that got one.
    pub(super) fn place(
        &mut self,
        due: &[&ProcessId],
        keepers: &BTreeMap<ProcessId, Proc<'w>>,
        others: &Others<'w>,
        pool: &mut LazyPool<'_>,
        plan: &mut Plan,
    ) -> BTreeSet<ProcessId> {
        let mut covered = BTreeSet::new();
        if due.is_empty() {
            return covered;
        }
        let Some(needs) = self.needs() else {
            return covered;
        };
        let mut by_kind: BTreeMap<&ProcessType, Vec<&ProcessId>> = BTreeMap::new();
        for slot in due {
            by_kind.entry(&slot.kind).or_default().push(slot);
        }
        let mut short = Vec::new();
        for (kind, slots) in by_kind {
            let mut peers: BTreeMap<MachineId, u32> = BTreeMap::new();
            for keeper in keepers.values().filter(|keeper| keeper.name.kind == *kind) {
                *peers.entry(keeper.machine.clone()).or_default() += 1;
            }
            let wanted = Wanted {
                needs: needs.of(kind),
                tags: &needs.tags,
                peers: &peers,
            };
            let hosts = pool.get().place(&wanted, slots.len());
            if hosts.len() < slots.len() {
                let chance = pool.get().chance(&wanted);
                let shortage = pool.get().shortage(&wanted);
                let whys = no_places(&slots[hosts.len()..], others, &shortage);
                short.extend(whys.map(|why| (why, chance)));
            }
            for (slot, machine) in slots.into_iter().zip(hosts) {
                self.put_new(slot, &machine, needs, others);
                covered.insert(slot.clone());
            }
        }
        for (why, chance) in short {
            // While something of ours is on its way, it may make room: it is waited for first.
            if covered.is_empty() {
                self.no_place(why, chance, plan);
            } else {
                self.waiting.push(Reason::NoPlace(Box::new(why)));
            }
        }
        covered
    }

    /// What the release needs of a host. Without that, a rollout forward has failed.
    pub(super) fn needs(&mut self) -> Option<&'w Needs> {
        let needs = self.view.needs(self.goal.release);
        if needs.is_none() {
            let why = format!(
                "release {} or its config is not in the store",
                self.goal.release
            );
            if self.mode() == Mode::Forward {
                self.failure.get_or_insert((why.clone(), vec![]));
            }
            self.waiting.push(why);
        }
        needs
    }

    /// Nothing that the rollout wants has a place: that is waited for as long as there is a chance.
    pub(super) fn no_place(&mut self, why: NoPlace, chance: Chance, plan: &mut Plan) {
        let patience = match chance {
            Chance::Room => self.cx.policy.total,
            Chance::Away => self.cx.policy.ready,
            Chance::None => Duration::ZERO,
        };
        if self.mode() == Mode::Forward && self.waited(Timer::Place, patience, plan) {
            self.failure.get_or_insert((why.to_string(), vec![]));
        }
        self.waiting.push(Reason::NoPlace(Box::new(why)));
    }

    /// A new process in a slot, in one transaction with the end of those it replaces on lost hosts.
    fn put_new(
        &mut self,
        slot: &ProcessId,
        machine: &MachineId,
        needs: &Needs,
        others: &Others<'w>,
    ) {
        let first = ProcessName::first(
            self.app.clone(),
            self.goal.release,
            slot.kind.clone(),
            slot.number,
        );
        let process = self.view.next_incarnation(first);
        let process = process.to_string();
        let key = keys::assignment(machine, &process);
        let needs = needs.of(&slot.kind);
        let assignment = Assignment {
            schema: SCHEMA,
            uuid: (self.cx.new_id)(),
            desired: Desired::Run,
            work: Work::Process {
                rollout: self.goal.id(),
                memory_bytes: needs.memory_bytes,
                cpu_shares: u32::try_from(needs.cpu_shares).unwrap_or(u32::MAX),
                single: self.record.value.single.contains(&slot.kind),
                marks: 0,
            },
        };
        let mut txn = Txn::new()
            .absent(&key)
            .present(&keys::machine(machine))
            .put(&key, &assignment);
        let host = self.host_name(machine);
        let mut what = format!("{process} to {host}");
        let mut lost = None;
        let replaced = others.get(slot).into_iter().flatten();
        let replaced = replaced.filter(|old| old.lost && self.goes_along(old));
        for old in replaced {
            txn = txn.and(removal::forget(old, self.view));
            what = format!("{what} instead of {}", old.label());
            lost = Some(self.host_name(old.machine));
        }
        let Some(lost) = lost else {
            self.batch.add(what, txn);
            return;
        };
        let saying = Saying {
            app: self.app.clone(),
            process: Some(slot.to_string()),
            text: format!("moves to {host}: its host {lost} is lost"),
        };
        self.batch.add_and_tell(what, txn, saying);
    }

    fn host_name(&self, machine: &MachineId) -> String {
        let view = self.world.hosts.get(machine);
        view.map_or_else(|| machine.to_string(), |view| view.name(machine).to_owned())
    }
}

/// Why these slots get no process: together, but for those whose old ones stay on a drained host, which
/// are named beside it.
fn no_places<'o>(
    slots: &[&ProcessId],
    others: &'o Others<'_>,
    shortage: &'o Shortage,
) -> impl Iterator<Item = NoPlace> + use<'o> {
    let drained = |slot: &ProcessId| {
        let mut procs = others.get(slot).into_iter().flatten();
        let stays = procs.find(|proc| !proc.lost && proc.host.drain().is_some())?;
        Some(stays.host.name(stays.machine).to_owned())
    };
    let mut groups: BTreeMap<Option<String>, Vec<ProcessId>> = BTreeMap::new();
    for slot in slots {
        let group = groups.entry(drained(slot)).or_default();
        group.push((*slot).clone());
    }
    let old_ones_stay = others.values().flatten().any(|proc| !proc.lost);
    groups.into_iter().map(move |(stay_on, slots)| NoPlace {
        slots,
        stay_on,
        shortage: shortage.clone(),
        old_ones_stay,
    })
}
