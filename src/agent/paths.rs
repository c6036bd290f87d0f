//! Where the agent's files lie; tests put them below a folder of their own.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Places of files below a root, `/` on a host.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The real places.
    #[must_use]
    pub fn host() -> Self {
        Self::below("/")
    }

    /// The same places below `root`.
    #[must_use]
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// An absolute path below the root.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A unit file.
    #[must_use]
    pub fn unit(&self, name: &str) -> PathBuf {
        self.at("/run/systemd/system").join(name)
    }

    /// What the agent remembers of a raw unit that it wrote.
    #[must_use]
    pub fn owned(&self, name: &str) -> PathBuf {
        self.at("/run/deis/units").join(name)
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.at("/run/deis/agent.sock")
    }

    /// Until when the host's lease holds.
    #[must_use]
    pub fn lease(&self) -> PathBuf {
        self.at(crate::sidecar::fence::LEASE)
    }

    /// Processes of single types, by name.
    #[must_use]
    pub fn fenced(&self) -> PathBuf {
        self.at(crate::sidecar::fence::FENCED)
    }

    /// The cache: one file per assignment.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.at("/var/lib/deis/agent/assignments")
    }

    /// Marks of one-offs that have been started, by uuid; they survive a reboot.
    #[must_use]
    pub fn started_runs(&self) -> PathBuf {
        self.at("/var/lib/deis/agent/runs")
    }

    /// Makes all folders, readable for root only.
    ///
    /// # Errors
    /// When one can't be made.
    pub fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(self.at("/run/systemd/system"))?;
        private_dir(&self.at("/run/deis"), 0o711)?;
        for dir in [
            crate::render::unit::ENV_DIR,
            crate::render::unit::RUN_DIR,
            crate::render::unit::LOG_DIR,
        ] {
            private_dir(&self.at(dir), 0o700)?;
        }
        for dir in [
            self.at("/run/deis/units"),
            self.fenced(),
            self.at("/var/lib/deis/agent"),
            self.cache(),
            self.started_runs(),
        ] {
            private_dir(&dir, 0o700)?;
        }
        Ok(())
    }
}

fn private_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Files that are flushed one by one.
const FEW_FILES: usize = 3;

/// Whether a file's bytes must be on the disk before it counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On a tmpfs: there is no disk.
    Runtime,
    /// Survives a power cut.
    Disk,
}

/// Writes a file whole or not at all.
///
/// # Errors
/// When it can't be written; an old file of that name then still is what it was.
pub fn write_atomic(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let new = new_name(path);
    let file = write_new(&new, bytes, mode)?;
    if durability == Durability::Disk {
        file.sync_all()?;
    }
    fs::rename(&new, path)?;
    if let (Durability::Disk, Some(dir)) = (durability, path.parent()) {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// The same with several files of one folder, all of them on the disk in the end. Few are flushed one
/// by one; with many it costs less to have the whole file system flushed once.
///
/// # Errors
/// When one can't be written; each then is what it was, or new.
pub fn write_all_atomic(dir: &Path, files: &[(&str, Vec<u8>)], mode: u32) -> io::Result<()> {
    let folder = fs::File::open(dir)?;
    let is_few = files.len() <= FEW_FILES;
    for (name, bytes) in files {
        let file = write_new(&new_name(&dir.join(name)), bytes, mode)?;
        if is_few {
            file.sync_all()?;
        }
    }
    if !is_few {
        rustix::fs::syncfs(&folder)?;
    }
    for (name, _) in files {
        let path = dir.join(name);
        fs::rename(new_name(&path), path)?;
    }
    folder.sync_all()
}

fn new_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<fs::File> {
    // A former attempt may have left one with other permissions.
    remove(path)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Removes a file; one that is not there is removed.
///
/// # Errors
/// When it is there and can't be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
