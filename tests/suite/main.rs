//! The cluster tests: three real hosts, driven only as users and operators do.
//!
//! `make test` boots the cluster in a network namespace of its own and runs these in it, one after
//! the other, in the order of their names: what breaks hosts comes last.

#[path = "../support/mod.rs"]
mod support;

mod t01_path;
mod t02_secrets;
mod t03_hostile;
mod t04_builder;
mod t05_isolation;
mod t06_agent;
mod t07_logs;
mod t08_outage;
mod t09_hosts;
mod t10_old_client;
mod t11_domains_certs;
mod t12_images;
mod t13_run;
mod t14_logs;
mod t15_features;
mod t16_stable;
mod t17_units;
mod t18_loss;
mod t19_drain;
mod t20_router;
mod t21_rollout;
