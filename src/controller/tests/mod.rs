//! The API over a real socket, against the store in memory.

mod flows;
mod images;
mod permissions;
mod things;
mod wire;
