//! `deisctl cluster down`: leaves nothing behind, whatever an `up` came to.

use std::fs;
use std::time::Duration;

use anyhow::bail;
use rustix::process::Signal;

use super::report::{Report, say};
use super::rootfs::{self, remove_tree};
use super::state::{Cluster, Paths};
use super::{cgroup, forward, host, net, procs};

/// Stops and removes the cluster; keys stay.
pub fn down(name: &str) -> anyhow::Result<()> {
    let paths = Paths::new(name)?;
    if !paths.dir.exists() && cgroup::leftovers(name).is_empty() {
        say(&format!("there is no local cluster {name:?}"));
        return Ok(());
    }
    fs::create_dir_all(&paths.dir)?;
    let lock = fs::File::create(paths.dir.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!("another `cluster up` or `down` of {name:?} is running; end it first");
    }
    let mut report = Report::new();
    report.step("entry point", |note| {
        note.set("stopped");
        forward::stop(&paths);
        Ok(())
    })?;
    report.step("hosts", |note| {
        let hosts = hosts(&paths);
        note.set(format!("stopped {}", hosts.len()));
        host::stop(name, &hosts, Duration::from_secs(15));
        Ok(())
    })?;
    report.step("mounts, network, cgroups, settings", |_| clear(&paths))?;
    say(&format!(
        "\nThe cluster {name:?} is down. Its SSH keys stay in {}",
        paths.keys().display()
    ));
    Ok(())
}

/// Host names, from the directories: cluster.yaml may be missing.
fn hosts(paths: &Paths) -> Vec<String> {
    let Ok(entries) = fs::read_dir(paths.hosts()) else {
        return Vec::new();
    };
    let mut hosts: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    hosts.sort();
    hosts
}

/// Whether something of the cluster is on this machine.
pub fn anything_left(paths: &Paths) -> bool {
    paths.hosts().exists()
        || paths.journal().exists()
        || paths.cluster_yaml().exists()
        || !cgroup::leftovers(&paths.name).is_empty()
}

/// Ends and removes everything of the cluster by its names, keys excepted.
pub fn clear(paths: &Paths) -> anyhow::Result<()> {
    let name = &paths.name;
    forward::stop(paths);
    for host in hosts(paths) {
        host::kill(name, &host);
    }
    // Whatever else runs in our cgroups or by our paths (an nspawn that has just begun).
    let mut left = procs::in_cgroup(&format!("/{}/{name}/", cgroup::TOP));
    left.extend(procs::with_argument(&format!(
        "--directory={}/",
        paths.dir.display()
    )));
    left.retain(|pid| *pid != std::process::id());
    for pid in &left {
        procs::signal(*pid, Signal::KILL);
    }
    if !procs::wait_gone(&left, Duration::from_secs(10)) {
        bail!("processes of the cluster don't end: {left:?}");
    }
    procs::unmount_below(&paths.dir)?;
    net::remove(paths)?;
    cgroup::remove(name, None);
    remove_tree(&paths.hosts())?;
    for dir in [paths.opt(), paths.dir.join("demo")] {
        remove_tree(&dir)?;
    }
    for file in [
        paths.cluster_yaml(),
        paths.journal(),
        paths.dir.join("cluster.key"),
        forward::log(paths),
    ] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    rootfs::clear_unfinished()?;
    let left = cgroup::leftovers(name);
    if !left.is_empty() {
        bail!("cgroups that can't be removed: {left:?}");
    }
    Ok(())
}

/// `deisctl cluster kill`: the hard way, as a power cut would.
pub fn kill(paths: &Paths, name: &str) -> anyhow::Result<()> {
    let mut cluster = Cluster::expect(paths)?;
    cluster.host(name)?;
    if host::find_nspawn(&cluster.name, name).is_none() {
        bail!("{name} is down already");
    }
    host::kill(&cluster.name, name);
    if let Some(entry) = cluster.hosts.iter_mut().find(|entry| entry.name == name) {
        entry.nspawn_pid = None;
        entry.leader_pid = None;
    }
    cluster.save(paths)?;
    say(&format!(
        "{name} is dead; `deisctl cluster boot {name}` starts it again"
    ));
    Ok(())
}
