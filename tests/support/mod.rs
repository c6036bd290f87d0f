//! A cluster as its users see it: `git`, `deis`, `deisctl`, a shell on each host, and HTTP. Shared by
//! the cluster tests (`tests/suite`) and the trials (`tests/soak`); each uses its part.

#![allow(
    dead_code,
    unused_imports,
    reason = "each of the programs that share this uses its part"
)]

mod command;
mod hosts;
mod http;
mod load;
mod user;

pub use self::{command::*, hosts::*, http::*, load::*, user::*};
