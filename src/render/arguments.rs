//! Command lines in a process's units: podman's, the container's own and the announcer's.

use core::net::SocketAddr;

use super::{
    names::env_list,
    unit::{HostFacts, NETWORK, ProcessSpec, RenderError},
};
use crate::model::{Build, ImageKind, ProcessType};

/// Processes and threads that a container may have.
const PIDS_LIMIT: u32 = 4096;
/// All that a container keeps of root's capabilities: what images need to set up their files, bind a
/// low port and change to a user of their own.
const CAPABILITIES: &str = "CHOWN,DAC_OVERRIDE,FOWNER,FSETID,KILL,NET_BIND_SERVICE,SETGID,SETUID";

pub(super) fn podman_args(
    spec: &ProcessSpec<'_>,
    host: &HostFacts,
    memory_bytes: u64,
    entrypoint: Option<&str>,
) -> Vec<String> {
    let name = spec.name;
    let mut args = vec![
        "--cgroups=split".into(),
        "--log-driver=passthrough".into(),
        "--pull=never".into(),
        format!("--network={NETWORK}"),
        format!(
            "--hostname={}-{}",
            name.kind.as_str().replace('_', "-"),
            name.number
        ),
        "--http-proxy=false".into(),
        "--security-opt=no-new-privileges".into(),
        "--cap-drop=all".into(),
        format!("--cap-add={CAPABILITIES}"),
        format!("--pids-limit={PIDS_LIMIT}"),
        format!("--memory={memory_bytes}b"),
        format!("--memory-swap={memory_bytes}b"),
        format!("--label=deis.uuid={}", spec.uuid),
    ];
    if let Some(shares) = spec
        .config
        .cpu
        .get(&name.kind)
        .filter(|shares| **shares > 0)
    {
        args.push(format!("--cpu-shares={}", (*shares).clamp(2, 1024)));
    }
    if host.init {
        args.push("--init".into());
    }
    if let Some(entrypoint) = entrypoint {
        args.push(format!("--entrypoint={entrypoint}"));
    }
    if !spec.environment.list.is_empty() {
        args.push(format!("--env-file={}", env_list(name)));
    }
    args.extend(
        spec.environment
            .quoted_names
            .iter()
            .map(|name| format!("--env={name}")),
    );
    args.push(format!("--env=DEIS_APP={}", name.app));
    args.push(format!("--env=DEIS_RELEASE={}", name.release));
    args.push(format!("--env=PORT={}", spec.build.port));
    args
}

pub(super) fn announce_args(spec: &ProcessSpec<'_>, host: &HostFacts) -> Vec<String> {
    let mut args = vec![
        "--unit".into(),
        spec.name.to_string(),
        "--uuid".into(),
        spec.uuid.to_string(),
    ];
    let Some(port) = spec.port else {
        args.push("--no-port".into());
        return args;
    };
    args.extend([
        "--address".into(),
        SocketAddr::new(host.address, port).to_string(),
    ]);
    let value = |name: &str| {
        spec.values
            .iter()
            .find(|(n, _)| n.as_str() == name)
            .map(|(_, v)| v.as_str())
    };
    if let Some(url) = value("HEALTHCHECK_URL").filter(|url| !url.is_empty() && !url.contains('\0'))
    {
        args.extend(["--health-url".into(), url.to_owned()]);
        for (variable, option) in [
            ("HEALTHCHECK_INITIAL_DELAY", "--health-initial-delay"),
            ("HEALTHCHECK_TIMEOUT", "--health-timeout"),
        ] {
            // A value that is no number is the default: it must not keep the process from starting.
            if let Some(secs) = value(variable).and_then(|v| v.trim().parse::<u16>().ok()) {
                args.extend([option.into(), secs.to_string()]);
            }
        }
    }
    args
}

/// The program of Deis v1's slugs that sets up their environment.
const RUNNER: &str = "/runner/init";

/// Entry point and arguments for a process type.
pub(super) fn command_of(
    build: &Build,
    kind: &ProcessType,
) -> Result<(Option<&'static str>, Vec<String>), RenderError> {
    match (build.procfile.get(kind), build.kind) {
        (Some(command), image) => Ok(shell(image, command)),
        (None, ImageKind::Image) if kind.as_str() == "cmd" => Ok((None, Vec::new())),
        // What the buildpack's own defaults say.
        (None, ImageKind::Runner) => {
            let start = vec!["start".into(), kind.as_str().into()];
            Ok((Some(RUNNER), start))
        }
        (None, _) => Err(RenderError::NoCommand {
            kind: kind.clone(),
            known: build
                .procfile
                .keys()
                .map(ProcessType::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// How a shell command is run in an image: `deis-init` of the stack sets up a slug's environment; in an
/// image of its own, bash takes the place of the entry point.
pub(super) fn shell(kind: ImageKind, command: &str) -> (Option<&'static str>, Vec<String>) {
    match kind {
        ImageKind::Slug => (None, vec!["deis-init".into(), command.into()]),
        ImageKind::Image => (Some("bash"), vec!["-c".into(), command.into()]),
        ImageKind::Runner => (Some(RUNNER), vec![command.into()]),
    }
}

/// Whether the text is `repository@sha256:<64 digits>` with nothing else in it.
pub(super) fn is_image(text: &str) -> bool {
    let Some((repository, digest)) = text.split_once("@sha256:") else {
        return false;
    };
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._/".contains(c);
    !repository.is_empty()
        && repository.chars().all(part)
        && repository.starts_with(|c: char| c.is_ascii_alphanumeric())
        && digest.len() == 64
        && digest
            .chars()
            .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

pub(super) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}
