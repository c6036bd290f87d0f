//! Apps with a buildpack: built in an ephemeral container of the stack, one layer comes out.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::task;

use super::{BuildError, BuildSettings, Built, Job, STACK_IMAGE, env_dir, podman};
use crate::{
    builder::{output::Output, procfile},
    image::{
        Blob, config,
        layer::{self, Layer, LayerError, Limits},
        layout::Layout,
        push::Image,
    },
    model::ImageKind,
    registry::replicas::STACK_REPOSITORY,
};

/// User and group of the app in the stack image.
const APP_ID: u32 = 2000;
/// The script in the buildpacks' directory that runs them.
const RUNNER: &str = "/opt/deis/buildpacks/build";

pub(super) async fn build(
    settings: &BuildSettings,
    job: Job,
    output: &Output,
) -> Result<Built, BuildError> {
    let layer_path = job.files.path().join("layer.tar.gz");
    let (status, layer) = compile(settings, &job, output, &layer_path).await?;
    let layer = match layer {
        // What was cut off says nothing; the build itself does.
        Ok(_) | Err(LayerError::Read(_) | LayerError::Empty) if !status.success() => {
            return Err(BuildError::Failed(podman::ended(status)));
        }
        layer => layer?,
    };

    let defaults = match &layer.release {
        Some(text) => procfile::parse_release(text).map_err(BuildError::Release)?,
        None => procfile::Procfile::new(),
    };
    output.step("Discovering process types").await;
    let (types, source) = match job.procfile {
        Some(types) if !types.is_empty() => (types, "Procfile declares types"),
        _ => (defaults, "Default process types"),
    };
    if types.is_empty() {
        return Err(BuildError::NoProcess);
    }
    let names: Vec<&str> = types.keys().map(|kind| kind.as_str()).collect();
    output
        .detail(&format!("{source} -> {}", names.join(", ")))
        .await;
    output
        .step(&format!(
            "Compiled slug size is {}",
            super::human(layer.size)
        ))
        .await;
    output.raw("\n".to_owned()).await;

    let stack = Layout::read(&settings.stack)?;
    let composed = config::compose(&stack.config.bytes, &stack.manifest.bytes, &layer, &job.sha)?;
    let mut layers = stack.layers;
    layers.push(Blob {
        digest: layer.digest,
        size: layer.size,
        media_type: config::LAYER.to_owned(),
        path: layer_path,
    });
    Ok(Built {
        image: Image {
            manifest: composed.manifest,
            media_type: config::MANIFEST.to_owned(),
            config: composed.config,
            layers,
            mount_from: Some(STACK_REPOSITORY.to_owned()),
        },
        kind: ImageKind::Slug,
        port: config::DEFAULT_PORT,
        procfile: types,
        _files: job.files,
    })
}

/// Runs the container: source in by stdin, /app out by stdout, words for the pusher by stderr.
async fn compile(
    settings: &BuildSettings,
    job: &Job,
    output: &Output,
    layer_path: &Path,
) -> Result<(std::process::ExitStatus, Result<Layer, LayerError>), BuildError> {
    let env = write_env(settings, job).map_err(BuildError::io("hand over the config variables"))?;
    let cache = cache_dir(settings, job).map_err(BuildError::io("make the app's cache"))?;
    let source = fs::File::open(&job.source).map_err(BuildError::io("read the source"))?;
    let (result, to) = io::pipe().map_err(BuildError::io("make a pipe"))?;

    let mut run = podman::run(job.id).await;
    let mount = |from: &Path, to: &str| format!("--volume={}:{to}", from.display());
    run.arg(mount(&settings.buildpacks, "/opt/deis/buildpacks:ro"));
    run.arg(mount(&env, "/run/deis/env:ro"));
    run.arg(mount(&cache, "/cache"));
    if settings.host.is_dir() {
        run.arg(mount(&settings.host, "/etc/deis/build:ro"));
    }
    run.arg(format!("--env=SOURCE_VERSION={}", job.sha));
    run.args([
        "--user=2000:2000",
        "--workdir=/app",
        STACK_IMAGE,
        "/bin/bash",
        RUNNER,
    ]);
    run.stdin(source).stdout(to).stderr(Stdio::piped());
    let mut child = run.spawn().map_err(BuildError::io("start podman"))?;
    // It holds the pipe's other end open, and then there would be no end.
    drop(run);

    let layer = {
        let mut spool = tempfile::tempfile_in(job.files.path())
            .map_err(BuildError::io("make a temporary file"))?;
        let out = fs::File::create(layer_path).map_err(BuildError::io("make the layer's file"))?;
        task::spawn_blocking(move || layer::write(result, &mut spool, out, Limits::default()))
    };
    let stderr = child.stderr.take().expect("invariant: stderr is piped");
    podman::relay(stderr, output)
        .await
        .map_err(BuildError::io("read the build's output"))?;
    let status = child
        .wait()
        .await
        .map_err(BuildError::io("wait for podman"))?;
    let layer = layer
        .await
        .map_err(io::Error::other)
        .map_err(BuildError::io("pack the layer"))?;
    Ok((status, layer))
}

/// Config variables as files, one each, as Heroku's ENV_DIR; readable by the app's user alone.
fn write_env(settings: &BuildSettings, job: &Job) -> io::Result<PathBuf> {
    use io::Write as _;
    let dir = env_dir(settings, job.id);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)?;
    for (name, value) in &job.config {
        let path = dir.join(name.as_str());
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(value.expose())?;
        chown(&path, Some(APP_ID), Some(APP_ID))?;
    }
    chown(&dir, Some(APP_ID), Some(APP_ID))?;
    Ok(dir)
}

/// The app's cache: of its uuid, so that a new app of the same name starts with none.
fn cache_dir(settings: &BuildSettings, job: &Job) -> io::Result<PathBuf> {
    let dir = settings.data.join("cache").join(job.app_id.to_string());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)?;
    chown(&dir, Some(APP_ID), Some(APP_ID))?;
    Ok(dir)
}
