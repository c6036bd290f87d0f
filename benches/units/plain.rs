//! Plain units: `sleep infinity`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use deis::{
    model::{UnitFileName, UnitTarget},
    ops::units::{Wish, apply},
    store::{Txn, keys},
};

use crate::hosts::{Hosts, Operations};

/// Units removed in one transaction.
const BATCH: usize = 100;
/// Counts the runs: each has names that no host has seen.
static RUN: AtomicUsize = AtomicUsize::new(0);

fn prefix() -> String {
    format!("bench-{:03}-", RUN.fetch_add(1, Ordering::Relaxed))
}

fn names(prefix: &str, count: usize) -> Vec<UnitFileName> {
    let name = |n| format!("{prefix}{n:04}.service").parse();
    (0..count)
        .map(|n| name(n).expect("a unit's name"))
        .collect()
}

fn text(options: &str) -> String {
    format!("[Unit]\nDescription=Bench\n[Service]\nExecStart=/bin/sleep infinity\n{options}")
}

/// Asks for units as `deisctl start` does, all at once.
pub async fn submit(hosts: &Hosts, names: &[UnitFileName], options: &str) {
    let wish = Wish {
        text: Some(text(options)),
        replace: false,
        target: Some(UnitTarget::Launched),
    };
    let wishes: BTreeMap<_, _> = names
        .iter()
        .map(|name| (name.clone(), wish.clone()))
        .collect();
    apply(&hosts.store, &wishes, &Txn::new())
        .await
        .expect("submitted");
}

/// Removes unit files, and waits until the units are gone.
pub fn remove(hosts: &Hosts, prefix: &str, names: &[UnitFileName]) {
    hosts.runtime.block_on(async {
        for names in names.chunks(BATCH) {
            let delete = |txn: Txn, name| txn.delete(&keys::unit(name));
            let txn = names.iter().fold(Txn::new(), delete);
            hosts.store.commit(txn).await.expect("removed");
        }
    });
    hosts.wait_until_gone(prefix);
}

/// Submits units that are to run; their prefix and names.
pub fn start(hosts: &Hosts, count: usize, options: &str) -> (String, Vec<UnitFileName>, f64) {
    let prefix = prefix();
    let names = names(&prefix, count);
    let took = hosts.time_until_ready(&prefix, count, async || {
        submit(hosts, &names, options).await
    });
    (prefix, names, took)
}

/// From the first write until all are active and reported.
pub fn ours(hosts: &Hosts, count: usize, operations: &mut Vec<Operations>) -> f64 {
    let before = hosts.counters();
    let (prefix, names, took) = start(hosts, count, "");
    operations.push(hosts.since(&before));
    remove(hosts, &prefix, &names);
    took
}

/// The same number on each host, whose files are there already.
pub fn by_hand(hosts: &Hosts, count: usize) -> f64 {
    let prefix = prefix();
    let names = names(&prefix, count);
    let mut units = vec![Vec::new(); hosts.hosts.len()];
    for (at, name) in names.iter().enumerate() {
        units[at % hosts.hosts.len()].push(name.to_string());
    }
    let all: BTreeSet<&String> = units.iter().flatten().collect();
    assert_eq!(all.len(), count);
    for (host, units) in hosts.hosts.iter().zip(&units) {
        let script = format!(
            "cd /run/systemd/system; tee {1} >/dev/null <<'END'\n{0}END",
            text(""),
            units.join(" ")
        );
        hosts.cluster.sh(&host.of_suite, &script).ok();
    }
    let took = hosts.time_by_hand(&units, || hosts.wait_for_jobs(&units));
    hosts.on_all(&format!(
        "systemctl stop '{prefix}*'; rm -f /run/systemd/system/{prefix}*"
    ));
    took
}
