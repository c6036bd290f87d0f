//! The platform's registries as clients see them: which are there, and an image into all of them.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    image::{
        config::MANIFEST,
        layout::Layout,
        push::{Image, PushError, Registry},
    },
    model::{AppName, PartPresence},
    store::{Store, StoreError, keys},
};

/// Where the stack image lies in the registries.
pub const STACK_REPOSITORY: &str = "deis/stack";

/// How many replicas an image should have.
const REPLICAS: usize = 2;

/// Where an app's images lie: a new app of the same name has another place.
#[must_use]
pub fn repository_of(app: &AppName, id: Uuid) -> String {
    format!("{app}/{id}")
}

/// The app and id of such a repository.
#[must_use]
pub fn owner_of(repository: &str) -> Option<(AppName, Uuid)> {
    let (app, id) = repository.split_once('/')?;
    Some((app.parse().ok()?, id.parse().ok()?))
}

/// Why an image is in no registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// etcd can't be asked.
    #[error("can't find the registries")]
    Store(#[from] StoreError),
    /// None is registered.
    #[error("no registry is up; `deisctl list` shows deis-registry")]
    None,
    /// None took it.
    #[error("no registry took the image")]
    Refused(#[source] PushError),
}

/// The platform's registries.
#[derive(Debug)]
pub struct Registries {
    store: Store,
    /// Incarnations of registries that hold the stack image.
    with_stack: Mutex<BTreeSet<Uuid>>,
}

impl Registries {
    /// Those that etcd knows.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            with_stack: Mutex::default(),
        }
    }

    async fn present(&self) -> Result<Vec<PartPresence>, RegistriesError> {
        let listing = self.store.list_readable(&keys::parts("registry")).await?;
        let there: Vec<_> = listing
            .entries
            .into_iter()
            .map(|(_, there)| there.value)
            .collect();
        if there.is_empty() {
            Err(RegistriesError::None)
        } else {
            Ok(there)
        }
    }

    /// Addresses of all that are there.
    ///
    /// # Errors
    /// When there is none, or etcd can't be asked.
    pub async fn addresses(&self) -> Result<Vec<String>, RegistriesError> {
        let present = self.present().await?;
        Ok(present.into_iter().map(|there| there.address).collect())
    }

    /// A registry at an address.
    #[must_use]
    pub fn at(&self, address: &str) -> Registry {
        Registry::new(address)
    }

    /// Pushes an image to every registry that is there. One is enough; what went wrong with the
    /// others is returned in words.
    ///
    /// # Errors
    /// When there is none, or none took it.
    pub async fn push(
        &self,
        repository: &str,
        image: &Image,
    ) -> Result<Vec<String>, RegistriesError> {
        let present = self.present().await?;
        let pushes = present
            .iter()
            .map(|there| async { Registry::new(&there.address).push(repository, image).await });
        let mut warnings = Vec::new();
        let mut last = None;
        let mut taken = 0;
        for result in join_all(pushes).await {
            match result {
                Ok(()) => taken += 1,
                Err(error) => {
                    warn!(
                        repository,
                        error = &error as &dyn std::error::Error,
                        "a registry is left out"
                    );
                    warnings.push(error.to_string());
                    last = Some(error);
                }
            }
        }
        match last {
            Some(error) if taken == 0 => return Err(RegistriesError::Refused(error)),
            _ => {}
        }
        if present.len() < REPLICAS {
            warnings.push(format!(
                "only {} of {REPLICAS} registries is there",
                present.len()
            ));
        }
        Ok(warnings)
    }

    /// Sees to it that the registries have the stack image, so that a push uploads one layer only.
    ///
    /// # Errors
    /// When the registries can't be listed.
    pub async fn seed(&self, stack: &Layout) -> Result<(), RegistriesError> {
        let image = Image {
            manifest: stack.manifest.clone(),
            media_type: MANIFEST.to_owned(),
            config: stack.config.clone(),
            layers: stack.layers.clone(),
            mount_from: None,
        };
        for there in self.present().await? {
            // Held over the upload: nobody uploads the same twice at once.
            let mut with_stack = self.with_stack.lock().await;
            if with_stack.contains(&there.id) {
                continue;
            }
            match Registry::new(&there.address)
                .push(STACK_REPOSITORY, &image)
                .await
            {
                Ok(()) => {
                    info!(registry = there.address, "has the stack image");
                    with_stack.insert(there.id);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(
                        registry = there.address,
                        error, "did not take the stack image"
                    );
                }
            }
        }
        Ok(())
    }
}
