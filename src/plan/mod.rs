//! Planning: what to do, decided purely from what is wanted and what is seen.
//!
//! Nothing here does IO, reads a clock or draws a random number: time and ids are arguments, and the
//! answer is data (transactions to commit, actions to take, and a reason for each thing that waits).

pub mod acme;
#[cfg(test)]
mod actor_tests;
pub mod admission;
#[cfg(test)]
mod case_tests;
pub mod certs;
pub mod drain;
#[cfg(test)]
mod drain_tests;
pub mod explain;
pub mod fleet;
#[cfg(test)]
mod fleet_leaving_tests;
#[cfg(test)]
mod fleet_scheduling_tests;
#[cfg(test)]
mod fleet_tests;
pub mod front;
pub mod host;
pub mod hosts;
pub mod images;
#[cfg(test)]
mod kv_tests;
#[cfg(test)]
mod loss_tests;
pub mod preview;
#[cfg(test)]
mod preview_tests;
pub mod proxy_header;
mod rebalance;
pub mod receipt;
mod removal;
pub mod rollout;
pub mod round;
pub mod routes;
pub mod schedule;
pub mod screen;
pub mod settings;
#[cfg(test)]
mod sim_tests;
mod slots;
mod standing;
#[cfg(test)]
mod story_tests;
#[cfg(test)]
mod switch_tests;
pub mod units;
pub mod waiting;
pub mod world;

pub use world::World;
