//! Which cluster a command is about, and how to reach its etcd and its hosts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;

use super::{
    failure::{Failure, Kind},
    local_cluster::LocalCluster,
    ssh::{Address, Ssh},
    tunnel::Tunnel,
};
use crate::{
    settings::{self, HostSettings},
    store::{EtcdOptions, EtcdTls, Store},
};

/// Where a cluster's etcd is when nobody says so.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";
/// The local cluster that is meant when nobody says otherwise.
const DEFAULT_CLUSTER: &str = "default";

/// Options that say which cluster is meant.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ContextArgs {
    /// A local cluster, made by `deisctl cluster up` [default: `default`, where it exists]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "DEISCTL_CLUSTER",
        hide_env_values = true
    )]
    pub cluster: Option<String>,
    /// URLs of etcd's members [default on a host: those in /etc/deis/host.yaml]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DEISCTL_ENDPOINT",
        value_delimiter = ','
    )]
    pub endpoint: Vec<String>,
    /// A host to go through, by SSH: `host`, `user@host` or `user@host:port`
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        hide_env_values = true,
        value_name = "HOST",
        env = "DEISCTL_TUNNEL"
    )]
    pub tunnel: Option<String>,
    /// The CA of etcd's certificates, PEM
    #[arg(long, global = true, hide_short_help = true, hide_env_values = true, value_name = "FILE", requires_all = ["etcd_certfile", "etcd_keyfile"])]
    pub etcd_cafile: Option<PathBuf>,
    /// Our certificate for etcd, PEM
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        hide_env_values = true,
        value_name = "FILE",
        requires = "etcd_cafile"
    )]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key, PEM
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        hide_env_values = true,
        value_name = "FILE",
        requires = "etcd_cafile"
    )]
    pub etcd_keyfile: Option<PathBuf>,
    /// Private key for SSH [default: the SSH agent, then ~/.ssh/id_ed25519 and id_rsa]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        hide_env_values = true,
        value_name = "FILE",
        env = "DEISCTL_SSH_KEY"
    )]
    pub ssh_key: Option<PathBuf>,
    /// User on the hosts [default: core, and root on a local cluster's]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        hide_env_values = true,
        value_name = "USER",
        env = "DEISCTL_SSH_USER"
    )]
    pub ssh_user: Option<String>,
    /// The hosts' public keys [default: ~/.ssh/known_hosts]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub known_hosts_file: Option<PathBuf>,
    /// Seconds to wait for a connection to a host
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "SECONDS",
        default_value_t = 10
    )]
    pub ssh_timeout: u64,
}

/// How etcd is reached.
#[derive(Debug)]
pub struct Context {
    /// What it is, for people.
    pub label: String,
    /// etcd, as seen from here or from the tunnel's host.
    pub etcd: EtcdOptions,
    /// How to log in to hosts.
    pub ssh: Ssh,
    /// The network namespace that the hosts live in, if it is one of its own.
    pub netns: Option<String>,
    /// The key of sealed values, where it is at hand.
    pub cluster_key: Option<PathBuf>,
}

/// A connection to etcd, which lasts as long as this does.
#[derive(Debug)]
pub struct Connection {
    /// etcd.
    pub store: Store,
    _tunnels: Vec<Tunnel>,
}

impl Context {
    /// Finds out which cluster is meant.
    ///
    /// # Errors
    /// When the options contradict each other, or name a cluster that isn't there.
    pub fn choose(args: &ContextArgs) -> anyhow::Result<Self> {
        if args.endpoint.is_empty() && args.tunnel.is_none() {
            if let Some(name) = &args.cluster {
                return Self::of_local(args, LocalCluster::load(name)?);
            }
            if LocalCluster::exists(DEFAULT_CLUSTER) {
                return Self::of_local(args, LocalCluster::load(DEFAULT_CLUSTER)?);
            }
            let path = Path::new(settings::DEFAULT_PATH);
            if path.exists() {
                let host = HostSettings::load(path)?;
                return Ok(Self {
                    label: format!("{} (this host is one of it)", host.cluster),
                    etcd: host.etcd,
                    ssh: ssh(args)?,
                    netns: None,
                    cluster_key: Some(host.cluster_key),
                });
            }
        } else if args.cluster.is_some() {
            return Err(Failure::new(
                Kind::Usage,
                "a local cluster and an endpoint or tunnel are given: which is meant?",
            )
            .hint("unset one of --cluster, --endpoint and --tunnel (or DEISCTL_CLUSTER, _ENDPOINT, _TUNNEL)")
            .into());
        }
        let guessed = args.endpoint.is_empty() && args.tunnel.is_none();
        let endpoints = match &args.endpoint[..] {
            [] => vec![DEFAULT_ENDPOINT.to_owned()],
            given => given.to_vec(),
        };
        let tls = tls(args)?;
        for endpoint in &endpoints {
            check_endpoint(endpoint, tls.is_some(), args.tunnel.is_some())?;
        }
        let mut label = endpoints.join(", ");
        if guessed {
            label.push_str(" (this machine has no local cluster and is no host of one)");
        }
        Ok(Self {
            label,
            etcd: EtcdOptions { endpoints, tls },
            ssh: ssh(args)?,
            netns: None,
            cluster_key: None,
        })
    }

    fn of_local(args: &ContextArgs, cluster: LocalCluster) -> anyhow::Result<Self> {
        let user = args.ssh_user.clone().unwrap_or_else(|| "root".into());
        Ok(Self {
            label: format!("local cluster {}", cluster.name),
            etcd: EtcdOptions {
                endpoints: cluster.etcd,
                tls: match &cluster.tls {
                    Some(own) => Some(read_tls(&own.ca, &own.cert, &own.key)?),
                    None => None,
                },
            },
            ssh: Ssh {
                user,
                key: Some(args.ssh_key.clone().unwrap_or(cluster.ssh_key)),
                known_hosts: args.known_hosts_file.clone().unwrap_or(cluster.known_hosts),
                timeout: Duration::from_secs(args.ssh_timeout),
                jump: None,
            },
            netns: cluster.netns,
            cluster_key: Some(cluster.cluster_key),
        })
    }

    /// Connects to etcd, by way of tunnels if there is a host to go through.
    ///
    /// # Errors
    /// When the tunnel can't be dug or an endpoint is no URL.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let mut tunnels = Vec::new();
        let mut etcd = self.etcd.clone();
        if let Some(jump) = &self.ssh.jump {
            let mut through = Vec::new();
            for endpoint in &etcd.endpoints {
                let (scheme, target) = split_endpoint(endpoint)?;
                let (ssh, jump) = (self.ssh.clone(), jump.clone());
                let opened = tokio::task::spawn_blocking(move || Tunnel::open(&ssh, &jump, target));
                let tunnel = opened
                    .await
                    .context("the tunnel's thread died")?
                    .with_context(|| {
                        Failure::new(Kind::Unreachable, format!("no tunnel to {endpoint}"))
                            .hint("does `ssh` to that host work, and does etcd listen there?")
                    })?;
                through.push(format!("{scheme}://{}", tunnel.local()));
                tunnels.push(tunnel);
            }
            etcd.endpoints = through;
        }
        Ok(Connection {
            store: Store::connect(etcd).await?,
            _tunnels: tunnels,
        })
    }

    /// The command line of a program that has to be started instead of this one, inside the
    /// cluster's network namespace; none when we are in it.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn elsewhere(&self) -> anyhow::Result<Option<Vec<String>>> {
        let Some(netns) = &self.netns else {
            return Ok(None);
        };
        let path = PathBuf::from("/run/netns").join(netns);
        let there = namespace(&path).with_context(|| {
            Failure::new(
                Kind::NotFound,
                format!(
                    "{} has its network in a namespace {netns} that is gone",
                    self.label
                ),
            )
            .hint(
                "`deisctl cluster status` tells what is left, `deisctl cluster up` starts it again",
            )
        })?;
        let here = namespace(Path::new("/proc/self/ns/net"))?;
        if here == there {
            return Ok(None);
        }
        Ok(Some(vec![
            "nsenter".into(),
            format!("--net={}", path.display()),
            "--".into(),
        ]))
    }
}

/// What tells one network namespace from another.
fn namespace(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// How to log in, as the options say.
fn ssh(args: &ContextArgs) -> anyhow::Result<Ssh> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let known_hosts = match (&args.known_hosts_file, home) {
        (Some(given), _) => given.clone(),
        (None, Some(home)) => home.join(".ssh/known_hosts"),
        (None, None) => PathBuf::from("/root/.ssh/known_hosts"),
    };
    let mut ssh = Ssh {
        user: args.ssh_user.clone().unwrap_or_else(|| "core".into()),
        key: args.ssh_key.clone(),
        known_hosts,
        timeout: Duration::from_secs(args.ssh_timeout),
        jump: None,
    };
    if let Some(tunnel) = &args.tunnel {
        let host = match tunnel.split_once('@') {
            Some((user, host)) => {
                user.clone_into(&mut ssh.user);
                host
            }
            None => tunnel,
        };
        ssh.jump = Some(host.parse::<Address>()?);
    }
    Ok(ssh)
}

fn tls(args: &ContextArgs) -> anyhow::Result<Option<EtcdTls>> {
    let (Some(ca), Some(cert), Some(key)) =
        (&args.etcd_cafile, &args.etcd_certfile, &args.etcd_keyfile)
    else {
        return Ok(None);
    };
    read_tls(ca, cert, key).map(Some)
}

fn read_tls(ca: &Path, cert: &Path, key: &Path) -> anyhow::Result<EtcdTls> {
    let read = |path: &Path| {
        fs::read(path)
            .with_context(|| Failure::new(Kind::Usage, format!("can't read {}", path.display())))
    };
    Ok(EtcdTls {
        ca: read(ca)?,
        cert: read(cert)?,
        key: read(key)?,
    })
}

/// Scheme and address of an endpoint.
fn split_endpoint(endpoint: &str) -> Result<(&str, Address), Failure> {
    let wrong = |why: &str| {
        Failure::new(
            Kind::Usage,
            format!("{endpoint:?} is no etcd endpoint: {why}"),
        )
        .hint("an endpoint looks like https://10.0.0.1:2379")
    };
    let (scheme, rest) = endpoint
        .split_once("://")
        .ok_or_else(|| wrong("it has no scheme"))?;
    if !matches!(scheme, "http" | "https") {
        return Err(wrong("its scheme is neither http nor https"));
    }
    let mut address: Address = rest
        .trim_end_matches('/')
        .parse()
        .map_err(|error: Failure| wrong(&error.to_string()))?;
    address.port.get_or_insert(2379);
    Ok((scheme, address))
}

/// Outside of a local cluster, etcd's links are mutually authenticated TLS, or lie within SSH or
/// this machine.
fn check_endpoint(endpoint: &str, tls: bool, tunnel: bool) -> Result<(), Failure> {
    let (scheme, address) = split_endpoint(endpoint)?;
    let loopback = address.host == "localhost"
        || address
            .host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    match (scheme, tls) {
        ("https", true) => Ok(()),
        ("https", false) => Err(Failure::new(
            Kind::Usage,
            format!("{endpoint} needs certificates"),
        )
        .hint("give --etcd-cafile, --etcd-certfile and --etcd-keyfile")),
        _ if tls => Err(Failure::new(
            Kind::Usage,
            format!("certificates are given, and {endpoint} is not https"),
        )),
        _ if loopback || tunnel => Ok(()),
        _ => Err(Failure::new(
            Kind::Refused,
            format!("{endpoint} would send the platform's records in clear over the network"),
        )
        .hint("use https with certificates, or --tunnel to go through SSH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_in_clear_stay_on_this_machine() {
        let cases: &[(&str, bool, bool, bool)] = &[
            ("http://127.0.0.1:2379", false, false, true),
            ("http://[::1]:2379", false, false, true),
            ("http://localhost", false, false, true),
            ("http://10.0.0.1:2379", false, false, false),
            ("http://10.0.0.1:2379", false, true, true),
            ("https://10.0.0.1:2379", true, false, true),
            ("https://10.0.0.1:2379", false, false, false),
            ("http://127.0.0.1:2379", true, false, false),
            ("10.0.0.1:2379", false, true, false),
            ("ftp://127.0.0.1", false, false, false),
            ("http://127.0.0.1:99999", false, false, false),
        ];
        for (endpoint, tls, tunnel, ok) in cases {
            assert_eq!(
                check_endpoint(endpoint, *tls, *tunnel).is_ok(),
                *ok,
                "{endpoint} tls={tls} tunnel={tunnel}"
            );
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let args = ContextArgs {
            cluster: Some("test".into()),
            tunnel: Some("example.com".into()),
            ..ContextArgs::default()
        };
        assert!(Context::choose(&args).is_err());
    }

    #[test]
    fn a_tunnel_names_user_host_and_port() {
        let args = ContextArgs {
            tunnel: Some("ada@example.com:2222".into()),
            ..ContextArgs::default()
        };
        let ssh = Context::choose(&args).expect("context").ssh;
        assert_eq!(ssh.user, "ada");
        let jump = ssh.jump.expect("jump");
        assert_eq!((jump.host.as_str(), jump.port), ("example.com", Some(2222)));
    }
}
