//! `make bench-units`.

#[path = "../support/mod.rs"]
mod support;

use support::Report;

fn main() {
    Report::new("units").finish();
}
