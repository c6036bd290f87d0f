//! `deisctl`, the operators' command line: it talks to etcd and, by SSH, to the hosts. It needs no
//! controller, so that it works when nothing else does.
//!
//! | module | what |
//! |---|---|
//! | [`command`], [`platform`], [`subject`] | what the words on the command line mean (pure) |
//! | [`fleet`], [`show`], [`progress`] | what etcd tells, as text (`fleet` reads, the others are pure) |
//! | [`config`], [`templates`], [`lifecycle`], `substitute` | settings, units, what is wanted of them, and who leads before a controller does |
//! | [`hosts`], [`plan`] | cordon and drain; why things are where they are, and what the leader would do |
//! | [`lost`] | which hosts are gone, when only a person can tell |
//! | [`aim`], [`units`], [`units_list`] | operators' units, as fleetctl had them |
//! | [`inspect`] | status, journal and shells on hosts |
//! | [`context`], [`local_cluster`], [`ssh`], [`known_hosts`], [`tunnel`] | which cluster, and the way there |
//! | [`failure`] | errors with a hint and an exit code |

pub mod aim;
pub mod command;
pub mod config;
pub mod context;
pub mod failure;
pub mod fleet;
pub mod hosts;
pub mod inspect;
pub mod known_hosts;
pub mod lifecycle;
pub mod local_cluster;
pub mod lost;
pub mod plan;
pub mod platform;
pub mod progress;
pub mod show;
pub mod ssh;
pub mod subject;
mod substitute;
pub mod templates;
pub mod tunnel;
pub mod units;
pub mod units_list;

#[cfg(test)]
mod lifecycle_tests;
#[cfg(test)]
mod ssh_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod units_tests;

use std::{io::Write, os::unix::process::CommandExt, process::Command, time::Duration};

use anyhow::Context as _;
use clap::CommandFactory;

use crate::link::{self, Links};
use crate::local::cli as local;
use crate::model::UnitTarget;
use crate::store::StoreError;
use command::{BlockArgs, BringArgs, Ctl, FleetCommand, TimeoutArg, UnitArg};
use context::Context;
use failure::{Failure, Kind};
use fleet::Fleet;
use lifecycle::Lifecycle;
use templates::Templates;
use units::Units;

pub use command::Cli;

/// Where `deisctl` was started from, when it has started itself again in a network namespace.
const IN_NETNS: &str = "DEISCTL_IN_NETNS";

const WHICH_CLUSTER: &str = "`make up` starts a local cluster; --cluster, --endpoint and --tunnel \
                             say which other one is meant";

/// Runs the command line; returns the exit code.
///
/// May replace the process: by itself inside the cluster's network namespace, or by ssh.
///
/// # Errors
/// See [`failure`].
pub fn run(cli: Cli) -> anyhow::Result<u8> {
    let command = match cli.command {
        Ctl::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "deisctl", &mut script);
            std::io::stdout().write_all(&script)?;
            return Ok(0);
        }
        Ctl::Cluster(args) => return local::run(args).map(|()| 0),
        Ctl::Fleet(command) => command,
    };
    let context = Context::choose(&cli.context)?;
    enter_namespace(&context)?;
    // Agents ask for the same certificate as etcd.
    link::install(Links::new(context.etcd.tls.as_ref())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let result = runtime
        .block_on(execute(&context, command))
        .map_err(|error| unreachable(&context, error));
    // Threads that wait for a host must not keep a finished command.
    runtime.shutdown_background();
    result
}

/// Starts this program again inside the cluster's network namespace, unless it is there already.
fn enter_namespace(context: &Context) -> anyhow::Result<()> {
    let Some(enter) = context.elsewhere()? else {
        return Ok(());
    };
    let program = std::env::current_exe().context("can't find this program")?;
    let by_hand = format!("{} deisctl ...", enter.join(" "));
    let refused = |message: String| {
        Failure::new(Kind::Refused, message).hint(format!("run it inside: {by_hand}"))
    };
    if std::env::var_os(IN_NETNS).is_some() {
        return Err(refused(format!("can't get into the network of {}", context.label)).into());
    }
    let [nsenter, arguments @ ..] = &enter[..] else {
        return Ok(());
    };
    let error = Command::new(nsenter)
        .args(arguments)
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(IN_NETNS, "1")
        .exec();
    Err(error).context(refused(format!("can't run {nsenter}")))
}

/// Says which cluster it was, and what to do, when its etcd didn't answer.
fn unreachable(context: &Context, error: anyhow::Error) -> anyhow::Error {
    let of_etcd = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(StoreError::Unreachable { .. })));
    if !of_etcd || error.downcast_ref::<Failure>().is_some() {
        return error;
    }
    let message = format!("can't reach etcd of {}", context.label);
    error.context(Failure::new(Kind::Unreachable, message).hint(WHICH_CLUSTER))
}

async fn execute(context: &Context, command: FleetCommand) -> anyhow::Result<u8> {
    let connection = context.connect().await?;
    let store = connection.store.clone();
    let load = async || Fleet::load(&store).await;
    let mut out = std::io::stdout();
    let lifecycle = |timeout: Option<TimeoutArg>| Lifecycle {
        store: &store,
        timeout: Duration::from_secs(timeout.map_or(0, |t| t.timeout)),
        out: std::io::stdout(),
    };
    let platform = |block: BlockArgs| Lifecycle {
        store: &store,
        timeout: block.timeout(),
        out: std::io::stdout(),
    };
    let units = |patience| Units {
        store: &store,
        patience,
        out: std::io::stdout(),
    };
    match command {
        FleetCommand::Config { target, command } => {
            let key = context.cluster_key.as_deref();
            config::run(&store, key, &target, &command, &mut out).await?;
        }
        FleetCommand::Install { targets, units } => {
            let templates = Templates::find(units.units.as_deref())?;
            lifecycle(None)
                .install(&targets.targets, &templates)
                .await?;
        }
        FleetCommand::Start(BringArgs { aims, replace }) => {
            let (targets, words) = aims.split();
            if !targets.is_empty() {
                aims.block.for_platform()?;
                platform(aims.block).start(&targets).await?;
            }
            if !words.is_empty() {
                let target = UnitTarget::Launched;
                units(aims.block.patience())
                    .bring(&words, target, replace)
                    .await?;
            }
        }
        FleetCommand::Stop(args) => {
            let (targets, words) = args.split();
            if !targets.is_empty() {
                args.block.for_platform()?;
                platform(args.block).stop(&targets).await?;
            }
            if !words.is_empty() {
                units(args.block.patience())
                    .take_back(&words, UnitTarget::Loaded)
                    .await?;
            }
        }
        FleetCommand::Restart(args) => {
            let (targets, words) = args.split();
            if !targets.is_empty() {
                args.block.for_platform()?;
                platform(args.block).restart(&targets).await?;
            }
            if !words.is_empty() {
                // One is down before it is started again.
                units(Some(args.block.timeout())).restart(&words).await?;
            }
        }
        FleetCommand::Submit {
            units: words,
            replace,
        } => {
            units(None).submit(&words, replace).await?;
        }
        FleetCommand::Load {
            units: words,
            replace,
            block,
        } => {
            let target = UnitTarget::Loaded;
            units(block.patience())
                .bring(&words, target, replace)
                .await?;
        }
        FleetCommand::Unload(args) => {
            let target = UnitTarget::Inactive;
            units(args.block.patience())
                .take_back(&args.units, target)
                .await?;
        }
        FleetCommand::Destroy(args) => {
            units(args.block.patience()).destroy(&args.units).await?;
        }
        FleetCommand::Cat { units: words } => units(None).cat(&words).await?,
        FleetCommand::ListUnits(args) => {
            write!(out, "{}", units_list::units(&load().await?, &args)?)?;
        }
        FleetCommand::ListUnitFiles(args) => {
            write!(out, "{}", units_list::unit_files(&load().await?, &args)?)?;
        }
        FleetCommand::ListMachines(args) => {
            write!(out, "{}", units_list::machines(&load().await?, &args)?)?;
        }
        FleetCommand::Uninstall(args) => {
            lifecycle(Some(args.timeout))
                .uninstall(&args.targets.targets)
                .await?;
        }
        FleetCommand::Scale {
            parts,
            units,
            timeout,
        } => {
            let templates = Templates::find(units.units.as_deref())?;
            for (part, count) in parts {
                lifecycle(Some(timeout))
                    .scale(part, count, &templates)
                    .await?;
            }
        }
        FleetCommand::List => {
            let mut fleet = load().await?;
            fleet.figures = inspect::figures(context, &fleet).await;
            write!(out, "{}", show::list(&fleet))?;
        }
        FleetCommand::Machines { full } => write!(out, "{}", show::machines(&load().await?, full))?,
        FleetCommand::Cordon { host } => hosts::cordon(&store, &host, &mut out).await?,
        FleetCommand::Uncordon { host } => hosts::uncordon(&store, &host, &mut out).await?,
        FleetCommand::Drain(args) => hosts::drain(&store, &args, &mut out).await?,
        FleetCommand::Explain { subject, output } => {
            plan::explain(&store, &subject, output, &mut out).await?;
        }
        FleetCommand::Plan { output } => plan::plan(&store, output, &mut out).await?,
        FleetCommand::DeclareLost { hosts, undo } => {
            lost::declare(&store, &hosts, undo, &mut out).await?;
        }
        FleetCommand::Status { units, on } => {
            let fleet = load().await?;
            let mut code = 0;
            for unit in units {
                let unit = UnitArg {
                    unit,
                    on: on.clone(),
                };
                code = code.max(inspect::status(context, &fleet, &unit).await?);
            }
            return Ok(code);
        }
        FleetCommand::Journal {
            unit,
            follow,
            lines,
        } => return inspect::journal(context, &load().await?, &unit, follow, lines).await,
        FleetCommand::Ssh { subject, command } => {
            match inspect::ssh(context, &load().await?, &subject, &command)? {}
        }
    }
    Ok(0)
}
