//! `deisctl cluster ...`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::authority::Authority;
use super::report::Note;
use super::state::{Cluster, Paths, Reached};
use super::up::Wanted;
use super::{down, forward, host, net, seed, stack, stage, status, up};

/// Make and drive a cluster of systemd hosts on this machine
#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Args)]
struct Name {
    /// Name of the cluster
    #[arg(long, default_value = "default", env = "DEIS_LOCAL_CLUSTER")]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot hosts, start the platform, push an example app
    Up {
        /// Hosts on this machine, by systemd-nspawn (the only provider so far)
        #[arg(long)]
        local: bool,
        /// Number of hosts [default: 3, or as many as the cluster has]
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=20))]
        hosts: Option<u8>,
        #[command(flatten)]
        name: Name,
        /// Put the cluster into a network namespace of that name
        #[arg(long)]
        netns: Option<String>,
        /// Links between hosts are mutual TLS, as in a cluster elsewhere
        #[arg(long)]
        tls: bool,
        /// Stop before the first user and the example app
        #[arg(long)]
        no_demo: bool,
        /// Stop before the platform: hosts, etcd and agents only
        #[arg(long)]
        no_platform: bool,
        /// The checkout with units/, templates/ and coreos/ [default: the one around this program]
        #[arg(long)]
        source: Option<PathBuf>,
    },
    /// Stop the cluster and remove everything of it, its SSH keys excepted
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Tell what is up
    Status {
        #[command(flatten)]
        name: Name,
    },
    /// Run a command in a host
    Exec {
        #[command(flatten)]
        name: Name,
        /// The host, e.g. deis-01
        host: String,
        /// The command and its arguments; a shell without
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Kill a host the hard way (for tests)
    Kill {
        #[command(flatten)]
        name: Name,
        /// The host, e.g. deis-01
        host: String,
    },
    /// Start a killed host again
    Boot {
        #[command(flatten)]
        name: Name,
        /// The host, e.g. deis-01
        host: String,
    },
    /// Lead loopback's ports 80, 443 and 2222 to healthy routers (`up` starts it)
    Forward {
        #[command(flatten)]
        name: Name,
    },
    /// Print a host's user-data (cloud-config) for a cluster elsewhere, e.g. Vagrant's
    UserData {
        /// The cluster's name
        #[arg(long, default_value = "vagrant")]
        cluster: String,
        /// Host number, from 1
        #[arg(long, default_value_t = 1)]
        number: u8,
        /// Number of hosts
        #[arg(long, default_value_t = 3)]
        hosts: u8,
        /// Directory of the cluster's keys (made if missing)
        #[arg(long)]
        keys: PathBuf,
        /// The checkout
        #[arg(long)]
        source: Option<PathBuf>,
    },
    /// Lay out /opt/deis for hosts that aren't made here, e.g. Vagrant's
    Stage {
        /// Where to; brought up to date if it's there
        dir: PathBuf,
        /// The checkout
        #[arg(long)]
        source: Option<PathBuf>,
    },
}

/// Runs a `deisctl cluster` command.
pub fn run(args: ClusterArgs) -> anyhow::Result<()> {
    match args.command {
        Command::Up {
            local,
            hosts,
            name,
            netns,
            tls,
            no_demo,
            no_platform,
            source,
        } => {
            if !local {
                bail!(
                    "which provider? `deisctl cluster up --local` makes hosts on this machine; for VMs see the Vagrantfile, for real machines coreos/cloud-config/README.md"
                );
            }
            let until = match (no_platform, no_demo) {
                (true, _) => Reached::Hosts,
                (false, true) => Reached::Platform,
                (false, false) => Reached::Demo,
            };
            up::up(&Wanted {
                name: name.name,
                hosts,
                netns,
                tls,
                until,
                source,
            })
        }
        Command::Down { name } => down::down(&name.name),
        Command::Status { name } => match status::status(&name.name)? {
            true => Ok(()),
            false => std::process::exit(3),
        },
        Command::Exec { name, host, words } => exec(&name.name, &host, words),
        Command::Kill { name, host } => down::kill(&Paths::new(&name.name)?, &host),
        Command::Boot { name, host } => up::boot(&Paths::new(&name.name)?, &host),
        Command::Forward { name } => {
            let paths = Paths::new(&name.name)?;
            forward::serve(&Cluster::expect(&paths)?)
        }
        Command::UserData {
            cluster,
            number,
            hosts,
            keys,
            source,
        } => {
            let source = stage::source_tree(source.as_deref())?;
            print!("{}", user_data(&cluster, number, hosts, &keys, &source)?);
            Ok(())
        }
        Command::Stage { dir, source } => {
            let source = stage::source_tree(source.as_deref())?;
            let stack = stack::cached();
            let changed = stage::refresh(&dir, &source, stack.as_ref(), &mut Note::default())?;
            let image = if stack.is_some() {
                ""
            } else {
                " (without the stack image: `make up` makes one)"
            };
            println!("{}: {} files changed{image}", dir.display(), changed.len());
            Ok(())
        }
    }
}

fn exec(cluster: &str, name: &str, words: Vec<String>) -> anyhow::Result<()> {
    let cluster = Cluster::expect(&Paths::new(cluster)?)?;
    cluster.host(name)?;
    let (_, leader) = host::running(&cluster.name, name)
        .with_context(|| format!("{name} is down: `deisctl cluster boot {name}` starts it"))?;
    let words: Vec<&str> = match words.is_empty() {
        true => vec!["/bin/bash", "-l"],
        false => words.iter().map(String::as_str).collect(),
    };
    let error = host::enter(leader, &words)
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .exec();
    Err(error).context("start nsenter")
}

/// User-data for a host of a cluster that isn't made here; its keys are kept in a directory.
fn user_data(
    cluster: &str,
    number: u8,
    count: u8,
    keys: &std::path::Path,
    source: &std::path::Path,
) -> anyhow::Result<String> {
    if number == 0 || number > count {
        bail!("host {number} of {count}: numbers start at 1");
    }
    std::fs::create_dir_all(keys)?;
    let hosts = seed::hosts(cluster, count);
    let operator = Authority::ensure(&keys.join("tls"), cluster)?.certificate("operator", None)?;
    let all = Cluster {
        name: cluster.to_owned(),
        netns: None,
        domain: net::DOMAIN.to_owned(),
        subnet: net::SUBNET.to_owned(),
        gateway: net::GATEWAY,
        etcd: hosts
            .iter()
            .filter(|host| host.etcd_member)
            .map(|host| format!("https://{}:2379", host.address))
            .collect(),
        hosts,
        ssh_key: keys.join("id_ed25519"),
        known_hosts: keys.join("known_hosts"),
        cluster_key: keys.join("cluster.key"),
        tls: Some(operator),
        rootfs: PathBuf::new(),
        image_store: PathBuf::new(),
        forward_pid: None,
        runs: Default::default(),
        reached: Reached::Nothing,
    };
    seed::ensure_shared_keys(&all, cluster)?;
    let template = std::fs::read_to_string(source.join(seed::USER_DATA))?;
    let mut values = seed::values(&all, &all.hosts[usize::from(number) - 1])?;
    values.cluster = cluster.to_owned();
    values.image_store = None;
    let text = seed::render(&template, &values)?;
    seed::check(&text)?;
    Ok(text)
}
