//! The two command lines: edges that parse arguments, call the library and print.
//! The command lines.

pub mod deis;
pub mod deisctl;
