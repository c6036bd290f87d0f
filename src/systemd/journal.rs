//! The last lines that a process printed, from the journal (its log sidecar keeps a copy there).

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time};

/// How many lines a report shows.
const LINES: &str = "15";
/// The longest line in a report, in characters.
const LINE_MAX: usize = 300;
/// How long the journal may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Reads them; none when the journal does not answer.
pub async fn last_lines(process: &str) -> Vec<String> {
    let mut command = Command::new("journalctl");
    command
        .args([
            "--no-pager",
            "--quiet",
            "--output=cat",
            "--boot",
            "--lines",
            LINES,
        ])
        .arg(format!("DEIS_PROCESS={process}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    match time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| line.chars().take(LINE_MAX).collect())
            .collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}
