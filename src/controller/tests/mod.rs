//! The API over a real socket, against the store in memory.

mod contract;
mod flows;
mod images;
mod permissions;
mod run;
mod table;
mod things;
mod tokens;
mod wire;
