//! The container runtime: images by digest, and what is left of containers.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    process::Command,
    sync::{Mutex, Notify, OnceCell},
    time::{self, Instant},
};
use tracing::{info, warn};

use super::replicas;
use crate::{
    link::in_clear,
    render::unit::local_image,
    store::{Store, keys},
};

/// How long a pull may take.
const PULL_LIMIT: Duration = Duration::from_secs(300);
/// How long any other call may take.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);
/// The registry's port.
const REGISTRY_PORT: u16 = 5000;

/// Why an image is not on the host.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// No registry is registered.
    #[error(
        "no registry is registered under /deis/registry/hosts: start one (deisctl start registry)"
    )]
    NoRegistry,
    /// No registry gave it.
    #[error("image {image} could not be pulled from {tried}: {reason}")]
    Pull {
        /// Repository and digest.
        image: String,
        /// Which registries were tried.
        tried: String,
        /// What the last one said.
        reason: String,
    },
    /// podman itself failed.
    #[error("podman {call} failed: {reason}")]
    Podman {
        /// The call.
        call: &'static str,
        /// What it said.
        reason: String,
    },
}

/// What the agent needs of a container runtime.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Makes sure that an image (`blog@sha256:…`) is on the host, by digest.
    fn ensure_image(&self, image: &str) -> impl Future<Output = Result<(), ImageError>> + Send;
    /// Removes a container that was left behind; one that is not there is removed.
    fn remove(&self, container: &str) -> impl Future<Output = Result<(), ImageError>> + Send;
    /// Names of all containers, running or left behind.
    fn containers(&self) -> impl Future<Output = Result<Vec<String>, ImageError>> + Send;
    /// Names of all images; one image may have several.
    fn images(&self) -> impl Future<Output = Result<Vec<String>, ImageError>> + Send;
    /// Takes a name from an image, and removes the image with its last one, unless it is used.
    fn remove_image(&self, name: &str) -> impl Future<Output = Result<(), ImageError>> + Send;
    /// Whether a container could be published there.
    fn port_is_free(&self, address: SocketAddr) -> bool {
        std::net::TcpListener::bind(address).is_ok()
    }
}

/// podman, called as a program.
#[derive(Debug, Clone)]
pub struct Podman {
    store: Store,
    /// One pull per image at a time, by the image.
    pub(super) slots: Arc<Mutex<HashMap<String, Arc<Mutex<Slot>>>>>,
    /// A pull has found the disk full.
    pub(super) full: Arc<Notify>,
    /// Folder of podman's storage, once it is known.
    pub(super) root: Arc<OnceCell<String>>,
    /// Options that stand before podman's command (tests have a storage of their own).
    options: Arc<[String]>,
}

/// What is known of an image.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// It is on the host.
    pub there: bool,
    /// When somebody was told so last.
    pub asked: Option<Instant>,
}

impl Podman {
    /// A runtime that finds registries in `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            slots: Arc::default(),
            full: Arc::default(),
            root: Arc::default(),
            options: Arc::default(),
        }
    }

    /// The same with options of podman's own.
    #[cfg(test)]
    pub fn with_options(mut self, options: &[String]) -> Self {
        self.options = options.into();
        self
    }

    async fn registries(&self) -> Vec<SocketAddr> {
        let prefix = keys::parts("registry");
        match self.store.list_readable(&prefix).await {
            Ok(listing) => {
                let parts = listing.entries.iter();
                let addresses = parts.filter_map(|(key, _)| {
                    let ip: IpAddr = keys::last_part(key, prefix.as_str())?.parse().ok()?;
                    Some(SocketAddr::new(ip, REGISTRY_PORT))
                });
                addresses.collect()
            }
            Err(error) => {
                warn!(%error, "registries can't be read");
                Vec::new()
            }
        }
    }

    /// Pulls an image from one registry; gives its id, or what podman said.
    async fn pull(&self, image: &str, registry: SocketAddr) -> Result<String, String> {
        // Where links are TLS they prove both ends; podman speaks with this host alone.
        let from = format!("{}/{image}", in_clear(&registry.to_string()));
        let pull = ["pull", "--quiet", "--tls-verify=false", &from];
        self.call("pull", &pull, PULL_LIMIT).await.map_err(|error| {
            let reason = match error {
                ImageError::Podman { reason, .. } => reason,
                other => other.to_string(),
            };
            if reason.contains("no space left") {
                self.full.notify_one();
            }
            reason
        })
    }

    /// Calls podman and returns what it printed.
    pub(super) async fn call(
        &self,
        call: &'static str,
        args: &[&str],
        limit: Duration,
    ) -> Result<String, ImageError> {
        let failed = |reason: String| ImageError::Podman { call, reason };
        let mut command = Command::new("podman");
        command
            .arg("--events-backend=none")
            .args(&*self.options)
            .args(args)
            .stdin(Stdio::null())
            .env_remove("NOTIFY_SOCKET")
            .kill_on_drop(true);
        let output = match time::timeout(limit, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no end within {} s", limit.as_secs()))),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(
            said.lines().last().unwrap_or("no message").to_owned(),
        ))
    }
}

impl Runtime for Podman {
    async fn ensure_image(&self, image: &str) -> Result<(), ImageError> {
        let local = local_image(image);
        let slot = self
            .slots
            .lock()
            .await
            .entry(image.to_owned())
            .or_default()
            .clone();
        let mut slot = slot.lock().await;
        // Whoever is told that it is there needs a moment to start something with it.
        slot.asked = Some(Instant::now());
        if slot.there
            || self
                .call("image exists", &["image", "exists", &local], CALL_LIMIT)
                .await
                .is_ok()
        {
            slot.there = true;
            return Ok(());
        }
        let registries = replicas::in_turn(self.registries().await, image);
        let tried: Vec<String> = registries.iter().map(ToString::to_string).collect();
        let begun = Instant::now();
        let pulled = replicas::from_any(registries, replicas::answers, |registry| {
            self.pull(image, registry)
        });
        let (registry, id) = match pulled.await {
            Some(Ok(pulled)) => pulled,
            Some(Err(reason)) => {
                return Err(ImageError::Pull {
                    image: image.to_owned(),
                    tried: tried.join(", "),
                    reason,
                });
            }
            None => return Err(ImageError::NoRegistry),
        };
        self.call("tag", &["tag", &id, &local], CALL_LIMIT).await?;
        info!(
            image,
            %registry,
            millis = u64::try_from(begun.elapsed().as_millis()).ok(),
            "image pulled"
        );
        (slot.there, slot.asked) = (true, Some(Instant::now()));
        Ok(())
    }

    async fn remove(&self, container: &str) -> Result<(), ImageError> {
        self.call(
            "rm",
            &["rm", "--force", "--ignore", "--time", "0", container],
            CALL_LIMIT,
        )
        .await
        .map(|_| ())
    }

    async fn containers(&self) -> Result<Vec<String>, ImageError> {
        let names = self
            .call("ps", &["ps", "--all", "--format", "{{.Names}}"], CALL_LIMIT)
            .await?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    async fn images(&self) -> Result<Vec<String>, ImageError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            names: Option<Vec<String>>,
        }
        let text = self
            .call("images", &["images", "--format", "json"], CALL_LIMIT)
            .await?;
        let images: Vec<Image> =
            serde_json::from_str(&text).map_err(|error| ImageError::Podman {
                call: "images",
                reason: error.to_string(),
            })?;
        Ok(images
            .into_iter()
            .filter_map(|i| i.names)
            .flatten()
            .collect())
    }

    async fn remove_image(&self, name: &str) -> Result<(), ImageError> {
        self.call("rmi", &["rmi", name], CALL_LIMIT)
            .await
            .map(drop)?;
        // What was known to be there is looked at again.
        let mut slots = self.slots.lock().await;
        slots.retain(|image, _| local_image(image) != name);
        Ok(())
    }
}

/// A runtime that has every image.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub struct FakeRuntime {
    missing: Arc<std::sync::Mutex<Vec<String>>>,
    images: Arc<std::sync::Mutex<Vec<String>>>,
    removed: Arc<std::sync::Mutex<Vec<String>>>,
}

#[cfg(test)]
impl FakeRuntime {
    fn missing(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.missing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets these be the names of its images.
    pub fn hold(&self, names: Vec<String>) {
        *self.images.lock().expect("lock") = names;
    }

    /// The containers that were to be removed.
    pub fn removed(&self) -> Vec<String> {
        self.removed.lock().expect("lock").clone()
    }

    /// Lets an image be missing from now on.
    pub fn lose(&self, image: &str) {
        self.missing().push(image.to_owned());
    }

    /// Lets it be there again.
    pub fn find(&self, image: &str) {
        self.missing().retain(|missing| missing != image);
    }
}

#[cfg(test)]
impl Runtime for FakeRuntime {
    async fn ensure_image(&self, image: &str) -> Result<(), ImageError> {
        if self.missing().iter().any(|m| m == image) {
            return Err(ImageError::NoRegistry);
        }
        Ok(())
    }

    async fn remove(&self, container: &str) -> Result<(), ImageError> {
        self.removed
            .lock()
            .expect("lock")
            .push(container.to_owned());
        Ok(())
    }

    async fn containers(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }

    async fn images(&self) -> Result<Vec<String>, ImageError> {
        Ok(self.images.lock().expect("lock").clone())
    }

    async fn remove_image(&self, name: &str) -> Result<(), ImageError> {
        self.images
            .lock()
            .expect("lock")
            .retain(|image| image != name);
        Ok(())
    }
}
