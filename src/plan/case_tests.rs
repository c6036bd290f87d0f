//! One case each: what a reader of the protocols would ask.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    World,
    actor_tests::Health,
    fleet::text_hash,
    sim_tests::{Sim, app, machine, structure},
};
use crate::{
    model::*,
    store::{Change, Txn, Update, keys},
};

impl Sim {
    /// Leader and agents act for a while; routers only where told.
    pub(super) fn go(&mut self, rounds: usize, routers: &[&str]) {
        for _ in 0..rounds {
            self.now += Duration::from_secs(1);
            self.lead();
            for id in self.agents.keys().cloned().collect::<Vec<_>>() {
                self.agent(&id);
            }
            for ip in routers {
                self.route(ip);
                self.finish_requests(ip);
            }
            self.check_floor();
        }
    }

    pub(super) fn waiting(&self) -> String {
        self.last.waiting.iter().map(|w| format!("{w}\n")).collect()
    }

    pub(super) fn assignments(&self) -> BTreeMap<String, (MachineId, Assignment)> {
        let all = self.kv.under("/deis/schedule/").map(|(key, entry)| {
            let (host, name) = keys::parse_assignment(key).expect("assignment");
            (name.to_owned(), (host, entry.decode().expect("assignment")))
        });
        all.collect()
    }

    pub(super) fn unit(&mut self, name: &str, text: &str) {
        let unit = UnitFile {
            schema: 1,
            text: text.to_owned(),
            target: UnitTarget::Launched,
        };
        self.kv
            .put(&keys::unit(&name.parse().expect("unit")), &unit);
    }

    /// `deis-router@1.service` -> `[1]`, the hosts that it is assigned to.
    pub(super) fn hosts_of(&self, unit: &str) -> Vec<usize> {
        let suffix = format!("/{unit}");
        let keys = self
            .kv
            .under("/deis/schedule/")
            .filter(|(key, _)| key.ends_with(&suffix));
        let hosts = keys.filter_map(|(key, _)| keys::parse_assignment(key));
        hosts
            .map(|(id, _)| usize::from_str_radix(id.as_str(), 16).expect("hex"))
            .collect()
    }
}

pub(super) fn running(web: u32, hosts: usize, places: u64, routers: usize) -> Sim {
    let mut sim = Sim::new(hosts, places, routers);
    sim.deploy_first(&structure(web, 0));
    sim
}

pub(super) fn deploy(sim: &mut Sim, version: u32, health: Health, wanted: &Structure) {
    sim.health.insert(ReleaseNumber(version), health);
    sim.release(version, Uuid::from_u128(5));
    sim.roll(RolloutKind::Release, version, wanted);
}

#[test]
fn a_router_that_is_silent_while_adding_ends_the_rollout() {
    let mut sim = running(2, 3, 4, 2);
    deploy(&mut sim, 3, Health::Good, &structure(2, 0));
    sim.go(10, &["10.0.0.1"]);
    assert!(
        sim.assignments()
            .values()
            .all(|(_, a)| a.desired == Desired::Run),
        "nothing drains before all routers know the new ones"
    );
    let rollout = sim.kv.get(&keys::rollout(&app())).expect("a rollout").0;
    let waiting = rollout.waiting.expect("it says what it waits for");
    assert!(waiting.contains("router 10.0.0.2"), "{waiting}");
    sim.go(40, &["10.0.0.1"]);
    sim.settle();
    sim.check_converged(2, &structure(2, 0), Some(OutcomeResult::Failed));
    let reason = sim
        .record()
        .last_rollout
        .and_then(|end| end.reason)
        .expect("a reason");
    assert!(
        reason.contains("router 10.0.0.2 didn't take its address within 30 s"),
        "{reason}"
    );
}

#[test]
fn a_tag_that_no_host_has_ends_the_rollout_at_once() {
    let mut sim = running(2, 3, 4, 1);
    let config = Uuid::from_u128(50);
    let (tagged, _) = sim
        .kv
        .get::<Config>(&keys::config(&app(), Uuid::from_u128(5)))
        .expect("a config");
    let tagged = Config {
        uuid: config,
        tags: [("ssd".to_owned(), "true".to_owned())].into(),
        ..tagged
    };
    sim.kv.put(&keys::config(&app(), config), &tagged);
    sim.release(3, config);
    sim.roll(RolloutKind::Release, 3, &structure(2, 0));
    let begun = sim.now;
    sim.settle();
    sim.check_converged(2, &structure(2, 0), Some(OutcomeResult::Failed));
    assert!(sim.now < begun + Duration::from_secs(10), "{:?}", sim.now);
    let reason = sim.record().last_rollout.and_then(|end| end.reason);
    let reason = reason.expect("a reason");
    assert!(reason.contains("don't have the tags ssd=true"), "{reason}");
}

#[test]
fn a_router_that_is_silent_while_removing_keeps_the_old_ones_up() {
    let mut sim = running(2, 3, 4, 2);
    sim.roll(RolloutKind::Scale, 2, &structure(1, 0));
    sim.go(60, &["10.0.0.1"]);
    let (_, old) = &sim.assignments()["blog_v2.web.2"];
    assert_eq!(old.desired, Desired::Drain, "it runs on");
    let waiting = sim.waiting();
    assert!(
        waiting.contains("stays up: router 10.0.0.2 has not let go of it for 30 s"),
        "{waiting}"
    );
    sim.settle();
    sim.check_converged(2, &structure(1, 0), Some(OutcomeResult::Succeeded));
}

#[test]
fn a_router_that_went_away_is_waited_for_a_while() {
    let mut sim = running(2, 3, 4, 2);
    sim.roll(RolloutKind::Scale, 2, &structure(1, 0));
    sim.go(1, &["10.0.0.1"]);
    // Its lease is out, but it may still be serving its last table.
    let key = keys::router("10.0.0.2");
    sim.kv
        .commit(&Txn::new().delete(&key))
        .expect("no comparison");
    sim.routers.remove("10.0.0.2");
    sim.go(8, &["10.0.0.1"]);
    assert_eq!(sim.assignments()["blog_v2.web.2"].1.desired, Desired::Drain);
    sim.settle();
    sim.check_converged(2, &structure(1, 0), Some(OutcomeResult::Succeeded));
}

#[test]
fn a_failed_release_says_why_with_its_last_lines() {
    let mut sim = running(2, 3, 4, 1);
    deploy(&mut sim, 3, Health::Crashes, &structure(2, 0));
    sim.settle();
    sim.check_converged(2, &structure(2, 0), Some(OutcomeResult::Failed));
    let outcome = sim
        .kv
        .get(&keys::outcome(&app(), ReleaseNumber(3)))
        .expect("an outcome")
        .0;
    assert_eq!(outcome.log, ["boom"]);
    let reason = outcome.reason.expect("a reason");
    assert!(reason.contains("crashed 3 times"), "{reason}");
}

#[test]
fn one_free_place_suffices_and_none_is_said() {
    let mut sim = running(3, 2, 2, 1);
    deploy(&mut sim, 3, Health::Good, &structure(3, 0));
    sim.settle();
    sim.check_converged(3, &structure(3, 0), Some(OutcomeResult::Succeeded));

    let mut sim = running(4, 2, 2, 1);
    deploy(&mut sim, 3, Health::Good, &structure(4, 0));
    sim.go(5, &["10.0.0.1"]);
    let waiting = sim.waiting();
    assert!(
        waiting.contains("of 2, 2 lack 512 MiB of free memory"),
        "{waiting}"
    );
    assert!(
        waiting.contains("the old ones keep their places"),
        "{waiting}"
    );
    sim.settle();
    sim.check_converged(2, &structure(4, 0), Some(OutcomeResult::Failed));
}

#[test]
fn a_surge_stays_within_its_budget() {
    let mut sim = running(20, 4, 20, 1);
    deploy(&mut sim, 3, Health::Good, &structure(20, 0));
    for _ in 0..200 {
        sim.go(1, &["10.0.0.1"]);
        let all = sim.assignments().len();
        assert!(all <= 25, "{all} processes for 20 wanted");
    }
    sim.check_converged(3, &structure(20, 0), Some(OutcomeResult::Succeeded));
}

#[test]
fn scaling_up_starts_as_many_at_once_as_the_hosts_can_take() {
    let mut sim = running(1, 4, 30, 1);
    sim.roll(RolloutKind::Scale, 2, &structure(100, 0));
    sim.go(1, &["10.0.0.1"]);
    assert_eq!(sim.assignments().len(), 1 + 4 * 20);
    sim.settle();
    sim.check_converged(2, &structure(100, 0), Some(OutcomeResult::Succeeded));
}

#[test]
fn processes_are_spread_over_the_hosts() {
    let mut sim = running(3, 3, 9, 1);
    let spread = |sim: &Sim| {
        let mut hosts: Vec<MachineId> = sim
            .assignments()
            .into_values()
            .map(|(host, _)| host)
            .collect();
        hosts.sort();
        hosts.dedup();
        hosts.len()
    };
    assert_eq!(spread(&sim), 3);
    deploy(&mut sim, 3, Health::Good, &structure(3, 0));
    sim.settle();
    assert_eq!(spread(&sim), 3, "also after a deploy");
}

#[test]
fn a_lost_host_is_replaced_after_its_grace() {
    let mut sim = running(3, 3, 4, 1);
    sim.view_since = Duration::ZERO;
    sim.go(1, &["10.0.0.1"]);
    sim.lose(1);
    sim.go(3, &["10.0.0.1"]);
    assert!(
        sim.waiting().contains("host deis-01: is away"),
        "{}",
        sim.waiting()
    );
    assert_eq!(
        sim.kv
            .under(&format!("/deis/schedule/{}/", machine(1)))
            .count(),
        1
    );
    sim.go(2, &["10.0.0.1"]);
    assert_eq!(
        sim.kv
            .under(&format!("/deis/schedule/{}/", machine(1)))
            .count(),
        0
    );
    assert_eq!(sim.assignments().len(), 3);
    let host = |sim: &Sim| sim.kv.get(&keys::host(&machine(1))).expect("a host").0;
    assert!(host(&sim).lost_since.is_some());
    sim.join(1, 4);
    sim.settle();
    assert!(host(&sim).lost_since.is_none());
    sim.check_converged(2, &structure(3, 0), None);
}

#[test]
fn a_new_leader_counts_no_grace_at_once() {
    let mut sim = running(3, 3, 4, 1);
    sim.lose(1);
    sim.elect();
    sim.go(8, &["10.0.0.1"]);
    assert_eq!(
        sim.kv
            .under(&format!("/deis/schedule/{}/", machine(1)))
            .count(),
        1
    );
    sim.go(3, &["10.0.0.1"]);
    assert_eq!(
        sim.kv
            .under(&format!("/deis/schedule/{}/", machine(1)))
            .count(),
        0
    );
}

#[test]
fn many_hosts_lost_at_once_move_nothing() {
    let mut sim = running(3, 3, 4, 1);
    sim.lose(1);
    sim.lose(2);
    sim.go(30, &["10.0.0.1"]);
    assert_eq!(
        sim.kv
            .under(&format!("/deis/schedule/{}/", machine(1)))
            .count(),
        1
    );
    assert!(
        sim.waiting().contains("2 of 3 hosts went away at once"),
        "{}",
        sim.waiting()
    );
    // One of them back: the other is a single one, and a single one is never many.
    sim.join(1, 4);
    sim.settle();
    assert_eq!(
        sim.kv
            .under(&format!("/deis/schedule/{}/", machine(2)))
            .count(),
        0
    );
    sim.check_converged(2, &structure(3, 0), None);
}

#[test]
fn a_destroyed_app_leaves_nothing() {
    let mut sim = running(3, 3, 4, 2);
    let domain = Domain {
        schema: 1,
        domain: "www.example.com".parse().expect("domain"),
        app: app(),
        owner: "ada".parse().expect("user"),
        created: jiff::Timestamp::UNIX_EPOCH,
    };
    sim.kv.put(&keys::domain(&domain.domain), &domain);
    sim.kv.put(&keys::route(&app()), &Route::default());
    sim.floor.clear();
    let record = App {
        destroying: true,
        ..sim.record()
    };
    sim.kv.put(&keys::app(&app()), &record);
    sim.settle();
    let left: Vec<&String> = sim
        .kv
        .keys
        .keys()
        .filter(|key| key.contains("blog"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(sim.kv.get(&keys::domain(&domain.domain)).is_none());
}

#[test]
fn the_whitelist_is_that_of_the_active_release() {
    let mut sim = running(2, 2, 4, 1);
    let admitted = |sim: &Sim| match sim.kv.get(&keys::route(&app())) {
        Some((route, _)) => route.whitelist.to_string(),
        None => "no route".to_owned(),
    };
    assert_eq!(admitted(&sim), "no route", "nothing to say");
    let (config, _) = sim
        .kv
        .get(&keys::config(&app(), Uuid::from_u128(5)))
        .expect("config");
    let mut with = |n: u128, list: &str| {
        let config = Config {
            uuid: Uuid::from_u128(n),
            whitelist: list.parse().expect("list"),
            ..config.clone()
        };
        sim.kv.put(&keys::config(&app(), config.uuid), &config);
        config.uuid
    };
    let (office, vpn) = (with(8, "192.0.2.7:office"), with(9, "10.0.0.0/8:vpn"));
    for (version, health, config, want) in [
        (3, Health::Good, office, "192.0.2.7/32"),
        (4, Health::Crashes, vpn, "192.0.2.7/32"),
        (5, Health::Good, vpn, "10.0.0.0/8"),
        (6, Health::Good, config.uuid, ""),
    ] {
        let before = admitted(&sim);
        sim.health.insert(ReleaseNumber(version), health);
        sim.release(version, config);
        sim.roll(RolloutKind::Release, version, &structure(2, 0));
        // Until the end it is the old release's.
        while sim.kv.get(&keys::rollout(&app())).is_some() {
            assert_eq!(admitted(&sim), before, "v{version} is not active yet");
            sim.go(1, &["10.0.0.1"]);
            assert!(sim.now.as_secs() < 3600, "v{version} comes to an end");
        }
        assert_eq!(admitted(&sim), want, "v{version}");
    }
    // A route that can't be read holds everything: who may come in is not guessed.
    sim.kv.put_raw(keys::route(&app()).as_str(), b"no record");
    deploy(&mut sim, 7, Health::Good, &structure(2, 0));
    sim.go(5, &["10.0.0.1"]);
    assert!(
        sim.waiting().contains("/deis/routes/blog can't be read"),
        "{}",
        sim.waiting()
    );
}

#[test]
fn what_cannot_be_read_is_left_alone() {
    let mut sim = running(3, 3, 4, 1);
    let key = keys::app(&app());
    let good = sim.record();
    sim.kv.put_raw(key.as_str(), b"{not json");
    sim.go(3, &["10.0.0.1"]);
    assert_eq!(sim.assignments().len(), 3, "nothing is stopped");
    assert!(
        sim.waiting().contains("/deis/apps/blog can't be read"),
        "{}",
        sim.waiting()
    );
    sim.kv.put(&key, &good);
    sim.settle();
    sim.check_converged(2, &structure(3, 0), None);
}

#[test]
fn units_conflict_spread_and_move() {
    let mut sim = Sim::new(3, 4, 0);
    for n in 1..=3 {
        let name = format!("deis-router@{n}.service");
        sim.unit(
            &name,
            "[Service]\nExecStart=/x\n[X-Fleet]\nConflicts=deis-router@*.service\n",
        );
    }
    sim.unit("deis-all.service", "[X-Fleet]\nGlobal=true\n");
    sim.unit(
        "deis-ssd.service",
        "[X-Fleet]\nMachineMetadata=\"disk=ssd\" \"disk=nvme\"\n",
    );
    sim.lead();
    sim.lead();
    let router = |sim: &Sim, n: usize| sim.hosts_of(&format!("deis-router@{n}.service"));
    let mut all: Vec<usize> = (1..=3).flat_map(|n| router(&sim, n)).collect();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3], "one on each host");
    assert_eq!(sim.hosts_of("deis-all.service"), [1, 2, 3]);
    assert_eq!(sim.hosts_of("deis-ssd.service"), [] as [usize; 0]);
    assert!(
        sim.waiting()
            .contains("deis-ssd.service: no host can take it"),
        "{}",
        sim.waiting()
    );
    let mut record = sim.kv.get(&keys::host(&machine(2))).expect("a host").0;
    record.labels.insert("disk".into(), "nvme".into());
    sim.kv.put(&keys::host(&machine(2)), &record);
    sim.lead();
    assert_eq!(sim.hosts_of("deis-ssd.service"), [2]);
    sim.lead();
    assert!(
        sim.last.acts.is_empty() && sim.last.waiting.is_empty(),
        "{:?}",
        sim.last
    );

    // The host is lost: its router waits, for the others conflict; what may move, moves.
    let there = (1..=3)
        .find(|n| router(&sim, *n) == [2])
        .expect("a router on host 2");
    record.labels.clear();
    sim.kv.put(
        &keys::host(&machine(1)),
        &HostRecord {
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            ..sim.kv.get(&keys::host(&machine(1))).expect("a host").0
        },
    );
    sim.lose(2);
    sim.go(12, &[]);
    assert_eq!(sim.hosts_of("deis-ssd.service"), [1]);
    assert_eq!(sim.hosts_of("deis-all.service"), [1, 3]);
    assert_eq!(
        router(&sim, there),
        [2],
        "it stays in case the host comes back"
    );
    assert!(sim.waiting().contains("a conflict"), "{}", sim.waiting());
}

#[test]
fn a_new_text_is_a_new_assignment_in_place() {
    let mut sim = Sim::new(1, 4, 0);
    sim.unit("deis-logger@1.service", "[Service]\nExecStart=/a\n");
    sim.lead();
    let (_, before) = sim.assignments()["deis-logger@1.service"].clone();
    let text = "[Service]\nExecStart=/b\n";
    sim.unit("deis-logger@1.service", text);
    sim.lead();
    let (_, after) = sim.assignments()["deis-logger@1.service"].clone();
    assert_ne!(before.uuid, after.uuid);
    assert_eq!(
        after.work,
        Work::Unit {
            hash: text_hash(text)
        }
    );
    let key = keys::unit(&"deis-logger@1.service".parse().expect("unit"));
    sim.kv
        .commit(&Txn::new().delete(&key))
        .expect("no comparison");
    sim.lead();
    assert_eq!(
        sim.assignments()["deis-logger@1.service"].1.desired,
        Desired::Stop
    );
    sim.lead();
    assert!(sim.assignments().is_empty());
}

proptest! {
    /// A world that was kept up to date equals one that was filled at the end.
    #[test]
    fn incremental_equals_filled(steps in prop::collection::vec(any::<u8>(), 0..60), lose in any::<bool>()) {
        let mut sim = running(3, 3, 4, 1);
        deploy(&mut sim, 3, Health::CrashesFrom(3), &structure(4, 1));
        for step in steps { sim.step(step); }
        if lose { sim.lose(1); }
        sim.lead();
        let changes = std::mem::take(&mut sim.kv.unseen);
        sim.world.apply(&Update { revision: sim.kv.revision, changes, first: false });
        let mut filled = World::default();
        let all = sim.kv.keys.iter().map(|(key, entry)| Change {
            key: key.clone(), mod_revision: entry.mod_revision, entry: Some(entry.clone()),
        });
        // In any order, for an update's changes have none between keys.
        let changes: Vec<Change> = all.rev().collect();
        filled.apply(&Update { revision: sim.kv.revision, changes, first: true });
        let text = |world: &World| {
            let apps: Vec<String> = world.apps().iter().map(|(name, app)| {
                format!("{name} {:?} {:?} {:?} {:?}", app.placed, app.services, app.releases, app.record)
            }).collect();
            format!("{apps:?} {:?} {:?}", world.hosts(), world.units())
        };
        prop_assert_eq!(text(&sim.world), text(&filled));
    }
}
