//! Which hosts are lost, and what is remembered of routers that went away.
//!
//! A host is lost when its lease has run out, the grace is over, and the leader's own view of the
//! store has been whole for long enough to tell. Many at once are a fault of the network, not of the
//! hosts: then nothing moves, and it is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    round::{Context, Plan, fenced},
    world::{HostView, RouterView, World},
};
use crate::{model::*, store::keys};

/// What rounds remember of hosts and routers.
#[derive(Debug, Default)]
pub struct HostMemory {
    /// Since when each absent host has been seen to be absent.
    absent: BTreeMap<MachineId, Duration>,
    lost: BTreeSet<MachineId>,
    routers: BTreeMap<String, RouterView>,
    /// Routers that went away, and when that was seen.
    pub(super) departed: BTreeMap<String, (RouterView, Duration)>,
    /// Since when routers are watched, if somebody did so before it led.
    since: Option<Duration>,
    /// Routers may have gone before they were watched, and may be serving still.
    pub(super) young: bool,
}

impl HostMemory {
    /// Watches routers come and go while somebody else leads.
    pub(super) fn follow(&mut self, world: &World, now: Duration, linger: Duration) {
        self.since.get_or_insert(now);
        note_routers(world, self, now, linger);
    }

    /// What is still known when a term begins.
    pub(super) fn new_term(self) -> Self {
        Self {
            routers: self.routers,
            departed: self.departed,
            since: self.since,
            ..Self::default()
        }
    }
}

/// What is lost.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Losses {
    /// Hosts whose processes are to be moved.
    pub lost: BTreeSet<MachineId>,
    /// Something is lost, or back, that was not at the last round.
    pub new: bool,
}

/// Finds out which hosts are lost, and writes it into their records.
pub(super) fn assess(
    world: &World,
    memory: &mut HostMemory,
    cx: &Context<'_>,
    plan: &mut Plan,
) -> Losses {
    watch_routers(world, memory, cx, plan);
    let counted = |view: &HostView| {
        view.record.is_some() || !view.processes.is_empty() || !view.units.is_empty()
    };
    let known_lost = |view: &HostView| {
        view.record
            .as_ref()
            .is_some_and(|record| record.value.lost_since.is_some())
    };
    let mut before = std::mem::take(&mut memory.absent);
    let (mut here, mut fresh, mut due) = (0_usize, Vec::new(), Vec::new());
    let mut losses = Losses::default();
    for (id, view) in &world.hosts {
        if !view.presence.is_absent() {
            here += 1;
            mark(id, view, false, cx, plan);
            continue;
        }
        if !counted(view) {
            continue;
        }
        let since = before.remove(id).unwrap_or(cx.now);
        memory.absent.insert(id.clone(), since);
        if known_lost(view) {
            losses.lost.insert(id.clone());
            continue;
        }
        fresh.push(view.name(id));
        let at = since.max(cx.view_since + cx.policy.host_ttl) + cx.policy.host_grace;
        if cx.now < at {
            plan.wake_at(at);
            let why = format!(
                "is away; it counts as lost after {} s",
                (at - cx.now).as_secs() + 1
            );
            plan.wait(format!("host {}", view.name(id)), why);
        } else {
            due.push((id, view));
        }
    }
    // One host is never "many".
    let many = fresh.len() > 1
        && fresh.len() * 100 > (fresh.len() + here) * cx.policy.lost_percent as usize;
    if many && !due.is_empty() {
        let why = format!(
            "{} of {} hosts went away at once ({}), more than {} %: that looks like a fault of the \
             network, so nothing is moved; bring hosts back, or raise \
             /deis/platform/lost-hosts-percent",
            fresh.len(),
            fresh.len() + here,
            fresh.join(", "),
            cx.policy.lost_percent
        );
        plan.wait("lost hosts", why);
    } else {
        for (id, view) in due {
            losses.lost.insert(id.clone());
            mark(id, view, true, cx, plan);
        }
    }
    losses.new = losses.lost != memory.lost;
    memory.lost.clone_from(&losses.lost);
    losses
}

/// Sets or clears `lost_since` where it isn't so already.
fn mark(id: &MachineId, view: &HostView, lost: bool, cx: &Context<'_>, plan: &mut Plan) {
    let Some(record) = &view.record else { return };
    if record.value.lost_since.is_some() == lost {
        return;
    }
    let (key, machine) = (keys::host(id), keys::machine(id));
    let value = HostRecord {
        lost_since: lost.then_some(cx.wall),
        ..record.value.clone()
    };
    let txn = fenced(cx)
        .unchanged(&key, record.mod_revision)
        .put(&key, &value);
    let (txn, what) = if lost {
        (txn.absent(&machine), "the host is lost")
    } else {
        (txn.present(&machine), "the host is back")
    };
    plan.act(view.name(id), what, txn);
}

/// Remembers for a while what a router that goes away had acknowledged last.
fn watch_routers(world: &World, memory: &mut HostMemory, cx: &Context<'_>, plan: &mut Plan) {
    let linger = cx.policy.router_linger;
    note_routers(world, memory, cx.now, linger);
    for (_, since) in memory.departed.values() {
        plan.wake_at(*since + linger);
    }
    memory.young = false;
    if let Some(known) = memory.since.map(|since| since + linger)
        && cx.now < known
    {
        memory.young = true;
        plan.wake_at(known);
    }
}

fn note_routers(world: &World, memory: &mut HostMemory, now: Duration, linger: Duration) {
    for (ip, view) in &memory.routers {
        if !world.routers.contains_key(ip) {
            memory.departed.insert(ip.clone(), (view.clone(), now));
        }
    }
    memory
        .departed
        .retain(|ip, (_, since)| !world.routers.contains_key(ip) && *since + linger > now);
    if memory.routers != world.routers {
        memory.routers.clone_from(&world.routers);
    }
}
