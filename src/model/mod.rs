//! The words of the platform as types: parsed names, process ids and the records that etcd holds.
//!
//! Pure: nothing here does IO, reads a clock or draws a random number.

pub mod name;
pub mod process;
pub mod record;
pub mod unit_text;
pub mod whitelist;

pub use name::{
    AppName, ChallengeToken, ConfigName, DomainName, Fingerprint, InvalidName, KeyName, MachineId,
    ProcessType, TokenName, UNIT_SUFFIXES, UnitFileName, Username,
};
pub use process::{ProcessId, ProcessName, ReleaseNumber};
pub use record::*;
pub use whitelist::{InvalidWhitelist, WHITELIST_VARIABLE, Whitelist};

/// A point in etcd's history (its `mod_revision`, a positive number that only grows).
pub type Revision = i64;
