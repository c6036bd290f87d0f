//! An app's layer: what a build leaves in /app, made the same bytes each time.
//!
//! Sorted, owned by the app's user, without clocks; gzip without a clock either. Whatever a layer
//! must not hold (devices, whiteouts, paths that leave /app) is refused by name.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Component, Path, PathBuf},
};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use super::Hashing;

/// User and group of everything in the layer: `app` in the stack image.
pub const APP_ID: u64 = 2000;
/// The buildpack's `bin/release` output, put there by the build; not part of the app.
pub const RELEASE_FILE: &str = "app/.release";
/// The only tree that may be in a layer.
const ROOT: &str = "app";

/// What a layer may hold at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 2 << 30,
            entries: 500_000,
        }
    }
}

/// Why a build's result is no layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream ends early or is no tar.
    #[error("the build's result can't be read")]
    Read(#[source] io::Error),
    /// The layer's file can't be written.
    #[error("the layer can't be written; is the disk full?")]
    Write(#[source] io::Error),
    /// A path that leads elsewhere.
    #[error("the build's result has {0:?}, which is not below /app")]
    Path(PathBuf),
    /// A path through a link.
    #[error("the build's result has {0:?}, which lies behind a symbolic link")]
    Behind(PathBuf),
    /// A name that layers use for "deleted".
    #[error("the build's result has {0:?}: names that begin with .wh. mean \"deleted\" in images")]
    Whiteout(PathBuf),
    /// Neither file, directory nor link.
    #[error("the build's result has {0:?}, which is neither file, directory nor link")]
    Kind(PathBuf),
    /// Too much.
    #[error("the build's result is larger than {0}; leave out what the app doesn't need to run")]
    TooLarge(String),
    /// Nothing at all.
    #[error("the build left nothing in /app")]
    Empty,
}

/// A finished layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the compressed bytes.
    pub digest: String,
    /// Digest of the tar inside.
    pub diff_id: String,
    /// Length of the compressed bytes.
    pub size: u64,
    /// What the buildpack's `bin/release` said.
    pub release: Option<String>,
}

enum Node {
    Directory { mode: u32 },
    File { mode: u32, offset: u64, length: u64 },
    Symlink { target: PathBuf },
    Hardlink { target: PathBuf },
}

/// Reads a tar of /app and writes the layer to `out`; `spool` holds the files' bytes meanwhile.
///
/// # Errors
/// When the tar holds what no layer may hold, or a file can't be written.
pub fn write(
    input: impl Read,
    spool: &mut File,
    out: File,
    limits: Limits,
) -> Result<Layer, LayerError> {
    let (mut nodes, release) = collect(input, spool, limits)?;
    check_ancestors(&nodes)?;
    // The tree's own root comes first, whether the build named it or not.
    nodes
        .entry(ROOT.into())
        .or_insert(Node::Directory { mode: 0o755 });
    if nodes.len() == 1 {
        return Err(LayerError::Empty);
    }
    let gzip = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Hashing::new(BufWriter::new(out)), Compression::new(4));
    let mut builder = tar::Builder::new(Hashing::new(gzip));
    for (path, node) in &nodes {
        append(&mut builder, spool, path, node).map_err(LayerError::Write)?;
    }
    let plain = builder.into_inner().map_err(LayerError::Write)?;
    let (gzip, diff_id, _) = plain.finish();
    let (mut file, digest, size) = gzip.finish().map_err(LayerError::Write)?.finish();
    file.flush().map_err(LayerError::Write)?;
    Ok(Layer {
        digest,
        diff_id,
        size,
        release,
    })
}

type Nodes = BTreeMap<PathBuf, Node>;

fn collect(
    input: impl Read,
    spool: &mut File,
    limits: Limits,
) -> Result<(Nodes, Option<String>), LayerError> {
    let mut nodes = Nodes::new();
    let mut release = None;
    let mut spooled = 0u64;
    let mut archive = tar::Archive::new(BufReader::with_capacity(256 << 10, input));
    let mut spool = BufWriter::with_capacity(256 << 10, spool);
    for entry in archive.entries().map_err(LayerError::Read)? {
        let mut entry = entry.map_err(LayerError::Read)?;
        let path = below_root(&entry.path().map_err(LayerError::Read)?)?;
        let header = entry.header();
        // Neither setuid nor sticky: an app has one user.
        let mode = header.mode().map_err(LayerError::Read)? & 0o777;
        let node = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let length = entry.size();
                if spooled.saturating_add(length) > limits.bytes {
                    return Err(LayerError::TooLarge(format!("{} MiB", limits.bytes >> 20)));
                }
                if path == Path::new(RELEASE_FILE) {
                    let mut text = String::new();
                    let mut bounded = (&mut entry).take(64 << 10);
                    bounded
                        .read_to_string(&mut text)
                        .map_err(LayerError::Read)?;
                    release = Some(text);
                    continue;
                }
                let copied = io::copy(&mut entry, &mut spool).map_err(LayerError::Read)?;
                let offset = spooled;
                spooled += copied;
                Node::File {
                    mode,
                    offset,
                    length: copied,
                }
            }
            EntryType::Directory => Node::Directory { mode },
            EntryType::Symlink => Node::Symlink {
                target: link(&entry, &path)?,
            },
            EntryType::Link => Node::Hardlink {
                target: below_root(&link(&entry, &path)?)?,
            },
            _ => return Err(LayerError::Kind(path)),
        };
        nodes.insert(path, node);
        if nodes.len() > limits.entries {
            return Err(LayerError::TooLarge(format!("{} files", limits.entries)));
        }
    }
    // tar pads its output: whoever writes it must not find the reader gone.
    let mut padding = archive.into_inner().take(1 << 20);
    io::copy(&mut padding, &mut io::sink()).map_err(LayerError::Read)?;
    spool.flush().map_err(LayerError::Write)?;
    Ok((nodes, release))
}

fn link<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<PathBuf, LayerError> {
    let target = entry.link_name().map_err(LayerError::Read)?;
    target
        .map(|target| target.into_owned())
        .ok_or_else(|| LayerError::Kind(path.to_owned()))
}

/// `./app/x`, `/app/x` and `app/x` as `app/x`; everything else is refused.
fn below_root(path: &Path) -> Result<PathBuf, LayerError> {
    let refused = || LayerError::Path(path.to_owned());
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                if name.as_encoded_bytes().starts_with(b".wh.") {
                    return Err(LayerError::Whiteout(path.to_owned()));
                }
                clean.push(name);
            }
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(refused()),
        }
    }
    if clean.starts_with(ROOT) {
        Ok(clean)
    } else {
        Err(refused())
    }
}

/// Nothing may lie below what is no directory, and a hard link leads to a file.
fn check_ancestors(nodes: &Nodes) -> Result<(), LayerError> {
    for (path, node) in nodes {
        let behind =
            |ancestor: &Path| !matches!(nodes.get(ancestor), None | Some(Node::Directory { .. }));
        if path.ancestors().skip(1).any(behind) {
            return Err(LayerError::Behind(path.clone()));
        }
        if let Node::Hardlink { target } = node
            && !matches!(nodes.get(target), Some(Node::File { .. }))
        {
            return Err(LayerError::Kind(path.clone()));
        }
    }
    Ok(())
}

fn append<W: Write>(
    builder: &mut tar::Builder<W>,
    spool: &mut File,
    path: &Path,
    node: &Node,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_uid(APP_ID);
    header.set_gid(APP_ID);
    header.set_mtime(0);
    header.set_size(0);
    match node {
        Node::Directory { mode } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            builder.append_data(&mut header, path, io::empty())
        }
        Node::File {
            mode,
            offset,
            length,
        } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(*length);
            spool.seek(SeekFrom::Start(*offset))?;
            builder.append_data(&mut header, path, (&mut *spool).take(*length))
        }
        Node::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            builder.append_link(&mut header, path, target)
        }
        Node::Hardlink { target } => {
            header.set_entry_type(EntryType::Link);
            header.set_mode(0o644);
            builder.append_link(&mut header, path, target)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry of a hostile or honest tar: path, kind, content or target.
    type Piece<'a> = (&'a str, EntryType, &'a str);

    fn tar_of(pieces: &[Piece<'_>], mtime: u64) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in pieces {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(mtime);
            header.set_uid(mtime);
            // Written raw: the crate's own checks would refuse what we want to see refused.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            let data = if *kind == EntryType::Regular {
                content.as_bytes()
            } else {
                &[]
            };
            if data.is_empty() && !content.is_empty() {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).expect("appended");
        }
        builder.into_inner().expect("finished")
    }

    fn built(tar: &[u8], limits: Limits) -> Result<(Layer, Vec<u8>), LayerError> {
        let mut spool = tempfile::tempfile().expect("a file");
        let out = tempfile::NamedTempFile::new().expect("a file");
        let layer = write(tar, &mut spool, out.reopen().expect("open"), limits)?;
        Ok((layer, std::fs::read(out.path()).expect("read")))
    }

    #[test]
    fn the_same_tree_is_the_same_bytes() {
        use EntryType as E;
        let mut pieces = vec![
            ("./app/", E::Directory, ""),
            ("./app/b.py", E::Regular, "print(1)"),
            ("./app/a", E::Directory, ""),
            ("./app/a/link", E::Symlink, "/usr/bin/python3"),
            ("app/a/same", E::Link, "app/b.py"),
            ("app/.release", E::Regular, "---\n"),
        ];
        let first = built(&tar_of(&pieces, 1_700_000_000), Limits::default()).expect("a layer");
        pieces.reverse();
        let second = built(&tar_of(&pieces, 1_800_000_000), Limits::default()).expect("a layer");
        assert_eq!(first, second);
        let (layer, bytes) = first;
        assert_eq!(layer.digest, super::super::digest_of(&bytes));
        assert_eq!(layer.size, bytes.len() as u64);
        assert_eq!(layer.release.as_deref(), Some("---\n"));
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut seen = Vec::new();
        for entry in archive.entries().expect("entries") {
            let entry = entry.expect("entry");
            let header = entry.header();
            assert_eq!(header.uid().expect("uid"), APP_ID);
            assert_eq!(header.mtime().expect("mtime"), 0);
            assert_eq!(header.mode().expect("mode") & 0o7000, 0);
            seen.push(entry.path().expect("path").display().to_string());
        }
        assert_eq!(
            seen,
            ["app", "app/a", "app/a/link", "app/a/same", "app/b.py"]
        );
    }

    #[test]
    fn what_no_layer_may_hold() {
        use EntryType as E;
        let cases: &[(&[Piece<'_>], &str)] = &[
            (&[("app/../etc/passwd", E::Regular, "x")], "not below /app"),
            (&[("etc/passwd", E::Regular, "x")], "not below /app"),
            (&[("application", E::Regular, "x")], "not below /app"),
            (&[("app/.wh.bin", E::Regular, "x")], "deleted"),
            (&[("app/null", E::Char, "")], "neither file"),
            (&[("app/pipe", E::Fifo, "")], "neither file"),
            (
                &[
                    ("app/l", E::Symlink, "/etc"),
                    ("app/l/passwd", E::Regular, "x"),
                ],
                "behind",
            ),
            (&[("app/h", E::Link, "etc/passwd")], "not below /app"),
            (&[("app/h", E::Link, "app/none")], "neither file"),
            (&[("app", E::Directory, "")], "nothing"),
            (&[], "nothing"),
        ];
        for (pieces, want) in cases {
            let error = built(&tar_of(pieces, 0), Limits::default())
                .expect_err(want)
                .to_string();
            assert!(error.contains(want), "{error} for {want}");
        }
        let two = tar_of(
            &[("app/a", E::Regular, "xx"), ("app/b", E::Regular, "xx")],
            0,
        );
        for limits in [
            Limits {
                bytes: 3,
                entries: 10,
            },
            Limits {
                bytes: 10,
                entries: 1,
            },
        ] {
            assert!(matches!(built(&two, limits), Err(LayerError::TooLarge(_))));
        }
        assert!(matches!(
            built(&two[..700], Limits::default()),
            Err(LayerError::Read(_))
        ));
    }

    #[test]
    fn the_writer_is_read_to_its_end() {
        use std::io::Write as _;
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let writing = std::thread::spawn(move || {
            let mut tar = tar_of(&[("app/a", EntryType::Regular, "x")], 0);
            // More than a pipe holds.
            tar.resize(tar.len() + (200 << 10), 0);
            writer.write_all(&tar)
        });
        let mut spool = tempfile::tempfile().expect("a file");
        let out = tempfile::tempfile().expect("a file");
        write(reader, &mut spool, out, Limits::default()).expect("a layer");
        writing
            .join()
            .expect("joined")
            .expect("the writer was not cut off");
    }

    #[test]
    fn long_paths_survive() {
        let long = format!("app/{}/file", "d".repeat(180));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, &long, &b"x"[..])
            .expect("appended");
        let tar = builder.into_inner().expect("finished");
        let (_, bytes) = built(&tar, Limits::default()).expect("a layer");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let paths: Vec<_> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("entry").path().expect("path").into_owned())
            .collect();
        assert_eq!(paths, [PathBuf::from("app"), PathBuf::from(long)]);
    }
}
