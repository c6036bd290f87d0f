//! Images to registries: each blob once, the manifest last, by digest.

use std::{io, path::PathBuf, time::Duration};

use futures_util::StreamExt as _;
use http::HeaderValue;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::{Blob, config::Document};
use crate::link::in_clear;

/// Time for a request that carries no layer.
const REQUEST: Duration = Duration::from_secs(20);
/// Time for a layer: a gigabyte at 10 MB/s and some.
const UPLOAD: Duration = Duration::from_secs(180);

/// Why an image did not get into a registry.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry said no, or nothing that makes sense.
    #[error("the registry {registry} refused {what}")]
    Refused {
        /// Which registry.
        registry: String,
        /// What it was given.
        what: String,
        /// What it says.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// No answer in time.
    #[error("the registry {registry} did not take {what} within {} s", .after.as_secs())]
    Slow {
        /// Which registry.
        registry: String,
        /// What it was given.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A layer's file is gone.
    #[error("can't read the layer {path}")]
    File {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One registry.
#[derive(Clone)]
pub struct Registry {
    address: String,
    client: Client,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.address)
    }
}

/// An image ready to be pushed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its manifest.
    pub manifest: Document,
    /// The manifest's media type.
    pub media_type: String,
    /// Its configuration.
    pub config: Document,
    /// Its layers.
    pub layers: Vec<Blob>,
    /// A repository that probably holds the lower layers already.
    pub mount_from: Option<String>,
}

impl Registry {
    /// The registry at `ip:port`, a part of the platform.
    #[must_use]
    pub fn new(address: &str) -> Self {
        let config = ClientConfig {
            protocol: ClientProtocol::Http,
            use_monolithic_push: true,
            connect_timeout: Some(Duration::from_secs(3)),
            read_timeout: Some(Duration::from_secs(60)),
            ..ClientConfig::default()
        };
        Self {
            address: in_clear(address),
            client: Client::new(config),
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Uploads what is missing, then the manifest, by its digest.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn push(&self, repository: &str, image: &Image) -> Result<(), PushError> {
        let at = self.reference(repository, &image.manifest.digest);
        for layer in &image.layers {
            self.layer(&at, layer, image.mount_from.as_deref()).await?;
        }
        let config = &image.config;
        if !self.has(&at, &config.digest).await? {
            let bytes = bytes::Bytes::from(config.bytes.clone());
            let push = self.client.push_blob(&at, bytes, &config.digest);
            self.bounded("the image's configuration", REQUEST, push)
                .await?;
        }
        let kind = HeaderValue::from_str(&image.media_type)
            .unwrap_or_else(|_| HeaderValue::from_static(super::config::MANIFEST));
        let push = self
            .client
            .push_manifest_raw(&at, image.manifest.bytes.clone(), kind);
        self.bounded("the image's manifest", REQUEST, push).await?;
        Ok(())
    }

    /// Whether a repository has a blob, or has it now from another one.
    ///
    /// # Errors
    /// When the registry gives no answer.
    pub async fn has_or_mounts(
        &self,
        repository: &str,
        digest: &str,
        mount_from: Option<&str>,
    ) -> Result<bool, PushError> {
        let at = self.reference(repository, digest);
        if self.has(&at, digest).await? {
            return Ok(true);
        }
        let Some(from) = mount_from else {
            return Ok(false);
        };
        let from = self.reference(from, digest);
        // A registry that can't mount it says so, and then it is uploaded.
        let mounted = timeout(REQUEST, self.client.mount_blob(&at, &from, digest)).await;
        Ok(matches!(mounted, Ok(Ok(()))))
    }

    async fn layer(
        &self,
        at: &Reference,
        layer: &Blob,
        mount_from: Option<&str>,
    ) -> Result<(), PushError> {
        let there = self.has_or_mounts(at.repository(), &layer.digest, mount_from);
        if there.await? {
            return Ok(());
        }
        let file = tokio::fs::File::open(&layer.path)
            .await
            .map_err(|source| PushError::File {
                path: layer.path.clone(),
                source,
            })?;
        let stream = ReaderStream::with_capacity(file, 256 << 10)
            .map(|chunk| chunk.map_err(OciDistributionError::IoError));
        let push = self
            .client
            .push_blob_stream(at, stream, &layer.digest, Some(layer.size));
        self.bounded("a layer", UPLOAD, push).await?;
        Ok(())
    }

    async fn has(&self, at: &Reference, digest: &str) -> Result<bool, PushError> {
        self.bounded("a question", REQUEST, self.client.blob_exists(at, digest))
            .await
    }

    fn reference(&self, repository: &str, digest: &str) -> Reference {
        Reference::with_digest(
            self.address.clone(),
            repository.to_owned(),
            digest.to_owned(),
        )
    }

    async fn bounded<T>(
        &self,
        what: &str,
        after: Duration,
        call: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, PushError> {
        let (registry, what) = (self.address.clone(), what.to_owned());
        match timeout(after, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(PushError::Refused {
                registry,
                what,
                source: Box::new(source),
            }),
            Err(_) => Err(PushError::Slow {
                registry,
                what,
                after,
            }),
        }
    }
}
