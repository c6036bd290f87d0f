//! What is told of a cluster without changing it.

use super::{
    drain_tests::running,
    explain::{Subject, explain},
    preview::{next_round, survivals},
    sim_tests::{Sim, machine, structure, wall},
};
use crate::{model::*, store::keys};

impl Sim {
    fn in_zone(&mut self, n: usize, zone: &str) {
        let key = keys::host(&machine(n));
        let mut record = self.kv.get(&key).expect("a host").0;
        record.labels.insert("zone".into(), zone.into());
        self.kv.put(&key, &record);
    }

    /// `host deis-01: 3, blog web.4`
    fn without(&mut self) -> Vec<String> {
        self.lead();
        let survivals = survivals(&self.world, wall(self.now)).into_iter();
        let words = survivals.map(|survival| {
            let homeless = survival
                .homeless
                .iter()
                .map(|homeless| homeless.what.as_str());
            let homeless: Vec<&str> = homeless.collect();
            let text = format!(
                "{}: {} {}",
                survival.without,
                survival.moved,
                homeless.join(" ")
            );
            text.trim_end().to_owned()
        });
        words.collect()
    }
}

#[test]
fn what_the_loss_of_a_host_or_zone_would_mean() {
    let mut sim = running(6, 0, 3, 3);
    assert_eq!(
        sim.without(),
        ["host deis-01: 2", "host deis-02: 2", "host deis-03: 2"]
    );
    // Three places in each host, two of them taken: without two hosts there is one place for four.
    sim.in_zone(1, "a");
    sim.in_zone(2, "a");
    let without = sim.without();
    let zone = without.last().expect("the zone comes last");
    assert!(zone.starts_with("zone a: 4 blog web."), "{zone}");
    assert_eq!(zone.matches("web.").count(), 3, "{zone}");
    let why = &survivals(&sim.world, wall(sim.now))[3].homeless[0].why;
    assert!(why.contains("1 lacks 512 MiB of free memory"), "{why}");
}

#[test]
fn a_preview_is_what_the_leader_does_next_and_changes_nothing() {
    let mut sim = running(4, 0, 2, 8);
    sim.roll(RolloutKind::Scale, 2, &structure(6, 0));
    let before = sim.kv.revision;
    // The leader's picture takes in the rollout, and its acts are compared before they are made.
    let update = crate::store::Update {
        revision: before,
        changes: std::mem::take(&mut sim.kv.unseen),
        first: false,
    };
    sim.world.apply(&update);
    let told: Vec<String> = next_round(&sim.world, wall(sim.now))
        .acts
        .into_iter()
        .map(|act| act.what)
        .collect();
    assert_eq!(sim.kv.revision, before);
    sim.lead();
    let done: Vec<String> = sim.last.acts.iter().map(|act| act.what.clone()).collect();
    assert_eq!(told, done);
    assert_eq!(told.len(), 1);
}

#[test]
fn a_process_is_explained() {
    let mut sim = running(3, 0, 3, 3);
    let parse = |sim: &Sim, word: &str| Subject::parse(word, &sim.world);
    for word in [
        "blog_v2.web.1",
        "blog_v2.web.1.service",
        "blog_v1.web.1.4",
        "blog.web.1",
    ] {
        let Some(Subject::Process(app, slot)) = parse(&sim, word) else {
            panic!("{word} is a process");
        };
        assert_eq!((app.as_str(), slot.to_string().as_str()), ("blog", "web.1"));
    }
    for word in ["", "blog", "other.web.1", "blog.web.x", "nothing.service"] {
        assert_eq!(parse(&sim, word), None, "{word}");
    }
    let subject = parse(&sim, "blog.web.1").expect("a process");
    let told = explain(&sim.world, &subject, wall(sim.now)).expect("an app");
    assert_eq!(told.places.len(), 1);
    assert_eq!(told.places[0].state, "up, ready");
    assert!(told.waiting.is_empty());
    // Where it is it would be placed again: nowhere else are fewer of the type.
    assert!(
        told.hosts[0].here && told.hosts[0].refusal.is_none(),
        "{:?}",
        told.hosts
    );

    sim.roll(RolloutKind::Scale, 2, &structure(12, 0));
    for _ in 0..20 {
        sim.lead();
        for id in sim.agents.keys().cloned().collect::<Vec<_>>() {
            sim.agent(&id);
        }
        for ip in ["10.0.0.1", "10.0.0.2"] {
            sim.route(ip);
            sim.finish_requests(ip);
        }
    }
    let subject = parse(&sim, "blog.web.12").expect("a process");
    let told = explain(&sim.world, &subject, wall(sim.now)).expect("an app");
    assert!(told.places.is_empty());
    assert!(told.hosts.iter().all(|host| host.refusal.is_some()));
    assert!(
        told.waiting[0].contains("3 lack 512 MiB of free memory"),
        "{:?}",
        told.waiting
    );
}
