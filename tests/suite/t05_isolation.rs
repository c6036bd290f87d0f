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
        ] {
            targets.push((what.to_owned(), format!("{}:{port}", host.address)));
        }
        let inside = cluster.sh(host, "podman inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' $(podman ps -q --filter name=^neighbour_)").ok().out;
        targets.push((
            "another container on the bridge".to_owned(),
            format!("{}:5000", inside.trim()),
        ));
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
        for (what, target) in &targets {
            let (address, port) = target.rsplit_once(':').expect("address");
            let script = format!(
                "podman exec {name} python3 -c \"import socket; socket.create_connection(('{address}', {port}), 3)\""
            );
            let ran = cluster.sh(host, &script);
            assert_ne!(
                ran.status,
                Some(0),
                "{what} ({target}) is open from {name} on {}",
                host.name
            );
            assert!(
                ran.err.contains("refused")
                    || ran.err.contains("unreachable")
                    || ran.err.contains("timed out")
                    || ran.err.contains("prohibited"),
                "{what}: {ran:#?}"
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
