//! The API over a real socket, against the store in memory.

mod flows;
mod logs;
mod permissions;
mod things;
mod wire;
