//! The API over a real socket, against the store in memory.

mod flows;
mod permissions;
mod run;
mod things;
mod wire;
