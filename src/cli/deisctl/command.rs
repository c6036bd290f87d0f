//! The command line: its commands, their arguments and their help.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::{
    aim::{Aim, UnitWord},
    config::ConfigCommand,
    context::ContextArgs,
    failure::{Failure, Kind},
    hosts, plan,
    platform::{Part, Target},
    units_list::ListArgs,
};
use crate::local::cli::ClusterArgs;

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
    /// network: then nothing moves until they are back, or declared lost. Of a host that is lost already
    /// it says that nothing runs there any more, also what its agent didn't know to be single.
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
    pub(super) const fn timeout(self) -> Duration {
        match self.block_attempts {
            // fleetctl waited for ever for 0; a year is as good.
            Some(0) => Duration::from_secs(365 * 24 * 3600),
            Some(attempts) => Duration::from_millis(attempts.saturating_mul(500)),
            None => Duration::from_secs(self.timeout),
        }
    }

    /// The platform's parts are always waited for: something else may need them.
    pub(super) fn for_platform(self) -> Result<(), Failure> {
        if self.no_block {
            return Err(Failure::new(
                Kind::Usage,
                "--no-block is for units, not for the platform",
            ));
        }
        Ok(())
    }

    /// The same; none when nothing is waited for.
    pub(super) fn patience(self) -> Option<Duration> {
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
    pub(super) fn split(&self) -> (Vec<Target>, Vec<UnitWord>) {
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
