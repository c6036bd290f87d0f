//! What a log sidecar could not bring away before its process was stopped: sent once more, then gone.

use std::{io, process::Stdio, time::Duration};

use tokio::{process::Command, time};
use tracing::{debug, warn};
use uuid::Uuid;

use super::paths::Paths;
use crate::{model::ProcessName, render::unit::SIDECAR};

/// How long the sidecar's `--drain` may take; it gives up by itself before.
const LIMIT: Duration = Duration::from_secs(15);

/// Drains and removes the spool of a process that is no more. In the background: nobody waits for it.
pub async fn clear(paths: Paths, process: ProcessName, uuid: Uuid) {
    let unit = process.to_string();
    let spool = paths.at("/run/deis/spool").join(&unit);
    if !spool.exists() {
        return;
    }
    let mut drain = Command::new(paths.at(SIDECAR));
    drain
        .args([
            "log",
            "--drain",
            "--unit",
            &unit,
            "--uuid",
            &uuid.to_string(),
        ])
        .args(["--app", process.app.as_str(), "--tag", &process.log_tag()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let drained = time::timeout(LIMIT, drain.status()).await;
    if !matches!(&drained, Ok(Ok(status)) if status.success()) {
        warn!(
            unit,
            ?drained,
            "the last log lines of a stopped process could not be sent"
        );
    }
    // Of this life only: the name may be another's by now.
    let removed = std::fs::remove_dir_all(spool.join(uuid.to_string()));
    match removed.and_then(|()| std::fs::remove_dir(&spool)) {
        Ok(()) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            debug!(unit, "the spool was removed already, or is in use again");
            let _ = std::fs::remove_dir(&spool);
        }
        Err(error) => warn!(unit, %error, "the spool of a stopped process can't be removed"),
    }
}
