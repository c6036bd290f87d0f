//! The API over a real socket, against the store in memory.

mod certs;
mod flows;
mod permissions;
mod things;
mod wire;
