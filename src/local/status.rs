//! `deisctl cluster status`.

use std::net::SocketAddr;

use super::report::say;
use super::state::{Cluster, Paths, Reached};
use super::{forward, host, http, net, up};

/// Prints what is up; `false` if something that should be up is not.
pub fn status(name: &str) -> anyhow::Result<bool> {
    let paths = Paths::new(name)?;
    let Some(cluster) = Cluster::load(&paths)? else {
        say(&format!("no local cluster {name:?}: `make up` makes one"));
        return Ok(false);
    };
    net::enter(cluster.netns.as_deref())?;
    let place = cluster.netns.as_ref().map_or(String::new(), |netns| {
        format!(", network namespace {netns}")
    });
    say(&format!(
        "cluster {}: {} hosts, bridge {}{place}",
        cluster.name,
        cluster.hosts.len(),
        net::bridge(name)
    ));
    let mut whole = true;
    say(&format!(
        "{:<10} {:<14} {:<8} {:<22} {:<10} {:<10} {}",
        "HOST", "ADDRESS", "LEADER", "SYSTEM", "ETCD", "AGENT", "ROUTER"
    ));
    for host in &cluster.hosts {
        let running = host::running(name, &host.name);
        let (leader, system, agent) = match running {
            Some((_, leader)) => {
                let agent = super::command::within(
                    std::time::Duration::from_secs(5),
                    &mut host::enter(leader, &["systemctl", "is-active", "deis-agent.service"]),
                )?;
                let agent = agent.map_or("silent".to_owned(), |(_, said)| said.trim().to_owned());
                (leader.to_string(), host::system_state(leader)?, agent)
            }
            None => ("-".to_owned(), "down".to_owned(), "-".to_owned()),
        };
        let etcd = match (host.etcd_member, running) {
            (false, _) => "client",
            (true, None) => "down",
            (true, Some(_)) => match up::etcd_health(&cluster, host) {
                Ok(()) => "healthy",
                Err(_) => "unhealthy",
            },
        };
        let router = match running
            .map(|_| http::get(SocketAddr::from((host.address, 9090)), "/health-check"))
        {
            Some(Ok((200, _))) => "healthy".to_owned(),
            Some(Ok((status, _))) => format!("says {status}"),
            Some(Err(_)) | None => "-".to_owned(),
        };
        whole &= running.is_some() && etcd != "unhealthy" && agent == "active";
        say(&format!(
            "{:<10} {:<14} {:<8} {:<22} {:<10} {:<10} {}",
            host.name, host.address, leader, system, etcd, agent, router
        ));
    }
    match forward::running(&paths) {
        Some(pid) => say(&format!(
            "entry point: up (pid {pid}), ports 80, 443 and 2222 of 127.0.0.1 and ::1"
        )),
        None => {
            whole = false;
            say("entry point: down (`make up` starts it again)");
        }
    }
    match up::machines(&cluster) {
        Ok(count) => say(&format!("machines registered: {count}")),
        Err(error) => say(&format!("machines registered: unknown ({error:#})")),
    }
    say(&match cluster.reached {
        Reached::Nothing => {
            "`make up` did not come to its end: once more, or `make down`".to_owned()
        }
        Reached::Hosts => "platform: not started (`make up` does)".to_owned(),
        Reached::Platform => {
            format!(
                "controller: http://deis.{}, no example app (`make up` makes it)",
                cluster.domain
            )
        }
        Reached::Demo => {
            format!(
                "controller: http://deis.{0}, example: http://hello.{0}",
                cluster.domain
            )
        }
    });
    Ok(whole && cluster.reached > Reached::Nothing)
}
