//! The trials: hosts die, networks part, disks fill, clocks jump, for as long as it takes; three real
//! hosts, driven only as users and operators do.
//!
//! `make soak` boots a cluster of its own and runs all of them, one after the other;
//! `make soak TRIALS='etcd power'` those with one of these words in their names. Each trial begins on
//! a whole cluster, bounds each wait and ends with figures; what came of it goes into docs/soak.md at
//! once. Long trials have a shorter form for everyday use: SOAK_OUTAGE (seconds, 600), SOAK_CYCLES
//! (20), SOAK_CHANGES (seconds, 120), SOAK_SEED.

#[path = "../support/mod.rs"]
mod support;

mod book;
mod certificates;
mod clock;
mod controllers;
mod disk;
mod etcd;
mod fleet_api;
mod fleet_hosts;
mod fleet_units;
mod ground;
mod network;
mod power;
mod records;
mod rollout_kills;
mod rollouts;
mod single;
mod stage;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use book::{Book, Entry};
use ground::{Ground, Notes};

/// One trial: its name is its function's.
pub struct Trial {
    /// Its function's name.
    pub name: &'static str,
    /// What it checks, for docs/soak.md.
    pub checks: &'static str,
    run: fn(&Ground, &mut Notes),
}

macro_rules! trials {
    ($($module:ident::$name:ident: $checks:literal,)*) => {
        &[$(Trial { name: stringify!($name), checks: $checks, run: $module::$name }),*]
    };
}

/// All there are, in the order in which they run: what breaks most comes last.
#[rustfmt::skip]
const TRIALS: &[Trial] = trials![
    fleet_hosts::fleet_machines_list:
        "`deisctl list-machines` shows every host with its address and metadata, whole ids on request.",
    fleet_hosts::fleet_known_hosts_verification:
        "`deisctl ssh` and `status` refuse a host whose key is not the known one, and say so.",
    fleet_hosts::fleet_ctl_with_env:
        "`deisctl` takes its cluster from the environment as from flags.",
    fleet_hosts::fleet_version_flag: "`deisctl --version` tells the version.",
    fleet_hosts::fleet_help_output: "`deisctl` without arguments shows its commands.",
    fleet_hosts::fleet_help_flag: "`--help` of the program and of each command exits with 0.",
    fleet_hosts::fleet_single_node_connectivity_loss:
        "A host that loses etcd changes the state of none of its units for as long as it is gone.",
    fleet_hosts::fleet_shutdown:
        "An agent that is stopped ends cleanly and within seconds, its units run on (fleet stopped them), and the next one adopts them.",
    fleet_hosts::fleet_shutdown_vs_monitor:
        "An agent that is stopped while it restarts by itself (etcd away, then back) ends cleanly too.",
    fleet_hosts::fleet_detect_machine_id:
        "A second host with a machine id that is present is refused, by name, and the first one is not touched.",
    fleet_hosts::fleet_node_shutdown:
        "A host that is shut down leaves: its units stop, it is listed as lost, its processes run elsewhere; booted again it is listed again.",
    fleet_hosts::fleet_dynamic_cluster_member_reboot:
        "One of three hosts reboots: every process runs again, and those on the other hosts are not touched.",
    fleet_hosts::fleet_dynamic_cluster_new_member_unit_migration:
        "A host dies: its processes, and no others, move to the hosts that are left.",
    fleet_units::fleet_unit_runnable:
        "A unit that is started runs on one host, and `list-units` says so.",
    fleet_units::fleet_unit_submit:
        "A submitted unit is known and runs nowhere; twice is once; destroyed it is unknown.",
    fleet_units::fleet_unit_load:
        "A loaded unit is known to one host's systemd and not started; unloaded, to none.",
    fleet_units::fleet_unit_submit_replace:
        "`submit --replace` takes a new text.",
    fleet_units::fleet_unit_load_replace:
        "`load --replace` takes a new text.",
    fleet_units::fleet_unit_start_replace:
        "`start --replace` takes a new text, and that runs.",
    fleet_units::fleet_unit_restart:
        "`restart` starts it anew, once.",
    fleet_units::fleet_unit_ssh_actions:
        "`ssh UNIT` and `journal` go to the unit's host.",
    fleet_units::fleet_unit_cat:
        "`cat` shows the text as it was submitted.",
    fleet_units::fleet_unit_status:
        "`status` shows systemd's word from the unit's host, and refuses a unit that is none.",
    fleet_units::fleet_systemd_unit_flow:
        "load, start, stop, unload and destroy, each seen on the host when the command is over; nothing of the unit is left.",
    fleet_units::fleet_list_unit_files_order:
        "`list-unit-files` is in the order of names.",
    fleet_units::fleet_unit_batches:
        "Thirty instances of a template are started, stopped and destroyed by one command each.",
    fleet_units::fleet_install_unit:
        "A unit with an [Install] section is enabled.",
    fleet_units::fleet_schedule_machine_of:
        "MachineOf: pairs run on one host, whichever of them comes first.",
    fleet_units::fleet_schedule_conflicts:
        "Conflicts: of five that exclude each other three run on three hosts, two wait.",
    fleet_units::fleet_schedule_one_way_conflict:
        "A conflict that one side alone names holds for both.",
    fleet_units::fleet_schedule_multiple_conflicts:
        "Several conflicts all hold, until the last one is gone.",
    fleet_units::fleet_schedule_replace:
        "Replaces: where there is but the other's place it runs there, and the other one goes elsewhere.",
    fleet_units::fleet_schedule_circular_replace:
        "Of two that replace each other one runs.",
    fleet_units::fleet_schedule_condition_machine_id:
        "MachineID: it runs there.",
    fleet_units::fleet_schedule_global_units:
        "Global: it runs on each host.",
    fleet_units::fleet_schedule_global_conflicts:
        "A global unit stays off a host where a unit conflicts with it.",
    fleet_api::fleet_machines_api_list:
        "fleet's API at its socket tells every host's id, address and metadata; a bad page token is refused, 120 units come in two pages.",
    fleet_api::fleet_machines_api_patch:
        "PATCH of machines adds, changes and removes metadata, seen by `list-machines`; a bad one is refused and changes nothing.",
    fleet_api::fleet_templates_with_specifiers_in_metadata:
        "Instances whose MachineMetadata names %i run where that metadata is.",
    fleet_api::fleet_reconfigure_server:
        "New settings and SIGHUP: the API is served again at once, with what is new, and no unit is touched.",
    fleet_api::fleet_tunnel_schedule_batch_units:
        "Thirty units submitted, started and listed through `--tunnel`, by way of one host's sshd.",
    etcd::etcd_leader_changes:
        "etcd's leader changes every five seconds: nothing restarts, nothing moves, no request fails.",
    etcd::etcd_killed_everywhere:
        "etcd is killed on all hosts under traffic: no process restarts, no request fails, agents may restart meanwhile; changes work again by themselves after its return.",
    etcd::etcd_stopped_everywhere:
        "The same with etcd stopped (SIGSTOP): it takes connections and never answers.",
    network::partition_shorter_than_a_lease:
        "A host is cut off from the others for three seconds: nothing moves, nothing restarts.",
    network::partition_from_etcd:
        "A host is cut off from etcd only: its processes run on, its router serves its last table, no request fails; they are moved after lease and grace, and after the return only they are stopped.",
    network::partition_from_hosts:
        "A host is cut off from all other hosts: the same, and only requests in flight across the cut may fail.",
    single::single_never_twice:
        "A process of a single type says ten times a second that it lives; its host is cut off from etcd, then from all hosts, then loses power, then etcd is stopped: there is one again each time, and never two.",
    fleet_hosts::hosts_reload_systemd:
        "`systemctl daemon-reload` on all hosts, again and again, and changes meanwhile: nothing restarts, no request fails, all that runs is known to run.",
    records::records_that_are_corrupt:
        "A record that can't be read, of each kind below /deis, stops nothing and keeps no other app from changes; mended, its own app changes again.",
    controllers::controllers_leader_killed:
        "The leading controller is killed at four points of a rollout: another one finishes it, one release runs, every number is used once.",
    controllers::controllers_leader_stopped:
        "The leading controller is stopped (SIGSTOP) in a rollout for longer than its lease, another one leads, and it wakes up again: nothing is done twice.",
    certificates::certificates_by_acme:
        "Certificates of a real authority (pebble): ordered, served by all routers, renewed, also past a killed controller; a domain that leads elsewhere says why it gets none.",
    rollouts::rollouts_crash_at_start:
        "A release that crashes at start is given up with its last words; the old processes are not touched.",
    rollouts::rollouts_port_never_opens:
        "The same with one that never opens its port.",
    rollouts::rollouts_unhealthy:
        "The same with one that fails its health check.",
    rollouts::rollouts_healthy_then_dying:
        "A release that serves and dies after some seconds, again and again, is given up while its first processes are watched (`deis rollout:set`).",
    rollouts::rollouts_two_at_once:
        "Two changes of an app at the same time: both are done one after the other, or one is refused; nothing is mixed.",
    rollouts::rollouts_rollback_midway:
        "A rollback in each phase of a rollout: what was before it serves again.",
    rollouts::rollouts_process_that_hangs:
        "A process that was well for a minute hangs: no router sends it requests 3 s later; it is back when it goes on.",
    rollouts::rollouts_idle_close:
        "An app whose server closes connections that are idle for 5 s, asked about that often, with and without a body.",
    rollout_kills::rollouts_controller_killed:
        "The leading controller is killed in each phase of a rollout, and of one that is given up: it ends as it should have.",
    rollout_kills::rollouts_router_killed:
        "A router is killed in each phase of a rollout: no request through the others fails.",
    rollout_kills::rollouts_router_stopped:
        "A router is stopped (SIGSTOP) for 20 s in each phase of a rollout: no old process ends meanwhile, no request through the others fails.",
    rollout_kills::rollouts_host_lost:
        "A host is lost in three phases of a rollout: it ends on the others, and only what was being answered there is lost.",
    clock::clock_jumps:
        "The wall clock of one host's daemons jumps by an hour ahead and back, then that of all: nothing restarts, moves or fails, changes work.",
    disk::disk_full:
        "A host's disk is full for a minute: its processes and its router run on, its agent says so, and all is well once there is room again.",
    power::power_cycles:
        "Hosts lose power and come back in random order, unattended: after each all processes are there, nothing is lost, no orphan is left.",
    power::power_cut_of_all_hosts:
        "All hosts lose power at once and come back one after the other: all runs where it ran.",
    power::host_boots_alone:
        "All hosts lose power, one comes back: without etcd it starts its processes from its disk and serves them; etcd's return restarts nothing.",
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        for trial in TRIALS {
            println!("{:<50} {}", trial.name, trial.checks);
        }
        return ExitCode::SUCCESS;
    }
    let unknown = words
        .iter()
        .find(|word| !TRIALS.iter().any(|trial| trial.name.contains(*word)));
    if let Some(word) = unknown {
        eprintln!("no trial's name has {word:?} in it; `make soak TRIALS=--list` shows them");
        return ExitCode::from(2);
    }
    let wanted = |trial: &&Trial| words.is_empty() || words.iter().any(|w| trial.name.contains(w));
    let ground = Ground::new();
    let mut book = Book::open();
    let mut ran = Vec::new();
    for trial in TRIALS.iter().filter(wanted) {
        let entry = run(trial, &ground);
        book.write(&entry);
        ran.push(entry);
    }
    println!("\n{}", book::table(&ran));
    match ran.iter().filter(|entry| entry.failure.is_some()).count() {
        0 => ExitCode::SUCCESS,
        failed => {
            eprintln!("{failed} of {} trials failed", ran.len());
            ExitCode::FAILURE
        }
    }
}

fn run(trial: &Trial, ground: &Ground) -> Entry {
    println!("\n=== {}: {}", trial.name, trial.checks);
    let date = jiff::Timestamp::now();
    let begun = Instant::now();
    let mut notes = Notes::default();
    let result = caught(|| ground.mend()).and_then(|()| caught(|| (trial.run)(ground, &mut notes)));
    if result.is_err() {
        ground.keep_evidence(trial.name);
    }
    let entry = Entry::new(trial, date, begun.elapsed(), notes, result.err());
    println!("{entry}");
    entry
}

/// Runs something; what it panicked with, if it did.
fn caught(work: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "it panicked without a word".to_owned())
    })
}
