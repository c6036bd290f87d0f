//! The commands over a store in memory, with records as the leader and the agents write them.

use std::{collections::BTreeMap, time::Duration};

use clap::{CommandFactory, Parser};
use insta::assert_snapshot;
use uuid::Uuid;

use super::{
    Cli,
    failure::{self, exit_code},
    fleet::Fleet,
    lifecycle::Lifecycle,
    platform::{Instance, Part, Target},
    progress::{Goal, Progress, progress},
    show, subject,
    templates::Templates,
};
use crate::{
    api::stats::{HostStats, ProcessFigures},
    model::*,
    store::{Store, Txn, keys},
};

const TIME: &str = "2026-11-23T10:00:00Z";

fn machine_id(n: u8) -> MachineId {
    format!("{n:02x}").repeat(16).parse().expect("id")
}

fn machine(n: u8) -> Machine {
    Machine {
        schema: SCHEMA,
        id: machine_id(n),
        hostname: format!("deis-0{n}"),
        address: format!("10.21.8.10{n}"),
        memory_bytes: 4 << 30,
        cpus: 2,
        version: "2.0.0".into(),
        boot_id: "b".into(),
        metadata: BTreeMap::from([("zone".to_owned(), format!("z{n}"))]),
    }
}

fn host(n: u8) -> HostRecord {
    HostRecord {
        schema: SCHEMA,
        hostname: format!("deis-0{n}"),
        address: format!("10.21.8.10{n}"),
        labels: BTreeMap::new(),
        cordoned: n == 2,
        drain: None,
        lost_since: (n == 3).then(|| TIME.parse().expect("time")),
    }
}

fn assignment(uuid: u128, desired: Desired, unit: bool) -> Assignment {
    let work = if unit {
        Work::Unit { hash: "00".into() }
    } else {
        Work::Process {
            rollout: None,
            memory_bytes: 1 << 29,
            cpu_shares: 0,
            single: false,
        }
    };
    Assignment {
        schema: SCHEMA,
        uuid: Uuid::from_u128(uuid),
        desired,
        work,
    }
}

fn report(uuid: u128, phase: Phase, reason: Option<&str>) -> ProcessState {
    ProcessState {
        unit: None,
        uuid: Uuid::from_u128(uuid),
        phase,
        ready: phase == Phase::Up,
        port: None,
        withdrawn: None,
        exit: None,
        exit_code: None,
        restarts: if phase == Phase::Crashed { 4 } else { 0 },
        since: TIME.parse().expect("time"),
        reason: reason.map(str::to_owned),
        log: vec![],
    }
}

fn presence(n: u8) -> PartPresence {
    PartPresence {
        schema: SCHEMA,
        id: Uuid::from_u128(9),
        address: format!("10.21.8.10{n}:1"),
    }
}

/// Three hosts, one of them lost; a router up, one that isn't registered, one waiting; an app.
async fn fabricated() -> Store {
    let store = Store::memory();
    let mut txn = Txn::new();
    for n in 1..=2 {
        txn = txn.put(&keys::machine(&machine_id(n)), &machine(n));
    }
    for n in 1..=3 {
        txn = txn.put(&keys::host(&machine_id(n)), &host(n));
    }
    for (number, target) in [
        (1, UnitTarget::Launched),
        (2, UnitTarget::Launched),
        (3, UnitTarget::Launched),
        (4, UnitTarget::Loaded),
    ] {
        let part = Part::Router;
        let unit = UnitFile {
            schema: SCHEMA,
            text: "[Service]".into(),
            target,
        };
        txn = txn.put(&keys::unit(&Instance { part, number }.unit()), &unit);
    }
    let router = |n: u8| format!("deis-router@{n}.service");
    let assigned = [
        (1, router(1), assignment(1, Desired::Run, true)),
        (2, router(2), assignment(2, Desired::Run, true)),
        (
            1,
            "blog_v7.web.2".into(),
            assignment(3, Desired::Run, false),
        ),
        (
            2,
            "blog_v7.web.10".into(),
            assignment(4, Desired::Run, false),
        ),
        (
            2,
            "blog_v6.web.2".into(),
            assignment(5, Desired::Drain, false),
        ),
        (
            3,
            "blog_v7.worker.1".into(),
            assignment(6, Desired::Run, false),
        ),
    ];
    for (n, name, assignment) in assigned {
        txn = txn.put(&keys::assignment(&machine_id(n), &name), &assignment);
    }
    let states = [
        (
            1,
            vec![
                (router(1), report(1, Phase::Up, None)),
                ("blog_v7.web.2".into(), report(3, Phase::Up, None)),
            ],
        ),
        (
            2,
            vec![
                (router(2), report(2, Phase::Up, None)),
                (
                    "blog_v7.web.10".into(),
                    report(4, Phase::Crashed, Some("exit code 1\nboom")),
                ),
                ("blog_v6.web.2".into(), report(5, Phase::Up, None)),
            ],
        ),
        (
            3,
            vec![("blog_v7.worker.1".into(), report(6, Phase::Up, None))],
        ),
    ];
    for (n, processes) in states {
        let state = MachineState {
            schema: SCHEMA,
            processes: processes.into_iter().collect(),
        };
        txn = txn.put(&keys::state(&machine_id(n)), &state);
    }
    txn = txn.put(&keys::part("router", "10.21.8.101"), &presence(1));
    store.commit(txn).await.expect("commit");
    store
}

async fn fleet() -> Fleet {
    Fleet::load(&fabricated().await).await.expect("fleet")
}

#[tokio::test]
async fn list_shows_units_and_processes() {
    let mut fleet = fleet().await;
    let report = fleet.report(&machine_id(1), "blog_v7.web.2");
    let figures = ProcessFigures {
        uuid: report.expect("a report").uuid,
        memory_bytes: Some(33_000_000),
        memory_limit_bytes: Some(512 << 20),
        cpu_permille: Some(14),
        uptime_secs: Some(7500),
        restarts: 2,
        exit: Some("killed: out of memory".into()),
        ..ProcessFigures::default()
    };
    let stats = HostStats {
        processes: [("blog_v7.web.2".to_owned(), figures)].into(),
        ..HostStats::default()
    };
    fleet.figures.insert(machine_id(1), stats);
    assert_snapshot!(show::list(&fleet), @"
    UNIT                      MACHINE              LOAD    ACTIVE      SUB           READY  MEMORY      CPU   UPTIME  RESTARTS  LAST EXIT              NOTE
    deis-router@1.service     deis-01/10.21.8.101  loaded  active      running       yes    -           -     -       0         -                      -
    deis-router@2.service     deis-02/10.21.8.102  loaded  active      running       yes    -           -     -       0         -                      -
    deis-router@3.service     -                    -       -           -             -      -           -     -       -         -                      waits for a place
    deis-router@4.service     -                    -       -           -             -      -           -     -       -         -                      installed, not started
    blog_v6.web.2.service     deis-02/10.21.8.102  loaded  active      running       yes    -           -     -       0         -                      draining
    blog_v7.web.2.service     deis-01/10.21.8.101  loaded  active      running       yes    31.5M/512M  1.4%  2h 5m   2         killed: out of memory  -
    blog_v7.web.10.service    deis-02/10.21.8.102  loaded  activating  auto-restart  no     -           -     -       4         -                      exit code 1 boom
    blog_v7.worker.1.service  deis-03/10.21.8.103  loaded  active      running       yes    -           -     -       0         -                      its host is absent, this is its last word
    ");
}

#[tokio::test]
async fn machines_shows_present_and_lost_hosts() {
    assert_snapshot!(show::machines(&fleet().await, false), @"
    MACHINE      IP           METADATA  HOSTNAME  VERSION  STATE
    01010101...  10.21.8.101  zone=z1   deis-01   2.0.0    up
    02020202...  10.21.8.102  zone=z2   deis-02   2.0.0    up, cordoned
    03030303...  10.21.8.103  -         deis-03   -        lost since 2026-11-23T10:00:00Z
    ");
}

#[tokio::test]
async fn progress_says_what_a_unit_waits_for() {
    let fleet = fleet().await;
    let cases = [
        (1, Goal::Running, Ok("active/running")),
        (
            2,
            Goal::Running,
            Err(
                "active/running on deis-02/10.21.8.102, not yet registered as /deis/router/hosts/10.21.8.102",
            ),
        ),
        (
            3,
            Goal::Running,
            Err("waits for a place, no leader is elected yet"),
        ),
        (
            1,
            Goal::Stopped,
            Err("active/running on deis-01/10.21.8.101"),
        ),
        (3, Goal::Stopped, Ok("inactive/dead")),
    ];
    for (number, goal, want) in cases {
        let part = Part::Router;
        let got = match progress(&fleet, Instance { part, number }, goal) {
            Progress::Done(text) => Ok(text),
            Progress::Open(text) => Err(text),
        };
        let got = got.as_ref().map(String::as_str).map_err(String::as_str);
        assert_eq!(got, want, "router@{number} {goal:?}");
    }
}

#[tokio::test]
async fn words_mean_units_and_hosts() {
    let fleet = fleet().await;
    type Found = Option<(&'static str, u8)>;
    let cases: &[(&str, Option<&str>, Found)] = &[
        ("router@1", None, Some(("deis-router@1.service", 1))),
        (
            "deis-router@2.service",
            None,
            Some(("deis-router@2.service", 2)),
        ),
        ("router", None, None),
        (
            "router",
            Some("deis-02"),
            Some(("deis-router@2.service", 2)),
        ),
        ("router@3", None, None),
        ("blog_v7.web.2", None, Some(("blog_v7.web.2.service", 1))),
        (
            "blog_v7.web.10.service",
            None,
            Some(("blog_v7.web.10.service", 2)),
        ),
        ("blog_v7.web", None, None),
        ("blog_v6", None, Some(("blog_v6.web.2.service", 2))),
        ("blog_v7.web.1", None, None),
        (
            "deis-agent",
            Some("10.21.8.102"),
            Some(("deis-agent.service", 2)),
        ),
        ("deis-agent", Some("0303"), Some(("deis-agent.service", 3))),
        ("deis-agent", None, None),
        ("x;reboot", Some("deis-01"), None),
        ("", None, None),
    ];
    for (word, on, want) in cases {
        let got = subject::unit(&fleet, word, *on).ok();
        let want = want.map(|(unit, n)| (unit.to_owned(), machine_id(n)));
        assert_eq!(
            got.map(|l| (l.unit.to_string(), l.machine)),
            want,
            "{word:?} on {on:?}"
        );
    }
}

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

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
    for good in [
        "deisctl start platform",
        "deisctl scale router=2 registry=1 --timeout 60",
        "deisctl config router set a=b c=d",
        "deisctl --cluster test list",
        "deisctl list --cluster test",
        "deisctl journal router@1 -f -n 5",
        "deisctl ssh deis-01 ls -la /",
        "deisctl completions bash",
    ] {
        Cli::try_parse_from(good.split(' ')).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for bad in [
        "deisctl start",
        "deisctl start routers",
        "deisctl scale router=x",
        "deisctl scale router",
        "deisctl config router set",
        "deisctl journal router -n -1",
    ] {
        assert!(
            Cli::try_parse_from(bad.split(' ')).is_err(),
            "{bad} must be refused"
        );
    }
}

#[test]
fn completions_come_out() {
    let mut script = Vec::new();
    let shell = clap_complete::Shell::Bash;
    clap_complete::generate(shell, &mut Cli::command(), "deisctl", &mut script);
    assert!(String::from_utf8_lossy(&script).contains("uninstall"));
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

#[tokio::test]
async fn only_absent_hosts_are_declared_lost() {
    let store = Store::memory();
    let txn = [1, 2, 3].iter().fold(Txn::new(), |txn, n| {
        let record = HostRecord {
            lost_since: None,
            ..host(*n)
        };
        txn.put(&keys::host(&machine_id(*n)), &record)
    });
    let txn = txn.put(&keys::machine(&machine_id(1)), &machine(1));
    store.commit(txn).await.expect("stored");
    let declare = async |words: &[&str], undo| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut out = Vec::new();
        let result = super::lost::declare(&store, &words, undo, &mut out).await;
        result.map(|()| String::from_utf8(out).expect("text"))
    };
    let is_lost = async |n| {
        let record = store.get(&keys::host(&machine_id(n))).await.expect("read");
        record.expect("a record").value.lost_since.is_some()
    };
    let refused = declare(&["deis-02", "deis-01"], false)
        .await
        .expect_err("deis-01 is there");
    assert_eq!(exit_code(&refused), 1, "{refused}");
    assert!(!is_lost(2).await, "all or none");
    let unknown = declare(&["deis-09"], false)
        .await
        .expect_err("no such host");
    assert_eq!(exit_code(&unknown), 3, "{unknown}");
    let said = declare(&["deis-02", "10.21.8.103"], false)
        .await
        .expect("done");
    assert!(
        said.contains("deis-02/10.21.8.102: declared lost"),
        "{said}"
    );
    assert!(is_lost(2).await && is_lost(3).await);
    let said = declare(&["deis-02"], true).await.expect("done");
    assert!(said.contains("declared not lost"), "{said}");
    assert!(!is_lost(2).await && is_lost(3).await);
}
