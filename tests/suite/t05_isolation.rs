//! What an app's container can't reach.

use crate::support::*;

#[test]
fn the_control_plane_is_out_of_reach() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "curious");
    let neighbour = App::pushed(&user, "neighbour");
    app.deis(&["scale", "web=3"]).ok();
    neighbour.deis(&["scale", "web=3"]).ok();

    let list = cluster
        .etcdctl(
            &cluster.hosts[0],
            "get --prefix --print-value-only /deis/services/neighbour",
        )
        .ok()
        .out;
    let mut targets: Vec<(String, String)> = list
        .split_whitespace()
        .map(|address| ("another app's port".to_owned(), address.to_owned()))
        .collect();
    assert_eq!(targets.len(), 3, "{list}");
    for host in &cluster.hosts {
        for (what, port) in [
            ("etcd", 2379),
            ("etcd peers", 2380),
            ("registry", 5000),
            ("controller", 8000),
            ("logger", 5140),
            ("logger's HTTP", 8088),
            ("builder", 2223),
            ("sshd", 22),
            ("router's health", 9090),
            ("agent's figures", 9091),
        ] {
            targets.push((what.to_owned(), format!("{}:{port}", host.address)));
        }
    }
    targets.push(("cloud metadata".to_owned(), "169.254.169.254:80".to_owned()));

    for host in &cluster.hosts {
        let name = cluster
            .sh(
                host,
                "podman ps --format '{{.Names}}' --filter name=^curious_",
            )
            .ok()
            .out;
        let name = name.trim();
        assert!(!name.is_empty(), "curious runs on {}", host.name);
        // Each host has a bridge of its own, and the same addresses on it.
        let inside = cluster.sh(host, "podman inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' $(podman ps -q --filter name=^neighbour_)").ok().out;
        let mut targets = targets.clone();
        targets.push((
            "another container on the bridge".to_owned(),
            format!("{}:5000", inside.trim()),
        ));
        let said = knock(&cluster, host, name, &targets);
        for ((what, target), said) in targets.iter().zip(said.lines()) {
            assert!(
                ["refused", "unreachable", "timed out", "prohibited"]
                    .iter()
                    .any(|no| said.contains(no)),
                "{what} ({target}) from {name} on {}: {said}",
                host.name
            );
        }
        let sockets = cluster.sh(host, &format!("podman exec {name} ls /run/deis /run/podman /run/systemd /var/run/docker.sock 2>/dev/null"));
        assert!(sockets.out.trim().is_empty(), "{sockets:#?}");
        let caps = cluster
            .sh(
                host,
                &format!("podman exec {name} grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"),
            )
            .ok()
            .out;
        assert!(
            caps.contains("NoNewPrivs:\t1") && caps.contains("Seccomp:\t2"),
            "{caps}"
        );
    }
}

/// What a container gets to hear from each target, a line each: all are tried at once.
fn knock(cluster: &Cluster, host: &Host, container: &str, targets: &[(String, String)]) -> String {
    let script = r#"
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def knock(target):
    address, port = target.rsplit(":", 1)
    try:
        socket.create_connection((address, int(port)), 3)
        return "open"
    except OSError as error:
        return str(error) or type(error).__name__
for said in ThreadPoolExecutor(64).map(knock, sys.argv[1:]):
    print(said)
"#;
    let list: Vec<&str> = targets.iter().map(|(_, target)| target.as_str()).collect();
    let command = format!(
        "podman exec {container} python3 -c '{script}' {}",
        list.join(" ")
    );
    let said = cluster.sh(host, &command).ok().out;
    assert_eq!(
        said.lines().count(),
        targets.len(),
        "an answer for each: {said}"
    );
    said
}
