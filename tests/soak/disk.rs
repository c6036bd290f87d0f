//! A host whose disk is full.

use std::{path::PathBuf, process::Command, thread, time::Duration};

use crate::{
    ground::{APP, Ground, Notes, none_failed, setting},
    support::*,
};

/// Room that the small disk has beyond what is on it.
const ROOM_MIB: u64 = 400;

fn sh(script: &str) -> Ran {
    run(Command::new("sh").args(["-ec", script]), 5 * MINUTE).ok()
}

/// Puts all that a host writes onto a small disk of its own: the hosts' trees lie on this machine's
/// disk, which must not be filled. The cluster's end removes it with the host.
fn give_small_disk(ground: &Ground, host: &Host) {
    let cluster = &ground.cluster;
    let dir = PathBuf::from(format!(
        "/var/lib/deis-local/{}/hosts/{}",
        cluster.name, host.name
    ));
    cluster.kill_host(host);
    let rootfs = fs_setting(&cluster.name, "rootfs");
    sh(&format!(
        "cd {dir}; umount -l root
         used=$(du -sm upper containers | awk '{{ sum += $1 }} END {{ print sum }}')
         truncate -s $((used * 11 / 10 + {ROOM_MIB}))M small.img
         mkfs.ext4 -q -m 0 small.img; mkdir -p small; mount -o loop small.img small
         cp -a upper containers small/; mkdir small/work
         mount --bind small/containers containers
         mount -t overlay deis-local -o lowerdir={rootfs},upperdir=small/upper,workdir=small/work root",
        dir = dir.display(),
    ));
    cluster.boot_host(host);
    ground.wait_machine(host, "up", 2 * MINUTE);
}

/// A setting of the local cluster.
fn fs_setting(cluster: &str, name: &str) -> String {
    let path = format!("/var/lib/deis-local/{cluster}/cluster.yaml");
    let text = std::fs::read_to_string(&path).expect("cluster.yaml");
    let found: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
    found[name].as_str().expect("a path").to_owned()
}

pub fn disk_full(ground: &Ground, notes: &mut Notes) {
    let cluster = &ground.cluster;
    let app = ground.steady();
    let host = ground.busy_host();
    give_small_disk(ground, host);
    ground.wait_platform(2 * MINUTE);
    ground.wait_settled(2 * MINUTE);
    let length = Duration::from_secs(setting("SOAK_DISK", 60));
    let lives = cluster.lives(APP);
    let load = Load::start(APP, 50);
    // Whoever makes room, as journald does, gets none of it.
    let fill = "systemd-run -q --collect --unit=soak-fill sh -c 'while :; do cat /dev/zero >>/var/soak-fill; sleep 0.2; done'";
    cluster.sh(host, fill).ok();
    let full = eventually("its disk is full", MINUTE, || {
        let ran = cluster.sh(host, "df -k --output=avail,pcent,target / | tail -1");
        let free = ran.out.split_whitespace().next();
        match free.and_then(|kib| kib.parse::<u64>().ok()) {
            Some(kib) if kib < 1024 => Ok(ran.out),
            _ => Err(ran.all()),
        }
    });
    println!("    {}", full.trim());
    // Something to do for the agent, on whatever host the scheduler likes.
    let scaled = app.deis(&["scale", "web=6"]);
    let first_line = |text: &str| text.trim().lines().last().unwrap_or_default().to_owned();
    notes.figure(format!(
        "with a full disk on one of three hosts, a scaling {}",
        if scaled.status == Some(0) {
            "works".into()
        } else {
            format!("says: {}", first_line(&scaled.all()))
        }
    ));
    thread::sleep(length);
    let now = cluster.lives(APP);
    for (host, before) in &lives {
        let missing = before.lines().find(|line| !now[host].contains(line));
        assert_eq!(
            missing, None,
            "what ran on {host} runs on: {:#?}",
            now[host]
        );
    }
    let router = format!("{}:80", host.address);
    let answer = get(&router, &format!("{APP}.localhost"), "/");
    assert!(
        answer.as_ref().is_ok_and(|answer| answer.status == 200),
        "{answer:?}"
    );
    let said = cluster
        .sh(host, "journalctl --no-pager -n 400 -u deis-agent")
        .out;
    let line = said.lines().rfind(|line| {
        let line = line.to_lowercase();
        line.contains("no space left") || line.contains("disk")
    });
    let spoken = line.map(|line| line.split("deisd").last().unwrap_or(line).to_owned());

    cluster
        .sh(host, "systemctl stop soak-fill; rm -f /var/soak-fill")
        .ok();
    ground.wait_platform(2 * MINUTE);
    ground.wait_machine(host, "up", MINUTE);
    eventually("changes work", 2 * MINUTE, || {
        let ran = app.deis(&["scale", "web=3"]);
        if ran.status == Some(0) {
            Ok(())
        } else {
            Err(ran.all())
        }
    });
    let settled = ground.wait_settled(2 * MINUTE);
    let etcd = cluster.etcdctl(host, "endpoint health");
    assert_eq!(etcd.status, Some(0), "its etcd is back: {etcd:?}");
    assert_eq!(cluster.lives(APP), lives, "nothing was restarted");
    notes.figure(format!(
        "settled {:.1} s after there was room again",
        settled.as_secs_f64()
    ));
    let loaded = load.finish();
    notes.figure(format!(
        "{} requests, {} failed",
        loaded.sent,
        loaded.failures.len()
    ));
    none_failed(&loaded);
    let spoken = spoken.unwrap_or_else(|| panic!("the agent says nothing of it: {said}"));
    notes.figure(format!("the agent says: {spoken}"));
}
