//! Custom domains, certificates by SNI and whitelists, on each router, live.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::support::*;

/// A change is served so soon, also on a machine that is busy with other things (alone it is well below a
/// second: docs/benchmarks.md); a look that has begun in time may end later.
const SOON: Duration = Duration::from_secs(10);

fn openssl(dir: &Path, script: &str) -> Ran {
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-ec", script]);
    run(&mut command, MINUTE)
}

/// A certificate for these names by an authority of its own: `<name>.crt` with its chain, and
/// `<name>.key`.
fn certificate(dir: &Path, name: &str, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let script = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
           -subj '/CN=Suite CA' -keyout ca.key -out ca.crt 2>&1
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN={name}' \
           -keyout {name}.key -out {name}.csr 2>&1
         printf 'subjectAltName={}\\nbasicConstraints=CA:FALSE\\n' >ext
         openssl x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 20 \
           -extfile ext -out leaf.crt 2>&1
         cat leaf.crt ca.crt >{name}.crt",
        names.join(",")
    );
    openssl(dir, &script).ok();
}

/// The fingerprint of a file's first certificate.
fn fingerprint(dir: &Path, file: &str) -> String {
    let script = format!("openssl x509 -noout -fingerprint -sha256 -in {file}");
    openssl(dir, &script).ok().out
}

/// The fingerprint of what each router shows for a name.
fn shown(cluster: &Cluster, name: &str) -> BTreeMap<String, String> {
    let shown = cluster.hosts.iter().map(|host| {
        let script = format!(
            "openssl s_client -connect {}:443 -servername {name} </dev/null 2>/dev/null \
             | openssl x509 -noout -fingerprint -sha256",
            host.address
        );
        (host.name.clone(), openssl(Path::new("/"), &script).all())
    });
    shown.collect()
}

/// Waits until all routers show this certificate for a name.
fn all_show(cluster: &Cluster, name: &str, want: &BTreeMap<String, String>) {
    eventually(
        &format!("{name}'s certificate on each router"),
        SOON,
        || {
            let seen = shown(cluster, name);
            if seen == *want {
                Ok(())
            } else {
                Err(format!("{seen:?} instead of {want:?}"))
            }
        },
    );
}

/// What each router answers to a host name.
fn answers(cluster: &Cluster, host_name: &str) -> Vec<u16> {
    let statuses = cluster.hosts.iter().map(|host| {
        let answer = get(&format!("{}:80", host.address), host_name, "/");
        answer.map_or(0, |answer| answer.status)
    });
    statuses.collect()
}

fn all_answer(cluster: &Cluster, host_name: &str, status: u16) {
    eventually(&format!("{status} for {host_name}"), SOON, || {
        let seen = answers(cluster, host_name);
        if seen.iter().all(|seen| *seen == status) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
}

#[test]
fn domains_lead_to_their_app_at_once() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "named");
    let other = App::create(&user, "othername", &[("Procfile", "web: true\n")]);
    all_answer(&cluster, "www.named.test", 404);
    let added = app.deis(&["domains:add", "www.named.test"]).ok();
    assert_eq!(added.out, "Adding www.named.test to named... done\n");
    all_answer(&cluster, "www.named.test", 200);
    let list = app.deis(&["domains:list"]).ok().out;
    assert_eq!(list, "=== named Domains\nwww.named.test\n");

    for (on, domain, want) in [
        (&other, "www.named.test", "already in use by another app"),
        (&app, "www.named.test", "This field must be unique."),
        (&app, "not_a.domain", "Hostname does not look valid."),
        (&app, "othername.localhost", "belongs to the platform"),
    ] {
        let refused = on.deis(&["domains:add", domain]).refused();
        assert!(
            refused.err.contains("400 BAD REQUEST") && refused.err.contains(want),
            "{refused:#?}"
        );
    }
    // A wildcard catches what nobody has taken more exactly.
    app.deis(&["domains:add", "*.wild.named.test"]).ok();
    all_answer(&cluster, "any.wild.named.test", 200);
    all_answer(&cluster, "one.more.wild.named.test", 404);
    other.deis(&["domains:add", "one.wild.named.test"]).ok();
    all_answer(&cluster, "one.wild.named.test", 503);

    app.deis(&["domains:remove", "www.named.test"]).ok();
    all_answer(&cluster, "www.named.test", 404);
    app.destroy();
    all_answer(&cluster, "any.wild.named.test", 404);
    let left = cluster
        .etcdctl(&cluster.hosts[0], "get --prefix --keys-only /deis/domains")
        .ok();
    assert!(!left.out.contains("/*.wild"), "{left:?}");
    other.deis(&["domains:add", "www.named.test"]).ok();
}

#[test]
fn certificates_are_served_by_name_on_each_router() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let dir = tempfile::tempdir().expect("dir");
    let file = |name: &str| -> String {
        let path: PathBuf = dir.path().join(name);
        path.display().to_string()
    };
    let name = "www.certs.test";
    // A former run's.
    let _ = user.deis(&["certs:remove", name]);
    let platform = shown(&cluster, name);
    assert!(
        platform.values().all(|seen| seen.contains("Fingerprint=")),
        "{platform:?}"
    );
    certificate(dir.path(), name, &[name, "certs.test", "*.wild.certs.test"]);
    let want: BTreeMap<String, String> = cluster
        .hosts
        .iter()
        .map(|host| {
            (
                host.name.clone(),
                fingerprint(dir.path(), &format!("{name}.crt")),
            )
        })
        .collect();
    let (crt, key) = (file(&format!("{name}.crt")), file(&format!("{name}.key")));

    // A key of another pair never gets as far as a router.
    openssl(
        dir.path(),
        "openssl genpkey -algorithm ed25519 -out other.key",
    )
    .ok();
    let refused = user
        .deis(&["certs:add", &crt, &file("other.key")])
        .refused();
    let why = "key: the private key does not belong to the certificate";
    assert!(refused.err.contains(why), "{refused:#?}");

    let added = user.deis(&["certs:add", &crt, &key]).ok();
    assert_eq!(added.out, "Adding SSL endpoint... done\n");
    for host in [name, "certs.test", "any.wild.certs.test"] {
        all_show(&cluster, host, &want);
    }
    assert_eq!(
        shown(&cluster, "other.test"),
        platform,
        "others get the platform's"
    );
    let list = user.deis(&["certs:list"]).ok();
    assert!(list.out.contains("www.certs.test     2"), "{list:#?}");
    assert!(
        list.err.contains("www.certs.test expires in 19 days"),
        "{list:#?}"
    );
    let info = user.deis(&["certs:info", name]).ok().out;
    let pairs = want.values().next().and_then(|line| line.split_once('='));
    let pairs = pairs.expect("fingerprint").1.trim();
    assert!(
        info.contains(pairs) && info.contains("issuer:      CN=Suite CA"),
        "{info}"
    );

    // The chain is complete: who trusts its authority reads the page.
    let app = App::pushed(&user, "secure");
    app.deis(&["domains:add", name]).ok();
    all_answer(&cluster, name, 200);
    for host in &cluster.hosts {
        for version in ["--tls-max 1.2 --tlsv1.2", "--tlsv1.3"] {
            let script = format!(
                "curl -sS --noproxy '*' --fail {version} --cacert ca.crt --resolve {name}:443:{} \
                 https://{name}/headers",
                host.address
            );
            let page = openssl(dir.path(), &script).ok().out.to_lowercase();
            assert!(page.contains(r#""x-forwarded-proto": "https""#), "{page}");
        }
    }

    // A record that is broken in etcd harms itself only, and routes go on changing.
    let broken = r#"put /deis/certs/broken.certs.test '{"name": 1}'"#;
    cluster.etcdctl(&cluster.hosts[0], broken).ok();
    app.deis(&["domains:add", "after.certs.test"]).ok();
    all_answer(&cluster, "after.certs.test", 200);
    all_show(&cluster, name, &want);
    cluster
        .etcdctl(&cluster.hosts[0], "del /deis/certs/broken.certs.test")
        .ok();

    // In etcd and on the hosts' disks the key is sealed.
    let secret = fs::read_to_string(dir.path().join(format!("{name}.key"))).expect("key");
    let line = secret.lines().nth(1).expect("a line of the key");
    let look = format!(
        "grep -rlF -e '{line}' -e 'PRIVATE KEY' /var/lib/deis/etcd /var/lib/deis/router/table.json || true"
    );
    for (host, ran) in cluster.on_all(&look) {
        assert_eq!(ran.out, "", "{host}: {ran:?}");
    }
    let saved = cluster.on_all("grep -c certs/www.certs.test /var/lib/deis/router/table.json");
    assert!(saved.values().all(|ran| ran.out.trim() == "1"), "{saved:?}");

    app.destroy();
    all_show(&cluster, name, &want);
    user.deis(&["certs:remove", name]).ok();
    for host in [name, "any.wild.certs.test"] {
        all_show(&cluster, host, &platform);
    }
    assert_eq!(user.deis(&["certs:list"]).ok().out, "No certs\n");
}

#[test]
fn a_whitelist_shuts_others_out() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "guarded");
    let name = "guarded.localhost";
    let headers = app.get("/headers").expect("answer").body.to_lowercase();
    let headers: serde_json::Value = serde_json::from_str(&headers).expect("JSON");
    assert!(headers["x-forwarded-for"].is_string(), "{headers}");

    let bad = app
        .deis(&["config:set", "DEIS_WHITELIST=everybody"])
        .refused();
    assert!(
        bad.err
            .contains("\"everybody\" is neither an address nor a network"),
        "{bad:#?}"
    );
    app.deis(&["config:set", "DEIS_WHITELIST=192.0.2.7:office"])
        .ok();
    all_answer(&cluster, name, 403);
    // What one says of oneself proves nothing.
    let mut connection = Connection::open("127.0.0.1:80").expect("connection");
    let lie = format!("GET / HTTP/1.1\r\nHost: {name}\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
    let answer = connection.request(&lie).expect("answer");
    assert_eq!(answer.status, 403, "{answer:?}");

    // All that come from here do so by a private address or loopback.
    let here = "10.0.0.0/8:a,172.16.0.0/12:b,192.168.0.0/16:c,127.0.0.0/8:d,100.64.0.0/10:e,\
                169.254.0.0/16:f,fc00::/7,fe80::/10,::1";
    app.deis(&["config:set", &format!("DEIS_WHITELIST={here}")])
        .ok();
    all_answer(&cluster, name, 200);
    app.deis(&["rollback", "v3"]).ok();
    all_answer(&cluster, name, 403);
    app.deis(&["scale", "web=2"]).ok();
    all_answer(&cluster, name, 403);
    app.deis(&["config:unset", "DEIS_WHITELIST"]).ok();
    all_answer(&cluster, name, 200);
}
