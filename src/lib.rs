//! Deis.
pub mod local;
