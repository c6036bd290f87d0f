//! Decisions as pure functions and structures: what is wanted and seen goes in, a plan comes out.

pub mod routes;
