//! The router.
pub mod ledger;
