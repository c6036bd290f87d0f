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

use std::path::Path;

use deis::store::Store;
use peers::{BACKENDS, Place, Which};
use rows::{Row, compare};
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use support::{Report, etcd::Etcd};
use tokio::task::LocalSet;

/// Descriptors that each program of this bench may have.
const FILES: u64 = 65_536;
/// Apps in most rows.
const APPS: usize = 10;

fn main() {
    let core = share_cores();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, bench(core));
}

/// Takes the second core for this program; gives back the first, for proxies.
fn share_cores() -> usize {
    let limit = Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    setrlimit(Resource::Nofile, limit).expect("bench-router runs as root");
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

async fn bench(core: usize) {
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
    let place = Place {
        dir: dir.path().to_owned(),
        etcd,
        store,
        core,
    };
    let mut all = vec![Which::Router, Which::Nginx, Which::Haproxy];
    if std::env::var_os("BENCH_BEFORE").is_some() {
        all.insert(1, Which::Before);
    }
    let mut report = Report::new("router");
    let usual: Vec<Row> = Row::ALL.into_iter().filter(|row| wanted(row.key)).collect();
    let (few, many): (Vec<Row>, Vec<Row>) = usual.into_iter().partition(|row| row.apps == APPS);
    for rows in [few, many] {
        if let Some(row) = rows.first() {
            compare(&place, &all, row.apps, &rows, &mut report).await;
        }
    }
    if wanted("changes") {
        changes::compare(&place, &all, &mut report).await;
    }
    if wanted("served") {
        changes::served(&place, &mut report).await;
    }
    if wanted("idle") {
        idle::compare(&place, &all, &mut report).await;
    }
    report.finish();
}
