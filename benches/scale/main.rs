//! `make bench-scale`: a thousand hosts with twenty processes each, on one real etcd.

#[path = "../support/mod.rs"]
mod support;

use support::{Report, etcd::Etcd};

fn main() {
    let mut report = Report::new("scale");
    let etcd = Etcd::start();
    let memory = support::process::memory(etcd.pid());
    report.row(
        "etcd's memory, empty",
        support::Target::None,
        memory.resident as f64 / f64::from(1 << 20),
        "MiB",
    );
    report.finish();
}
