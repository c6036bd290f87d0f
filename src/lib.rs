//! Deis: a Heroku-like platform on a fleet of ordinary systemd machines and etcd.
//!
//! docs/ARCHITECTURE.md has the map. `model`, `plan` and `render` are pure: they decide. The other
//! modules are edges: they carry out.

pub mod local;
pub mod model;
pub mod store;
