//! The API over a real socket, against the store in memory.

mod audit;
mod certs;
mod contract;
mod flows;
mod hostile;
mod images;
mod limits;
mod logs;
mod metrics;
mod permissions;
mod run;
mod table;
mod things;
mod tokens;
mod wire;
