//! What podman's storage holds, on which disk, and how an image leaves it.

use std::{collections::BTreeSet, future::Future, time::Duration};

use serde::Deserialize;

use super::runtime::{CALL_LIMIT, ImageError, Podman};
use crate::{plan::images::Disk, render::unit::local_image};

/// Whoever asked for an image has started something with it by then, or asks again.
const JUST_ASKED: Duration = Duration::from_secs(600);
/// Beginning of the names that units use.
const LOCAL: &str = "deis.local/";

/// An image in podman's storage.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stored {
    /// Its id.
    pub id: String,
    /// Its names; none for what a build has left.
    #[serde(default, deserialize_with = "or_nothing")]
    pub names: BTreeSet<String>,
    /// Its size, layers that it shares with others included.
    #[serde(default)]
    pub size: u64,
    /// Containers that have it.
    #[serde(default)]
    pub containers: u32,
}

/// podman writes `null` for an empty list.
fn or_nothing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Where images lie.
pub trait Storage: Clone + Send + Sync + 'static {
    /// The disk that images are on.
    fn disk(&self) -> impl Future<Output = Result<Disk, ImageError>> + Send;
    /// All images.
    fn stored(&self) -> impl Future<Output = Result<Vec<Stored>, ImageError>> + Send;
    /// Removes an image with all its names. `false`: somebody has just asked for it, so it stays.
    fn discard(&self, image: &Stored) -> impl Future<Output = Result<bool, ImageError>> + Send;
    /// Returns when a pull has found the disk full.
    fn filled(&self) -> impl Future<Output = ()> + Send;
}

impl Storage for Podman {
    async fn disk(&self) -> Result<Disk, ImageError> {
        let failed = |reason: String| ImageError::Podman {
            call: "info",
            reason,
        };
        let format = ["info", "--format", "{{.Store.GraphRoot}}"];
        let ask = || self.call("info", &format, CALL_LIMIT);
        let root = self.root.get_or_try_init(ask).await?;
        let found = rustix::fs::statvfs(root.as_str())
            .map_err(|error| failed(format!("the disk of {root} can't be looked at: {error}")))?;
        Ok(Disk {
            used: found.f_blocks.saturating_sub(found.f_bfree) * found.f_frsize,
            available: found.f_bavail * found.f_frsize,
            files: found.f_files.saturating_sub(found.f_ffree),
            files_free: found.f_favail,
        })
    }

    async fn stored(&self) -> Result<Vec<Stored>, ImageError> {
        let format = ["images", "--format", "json"];
        let text = self.call("images", &format, CALL_LIMIT).await?;
        serde_json::from_str(&text).map_err(|error| ImageError::Podman {
            call: "images",
            reason: error.to_string(),
        })
    }

    async fn discard(&self, image: &Stored) -> Result<bool, ImageError> {
        let mut held = Vec::new();
        for (name, slot) in &*self.slots.lock().await {
            if !image.names.contains(&local_image(name)) {
                continue;
            }
            // A slot that is locked: it is being pulled.
            let Ok(slot) = slot.clone().try_lock_owned() else {
                return Ok(false);
            };
            if slot.asked.is_some_and(|at| at.elapsed() < JUST_ASKED) {
                return Ok(false);
            }
            held.push(slot);
        }
        // Until the end nobody is told that it is there.
        for slot in &mut held {
            slot.there = false;
        }
        // Units' own name last: if it is in use after all, podman refuses that one.
        let (local, others): (Vec<&String>, Vec<&String>) =
            image.names.iter().partition(|name| name.starts_with(LOCAL));
        for name in others.into_iter().chain(local) {
            self.call("rmi", &["rmi", name], CALL_LIMIT).await?;
        }
        Ok(true)
    }

    async fn filled(&self) {
        self.full.notified().await;
    }
}

impl Podman {
    /// Lets as much time have passed since anybody asked for an image.
    #[cfg(test)]
    pub async fn forget_who_asked(&self) {
        for slot in self.slots.lock().await.values() {
            slot.lock().await.asked = None;
        }
    }
}
