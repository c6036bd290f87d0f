//! The builder.
pub mod authorized;
pub mod build;
pub mod command;
mod output;
pub mod procfile;
pub mod protocol;
pub mod refs;
pub mod repository;
pub mod side;
pub mod sshd;
