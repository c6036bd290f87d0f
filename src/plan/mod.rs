//! Planning: what to do, decided purely from what is wanted and what is seen.
//!
//! Nothing here does IO, reads a clock or draws a random number: time and ids are arguments, and the
//! answer is data (transactions to commit, and a reason for each thing that waits).
//! Planners: pure functions from what is wanted and what is there to what is to be done.

pub mod fleet;
pub mod hosts;
pub mod rollout;
pub mod round;
pub mod routes;
pub mod schedule;
pub mod units;
pub mod world;
