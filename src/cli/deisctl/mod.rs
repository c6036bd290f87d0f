//! `deisctl`, the operators' command line: it talks to etcd and, by SSH, to the hosts. It needs no
//! controller, so that it works when nothing else does.
//!
//! | module | what |
//! |---|---|
//! | [`platform`], [`subject`] | what the words on the command line mean (pure) |
//! | [`fleet`], [`show`], [`progress`] | what etcd tells, as text (`fleet` reads, the others are pure) |
//! | [`config`], [`templates`], [`lifecycle`], `substitute` | settings, units, what is wanted of them, and who leads before a controller does |
//! | [`hosts`], [`plan`] | cordon and drain; why things are where they are, and what the leader would do |
//! | [`lost`] | which hosts are gone, when only a person can tell |
//! | [`inspect`] | status, journal and shells on hosts |
//! | [`context`], [`local_cluster`], [`ssh`], [`known_hosts`], [`tunnel`] | which cluster, and the way there |
//! | [`failure`] | errors with a hint and an exit code |

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

#[cfg(test)]
mod ssh_tests;
#[cfg(test)]
mod tests;

use std::{
    io::Write, os::unix::process::CommandExt, path::PathBuf, process::Command, time::Duration,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::local::cli::{self as local, ClusterArgs};
use crate::store::StoreError;
use config::ConfigCommand;
use context::{Context, ContextArgs};
use failure::{Failure, Kind};
use fleet::Fleet;
use lifecycle::Lifecycle;
use platform::{Part, Target};
use templates::Templates;

/// Where `deisctl` was started from, when it has started itself again in a network namespace.
const IN_NETNS: &str = "DEISCTL_IN_NETNS";

/// Operate a Deis platform: install, start, scale and inspect it.
#[derive(Debug, Parser)]
#[command(
    name = "deisctl",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Exit codes: 1 refused, 2 usage, 3 not found, 4 conflict, 5 timed out, 69 unreachable.\n\
                  `status`, `journal` and `ssh` exit with the code of what they ran."
)]
pub struct Cli {
    /// Which cluster.
    #[command(flatten)]
    pub context: ContextArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Ctl,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Ctl {
    /// Commands about a cluster that there is.
    #[command(flatten)]
    Fleet(FleetCommand),
    /// Make and drive a cluster of systemd hosts on this machine
    Cluster(ClusterArgs),
    /// Print a script that completes this program's commands in a shell
    #[command(after_help = "Example: deisctl completions bash > /etc/bash_completion.d/deisctl")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Commands that go to a cluster's etcd and hosts.
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Read and write settings of the platform or a part
    #[command(after_help = "Example: deisctl config platform set domain=example.com")]
    Config {
        /// `platform`, controller, router, builder, registry or logs
        target: String,
        /// What to do with its settings
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Put the platform's units into etcd, not started yet
    #[command(after_help = TARGETS_HELP)]
    Install {
        /// What to install
        #[command(flatten)]
        targets: Targets,
        /// Where the units come from
        #[command(flatten)]
        units: UnitsArg,
    },
    /// Start installed units and wait until they are up and registered
    #[command(after_help = TARGETS_HELP)]
    Start(TargetsAndTimeout),
    /// Stop units and wait until they are gone; apps run on
    #[command(after_help = TARGETS_HELP)]
    Stop(TargetsAndTimeout),
    /// Restart units, one after the other
    #[command(after_help = TARGETS_HELP)]
    Restart(TargetsAndTimeout),
    /// Stop units and take them out of etcd
    #[command(after_help = TARGETS_HELP)]
    Uninstall(TargetsAndTimeout),
    /// Change how many instances a part has
    #[command(after_help = "Example: deisctl scale router=2")]
    Scale {
        /// Parts with their numbers
        #[arg(required = true, value_name = "PART=N", value_parser = parse_scale)]
        parts: Vec<(Part, u8)>,
        /// Where the units come from
        #[command(flatten)]
        units: UnitsArg,
        /// How long to wait
        #[command(flatten)]
        timeout: TimeoutArg,
    },
    /// Show units of the platform and processes of apps
    List,
    /// Show hosts
    #[command(visible_alias = "list-machines")]
    Machines {
        /// Show machine ids in full
        #[arg(short = 'l', long)]
        full: bool,
    },
    /// Let nothing new onto a host; what runs there stays
    Cordon {
        /// Host: name, address or beginning of its id
        host: String,
    },
    /// Let new processes onto a host again, and end its drain
    Uncordon {
        /// Host: name, address or beginning of its id
        host: String,
    },
    /// Move everything off a host, as a rollout does: nothing stops before its successor serves
    #[command(after_help = hosts::DRAIN_HELP)]
    Drain(hosts::DrainArgs),
    /// Say why a process or unit is on its host, or what it waits for
    #[command(after_help = "Example: deisctl explain blog_v7.web.1")]
    Explain {
        /// Process (blog_v7.web.1, blog.web.1) or unit
        #[arg(value_name = "PROCESS|UNIT")]
        subject: String,
        /// For people or for programs
        #[arg(long, value_enum, default_value_t)]
        output: plan::Output,
    },
    /// Show what the leader would do now, what waits, and what the loss of a host would mean
    Plan {
        /// For people or for programs
        #[arg(long, value_enum, default_value_t)]
        output: plan::Output,
    },
    /// Say that absent hosts are gone for good, so that what ran there moves
    ///
    /// One lost host is found out by itself. When many go at once, that looks like a fault of the
    /// network: then nothing moves until they are back, or declared lost.
    #[command(after_help = "Example: deisctl declare-lost deis-02 deis-03")]
    DeclareLost {
        /// Hosts (name, address, beginning of the id)
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
        /// Take it back; what has moved meanwhile stays where it is
        #[arg(long)]
        undo: bool,
    },
    /// Show systemd's status of a unit, from its host
    #[command(after_help = UNITS_HELP)]
    Status {
        /// Which unit
        #[command(flatten)]
        unit: UnitArg,
    },
    /// Show the journal of a unit, from its host
    #[command(after_help = UNITS_HELP)]
    Journal {
        /// Which unit
        #[command(flatten)]
        unit: UnitArg,
        /// Follow it until interrupted
        #[arg(short, long)]
        follow: bool,
        /// Number of lines
        #[arg(short = 'n', long, default_value_t = 40)]
        lines: u32,
    },
    /// Open a shell on a host, or run a command there
    #[command(after_help = "Example: deisctl ssh deis-01 systemctl list-units 'deis-*'")]
    Ssh {
        /// Host (name, address, beginning of its id) or unit
        #[arg(value_name = "HOST|UNIT")]
        subject: String,
        /// Command, for the shell there
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

const TARGETS_HELP: &str = "Targets: platform (everything), or parts (controller, router, builder, \
                            registry, logger), or instances (router@2).";
const WHICH_CLUSTER: &str = "`make up` starts a local cluster; --cluster, --endpoint and --tunnel \
                             say which other one is meant";
const UNITS_HELP: &str = "A unit is a unit's name, a process (blog_v7.web.1), an instance (router@1), \
                          a part, or the beginning\nof a name that only one has. With --on HOST it \
                          may be any unit of that host (deis-agent, deis-etcd).";

/// What a command is about.
#[derive(Debug, Args)]
pub struct Targets {
    /// Targets
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<Target>,
}

/// What a command is about, and its patience.
#[derive(Debug, Args)]
pub struct TargetsAndTimeout {
    /// Targets.
    #[command(flatten)]
    pub targets: Targets,
    /// Patience.
    #[command(flatten)]
    pub timeout: TimeoutArg,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, Args)]
pub struct TimeoutArg {
    /// Seconds to wait until all is as it should be
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    pub timeout: u64,
}

/// Where units come from.
#[derive(Debug, Clone, Args)]
pub struct UnitsArg {
    /// Directory of the platform's units [default: /opt/deis/units, then ./units]
    #[arg(long, value_name = "DIR", env = "DEISCTL_UNITS")]
    pub units: Option<PathBuf>,
}

/// A unit and perhaps its host.
#[derive(Debug, Clone, Args)]
pub struct UnitArg {
    /// Unit, process or part
    pub unit: String,
    /// The host, where the unit is on several
    #[arg(long, value_name = "HOST")]
    pub on: Option<String>,
}

fn parse_scale(text: &str) -> Result<(Part, u8), String> {
    let (part, count) = text
        .split_once('=')
        .ok_or("expected PART=N, like router=2")?;
    let part = part.parse::<Part>().map_err(|error| error.to_string())?;
    let count = count
        .parse()
        .map_err(|_| format!("{count:?} is no number"))?;
    Ok((part, count))
}

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
        FleetCommand::Start(args) => {
            lifecycle(Some(args.timeout))
                .start(&args.targets.targets)
                .await?;
        }
        FleetCommand::Stop(args) => {
            lifecycle(Some(args.timeout))
                .stop(&args.targets.targets)
                .await?;
        }
        FleetCommand::Restart(args) => {
            lifecycle(Some(args.timeout))
                .restart(&args.targets.targets)
                .await?;
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
        FleetCommand::Status { unit } => {
            return inspect::status(context, &load().await?, &unit).await;
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
