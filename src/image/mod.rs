//! OCI images: an app's one layer, its configuration, layouts on disk, and the ways from and to
//! registries.

pub mod config;
pub mod copy;
pub mod layer;
pub mod layout;
pub mod manifest;
pub mod name;
pub mod push;
pub mod reach;
pub mod source;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};

/// A blob of an image that lies in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Length in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Where its bytes are.
    pub path: PathBuf,
}

/// The digest of some bytes, as OCI writes it.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    named(Sha256::digest(bytes).as_slice())
}

fn named(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Hashes and counts what is written through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn finish(self) -> (W, String, u64) {
        (
            self.inner,
            named(self.hash.finalize().as_slice()),
            self.size,
        )
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
