//! Reading what was pushed: a commit's tree as a tar, its Procfile, its Dockerfile.
//!
//! This runs as the user `git` inside the hook, not in the builder daemon: libgit2 is C, and the
//! objects are a stranger's.

mod source;

pub use source::{Facts, MAX_BYTES, Source, SourceError};
