//! What happens in a simulation, drawn from its seed: users change apps while things go wrong, then
//! nothing goes wrong any more, and everything has to come to rest.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    World, cluster, operator,
    sky::{Node, Rates, Role, lock, ms},
    units::Temper,
};
use crate::{
    model::*,
    ops::{
        OpsError, app, change,
        change::{Change, ConfigChange, NewBuild},
        single,
    },
};

/// How long it may take until everything is at rest, once nothing goes wrong any more.
const BOUND: Duration = Duration::from_secs(45 * 60);
/// Who asked before peace and gets no answer may wait that long for it, and lose a lease by that.
const AFTERMATH: Duration = Duration::from_secs(20);
/// How long it has to stay so.
const REST: Duration = Duration::from_secs(30);

/// The kind of story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Daemons die and messages are lost, but no host and no process is.
    Gentle,
    /// Hosts and processes are lost, too.
    Rough,
}

/// What is fixed before the story begins.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub tone: Tone,
    pub hosts: usize,
    pub routers: usize,
    pub controllers: usize,
    pub apps: usize,
    pub length: Duration,
    pub rates: Rates,
    /// Between two mishaps, on average, in milliseconds.
    pub mishaps: u64,
    /// The same between two things that an operator does; none: there is no operator.
    pub operator: Option<u64>,
    /// The same between two things that are wanted of raw units.
    pub units: Option<u64>,
    /// The host that is not opened again in the end, should it be closed then.
    pub stays_closed: Option<usize>,
    /// How often users think of single types, of ten thousand times that they think of anything.
    pub singles: u32,
}

impl Plot {
    pub fn of(dice: &super::sky::Dice) -> Self {
        let hosts = dice.between(3, 7) as usize;
        let rate = |most: u64| {
            // Often none at all, sometimes a lot.
            if dice.falls(4000) {
                0
            } else {
                dice.between(0, most) as u32
            }
        };
        let tone = if dice.falls(5000) {
            Tone::Gentle
        } else {
            Tone::Rough
        };
        Self {
            tone,
            hosts,
            routers: dice.between(1, 3) as usize,
            controllers: dice.between(2, 3) as usize,
            apps: dice.between(1, 3) as usize,
            length: Duration::from_secs(dice.between(120, 600)),
            rates: Rates {
                lost: rate(100),
                unanswered: rate(300),
                late: rate(300),
                twice: rate(300),
                dies: rate(100),
                breaks: rate(30),
                silence: rate(30),
                repeats: rate(500),
                slow: rate(300),
                dies_at_start: rate(2000),
                stubborn: *dice.pick(&[0, 1500, 6000]),
                patient: tone == Tone::Gentle,
                latency: *dice.pick(&[2, 5, 20, 100]),
            },
            mishaps: *dice.pick(&[3_000, 8_000, 20_000, 60_000]),
            operator: *dice.pick(&[None, Some(5_000), Some(20_000), Some(60_000)]),
            units: *dice.pick(&[None, Some(3_000), Some(20_000)]),
            // The others have to have room enough.
            stays_closed: (hosts >= 5 && dice.falls(6000))
                .then(|| dice.between(1, hosts as u64) as usize),
            singles: *dice.pick(&[0, 0, 2000]),
        }
    }
}

pub(super) fn user() -> Username {
    "ada".parse().expect("user")
}

fn kind(text: &str) -> ProcessType {
    text.parse().expect("type")
}

/// Tells the story; what it ends with is the judge's.
pub(super) async fn tell(world: &Arc<World>, plot: &Plot) {
    for host in 1..=plot.hosts {
        world.power_on(host);
    }
    world.sky.set_rates(plot.rates);
    let mut users = JoinSet::new();
    for n in 1..=plot.apps {
        let name: AppName = format!("app{n}").parse().expect("app");
        users.spawn(user_of(Arc::clone(world), name, plot.clone()));
    }
    users.spawn(operator::run_units(Arc::clone(world), plot.clone()));
    let mut operator = JoinSet::new();
    operator.spawn(operator::run(Arc::clone(world), plot.clone()));
    let end = Instant::now() + plot.length;
    while Instant::now() < end && world.judge.verdict().is_none() {
        sleep(world.dice.long_tail(10, plot.mishaps * 4)).await;
        mishap(world, plot).await;
    }
    // Peace: nothing goes wrong any more, and everybody comes back. The last mishap has happened by then.
    tokio::task::yield_now().await;
    world.judge.note("peace", "");
    world.sky.set_rates(Rates {
        latency: 5,
        ..Rates::default()
    });
    world.make_peace(plot.hosts);
    while operator.join_next().await.is_some() {}
    // It may have taken a host's power since.
    world.make_peace(plot.hosts);
    operator::open_all(world, plot).await;
    world.peace.store(true, Ordering::Relaxed);
    let peace = Instant::now();
    let mut rest = None;
    let mut why = String::new();
    loop {
        sleep(ms(1000)).await;
        while users.try_join_next().is_some() {}
        if world.judge.verdict().is_some() {
            return;
        }
        let settled = if users.is_empty() {
            world.is_settled(plot.hosts)
        } else {
            Err("users wait".into())
        };
        match settled {
            Ok(()) if peace.elapsed() < AFTERMATH => {}
            Ok(()) => {
                let since = *rest.get_or_insert_with(Instant::now);
                if since.elapsed() >= REST {
                    let quiet = since.elapsed().as_secs_f64() - 5.0;
                    let now = world.now();
                    if now - world.judge.last_write() < quiet {
                        let text = "the store is written while there is nothing to do";
                        world.judge.accuse(text.into());
                    }
                    return;
                }
            }
            Err(reason) => {
                if rest.take().is_some() {
                    world
                        .judge
                        .accuse(format!("it was at rest, and then: {reason}"));
                    return;
                }
                why = reason;
            }
        }
        if peace.elapsed() > BOUND {
            world
                .judge
                .accuse(format!("it doesn't come to rest: {why}"));
            return;
        }
    }
}

/// Something goes wrong.
async fn mishap(world: &Arc<World>, plot: &Plot) {
    let dice = &world.dice;
    let any_host = || dice.between(1, plot.hosts as u64) as usize;
    let node = |role| Node {
        host: any_host(),
        role,
    };
    let rough = plot.tone == Tone::Rough;
    let choices = if rough { 13 } else { 8 };
    match dice.below(choices) {
        0 => world.kill(node(Role::Agent)),
        1 => world.restart(node(Role::Agent)),
        2 => {
            let host = dice.between(1, plot.controllers as u64) as usize;
            let role = Role::Controller;
            if dice.falls(5000) {
                world.kill(Node { host, role });
            } else {
                world.restart(Node { host, role });
            }
        }
        3 => {
            let host = dice.between(1, plot.routers as u64) as usize;
            let role = Role::Router;
            world.kill(Node { host, role });
        }
        4 => {
            world.judge.note("etcd leaderless", "");
            world.memory.lose_leader();
            world.sky.set_leaderless(true);
            let longest = if dice.falls(2000) { 120_000 } else { 8000 };
            sleep(dice.long_tail(100, longest)).await;
            world.sky.set_leaderless(false);
            world.memory.elect_leader();
            if dice.falls(5000) {
                world.memory.break_watches();
            }
            world.judge.note("etcd leader", "");
        }
        5 => {
            world.judge.note("compaction", "");
            world.memory.compact();
        }
        6 => {
            world.judge.note("watches break", "");
            world.memory.break_watches();
        }
        7 => {
            // Shorter than its lease: no host is lost.
            let longest = if rough { 60_000 } else { 1500 };
            let (world, host) = (Arc::clone(world), any_host());
            let takes = dice.long_tail(100, longest);
            tokio::spawn(async move {
                world.judge.note("cut off", &format!("host {host}"));
                world.sky.cut(host, true);
                sleep(takes).await;
                world.judge.note("reached again", &format!("host {host}"));
                world.sky.cut(host, false);
            });
        }
        8 => {
            let host = any_host();
            world.power_off(host);
            let (world, takes) = (Arc::clone(world), dice.long_tail(1000, 90_000));
            tokio::spawn(async move {
                sleep(takes).await;
                world.power_on(host);
            });
        }
        9 | 10 => {
            if let Some((units, name)) = world.any_unit(any_host()) {
                units.crash(&name);
            }
        }
        11 => {
            if let Some((units, name)) = world.any_unit(any_host()) {
                let takes = dice.long_tail(500, 30_000);
                units.ail(&name, false);
                tokio::spawn(async move {
                    sleep(takes).await;
                    units.ail(&name, true);
                });
            }
        }
        _ => {
            let host = any_host();
            world.kill(Node {
                host,
                role: Role::Agent,
            });
            world.judge.note("compaction", "");
            world.memory.compact();
        }
    }
}

/// What a user does to an app while the story's trouble lasts.
async fn user_of(world: Arc<World>, name: AppName, plot: Plot) {
    let end = Instant::now() + plot.length;
    let (store, by) = (world.user(), user());
    let dice = Arc::clone(&world.dice);
    let mut wanted: BTreeMap<ProcessType, u32> = BTreeMap::new();
    loop {
        match app::create(&store, &by, Some(name.clone())).await {
            Ok(_) | Err(OpsError::Taken(_)) => break,
            Err(_) => sleep(ms(500)).await,
        }
    }
    world.add_app(&name);
    let (mut builds, mut say) = (0, |_: &str| {});
    while Instant::now() < end && world.judge.verdict().is_none() {
        let what = match builds {
            0 => 0,
            _ if dice.falls(plot.singles) => 9,
            _ => dice.below(13),
        };
        let done = match what {
            0..=2 => {
                builds += 1;
                let temper = match dice.below(8) {
                    0 if builds > 1 => Temper::Crashes,
                    1 if builds > 1 => Temper::FailsToStart,
                    2 if builds > 1 => Temper::Hangs,
                    _ => Temper::Good,
                };
                let build = build(&name, temper, dice.falls(9000), dice.falls(2000));
                let deploy = change::deploy(&store, &name, &by, &build, &mut say);
                let what = format!("{name} {}", temper.text());
                (format!("deploy {what}"), timeout(ms(700_000), deploy).await)
            }
            3..=5 => {
                let most = if dice.falls(1000) { 6 } else { 4 };
                wanted.insert(kind("web"), dice.between(0, most) as u32);
                wanted.insert(kind("worker"), dice.between(0, 3) as u32);
                let scale = change::scale(&store, &name, &by, &wanted);
                (
                    format!("scale {name} {wanted:?}"),
                    timeout(ms(60_000), scale).await,
                )
            }
            6 => {
                let rollback = change::rollback(&store, &name, &by, None);
                (
                    format!("rollback {name}"),
                    timeout(ms(60_000), rollback).await,
                )
            }
            7 | 8 => {
                let only = dice.falls(5000).then(|| kind("web"));
                let restart = change::restart(&store, &name, &by, only.as_ref(), None);
                (
                    format!("restart {name}"),
                    timeout(ms(60_000), restart).await,
                )
            }
            9 => {
                let marked = kind(if dice.falls(5000) { "web" } else { "worker" });
                let marks = BTreeMap::from([(marked, dice.falls(6000))]);
                let mark = async {
                    let app = single::mark(&store, &name, &by, &marks).await?;
                    Ok(Change {
                        release: app.active,
                        rollout: None,
                    })
                };
                let what = format!("single {name} {marks:?}");
                (what, timeout(ms(60_000), mark).await)
            }
            10 | 11 => {
                // To nothing and back, before anybody has got far with either.
                let none = wanted.keys().map(|kind| (kind.clone(), 0)).collect();
                for _ in 0..dice.between(1, 3) {
                    for wanted in [&none, &wanted] {
                        let scale = change::scale(&store, &name, &by, wanted);
                        let _ = timeout(ms(60_000), scale).await;
                        sleep(dice.long_tail(20, 4000)).await;
                    }
                }
                let scale = change::scale(&store, &name, &by, &wanted);
                (
                    format!("blink {name} {wanted:?}"),
                    timeout(ms(60_000), scale).await,
                )
            }
            _ => {
                let value = dice.between(1, 9).to_string();
                let variable = "COUNT".parse().expect("a name");
                let wish = ConfigChange {
                    values: BTreeMap::from([(variable, Some(value))]),
                    ..ConfigChange::default()
                };
                let key = cluster::key();
                let set = change::set_config(&store, &key, &name, &by, &wish);
                (format!("config {name}"), timeout(ms(60_000), set).await)
            }
        };
        let result = match done.1 {
            Ok(Ok(change)) => format!("{} begins", change.release),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        world.judge.note("user", &format!("{}: {result}", done.0));
        let pause = *dice.pick(&[500, 5_000, 30_000, 120_000]);
        sleep(dice.long_tail(10, pause)).await;
    }
    // Once nothing goes wrong any more, what is asked for has to come about.
    let last = build(&name, Temper::Good, true, dice.falls(2000));
    loop {
        sleep(ms(1000)).await;
        if !world.peace.load(Ordering::Relaxed) {
            continue;
        }
        if let Ok(change) = change::deploy(&store, &name, &by, &last, &mut say).await {
            world
                .judge
                .note("user", &format!("{name} {} is the last", change.release));
            lock(&world.expected).insert(name, change.release);
            return;
        }
    }
}

fn build(app: &AppName, temper: Temper, with_worker: bool, with_command: bool) -> NewBuild {
    let mut procfile = BTreeMap::from([(kind("web"), "serve".to_owned())]);
    if with_worker {
        procfile.insert(kind("worker"), "work".to_owned());
    }
    if with_command {
        procfile.insert(ProcessType::release(), "migrate".to_owned());
    }
    let digest = "0123456789abcdef".repeat(4);
    NewBuild {
        image: format!("{app}@sha256:{digest}"),
        source: None,
        kind: ImageKind::Slug,
        port: 5000,
        sha: temper.text().to_owned(),
        procfile,
        dockerfile: false,
    }
}
