//! Deis: a Heroku-like platform on a fleet of ordinary systemd machines and etcd.
//!
//! docs/ARCHITECTURE.md has the map. `model`, `plan` and `render` are pure: they decide. The other
//! modules are edges: they carry out.

pub mod acme;
pub mod agent;
pub mod api;
pub mod backoff;
pub mod builder;
pub mod burst;
pub mod cert;
pub mod cli;
pub mod controller;
pub mod fleet_api;
pub mod git;
pub mod image;
pub mod inner_http;
pub mod leader;
pub mod link;
pub mod local;
pub mod logger;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod outside;
pub mod plan;
pub mod registry;
pub mod render;
pub mod router;
pub mod seal;
pub mod session;
pub mod settings;
pub mod sidecar;
#[cfg(test)]
mod sim;
pub mod store;
pub mod systemd;
pub mod telemetry;
