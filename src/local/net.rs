//! The cluster's network: a bridge, and on request a network namespace around it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{command, output, run, succeeds};
use super::state::{Cluster, Paths};
use super::sysctl;

/// The bridge's subnet, the same for each cluster.
pub const SUBNET: &str = "10.21.8.0/24";
/// The bridge's address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 21, 8, 1);
/// The domain of a local cluster: nss-myhostname leads it to loopback.
pub const DOMAIN: &str = "localhost";

/// Address of the host with that number, from 1.
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 21, 8, 100 + number)
}

/// The bridge.
pub fn bridge(cluster: &str) -> String {
    format!("dl-{cluster}")
}

/// The pair that leads out of a namespace: outer and inner end.
fn pair(cluster: &str) -> (String, String) {
    (format!("dlo-{cluster}"), format!("dli-{cluster}"))
}

/// Our nft table.
fn table(cluster: &str) -> String {
    format!("deis-local-{cluster}")
}

fn netns_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Moves this thread, and whatever it starts, into the cluster's network namespace.
pub fn enter(netns: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = netns else { return Ok(()) };
    let path = netns_file(name);
    let file = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(LinkNameSpaceType::Network),
    )
    .with_context(|| format!("enter the network namespace {name}"))
}

/// Makes the namespace with its way out. Runs outside of it.
pub fn make_namespace(paths: &Paths, netns: &str) -> anyhow::Result<()> {
    if !netns_file(netns).exists() {
        paths.note(&format!("netns {netns}"))?;
        if !Path::new("/run/netns").exists() {
            paths.note("netns-dir /run/netns")?;
        }
        run(&["ip", "netns", "add", netns])?;
    }
    let (outer, inner) = pair(&paths.name);
    if !link_exists(&outer) {
        let third = free_pair_number()?;
        let at = ["nsenter", &format!("--net={}", netns_file(netns).display())].map(str::to_owned);
        let inside = |words: &[&str]| {
            let mut all: Vec<&str> = at.iter().map(String::as_str).collect();
            all.extend(words);
            run(&all).map(|_| ())
        };
        run(&[
            "ip", "link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", netns,
        ])?;
        run(&[
            "ip",
            "address",
            "add",
            &format!("10.21.9.{}/30", third + 1),
            "dev",
            &outer,
        ])?;
        run(&["ip", "link", "set", &outer, "up"])?;
        inside(&["ip", "link", "set", "lo", "up"])?;
        inside(&[
            "ip",
            "address",
            "add",
            &format!("10.21.9.{}/30", third + 2),
            "dev",
            &inner,
        ])?;
        inside(&["ip", "link", "set", &inner, "mtu", &mtu().to_string(), "up"])?;
        inside(&[
            "ip",
            "route",
            "add",
            "default",
            "via",
            &format!("10.21.9.{}", third + 1),
        ])?;
    }
    sysctl::hold(&paths.name, "net.ipv4.ip_forward", "1")?;
    masquerade(&paths.name, "10.21.9.0/24", &outer)
}

/// The first /30 of 10.21.9.0/24 that no cluster uses.
fn free_pair_number() -> anyhow::Result<u8> {
    let used = run(&["ip", "-4", "-oneline", "address"])?;
    (0..=252)
        .step_by(4)
        .find(|third| !used.contains(&format!(" 10.21.9.{}/30", third + 1)))
        .context("no room in 10.21.9.0/24 for one more cluster")
}

fn link_exists(name: &str) -> bool {
    succeeds(&["ip", "link", "show", "dev", name])
}

/// Deletes a link of the current namespace if it's there.
pub fn delete_link(name: &str) -> anyhow::Result<()> {
    if link_exists(name) && !succeeds(&["ip", "link", "delete", name]) && link_exists(name) {
        run(&["ip", "link", "delete", name])?;
    }
    Ok(())
}

/// The MTU of the way out, so that nothing has to be cut on it.
pub fn mtu() -> u32 {
    let route = run(&["ip", "-4", "route", "show", "default"]).unwrap_or_default();
    let mut words = route.split_whitespace();
    let device = words.find(|word| *word == "dev").and_then(|_| words.next());
    device
        .and_then(|device| fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok())
        .and_then(|mtu| mtu.trim().parse().ok())
        .unwrap_or(1500)
        .min(1500)
}

/// Makes the bridge in the current namespace, with forwarding and masquerade.
pub fn make_bridge(cluster: &Cluster, mtu: u32) -> anyhow::Result<()> {
    let bridge = bridge(&cluster.name);
    if !link_exists(&bridge) {
        let taken = run(&["ip", "-4", "-oneline", "address"])?;
        if let Some(line) = taken
            .lines()
            .find(|line| line.contains(&format!(" {GATEWAY}/")))
        {
            let owner = line.split_whitespace().nth(1).unwrap_or("?");
            bail!(
                "{GATEWAY} is already the address of {owner}: another cluster runs here; `deisctl cluster down --name ...` it, or give this one a network namespace of its own: --netns NAME"
            );
        }
        run(&["ip", "link", "add", &bridge, "type", "bridge"])?;
        run(&["ip", "link", "set", &bridge, "mtu", &mtu.to_string()])?;
        run(&[
            "ip",
            "address",
            "add",
            &format!("{GATEWAY}/24"),
            "dev",
            &bridge,
        ])?;
        run(&["ip", "link", "set", &bridge, "up"])?;
    }
    match &cluster.netns {
        None => sysctl::hold(&cluster.name, "net.ipv4.ip_forward", "1")?,
        Some(_) => sysctl::set("net.ipv4.ip_forward", "1")?,
    }
    masquerade(&cluster.name, SUBNET, &bridge)
}

/// Our nft table: what comes from the subnet and leaves by another link gets our address.
fn masquerade(cluster: &str, subnet: &str, link: &str) -> anyhow::Result<()> {
    let table = table(cluster);
    let rules = format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n\
         ip saddr {subnet} oifname != {{ \"{link}\", \"lo\" }} masquerade\n }}\n}}\n"
    );
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("rules.nft");
    fs::write(&file, rules)?;
    output(&mut command(&[Path::new("nft"), Path::new("-f"), &file])).map(|_| ())?;
    // Docker and some firewalls drop what is forwarded unless told otherwise.
    if succeeds(&["nft", "list", "chain", "ip", "filter", "DOCKER-USER"]) {
        for way in ["-i", "-o"] {
            let rule = ["DOCKER-USER", way, link, "-j", "ACCEPT"];
            let with = |action: &'static str| {
                let mut words = vec!["iptables", action];
                words.extend(rule);
                words
            };
            if !succeeds(&with("-C")) {
                run(&with("-I"))?;
            }
        }
    }
    Ok(())
}

/// Removes everything of a cluster's network, by its names. Runs outside of a namespace.
pub fn remove(paths: &Paths) -> anyhow::Result<()> {
    let cluster = &paths.name;
    let (outer, _) = pair(cluster);
    // The kernel takes links of dead hosts along, but not at once.
    for number in 1..=99 {
        let link = format!("vb-{cluster}-{number:02}");
        if Path::new("/sys/class/net").join(&link).exists() {
            delete_link(&link)?;
        }
    }
    for link in [bridge(cluster), outer] {
        for way in ["-i", "-o"] {
            let rule = ["iptables", "-D", "DOCKER-USER", way, &link, "-j", "ACCEPT"];
            while link_exists(&link) && succeeds(&rule) {}
        }
        if link_exists(&link) {
            run(&["ip", "link", "delete", &link])?;
        }
    }
    if succeeds(&["nft", "list", "table", "ip", &table(cluster)]) {
        run(&["nft", "delete", "table", "ip", &table(cluster)])?;
    }
    for netns in paths.noted("netns") {
        if netns_file(&netns).exists() {
            run(&["ip", "netns", "delete", &netns])?;
        }
    }
    for dir in paths.noted("netns-dir") {
        let empty = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
        if empty {
            // `ip netns add` leaves the directory mounted on itself.
            super::procs::unmount_below(Path::new(&dir))?;
            let _ = fs::remove_dir(&dir);
        }
    }
    sysctl::release(cluster)
}
