//! podman as builds use it: bounded, without privileges, and removed afterwards.

use std::{
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};
use tracing::warn;
use uuid::Uuid;

use super::NETWORK;
use crate::builder::output::Output;

/// Marks a build's containers.
const LABEL: &str = "deis.build=1";
/// How long podman may take for what is no build.
const SHORT: Duration = Duration::from_secs(30);
/// Most output of a build that is shown.
const MAX_OUTPUT: usize = 4 << 20;

/// What a build may use.
const MEMORY: &str = "2g";
const PROCESSES: &str = "1024";

/// The name of a build's container and image.
pub(super) fn name(id: Uuid) -> String {
    format!("deis-build-{id}")
}

/// podman itself, dying with us.
pub(super) fn podman() -> Command {
    let mut podman = Command::new("podman");
    podman.stdin(Stdio::null()).kill_on_drop(true);
    // Only this program speaks to systemd.
    podman.env_remove("NOTIFY_SOCKET");
    podman
}

/// `podman run` for a build: no capability, no new privileges, bounded memory and processes.
pub(super) async fn run(id: Uuid) -> Command {
    let mut run = podman();
    run.args([
        "run",
        "--rm",
        "--interactive",
        "--pull=never",
        "--log-driver=none",
    ]);
    run.args([
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--label",
        LABEL,
    ]);
    run.args([
        "--memory",
        MEMORY,
        "--pids-limit",
        PROCESSES,
        "--stop-timeout=1",
    ]);
    run.args(["--name", &name(id)]);
    if network().await {
        run.args(["--network", NETWORK]);
    }
    run
}

/// Whether the apps' network is there.
pub(super) async fn network() -> bool {
    let mut exists = podman();
    exists
        .args(["network", "exists", NETWORK])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    matches!(timeout(SHORT, exists.status()).await, Ok(Ok(status)) if status.success())
}

/// Shows what a program prints, as it comes, up to a bound.
pub(super) async fn relay(from: impl AsyncRead + Unpin, output: &Output) -> io::Result<()> {
    let mut from = from;
    let mut left = MAX_OUTPUT;
    let mut buffer = vec![0; 8 << 10];
    let mut kept = 0;
    loop {
        let count = from.read(&mut buffer[kept..]).await?;
        if count == 0 && kept == 0 {
            return Ok(());
        }
        // A character that was cut in two waits for its rest.
        let end = kept + count;
        let whole = if count == 0 {
            end
        } else {
            whole_characters(&buffer[..end])
        };
        let text = String::from_utf8_lossy(&buffer[..whole]).into_owned();
        if left > 0 && !text.is_empty() {
            left = left.saturating_sub(text.len());
            output.raw(text).await;
            if left == 0 {
                output
                    .warning("\nthe rest of the build's output is not shown")
                    .await;
            }
        }
        buffer.copy_within(whole..end, 0);
        kept = end - whole;
    }
}

/// Length of the bytes without a character that is cut off at their end.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

/// How a program ended, for the user.
pub(super) fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(137) => "killed: it needed more than the memory of a build, 2 GiB".to_owned(),
        Some(code) => format!("exit status {code}"),
        None => "it was killed".to_owned(),
    }
}

/// Removes a build's container and image.
pub(super) async fn remove(id: Uuid) {
    let name = name(id);
    quietly(&["rm", "--force", "--ignore", "--time=0", &name]).await;
    let image = format!("localhost/{name}");
    let mut exists = podman();
    exists
        .args(["image", "exists", &image])
        .stderr(Stdio::null());
    if matches!(timeout(SHORT, exists.status()).await, Ok(Ok(status)) if status.success()) {
        quietly(&["rmi", "--force", &image]).await;
    }
}

/// Removes what builds have left behind that nobody works on any more; no `podman build` may be
/// running meanwhile. `bundles` is where such builds keep their containers' bundles.
pub(super) async fn remove_leftovers(bundles: &Path) {
    remove_runs(bundles).await;
    // What `podman run` started has our label; what `podman build` did is known as "storage" only.
    let label = format!("label={LABEL}");
    for id in lines(&["ps", "--all", "--quiet", "--filter", &label]).await {
        quietly(&["rm", "--force", "--ignore", "--time=0", &id]).await;
    }
    let external = [
        "ps",
        "--all",
        "--external",
        "--format={{.ID}} {{.Status}} {{.Command}}",
    ];
    for line in lines(&external).await {
        // A container that an agent's podman is just making is "storage" too, but not buildah's.
        if let Some((id, "Storage buildah")) = line.split_once(' ') {
            quietly(&["rm", "--force", id]).await;
        }
    }
}

/// `podman build` that is killed leaves the container of its RUN line running, and forgets it. The
/// runtime knows it still, by the bundle that it was made from.
async fn remove_runs(bundles: &Path) {
    #[derive(serde::Deserialize)]
    struct Container {
        id: String,
        bundle: PathBuf,
    }
    for runtime in ["crun", "runc"] {
        let mut list = Command::new(runtime);
        list.args(["list", "--format=json"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // A host has one of the two.
        let Ok(Ok(found)) = timeout(SHORT, list.output()).await else {
            continue;
        };
        let found: Option<Vec<Container>> =
            serde_json::from_slice(&found.stdout).unwrap_or_default();
        for container in found.unwrap_or_default() {
            if container.bundle.starts_with(bundles) {
                let mut delete = Command::new(runtime);
                delete
                    .args(["delete", "--force", &container.id])
                    .kill_on_drop(true);
                ran(delete).await;
            }
        }
    }
}

/// Removes the images of a former life's builds: they are in the registries, or of no use.
pub(super) async fn remove_images() {
    for image in lines(&["images", "--format={{.Repository}}"]).await {
        if image.starts_with("localhost/deis-build-") {
            quietly(&["rmi", "--force", &image]).await;
        }
    }
}

async fn lines(arguments: &[&str]) -> Vec<String> {
    let mut command = podman();
    command.args(arguments).stderr(Stdio::null());
    match timeout(SHORT, command.output()).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

async fn quietly(arguments: &[&str]) {
    let mut command = podman();
    command.args(arguments);
    ran(command).await;
}

async fn ran(mut command: Command) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    match timeout(SHORT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => {}
        Ok(Ok(output)) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            warn!(command = ?command.as_std(), why, "a build is not cleaned up");
        }
        Ok(Err(error)) => warn!(command = ?command.as_std(), %error, "can't be run"),
        Err(_) => warn!(command = ?command.as_std(), "does not come to an end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_comes_through_whole() {
        let (output, mut lines) = Output::new();
        // One byte at a time, so that each character is cut.
        let text = "a\r\nö🦀\u{1b}[0m";
        let (mut to, from) = tokio::io::duplex(1);
        let writing = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut to, text.as_bytes()).await
        });
        relay(from, &output).await.expect("relayed");
        writing.await.expect("joined").expect("written");
        drop(output);
        let mut seen = String::new();
        while let Some(crate::builder::protocol::PushAnswer::Out(text)) = lines.recv().await {
            seen.push_str(&text);
        }
        assert_eq!(seen, text);
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let (output, mut lines) = Output::new();
        let reading = tokio::spawn(async move {
            let mut seen = 0;
            while let Some(crate::builder::protocol::PushAnswer::Out(text)) = lines.recv().await {
                seen += text.len();
            }
            seen
        });
        let endless = tokio::io::AsyncReadExt::take(tokio::io::repeat(b'x'), 3 * MAX_OUTPUT as u64);
        relay(endless, &output).await.expect("relayed");
        drop(output);
        assert!(reading.await.expect("joined") < MAX_OUTPUT + (16 << 10));
    }
}
