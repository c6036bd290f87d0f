//! Files that hold secrets: written whole or not at all, for their owner's eyes only.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

/// Puts a text in a file's place. A file that is there keeps its permissions, a new one is 0600; a
/// link stays one.
pub fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(text)?;
    if let Ok(meta) = file.metadata() {
        new.as_file().set_permissions(meta.permissions())?;
    }
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}
