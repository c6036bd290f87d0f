//! Processes as users see them, from what the leader wants and what hosts report; and where a
//! one-off process goes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    stats::HostStats,
    wire::{Container, ContainerStats},
};
use crate::{
    model::{
        AppName, Assignment, Desired, HostRecord, Machine, MachineId, MachineState, Phase,
        ProcessName, ProcessState, ProcessType, Username,
    },
    plan::{
        schedule::{Closed, Pool, Resources, Room, Wanted, merged},
        settings::Placing,
    },
};

/// What all hosts have to run, what they report, and which of them are there.
#[derive(Debug, Default)]
pub struct Fleet {
    /// Assignments of processes, platform units left out.
    pub assigned: Vec<(MachineId, ProcessName, Assignment)>,
    /// Reports.
    pub states: BTreeMap<MachineId, MachineState>,
    /// Hosts that are present.
    pub machines: BTreeMap<MachineId, Machine>,
    /// Hosts' durable records.
    pub hosts: BTreeMap<MachineId, HostRecord>,
    /// What hosts have answered when they were asked for figures; none: they were not asked.
    pub figures: Option<BTreeMap<MachineId, HostStats>>,
}

/// Which of an app's processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'f> {
    /// Only this type; else all but one-off processes.
    pub kind: Option<&'f ProcessType>,
    /// Only this number.
    pub number: Option<u32>,
}

impl Fleet {
    /// An app's processes, by type and number.
    ///
    /// A process that is being taken out is shown only as long as nothing has replaced it.
    #[must_use]
    pub fn containers(
        &self,
        app: &AppName,
        owner: &Username,
        filter: Filter<'_>,
        now: Timestamp,
    ) -> Vec<Container> {
        let mut of_app: Vec<_> = self
            .assigned
            .iter()
            .filter(|(_, name, _)| name.app == *app)
            .filter(|(_, name, _)| match filter.kind {
                Some(kind) => name.kind == *kind,
                None => !name.kind.is_one_off(),
            })
            .filter(|(_, name, _)| filter.number.is_none_or(|number| name.number == number))
            .collect();
        of_app.sort_by(|(_, a, _), (_, b, _)| {
            (a.id(), a.release, a.incarnation).cmp(&(b.id(), b.release, b.incarnation))
        });
        let running: BTreeSet<_> = of_app
            .iter()
            .filter(|(_, _, assignment)| assignment.desired == Desired::Run)
            .map(|(_, name, _)| name.id())
            .collect();
        of_app
            .into_iter()
            .filter(|(_, name, assignment)| {
                assignment.desired == Desired::Run || !running.contains(&name.id())
            })
            .map(|(machine, name, assignment)| {
                let report = self.report(machine, name, assignment);
                let since = report.map_or(now, |report| report.since);
                let state = match report {
                    // Nobody knows what runs on a host that is gone.
                    _ if !self.machines.contains_key(machine) => "down",
                    _ if assignment.desired != Desired::Run => "down",
                    None => "created",
                    Some(report) => word(report.phase),
                };
                Container {
                    owner: owner.to_string(),
                    app: app.to_string(),
                    release: name.release.to_string(),
                    r#type: name.kind.to_string(),
                    num: name.number,
                    state: state.to_owned(),
                    created: since.into(),
                    updated: since.into(),
                    uuid: assignment.uuid,
                    stats: self.stats(machine, name, assignment, report),
                }
            })
            .collect()
    }

    /// The hosts on which an app has processes, with their addresses.
    #[must_use]
    pub fn hosts_of(&self, app: &AppName) -> BTreeMap<MachineId, String> {
        let of_app = self.assigned.iter().filter(|(_, name, _)| name.app == *app);
        let present = of_app.filter_map(|(id, _, _)| self.machines.get(id));
        present
            .map(|machine| (machine.id.clone(), machine.address.clone()))
            .collect()
    }

    /// A process's figures, if hosts were asked: what etcd knows is there even if its host is silent.
    fn stats(
        &self,
        machine: &MachineId,
        name: &ProcessName,
        assignment: &Assignment,
        report: Option<&ProcessState>,
    ) -> Option<ContainerStats> {
        let answer = self.figures.as_ref()?.get(machine);
        let live = answer
            .and_then(|answer| answer.processes.get(&name.to_string()))
            .filter(|figures| figures.uuid == assignment.uuid);
        let Some(live) = live else {
            return Some(ContainerStats {
                restarts: report.map_or(0, |report| report.restarts),
                exit: report.and_then(|report| report.exit.clone()),
                ..ContainerStats::default()
            });
        };
        Some(live.clone().into())
    }

    /// What a host says of a process, if it speaks of the same one.
    fn report(
        &self,
        machine: &MachineId,
        name: &ProcessName,
        assignment: &Assignment,
    ) -> Option<&ProcessState> {
        self.states
            .get(machine)?
            .processes
            .get(&name.to_string())
            .filter(|report| report.uuid == assignment.uuid)
    }

    /// The host for a one-off process with these needs and `tags`: chosen and refused by the scheduler's
    /// own rules.
    ///
    /// # Errors
    /// When there is none: why not.
    pub fn place(
        &self,
        needs: Resources,
        tags: &BTreeMap<String, String>,
        placing: &Placing,
    ) -> Result<&Machine, NoPlace> {
        let mut taken: BTreeMap<&MachineId, (Resources, u32)> = BTreeMap::new();
        for (machine, _, assignment) in &self.assigned {
            let (reserved, processes) = taken.entry(machine).or_default();
            *reserved = reserved.plus(Resources::of(&assignment.work));
            *processes += 1;
        }
        let room = |machine: &Machine| self.room(machine, taken.get(&machine.id).copied(), placing);
        let rooms = self.machines.values().map(room).collect();
        let mut pool = Pool::new(rooms, &placing.domain_label);
        let peers = BTreeMap::new();
        let wanted = Wanted {
            needs,
            tags,
            peers: &peers,
        };
        let chosen = pool.place(&wanted, 1);
        let machine = chosen.first().and_then(|id| self.machines.get(id));
        machine.ok_or_else(|| NoPlace(pool.shortage(&wanted).to_string()))
    }

    /// A host as placement sees it.
    fn room(&self, machine: &Machine, taken: Option<(Resources, u32)>, placing: &Placing) -> Room {
        let record = self.hosts.get(&machine.id);
        let (reserved, processes) = taken.unwrap_or_default();
        Room {
            id: machine.id.clone(),
            name: machine.hostname.clone(),
            offered: Resources::offered(machine, placing),
            reserved,
            processes,
            closed: record.and_then(Closed::of_record),
            labels: merged(record, machine),
        }
    }

    /// The next free number of a one-off process of an app.
    #[must_use]
    pub fn next_run(&self, app: &AppName) -> u32 {
        let one_off = ProcessType::run();
        self.assigned
            .iter()
            .filter(|(_, name, _)| name.app == *app && name.kind == one_off)
            .map(|(_, name, _)| name.number)
            .max()
            .unwrap_or(0)
            .saturating_add(1)
    }
}

/// Why a one-off process finds no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; `deisctl machines` shows the hosts, `deis limits` and `deis tags` what is asked for")]
pub struct NoPlace(String);

/// v1's word for a phase.
const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "created",
        Phase::Starting | Phase::Stopping | Phase::Idle => "down",
        Phase::Up => "up",
        Phase::Crashed => "crashed",
        Phase::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::Work;

    const GIB: u64 = 1 << 30;

    fn machine(digit: char) -> MachineId {
        digit.to_string().repeat(32).parse().expect("machine id")
    }

    #[test]
    fn figures_are_of_the_same_process_and_only_when_asked_for() {
        let mut scene = Scene::new("ab")
            .put('a', "blog_v1.web.1", Desired::Run, Some(Phase::Up))
            .put('b', "blog_v1.web.2", Desired::Run, Some(Phase::Up))
            .put('b', "shop_v1.web.1", Desired::Run, Some(Phase::Up));
        let (app, owner) = ("blog".parse().expect("app"), "ada".parse().expect("user"));
        let list = |scene: &Scene| {
            let now = Timestamp::UNIX_EPOCH;
            let all = scene.0.containers(&app, &owner, Filter::default(), now);
            all.into_iter().map(|c| c.stats).collect::<Vec<_>>()
        };
        assert_eq!(list(&scene), [None, None]);
        let hosts: Vec<_> = scene.0.hosts_of(&app).into_values().collect();
        assert_eq!(hosts, ["10.0.0.a", "10.0.0.b"]);
        let figures = |uuid, bytes| crate::api::stats::ProcessFigures {
            uuid: Uuid::from_u128(uuid),
            memory_bytes: Some(bytes),
            restarts: 7,
            ..Default::default()
        };
        // Host b says nothing, and host a speaks of the one it has; then of an earlier one.
        for (uuid, want) in [(1, (Some(5), 7)), (9, (None, 0))] {
            let stats = HostStats {
                processes: [("blog_v1.web.1".to_owned(), figures(uuid, 5))].into(),
                ..HostStats::default()
            };
            scene.0.figures = Some([(machine('a'), stats)].into());
            let listed = list(&scene);
            let one = listed[0].as_ref().expect("asked");
            assert_eq!((one.memory_bytes, one.restarts), want);
            assert_eq!(listed[1], Some(ContainerStats::default()));
        }
    }

    struct Scene(Fleet);

    impl Scene {
        fn new(machines: &str) -> Self {
            let mut fleet = Fleet::default();
            for digit in machines.chars() {
                let id = machine(digit);
                let record = Machine {
                    schema: 1,
                    id: id.clone(),
                    hostname: format!("h{digit}"),
                    address: format!("10.0.0.{digit}"),
                    memory_bytes: 2 * GIB,
                    cpus: 2,
                    version: String::new(),
                    boot_id: String::new(),
                    metadata: BTreeMap::from([("zone".into(), format!("z{digit}"))]),
                };
                fleet.machines.insert(id, record);
            }
            Self(fleet)
        }

        fn put(mut self, on: char, name: &str, desired: Desired, phase: Option<Phase>) -> Self {
            let uuid = Uuid::from_u128(self.0.assigned.len() as u128 + 1);
            let work = Work::Process {
                rollout: None,
                memory_bytes: GIB,
                cpu_shares: 0,
                single: false,
                marks: 0,
            };
            let assignment = Assignment {
                schema: 1,
                uuid,
                desired,
                work,
            };
            let process = name.parse().expect("process");
            self.0.assigned.push((machine(on), process, assignment));
            if let Some(phase) = phase {
                let state = ProcessState {
                    unit: None,
                    uuid,
                    phase,
                    ready: phase == Phase::Up,
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
                let states = &mut self.0.states;
                let report = states.entry(machine(on)).or_insert_with(|| MachineState {
                    schema: 1,
                    registration: None,
                    processes: BTreeMap::new(),
                });
                report.processes.insert(name.into(), state);
            }
            self
        }

        fn rows(&self, filter: Filter<'_>) -> Vec<String> {
            let app = "blog".parse().expect("app");
            let owner = "ada".parse().expect("user");
            self.0
                .containers(&app, &owner, filter, Timestamp::UNIX_EPOCH)
                .iter()
                .map(|c| format!("{}.{} {} ({})", c.r#type, c.num, c.state, c.release))
                .collect()
        }
    }

    #[test]
    fn states_are_v1_s_words() {
        let scene = Scene::new("12")
            .put('1', "blog_v2.web.1", Desired::Run, Some(Phase::Up))
            .put('2', "blog_v2.web.2", Desired::Run, Some(Phase::Crashed))
            .put('1', "blog_v2.web.10", Desired::Run, None)
            .put('1', "blog_v2.web.3", Desired::Run, Some(Phase::Preparing))
            .put('1', "blog_v2.worker.1", Desired::Run, Some(Phase::Starting))
            .put('2', "blog_v2.worker.2", Desired::Run, Some(Phase::Error))
            .put('9', "blog_v2.worker.3", Desired::Run, Some(Phase::Up))
            .put('1', "blog_v2.run.1", Desired::Run, Some(Phase::Up))
            .put('1', "other_v2.web.1", Desired::Run, Some(Phase::Up));
        let all = [
            "web.1 up (v2)",
            "web.2 crashed (v2)",
            "web.3 created (v2)",
            "web.10 created (v2)",
            "worker.1 down (v2)",
            "worker.2 error (v2)",
            "worker.3 down (v2)",
        ];
        assert_eq!(scene.rows(Filter::default()), all);
        let run = ProcessType::run();
        let kind = Some(&run);
        assert_eq!(scene.rows(Filter { kind, number: None }), ["run.1 up (v2)"]);
        let web = "web".parse().expect("type");
        let filter = Filter {
            kind: Some(&web),
            number: Some(2),
        };
        assert_eq!(scene.rows(filter), ["web.2 crashed (v2)"]);
    }

    #[test]
    fn a_rollout_shows_both_and_then_the_new() {
        let scene = Scene::new("1")
            .put('1', "blog_v2.web.1", Desired::Run, Some(Phase::Up))
            .put('1', "blog_v3.web.1", Desired::Run, Some(Phase::Starting))
            .put('1', "blog_v2.web.2", Desired::Drain, Some(Phase::Up))
            .put('1', "blog_v3.web.2", Desired::Run, Some(Phase::Up))
            .put('1', "blog_v2.web.3", Desired::Stop, Some(Phase::Stopping));
        let rows = scene.rows(Filter::default());
        let want = [
            "web.1 up (v2)",
            "web.1 down (v3)",
            "web.2 up (v3)",
            "web.3 down (v2)",
        ];
        assert_eq!(rows, want);
    }

    #[test]
    fn a_one_off_goes_to_the_least_loaded_host() {
        let none = BTreeMap::new();
        let scene = Scene::new("123")
            .put('1', "blog_v2.web.1", Desired::Run, None)
            .put('3', "blog_v2.web.2", Desired::Run, None);
        let place = |scene: &Scene, memory_bytes, tags| {
            let needs = Resources {
                memory_bytes,
                cpu_shares: 512,
            };
            let machine = scene.0.place(needs, tags, &Placing::default());
            machine.map(|m| m.id.clone()).map_err(|e| e.to_string())
        };
        assert_eq!(place(&scene, GIB, &none), Ok(machine('2')));
        let refused = place(&scene, 3 * GIB, &none).expect_err("too big");
        assert!(refused.contains("3 lack 3072 MiB"), "{refused}");
        let tags = BTreeMap::from([("zone".to_owned(), "z3".to_owned())]);
        assert_eq!(place(&scene, GIB, &tags), Ok(machine('3')));
        let tags = BTreeMap::from([("zone".to_owned(), "z7".to_owned())]);
        let refused = place(&scene, GIB, &tags).expect_err("no such tag");
        assert!(refused.contains("tags zone=z7"), "{refused}");
        let refused = place(&Scene::new(""), GIB, &none).expect_err("nobody");
        assert!(refused.contains("no host is there"), "{refused}");
    }

    #[test]
    fn one_offs_are_numbered() {
        let app = "blog".parse().expect("app");
        assert_eq!(Scene::new("1").0.next_run(&app), 1);
        let scene = Scene::new("1")
            .put('1', "blog_v2.run.4", Desired::Run, None)
            .put('1', "other_v2.run.9", Desired::Run, None);
        assert_eq!(scene.0.next_run(&app), 5);
    }
}
