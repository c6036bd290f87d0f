//! Boot, enter, stop and kill one host.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::command::{command, run, within};
use super::state::{Cluster, Host, Paths, STATE_ROOT};
use super::{cgroup, net, procs, seed};

/// Directories of a host.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// `/var/lib/deis-local/<cluster>/hosts/<host>`.
    pub dir: PathBuf,
    /// Where the overlay is mounted.
    pub root: PathBuf,
    /// `/var/lib/containers` of the host, on the machine's disk.
    pub containers: PathBuf,
    /// What the host wrote to its console.
    pub console: PathBuf,
}

impl Dirs {
    /// Of a host.
    pub fn of(paths: &Paths, host: &str) -> Dirs {
        let dir = paths.host(host);
        Dirs {
            root: dir.join("root"),
            containers: dir.join("containers"),
            console: dir.join("console.log"),
            dir,
        }
    }
}

/// Prepares a host's tree and starts its nspawn; doesn't wait. Runs in the cluster's namespace.
pub fn start(paths: &Paths, cluster: &Cluster, host: &Host, mtu: u32) -> anyhow::Result<Child> {
    let dirs = Dirs::of(paths, &host.name);
    let [upper, work] = ["upper", "work"].map(|name| dirs.dir.join(name));
    for dir in [&upper, &work, &dirs.root, &dirs.containers] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    if procs::mounts_below(&dirs.root).is_empty() {
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            cluster.rootfs.display(),
            upper.display(),
            work.display()
        );
        let root = dirs.root.display().to_string();
        run(&[
            "mount",
            "-t",
            "overlay",
            "deis-local",
            "-o",
            &options,
            &root,
        ])?;
    }
    seed::plant(paths, cluster, host, &dirs.root, mtu)?;

    // A host that was killed leaves its link to the kernel, which takes its time with it.
    net::delete_link(&format!("vb-{}", machine(&cluster.name, &host.name)))?;
    let entrances = cgroup::Layout::of_this_machine()?.create(&cluster.name, &host.name)?;
    let mut script = "set -e\n".to_owned();
    for entrance in &entrances {
        script.push_str(&format!("echo $$ > {}\n", entrance.display()));
    }
    script.push_str("exec \"$@\"\n");
    let console = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&dirs.console)?;
    let bind = |kind: &str, from: &Path, to: &str| format!("--{kind}={}:{to}", from.display());
    let mut words = vec![
        "setsid".to_owned(),
        "sh".to_owned(),
        "-c".to_owned(),
        script,
        "sh".to_owned(),
    ];
    words.extend([
        "systemd-nspawn".to_owned(),
        "--quiet".to_owned(),
        "--register=no".to_owned(),
        "--keep-unit".to_owned(),
        "--boot".to_owned(),
        format!("--directory={}", dirs.root.display()),
        format!("--machine={}", machine(&cluster.name, &host.name)),
        format!("--hostname={}", host.name),
        format!("--network-bridge={}", net::bridge(&cluster.name)),
        "--capability=all".to_owned(),
        "--system-call-filter=add_key keyctl bpf @mount @privileged".to_owned(),
        "--resolv-conf=off".to_owned(),
        "--timezone=off".to_owned(),
        "--link-journal=no".to_owned(),
        "--console=read-only".to_owned(),
        bind("bind", &dirs.containers, "/var/lib/containers"),
        bind("bind-ro", &paths.opt(), "/opt/deis"),
        bind("bind-ro", &cluster.image_store, "/opt/deis/images/store"),
    ]);
    if Path::new("/dev/fuse").exists() {
        words.push("--bind=/dev/fuse".to_owned());
    }
    // systemd-nspawn would take a --notify socket or a unit of whoever calls us for its own.
    let mut spawn: Command = command(&words);
    spawn
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console);
    spawn.spawn().context("start systemd-nspawn")
}

/// nspawn's name of a host. It names the host's link too, `vb-<machine>`: 15 letters at most.
fn machine(cluster: &str, host: &str) -> String {
    format!("{cluster}-{}", host.trim_start_matches("deis-"))
}

/// The running nspawn of a host, found by its command line.
pub fn find_nspawn(cluster: &str, host: &str) -> Option<u32> {
    let directory = format!("--directory={STATE_ROOT}/{cluster}/hosts/{host}/root");
    procs::with_argument(&directory)
        .into_iter()
        .find(|pid| procs::name(*pid) == "systemd-nspawn")
}

/// A host's systemd: the child of its nspawn that is pid 1 in there.
pub fn find_leader(nspawn: u32) -> Option<u32> {
    procs::children(nspawn)
        .into_iter()
        .find(|pid| procs::is_leader(*pid))
}

/// nspawn and leader, while both run.
pub fn running(cluster: &str, host: &str) -> Option<(u32, u32)> {
    let nspawn = find_nspawn(cluster, host)?;
    Some((nspawn, find_leader(nspawn)?))
}

/// A command in a host's namespaces. It has the machine's environment, and no terminal.
pub fn enter(leader: u32, words: &[&str]) -> Command {
    let leader = leader.to_string();
    let mut all = vec![
        "nsenter",
        "-t",
        leader.as_str(),
        "-m",
        "-u",
        "-i",
        "-n",
        "-p",
        "-C",
        "--root",
        "--wdns=/",
        "--",
    ];
    all.extend(words);
    let mut enter = command(&all);
    enter.env_clear().env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/deis/bin",
    );
    enter
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env("ETCDCTL_API", "3");
    if let Ok(term) = std::env::var("TERM") {
        enter.env("TERM", term);
    }
    enter
}

/// Waits until systemd answers in there, and gives it the cgroup controllers.
pub fn wait_boot(
    paths: &Paths,
    cluster: &str,
    host: &str,
    child: &mut Child,
) -> anyhow::Result<(u32, u32)> {
    let console = Dirs::of(paths, host).console;
    let died = |why: &str| {
        let said = fs::read_to_string(&console).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(12).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        anyhow::anyhow!(
            "{host} {why}; its console ({}) ends with:\n{}",
            console.display(),
            lines.join("\n")
        )
    };
    let begun = Instant::now();
    let layout = cgroup::Layout::of_this_machine()?;
    loop {
        if let Some(status) = child.try_wait()? {
            let why = match status.signal() {
                Some(signal) => format!("was killed by signal {signal}"),
                None => format!("did not start ({status})"),
            };
            return Err(died(&why));
        }
        if begun.elapsed() > Duration::from_secs(180) {
            return Err(died("did not answer within 180 s"));
        }
        std::thread::sleep(Duration::from_millis(50));
        let Some((nspawn, leader)) = running(cluster, host) else {
            continue;
        };
        if !Path::new(&format!("/proc/{leader}/root/run/systemd/private")).exists() {
            continue;
        }
        let remounts = layout.remounts();
        if !remounts.is_empty() {
            let script: String = remounts
                .iter()
                .map(|name| format!("mount -o remount,rw,bind /sys/fs/cgroup/{name}; "))
                .collect();
            let script = format!("{script} exec systemctl daemon-reexec");
            let done = within(
                Duration::from_secs(30),
                &mut enter(leader, &["sh", "-c", &script]),
            )?;
            if !matches!(done, Some((true, _))) {
                return Err(died("did not take its cgroup controllers"));
            }
        }
        return Ok((nspawn, leader));
    }
}

/// What `systemctl is-system-running` says, and the units that failed.
pub fn system_state(leader: u32) -> anyhow::Result<String> {
    let ask = |words: &[&str]| {
        within(Duration::from_secs(5), &mut enter(leader, words)).map(|done| {
            done.map_or_else(|| "silent".to_owned(), |(_, said)| said.trim().to_owned())
        })
    };
    let state = ask(&["systemctl", "is-system-running"])?;
    if state != "degraded" {
        return Ok(state);
    }
    let failed = ask(&[
        "systemctl",
        "list-units",
        "--failed",
        "--plain",
        "--no-legend",
        "--no-pager",
    ])?;
    let names: Vec<&str> = failed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    Ok(format!("degraded ({})", names.join(", ")))
}

fn disabled(leader: u32) -> String {
    format!("/proc/{leader}/root/etc/cloud/cloud-init.disabled")
}

/// A host that is bootstrapped boots without cloud-init: it would find nothing to do, slowly.
pub fn disable_cloud_init(leader: u32) -> anyhow::Result<()> {
    fs::write(disabled(leader), "").context("disable cloud-init")
}

/// Whether cloud-init is through with this boot; an error of its is one of ours.
pub fn cloud_init_done(leader: u32) -> anyhow::Result<bool> {
    if Path::new(&disabled(leader)).exists() {
        return Ok(true);
    }
    let result = format!("/proc/{leader}/root/run/cloud-init/result.json");
    let Ok(text) = fs::read_to_string(result) else {
        return Ok(false);
    };
    let result: serde_json::Value =
        serde_json::from_str(&text).context("cloud-init's result.json")?;
    let errors = &result["v1"]["errors"];
    if errors.as_array().is_some_and(|errors| !errors.is_empty()) {
        bail!("cloud-init failed: {errors}");
    }
    Ok(true)
}

/// Stops hosts cleanly, all at once, and whoever doesn't go by force.
pub fn stop(cluster: &str, hosts: &[String], patience: Duration) {
    let running: Vec<(u32, u32)> = hosts
        .iter()
        .filter_map(|host| running(cluster, host))
        .collect();
    for (_, leader) in &running {
        procs::poweroff(*leader);
    }
    let nspawns: Vec<u32> = running.iter().map(|(nspawn, _)| *nspawn).collect();
    procs::wait_gone(&nspawns, patience);
    for host in hosts {
        kill(cluster, host);
    }
}

/// Kills a host the hard way: its systemd, its nspawn and whatever is left of it.
pub fn kill(cluster: &str, host: &str) {
    let mut pids: Vec<u32> = Vec::new();
    if let Some(nspawn) = find_nspawn(cluster, host) {
        pids.extend(find_leader(nspawn));
        pids.push(nspawn);
    }
    pids.extend(procs::in_cgroup(&format!(
        "/{}/{cluster}/{host}",
        cgroup::TOP
    )));
    for pid in &pids {
        procs::signal(*pid, Signal::KILL);
    }
    procs::wait_gone(&pids, Duration::from_secs(10));
}
