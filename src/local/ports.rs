//! Who holds a port.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::bail;

use super::procs;

/// Ports of the entry point.
pub const ENTRY: [u16; 3] = [80, 443, 2222];

/// The addresses on which the entry point listens.
pub fn entry_addresses() -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = ENTRY
        .iter()
        .map(|port| (Ipv4Addr::LOCALHOST, *port).into())
        .collect();
    if fs::metadata("/proc/sys/net/ipv6").is_ok() {
        addresses.extend(
            ENTRY
                .iter()
                .map(|port| SocketAddr::from((Ipv6Addr::LOCALHOST, *port))),
        );
    }
    addresses
}

/// Fails with the owner of each port of the entry point that is taken.
pub fn expect_free() -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for address in entry_addresses() {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                taken.push(format!("{address} is taken by {}", owner(address.port())));
            }
            // No ::1 on this machine: the entry point does without.
            Err(_) if address.is_ipv6() => {}
            Err(error) => bail!("can't listen on {address}: {error}"),
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    bail!(
        "{}. Stop it (or use another network namespace: --netns NAME) and try again",
        taken.join("; ")
    )
}

/// The process that listens on a port, as "name (pid 7)".
pub fn owner(port: u16) -> String {
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table)
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(state), Some(inode)) =
                (words.get(1), words.get(3), words.get(9))
            else {
                continue;
            };
            if *state == "0A" && local.ends_with(&format!(":{port:04X}")) {
                inodes.push(format!("socket:[{inode}]"));
            }
        }
    }
    for pid in procs::pids() {
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for fd in fds.flatten() {
            let Ok(link) = fs::read_link(fd.path()) else {
                continue;
            };
            if inodes
                .iter()
                .any(|inode| link.as_os_str() == inode.as_str())
            {
                return format!("{} (pid {pid})", procs::name(pid));
            }
        }
    }
    "a process that can't be seen from here".to_owned()
}
