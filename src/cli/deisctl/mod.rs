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
//! | [`aim`], [`units`], [`units_list`] | operators' units, as fleetctl had them |
//! | [`inspect`] | status, journal and shells on hosts |
//! | [`context`], [`local_cluster`], [`ssh`], [`known_hosts`], [`tunnel`] | which cluster, and the way there |
//! | [`failure`] | errors with a hint and an exit code |

pub mod aim;
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
mod ssh_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod units_tests;

use std::{
    io::Write, os::unix::process::CommandExt, path::PathBuf, process::Command, time::Duration,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::link::{self, Links};
use crate::local::cli::{self as local, ClusterArgs};
use crate::model::UnitTarget;
use crate::store::StoreError;
use aim::{Aim, UnitWord};
use config::ConfigCommand;
use context::{Context, ContextArgs};
use failure::{Failure, Kind};
use fleet::Fleet;
use lifecycle::Lifecycle;
use platform::{Part, Target};
use templates::Templates;
use units::Units;
use units_list::ListArgs;

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
    /// Start parts of the platform, or units, and wait until they are up
    #[command(after_help = AIMS_HELP)]
    Start(BringArgs),
    /// Stop parts of the platform, or units, and wait until they are down; apps run on
    #[command(after_help = AIMS_HELP)]
    Stop(AimArgs),
    /// Restart parts of the platform, or units, one after the other
    #[command(after_help = AIMS_HELP)]
    Restart(AimArgs),
    /// Put unit files into etcd; nothing is done with them yet
    #[command(after_help = FILES_HELP)]
    Submit {
        /// Unit files
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<UnitWord>,
        /// Replace units of these names that have another text
        #[arg(long)]
        replace: bool,
    },
    /// Get units to hosts without starting them
    #[command(after_help = FILES_HELP)]
    Load {
        /// Unit files, or units that have been submitted
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<UnitWord>,
        /// Replace units of these names that have another text
        #[arg(long)]
        replace: bool,
        /// Patience
        #[command(flatten)]
        block: BlockArgs,
    },
    /// Stop units and take them from their hosts; their files stay in etcd
    #[command(after_help = FILES_HELP)]
    Unload(UnitsArgs),
    /// Stop units and remove their files from etcd
    #[command(after_help = FILES_HELP)]
    Destroy(UnitsArgs),
    /// Print unit files as they are in etcd
    Cat {
        /// Units
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<UnitWord>,
    },
    /// Show the units that are on hosts, in systemd's words
    #[command(after_help = "Fields: unit, machine, active, sub, load, hash.")]
    ListUnits(ListArgs),
    /// Show all units that there are
    #[command(after_help = "Fields: unit, hash, dstate, state, target, global, desc.")]
    ListUnitFiles(ListArgs),
    /// Show the hosts that are there, as fleetctl did
    #[command(after_help = "Fields: machine, ip, metadata. `deisctl machines` shows more.")]
    ListMachines(ListArgs),
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
        /// Units, processes or parts
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<String>,
        /// The host, where a unit is on several
        #[arg(long, value_name = "HOST")]
        on: Option<String>,
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
const AIMS_HELP: &str = "Targets: platform (everything), or parts (controller, router, builder, registry, logger), or instances\n\
                         (router@2); or units: a file (./hello.service), a name with its suffix (hello.service), an instance\n\
                         (hello@1), or in quotes a pattern of names ('hello@*').";
const FILES_HELP: &str = "A unit is a file or a name (hello.service); an instance (hello@1.service) is made from its template\n\
                          (hello@.service), in etcd or beside it. A unit's text never changes: --replace destroys it and\n\
                          submits the new one. Drop-in files are not taken.";
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

/// Whether and how long to wait.
#[derive(Debug, Clone, Copy, Args)]
pub struct BlockArgs {
    /// Don't wait
    #[arg(long)]
    pub no_block: bool,
    /// Wait for so many half seconds (fleetctl's word for --timeout)
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "timeout",
        hide_short_help = true
    )]
    pub block_attempts: Option<u64>,
    /// Seconds to wait until all is as it should be
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    pub timeout: u64,
}

impl BlockArgs {
    /// How long is waited.
    const fn timeout(self) -> Duration {
        match self.block_attempts {
            // fleetctl waited for ever for 0; a year is as good.
            Some(0) => Duration::from_secs(365 * 24 * 3600),
            Some(attempts) => Duration::from_millis(attempts.saturating_mul(500)),
            None => Duration::from_secs(self.timeout),
        }
    }

    /// The platform's parts are always waited for: something else may need them.
    fn for_platform(self) -> Result<(), Failure> {
        if self.no_block {
            return Err(Failure::new(
                Kind::Usage,
                "--no-block is for units, not for the platform",
            ));
        }
        Ok(())
    }

    /// The same; none when nothing is waited for.
    fn patience(self) -> Option<Duration> {
        (!self.no_block).then(|| self.timeout())
    }
}

/// Parts of the platform or units, and patience.
#[derive(Debug, Args)]
pub struct AimArgs {
    /// Parts of the platform, or units
    #[arg(required = true, value_name = "TARGET|UNIT")]
    pub aims: Vec<Aim>,
    /// Patience.
    #[command(flatten)]
    pub block: BlockArgs,
}

impl AimArgs {
    /// The platform's targets and the units.
    fn split(&self) -> (Vec<Target>, Vec<UnitWord>) {
        let (mut targets, mut units) = (Vec::new(), Vec::new());
        for aim in &self.aims {
            match aim {
                Aim::Platform(target) => targets.push(*target),
                Aim::Units(word) => units.push(word.clone()),
            }
        }
        (targets, units)
    }
}

/// The same for what may be submitted on the way.
#[derive(Debug, Args)]
pub struct BringArgs {
    /// What, and patience.
    #[command(flatten)]
    pub aims: AimArgs,
    /// Replace units of these names that have another text
    #[arg(long)]
    pub replace: bool,
}

/// Units, and patience.
#[derive(Debug, Args)]
pub struct UnitsArgs {
    /// Units
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<UnitWord>,
    /// Patience.
    #[command(flatten)]
    pub block: BlockArgs,
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
