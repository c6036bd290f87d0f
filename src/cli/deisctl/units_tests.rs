//! The commands on units over a store in memory, with the real leader and an agent in miniature.

use std::{collections::BTreeMap, fs, time::Duration};

use insta::assert_snapshot;
use jiff::Timestamp;

use super::{
    aim::UnitWord,
    failure::{exit_code, render},
    fleet::Fleet,
    units::Units,
    units_list::{self, ListArgs},
};
use crate::{
    model::*,
    store::{Store, Txn, keys},
};

const HELLO: &str = "[Unit]\nDescription=Hello\n\n[Service]\nExecStart=/bin/sleep infinity\n";

fn machine_id() -> MachineId {
    "148a18ff6e954cd892dac9de9bb90d5a".parse().expect("id")
}

fn words(words: &[&str]) -> Vec<UnitWord> {
    words
        .iter()
        .map(|word| word.parse().expect("a unit"))
        .collect()
}

fn list_args(fields: &str) -> ListArgs {
    ListArgs {
        fields: fields
            .split(',')
            .filter(|field| !field.is_empty())
            .map(str::to_owned)
            .collect(),
        full: false,
        no_legend: false,
    }
}

/// One host, whose agent does at once what is wanted.
async fn cluster() -> (Store, tokio_util::task::AbortOnDropHandle<()>) {
    let store = Store::memory();
    let id = machine_id();
    let machine = Machine {
        schema: SCHEMA,
        id: id.clone(),
        hostname: "deis-01".into(),
        address: "10.0.0.1".into(),
        memory_bytes: 1 << 30,
        cpus: 1,
        version: "2".into(),
        boot_id: "b".into(),
        metadata: [("zone".to_owned(), "a".to_owned())].into(),
    };
    let here = Txn::new().put(&keys::machine(&id), &machine);
    store.commit(here).await.expect("stored");
    let agent = tokio::spawn(play_an_agent(store.clone(), id));
    (store, tokio_util::task::AbortOnDropHandle::new(agent))
}

async fn play_an_agent(store: Store, id: MachineId) {
    let schedule = keys::schedule_of(&id);
    let mut feed = store.follow(schedule.as_str());
    loop {
        feed.next().await;
        let mut processes = BTreeMap::new();
        for (key, assignment) in store.list(&schedule).await.expect("list").entries {
            let (done, active, sub) = match assignment.value.desired {
                Desired::Run => (UnitTarget::Launched, "active", "running"),
                Desired::Load => (UnitTarget::Loaded, "inactive", "dead"),
                Desired::Drain | Desired::Stop => continue,
            };
            let (_, name) = keys::parse_assignment(&key).expect("ours");
            let state = ProcessState {
                unit: Some(UnitWords {
                    done,
                    load: "loaded".into(),
                    active: active.into(),
                    sub: sub.into(),
                }),
                uuid: assignment.value.uuid,
                phase: Phase::Up,
                ready: true,
                port: None,
                withdrawn: None,
                fenced: None,
                exit: None,
                exit_code: None,
                restarts: 0,
                since: Timestamp::UNIX_EPOCH,
                reason: None,
                log: vec![],
            };
            processes.insert(name.to_owned(), state);
        }
        let state = MachineState {
            schema: SCHEMA,
            registration: None,
            processes,
        };
        let report = Txn::new().put(&keys::state(&id), &state);
        store.commit(report).await.expect("stored");
    }
}

fn ctl(store: &Store) -> Units<'_, Vec<u8>> {
    Units {
        store,
        patience: Some(Duration::from_secs(30)),
        out: Vec::new(),
    }
}

fn said(units: &Units<'_, Vec<u8>>) -> String {
    let text = String::from_utf8_lossy(&units.out).into_owned();
    // Who places them is no matter here.
    text.replace("no controller leads: placing the units from here\n", "")
}

#[tokio::test]
async fn a_unit_goes_all_the_way_and_back_in_fleetctls_words() {
    let (store, _agent) = cluster().await;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("hello.service");
    fs::write(&path, HELLO).expect("written");
    let file = words(&[path.to_str().expect("path")]);
    let hello = words(&["hello.service"]);
    let mut units = ctl(&store);
    units.submit(&file, false).await.expect("submitted");
    units.submit(&file, false).await.expect("submitted twice");
    units
        .bring(&hello, UnitTarget::Loaded, false)
        .await
        .expect("loaded");
    units
        .bring(&file, UnitTarget::Launched, false)
        .await
        .expect("started");
    let fleet = Fleet::load(&store).await.expect("fleet");
    assert_snapshot!(units_list::units(&fleet, &list_args("")).expect("list"), @"
    UNIT           MACHINE               ACTIVE  SUB
    hello.service  148a18ff.../10.0.0.1  active  running
    ");
    assert_snapshot!(units_list::unit_files(&fleet, &list_args("unit,dstate,state,target,global,desc")).expect("list"), @"
    UNIT           DSTATE    STATE     TARGET                GLOBAL  DESC
    hello.service  launched  launched  148a18ff.../10.0.0.1  false   Hello
    ");
    assert_snapshot!(units_list::machines(&fleet, &list_args("")).expect("list"), @"
    MACHINE      IP        METADATA
    148a18ff...  10.0.0.1  zone=a
    ");
    let wrong = units_list::units(&fleet, &list_args("unit,colour")).expect_err("no such field");
    assert_eq!(wrong.to_string(), "there is no field \"colour\"");
    units
        .take_back(&hello, UnitTarget::Loaded)
        .await
        .expect("stopped");
    units
        .take_back(&hello, UnitTarget::Inactive)
        .await
        .expect("unloaded");
    units
        .take_back(&hello, UnitTarget::Loaded)
        .await
        .expect("stopping what is nowhere");
    units.cat(&hello).await.expect("shown");
    units.destroy(&hello).await.expect("destroyed");
    assert_snapshot!(said(&units), @"
    Unit hello.service inactive
    Unit hello.service inactive
    Unit hello.service loaded on 148a18ff.../10.0.0.1
    Unit hello.service launched on 148a18ff.../10.0.0.1
    Unit hello.service loaded on 148a18ff.../10.0.0.1
    Unit hello.service inactive
    Unit hello.service inactive
    [Unit]
    Description=Hello

    [Service]
    ExecStart=/bin/sleep infinity
    Destroyed hello.service
    ");
    let error = ctl(&store).destroy(&hello).await.expect_err("it is gone");
    assert_eq!(exit_code(&error), 3, "{error}");
}

#[tokio::test]
async fn another_text_is_refused_or_replaces() {
    let (store, _agent) = cluster().await;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("hello.service");
    let file = words(&[path.to_str().expect("path")]);
    fs::write(&path, HELLO).expect("written");
    ctl(&store)
        .bring(&file, UnitTarget::Launched, false)
        .await
        .expect("started");
    fs::write(&path, HELLO.replace("infinity", "1h")).expect("written");
    let error = ctl(&store)
        .bring(&file, UnitTarget::Launched, false)
        .await
        .expect_err("another text");
    assert_snapshot!(render(&error), @"
    error: hello.service is there already with another text
    hint: `deisctl cat` shows it; --replace stops it and takes the new text
    ");
    assert_eq!(exit_code(&error), 4);
    ctl(&store)
        .bring(&file, UnitTarget::Launched, true)
        .await
        .expect("replaced");
    let mut units = ctl(&store);
    units.cat(&words(&["hello.service"])).await.expect("shown");
    assert!(said(&units).contains("/bin/sleep 1h"));
}

#[tokio::test]
async fn instances_come_from_their_template() {
    let (store, _agent) = cluster().await;
    let dir = tempfile::tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name).to_str().expect("path").to_owned();
    fs::write(at("hello@.service"), HELLO).expect("written");
    // From the file beside it, then from the cluster's.
    let mut units = ctl(&store);
    units
        .bring(
            &words(&[&at("hello@1.service")]),
            UnitTarget::Launched,
            false,
        )
        .await
        .expect("started");
    units
        .submit(&words(&[&at("hello@.service")]), false)
        .await
        .expect("submitted");
    units
        .bring(&words(&["hello@2", "hello@3"]), UnitTarget::Launched, false)
        .await
        .expect("started");
    let files = Fleet::load(&store).await.expect("fleet").units;
    assert_eq!(files.len(), 4);
    assert!(files.values().all(|file| file.value.text == HELLO));
    let template = words(&["hello@.service"]);
    let error = units
        .bring(&template, UnitTarget::Launched, false)
        .await
        .expect_err("a template");
    assert!(
        error.to_string().contains("like hello@1.service"),
        "{error}"
    );
    let error = units
        .bring(&words(&["nobody@1.service"]), UnitTarget::Launched, false)
        .await
        .expect_err("no template");
    assert_eq!(exit_code(&error), 3, "{error}");
    // Patterns mean those that there are.
    units.out.clear();
    units
        .take_back(&words(&["hello@[12]*"]), UnitTarget::Inactive)
        .await
        .expect("unloaded");
    units
        .destroy(&words(&["hello@*"]))
        .await
        .expect("destroyed");
    assert!(Fleet::load(&store).await.expect("fleet").units.is_empty());
    assert_snapshot!(said(&units), @"
    Unit hello@1.service inactive
    Unit hello@2.service inactive
    Destroyed hello@.service
    Destroyed hello@1.service
    Destroyed hello@2.service
    Destroyed hello@3.service
    ");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_for_what_and_nobody_has_to_wait() {
    let (store, _agent) = cluster().await;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("far.service");
    fs::write(
        &path,
        format!("{HELLO}\n[X-Fleet]\nMachineMetadata=zone=b\n"),
    )
    .expect("written");
    let file = words(&[path.to_str().expect("path")]);
    let mut units = ctl(&store);
    units.patience = None;
    units
        .bring(&file, UnitTarget::Launched, false)
        .await
        .expect("triggered");
    assert_eq!(said(&units), "Triggered unit far.service start\n");
    let mut units = ctl(&store);
    let error = units
        .bring(&file, UnitTarget::Launched, false)
        .await
        .expect_err("no place");
    assert_eq!(exit_code(&error), 5, "{error}");
    assert!(
        error.to_string().contains("far.service: waits for a place"),
        "{error}"
    );
    assert!(said(&units).contains("still waiting:"), "it was silent");
}
