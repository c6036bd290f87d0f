//! What an agent has to do on its host: `plan(knowledge, wanted, seen, now) -> Plan`.
//!
//! Pure. The agent calls it after everything that happens and carries out what it says; what it says
//! depends only on what is wanted and what is there, never on how it came to that. Rules:
//! - A unit is adopted by the uuid in it. Neither an agent's restart nor another template is a reason
//!   to touch a unit that runs.
//! - Only fresh knowledge of the assignments stops anything. From the cache, units are only started.
//! - An address is withdrawn before its process is stopped; a drain withdraws and does nothing else.
//! - The one exception to all that is a process of a *single* type: it runs only while the host's lease
//!   is held, and is never started from the cache.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;

use crate::model::Desired;

/// How far the assignments are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// Not at all: the agent has just started.
    Nothing,
    /// From the host's own cache; etcd is away. They may be outdated.
    Cached,
    /// From etcd.
    Live,
}

/// Whether the host's lease is held, by the host's own monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It is: nobody else runs what is assigned here.
    Held,
    /// It has run out, or there is none yet.
    Expired,
}

/// What kind of thing an assignment is about, as far as planning goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A process that is published to the routers.
    Routable,
    /// A process that is not.
    Plain,
    /// A one-off process: started once, and its end is reported.
    Run,
    /// A raw unit of the platform or an operator: started once, systemd does the rest.
    Unit,
}

/// What the leader wants of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Identity of the assignment.
    pub uuid: Uuid,
    /// What is to become of it.
    pub desired: Desired,
    /// What it is.
    pub kind: Kind,
    /// There must never be two of it: how often that has been said or taken back of it.
    pub single: Option<u32>,
}

/// How much of a unit runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// Nothing.
    No,
    /// On its way up or down, or between two restarts.
    Changing,
    /// Up.
    Up,
}

/// Whether the process's address stands in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// A former life of the agent may have put it there.
    Unknown,
    /// It does not.
    No,
    /// It does.
    Yes,
}

/// A task that is under way for a name; there is one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// Preparing and starting.
    Starting,
    /// The same, and told to leave off.
    Cancelling,
    /// Stopping and tidying.
    Stopping,
    /// Writing or removing the address.
    Publishing,
    /// Reporting the end of a one-off.
    Reporting,
    /// Putting it behind the fence, or taking it out.
    Fencing,
}

/// What is there under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The assignment whose files are there.
    pub uuid: Uuid,
    /// What it is.
    pub kind: Kind,
    /// Whether its start has once succeeded (or it was found running).
    pub started: bool,
    /// A raw unit that systemd knows, and that we have not started since.
    pub loaded: bool,
    /// How much of it runs.
    pub running: Running,
    /// The announcer's last word since the process came up; none yet.
    pub healthy: Option<bool>,
    /// Whether its address stands in etcd.
    pub published: Published,
    /// A one-off has ended, and how is known.
    pub reported: bool,
    /// It is behind the host's fence, since so many words about it: what stands there runs only while
    /// the lease is held.
    pub fenced: Option<u32>,
    /// The task under way.
    pub busy: Option<Busy>,
    /// After a failure: no new attempt before this time.
    pub retry_at: Option<Duration>,
}

/// Something to do for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Prepare everything that the assignment needs, and start it.
    Start,
    /// Leave off what is under way.
    Cancel,
    /// Write its address.
    Publish,
    /// Remove its address.
    Withdraw,
    /// Stop a raw unit that systemd is to know on.
    Halt,
    /// Stop its units, remove its files, forget it.
    Stop,
    /// Stop its units, and remember it: it is started again when the lease is back.
    Suspend,
    /// Put it behind the host's fence, for its type is single now, or was so marked once more.
    Fence,
    /// Take it out again.
    Unfence,
    /// Read how a one-off ended, for the host's report.
    Report,
}

/// Why nothing is done for a name although it is not as wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// A task is under way.
    Task(Busy),
    /// The last attempt failed: the next one comes at that time.
    Retry(Duration),
    /// systemd brings it up or takes it down.
    Systemd,
    /// The announcer has not yet said that it is healthy.
    Healthy,
    /// Only etcd can say whether it is to go, and that is away.
    Etcd,
    /// The one-off runs.
    End,
    /// Its type is single, and the host's lease has run out.
    Lease,
}

/// What to do now, and what waits for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one action per name.
    pub actions: BTreeMap<String, Action>,
    /// Names that are not as wanted, and why nothing is done for them.
    pub waiting: BTreeMap<String, Waiting>,
}

impl Plan {
    /// When to plan again even if nothing happens.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let retries = self.waiting.values().filter_map(|waiting| match waiting {
            Waiting::Retry(at) => Some(*at),
            _ => None,
        });
        retries.min()
    }
}

/// Decides what to do. `now` is on the same monotonic clock as `retry_at`.
#[must_use]
pub fn plan(
    knowledge: Knowledge,
    lease: Lease,
    wanted: &BTreeMap<String, Wanted>,
    seen: &BTreeMap<String, Seen>,
    now: Duration,
) -> Plan {
    let mut plan = Plan::default();
    if knowledge == Knowledge::Nothing {
        return plan;
    }
    let names = wanted
        .keys()
        .chain(seen.keys().filter(|name| !wanted.contains_key(*name)));
    for name in names {
        match decide(knowledge, lease, wanted.get(name), seen.get(name), now) {
            Step::Nothing => {}
            Step::Do(action) => {
                plan.actions.insert(name.clone(), action);
            }
            Step::Wait(waiting) => {
                plan.waiting.insert(name.clone(), waiting);
            }
        }
    }
    plan
}

enum Step {
    Nothing,
    Do(Action),
    Wait(Waiting),
}

fn decide(
    knowledge: Knowledge,
    lease: Lease,
    wanted: Option<&Wanted>,
    seen: Option<&Seen>,
    now: Duration,
) -> Step {
    let Some(seen) = seen else {
        return match wanted {
            Some(w) if is_to_be_there(w) => start(knowledge, lease, w),
            // Draining or stopping what is not there is done already.
            _ => Step::Nothing,
        };
    };
    if seen.fenced.is_some() && lease == Lease::Expired {
        return suspend(seen, now);
    }
    let mine = wanted.filter(|w| w.uuid == seen.uuid && w.desired != Desired::Stop);
    let step = match mine {
        None => leave(knowledge, seen),
        Some(w) if w.kind == Kind::Run => run_once(knowledge, lease, w, seen),
        Some(w) if w.kind == Kind::Unit => keep_unit(knowledge, w.desired, seen),
        Some(w) => keep(knowledge, lease, w, seen),
    };
    match (step, seen.busy, seen.retry_at) {
        (Step::Do(Action::Stop | Action::Halt | Action::Withdraw), Some(Busy::Starting), _) => {
            Step::Do(Action::Cancel)
        }
        (Step::Do(_), Some(busy), _) => Step::Wait(Waiting::Task(busy)),
        (Step::Do(_), None, Some(at)) if at > now => Step::Wait(Waiting::Retry(at)),
        (step, _, _) => step,
    }
}

/// A start, if it may be begun. One-offs never start from the cache: it might be for the second time.
/// The same goes for single types, of which another may run elsewhere by now.
fn start(knowledge: Knowledge, lease: Lease, wanted: &Wanted) -> Step {
    match (knowledge, lease) {
        (Knowledge::Nothing | Knowledge::Cached, _)
            if wanted.kind == Kind::Run || wanted.single.is_some() =>
        {
            Step::Wait(Waiting::Etcd)
        }
        (_, Lease::Expired) if wanted.single.is_some() => Step::Wait(Waiting::Lease),
        _ => Step::Do(Action::Start),
    }
}

/// It must not run on: what is under way may wait for etcd, and is left off first. Its address stays,
/// for there may be nobody to take it; the leader does when it moves the process.
fn suspend(seen: &Seen, now: Duration) -> Step {
    match (seen.busy, seen.running, seen.retry_at) {
        (Some(Busy::Starting | Busy::Publishing), _, _) => Step::Do(Action::Cancel),
        (Some(busy), _, _) => Step::Wait(Waiting::Task(busy)),
        (None, Running::No, _) => Step::Wait(Waiting::Lease),
        (None, _, Some(at)) if at > now => Step::Wait(Waiting::Retry(at)),
        (None, _, _) => Step::Do(Action::Suspend),
    }
}

/// Whether something of it is to be made, where nothing is.
fn is_to_be_there(wanted: &Wanted) -> bool {
    match wanted.desired {
        Desired::Run => true,
        Desired::Load => wanted.kind == Kind::Unit,
        Desired::Drain | Desired::Stop => false,
    }
}

/// A raw unit is loaded, started or stopped once for each time that somebody wants it so; whether it
/// runs after that is up to systemd: it may have ended, or been started by another unit.
fn keep_unit(knowledge: Knowledge, desired: Desired, seen: &Seen) -> Step {
    match desired {
        Desired::Run if seen.running == Running::Changing && !seen.loaded => {
            Step::Wait(Waiting::Systemd)
        }
        Desired::Run if !seen.started => Step::Do(Action::Start),
        Desired::Load if seen.started && knowledge == Knowledge::Live => Step::Do(Action::Halt),
        Desired::Load if seen.started => Step::Wait(Waiting::Etcd),
        Desired::Load if !seen.loaded => Step::Do(Action::Start),
        Desired::Run | Desired::Load | Desired::Drain | Desired::Stop => Step::Nothing,
    }
}

/// It has to go: first the address, then the process.
fn leave(knowledge: Knowledge, seen: &Seen) -> Step {
    if knowledge != Knowledge::Live {
        return Step::Wait(Waiting::Etcd);
    }
    if seen.kind == Kind::Routable && seen.published != Published::No {
        return Step::Do(Action::Withdraw);
    }
    Step::Do(Action::Stop)
}

fn run_once(knowledge: Knowledge, lease: Lease, wanted: &Wanted, seen: &Seen) -> Step {
    match (seen.started, seen.running, seen.reported) {
        (_, _, true) => Step::Nothing,
        (false, Running::No, _) if wanted.desired == Desired::Run => {
            start(knowledge, lease, wanted)
        }
        // It is not wanted any more before it began.
        (false, Running::No, _) => Step::Nothing,
        (true, Running::No, _) => Step::Do(Action::Report),
        _ => Step::Wait(Waiting::End),
    }
}

fn keep(knowledge: Knowledge, lease: Lease, wanted: &Wanted, seen: &Seen) -> Step {
    // A mark that was set or taken while it runs touches nothing but the fence.
    match (seen.running, wanted.single, seen.fenced) {
        (Running::Up | Running::Changing, Some(mark), fenced) if fenced != Some(mark) => {
            return Step::Do(Action::Fence);
        }
        (Running::Up | Running::Changing, None, Some(_)) => return Step::Do(Action::Unfence),
        _ => {}
    }
    let run = wanted.desired == Desired::Run;
    if wanted.kind == Kind::Routable {
        let serves = run && seen.running == Running::Up && seen.healthy != Some(false);
        match seen.published {
            // What may stand there since before the host's last boot: it is about to serve again.
            Published::Unknown if run && seen.busy == Some(Busy::Starting) => {
                return Step::Wait(Waiting::Task(Busy::Starting));
            }
            // No word yet after the agent's restart is no reason to take a serving process out.
            Published::Yes | Published::Unknown if !serves && knowledge == Knowledge::Live => {
                return Step::Do(Action::Withdraw);
            }
            // Without etcd, what is down is better started than waited for.
            Published::Yes | Published::Unknown if !serves && seen.running != Running::No => {
                return Step::Wait(Waiting::Etcd);
            }
            Published::No | Published::Unknown if serves && seen.healthy == Some(true) => {
                return if knowledge == Knowledge::Live {
                    Step::Do(Action::Publish)
                } else {
                    Step::Wait(Waiting::Etcd)
                };
            }
            _ => {}
        }
    }
    match (seen.running, wanted.kind) {
        (Running::No, _) if run => start(knowledge, lease, wanted),
        (Running::No, _) => Step::Nothing,
        (Running::Changing, _) => Step::Wait(Waiting::Systemd),
        (Running::Up, Kind::Routable | Kind::Plain) if run && seen.healthy.is_none() => {
            Step::Wait(Waiting::Healthy)
        }
        (Running::Up, Kind::Routable) if run && seen.published != Published::Yes => {
            Step::Wait(Waiting::Healthy)
        }
        (Running::Up, _) => Step::Nothing,
    }
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
