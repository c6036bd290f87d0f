//! Where the agent's files lie; tests put them below a folder of their own.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tracing::error;

/// End of the name of a file that is being written.
pub const NEW: &str = ".new";

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

    /// When each image was used last.
    #[must_use]
    pub fn image_uses(&self) -> PathBuf {
        self.at("/var/lib/deis/agent/images.json")
    }

    /// Makes all folders, readable for root only. Those on disk may be missing for now: a disk that
    /// can't be written keeps no app from running.
    ///
    /// # Errors
    /// When one that the agent can't do without can't be made.
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
        private_dir(&self.at("/run/deis/units"), 0o700)?;
        for dir in [
            self.fenced(),
            self.at("/var/lib/deis/agent"),
            self.cache(),
            self.started_runs(),
        ] {
            if let Err(error) = private_dir(&dir, 0o700) {
                error!(
                    dir = %dir.display(), %error,
                    "a folder of the agent's can't be made: what it should hold is not kept on disk"
                );
            }
        }
        Ok(())
    }
}

fn private_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)?;
    // On a disk that has become read-only it need not be changed.
    if fs::metadata(path)?.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
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
    let written = write_new(&new, bytes, mode)
        .and_then(|file| match durability {
            Durability::Disk => file.sync_all(),
            Durability::Runtime => Ok(()),
        })
        .and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // A disk that is full is not made fuller.
        let _ = remove(&new);
        return Err(error);
    }
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
    let write = || {
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
        Ok(())
    };
    if let Err(error) = write() {
        // A disk that is full is not made fuller.
        for (name, _) in files {
            let _ = remove(&new_name(&dir.join(name)));
        }
        return Err(error);
    }
    folder.sync_all()
}

fn new_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(NEW);
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
