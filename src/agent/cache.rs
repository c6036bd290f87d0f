//! What a host keeps on disk so that it can start its processes without etcd: each assignment with
//! its records, in a file of its own. Config values in it stay sealed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::error;

use super::paths::{NEW, Paths, remove, write_all_atomic};
use crate::model::{Assignment, Build, Config, Release, Revision, UnitFile};

/// End of the name of a file that was set aside.
const DAMAGED: &str = ".damaged";

/// The records that a process's units are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Its release.
    pub release: Release,
    /// The release's build.
    pub build: Build,
    /// The release's config, values sealed.
    pub config: Config,
}

/// What is kept of one assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The assignment.
    pub assignment: Assignment,
    /// Its revision in etcd.
    pub mod_revision: Revision,
    /// The port that the process is published on.
    #[serde(default)]
    pub port: Option<u16>,
    /// A process's records, once read.
    #[serde(default)]
    pub records: Option<Records>,
    /// A raw unit's file, once read.
    #[serde(default)]
    pub unit: Option<UnitFile>,
}

fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes what is kept of assignments; the disk is waited for once.
///
/// # Errors
/// When the disk refuses.
pub fn save_all(paths: &Paths, entries: &[(&str, &Saved)]) -> io::Result<()> {
    let mut files = Vec::with_capacity(entries.len());
    for (name, saved) in entries {
        let body = serde_json::to_vec(saved).map_err(io::Error::other)?;
        let mut bytes = format!("{}\n", checksum(&body)).into_bytes();
        bytes.extend(body);
        files.push((*name, bytes));
    }
    write_all_atomic(&paths.cache(), &files, 0o600)
}

/// Changes an assignment in what is kept of it, if anything is.
///
/// # Errors
/// When the disk refuses.
pub fn amend(
    paths: &Paths,
    name: &str,
    assignment: Assignment,
    mod_revision: Revision,
) -> io::Result<()> {
    let Ok(mut saved) = read(&paths.cache().join(name)) else {
        return Ok(());
    };
    (saved.assignment, saved.mod_revision) = (assignment, mod_revision);
    save_all(paths, &[(name, &saved)])
}

/// Forgets an assignment.
///
/// # Errors
/// When the disk refuses.
pub fn forget(paths: &Paths, name: &str) -> io::Result<()> {
    remove(&paths.cache().join(name))
}

/// Reads everything. A file that is damaged is set aside under another name, loudly, and left out; so is
/// a folder that can't be read: with etcd the agent works without.
pub fn load(paths: &Paths) -> BTreeMap<String, Saved> {
    let mut all = BTreeMap::new();
    let files = match files(paths) {
        Ok(files) => files,
        Err(error) => {
            error!(
                folder = %paths.cache().display(), %error,
                "the cache of assignments can't be read: without etcd nothing is started"
            );
            return all;
        }
    };
    for (name, path) in files {
        if name.ends_with(NEW) {
            // Its writer was cut off; what it was to replace is still there.
            let _ = remove(&path);
            continue;
        }
        match read(&path) {
            Ok(saved) => {
                all.insert(name, saved);
            }
            Err(reason) => {
                let aside = path.with_file_name(format!("{name}{DAMAGED}"));
                let moved = fs::rename(&path, &aside);
                error!(
                    file = %path.display(), aside = %aside.display(), %reason, moved = moved.is_ok(),
                    "the cache of an assignment is damaged: set aside; without etcd its process is not started"
                );
            }
        }
    }
    all
}

/// The images of everything that is kept.
///
/// # Errors
/// When the folder can't be read.
pub fn images(paths: &Paths) -> io::Result<BTreeSet<String>> {
    let files = files(paths)?.into_iter();
    let saved = files.filter_map(|(_, path)| read(&path).ok()?.records);
    Ok(saved.map(|records| records.build.image).collect())
}

/// The cache's files, but those that were set aside.
fn files(paths: &Paths) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(paths.cache())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| !name.ends_with(DAMAGED)) {
            files.push((name.to_owned(), path.clone()));
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Saved, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("it has no checksum")?;
    let (sum, body) = (&bytes[..end], &bytes[end + 1..]);
    if sum != checksum(body).as_bytes() {
        return Err("its checksum is wrong".into());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Desired, SCHEMA, Work};

    fn saved() -> Saved {
        Saved {
            assignment: Assignment {
                schema: SCHEMA,
                uuid: uuid::Uuid::from_u128(7),
                desired: Desired::Run,
                work: Work::Unit { hash: "00".into() },
            },
            mod_revision: 3,
            port: Some(20000),
            records: None,
            unit: None,
        }
    }

    #[test]
    fn what_is_saved_is_read_and_what_is_damaged_is_set_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let paths = Paths::below(dir.path());
        paths.prepare().expect("folders");
        for name in ["a", "b", "c"] {
            save_all(&paths, &[(name, &saved())]).expect("saved");
        }
        let file = |name: &str| paths.cache().join(name);
        let mut bytes = fs::read(file("b")).expect("read");
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        fs::write(file("b"), bytes).expect("write");
        forget(&paths, "c").expect("forgotten");
        assert_eq!(load(&paths), BTreeMap::from([("a".to_owned(), saved())]));
        assert!(
            file("b.damaged").exists(),
            "the damaged file is kept for a person to look at"
        );
    }
}
