//! Configuration and manifest of an app's image: the stack's, plus one layer.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{digest_of, layer::Layer};
use crate::builder::refs::Sha;

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The port that an app of the stack listens on.
pub const DEFAULT_PORT: u16 = 5000;

/// Why a base image can't be built upon.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not the JSON that it should be.
    #[error("the base image's {what} is no {what}")]
    Json {
        /// Configuration or manifest.
        what: &'static str,
        /// Where it is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A part is missing.
    #[error("the base image lacks {0}")]
    Missing(&'static str),
    /// The base image was told to be another.
    #[error("the base image has {layers} layers and {diff_ids} diff ids")]
    Layers {
        /// In its manifest.
        layers: usize,
        /// In its configuration.
        diff_ids: usize,
    },
}

/// A small blob that is held in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: String,
}

impl Document {
    /// The compact JSON of a value; maps are sorted, so the same value has the same digest.
    #[must_use]
    pub fn json(value: &Value) -> Self {
        let bytes = value.to_string().into_bytes();
        Self {
            digest: digest_of(&bytes),
            bytes,
        }
    }
}

/// An image that is about to be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Its configuration.
    pub config: Document,
    /// Its manifest.
    pub manifest: Document,
}

fn parse(what: &'static str, bytes: &[u8]) -> Result<Value, ConfigError> {
    serde_json::from_slice(bytes).map_err(|source| ConfigError::Json { what, source })
}

fn object<'v>(
    value: &'v mut Value,
    what: &'static str,
) -> Result<&'v mut Map<String, Value>, ConfigError> {
    value.as_object_mut().ok_or(ConfigError::Missing(what))
}

fn array<'v>(value: &'v mut Value, what: &'static str) -> Result<&'v mut Vec<Value>, ConfigError> {
    value.as_array_mut().ok_or(ConfigError::Missing(what))
}

/// Puts a layer on a base image. Same base, same layer, same commit: same digest.
///
/// # Errors
/// When the base is no image.
pub fn compose(
    base_config: &[u8],
    base_manifest: &[u8],
    layer: &Layer,
    commit: &Sha,
) -> Result<Composed, ConfigError> {
    let mut config = parse("configuration", base_config)?;
    let mut manifest = parse("manifest", base_manifest)?;

    let run = object(&mut config, "a configuration")?
        .entry("config")
        .or_insert_with(|| json!({}));
    set_env(run, "PORT", &DEFAULT_PORT.to_string())?;
    let run = object(run, "run parameters")?;
    run.insert("WorkingDir".into(), json!("/app"));
    run.entry("User").or_insert_with(|| json!("2000:2000"));
    run.insert(
        "ExposedPorts".into(),
        json!({ format!("{DEFAULT_PORT}/tcp"): {} }),
    );
    let labels = run.entry("Labels").or_insert_with(|| json!({}));
    object(labels, "labels")?.insert(
        "org.opencontainers.image.revision".into(),
        json!(commit.as_str()),
    );

    let diff_ids = array(&mut config["rootfs"]["diff_ids"], "diff ids")?;
    diff_ids.push(json!(layer.diff_id));
    let diff_ids = diff_ids.len();
    if let Some(history) = config["history"].as_array_mut() {
        history.push(json!({ "created": "1970-01-01T00:00:01Z", "created_by": "git push deis" }));
    }
    let config = Document::json(&config);

    let layers = array(&mut manifest["layers"], "layers")?;
    layers.push(json!({ "mediaType": LAYER, "digest": layer.digest, "size": layer.size }));
    if layers.len() != diff_ids {
        return Err(ConfigError::Layers {
            layers: layers.len(),
            diff_ids,
        });
    }
    let manifest = object(&mut manifest, "a manifest")?;
    manifest.insert("mediaType".into(), json!(MANIFEST));
    manifest.insert(
        "config".into(),
        json!({ "mediaType": CONFIG, "digest": config.digest, "size": config.bytes.len() }),
    );
    manifest.remove("annotations");
    let manifest = Document::json(&Value::Object(manifest.clone()));
    Ok(Composed { config, manifest })
}

/// Sets one variable in an image's `Env` list.
fn set_env(run: &mut Value, name: &str, value: &str) -> Result<(), ConfigError> {
    let env = object(run, "run parameters")?
        .entry("Env")
        .or_insert_with(|| json!([]));
    let env = array(env, "environment")?;
    let other = |entry: &Value| entry.as_str().and_then(|e| e.split('=').next()) != Some(name);
    env.retain(other);
    env.push(json!(format!("{name}={value}")));
    Ok(())
}

/// What an image built from a Dockerfile says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Its lowest exposed TCP port, else 5000.
    pub port: u16,
    /// Whether it has a command of its own.
    pub has_command: bool,
    /// Whether it is a slug of Deis v1.
    pub is_runner: bool,
}

/// Reads port and command from an image's configuration.
///
/// # Errors
/// When it is no configuration.
pub fn inspect(config: &[u8]) -> Result<Inspected, ConfigError> {
    let config = parse("configuration", config)?;
    let run = &config["config"];
    let ports: BTreeSet<u16> = run["ExposedPorts"]
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .filter_map(|port| match port.split_once('/') {
            None => port.parse().ok(),
            Some((port, "tcp")) => port.parse().ok(),
            Some(_) => None,
        })
        .filter(|port| *port > 0)
        .collect();
    let given = |name: &str| run[name].as_array().is_some_and(|words| !words.is_empty());
    Ok(Inspected {
        port: ports.first().copied().unwrap_or(DEFAULT_PORT),
        has_command: given("Cmd") || given("Entrypoint"),
        is_runner: run["Entrypoint"] == json!(["/runner/init"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> Layer {
        Layer {
            digest: "sha256:aa".into(),
            diff_id: "sha256:bb".into(),
            size: 7,
            release: None,
        }
    }

    fn base() -> (Vec<u8>, Vec<u8>) {
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/bin", "PORT=1"], "User": "2000:2000", "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:01"]},
        });
        let manifest = json!({
            "schemaVersion": 2, "config": {"digest": "sha256:02", "size": 3, "mediaType": CONFIG},
            "layers": [{"mediaType": LAYER, "digest": "sha256:03", "size": 4}],
        });
        (
            config.to_string().into_bytes(),
            manifest.to_string().into_bytes(),
        )
    }

    #[test]
    fn a_layer_on_the_stack() {
        let (config, manifest) = base();
        let commit = Sha::try_from("c".repeat(40)).expect("an id");
        let image = compose(&config, &manifest, &layer(), &commit).expect("an image");
        assert_eq!(
            image,
            compose(&config, &manifest, &layer(), &commit).expect("an image")
        );
        let config: Value = serde_json::from_slice(&image.config.bytes).expect("json");
        assert_eq!(config["config"]["Env"], json!(["PATH=/bin", "PORT=5000"]));
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!(["sha256:01", "sha256:bb"])
        );
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).expect("json");
        assert_eq!(manifest["config"]["digest"], json!(image.config.digest));
        assert_eq!(manifest["layers"][1]["digest"], json!("sha256:aa"));
        assert_eq!(inspect(&image.config.bytes).expect("read").port, 5000);
    }

    #[test]
    fn bases_that_are_none() {
        let (config, manifest) = base();
        let commit = Sha::try_from("c".repeat(40)).expect("an id");
        for (config, manifest) in [
            (b"[]".to_vec(), manifest.clone()),
            (b"x".to_vec(), manifest.clone()),
            (b"{}".to_vec(), manifest),
            (config.clone(), b"{}".to_vec()),
            (config, br#"{"layers":[]}"#.to_vec()),
        ] {
            assert!(compose(&config, &manifest, &layer(), &commit).is_err());
        }
    }

    #[test]
    fn ports() {
        let cases = [
            (json!({}), 5000),
            (
                json!({"ExposedPorts": {"8080/tcp": {}, "80/tcp": {}, "53/udp": {}}}),
                80,
            ),
            (json!({"ExposedPorts": {"9000": {}}}), 9000),
            (
                json!({"ExposedPorts": {"x/tcp": {}, "0/tcp": {}, "99999/tcp": {}}}),
                5000,
            ),
        ];
        for (run, want) in cases {
            let config = json!({ "config": run }).to_string();
            assert_eq!(
                inspect(config.as_bytes()).expect("read").port,
                want,
                "{config}"
            );
        }
    }
}
