//! etcd as a typed store.
pub mod keys;
