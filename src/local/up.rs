//! `deisctl cluster up`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use super::command::wait_for;
use super::report::{Note, Report, detail, label, say};
use super::state::{Cluster, Paths, Reached, STATE_ROOT};
use super::{
    authority, down, forward, host, net, packages, platform, ports, rootfs, seed, stack, stage,
    state,
};

/// Hosts of a cluster unless the user says otherwise.
const HOSTS: u8 = 3;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The cluster's name.
    pub name: String,
    /// How many hosts, if it matters.
    pub hosts: Option<u8>,
    /// A network namespace of its own.
    pub netns: Option<String>,
    /// Links between hosts are mutual TLS, as in a cluster elsewhere.
    pub tls: bool,
    /// How far to go.
    pub until: Reached,
    /// The checkout.
    pub source: Option<PathBuf>,
}

/// Makes the cluster, or finishes or refreshes the one that is there.
pub fn up(wanted: &Wanted) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("a local cluster needs root (namespaces, mounts, cgroups): try `sudo make up`");
    }
    let paths = Paths::new(&wanted.name)?;
    let source = stage::source_tree(wanted.source.as_deref())?;
    fs::create_dir_all(&paths.dir).with_context(|| format!("create {}", paths.dir.display()))?;
    let lock = fs::File::create(paths.dir.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!(
            "another `cluster up` or `down` of {:?} is running",
            wanted.name
        );
    }
    let mut making = Making::begin(wanted, paths, source, Report::new())?;
    making.network()?;
    making.hosts()?;
    making.platform()?;
    say(&format!("\n{}\n", making.report.summary()));
    say(&platform::next_commands(&making.paths, &making.cluster));
    Ok(())
}

/// A cluster on its way up.
struct Making<'a> {
    wanted: &'a Wanted,
    paths: Paths,
    source: PathBuf,
    report: Report,
    cluster: Cluster,
    /// What the hosts have to run: digests of what is staged.
    staged: BTreeMap<String, String>,
    /// What of it an existing cluster runs in another version.
    stale: stage::Stale,
    mtu: u32,
}

impl<'a> Making<'a> {
    /// Looks at what is there, and gets everything that hosts are made of.
    fn begin(
        wanted: &'a Wanted,
        paths: Paths,
        source: PathBuf,
        mut report: Report,
    ) -> anyhow::Result<Self> {
        let found = Cluster::load(&paths).unwrap_or_default();
        let found = found.filter(|cluster| cluster.reached > Reached::Nothing);
        if let Some(cluster) = &found {
            same_shape(cluster, wanted)?;
        } else if down::anything_left(&paths) {
            report.step("clearing what an earlier, unfinished `up` left", |_| {
                down::clear(&paths)
            })?;
        }
        if wanted.netns.is_none() {
            expect_ports(&mut report, &paths)?; // before all that takes long
        }
        report.step("packages of this machine", packages::install_missing)?;
        let in_use = found
            .as_ref()
            .map(|cluster| cluster.rootfs.clone())
            .filter(|dir| dir.is_dir());
        let what = "root file system of the hosts, stack image";
        let (rootfs, stack) = report.step(what, |note| images(in_use, note))?;
        rootfs::prune(&[&rootfs, &stack.layout, &stack.store])?;
        let staged = report.step("programs, units and templates", |note| {
            stage::refresh(&paths.opt(), &source, Some(&stack), note)?;
            stage::digests(&paths.opt())
        })?;
        let cluster = match found {
            Some(cluster) => cluster,
            None => plan(&paths, wanted, rootfs, &stack, staged.clone())?,
        };
        let stale = stage::stale(&cluster.runs, &staged);
        seed::ensure_keys(&paths, &cluster)?;
        cluster.save(&paths)?;
        Ok(Self {
            wanted,
            paths,
            source,
            report,
            cluster,
            staged,
            stale,
            // Of this machine's own network: read before a namespace is entered.
            mtu: net::mtu(),
        })
    }

    fn network(&mut self) -> anyhow::Result<()> {
        let (paths, cluster) = (&self.paths, &self.cluster);
        if let Some(netns) = &cluster.netns {
            self.report.step("network namespace", |note| {
                note.set(netns.clone());
                net::make_namespace(paths, netns)
            })?;
            net::enter(cluster.netns.as_deref())?;
        }
        if self.wanted.netns.is_some() {
            expect_ports(&mut self.report, paths)?;
        }
        let mtu = self.mtu;
        self.report.step("network", |note| {
            let bridge = net::bridge(&cluster.name);
            note.set(format!("bridge {bridge}, {}", cluster.subnet));
            net::make_bridge(cluster, mtu)
        })
    }

    /// Hosts with etcd and, as far as wanted, agents; and the way in from this machine.
    fn hosts(&mut self) -> anyhow::Result<()> {
        let Self {
            paths,
            report,
            cluster,
            ..
        } = self;
        boot_missing(report, paths, cluster, self.mtu)?;
        report.step("etcd", |note| {
            start_stopped(cluster)?;
            wait_etcd(cluster).map(|said| note.set(said))
        })?;
        if cluster.reached < Reached::Hosts {
            cluster.reached = Reached::Hosts;
            cluster.save(paths)?;
        } else if self.stale.agents {
            report.step("new programs: agents, apps run on", |_| {
                refresh_agents(cluster)
            })?;
        }
        if self.wanted.until > Reached::Hosts {
            report.step("agents", |note| {
                wait_machines(cluster).map(|said| note.set(said))
            })?;
        }
        report.step("entry point", |note| {
            let pid = forward::ensure(paths, cluster)?;
            note.set(format!(
                "127.0.0.1 and ::1, ports 80, 443 and 2222 (pid {pid})"
            ));
            cluster.forward_pid = Some(pid);
            cluster.save(paths)
        })
    }

    /// The platform's own parts and the example app, as far as wanted.
    fn platform(&mut self) -> anyhow::Result<()> {
        let Self {
            paths,
            report,
            cluster,
            ..
        } = self;
        if self.stale.platform && cluster.reached >= Reached::Platform {
            report.step("new programs: platform, one part after the other", |_| {
                platform::refresh_platform(paths, cluster)
            })?;
        }
        if cluster.runs != self.staged {
            cluster.runs.clone_from(&self.staged);
            cluster.save(paths)?;
        }
        let wanted = self.wanted.until;
        if wanted >= Reached::Platform && cluster.reached < Reached::Platform {
            report.step("platform", |_| platform::start_platform(paths, cluster))?;
            cluster.reached = Reached::Platform;
            cluster.save(paths)?;
        }
        if wanted >= Reached::Demo && cluster.reached < Reached::Demo {
            report.step("example app", |_| platform::demo(paths, &self.source))?;
            cluster.reached = Reached::Demo;
            cluster.save(paths)?;
        }
        Ok(())
    }
}

/// The two trees that take long when they aren't cached: at the same time.
fn images(in_use: Option<PathBuf>, note: &mut Note) -> anyhow::Result<(PathBuf, stack::Stack)> {
    let (mut of_rootfs, mut of_stack) = (Note::default(), Note::default());
    let made = std::thread::scope(|scope| {
        let stack = scope.spawn(|| {
            label("stack: ");
            stack::ensure(&mut of_stack)
        });
        let rootfs = match in_use {
            Some(dir) => Ok(dir),
            None => rootfs::ensure(&mut of_rootfs),
        };
        let stack = stack
            .join()
            .map_err(|_| anyhow!("making the stack image panicked"))?;
        Ok::<_, anyhow::Error>((rootfs?, stack?))
    })?;
    note.set(format!("{of_rootfs}; {of_stack}").trim_start_matches("; "));
    Ok(made)
}

fn expect_ports(report: &mut Report, paths: &Paths) -> anyhow::Result<()> {
    if forward::running(paths).is_some() {
        return Ok(());
    }
    report.step("ports 80, 443 and 2222 on loopback", |note| {
        note.set("free");
        ports::expect_free()
    })
}

/// An existing cluster can't change its shape.
fn same_shape(cluster: &Cluster, wanted: &Wanted) -> anyhow::Result<()> {
    let has = cluster.hosts.len();
    if let Some(wants) = wanted.hosts
        && has != usize::from(wants)
    {
        bail!(
            "the cluster {:?} has {has} hosts, not {wants}: `make down` first, then `make up HOSTS={wants}`",
            cluster.name
        );
    }
    if cluster.netns != wanted.netns {
        bail!(
            "the cluster {:?} is in another network namespace: `deisctl cluster down --name {}` first",
            cluster.name,
            cluster.name
        );
    }
    if wanted.tls && cluster.tls.is_none() {
        bail!(
            "the cluster {0:?} was made without certificates: `deisctl cluster down --name {0}` first",
            cluster.name
        );
    }
    Ok(())
}

fn plan(
    paths: &Paths,
    wanted: &Wanted,
    rootfs: PathBuf,
    stack: &stack::Stack,
    runs: BTreeMap<String, String>,
) -> anyhow::Result<Cluster> {
    let tls = match wanted.tls {
        true => {
            let authority = authority::Authority::ensure(&paths.keys().join("tls"), &wanted.name)?;
            Some(authority.certificate("operator", None)?)
        }
        false => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let hosts = seed::hosts(&wanted.name, wanted.hosts.unwrap_or(HOSTS));
    Ok(Cluster {
        name: wanted.name.clone(),
        netns: wanted.netns.clone(),
        domain: net::DOMAIN.to_owned(),
        subnet: net::SUBNET.to_owned(),
        gateway: net::GATEWAY,
        etcd: hosts
            .iter()
            .filter(|host| host.etcd_member)
            .map(|host| format!("{scheme}://{}:2379", host.address))
            .collect(),
        hosts,
        ssh_key: paths.keys().join("id_ed25519"),
        known_hosts: paths.keys().join("known_hosts"),
        cluster_key: paths.dir.join("cluster.key"),
        tls,
        rootfs,
        image_store: stack.store.clone(),
        forward_pid: None,
        runs,
        reached: Reached::Nothing,
    })
}

/// Boots the hosts that don't run, all at once.
pub fn boot_missing(
    report: &mut Report,
    paths: &Paths,
    cluster: &mut Cluster,
    mtu: u32,
) -> anyhow::Result<()> {
    let name = cluster.name.clone();
    let missing: Vec<String> = cluster
        .hosts
        .iter()
        .filter(|host| host::running(&name, &host.name).is_none())
        .map(|host| host.name.clone())
        .collect();
    if missing.is_empty() {
        return report.step("hosts", |note| {
            note.set(format!("all {} are up", cluster.hosts.len()));
            Ok(())
        });
    }
    let what = format!("boot of {}", missing.join(", "));
    report.step(&what, |note| {
        raise_limits(cluster)?;
        let mut children = Vec::new();
        for host in cluster
            .hosts
            .clone()
            .iter()
            .filter(|host| missing.contains(&host.name))
        {
            host::kill(&name, &host.name); // what is left of one that died
            children.push((host.name.clone(), host::start(paths, cluster, host, mtu)?));
        }
        for (host, child) in &mut children {
            let (nspawn, leader) = host::wait_boot(paths, &name, host, child)?;
            if let Some(entry) = cluster.hosts.iter_mut().find(|entry| entry.name == *host) {
                entry.nspawn_pid = Some(nspawn);
                entry.leader_pid = Some(leader);
            }
            cluster.save(paths)?;
        }
        for host in cluster
            .hosts
            .iter()
            .filter(|host| missing.contains(&host.name))
        {
            let Some(leader) = host.leader_pid else {
                continue;
            };
            wait_for(
                &format!("{}'s cloud-init", host.name),
                Duration::from_secs(300),
                || {
                    let console = host::Dirs::of(paths, &host.name).console;
                    if host::running(&name, &host.name).is_none() {
                        bail!(
                            "{} died while it booted; see {}",
                            host.name,
                            console.display()
                        );
                    }
                    Ok(if host::cloud_init_done(leader)? {
                        Ok(())
                    } else {
                        Err("not done".to_owned())
                    })
                },
            )?;
            host::disable_cloud_init(leader)?;
        }
        note.set(format!("{} up", missing.len()));
        Ok(())
    })
}

/// Each host's systemd wants its own inotify instances; Debian's limit is for one machine.
fn raise_limits(cluster: &Cluster) -> anyhow::Result<()> {
    super::sysctl::hold_at_least(&cluster.name, "fs.inotify.max_user_instances", 1024)?;
    super::sysctl::hold_at_least(&cluster.name, "fs.inotify.max_user_watches", 65536)
}

/// Waits until each member of etcd says that it's healthy and knows all the others.
pub fn wait_etcd(cluster: &Cluster) -> anyhow::Result<String> {
    wait_for("etcd", Duration::from_secs(120), || {
        for host in cluster.members() {
            if let Err(why) = etcd_health(cluster, host) {
                return Ok(Err(format!("{}: {why:#}", host.name)));
            }
        }
        Ok(Ok(()))
    })
    .map_err(|why| {
        anyhow!("{why:#}; `deisctl cluster exec deis-01 -- journalctl -u deis-etcd` says more")
    })?;
    Ok(format!("{} members, healthy", cluster.members().count()))
}

/// Runs etcdctl in a host, as somebody who is logged in there would.
fn etcdctl(cluster: &Cluster, host: &state::Host, words: &str) -> anyhow::Result<String> {
    let (_, leader) = host::running(&cluster.name, &host.name).context("it is down")?;
    let script = format!(
        ". /etc/profile.d/deis.sh; exec etcdctl --dial-timeout=2s --command-timeout=2s {words}"
    );
    let limit = Duration::from_secs(5);
    let ran = super::command::within(limit, &mut host::enter(leader, &["sh", "-c", &script]))?;
    match ran {
        Some((true, said)) => Ok(said),
        Some((false, said)) => bail!("etcdctl: {}", said.trim()),
        None => bail!("etcdctl has not ended within {} s", limit.as_secs()),
    }
}

/// One member's word on itself.
pub fn etcd_health(cluster: &Cluster, host: &state::Host) -> anyhow::Result<()> {
    etcdctl(cluster, host, "endpoint health")?;
    let found = etcdctl(cluster, host, "member list")?.lines().count();
    let members = cluster.members().count();
    if found != members {
        bail!("it knows {found} of {members} members");
    }
    Ok(())
}

/// How many machines have registered under /deis/machines/.
pub fn machines(cluster: &Cluster) -> anyhow::Result<usize> {
    let mut last = anyhow!("no member of etcd");
    for host in cluster.members() {
        match etcdctl(cluster, host, "get --prefix --keys-only /deis/machines/") {
            Ok(said) => return Ok(said.lines().filter(|line| !line.is_empty()).count()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits until each host's agent has registered its machine.
pub fn wait_machines(cluster: &Cluster) -> anyhow::Result<String> {
    let want = cluster.hosts.len();
    wait_for("the agents", Duration::from_secs(60), || {
        Ok(match machines(cluster) {
            Ok(found) if found >= want => Ok(()),
            Ok(found) => Err(format!("{found} of {want} machines have registered")),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .map_err(|why| {
        anyhow!("{why:#}; `deisctl cluster exec deis-01 -- journalctl -u deis-agent` says more")
    })?;
    for host in &cluster.hosts {
        let Some((_, leader)) = host::running(&cluster.name, &host.name) else {
            continue;
        };
        let system = format!("{}'s systemd", host.name);
        let state = wait_for(&system, Duration::from_secs(60), || {
            let state = host::system_state(leader)?;
            let settled = state == "running" || state.starts_with("degraded");
            Ok(if settled { Ok(state) } else { Err(state) })
        })?;
        if state != "running" {
            detail(&format!("{} is {state}", host.name));
        }
    }
    Ok(format!("{want} machines registered"))
}

/// Starts etcd and the agent on hosts where somebody has stopped them; what runs isn't touched.
fn start_stopped(cluster: &Cluster) -> anyhow::Result<()> {
    for host in &cluster.hosts {
        let Some((_, leader)) = host::running(&cluster.name, &host.name) else {
            continue;
        };
        let etcd: &[&str] = if host.etcd_member {
            &["deis-etcd"]
        } else {
            &[]
        };
        let mut words = vec!["systemctl", "start", "--no-block", "deis-agent"];
        words.extend(etcd);
        super::command::output(&mut host::enter(leader, &words))
            .with_context(|| format!("start etcd and the agent of {}", host.name))?;
    }
    Ok(())
}

/// Starts the staged agents anew; apps stay as they are.
fn refresh_agents(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "for unit in deis-agent deis-etcd deis-containers deis-fence; do \
                  cmp -s /opt/deis/units/$unit.service /etc/systemd/system/$unit.service || \
                  { cp /opt/deis/units/$unit.service /etc/systemd/system/; reload=yes; }; done; \
                  test -z \"$reload\" || systemctl daemon-reload; timeout 100 systemctl restart deis-agent";
    for host in &cluster.hosts {
        let Some((_, leader)) = host::running(&cluster.name, &host.name) else {
            continue;
        };
        super::command::output(&mut host::enter(leader, &["sh", "-c", script]))
            .with_context(|| format!("restart the agent of {}", host.name))?;
    }
    Ok(())
}

/// `deisctl cluster boot`: starts a host again that was killed.
pub fn boot(paths: &Paths, name: &str) -> anyhow::Result<()> {
    let mut cluster = Cluster::expect(paths)?;
    let wanted = cluster.host(name)?.clone();
    if host::running(&cluster.name, name).is_some() {
        bail!("{name} is up");
    }
    let mtu = net::mtu();
    net::enter(cluster.netns.as_deref())?;
    let begun = Instant::now();
    host::kill(&cluster.name, name);
    let mut child = host::start(paths, &cluster, &wanted, mtu)?;
    let (nspawn, leader) = host::wait_boot(paths, &cluster.name, name, &mut child)?;
    if let Some(entry) = cluster.hosts.iter_mut().find(|entry| entry.name == name) {
        entry.nspawn_pid = Some(nspawn);
        entry.leader_pid = Some(leader);
    }
    cluster.save(paths)?;
    say(&format!(
        "{name} boots (leader {leader}), after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The clusters of this machine.
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(STATE_ROOT) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| Path::new(&entry.path()).join("cluster.yaml").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
