//! Power cuts: of one host after the other, of all at once, and a host that comes back alone.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    ground::{APP, Ground, Notes, only_in_flight, setting},
    support::*,
};

/// A host that boots on a slow machine, and its platform parts with it.
const BACK: Duration = Duration::from_secs(120);

/// Numbers that a seed tells (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Longest and middle of some times.
fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    let most = times.last().copied().unwrap_or_default();
    format!(
        "{:.1} s at the median, {:.1} s at most",
        middle.as_secs_f64(),
        most.as_secs_f64()
    )
}

/// Every router that is there serves the app.
fn routers_serve(ground: &Ground) -> Result<(), String> {
    for host in ground.up() {
        let router = format!("{}:80", host.address);
        match get(&router, &format!("{APP}.localhost"), "/") {
            Ok(answer) if answer.status == 200 => {}
            other => return Err(format!("the router of {}: {other:?}", host.name)),
        }
    }
    Ok(())
}

pub fn power_cycles(ground: &Ground, notes: &mut Notes) {
    let cycles: u32 = setting("SOAK_CYCLES", 20);
    let seed: u64 = setting("SOAK_SEED", std::process::id().into());
    notes.form(format!("{cycles} cycles"));
    notes.figure(format!("SOAK_SEED={seed}"));
    let mut dice = Dice(seed.max(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let cluster = &ground.cluster;
    ground.steady();
    let (mut moved, mut served, mut all_up) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sent, mut failed) = (0, 0);
    for cycle in 1..=cycles {
        let at = dice.below(cluster.hosts.len() as u64) as usize;
        // Sometimes back at once, sometimes long after it counted as lost.
        let pause = Duration::from_secs(dice.below(25));
        let host = &cluster.hosts[at];
        println!(
            "    cycle {cycle}: {} off for {} s",
            host.name,
            pause.as_secs()
        );
        let load = Load::start(APP, 30);
        thread::sleep(Duration::from_secs(1));
        let gone = load.begun.elapsed();
        let begun = Instant::now();
        cluster.kill_host(host);
        thread::sleep(pause);
        let lost = pause > Duration::from_secs(12);
        if lost {
            eventually("its processes run elsewhere", MINUTE, || {
                let places = ground.places(APP)?;
                match places.values().find(|at| **at == host.name) {
                    Some(_) => Err(format!("{places:?}")),
                    None => ground.settled(),
                }
            });
            moved.push(begun.elapsed());
        }
        let booted = Instant::now();
        cluster.boot_host(host);
        eventually("its router serves", BACK, || routers_serve(ground));
        served.push(booted.elapsed());
        ground.wait_machine(host, "up", BACK);
        ground.wait_settled(BACK);
        ground.wait_platform(BACK);
        all_up.push(booted.elapsed());
        let loaded = load.finish();
        sent += loaded.sent;
        failed += loaded.failures.len();
        only_in_flight(&loaded, gone);
    }
    if !moved.is_empty() {
        notes.figure(format!(
            "from a loss to all processes elsewhere: {}",
            spread(&mut moved)
        ));
    }
    notes.figure(format!(
        "from power to its router serving: {}",
        spread(&mut served)
    ));
    notes.figure(format!(
        "from power to all as asked, platform included: {}",
        spread(&mut all_up)
    ));
    notes.figure(format!(
        "{sent} requests, {failed} failed (in flight on a host that went)"
    ));
}

pub fn power_cut_of_all_hosts(ground: &Ground, notes: &mut Notes) {
    let cluster = &ground.cluster;
    ground.steady();
    let places = ground.places(APP);
    for host in &cluster.hosts {
        cluster.kill_host(host);
    }
    let begun = Instant::now();
    for host in &cluster.hosts {
        cluster.boot_host(host);
    }
    let booted = begun.elapsed();
    eventually("all routers serve", 2 * BACK, || routers_serve(ground));
    let served = begun.elapsed();
    ground.wait_settled(BACK);
    for host in &cluster.hosts {
        ground.wait_machine(host, "up", BACK);
    }
    ground.wait_platform(BACK);
    // Many hosts that are away are no reason to move anything; whoever came late has its own still.
    assert_eq!(ground.places(APP), places, "nothing was moved");
    notes.figure(format!(
        "booted one after the other within {:.1} s, all routers serve after {:.1} s, all as asked after {:.1} s",
        booted.as_secs_f64(),
        served.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    ));
}

pub fn host_boots_alone(ground: &Ground, notes: &mut Notes) {
    let cluster = &ground.cluster;
    ground.steady();
    let host = ground.busy_host();
    let running = ground.running_on(host, APP).units;
    let places = ground.places(APP);
    for host in &cluster.hosts {
        cluster.kill_host(host);
    }
    let begun = Instant::now();
    cluster.boot_host(host);
    // Of three members one has no quorum: all that it knows is on its disk.
    eventually("its processes run", BACK, || {
        let now = ground.running_on(host, APP);
        if now.units == running && now.containers == running {
            Ok(())
        } else {
            Err(format!("{now:?}, not {running:?}"))
        }
    });
    let ran = begun.elapsed();
    let router = format!("{}:80", host.address);
    eventually("its router serves them", BACK, || {
        match get(&router, &format!("{APP}.localhost"), "/") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    notes.figure(format!(
        "without etcd: processes run after {:.1} s, served after {:.1} s",
        ran.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    ));
    let written = cluster.etcdctl(
        host,
        "--dial-timeout=2s --command-timeout=3s put /deis/platform/soak x",
    );
    assert_ne!(written.status, Some(0), "etcd has no quorum: {written:?}");
    let lives = cluster.lives(APP).remove(&host.name).expect("it is up");
    for other in ground.others(host) {
        cluster.boot_host(other);
    }
    ground.wait_settled(2 * BACK);
    for host in &cluster.hosts {
        ground.wait_machine(host, "up", BACK);
    }
    assert_eq!(
        cluster.lives(APP)[&host.name],
        lives,
        "etcd's return restarts nothing"
    );
    assert_eq!(ground.places(APP), places, "nothing was moved");
}
