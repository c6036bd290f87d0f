//! What operators do while a story is told: they close hosts to new processes, empty them, restart
//! them, and open them again; and they have units of their own.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};

use super::{
    World,
    judge::machine,
    sky::ms,
    story::{Plot, Tone},
    units::raw::{CRASHES, ENDS},
};
use crate::{
    model::{HostRecord, UnitFileName, UnitTarget},
    ops::{
        hosts::{self, HostsError},
        units::{self, Wish},
    },
    outside,
    store::{Store, Txn, keys},
};

/// How long an operator waits for an answer.
const LIMIT: Duration = Duration::from_secs(60);
/// What was asked for and not answered may still be carried out for so long.
const LATE: Duration = Duration::from_secs(20);

/// Closes and opens hosts for as long as the story's trouble lasts.
pub(super) async fn run(world: Arc<World>, plot: Plot) {
    let Some(pause) = plot.operator else { return };
    let (store, dice) = (world.user(), Arc::clone(&world.dice));
    let end = Instant::now() + plot.length;
    while Instant::now() < end && world.judge.verdict().is_none() {
        sleep(dice.long_tail(1000, pause * 4)).await;
        let host = match plot.stays_closed {
            Some(host) if dice.falls(4000) => host,
            _ => dice.between(1, plot.hosts as u64) as usize,
        };
        match dice.below(5) {
            0 => cordon(&world, &store, host).await,
            1 | 2 => drain(&world, &store, host, plot.tone).await,
            3 => open(&world, &store, host).await,
            _ => restart(&world, &store, host, plot.tone).await,
        }
        // Mostly one host at a time, and now and then whatever comes.
        if plot.stays_closed != Some(host) && dice.falls(7000) {
            sleep(dice.long_tail(500, 120_000)).await;
            open(&world, &store, host).await;
        }
    }
}

/// Opens all hosts, but for one that may stay as it is where enough are left.
pub(super) async fn open_all(world: &Arc<World>, plot: &Plot) {
    if plot.operator.is_none() {
        return;
    }
    sleep(LATE).await;
    let store = world.user();
    for host in 1..=plot.hosts {
        if plot.stays_closed == Some(host) {
            continue;
        }
        // One without a record has never been closed.
        while let Ok(Some(record)) = store.get(&keys::host(&machine(host))).await {
            if !record.value.cordoned && record.value.drain.is_none() {
                break;
            }
            open(world, &store, host).await;
        }
    }
}

async fn cordon(world: &World, store: &Store, host: usize) {
    let done = timeout(LIMIT, hosts::cordon(store, &machine(host))).await;
    note(world, &format!("cordon {host}"), done);
}

async fn open(world: &World, store: &Store, host: usize) {
    let done = timeout(LIMIT, hosts::uncordon(store, &machine(host))).await;
    note(world, &format!("uncordon {host}"), done);
}

/// Empties a host. Only where things may be lost, there is a deadline, after which they are.
async fn drain(world: &World, store: &Store, host: usize, tone: Tone) {
    let now = outside::now();
    let given = (tone == Tone::Rough && world.dice.falls(5000))
        .then(|| SignedDuration::from_secs(world.dice.between(1, 120) as i64));
    let deadline = given.and_then(|given| now.checked_add(given).ok());
    let id = machine(host);
    let drain = hosts::drain(store, &id, now, deadline);
    let done = timeout(LIMIT, drain).await;
    note(world, &format!("drain {host} within {given:?}"), done);
}

/// Closes a host, and restarts it with whatever runs there.
async fn restart(world: &Arc<World>, store: &Store, host: usize, tone: Tone) {
    cordon(world, store, host).await;
    if tone == Tone::Gentle {
        return;
    }
    sleep(world.dice.long_tail(100, 30_000)).await;
    world.power_off(host);
    sleep(world.dice.time(2000, 60_000)).await;
    world.power_on(host);
    // It is seen to be well before anything new comes.
    sleep(ms(5000)).await;
}

/// One text after the other; two of so many end by themselves.
const KINDS: u64 = 5;
/// The units of the story: their `[X-Fleet]` options.
const UNITS: &[(&str, &str)] = &[
    ("one.service", ""),
    ("apart@1.service", "Conflicts=apart@*.service"),
    ("apart@2.service", "Conflicts=apart@*.service"),
    ("every.service", "Global=true"),
    ("heir.service", "Replaces=one.service"),
    ("beside.service", "MachineOf=one.service"),
];

/// Submits, loads, starts, stops, changes and destroys units for as long as the story's trouble lasts; in
/// the end some are launched, and the others gone.
pub(super) async fn run_units(world: Arc<World>, plot: Plot) {
    let Some(pause) = plot.units else { return };
    let (store, dice) = (world.user(), Arc::clone(&world.dice));
    let end = Instant::now() + plot.length;
    let mut texts = 0;
    while Instant::now() < end && world.judge.verdict().is_none() {
        sleep(dice.long_tail(50, pause * 4)).await;
        let (name, options) = *dice.pick(UNITS);
        let target = match dice.below(8) {
            0 => None,
            1 => Some(UnitTarget::Inactive),
            2 => Some(UnitTarget::Loaded),
            _ => Some(UnitTarget::Launched),
        };
        if dice.falls(3000) {
            texts += 1;
        }
        wish(&world, &store, name, options, texts, target).await;
    }
    while !world.peace.load(Ordering::Relaxed) {
        sleep(ms(1000)).await;
    }
    // What ends by itself would do so while all is at rest.
    texts = texts.next_multiple_of(KINDS);
    let mut is_there = true;
    for (name, options) in UNITS {
        // Where its neighbour is not, or on a host that is closed, it has no place.
        let is_beside = options.contains("MachineOf");
        let has_place = !is_beside || (is_there && plot.stays_closed.is_none());
        let target = (has_place && dice.falls(7000)).then_some(UnitTarget::Launched);
        if options.is_empty() {
            is_there = target.is_some();
        }
        while !wish(&world, &store, name, options, texts, target).await {
            sleep(ms(1000)).await;
        }
    }
}

/// Has a unit be as is wished, or not be; whether that was done.
async fn wish(
    world: &World,
    store: &Store,
    name: &str,
    options: &str,
    text: u64,
    target: Option<UnitTarget>,
) -> bool {
    let unit: UnitFileName = name.parse().expect("a unit's name");
    let what = format!("{name} {target:?} {text}");
    let done = match target {
        None => timeout(LIMIT, units::destroy(store, &unit, &Txn::new()))
            .await
            .map(|done| done.map(|_| ())),
        Some(target) => {
            let exec = match text % KINDS {
                3 => ENDS,
                4 => CRASHES,
                _ => "ExecStart=/bin/runs",
            };
            let wish = Wish {
                text: Some(format!(
                    "# {text}\n[Service]\n{exec}\n[X-Fleet]\n{options}\n"
                )),
                replace: true,
                target: Some(target),
            };
            let wishes = BTreeMap::from([(unit, wish)]);
            timeout(LIMIT, units::apply(store, &wishes, &Txn::new()))
                .await
                .map(|done| done.map(|_| ()))
        }
    };
    let result = match &done {
        Ok(Ok(())) => "done".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    world.judge.note("operator", &format!("{what}: {result}"));
    matches!(done, Ok(Ok(())))
}

fn note(
    world: &World,
    what: &str,
    done: Result<Result<HostRecord, HostsError>, tokio::time::error::Elapsed>,
) {
    let result = match done {
        Ok(Ok(_)) => "done".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    world.judge.note("operator", &format!("{what}: {result}"));
}
