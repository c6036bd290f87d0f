//! The API over a real socket, against the store in memory.

mod contract;
mod flows;
mod hostile;
mod images;
mod permissions;
mod table;
mod things;
mod tokens;
mod wire;
