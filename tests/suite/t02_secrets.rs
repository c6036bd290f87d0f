//! Config values: byte-equal in the process, and nowhere else.

use crate::support::*;

/// Each of these has to arrive in the process as it is.
fn corpus() -> Vec<(&'static str, String)> {
    vec![
        ("V_PLAIN", "plain".into()),
        ("V_EMPTY", String::new()),
        ("V_NEWLINES", "one\ntwo\n\nfour\n".into()),
        ("V_CRLF", "one\r\ntwo\r\n".into()),
        ("V_CR_END", "one\r".into()),
        ("V_PERCENT", "%n %i %% 100%".into()),
        ("V_DOLLAR", "$X ${HOME} $$ $(id) `id`".into()),
        ("V_QUOTES", "it's \"quoted\" 'and' \\\"so\\\" on".into()),
        ("V_BACKSLASH", "C:\\temp\\new \\n \\\\ \\".into()),
        ("V_SPACES", "  leading and trailing\t ".into()),
        ("V_HASH", "# no comment ; nor this".into()),
        ("V_EQUALS", "a=b=c".into()),
        ("V_STAR", "*".into()),
        ("V_EMOJI", "snow ☃ and 🚀 and e\u{301}".into()),
        (
            "V_INJECT",
            "x\n[Service]\nExecStartPre=/bin/touch /tmp/owned\n".into(),
        ),
        ("V_32K", "0123456789abcdef".repeat(2048)),
        ("V_32K_LINES", "0123456789abcde\n".repeat(2048)),
        ("LD_PRELOAD_LIKE", "/tmp/evil.so".into()),
    ]
}

#[test]
fn values_arrive_byte_by_byte() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "corpus");
    let corpus = corpus();
    let pairs: Vec<String> = corpus
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut args = vec!["config:set"];
    args.extend(pairs.iter().map(String::as_str));
    app.deis(&args).ok();
    assert_eq!(app.page()["release"], "v3");

    let host = cluster.host_of("corpus_v3.web.1");
    let script = "pid=$(podman inspect --format '{{.State.Pid}}' corpus_v3.web.1); base64 -w0 /proc/$pid/environ";
    let encoded = cluster.sh(host, script).ok().out;
    let bytes = decode_base64(encoded.trim());
    let environ: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    for (name, value) in &corpus {
        let want = format!("{name}={value}");
        let found = environ
            .iter()
            .find(|var| var.starts_with(format!("{name}=").as_bytes()));
        let found = found.map(|var| String::from_utf8_lossy(var).into_owned());
        assert_eq!(
            found.as_deref(),
            Some(want.as_str()),
            "{name} in the process's environment"
        );
    }
    // And read back through the API.
    let list = app.deis(&["config:list", "--oneline"]).ok().out;
    assert!(list.contains("V_PLAIN=plain"), "{list}");
    // One-off processes get them too.
    let ran = app
        .deis(&[
            "run",
            "--",
            "printf '<%s>' \"$V_CRLF\" | od -c | head -3; printf '%s' \"$V_32K_LINES\" | wc -c",
        ])
        .ok();
    assert!(
        ran.out.contains("\\r") && ran.out.contains("32768"),
        "{ran:#?}"
    );
}

#[test]
fn a_name_that_podman_itself_would_obey_does_no_harm() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "preload");
    app.deis(&[
        "config:set",
        "LD_PRELOAD=/nowhere/evil.so",
        "CONTAINERS_CONF=/nowhere",
        "TMPDIR=/nowhere",
    ])
    .ok();
    assert_eq!(app.page()["release"], "v3");
    let host = cluster.host_of("preload_v3.web.1");
    let environ = "for p in $(pgrep -x conmon); do tr '\\0' '\\n' < /proc/$p/environ; done";
    let conmon = cluster.sh(host, environ).ok().out;
    assert!(
        !conmon.contains("/nowhere"),
        "podman's own processes don't see it:\n{conmon}"
    );
    app.deis(&["config:set", "LD_PRELOAD=/nowhere/evil.so\n/and/more.so"])
        .refused();
    assert_eq!(app.page()["release"], "v3");
}

#[test]
fn a_value_is_found_nowhere() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = App::pushed(&user, "secretive");
    let secret = "xyzzy-7319-nowhere-to-be-found";
    app.deis(&[
        "config:set",
        &format!("SECRET={secret}"),
        &format!("SECRET_LINES=a\n{secret}\n"),
    ])
    .ok();
    app.commit(&[(
        "more.txt",
        "another build with the value there at build time\n",
    )]);
    app.push().ok();
    let ran = app.deis(&["run", "--", "echo ${#SECRET}"]).ok();
    assert!(
        ran.out.contains(&secret.len().to_string()),
        "the process has it: {ran:#?}"
    );

    // The needle is put together on the host, so that the search does not find itself.
    let needle = format!(
        "needle=xyzzy-7319-; needle=${{needle}}{}",
        "nowhere-to-be-found"
    );
    let searches = [
        (
            "unit files",
            "grep -rl -- \"$needle\" /run/systemd /etc/systemd",
        ),
        ("systemctl show", "systemctl show '*' | grep -- \"$needle\""),
        (
            "process arguments",
            "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null | grep -- \"$needle\" | grep -v grep",
        ),
        (
            "journal",
            "journalctl --no-pager -o export | grep -a -- \"$needle\"",
        ),
        (
            "disk",
            "grep -rlaF -- \"$needle\" /var /etc /opt /root /home /tmp --exclude-dir=proc 2>/dev/null",
        ),
        (
            "podman inspect of images",
            "podman images -q | xargs -r podman inspect | grep -- \"$needle\"",
        ),
        (
            "etcd",
            "ETCDCTL_API=3 etcdctl --endpoints http://$(hostname -I | tr ' ' '\\n' | grep ^10.21.8.):2379 get --prefix '' | grep -a -- \"$needle\"",
        ),
    ];
    for host in &cluster.hosts {
        for (place, search) in searches {
            let found = cluster.sh(host, &format!("{needle}; {search}"));
            // /var/lib/containers/storage/{overlay-containers,libpod} are tmpfs: no disk.
            let lines: Vec<&str> = found
                .out
                .lines()
                .filter(|l| {
                    !(place == "disk"
                        && ["/overlay-containers/", "/libpod/"]
                            .iter()
                            .any(|t| l.contains(t)))
                })
                .collect();
            assert!(lines.is_empty(), "{place} on {}: {lines:#?}", host.name);
        }
        let tmpfs = cluster.sh(host, "for d in overlay-containers libpod; do findmnt -no FSTYPE /var/lib/containers/storage/$d; done").ok();
        assert_eq!(
            tmpfs.out.split_whitespace().collect::<Vec<_>>(),
            ["tmpfs", "tmpfs"],
            "{}",
            host.name
        );
    }
    let keys = cluster
        .etcdctl(&cluster.hosts[0], "get --prefix /deis/apps/secretive")
        .ok()
        .out;
    assert!(
        keys.contains("\"SECRET\":\"sealed1:"),
        "names are readable, values sealed: {keys}"
    );
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is no base64"),
    };
    let mut bytes = Vec::new();
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'=')
        .map(value)
        .collect();
    for group in digits.chunks(4) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
