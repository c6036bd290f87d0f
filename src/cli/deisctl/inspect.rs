//! `deisctl status`, `journal` and `ssh`: on the host itself, over SSH.

use std::{collections::BTreeMap, io::Write, os::unix::process::CommandExt, time::Duration};

use anyhow::Context as _;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    UnitArg,
    context::Context,
    failure::{Failure, Kind},
    fleet::Fleet,
    ssh::Address,
    subject::{self, Located, SubjectError},
    tunnel::Tunnel,
};
use crate::{
    agent::stats::{self, Way},
    api::stats::HostStats,
    model::MachineId,
};

/// How long tunnels to all hosts, and the answers through them, may take.
const TUNNEL_LIMIT: Duration = Duration::from_secs(5);

/// What systemd says of a unit, on its host; the exit status is systemctl's.
///
/// # Errors
/// When the word means no unit or several, or the host can't be reached.
pub async fn status(context: &Context, fleet: &Fleet, unit: &UnitArg) -> anyhow::Result<u8> {
    let words = ["systemctl", "--no-pager", "--full", "status", "--"];
    on_host(context, fleet, unit, &words, &[]).await
}

/// The last `lines` of a unit's journal, on its host, and new ones as they come.
///
/// # Errors
/// When the word means no unit or several, or the host can't be reached.
pub async fn journal(
    context: &Context,
    fleet: &Fleet,
    unit: &UnitArg,
    follow: bool,
    lines: u32,
) -> anyhow::Result<u8> {
    let lines = lines.to_string();
    let follow: &[&str] = if follow { &["--follow"] } else { &[] };
    let words = ["journalctl", "--no-pager", "-n", &lines, "--unit"];
    on_host(context, fleet, unit, &words, follow).await
}

/// Runs a command about a unit on its host: `words`, the unit's name, `more`.
async fn on_host(
    context: &Context,
    fleet: &Fleet,
    unit: &UnitArg,
    words: &[&str],
    more: &[&str],
) -> anyhow::Result<u8> {
    let found = locate(fleet, &unit.unit, unit.on.as_deref())?;
    let words = [words, &[found.unit.as_str()], more].concat();
    let words = words.into_iter().map(str::to_owned).collect();
    let status = run(context, fleet, &found.machine, words).await?;
    Ok(u8::try_from(status).unwrap_or(1))
}

/// The unit that a word means.
fn locate(fleet: &Fleet, word: &str, on: Option<&str>) -> anyhow::Result<Located> {
    subject::unit(fleet, word, on).map_err(|error| not_found(&error).into())
}

fn not_found(error: &SubjectError) -> Failure {
    let hint = match error {
        SubjectError::UnknownHost(_) => "`deisctl machines` shows the hosts",
        SubjectError::Ambiguous { .. } => "give the whole name, or the host by --on",
        SubjectError::Unknown(_) => {
            "`deisctl list` shows what there is; any other unit of a host needs --on HOST"
        }
        SubjectError::Nowhere(_) => "`deisctl start` starts it, `deisctl list` shows it",
    };
    Failure::new(Kind::NotFound, error).hint(hint)
}

/// Runs a command on a host; returns its exit status.
///
/// # Errors
/// When the host can't be reached.
pub async fn run(
    context: &Context,
    fleet: &Fleet,
    machine: &MachineId,
    words: Vec<String>,
) -> anyhow::Result<i32> {
    let address = address(fleet, machine)?;
    // On the host itself there is nobody to log in to.
    if std::fs::read_to_string("/etc/machine-id").is_ok_and(|id| id.trim() == machine.as_str()) {
        let [program, arguments @ ..] = &words[..] else {
            return Ok(0);
        };
        let status = std::process::Command::new(program)
            .args(arguments)
            .status()
            .with_context(|| format!("can't run {program}"))?;
        return Ok(status.code().unwrap_or(1));
    }
    let ssh = context.ssh.clone();
    let label = fleet.host_label(machine);
    let running = tokio::task::spawn_blocking(move || {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        if ssh.user != "root" {
            words.splice(0..0, ["sudo", "-n"]);
        }
        ssh.run(&address, &words, &mut std::io::stdout().lock())
    });
    running
        .await
        .context("the SSH thread died")?
        .with_context(|| Failure::new(Kind::Unreachable, format!("nothing was run on {label}")))
}

/// What the agents of all hosts that are present say of their processes. A host that doesn't answer in
/// time is left out: what etcd knows is shown nevertheless.
pub async fn figures(context: &Context, fleet: &Fleet) -> BTreeMap<MachineId, HostStats> {
    let hosts = fleet.machines.iter();
    let hosts: Vec<(MachineId, Way)> = hosts
        .filter_map(|(id, machine)| Some((id.clone(), Way::straight(&machine.address)?)))
        .collect();
    let Some(jump) = &context.ssh.jump else {
        return stats::ask_all(hosts, stats::LIMIT).await;
    };
    let mut digging = JoinSet::new();
    for (id, way) in hosts {
        let (ssh, jump) = (context.ssh.clone(), jump.clone());
        digging.spawn_blocking(move || {
            let target = Address {
                host: way.agent.ip().to_string(),
                port: Some(way.agent.port()),
            };
            Some((id, way.agent, Tunnel::open(&ssh, &jump, target).ok()?))
        });
    }
    let deadline = Instant::now() + TUNNEL_LIMIT;
    let mut tunnels = Vec::new();
    while let Ok(Some(dug)) = timeout_at(deadline, digging.join_next()).await {
        tunnels.extend(dug.ok().flatten());
    }
    let ends = tunnels.iter().map(|(id, agent, tunnel)| {
        let (agent, via) = (*agent, tunnel.local());
        (id.clone(), Way { agent, via })
    });
    let left = deadline.saturating_duration_since(Instant::now());
    // A connection through a tunnel logs in to the host once more.
    stats::ask_all(ends, left.max(stats::LIMIT)).await
}

fn address(fleet: &Fleet, machine: &MachineId) -> anyhow::Result<Address> {
    let address = fleet.address(machine).ok_or_else(|| {
        Failure::new(
            Kind::NotFound,
            format!("host {machine} has no known address"),
        )
    })?;
    Ok(address.parse()?)
}

/// Becomes the system's ssh, to a host or to the host of a unit; returns only when that fails.
///
/// # Errors
/// When nothing is meant by the word, or there is no ssh.
pub fn ssh(
    context: &Context,
    fleet: &Fleet,
    word: &str,
    command: &[String],
) -> anyhow::Result<std::convert::Infallible> {
    let machine = match subject::host(fleet, word) {
        Ok(machine) => machine,
        Err(SubjectError::UnknownHost(_)) => locate(fleet, word, None)?.machine,
        Err(error) => return Err(not_found(&error).into()),
    };
    let address = address(fleet, &machine)?;
    let mut program = context.ssh.program(&address, command.is_empty());
    program.args(command);
    std::io::stdout().flush()?;
    let error = program.exec();
    Err(error)
        .context(Failure::new(Kind::Unreachable, "can't run ssh").hint("install OpenSSH's client"))
}
