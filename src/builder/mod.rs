//! The builder.
pub mod authorized;
pub mod command;
pub mod procfile;
pub mod protocol;
pub mod refs;
pub mod repository;
pub mod side;
