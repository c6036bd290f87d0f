//! Which hosts are lost, and what is remembered of routers that went away.
//!
//! A host is lost when its lease has run out, the grace is over, and the leader's own view of the
//! store has been whole for long enough to tell. Many at once are a fault of the network, not of the
//! hosts: then nothing moves, and it is said, until hosts come back or a person declares them lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    round::{Context, Plan, fenced},
    waiting::Reason,
    world::{Changed, HostView, RouterView, World},
};
use crate::{model::*, store::keys};

/// What rounds remember of hosts and routers.
#[derive(Debug, Default)]
pub struct HostMemory {
    /// Since when the leader's view has been whole that the rest was seen in.
    view: Duration,
    /// Hosts that were seen to be there in this view: they can be seen to go.
    seen: BTreeSet<MachineId>,
    /// Absent hosts.
    absent: BTreeMap<MachineId, Absence>,
    lost: BTreeSet<MachineId>,
    /// How many hosts there were when all of them were there, and all of their records said so.
    complete: Option<usize>,
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

/// An absent host.
#[derive(Debug, Clone, Copy)]
struct Absence {
    /// Since when it has been seen to be absent, without a break.
    since: Duration,
    /// When it went, as far as is known: what went before this leader is dated by its record.
    went: Duration,
}

/// What is lost.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Losses {
    /// Hosts whose processes are to be moved.
    pub lost: BTreeSet<MachineId>,
    /// Something is lost, or back, that was not at the last round.
    pub new: bool,
    /// For each absent host: when its agent must have stopped all processes of single types.
    pub fenced: BTreeMap<MachineId, Duration>,
    /// Hosts that are being drained and have had the time for it.
    pub overdue: BTreeSet<MachineId>,
}

/// Finds out which hosts are lost, and writes it into their records. With `all`, it looks at every host,
/// whatever changed.
pub(super) fn assess(
    world: &World,
    changed: &Changed,
    all: bool,
    memory: &mut HostMemory,
    cx: &Context<'_>,
    plan: &mut Plan,
) -> Losses {
    watch_routers(world, memory, cx, plan);
    let same_view = memory.begin(changed, cx);
    if same_view && !changed.hosts && !all && memory.complete == Some(world.hosts.len()) {
        return Losses::default();
    }
    let counted = |view: &HostView| {
        view.record.is_some() || !view.processes.is_empty() || !view.units.is_empty()
    };
    let mut before = std::mem::take(&mut memory.absent);
    let (mut here, mut fresh, mut due) = (0_usize, Vec::new(), Vec::new());
    let mut known = Vec::new();
    let acts = plan.acts.len();
    let mut losses = Losses::default();
    for (id, view) in &world.hosts {
        if !view.presence.is_absent() {
            here += 1;
            if !memory.seen.contains(id) {
                memory.seen.insert(id.clone());
            }
            mark(id, view, false, cx, plan);
            continue;
        }
        if !counted(view) {
            continue;
        }
        let absence = before.remove(id).unwrap_or_else(|| Absence {
            since: cx.now,
            went: went(view, cx),
        });
        memory.absent.insert(id.clone(), absence);
        let fenced = absence.since + cx.policy.until_fenced();
        losses.fenced.insert(id.clone(), fenced);
        if lost_since(view).is_some() {
            losses.lost.insert(id.clone());
            known.push((absence.went, view.name(id)));
            continue;
        }
        fresh.push((absence.went, view.name(id)));
        let (ttl, grace) = (cx.policy.host_ttl, cx.policy.host_grace);
        // Who was seen to go had all of his lease's time in a store that worked. Who was away when the
        // view began may only have been kept from renewing it, and gets that time again.
        let at = if memory.seen.contains(id) {
            (absence.since + grace).max(cx.view_since + ttl)
        } else {
            absence.since.max(cx.view_since + ttl) + grace
        };
        if cx.now < at {
            plan.wake_at(at);
            let left = at - cx.now;
            plan.wait(format!("host {}", view.name(id)), Reason::HostAway { left });
        } else {
            due.push((id, view));
        }
    }
    // Those that were found lost a moment before belong to the same wave: a network that goes down
    // host by host is one fault, too.
    let near = |one: Duration| {
        let gap = |(other, _): &(Duration, &str)| one.abs_diff(*other) < cx.policy.loss_window;
        fresh.iter().any(gap)
    };
    known.retain(|(went, _)| near(*went));
    let gone = fresh.len() + known.len();
    // One host is never "many".
    let many = gone > 1 && gone * 100 > (gone + here) * cx.policy.lost_percent as usize;
    if many && !due.is_empty() {
        let names = |hosts: &[(Duration, &str)], between| {
            let names: Vec<&str> = hosts.iter().map(|(_, name)| *name).collect();
            names.join(between)
        };
        let earlier = if known.is_empty() {
            String::new()
        } else {
            format!("; just before them {}", names(&known, ", "))
        };
        let why = format!(
            "{gone} of {} hosts went away at once ({}{earlier}), more than {} %: that looks like a \
             fault of the network, so nothing is moved; bring hosts back, or say that they are gone \
             for good: deisctl declare-lost {} (from how many on is /deis/platform/lost-hosts-percent)",
            gone + here,
            names(&fresh, ", "),
            cx.policy.lost_percent,
            names(&fresh, " "),
        );
        plan.wait("lost hosts", Reason::ManyLost(why));
    } else {
        for (id, view) in due {
            losses.lost.insert(id.clone());
            mark(id, view, true, cx, plan);
        }
    }
    let is_complete = here == world.hosts.len() && plan.acts.len() == acts;
    memory.complete = is_complete.then_some(here);
    losses.new = losses.lost != memory.lost;
    memory.lost.clone_from(&losses.lost);
    losses
}

impl HostMemory {
    /// What was seen before the view broke, or before a host was there in between, counts no more.
    /// Whether the view is that of the last round.
    fn begin(&mut self, changed: &Changed, cx: &Context<'_>) -> bool {
        let is_same = self.view == cx.view_since;
        if !is_same {
            self.view = cx.view_since;
            self.seen.clear();
            for absence in self.absent.values_mut() {
                absence.since = absence.since.max(cx.view_since);
            }
        } else {
            // They were there a moment ago, even if no round has looked at that time.
            self.seen.extend(changed.left.iter().cloned());
        }
        for id in &changed.left {
            self.absent.remove(id);
        }
        is_same
    }
}

fn lost_since(view: &HostView) -> Option<Timestamp> {
    view.record.as_ref()?.value.lost_since
}

/// When a host went that is absent at the first look. Who was found lost by an earlier leader is dated
/// by the wall clock: that decides on nothing but how cautious this leader is.
fn went(view: &HostView, cx: &Context<'_>) -> Duration {
    let age = lost_since(view).map(|since| cx.wall.duration_since(since));
    let age = age.and_then(|age| Duration::try_from(age).ok());
    cx.now.saturating_sub(age.unwrap_or_default())
}

/// Sets or clears `lost_since` where it isn't so already.
fn mark(id: &MachineId, view: &HostView, lost: bool, cx: &Context<'_>, plan: &mut Plan) {
    let Some(record) = &view.record else { return };
    if record.value.lost_since.is_some() == lost {
        return;
    }
    let (key, machine) = (keys::host(id), keys::machine(id));
    let record_of = record.value.clone();
    let value = if lost {
        HostRecord {
            lost_since: Some(cx.wall),
            ..record_of
        }
    } else {
        record_of.found()
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
