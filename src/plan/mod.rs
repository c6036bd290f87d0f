//! Planning: what to do, decided purely from what is wanted and what is seen.
//!
//! Nothing here does IO, reads a clock or draws a random number: time and ids are arguments, and the
//! answer is data (transactions to commit, and a reason for each thing that waits).

pub mod fleet;
pub mod hosts;
mod removal;
pub mod rollout;
pub mod round;
pub mod routes;
pub mod schedule;
pub mod units;
#[cfg(test)]
mod case_tests;
#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod story_tests;

mod standing;
pub mod world;

pub use world::World;
