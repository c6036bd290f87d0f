//! What the platform promises its users, feature by feature, where no other file has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::support::*;

/// An app that can be made sick, forgets itself at will, and grows.
const APP: &str = include_str!("app/moody.py");

const FILES: [(&str, &str); 2] = [
    ("app.py", APP),
    ("Procfile", "web: python3 app.py\nworker: sleep 1000000\n"),
];

fn moody<'a>(user: &'a User, name: &str) -> App<'a> {
    let app = App::create(user, name, &FILES);
    app.push().ok();
    app
}

/// The container behind each process of an app, by `web.1`.
fn containers(cluster: &Cluster, app: &str) -> BTreeMap<String, String> {
    let script = format!(
        "podman ps --no-trunc --format '{{{{.Names}}}} {{{{.ID}}}}' --filter name=^{app}_v"
    );
    let mut found = BTreeMap::new();
    for ran in cluster.on_all(&script).into_values() {
        for line in ran.ok().out.lines() {
            let (name, id) = line.split_once(' ').expect("a name and an id");
            // blog_v7.web.1 or blog_v7.web.1.2
            let slot: Vec<&str> = name.split('.').skip(1).take(2).collect();
            let before = found.insert(slot.join("."), id.to_owned());
            assert_eq!(before, None, "{} runs twice", slot.join("."));
        }
    }
    found
}

/// What `deis ps` says.
fn states(app: &App<'_>) -> BTreeSet<String> {
    let out = app.deis(&["ps"]).ok().out;
    let lines = out.lines().filter(|line| line.contains(" (v"));
    // Without the figures.
    let state = |line: &str| {
        line.split_inclusive(')')
            .next()
            .unwrap_or(line)
            .trim()
            .to_owned()
    };
    lines.map(state).collect()
}

fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// A request on a connection of its own, with a token or without.
fn call(token: Option<&str>, method: &str, path: &str, body: &str) -> Answer {
    let authorization = token.map_or(String::new(), |t| format!("Authorization: token {t}\r\n"));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: deis.localhost\r\n{authorization}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = Connection::open("127.0.0.1:80").expect("connection");
    connection.request(&request).expect("answer")
}

fn token(user: &User) -> String {
    let text = fs::read_to_string(user.home.join(".deis/client.json")).expect("profile");
    let profile: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    profile["token"].as_str().expect("a token").to_owned()
}

#[test]
fn accounts() {
    let cluster = Cluster::get();
    let admin = User::first(&cluster);
    let other = User::named(&cluster, "somebody");
    let users = admin.deis(&["users"]).ok().out;
    assert!(
        users.contains("tester") && users.contains("somebody"),
        "{users}"
    );
    let refused = other.deis(&["users"]).refused();
    assert!(refused.err.contains("403 FORBIDDEN"), "{refused:#?}");

    // Who may register.
    let register = |by: Option<&User>, name: &str| {
        let body =
            format!(r#"{{"username":"{name}","password":"secret-1","email":"a@example.com"}}"#);
        let token = by.map(token);
        call(token.as_deref(), "POST", "/v1/auth/register/", &body)
    };
    let mode = |mode: &str| {
        let setting = format!("registrationMode={mode}");
        cluster
            .deisctl(&["config", "controller", "set", &setting])
            .ok();
    };
    let refused = |answer: &Answer| {
        answer.head.starts_with("HTTP/1.1 403 FORBIDDEN\r\n")
            && answer.body == r#"{"detail":"Registration is disabled"}"#
    };
    mode("disabled");
    let nobody = [
        register(None, "latecomer"),
        register(Some(&admin), "latecomer"),
    ];
    mode("admin_only");
    let strangers = [
        register(None, "latecomer"),
        register(Some(&other), "latecomer"),
    ];
    let by_admin = register(Some(&admin), "latecomer");
    mode("enabled");
    assert!(nobody.iter().all(refused), "{nobody:?}");
    assert!(strangers.iter().all(refused), "{strangers:?}");
    assert_eq!(by_admin.status, 201, "{by_admin:?}");
    let cancel = call(
        Some(&token(&admin)),
        "DELETE",
        "/v1/auth/cancel/",
        r#"{"username":"latecomer"}"#,
    );
    assert_eq!(cancel.status, 204, "{cancel:?}");

    // Every answer says which API and which platform.
    for (method, path, status) in [
        ("GET", "/v1/apps/", "401 UNAUTHORIZED"),
        ("GET", "/v1/nothing/", "404 NOT FOUND"),
        ("POST", "/v1/auth/login/", "400 BAD REQUEST"),
    ] {
        let answer = call(None, method, path, if method == "POST" { "{}" } else { "" });
        let head = answer.head.to_uppercase();
        assert!(
            answer.head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer:?}"
        );
        assert!(head.contains("\nDEIS_API_VERSION: 1.7\r"), "{answer:?}");
        assert!(head.contains("\nDEIS_PLATFORM_VERSION: "), "{answer:?}");
    }

    // All tokens of all users end, the administrator's too.
    let login = |user: &User| {
        let login = [
            "login",
            "http://deis.localhost",
            "--username",
            &user.name,
            "--password",
            "secret-1",
        ];
        user.deis(&login).ok();
    };
    let before = [token(&admin), token(&other)];
    other.deis(&["auth:regenerate"]).ok();
    assert_eq!(call(Some(&before[1]), "GET", "/v1/apps/", "").status, 401);
    other.deis(&["apps"]).ok();
    other.deis(&["auth:regenerate", "--all"]).refused();
    admin.deis(&["auth:regenerate", "--all"]).ok();
    let ended = [before[0].clone(), token(&other)];
    let answers = ended.map(|token| call(Some(&token), "GET", "/v1/apps/", ""));
    // The suite's users go on.
    for folder in fs::read_dir(admin.home.parent().expect("folder")).expect("homes") {
        let home = folder.expect("home").path();
        if home.join("ready").exists() {
            let name = home
                .file_name()
                .expect("name")
                .to_string_lossy()
                .into_owned();
            login(&User { home, name });
        }
    }
    for answer in answers {
        assert!(
            answer.head.starts_with("HTTP/1.1 401 UNAUTHORIZED\r\n"),
            "{answer:?}"
        );
    }
    admin.deis(&["apps"]).ok();
}

#[test]
fn keys_and_collaborators_push() {
    let cluster = Cluster::get();
    let owner = User::first(&cluster);
    let guest = User::named(&cluster, "guest");
    let app = moody(&owner, "shared");
    let push = |user: &User| {
        app.commit(&[]);
        user.git(
            app.repo.path(),
            &["push", "-q", "deis", "HEAD:refs/heads/main"],
        )
    };
    let denied = push(&guest).refused();
    assert!(
        denied.err.contains("shared"),
        "it says what for: {denied:#?}"
    );
    app.deis(&["perms:create", "guest"]).ok();
    push(&guest).ok();
    guest.deis(&["config:set", "GUEST=1", "-a", "shared"]).ok();
    guest.deis(&["scale", "web=2", "-a", "shared"]).ok();
    let refused = guest
        .deis(&["destroy", "-a", "shared", "--confirm=shared"])
        .refused();
    assert!(refused.err.contains("403 FORBIDDEN"), "{refused:#?}");

    // A key that is removed opens nothing, within seconds; the same one added opens again.
    let public = format!("{}.pub", guest.key().display());
    let twice = guest.deis(&["keys:add", &public]).refused();
    assert!(
        twice.err.contains("This field must be unique."),
        "{twice:#?}"
    );
    guest.deis(&["keys:remove", "guest"]).ok();
    let limit = Duration::from_secs(5);
    let is_denied = |ran: Ran| match ran.err.contains("Permission denied") {
        true => Ok(()),
        false => Err(format!("{ran:#?}")),
    };
    let tried = |user: &User| user.git(app.repo.path(), &["ls-remote", "deis"]);
    eventually("the removed key is denied", limit, || {
        is_denied(tried(&guest))
    });
    guest.deis(&["keys:add", &public]).ok();
    eventually("the added key is let in", limit, || {
        let ran = tried(&guest);
        if ran.status == Some(0) {
            Ok(())
        } else {
            Err(ran.err)
        }
    });

    guest.deis(&["perms:delete", "guest", "-a", "shared"]).ok();
    push(&guest).refused();
    let refused = guest.deis(&["info", "-a", "shared"]).refused();
    assert!(refused.err.contains("403 FORBIDDEN"), "{refused:#?}");
}

#[test]
fn a_config_that_fails_leaves_no_trace() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = moody(&user, "atomic");
    app.deis(&["config:set", "GREETING=hello"]).ok();
    let before = containers(&cluster, "atomic");

    let failed = app
        .deis(&["config:set", "CRASH=at-start", "GREETING=bye"])
        .refused();
    assert!(
        failed.err.contains("503 SERVICE UNAVAILABLE"),
        "{failed:#?}"
    );
    let unhealthy = app
        .deis(&["config:set", "HEALTHCHECK_URL=/health", "SICK=yes"])
        .refused();
    assert!(
        unhealthy.err.contains("503 SERVICE UNAVAILABLE"),
        "{unhealthy:#?}"
    );
    assert_eq!(
        containers(&cluster, "atomic"),
        before,
        "the old process serves on, untouched"
    );
    assert_eq!(app.page()["greeting"], "hello");
    assert_eq!(states(&app), set(&["web.1 up (v3)"]));

    // The numbers are used up, and what failed is in no later release.
    let next = app.deis(&["config:set", "NEXT=1"]).ok();
    assert!(next.out.contains("done, v6"), "{next:#?}");
    let list = app.deis(&["config:list"]).ok().out;
    for name in ["CRASH", "SICK", "HEALTHCHECK_URL", "bye"] {
        assert!(!list.contains(name), "{list}");
    }
    assert_eq!(app.page()["greeting"], "hello");

    // Healthy at first: it comes in. Sick later: it is taken out, and comes back by itself.
    app.deis(&["config:set", "HEALTHCHECK_URL=/health"]).ok();
    assert_eq!(app.page()["release"], "v7");
    let status = |path: &str| app.get(path).map(|answer| answer.status);
    assert_eq!(status("/sicken?s=30").expect("answer"), 200);
    let becomes = |what: &str, wanted: u16| {
        eventually(what, MINUTE, || match status("/") {
            Ok(found) if found == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    becomes("the sick one gets no requests", 503);
    becomes("it is back when it is well", 200);
    assert_eq!(states(&app), set(&["web.1 up (v7)"]));
}

#[test]
fn process_types_and_restarts() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = moody(&user, "typed");
    app.deis(&["scale", "web=2", "worker=2"]).ok();
    let all = set(&[
        "web.1 up (v2)",
        "web.2 up (v2)",
        "worker.1 up (v2)",
        "worker.2 up (v2)",
    ]);
    assert_eq!(states(&app), all);

    // Workers get no requests.
    let services = "get --prefix --keys-only /deis/services/typed/";
    let keys = cluster.etcdctl(&cluster.hosts[0], services).ok().out;
    assert!(
        keys.contains(".web.") && !keys.contains(".worker."),
        "{keys}"
    );

    // What is restarted is another container of the same number; the rest is left alone.
    let mut before = containers(&cluster, "typed");
    let cases: [(&[&str], &[&str]); 3] = [
        (&["ps:restart", "web.2"], &["web.2"]),
        (&["ps:restart", "worker"], &["worker.1", "worker.2"]),
        (&["ps:restart"], &["web.1", "web.2", "worker.1", "worker.2"]),
    ];
    for (command, changed) in cases {
        app.deis(command).ok();
        assert_eq!(states(&app), all, "{command:?}");
        let after = containers(&cluster, "typed");
        let found: Vec<&str> = after
            .iter()
            .filter(|(slot, id)| before.get(*slot) != Some(id))
            .map(|(slot, _)| slot.as_str())
            .collect();
        assert_eq!((found.as_slice(), after.len()), (changed, 4), "{command:?}");
        before = after;
    }

    // Down from the highest number, up to the next free ones; zero and back.
    app.deis(&["scale", "web=0"]).ok();
    assert_eq!(app.get("/").expect("answer").status, 503);
    app.deis(&["scale", "web=1"]).ok();
    assert_eq!(app.get("/").expect("answer").status, 200);

    // A type that the Procfile has no more takes its processes along.
    app.commit(&[("Procfile", "web: python3 app.py\n")]);
    app.push().ok();
    assert_eq!(states(&app), set(&["web.1 up (v3)"]));
    let refused = app.deis(&["scale", "worker=1"]).refused();
    assert!(refused.err.contains("400 BAD REQUEST"), "{refused:#?}");
}

#[test]
fn limits_hold() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = moody(&user, "bounded");
    app.deis(&["limits:set", "web=256M"]).ok();
    app.deis(&["limits:set", "-c", "web=512"]).ok();
    let process = "bounded_v4.web.1";
    let inspect = |process: &str, format: &str| {
        let host = cluster.host_of(process);
        let script = format!("podman inspect --format '{format}' {process}");
        cluster.sh(host, &script).ok().out.trim().to_owned()
    };
    assert_eq!(
        inspect(process, "{{.HostConfig.Memory}} {{.HostConfig.CpuShares}}"),
        "268435456 512"
    );
    // The file is called otherwise in cgroup v1.
    let kernel = "find /sys/fs/cgroup -path '*bounded_v4.web.1*' \\( -name memory.max -o \
                  -name memory.limit_in_bytes \\) -exec cat {} +";
    let limits = cluster.sh(cluster.host_of(process), kernel).ok().out;
    assert!(
        limits.lines().any(|limit| limit == "268435456"),
        "the kernel has it too: {limits}"
    );

    // Whoever takes more is killed, and started again.
    let before = containers(&cluster, "bounded")["web.1"].clone();
    let _ = app.get("/grow?mb=400");
    eventually("it was killed and is back", MINUTE, || {
        let now = containers(&cluster, "bounded").get("web.1").cloned();
        let up = app.get("/").is_ok_and(|answer| answer.status == 200);
        if up && now.as_ref().is_some_and(|now| *now != before) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });

    app.deis(&["limits:unset", "web"]).ok();
    let list = app.deis(&["limits:unset", "-c", "web"]).ok().out;
    assert_eq!(list.matches("Unlimited").count(), 2, "{list}");
    // A host is bigger than that, and this is no host.
    let refused = app.deis(&["limits:set", "web=900G"]).refused();
    assert!(refused.err.contains("lack 921600 MiB"), "{refused:#?}");
    assert_eq!(states(&app), set(&["web.1 up (v6)"]));
}

#[test]
fn tags_choose_hosts() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = moody(&user, "tagged");
    app.deis(&["scale", "web=3"]).ok();
    let refused = app.deis(&["tags:set", "disk=ssd"]).refused();
    assert!(
        refused.err.contains("don't have the tags disk=ssd"),
        "{refused:#?}"
    );
    let old = set(&["web.1 up (v2)", "web.2 up (v2)", "web.3 up (v2)"]);
    assert_eq!(states(&app), old, "the old ones run on");
    assert_eq!(app.get("/").expect("answer").status, 200);

    let host = &cluster.hosts[1];
    let label = "cp /etc/deis/host.yaml /run/host.yaml.before && sed -i '/^metadata:/d' /etc/deis/host.yaml && \
        echo 'metadata: {disk: ssd}' >>/etc/deis/host.yaml && systemctl restart deis-agent";
    cluster.sh(host, label).ok();
    eventually("the host shows its label", MINUTE, || {
        let machines = cluster.deisctl(&["machines"]).out;
        if machines.contains("disk=ssd") {
            Ok(())
        } else {
            Err(machines)
        }
    });
    app.deis(&["tags:set", "disk=ssd"]).ok();
    for number in 1..=3 {
        let found = cluster.host_of(&format!("tagged_v4.web.{number}"));
        assert_eq!(found.name, host.name, "web.{number}");
    }
    app.deis(&["tags:unset", "disk"]).ok();
    let hosts: BTreeSet<&str> = (1..=3)
        .map(|n| cluster.host_of(&format!("tagged_v5.web.{n}")).name.as_str())
        .collect();
    assert_eq!(hosts.len(), 3, "spread again: {hosts:?}");
    let restore = "cat /run/host.yaml.before >/etc/deis/host.yaml && systemctl restart deis-agent";
    cluster.sh(host, restore).ok();
}

/// Nobody waits any more, or the controller that did the work is gone: the outcome is the same.
#[test]
fn changes_outlive_who_asked() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = moody(&user, "orphan");
    // Starts take a while, so that there is a middle to be killed in.
    app.deis(&["config:set", "SLOW_START=2"]).ok();
    let start = |args: &[&str]| {
        let mut command = Command::new(DEIS);
        command
            .args(args)
            .args(["-a", "orphan"])
            .env("HOME", &user.home);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .stdin(Stdio::null());
        command.spawn().expect("deis")
    };
    let rollout = || {
        let get = "get --print-value-only /deis/apps/orphan/rollout";
        let ran = cluster.etcdctl(&cluster.hosts[0], get);
        match ran.status {
            Some(0) => Ok(ran.out),
            _ => Err(ran.err),
        }
    };
    let under_way = || {
        eventually("the change is under way", MINUTE, || {
            let found = rollout()?;
            if found.contains("starting") {
                Ok(())
            } else {
                Err(found)
            }
        });
    };
    let over = |wanted: &BTreeSet<String>| {
        eventually("the change is over", 2 * MINUTE, || {
            let found = rollout()?;
            if !found.trim().is_empty() {
                return Err(found);
            }
            let states = states(&app);
            if states == *wanted {
                Ok(())
            } else {
                Err(format!("{states:?}"))
            }
        });
        let running: BTreeSet<String> = containers(&cluster, "orphan").into_keys().collect();
        let listed: BTreeSet<String> = wanted
            .iter()
            .map(|l| l.split(' ').next().expect("name").to_owned())
            .collect();
        assert_eq!(running, listed, "no orphans");
    };

    let mut client = start(&["scale", "web=3"]);
    under_way();
    client.kill().expect("killed");
    client.wait().expect("reaped");
    over(&set(&["web.1 up (v3)", "web.2 up (v3)", "web.3 up (v3)"]));

    let mut client = start(&["config:set", "ROUND=2"]);
    under_way();
    // All controllers: the elected one, and the one that holds the client's request.
    let killed = cluster.on_all("systemctl kill -s KILL 'deis-controller@*.service'");
    assert!(
        killed.values().any(|ran| ran.status == Some(0)),
        "{killed:#?}"
    );
    client.wait().expect("it ends");
    eventually("a controller answers again", MINUTE, || {
        let ran = app.deis(&["ps"]);
        if ran.status == Some(0) {
            Ok(())
        } else {
            Err(ran.err)
        }
    });
    over(&set(&["web.1 up (v4)", "web.2 up (v4)", "web.3 up (v4)"]));
    let releases = app.deis(&["releases"]).ok().out;
    assert!(
        releases.contains("v4") && !releases.contains("v5"),
        "sent twice is done once: {releases}"
    );
}

#[test]
fn two_changes_at_once_do_not_mix() {
    let cluster = Cluster::get();
    let user = User::first(&cluster);
    let app = moody(&user, "rival");
    let results = thread::scope(|scope| {
        let set = |name: &'static str| {
            let app = &app;
            let user = app.user;
            let (home, user_name, app_name) =
                (user.home.clone(), user.name.clone(), app.name.clone());
            scope.spawn(move || {
                let user = User {
                    home,
                    name: user_name,
                };
                user.deis(&["config:set", &format!("{name}=1"), "-a", &app_name])
            })
        };
        let both = [set("LEFT"), set("RIGHT")];
        both.map(|one| one.join().expect("thread"))
    });
    let done = results.iter().filter(|ran| ran.status == Some(0)).count();
    let late = results
        .iter()
        .filter(|ran| ran.err.contains("409 CONFLICT"))
        .count();
    assert!(done >= 1 && done + late == 2, "{results:#?}");
    // One after the other: the later release has what the earlier one set.
    let list = app.deis(&["config:list"]).ok().out;
    let there = ["LEFT", "RIGHT"]
        .iter()
        .filter(|name| list.contains(*name))
        .count();
    assert_eq!(there, done, "{list}");
    assert_eq!(states(&app), set(&[&format!("web.1 up (v{})", 2 + done)]));
    assert_eq!(containers(&cluster, "rival").len(), 1);
}
