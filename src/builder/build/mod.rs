//! From a commit's tar to an image that is ready to be pushed.

mod dockerfile;
mod podman;
mod slug;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use uuid::Uuid;

use super::{
    output::Output,
    procfile::{Procfile, ProcfileError},
    refs::Sha,
};
use crate::{
    image::{config::ConfigError, layer::LayerError, layout::LayoutError, push::Image},
    model::{AppName, ConfigName, ImageKind},
    seal::Secret,
};

/// The image that apps are built in and run on, as podman knows it.
pub const STACK_IMAGE: &str = "localhost/deis/stack:latest";
/// The network of apps; builds use it too, where it is there.
const NETWORK: &str = "deis";
/// How long a build may take.
const LIMIT: Duration = Duration::from_secs(900);

/// What builds use on a host.
#[derive(Debug, Clone)]
pub struct BuildSettings {
    /// Buildpacks and the script that runs them.
    pub buildpacks: PathBuf,
    /// OCI layout of the stack image.
    pub stack: PathBuf,
    /// The host's own additions: certificates, pip.conf, env.
    pub host: PathBuf,
    /// Caches and files on their way; on disk.
    pub data: PathBuf,
    /// Config values on their way; on tmpfs.
    pub run: PathBuf,
}

/// One build.
#[derive(Debug)]
pub struct Job {
    /// Names its container and its files.
    pub id: Uuid,
    /// The app.
    pub app: AppName,
    /// The app's uuid: names its cache.
    pub app_id: Uuid,
    /// The commit.
    pub sha: Sha,
    /// The tar of its tree, in [`Job::files`].
    pub source: PathBuf,
    /// Files on their way; gone with the job.
    pub files: TempDir,
    /// What the Procfile says.
    pub procfile: Option<Procfile>,
    /// Whether there is a Dockerfile.
    pub dockerfile: bool,
    /// Config variables.
    pub config: BTreeMap<ConfigName, Secret<Vec<u8>>>,
}

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// How it is to be started.
    pub kind: ImageKind,
    /// The port that it listens on.
    pub port: u16,
    /// Command per process type.
    pub procfile: Procfile,
    /// The image's blobs lie in the job's files.
    _files: TempDir,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The app's own fault; its output says more.
    #[error("the build failed ({0})")]
    Failed(String),
    /// Too slow.
    #[error("the build took longer than {} minutes and was stopped", LIMIT.as_secs() / 60)]
    Timeout,
    /// Neither Procfile nor default.
    #[error(
        "there is nothing to run: add a Procfile, for example with the line `web: python3 app.py`"
    )]
    NoProcess,
    /// A Dockerfile's image without any command.
    #[error("the Dockerfile has neither CMD nor ENTRYPOINT, and there is no Procfile")]
    NoCommand,
    /// The buildpack said something odd about process types.
    #[error("the buildpack's default process types are wrong")]
    Release(#[source] ProcfileError),
    /// The result is no layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The stack image is broken.
    #[error("the image can't be put together")]
    Config(#[from] ConfigError),
    /// An image on disk is broken.
    #[error("an image on this builder can't be used")]
    Layout(#[from] LayoutError),
    /// Disk or process trouble.
    #[error("the builder can't {what}")]
    Io {
        /// What it was doing.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Builds; whatever happens, nothing of it stays but the cache.
///
/// Cancel safe as far as memory goes; whoever drops this calls [`clean_cut_off`] afterwards.
///
/// # Errors
/// When there is no image in the end.
pub async fn build(
    settings: &BuildSettings,
    job: Job,
    output: &Output,
) -> Result<Built, BuildError> {
    let built = async {
        if job.dockerfile {
            dockerfile::build(settings, job, output).await
        } else {
            slug::build(settings, job, output).await
        }
    };
    tokio::time::timeout(LIMIT, built)
        .await
        .unwrap_or(Err(BuildError::Timeout))
}

/// Removes what a build that came to its end has left: its image and config values.
pub async fn clean(settings: &BuildSettings, id: Uuid) {
    podman::remove(id).await;
    let _ = std::fs::remove_dir_all(env_dir(settings, id));
    let _ = std::fs::remove_dir_all(bundle_dir(settings, id));
}

/// Removes what a build that was cut off has left, running containers included; for a Dockerfile,
/// while no other one is being built.
pub async fn clean_cut_off(settings: &BuildSettings, id: Uuid, dockerfile: bool) {
    if dockerfile {
        podman::remove_leftovers(&bundle_dir(settings, id)).await;
    }
    clean(settings, id).await;
}

/// Removes what a former life of the builder has left.
pub async fn clean_all(settings: &BuildSettings) {
    podman::remove_leftovers(&settings.data).await;
    podman::remove_images().await;
}

/// Where `podman build` keeps its containers' bundles: by it they are found when it is killed.
fn bundle_dir(settings: &BuildSettings, id: Uuid) -> PathBuf {
    settings.data.join("tmp").join(format!("bundles-{id}"))
}

fn env_dir(settings: &BuildSettings, id: Uuid) -> PathBuf {
    settings.run.join("env").join(id.to_string())
}

/// `2.3M`, as Heroku writes sizes.
fn human(bytes: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..=1023 => format!("{bytes}B"),
        1024..=1_048_575 => format!("{}K", tenths(1 << 10)),
        1_048_576..=1_073_741_823 => format!("{}M", tenths(1 << 20)),
        _ => format!("{}G", tenths(1 << 30)),
    }
}

/// The host's own files that builds may read, when they are there.
fn host_file(settings: &BuildSettings, name: &str) -> Option<PathBuf> {
    let path = settings.host.join(name);
    Path::exists(&path).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (5, "5B"),
            (1536, "1.5K"),
            (2_411_725, "2.3M"),
            (3 << 30, "3.0G"),
        ] {
            assert_eq!(human(bytes), want);
        }
    }
}
