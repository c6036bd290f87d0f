//! An OCI image layout on disk: the stack's, or what podman saved.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Blob, config::Document, digest_of};

/// Why a layout can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file is missing.
    #[error("the image layout's {path} can't be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not what it should be.
    #[error("the image layout's {path} is wrong: {why}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// One image in a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its manifest.
    pub manifest: Document,
    /// The manifest's media type.
    pub media_type: String,
    /// Its configuration.
    pub config: Document,
    /// The configuration's media type.
    pub config_type: String,
    /// Its layers, lowest first.
    pub layers: Vec<Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Largest manifest or configuration.
const MAX_DOCUMENT: u64 = 4 << 20;

impl Layout {
    /// Reads the only image of a layout, without its layers' bytes.
    ///
    /// # Errors
    /// When a file is missing or doesn't have the digest that it should have.
    pub fn read(dir: &Path) -> Result<Self, LayoutError> {
        let path = dir.join("index.json");
        let index: Index = parse(&path, &read(&path)?)?;
        let [manifest] = index.manifests.as_slice() else {
            let why = format!("{} images in it, expected one", index.manifests.len());
            return Err(LayoutError::Form { path, why });
        };
        let (manifest_path, document) = document(dir, manifest)?;
        let parsed: Manifest = parse(&manifest_path, &document.bytes)?;
        let (_, config) = self::document(dir, &parsed.config)?;
        let layers = parsed.layers.into_iter().map(|layer| {
            let path = blob_path(dir, &layer.digest)?;
            let there = fs::metadata(&path)
                .map_err(|source| file(&path, source))?
                .len();
            if there != layer.size {
                let why = format!("{there} bytes, expected {}", layer.size);
                return Err(LayoutError::Form { path, why });
            }
            let (digest, size, media_type) = (layer.digest, layer.size, layer.media_type);
            Ok(Blob {
                digest,
                size,
                media_type,
                path,
            })
        });
        Ok(Self {
            manifest: document,
            media_type: manifest.media_type.clone(),
            config,
            config_type: parsed.config.media_type,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }
}

fn file(path: &Path, source: io::Error) -> LayoutError {
    LayoutError::File {
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LayoutError> {
    let length = fs::metadata(path)
        .map_err(|source| file(path, source))?
        .len();
    if length > MAX_DOCUMENT {
        let why = format!("{length} bytes are too many");
        return Err(LayoutError::Form {
            path: path.to_owned(),
            why,
        });
    }
    fs::read(path).map_err(|source| file(path, source))
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|error| LayoutError::Form {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

fn blob_path(dir: &Path, digest: &str) -> Result<PathBuf, LayoutError> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
    });
    match hex {
        Some(hex) => Ok(dir.join("blobs/sha256").join(hex)),
        None => {
            let why = format!("{digest:?} is no SHA-256 digest");
            Err(LayoutError::Form {
                path: dir.to_owned(),
                why,
            })
        }
    }
}

fn document(dir: &Path, descriptor: &Descriptor) -> Result<(PathBuf, Document), LayoutError> {
    let path = blob_path(dir, &descriptor.digest)?;
    let bytes = read(&path)?;
    let digest = digest_of(&bytes);
    if digest != descriptor.digest {
        let why = format!("it has the digest {digest}");
        return Err(LayoutError::Form { path, why });
    }
    Ok((path, Document { bytes, digest }))
}
