//! The network of app and build containers, and what they may not reach through it. Set up anew at
//! each start of the agent; doing it twice changes nothing.

use std::{io, net::IpAddr, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time};

use super::paths::{Durability, Paths, write_atomic};
use crate::render::unit::NETWORK;

const RULES: &str = include_str!("../../templates/podman/isolation.nft");
/// How long one program may take.
const LIMIT: Duration = Duration::from_secs(20);
/// The bridge's address; its containers are led up to it (see the rules).
const MAC: &str = "02:de:15:00:00:01";
/// Networks for containers: the first that the host is not in itself.
const SUBNETS: [(&str, &str, u8); 2] = [
    ("10.87.0.0/16", "10.87.0.1", 87),
    ("10.88.0.0/16", "10.88.0.1", 88),
];

/// Why containers can't be kept apart.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// A program failed.
    #[error(
        "{program} failed: {reason}; without it containers would reach the platform's inner ports"
    )]
    Program {
        /// Which one.
        program: String,
        /// What it said.
        reason: String,
    },
    /// The network's file can't be written.
    #[error("the container network's file can't be written")]
    Network(#[source] io::Error),
}

/// Which subnet the containers of a host get.
fn subnet(address: IpAddr) -> (&'static str, &'static str) {
    let taken = |second: u8| matches!(address, IpAddr::V4(a) if a.octets()[..2] == [10, second]);
    let (subnet, gateway, _) = if taken(SUBNETS[0].2) {
        SUBNETS[1]
    } else {
        SUBNETS[0]
    };
    (subnet, gateway)
}

/// The rules for a host.
fn rules(address: IpAddr) -> String {
    let (subnet, gateway) = subnet(address);
    let hosts = match address {
        IpAddr::V4(a) => format!("{}.{}.{}.0/24", a.octets()[0], a.octets()[1], a.octets()[2]),
        // Containers have no IPv6 beyond the bridge, and that is refused as a whole.
        IpAddr::V6(_) => "127.0.0.0/8".into(),
    };
    RULES
        .replace("@HOSTS@", &hosts)
        .replace("@SUBNET@", subnet)
        .replace("@GATEWAY@", gateway)
        .replace("@MAC@", MAC)
}

/// podman's own description of the network (netavark): the text that `podman network create` writes,
/// with a name for the bridge, which 4.3 has no option for.
fn network(address: IpAddr) -> String {
    let (subnet, gateway) = subnet(address);
    format!(
        r#"{{"name":"{NETWORK}","id":"de15de15de15de15de15de15de15de15de15de15de15de15de15de15de15de15",
"driver":"bridge","network_interface":"deis0","created":"2026-01-01T00:00:00Z",
"subnets":[{{"subnet":"{subnet}","gateway":"{gateway}"}}],"ipv6_enabled":false,"internal":false,
"dns_enabled":false,"ipam_options":{{"driver":"host-local"}}}}
"#
    )
}

/// Makes the bridge, podman's network and the rules.
///
/// # Errors
/// When one can't be made: no app may then be started.
pub async fn set_up(paths: &Paths, address: IpAddr) -> Result<(), IsolationError> {
    let (subnet, gateway) = subnet(address);
    let dir = paths.at("/etc/containers/networks");
    let file = dir.join(format!("{NETWORK}.json"));
    let text = network(address);
    if std::fs::read_to_string(&file).ok().as_deref() != Some(text.as_str()) {
        std::fs::create_dir_all(&dir).map_err(IsolationError::Network)?;
        write_atomic(&file, text.as_bytes(), 0o644, Durability::Disk)
            .map_err(IsolationError::Network)?;
    }
    // The rules come first: they name the bridge, which need not exist yet.
    run("nft", &["-f", "-"], &rules(address)).await?;
    let prefix = subnet.split_once('/').map_or("16", |(_, prefix)| prefix);
    if run("ip", &["link", "show", "deis0"], "").await.is_err() {
        run(
            "ip",
            &["link", "add", "deis0", "address", MAC, "type", "bridge"],
            "",
        )
        .await?;
    }
    run("ip", &["link", "set", "deis0", "address", MAC, "up"], "").await?;
    run(
        "ip",
        &[
            "address",
            "replace",
            &format!("{gateway}/{prefix}"),
            "dev",
            "deis0",
        ],
        "",
    )
    .await?;
    // netavark removes a bridge with its last container, and a new one would have another address:
    // one end of a pair of our own stays in it.
    if run("ip", &["link", "show", "deis0-keep"], "")
        .await
        .is_err()
    {
        run(
            "ip",
            &[
                "link",
                "add",
                "deis0-keep",
                "type",
                "veth",
                "peer",
                "name",
                "deis0-peer",
            ],
            "",
        )
        .await?;
    }
    run(
        "ip",
        &["link", "set", "deis0-keep", "master", "deis0", "up"],
        "",
    )
    .await?;
    run("ip", &["link", "set", "deis0-peer", "up"], "").await?;
    std::fs::write(paths.at("/proc/sys/net/ipv4/ip_forward"), "1").map_err(IsolationError::Network)
}

async fn run(program: &str, args: &[&str], input: &str) -> Result<(), IsolationError> {
    let failed = |reason: String| IsolationError::Program {
        program: format!("{program} {}", args.join(" ")),
        reason,
    };
    let work = async {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    match time::timeout(LIMIT, work).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no end within {} s", LIMIT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled() {
        for address in ["10.21.8.101", "10.87.3.1", "203.0.113.7", "2001:db8::1"] {
            let address: IpAddr = address.parse().expect("address");
            let rules = rules(address);
            assert!(
                !rules.contains('@') || rules.matches('@').count() == 2,
                "{rules}"
            );
            assert!(serde_json::from_str::<serde_json::Value>(&network(address)).is_ok());
        }
        assert!(rules("10.87.3.1".parse().expect("address")).contains("10.88.0.0/16"));
    }
}
