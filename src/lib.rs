//! Deis: a Heroku-like platform on a fleet of ordinary systemd machines and etcd.
//!
//! docs/ARCHITECTURE.md has the map. `model`, `plan` and `render` are pure: they decide. The other
//! modules are edges: they carry out.

pub mod agent;
pub mod model;
pub mod ops;
pub mod plan;
pub mod render;
pub mod seal;
pub mod settings;
pub mod store;
pub mod systemd;
pub mod telemetry;
