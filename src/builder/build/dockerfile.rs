//! Apps with a Dockerfile: `podman build`, then the image as a layout on disk.

use std::{fs, path::Path, process::Stdio};

use tokio::task;

use super::{BuildError, BuildSettings, Built, Job, host_file, podman};
use crate::{
    builder::output::Output,
    image::{config, layout::Layout, push::Image},
    model::ImageKind,
};

pub(super) async fn build(
    settings: &BuildSettings,
    job: Job,
    output: &Output,
) -> Result<Built, BuildError> {
    output.step("Building Docker image").await;
    let context = job.files.path().join("context");
    let unpacked = task::spawn_blocking({
        let (source, context) = (job.source.clone(), context.clone());
        move || unpack(&source, &context)
    });
    unpacked
        .await
        .map_err(std::io::Error::other)
        .and_then(|unpacked| unpacked)
        .map_err(BuildError::io("unpack the source"))?;

    let name = format!("localhost/{}", podman::name(job.id));
    run(settings, &job, &context, &name, output).await?;
    let saved = job.files.path().join("image");
    save(&name, &saved).await?;
    let layout = Layout::read(&saved)?;
    let about = config::inspect(&layout.config.bytes)?;
    let procfile = job.procfile.unwrap_or_default();
    if procfile.is_empty() && !about.has_command {
        return Err(BuildError::NoCommand);
    }
    Ok(Built {
        image: Image {
            manifest: layout.manifest,
            media_type: layout.media_type,
            config: layout.config,
            layers: layout.layers,
            mount_from: None,
        },
        kind: ImageKind::Image,
        port: about.port,
        procfile,
        _files: job.files,
    })
}

/// `podman build`, with its output to the pusher.
async fn run(
    settings: &BuildSettings,
    job: &Job,
    context: &Path,
    name: &str,
    output: &Output,
) -> Result<(), BuildError> {
    let bundles = super::bundle_dir(settings, job.id);
    fs::create_dir(&bundles).map_err(BuildError::io("make a directory"))?;
    let mut build = podman::podman();
    build.env("TMPDIR", &bundles);
    build.args([
        "build",
        "--format=oci",
        "--layers=false",
        "--force-rm",
        "--memory=2g",
    ]);
    build.args(["--tag", name, "--file"]);
    build.arg(context.join("Dockerfile"));
    if podman::network().await {
        build.args(["--network", super::NETWORK]);
    }
    // The host's own settings are there while RUN lines run; none of it gets into the image.
    for (file, place) in [
        ("ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"),
        ("pip.conf", "/etc/pip.conf"),
    ] {
        if let Some(path) = host_file(settings, file) {
            build.arg(format!("--volume={}:{place}:ro", path.display()));
        }
    }
    build
        .arg(context)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = build.spawn().map_err(BuildError::io("start podman"))?;
    let stdout = child.stdout.take().expect("invariant: stdout is piped");
    let stderr = child.stderr.take().expect("invariant: stderr is piped");
    let (out, err) = tokio::join!(podman::relay(stdout, output), podman::relay(stderr, output));
    out.and(err)
        .map_err(BuildError::io("read the build's output"))?;
    let status = child
        .wait()
        .await
        .map_err(BuildError::io("wait for podman"))?;
    if !status.success() {
        return Err(BuildError::Failed(podman::ended(status)));
    }
    Ok(())
}

/// The image as a layout on disk.
async fn save(name: &str, saved: &Path) -> Result<(), BuildError> {
    let mut save = podman::podman();
    save.args(["save", "--quiet", "--format=oci-dir", "--output"])
        .arg(saved)
        .arg(name);
    let save = save
        .stdout(Stdio::null())
        .output()
        .await
        .map_err(BuildError::io("start podman"))?;
    if !save.status.success() {
        let why = String::from_utf8_lossy(&save.stderr).trim().to_owned();
        let source = std::io::Error::other(why);
        return Err(BuildError::Io {
            what: "save the image",
            source,
        });
    }
    Ok(())
}

/// Unpacks a tar of ours. The `tar` crate writes through no link that leads outside; the hook has
/// refused such links already.
fn unpack(source: &Path, context: &Path) -> std::io::Result<()> {
    fs::create_dir(context)?;
    let mut archive = tar::Archive::new(std::io::BufReader::new(fs::File::open(source)?));
    archive.set_preserve_ownerships(false);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(false);
    archive.unpack(context)
}
