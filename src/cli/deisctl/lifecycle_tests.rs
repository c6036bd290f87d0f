//! The platform's parts installed, started, stopped and removed, over a store in memory.

use std::{collections::BTreeMap, time::Duration};

use insta::assert_snapshot;
use uuid::Uuid;

use super::{
    failure::{self, exit_code},
    lifecycle::Lifecycle,
    platform::{Instance, Part, Target},
    templates::Templates,
    tests::{assignment, fabricated, machine, machine_id, presence, report},
};
use crate::{
    model::*,
    store::{Store, Txn, keys},
};

fn ctl(store: &Store) -> Lifecycle<'_, Vec<u8>> {
    Lifecycle {
        store,
        timeout: Duration::from_secs(30),
        out: Vec::new(),
    }
}

fn said(lifecycle: &Lifecycle<'_, Vec<u8>>) -> String {
    String::from_utf8_lossy(&lifecycle.out).into_owned()
}

/// A directory with a unit for each part.
fn templates() -> (tempfile::TempDir, Templates) {
    let dir = tempfile::tempdir().expect("dir");
    for part in Part::ALL {
        std::fs::write(
            dir.path().join(part.template()),
            "[Service]\nExecStart=/bin/true\n",
        )
        .expect("write");
    }
    let templates = Templates::find(Some(dir.path())).expect("templates");
    (dir, templates)
}

#[tokio::test]
async fn install_wants_a_domain_and_is_idempotent() {
    let (_dir, templates) = templates();
    let store = Store::memory();
    let platform = [Target::Platform];
    let error = ctl(&store)
        .install(&platform, &templates)
        .await
        .expect_err("no domain");
    assert_snapshot!(failure::render(&error), @"error: Missing platform domain, use: deisctl config platform set domain=<your-domain>");

    let domain = Txn::new().put(&keys::platform("domain"), &"localhost".to_owned());
    store.commit(domain).await.expect("commit");
    let error = ctl(&store)
        .install(&platform, &templates)
        .await
        .expect_err("no host");
    assert_eq!(exit_code(&error), 1, "{error}");

    let hosts = Txn::new().put(&keys::machine(&machine_id(1)), &machine(1));
    store.commit(hosts).await.expect("commit");
    let mut first = ctl(&store);
    first.install(&platform, &templates).await.expect("install");
    assert_snapshot!(said(&first), @"
    deis-registry@1.service: loaded
    deis-logger@1.service: loaded
    deis-controller@1.service: loaded
    deis-builder@1.service: loaded
    deis-router@1.service: loaded
    ");
    let before = store.list(&keys::units()).await.expect("list");
    let mut again = ctl(&store);
    again.install(&platform, &templates).await.expect("install");
    assert!(said(&again).contains("deis-router@1.service: loaded already"));
    let after = store.list(&keys::units()).await.expect("list");
    assert_eq!(
        before.revision, after.revision,
        "the second time writes nothing"
    );
    assert!(
        after
            .entries
            .iter()
            .all(|(_, unit)| unit.value.target == UnitTarget::Loaded)
    );
}

/// Plays leader and agent of one host until it is dropped: assigns what is launched, reports it up
/// and registers it; takes away what is not.
async fn play_the_platform(store: Store) {
    let id = machine_id(1);
    let txn = Txn::new().put(&keys::machine(&id), &machine(1)).put(
        &keys::leader(),
        &Leader {
            schema: SCHEMA,
            id: Uuid::from_u128(1),
            address: "10.21.8.101:8000".into(),
        },
    );
    store.commit(txn).await.expect("commit");
    let mut units = store.follow(keys::units().as_str());
    loop {
        units.next().await;
        let mut txn = Txn::new();
        let mut state = MachineState {
            schema: SCHEMA,
            registration: None,
            processes: BTreeMap::new(),
        };
        for (key, unit) in store.list(&keys::units()).await.expect("list").entries {
            let name = keys::last_part(&key, keys::units().as_str()).expect("name");
            let part = Instance::of_unit(name).expect("ours").part;
            let place = keys::assignment(&id, name);
            if unit.value.target == UnitTarget::Launched {
                state
                    .processes
                    .insert(name.to_owned(), report(1, Phase::Up, None));
                txn = txn
                    .put(&place, &assignment(1, Desired::Run, true))
                    .put(&keys::part(part.key(), "10.21.8.101"), &presence(1));
            } else {
                txn = txn.delete(&place);
            }
        }
        store
            .commit(txn.put(&keys::state(&id), &state))
            .await
            .expect("commit");
    }
}

#[tokio::test]
async fn a_platform_starts_stops_and_goes() {
    let (_dir, templates) = templates();
    let store = Store::memory();
    let domain = Txn::new().put(&keys::platform("domain"), &"localhost".to_owned());
    let domain = domain.put(&keys::machine(&machine_id(1)), &machine(1));
    store.commit(domain).await.expect("commit");
    let platform = [Target::Platform];
    let story = async {
        let mut ctl = ctl(&store);
        ctl.install(&platform, &templates).await.expect("install");
        ctl.start(&platform).await.expect("start");
        for part in Part::ALL {
            let line = format!("deis-{part}@1.service: active/running\n");
            assert!(said(&ctl).contains(&line), "{}", said(&ctl));
        }
        ctl.restart(&[Target::Part(Part::Logger)])
            .await
            .expect("restart");
        let refused = ctl
            .scale(Part::Router, 2, &templates)
            .await
            .expect_err("one host");
        assert_eq!(exit_code(&refused), 1);
        let logger = ctl
            .scale(Part::Logger, 1, &templates)
            .await
            .expect_err("one logger");
        assert_eq!(exit_code(&logger), 1);
        ctl.scale(Part::Router, 1, &templates)
            .await
            .expect("as it is");
        ctl.uninstall(&platform).await.expect("uninstall");
        let left = store.list(&keys::units()).await.expect("list");
        assert!(left.entries.is_empty());
        let error = ctl
            .start(&platform)
            .await
            .expect_err("nothing is installed");
        assert_eq!(exit_code(&error), 3);
    };
    tokio::select! {
        () = story => {}
        () = play_the_platform(store.clone()) => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it hangs"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_and_says_for_what() {
    let store = fabricated().await;
    // A controller is there, so that nobody else leads, and it does nothing.
    let controller = Txn::new().put(&keys::part("controller", "10.21.8.101"), &presence(1));
    store.commit(controller).await.expect("commit");
    let mut lifecycle = ctl(&store);
    let routers = [Target::Part(Part::Router)];
    let error = lifecycle.start(&routers).await.expect_err("nobody works");
    assert_eq!(exit_code(&error), 5);
    let text = failure::render(&error);
    assert!(
        text.contains("deis-router@3.service: waits for a place"),
        "{text}"
    );
    assert!(
        text.contains("hint: `deisctl journal deis-router@2.service`"),
        "{text}"
    );
    assert!(said(&lifecycle).contains("still waiting:"), "it was silent");
}

/// Plays one host's agent: what is assigned is up and registered, what is to stop is gone.
async fn play_an_agent(store: Store) {
    let id = machine_id(1);
    let mut schedule = store.follow(keys::schedule_of(&id).as_str());
    loop {
        schedule.next().await;
        let mut txn = Txn::new();
        let mut state = MachineState {
            schema: SCHEMA,
            registration: None,
            processes: BTreeMap::new(),
        };
        let prefix = keys::schedule_of(&id);
        for (key, assignment) in store.list(&prefix).await.expect("list").entries {
            let name = keys::last_part(&key, prefix.as_str()).expect("name");
            let part = Instance::of_unit(name).expect("ours").part;
            let presence_key = keys::part(part.key(), "10.21.8.101");
            if assignment.value.desired == Desired::Stop {
                txn = txn.delete(&presence_key);
            } else {
                let report = ProcessState {
                    unit: None,
                    uuid: assignment.value.uuid,
                    ..report(0, Phase::Up, None)
                };
                state.processes.insert(name.to_owned(), report);
                txn = txn.put(&presence_key, &presence(1));
            }
        }
        let txn = txn.put(&keys::state(&id), &state);
        store.commit(txn).await.expect("commit");
    }
}

#[tokio::test]
async fn without_any_controller_the_units_are_placed_from_here() {
    let (_dir, templates) = templates();
    let store = Store::memory();
    let txn = Txn::new()
        .put(&keys::platform("domain"), &"localhost".to_owned())
        .put(&keys::machine(&machine_id(1)), &machine(1));
    store.commit(txn).await.expect("commit");
    let router = [Target::Part(Part::Router)];
    let story = async {
        let mut ctl = ctl(&store);
        ctl.install(&router, &templates).await.expect("install");
        ctl.start(&router).await.expect("start");
        assert!(
            said(&ctl).contains("placing the units from here"),
            "{}",
            said(&ctl)
        );
        assert!(said(&ctl).contains("deis-router@1.service: active/running\n"));
        ctl.stop(&router).await.expect("stop");
        assert!(
            said(&ctl).ends_with("deis-router@1.service: inactive/dead\n"),
            "{}",
            said(&ctl)
        );
        ctl.install(&[Target::Platform], &templates)
            .await
            .expect("install");
        ctl.start(&[Target::Platform]).await.expect("start");
        let leader = store.get(&keys::leader()).await.expect("get");
        assert_eq!(leader, None, "the leadership was given back");
    };
    tokio::select! {
        () = story => {}
        () = play_an_agent(store.clone()) => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it hangs"),
    }
}
