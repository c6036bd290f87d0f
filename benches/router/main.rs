//! `make bench-router`: our router beside nginx and HAProxy, in turns, each with one core of its own.
//!
//! The load (`load`) and the app (`backend`) share the other core, `peers` starts and configures the
//! proxies. BENCH_ONLY=keepalive,tls,... picks rows, BENCH_ROUNDS (3) makes it shorter or surer,
//! BENCH_BEFORE=PROGRAM runs another build of `deisd` in turns with the rest.

#[path = "../support/mod.rs"]
mod support;

mod backend;
mod changes;
mod idle;
mod load;
mod peers;
mod rows;
mod tls;

use std::{cell::RefCell, path::Path, process::ExitCode, rc::Rc, time::Duration};

use deis::store::Store;
use peers::{BACKENDS, Place, Which};
use rows::Row;
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use support::{Report, Target, etcd::Etcd};
use tokio::{task::LocalSet, time::timeout};

/// Descriptors that each program of this bench has, if it may.
const FILES: u64 = 65_536;
/// A part that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(240);
/// Apps in most rows.
const APPS: usize = 10;

fn main() -> ExitCode {
    let core = share_cores();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if LocalSet::new().block_on(&runtime, bench(core)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Takes the second core for this program; gives back the first, for proxies.
fn share_cores() -> usize {
    let raise = |most| {
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        setrlimit(Resource::Nofile, limit)
    };
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Not even root may have more everywhere.
    if raise(Some(FILES)).is_err() {
        raise(maximum).expect("as many as there may be");
    }
    let allowed = sched_getaffinity(None).expect("the cores that there are");
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (Some(theirs), Some(ours)) = (cores.next(), cores.next()) else {
        panic!("bench-router needs two cores");
    };
    let mut only = CpuSet::new();
    only.set(ours);
    sched_setaffinity(None, &only).expect("pinned");
    theirs
}

/// Whether rows of this name are wanted.
fn wanted(name: &str) -> bool {
    std::env::var("BENCH_ONLY").map_or(true, |only| only.split([',', ' ']).any(|word| word == name))
}

/// What all parts share.
struct Bench {
    place: Place,
    /// The proxies that are compared.
    all: Vec<Which>,
    report: RefCell<Report>,
}

impl Bench {
    /// Adds a figure.
    fn row(&self, what: impl Into<String>, target: Target, result: f64, unit: &'static str) {
        self.report.borrow_mut().row(what, target, result, unit);
    }
}

/// Runs a part of the bench. One that fails, or hangs, takes nothing away from the others.
async fn part(name: &str, run: impl Future<Output = ()> + 'static) -> bool {
    let mut running = tokio::task::spawn_local(run);
    let ended = timeout(LIMIT, &mut running).await;
    let done = matches!(ended, Ok(Ok(())));
    if !done {
        running.abort();
        eprintln!("bench-router: {name} could not be measured: {ended:?}");
    }
    done
}

async fn bench(core: usize) -> bool {
    for (address, name) in BACKENDS {
        backend::start(address.parse().expect("an address"), name).await;
    }
    let dir = tempfile::Builder::new()
        .prefix("deis-bench-")
        .tempdir_in(if Path::new("/dev/shm").is_dir() {
            "/dev/shm"
        } else {
            "/tmp"
        })
        .expect("a folder");
    let etcd = Etcd::start();
    let store = Store::connect(etcd.options()).await.expect("a connection");
    let mut all = vec![Which::Router, Which::Nginx, Which::Haproxy];
    if std::env::var_os("BENCH_BEFORE").is_some() {
        all.insert(1, Which::Before);
    }
    let bench = Rc::new(Bench {
        place: Place {
            dir: dir.path().to_owned(),
            etcd,
            store,
            core,
        },
        all,
        report: RefCell::new(Report::new("router")),
    });
    let mut done = true;
    for row in Row::ALL.into_iter().filter(|row| wanted(row.key)) {
        let bench = Rc::clone(&bench);
        done &= part(row.key, async move { rows::compare(&bench, row).await }).await;
    }
    if wanted("changes") {
        let bench = Rc::clone(&bench);
        done &= part("changes", async move { changes::compare(&bench).await }).await;
    }
    if wanted("served") {
        let bench = Rc::clone(&bench);
        done &= part("served", async move { changes::served(&bench).await }).await;
    }
    if wanted("idle") {
        let bench = Rc::clone(&bench);
        done &= part("idle", async move { idle::compare(&bench).await }).await;
    }
    bench.report.replace(Report::new("router")).finish();
    done
}
