//! `make bench-scheduler`.

#[path = "../support/mod.rs"]
mod support;

use support::Report;

fn main() {
    Report::new("scheduler").finish();
}
