//! An image from one registry into others: by way of the disk, so that memory stays small, and each
//! layer crosses the network once however many replicas want it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::{join_all, try_join_all},
    stream,
};
use tokio::time::timeout;
use tracing::warn;

use super::{
    Blob,
    push::{Image, PushError, Registry},
    source::{Found, Source, SourceError},
};

/// Most bytes of an image's layers, as they come.
pub const MAX_IMAGE: u64 = 8 << 30;
/// How long the layers of an image may take.
pub const LIMIT: Duration = Duration::from_secs(900);
/// Layers on their way at once.
const AT_ONCE: usize = 3;

/// Why an image was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No registry took it.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Too much.
    #[error("the image has {} MiB of layers, more than {} MiB", .0 >> 20, MAX_IMAGE >> 20)]
    TooLarge(u64),
    /// Too slow.
    #[error("the image did not arrive within {} minutes", LIMIT.as_secs() / 60)]
    Slow,
    /// No place for the layers.
    #[error("can't make a directory for the layers")]
    Files(#[source] std::io::Error),
    /// No registry to copy to.
    #[error("no registry is up; `deisctl list` shows deis-registry")]
    NoTarget,
}

/// Copies an image to every target, those of its layers that some target lacks. One target is enough;
/// what went wrong with the others is returned in words.
///
/// `mount_from` names a repository of the targets that probably has the layers.
///
/// # Errors
/// When it can't be read, or no target took it.
pub async fn copy(
    source: &Source<'_>,
    found: &Found,
    targets: &[Registry],
    repository: &str,
    mount_from: Option<&str>,
    spool: &Path,
) -> Result<Vec<String>, CopyError> {
    if found.size() > MAX_IMAGE {
        return Err(CopyError::TooLarge(found.size()));
    }
    let dir = tempfile::Builder::new()
        .prefix("deis-image-")
        .tempdir_in(spool)
        .map_err(CopyError::Files)?;
    let all = async {
        let (targets, mut warnings) = ready(targets, repository, found, mount_from).await?;
        let wanted: BTreeSet<&str> = targets
            .iter()
            .flat_map(|(_, missing)| missing.iter().map(String::as_str))
            .collect();
        let fetches: Vec<_> = found
            .layers
            .iter()
            .filter(|layer| wanted.contains(layer.digest.as_str()))
            .map(|layer| source.layer(layer, dir.path()))
            .collect();
        let _: Vec<Blob> = stream::iter(fetches)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let image = image(found, dir.path());
        let pushes = targets
            .iter()
            .map(|(target, _)| target.push(repository, &image));
        let mut refused = None;
        let mut taken = 0;
        for pushed in join_all(pushes).await {
            match pushed {
                Ok(()) => taken += 1,
                Err(error) => {
                    left_out(repository, &error);
                    warnings.push(error.to_string());
                    refused = Some(error);
                }
            }
        }
        match refused {
            Some(error) if taken == 0 => Err(error.into()),
            _ => Ok(warnings),
        }
    };
    timeout(LIMIT, all).await.unwrap_or(Err(CopyError::Slow))
}

/// A registry with the layers that it lacks.
type Ready<'t> = (&'t Registry, BTreeSet<String>);

/// The targets that answer, and what each of them lacks.
async fn ready<'t>(
    targets: &'t [Registry],
    repository: &str,
    found: &Found,
    mount_from: Option<&str>,
) -> Result<(Vec<Ready<'t>>, Vec<String>), CopyError> {
    let asked = targets.iter().map(|target| async move {
        let missing = try_join_all(found.layers.iter().map(|layer| async move {
            let there = target.has_or_mounts(repository, &layer.digest, mount_from);
            Ok((!there.await?).then(|| layer.digest.clone()))
        }));
        let missing: Vec<Option<String>> = missing.await?;
        Ok((target, missing.into_iter().flatten().collect()))
    });
    let (mut ready, mut warnings, mut last) = (Vec::new(), Vec::new(), None);
    for answer in join_all(asked).await {
        let answer: Result<Ready<'t>, PushError> = answer;
        match answer {
            Ok(target) => ready.push(target),
            Err(error) => {
                left_out(repository, &error);
                warnings.push(error.to_string());
                last = Some(error);
            }
        }
    }
    match last {
        _ if !ready.is_empty() => Ok((ready, warnings)),
        Some(error) => Err(error.into()),
        None => Err(CopyError::NoTarget),
    }
}

fn left_out(repository: &str, error: &PushError) {
    let error = error as &dyn std::error::Error;
    warn!(repository, error, "a registry is left out");
}

/// The image as it is pushed: the file of a layer that every target has is never opened.
fn image(found: &Found, dir: &Path) -> Image {
    let layers = found.layers.iter().map(|layer| layer.blob(dir));
    Image {
        manifest: found.manifest.clone(),
        media_type: found.media_type.clone(),
        config: found.config.clone(),
        layers: layers.collect(),
        mount_from: None,
    }
}
