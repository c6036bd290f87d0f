//! The API over a real socket, against the store in memory.

mod audit;
mod contract;
mod flows;
mod hostile;
mod images;
mod limits;
mod permissions;
mod table;
mod things;
mod tokens;
mod wire;
