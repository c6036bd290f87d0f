//! The command lines.

pub mod deis;
