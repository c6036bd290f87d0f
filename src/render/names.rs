//! What things of a process are called on its host: units, files, image.

use crate::model::ProcessName;

/// Where the sidecar program lies on a host.
pub const SIDECAR: &str = "/opt/deis/bin/deis-sidecar";
/// Environment files of processes (tmpfs, 0700).
pub const ENV_DIR: &str = "/run/deis/env";
/// Errands and exit codes of one-off processes (tmpfs, 0700).
pub const RUN_DIR: &str = "/run/deis/run";
/// FIFOs between processes and their log sidecars (tmpfs, 0700).
pub const LOG_DIR: &str = "/run/deis/log";
/// The files of a one-off process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFiles {
    /// What its sidecar is told: command line, terminal, whom to report to.
    pub errand: String,
    /// How it ended: `$EXIT_CODE $EXIT_STATUS $SERVICE_RESULT` of systemd.
    pub exit: String,
}

impl RunFiles {
    /// The files of a process.
    #[must_use]
    pub fn of(name: &ProcessName) -> Self {
        Self {
            errand: format!("{RUN_DIR}/{name}.json"),
            exit: format!("{RUN_DIR}/{name}.exit"),
        }
    }
}

/// What podman on the host calls an image, whichever registry it was pulled from: `deis.local/blog`
/// with its digest as the tag (a name with a digest can't be given to an image by `podman tag`).
#[must_use]
pub fn local_image(image: &str) -> String {
    format!("deis.local/{}", image.replace("@sha256:", ":"))
}

/// File with podman's `--env-file`.
#[must_use]
pub fn env_list(name: &ProcessName) -> String {
    format!("{ENV_DIR}/{name}.list")
}

/// File for systemd's `EnvironmentFile=`.
#[must_use]
pub fn env_file(name: &ProcessName) -> String {
    format!("{ENV_DIR}/{name}.env")
}

/// The app's unit.
#[must_use]
pub fn service(name: &ProcessName) -> String {
    format!("{name}.service")
}

/// The announcer's unit.
#[must_use]
pub fn announcer(name: &ProcessName) -> String {
    format!("{name}-announce.service")
}

/// The log pipe's unit.
#[must_use]
pub fn log_socket(name: &ProcessName) -> String {
    format!("{name}-log.socket")
}

/// The log sidecar's unit.
#[must_use]
pub fn log(name: &ProcessName) -> String {
    format!("{name}-log.service")
}
