//! The platform and the example app, by the same commands that a user would type.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::command::{command, run, stream, wait_for};
use super::report::detail;
use super::state::{Cluster, Paths, Reached};
use super::{http, net, seed};

/// The user of the demo.
const USER: &str = "demo";
const PASSWORD: &str = "demo";
const APP: &str = "hello";

fn program(paths: &Paths, name: &str) -> PathBuf {
    paths.opt().join("bin").join(name)
}

/// Installs and starts the platform's own parts, as an operator would.
pub fn start_platform(paths: &Paths, cluster: &Cluster) -> anyhow::Result<()> {
    let domain = format!("domain={}", net::DOMAIN);
    operate(
        paths,
        cluster,
        &[
            &["config", "platform", "set", &domain],
            &["install", "platform"],
            &["start", "platform"],
        ],
    )
}

/// Gives the platform's parts their new program and units, one after the other.
pub fn refresh_platform(paths: &Paths, cluster: &Cluster) -> anyhow::Result<()> {
    operate(
        paths,
        cluster,
        &[&["install", "platform"], &["restart", "platform"]],
    )
}

/// Runs `deisctl` commands, and waits until the controller answers.
fn operate(paths: &Paths, cluster: &Cluster, steps: &[&[&str]]) -> anyhow::Result<()> {
    for step in steps {
        let deisctl = program(paths, "deisctl");
        let mut words: Vec<&std::ffi::OsStr> = vec![deisctl.as_os_str()];
        words.extend(["--cluster", cluster.name.as_str()].map(std::ffi::OsStr::new));
        words.extend(step.iter().map(std::ffi::OsStr::new));
        stream(&mut command(&words)).with_context(|| {
            let step = step.join(" ");
            format!("`deisctl list` and `deisctl status` tell how far `deisctl {step}` came")
        })?;
    }
    wait_for(
        "the controller behind a router",
        Duration::from_secs(60),
        || {
            Ok(match page(&format!("deis.{}", net::DOMAIN), "/v1/") {
                Ok((status, _)) if status < 500 && status != 404 => Ok(()),
                Ok((status, _)) => Err(format!("http://deis.{}/v1/ answers {status}", net::DOMAIN)),
                Err(error) => Err(format!("{error:#}")),
            })
        },
    )
}

/// A page through the entry point.
fn page(host: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let entry = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    http::ask("GET", entry, host, path, "", Duration::from_secs(5))
}

/// Registers a user, pushes the example and asks for its page. The user's own settings, keys and
/// known_hosts aren't touched: all that is in the cluster's `demo` directory.
pub fn demo(paths: &Paths, source: &Path) -> anyhow::Result<()> {
    let home = paths.dir.join("demo");
    fs::create_dir_all(&home)?;
    let key = home.join(".ssh/id_ed25519");
    seed::ssh_keygen(&key, "deis-demo")?;
    let path = format!(
        "{}:{}",
        paths.opt().join("bin").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let ssh = format!(
        "ssh -F none -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
        key.display(),
        home.join(".ssh/known_hosts").display()
    );
    let as_user = |words: &[&str], dir: &Path| {
        let mut user: Command = command(words);
        user.current_dir(dir)
            .env("HOME", &home)
            .env("PATH", &path)
            .env_remove("GIT_SSH_COMMAND");
        user.env("GIT_CONFIG_GLOBAL", home.join(".gitconfig"))
            .env_remove("DEIS_PROFILE");
        user.env("GIT_TERMINAL_PROMPT", "0");
        user
    };
    let app = home.join(APP);
    if app.exists() {
        fs::remove_dir_all(&app)?;
    }
    let example = source.join("examples").join(APP);
    run(&[Path::new("cp"), Path::new("-R"), &example, &app])?;
    // In the checkout's own settings, so that whoever works in it pushes by the example's key too.
    for words in [
        &["git", "init", "--quiet", "--initial-branch=main"][..],
        &["git", "config", "core.sshCommand", &ssh],
        &["git", "config", "user.name", "Demo"],
        &["git", "config", "user.email", "demo@example.com"],
        &["git", "add", "--all"],
        &["git", "commit", "--quiet", "-m", "Hello"],
    ] {
        super::command::output(&mut as_user(words, &app))?;
    }
    let controller = format!("http://deis.{}", net::DOMAIN);
    let login = ["--username", USER, "--password", PASSWORD];
    let mut register = vec![
        "deis",
        "register",
        &controller,
        "--email",
        "demo@example.com",
    ];
    register.extend(login);
    if let Err(error) = stream(&mut as_user(&register, &home)) {
        // An `up` that came this far before: the user is there.
        let mut again = vec!["deis", "login", &controller];
        again.extend(login);
        stream(&mut as_user(&again, &home)).map_err(|_| error)?;
    }
    let public = key.with_extension("pub");
    let add = ["deis", "keys:add", &public.display().to_string()].map(str::to_owned);
    let add: Vec<&str> = add.iter().map(String::as_str).collect();
    if let Err(error) = stream(&mut as_user(&add, &home)) {
        detail(&format!(
            "(the key may be there already: {})",
            error.root_cause()
        ));
    }
    if let Err(error) = stream(&mut as_user(&["deis", "create", APP], &app)) {
        detail(&format!(
            "(the app may be there already: {})",
            error.root_cause()
        ));
        stream(&mut as_user(&["deis", "git:remote", "-a", APP], &app))?;
    }
    stream(&mut as_user(&["git", "push", "deis", "main"], &app)).context("git push deis main")?;
    let host = format!("{APP}.{}", net::DOMAIN);
    let body = wait_for(&format!("http://{host}"), Duration::from_secs(20), || {
        Ok(match page(&host, "/") {
            Ok((200, body)) => Ok(body),
            Ok((status, _)) => Err(format!("it answers {status}")),
            Err(error) => Err(format!("{error:#}")),
        })
    })?;
    if body.trim().is_empty() {
        bail!("http://{host} answered with an empty page");
    }
    detail(&format!(
        "http://{host} says: {}",
        body.lines().next().unwrap_or_default()
    ));
    Ok(())
}

/// What to try next: each line can be pasted as it is.
pub fn next_commands(paths: &Paths, cluster: &Cluster) -> String {
    let domain = &cluster.domain;
    let mut text = String::new();
    let names: Vec<String> = cluster
        .hosts
        .iter()
        .map(|host| format!("{} ({})", host.name, host.address))
        .collect();
    text.push_str(&format!("hosts       {}\n", names.join(", ")));
    if cluster.reached >= Reached::Platform {
        text.push_str(&format!("controller  http://deis.{domain}\n"));
    }
    if cluster.reached >= Reached::Demo {
        text.push_str(&format!(
            "example     http://{APP}.{domain}  and https, on 127.0.0.1 and ::1\n"
        ));
    }
    let mut lines: Vec<(String, &str)> = Vec::new();
    let mut add = |line: String, about: &'static str| lines.push((line, about));
    add(
        format!("export PATH={}:$PATH", paths.opt().join("bin").display()),
        "",
    );
    if let Some(netns) = &cluster.netns {
        add(
            format!("nsenter --net=/run/netns/{netns} bash"),
            "the cluster's network",
        );
    }
    if cluster.reached >= Reached::Demo {
        add(
            format!("deis login http://deis.{domain} --username {USER} --password {PASSWORD}"),
            "",
        );
        add(format!("curl http://{APP}.{domain}"), "");
        add(
            format!("curl -k https://{APP}.{domain}"),
            "its certificate is the routers' own",
        );
        add(
            format!("deis scale web=3 -a {APP}"),
            "one process on each host",
        );
        add(
            format!("deis config:set GREETING='Good morning' -a {APP}"),
            "a new release",
        );
        add(format!("deis logs -a {APP}"), "");
        add(
            format!("cd {}", paths.dir.join("demo").join(APP).display()),
            "change it, commit, and",
        );
        add("git push deis main".to_owned(), "by the example's SSH key");
        add(
            "test -f ~/.ssh/id_ed25519 || ssh-keygen -t ed25519 -N '' -f ~/.ssh/id_ed25519"
                .to_owned(),
            "",
        );
        add(
            "deis keys:add ~/.ssh/id_ed25519.pub".to_owned(),
            "to push by your own key",
        );
        add(
            format!("ssh -p 2222 git@deis.{domain}"),
            "who you are to the builder",
        );
    } else if cluster.reached >= Reached::Platform {
        add(
            format!("deis register http://deis.{domain}"),
            "the first user is the administrator",
        );
    }
    add("deisctl machines".to_owned(), "");
    if cluster.reached >= Reached::Platform {
        add("deisctl list".to_owned(), "");
    }
    add(
        "deisctl ssh deis-01 etcdctl get --prefix /deis".to_owned(),
        "all that the platform knows",
    );
    add("deisctl ssh deis-01".to_owned(), "a shell on a host");
    if cluster.name == "default" {
        add("make status".to_owned(), "in Deis's checkout");
        add("make down".to_owned(), "");
    } else {
        let name = &cluster.name;
        add(format!("export DEISCTL_CLUSTER={name}"), "");
        add(format!("deisctl cluster status --name {name}"), "");
        add(format!("deisctl cluster down --name {name}"), "");
    }
    text.push_str("\nTry next\n");
    for (line, about) in lines {
        let line = match about {
            "" => line,
            about => format!("{line:<56}  # {about}"),
        };
        text.push_str(&format!("  {line}\n"));
    }
    text
}
