//! A pushed commit, read with libgit2 from the quarantine that git put it into.

use std::{
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use git2::{Commit, ObjectType, Oid, Repository, Tree, TreeEntry};
use tar::{EntryType, Header};

use crate::builder::{procfile, refs::Sha};

/// Bytes of all files of a commit, at most.
pub const MAX_BYTES: u64 = 1 << 30;
/// Files and directories of a commit, at most.
const MAX_ENTRIES: usize = 200_000;
/// Directories within directories, at most.
const MAX_DEPTH: usize = 100;

/// Why a commit can't be built.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The repository can't be read.
    #[error("the pushed commit can't be read: {}", .0.message())]
    Git(#[from] git2::Error),
    /// The tar can't be written.
    #[error("the source can't be handed to the builder")]
    Write(#[source] io::Error),
    /// A name that can't be a file's.
    #[error("the commit has a file called {0:?}, which can't be built")]
    Name(String),
    /// A link that leads out of the tree.
    #[error("{path:?} is a symbolic link to {target:?}, outside of the repository")]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The Procfile is not text.
    #[error(
        "the Procfile is no UTF-8 text of at most {} bytes",
        procfile::MAX_SIZE
    )]
    Procfile,
    /// Too much.
    #[error("the commit is too large: more than {0}")]
    TooLarge(String),
}

/// What decides how a commit is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The Procfile's text.
    pub procfile: Option<String>,
    /// Whether there is a Dockerfile.
    pub dockerfile: bool,
}

/// A commit in a repository.
pub struct Source {
    repository: Repository,
    commit: Oid,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({})", self.commit)
    }
}

impl Source {
    /// Opens the repository that git's environment names (GIT_DIR and the quarantine's
    /// GIT_OBJECT_DIRECTORY), as a hook sees it.
    ///
    /// # Errors
    /// When there is no such commit.
    pub fn from_hook(sha: &Sha) -> Result<Self, SourceError> {
        Self::new(Repository::open_from_env()?, sha)
    }

    /// A commit of a repository on disk. A tag that leads to a commit does as well.
    ///
    /// # Errors
    /// When there is no such commit.
    pub fn new(repository: Repository, sha: &Sha) -> Result<Self, SourceError> {
        let object = repository.find_object(Oid::from_str(sha.as_str())?, None)?;
        let commit = object.peel(ObjectType::Commit)?.id();
        drop(object);
        Ok(Self { repository, commit })
    }

    fn commit(&self) -> Result<Commit<'_>, SourceError> {
        Ok(self.repository.find_commit(self.commit)?)
    }

    /// Procfile and Dockerfile at the top of the tree.
    ///
    /// # Errors
    /// When the Procfile is not text.
    pub fn facts(&self) -> Result<Facts, SourceError> {
        let tree = self.commit()?.tree()?;
        let blob = |name: &str| {
            tree.get_name(name)
                .filter(|entry| entry.kind() == Some(ObjectType::Blob))
        };
        let procfile = match blob("Procfile") {
            None => None,
            Some(entry) => {
                let blob = self.repository.find_blob(entry.id())?;
                let text = std::str::from_utf8(blob.content()).ok();
                let text = text.filter(|text| text.len() <= procfile::MAX_SIZE);
                Some(text.ok_or(SourceError::Procfile)?.to_owned())
            }
        };
        Ok(Facts {
            procfile,
            dockerfile: blob("Dockerfile").is_some(),
        })
    }

    /// Writes the tree as a tar; submodules are left out and returned by name.
    ///
    /// # Errors
    /// When the tree holds what can't be built, or the tar can't be written.
    pub fn write_tar(&self, out: impl Write) -> Result<Vec<PathBuf>, SourceError> {
        let commit = self.commit()?;
        let mut writer = TarWriter {
            repository: &self.repository,
            builder: tar::Builder::new(out),
            mtime: u64::try_from(commit.time().seconds()).unwrap_or_default(),
            left: MAX_BYTES,
            entries: 0,
            submodules: Vec::new(),
        };
        writer.tree(&commit.tree()?, Path::new(""), 0)?;
        let mut out = writer.builder.into_inner().map_err(SourceError::Write)?;
        out.flush().map_err(SourceError::Write)?;
        Ok(writer.submodules)
    }
}

struct TarWriter<'r, W: Write> {
    repository: &'r Repository,
    builder: tar::Builder<W>,
    mtime: u64,
    left: u64,
    entries: usize,
    submodules: Vec<PathBuf>,
}

impl<W: Write> TarWriter<'_, W> {
    fn tree(&mut self, tree: &Tree<'_>, below: &Path, depth: usize) -> Result<(), SourceError> {
        if depth > MAX_DEPTH {
            return Err(SourceError::TooLarge(format!(
                "{MAX_DEPTH} directories deep"
            )));
        }
        for entry in tree {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(SourceError::TooLarge(format!("{MAX_ENTRIES} files")));
            }
            let path = below.join(file_name(&entry)?);
            match entry.kind() {
                Some(ObjectType::Tree) => {
                    self.append(&path, EntryType::Directory, 0o755, &[])?;
                    let tree = self.repository.find_tree(entry.id())?;
                    self.tree(&tree, &path, depth + 1)?;
                }
                Some(ObjectType::Blob) => self.blob(&entry, &path)?,
                _ => self.submodules.push(path),
            }
        }
        Ok(())
    }

    fn blob(&mut self, entry: &TreeEntry<'_>, path: &Path) -> Result<(), SourceError> {
        let blob = self.repository.find_blob(entry.id())?;
        let content = blob.content();
        self.left = self
            .left
            .checked_sub(content.len() as u64)
            .ok_or_else(|| SourceError::TooLarge(format!("{} MiB", MAX_BYTES >> 20)))?;
        match entry.filemode() {
            0o120_000 => {
                let target = std::str::from_utf8(content).map(PathBuf::from);
                let target = target
                    .map_err(|_| SourceError::Name(String::from_utf8_lossy(content).into()))?;
                if !stays_inside(path, &target) {
                    return Err(SourceError::Link {
                        path: path.to_owned(),
                        target,
                    });
                }
                let mut header = self.header(EntryType::Symlink, 0o777, 0);
                self.builder
                    .append_link(&mut header, path, &target)
                    .map_err(SourceError::Write)
            }
            0o100_755 => self.append(path, EntryType::Regular, 0o755, content),
            _ => self.append(path, EntryType::Regular, 0o644, content),
        }
    }

    fn header(&self, kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(self.mtime);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn append(
        &mut self,
        path: &Path,
        kind: EntryType,
        mode: u32,
        content: &[u8],
    ) -> Result<(), SourceError> {
        let mut header = self.header(kind, mode, content.len());
        self.builder
            .append_data(&mut header, path, content)
            .map_err(SourceError::Write)
    }
}

/// A name within a directory: one component, and never git's own.
fn file_name(entry: &TreeEntry<'_>) -> Result<String, SourceError> {
    let bytes = entry.name_bytes();
    let refused = || SourceError::Name(String::from_utf8_lossy(bytes).into_owned());
    let name = std::str::from_utf8(bytes).map_err(|_| refused())?;
    let special = matches!(name, "" | "." | "..") || name.eq_ignore_ascii_case(".git");
    if special || name.contains(['/', '\0']) || name.len() > 255 {
        return Err(refused());
    }
    Ok(name.to_owned())
}

/// Whether a link at `path` leads to something within the tree, going by names alone.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with one commit of the given files: (name, mode, content).
    fn repository(files: &[(&str, i32, &str)]) -> (tempfile::TempDir, Sha) {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::init_bare(dir.path()).expect("a repository");
        let mut builder = repository.treebuilder(None).expect("a tree");
        for (name, mode, content) in files {
            let id = match mode {
                0o160_000 => Oid::from_str(&"1".repeat(40)).expect("an id"),
                0o040_000 => {
                    let mut inner = repository.treebuilder(None).expect("a tree");
                    let blob = repository.blob(content.as_bytes()).expect("a blob");
                    inner.insert("inner", blob, 0o100_644).expect("inserted");
                    inner.write().expect("written")
                }
                _ => repository.blob(content.as_bytes()).expect("a blob"),
            };
            builder.insert(name, id, *mode).expect(name);
        }
        let tree = repository
            .find_tree(builder.write().expect("written"))
            .expect("the tree");
        let time = git2::Time::new(1_000_000_000, 0);
        let who = git2::Signature::new("ada", "ada@example.com", &time).expect("a signature");
        let id = repository
            .commit(None, &who, &who, "x", &tree, &[])
            .expect("a commit");
        (dir, Sha::try_from(id.to_string()).expect("an id"))
    }

    fn open(dir: &tempfile::TempDir, sha: &Sha) -> Source {
        Source::new(Repository::open_bare(dir.path()).expect("opened"), sha).expect("the commit")
    }

    #[test]
    fn a_tree_becomes_a_tar() {
        let (dir, sha) = repository(&[
            ("Procfile", 0o100_644, "web: ./run\n"),
            ("run", 0o100_755, "#!/bin/sh\n"),
            ("lib", 0o040_000, "x"),
            ("link", 0o120_000, "lib/inner"),
            ("module", 0o160_000, ""),
        ]);
        let source = open(&dir, &sha);
        let facts = source.facts().expect("facts");
        assert_eq!(
            facts,
            Facts {
                procfile: Some("web: ./run\n".into()),
                dockerfile: false
            }
        );
        let mut tar = Vec::new();
        let left_out = source.write_tar(&mut tar).expect("a tar");
        assert_eq!(left_out, [PathBuf::from("module")]);
        let mut archive = tar::Archive::new(tar.as_slice());
        let seen: Vec<_> = archive
            .entries()
            .expect("entries")
            .map(|entry| {
                let entry = entry.expect("entry");
                let mode = entry.header().mode().expect("mode");
                (entry.path().expect("path").display().to_string(), mode)
            })
            .collect();
        let want = [
            ("Procfile", 0o644),
            ("lib", 0o755),
            ("lib/inner", 0o644),
            ("link", 0o777),
            ("run", 0o755),
        ];
        assert_eq!(seen, want.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn a_dockerfile_is_seen_and_a_directory_of_that_name_is_not() {
        let (dir, sha) = repository(&[
            ("Dockerfile", 0o100_644, "FROM x"),
            ("Procfile", 0o040_000, ""),
        ]);
        let facts = open(&dir, &sha).facts().expect("facts");
        assert_eq!(
            facts,
            Facts {
                procfile: None,
                dockerfile: true
            }
        );
    }

    #[test]
    fn links_stay_inside() {
        let cases = [
            ("a", "b", true),
            ("a", "./b/../c", true),
            ("a", "..", false),
            ("a", "../b", false),
            ("d/a", "../b", true),
            ("d/a", "../../b", false),
            ("d/a", "x/../../../b", false),
            ("a", "/etc/passwd", false),
        ];
        for (path, target, want) in cases {
            assert_eq!(
                stays_inside(Path::new(path), Path::new(target)),
                want,
                "{path} {target}"
            );
        }
        let (dir, sha) = repository(&[("out", 0o120_000, "/etc/passwd")]);
        let error = open(&dir, &sha).write_tar(io::sink()).expect_err("refused");
        assert!(matches!(error, SourceError::Link { .. }), "{error}");
    }

    #[test]
    fn commits_that_are_none() {
        let (dir, _) = repository(&[("a", 0o100_644, "x")]);
        let repository = || Repository::open_bare(dir.path()).expect("opened");
        let missing = Sha::try_from("9".repeat(40)).expect("an id");
        assert!(Source::new(repository(), &missing).is_err());
        let blob = repository().blob(b"x").expect("a blob");
        let blob = Sha::try_from(blob.to_string()).expect("an id");
        assert!(Source::new(repository(), &blob).is_err());
    }
}
