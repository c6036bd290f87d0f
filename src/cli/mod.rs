//! The two command lines: edges that parse arguments, call the library and print.

pub mod deis;
pub mod deisctl;
pub mod figures;
pub mod table;
