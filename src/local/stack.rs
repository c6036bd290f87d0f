//! The stack image: the Debian that apps are built in and run on, as an OCI layout, and an image
//! store with it that all hosts read.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::command::{bound, output};
use super::report::{Note, detail};
use super::rootfs::{Sources, build, fresh, key, remove_tree};
use super::state::CACHE_ROOT;

/// The image's name in the hosts.
pub const IMAGE: &str = "localhost/deis/stack:latest";

const RECIPE: &str = include_str!("recipes/stack.sh");
/// Counts changes of what this file makes out of the recipe's tree.
const FORMAT: &str = "1";

/// What the hosts get.
#[derive(Debug, Clone)]
pub struct Stack {
    /// An OCI layout with the one tag `stack`.
    pub layout: PathBuf,
    /// A containers-storage with the image in it.
    pub store: PathBuf,
}

fn places() -> Stack {
    let key = key(&[RECIPE, FORMAT]);
    let at = |kind: &str| Path::new(CACHE_ROOT).join(format!("{kind}-{key}"));
    Stack {
        layout: at("stack"),
        store: at("store"),
    }
}

/// The stack image if it was made before.
pub fn cached() -> Option<Stack> {
    let stack = places();
    (stack.layout.is_dir() && stack.store.is_dir()).then_some(stack)
}

/// The cached stack image, made if there is none.
pub fn ensure(note: &mut Note) -> anyhow::Result<Stack> {
    if let Some(stack) = cached() {
        note.set(format!("cached: {}", stack.layout.display()));
        return Ok(stack);
    }
    let Stack { layout, store } = places();
    fresh(&layout, |dir| {
        fs::create_dir_all(dir)?;
        let tree = dir.join("tree");
        build(RECIPE, &tree, &Sources::of_this_machine())?;
        detail("packing the layer");
        write_layout(dir, &tree)?;
        remove_tree(&tree)
    })?;
    fresh(&store, |dir| {
        detail("loading it into an image store");
        load(&layout, dir)
    })?;
    note.set(format!("made {}", layout.display()));
    Ok(Stack { layout, store })
}

/// Counts and hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Hashing<W> {
        Hashing {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn finish(self) -> (W, String, u64) {
        let digest: String = self
            .hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        (self.inner, digest, self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Packs a tree as the one layer of an image. Same tree, same bytes: sorted, without clocks.
fn write_layout(dir: &Path, tree: &Path) -> anyhow::Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut tar = Command::new("tar")
        .args([
            "--create",
            "--sort=name",
            "--mtime=@1",
            "--numeric-owner",
            "--format=gnu",
        ])
        .args([
            "--exclude=./dev/*",
            "--exclude=./proc/*",
            "--exclude=./sys/*",
        ])
        .arg("--directory")
        .arg(tree)
        .arg(".")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let mut packed = tar.stdout.take().context("tar has an output")?;
    let unfinished = blobs.join("layer");
    let file = Hashing::new(std::io::BufWriter::new(fs::File::create(&unfinished)?));
    let mut plain = Hashing::new(GzEncoder::new(file, Compression::new(5)));
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = packed.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        plain.write_all(&buffer[..count])?;
    }
    if !tar.wait()?.success() {
        bail!("tar could not pack {}", tree.display());
    }
    let (gzip, diff_id, _) = plain.finish();
    let (mut file, layer, layer_size) = gzip.finish()?.finish();
    file.flush()?;
    fs::rename(&unfinished, blobs.join(&layer))?;

    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "created": "1970-01-01T00:00:01Z",
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": "2000:2000",
            "WorkingDir": "/app",
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
                "HOME=/app",
                "PYTHONUNBUFFERED=1",
            ],
            "Cmd": ["/bin/bash"],
            "Labels": {"org.opencontainers.image.title": "deis/stack", "deis.stack": "bookworm"},
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        "history": [{"created": "1970-01-01T00:00:01Z", "created_by": "deis stack image (Debian 12)"}],
    });
    let (config, config_size) = blob(&blobs, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config}"),
            "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{layer}"),
            "size": layer_size,
        }],
    });
    let (manifest, manifest_size) = blob(&blobs, &manifest)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest}"),
            "size": manifest_size,
            "platform": {"architecture": architecture, "os": "linux"},
            "annotations": {"org.opencontainers.image.ref.name": "stack"},
        }],
    });
    fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    detail(&format!(
        "layer sha256:{layer}, {} MB",
        layer_size / 1_000_000
    ));
    Ok(())
}

fn blob(blobs: &Path, value: &serde_json::Value) -> anyhow::Result<(String, usize)> {
    let bytes = serde_json::to_vec(value)?;
    let mut hashing = Hashing::new(std::io::sink());
    hashing.write_all(&bytes)?;
    let (_, digest, _) = hashing.finish();
    fs::write(blobs.join(&digest), &bytes)?;
    Ok((digest, bytes.len()))
}

/// Loads the layout into a containers-storage of its own.
fn load(layout: &Path, store: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(store)?;
    let run_root = tempfile::tempdir()?; // podman takes no path longer than 50 letters
    let source = format!("oci:{}:stack", layout.display());
    let podman = |words: &[&str]| {
        let mut all = vec![
            "podman",
            "--storage-driver=overlay",
            "--cgroup-manager=cgroupfs",
        ];
        let root = format!("--root={}", store.display());
        let run_root = format!("--runroot={}", run_root.path().display());
        all.extend([root.as_str(), run_root.as_str(), "--events-backend=none"]);
        all.extend(words);
        output(&mut bound(&all))
    };
    let pulled = podman(&["pull", "--quiet", &source])?;
    podman(&["tag", pulled.trim(), IMAGE])?;
    let names = podman(&["images", "--format={{.Repository}}:{{.Tag}}"])?;
    for name in names
        .lines()
        .filter(|name| *name != IMAGE && !name.contains("<none>"))
    {
        podman(&["untag", IMAGE, name]).ok();
    }
    super::procs::unmount_below(store)?;
    super::procs::unmount_below(run_root.path())?;
    // What only a running podman needs.
    for name in ["libpod", "overlay-containers"] {
        remove_tree(&store.join(name))?;
    }
    Ok(())
}
