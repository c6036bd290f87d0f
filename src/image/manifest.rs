//! Pure: what manifests say, in both of their dialects (OCI's and docker's, which differ in names).

use std::path::Path;

use serde::Deserialize;

use super::{Blob, config};

/// A list of images for several platforms, as docker calls it.
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The same, as OCI does.
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// One image, as docker calls it.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a registry is told that we understand.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Most layers of an image: overlayfs takes no more.
const MAX_LAYERS: usize = 500;

/// Why an image can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not a manifest that we know.
    #[error(
        "its manifest is of the type {0:?}, which is not supported; push it anew with a current docker or podman"
    )]
    Type(String),
    /// Not what its type says.
    #[error("its {what} can't be read: {why}")]
    Form {
        /// Manifest or configuration.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A digest that is none.
    #[error("it names {0:?}, which is no sha256 digest")]
    Digest(String),
    /// Too many layers.
    #[error("it has {0} layers, more than {MAX_LAYERS}")]
    Layers(usize),
    /// A layer whose bytes are elsewhere.
    #[error("a layer of it is of the type {0:?}, which registries don't pass on")]
    Layer(String),
    /// Not for these hosts.
    #[error("it is for {there}; this platform's hosts are linux/{here}")]
    Platform {
        /// What there is.
        there: String,
        /// What is needed.
        here: String,
    },
}

/// A blob: what it is, and how to know that it is that.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// What it is for, in a list of several.
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl Descriptor {
    /// The blob, once its bytes lie in a directory.
    #[must_use]
    pub fn blob(&self, dir: &Path) -> Blob {
        Blob {
            digest: self.digest.clone(),
            size: self.size,
            media_type: self.media_type.clone(),
            path: dir.join(self.digest.replace(':', "-")),
        }
    }
}

/// What was found under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// Images for several platforms.
    List(Vec<Descriptor>),
    /// One image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Its layers, lowest first.
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Whether a text is `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(lower))
}

fn checked(descriptor: Descriptor) -> Result<Descriptor, Unusable> {
    if is_digest(&descriptor.digest) {
        Ok(descriptor)
    } else {
        let mut digest = descriptor.digest;
        digest.truncate(digest.floor_char_boundary(100));
        Err(Unusable::Digest(digest))
    }
}

impl Manifest {
    /// Reads a manifest that came with a content type; what it says of itself counts more. Returns
    /// its type, too.
    ///
    /// # Errors
    /// When it is of a type that we don't know, or not what its type says.
    pub fn parse(content_type: &str, bytes: &[u8]) -> Result<(String, Self), Unusable> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| Unusable::Form {
            what: "manifest",
            why: error.to_string(),
        })?;
        let told = content_type.split(';').next().unwrap_or_default().trim();
        let media_type = raw.media_type.unwrap_or_else(|| told.to_owned());
        let manifest = match media_type.as_str() {
            DOCKER_LIST | OCI_INDEX => {
                let entries = raw.manifests.into_iter().map(checked);
                Self::List(entries.collect::<Result<_, _>>()?)
            }
            DOCKER_MANIFEST | config::MANIFEST => {
                let config = raw.config.ok_or_else(|| Unusable::Form {
                    what: "manifest",
                    why: "it has no configuration".to_owned(),
                })?;
                if raw.layers.len() > MAX_LAYERS {
                    return Err(Unusable::Layers(raw.layers.len()));
                }
                let layers = raw.layers.into_iter().map(layer);
                Self::Image {
                    config: checked(config)?,
                    layers: layers.collect::<Result<_, _>>()?,
                }
            }
            other => return Err(Unusable::Type(other.to_owned())),
        };
        Ok((media_type, manifest))
    }
}

/// A layer that registries hold.
fn layer(descriptor: Descriptor) -> Result<Descriptor, Unusable> {
    let kind = &descriptor.media_type;
    if kind.contains("foreign") || kind.contains("nondistributable") || !kind.contains("tar") {
        return Err(Unusable::Layer(kind.clone()));
    }
    checked(descriptor)
}

/// Chooses from a list what runs on linux hosts of an architecture (`amd64`, `arm64`).
///
/// # Errors
/// When there is none.
pub fn choose<'m>(list: &'m [Descriptor], architecture: &str) -> Result<&'m Descriptor, Unusable> {
    let fits = |entry: &&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_some_and(|p| p.os == "linux" && p.architecture == architecture)
    };
    list.iter().find(fits).ok_or_else(|| {
        let mut there: Vec<String> = list
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
            .collect();
        there.sort();
        there.dedup();
        there.truncate(20);
        Unusable::Platform {
            there: there.join(", "),
            here: architecture.to_owned(),
        }
    })
}

/// Checks that an image's configuration is for linux hosts of an architecture.
///
/// # Errors
/// When it is for others.
pub fn fits(config: &[u8], architecture: &str) -> Result<(), Unusable> {
    let platform: Platform = serde_json::from_slice(config).map_err(|error| Unusable::Form {
        what: "configuration",
        why: error.to_string(),
    })?;
    if platform.os == "linux" && platform.architecture == architecture {
        return Ok(());
    }
    Err(Unusable::Platform {
        there: format!("{}/{}", platform.os, platform.architecture),
        here: architecture.to_owned(),
    })
}

/// What image manifests call an architecture that Rust names.
#[must_use]
pub fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(byte: &str) -> String {
        format!("sha256:{}", byte.repeat(32))
    }

    fn image(config: &str, layers: &[&str]) -> Vec<u8> {
        let layers: Vec<_> = layers
            .iter()
            .map(|kind| json!({"mediaType": kind, "digest": digest("02"), "size": 2}))
            .collect();
        let config = json!({"digest": config, "size": 1});
        json!({"schemaVersion": 2, "config": config, "layers": layers})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn both_dialects() {
        let good = [
            config::LAYER,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ];
        for kind in [
            DOCKER_MANIFEST,
            config::MANIFEST,
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
        ] {
            let (_, manifest) = Manifest::parse(kind, &image(&digest("01"), &good)).expect(kind);
            let Manifest::Image { layers, .. } = manifest else {
                panic!("{manifest:?}");
            };
            assert_eq!(layers.len(), 2);
        }
        // What it says of itself counts.
        let own = json!({"mediaType": OCI_INDEX, "manifests": []}).to_string();
        let (kind, _) = Manifest::parse("text/plain", own.as_bytes()).expect("read");
        assert_eq!(kind, OCI_INDEX);
    }

    #[test]
    fn what_can_not_be_used() {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        for (kind, bytes) in [
            (
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                image(&digest("01"), &[]),
            ),
            ("text/html", b"{}".to_vec()),
            (config::MANIFEST, b"<html>".to_vec()),
            (config::MANIFEST, b"{}".to_vec()),
            (config::MANIFEST, image("sha256:00", &[])),
            (config::MANIFEST, image("../../etc", &[])),
            (config::MANIFEST, image(&digest("01"), &[foreign])),
            (config::MANIFEST, image(&digest("01"), &["text/plain"])),
            (
                config::MANIFEST,
                image(&digest("01"), &[config::LAYER; 501]),
            ),
        ] {
            assert!(Manifest::parse(kind, &bytes).is_err(), "{kind}");
        }
    }

    #[test]
    fn the_platform_of_these_hosts() {
        let entry = |os: &str, architecture: &str, byte: &str| {
            json!({
                "digest": digest(byte), "size": 1,
                "platform": {"os": os, "architecture": architecture},
            })
        };
        let list = json!({"manifests": [
            entry("windows", "amd64", "01"),
            entry("linux", "arm64", "02"),
            entry("linux", "amd64", "03"),
            entry("unknown", "unknown", "04"),
        ]});
        let (_, manifest) = Manifest::parse(OCI_INDEX, list.to_string().as_bytes()).expect("read");
        let Manifest::List(list) = manifest else {
            panic!("{manifest:?}");
        };
        for (architecture, want) in [
            ("amd64", Some("03")),
            ("arm64", Some("02")),
            ("s390x", None),
        ] {
            let chosen = choose(&list, architecture).ok().map(|d| d.digest.clone());
            assert_eq!(chosen, want.map(digest), "{architecture}");
        }
        let why = choose(&list, "s390x").expect_err("none").to_string();
        assert_eq!(
            why,
            "it is for linux/amd64, linux/arm64, windows/amd64; this platform's hosts are linux/s390x"
        );
        let config = br#"{"os":"linux","architecture":"arm64"}"#;
        assert!(fits(config, "arm64").is_ok());
        assert!(fits(config, "amd64").is_err());
        assert!(fits(b"[]", "amd64").is_err());
    }
}
