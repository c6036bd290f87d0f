//! The commands over a store in memory, with records as the leader and the agents write them.

use std::collections::BTreeMap;

use clap::{CommandFactory, Parser};
use insta::assert_snapshot;
use uuid::Uuid;

use super::{
    Cli,
    failure::exit_code,
    fleet::Fleet,
    platform::{Instance, Part},
    progress::{Goal, Progress, progress},
    show, subject,
};
use crate::{
    api::stats::{HostStats, ProcessFigures},
    model::*,
    store::{Store, Txn, keys},
};

const TIME: &str = "2026-11-23T10:00:00Z";

pub(super) fn machine_id(n: u8) -> MachineId {
    format!("{n:02x}").repeat(16).parse().expect("id")
}

pub(super) fn machine(n: u8) -> Machine {
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
        declared_lost: false,
    }
}

pub(super) fn assignment(uuid: u128, desired: Desired, unit: bool) -> Assignment {
    let work = if unit {
        Work::Unit { hash: "00".into() }
    } else {
        Work::Process {
            rollout: None,
            memory_bytes: 1 << 29,
            cpu_shares: 0,
            single: false,
            marks: 0,
        }
    };
    Assignment {
        schema: SCHEMA,
        uuid: Uuid::from_u128(uuid),
        desired,
        work,
    }
}

pub(super) fn report(uuid: u128, phase: Phase, reason: Option<&str>) -> ProcessState {
    ProcessState {
        unit: None,
        uuid: Uuid::from_u128(uuid),
        phase,
        ready: phase == Phase::Up,
        port: None,
        withdrawn: None,
        fenced: None,
        exit: None,
        exit_code: None,
        restarts: if phase == Phase::Crashed { 4 } else { 0 },
        since: TIME.parse().expect("time"),
        reason: reason.map(str::to_owned),
        log: vec![],
    }
}

pub(super) fn presence(n: u8) -> PartPresence {
    PartPresence {
        schema: SCHEMA,
        id: Uuid::from_u128(9),
        address: format!("10.21.8.10{n}:1"),
    }
}

/// Three hosts, one of them lost; a router up, one that isn't registered, one waiting; an app.
pub(super) async fn fabricated() -> Store {
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
            registration: None,
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
