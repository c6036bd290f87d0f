//! What `deis` tells of itself.

use super::{
    super::{args::Cli, examples::EXAMPLES, help},
    User,
};
use clap::{CommandFactory as _, Parser as _};

#[tokio::test]
async fn at_a_glance() {
    let user = User::new().await;
    // In part, for it grows with the platform.
    let overview = user.ok(&["help"]).await;
    for line in [
        "Deploy and manage apps on a Deis platform",
        "Usage: deis <command> [options]",
        "First steps",
        "  register    Register a new account with a controller",
        "  then        git push deis main",
        "Every day",
        "  scale       Set how many processes of each type run",
        "All commands, by group: deis help <group>",
        "  config       Set environment variables of an app",
    ] {
        assert!(
            overview.lines().any(|found| found == line),
            "{line}: {overview}"
        );
    }
    assert!(
        !overview.contains("config:set") && !overview.contains("__complete"),
        "{overview}"
    );
    assert_eq!(user.ok(&["--help"]).await, user.ok(&["help"]).await);
    insta::assert_snapshot!(user.ok(&["help", "config"]).await, @r"
    Set environment variables of an app

    Commands
      config:list   List config variables
      config:set    Set config variables, and deploy the app with them
      config:unset  Remove config variables, and deploy the app without them
      config:pull   Write config variables into the file .env
      config:push   Set config variables from a file

    Shortcuts
      config      config:list

    `deis help config:list` tells more of a command.
    ");
    assert_eq!(
        user.ok(&["config", "--help"]).await,
        user.ok(&["help", "config"]).await
    );
    assert_eq!(user.ok(&["auth"]).await, user.ok(&["help", "auth"]).await);
    insta::assert_snapshot!(user.ok(&["help", "config:set"]).await, @r"
    Set config variables, and deploy the app with them

    Usage: deis config:set [OPTIONS] <NAME=VALUE>...

    Arguments:
      <NAME=VALUE>...  What to set

    Options:
      -a, --app <APP>        The app [default: the one of this directory's git remote]
          --output <FORMAT>  Output format: text or json
      -h, --help             Print help

    Examples:
      deis config:set POWERED_BY=Deis MODE=test
          sets two variables by one release
      deis config:set SSH_KEY=/home/ada/.ssh/deploy
          reads the key from its file
    ");
    assert_eq!(
        user.ok(&["help", "config", "set"]).await,
        user.ok(&["help", "config:set"]).await
    );
    assert_eq!(
        user.ok(&["config:set", "--help"]).await,
        user.ok(&["help", "config:set"]).await
    );
    let scale = user.ok(&["help", "scale"]).await;
    assert!(
        scale.contains("Usage: deis ps:scale [OPTIONS] <TYPE=N>..."),
        "{scale}"
    );
    let shortcuts = user.ok(&["shortcuts"]).await;
    assert!(
        shortcuts.contains("\n  scale           ps:scale\n"),
        "{shortcuts}"
    );
    assert_eq!(
        user.fails(&["help", "xyzzy"]).await,
        "Error: xyzzy is no command.\n`deis help` lists what there is.\n"
    );
    for topic in [None, Some("shortcuts")]
        .into_iter()
        .chain(help::GROUPS.iter().map(|(group, _)| Some(*group)))
    {
        let args: Vec<&str> = ["help"].into_iter().chain(topic).collect();
        let (_, text) = user.run(&args, "").await;
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
    let version = format!("{}\n", crate::api::PLATFORM_VERSION);
    for spelling in ["version", "--version", "-v", "-V"] {
        assert_eq!(user.ok(&[spelling]).await, version);
    }
}

#[test]
fn every_command_is_explained() {
    let cli = Cli::command();
    cli.clone().debug_assert();
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = command.get_name();
        let about = command.get_about().expect(name).to_string();
        assert!(
            !about.ends_with('.') && about.len() <= 72,
            "{name}: {about}"
        );
        assert!(
            EXAMPLES
                .iter()
                .any(|(of, examples)| *of == name && !examples.is_empty()),
            "{name} has no example"
        );
        if let Some((group, _)) = name.split_once(':') {
            assert!(
                help::GROUPS.iter().any(|(of, _)| *of == group),
                "{group} is no group"
            );
        }
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name}: {}", arg.get_id());
        }
    }
}

#[test]
fn examples_are_right() {
    for (name, examples) in EXAMPLES {
        for (line, what) in *examples {
            let command = line.split(" > ").next().unwrap_or(line);
            let cli = Cli::try_parse_from(words(command));
            assert!(cli.is_ok(), "{name}: {line}: {:?}", cli.err());
            assert!(!what.ends_with('.') && what.len() <= 72, "{name}: {what}");
        }
    }
}

/// What v1's own help and documentation show: all of it is read.
#[test]
fn v1s_command_lines() {
    for line in [
        "deis register http://deis.local3.deisapp.com/ --username=u --password=p --email=e --ssl-verify=false",
        "deis auth:login deis.local --username u --password -p --ssl-verify=true",
        "deis auth:passwd --password=a --new-password=b --username=u",
        "deis auth:cancel --username=u --password=p --yes",
        "deis auth:regenerate -u bob",
        "deis auth:regenerate --all",
        "deis create blog --no-remote -b https://example.com/bp -r prod",
        "deis apps:create --buildpack=https://example.com/bp",
        "deis apps:list -l 5",
        "deis apps --limit=5",
        "deis open -a blog",
        "deis logs -n 5 -a blog",
        "deis apps:logs --lines=5",
        "deis apps:run -a blog -- ls -la",
        "deis apps:transfer bob --app=blog",
        "deis destroy --app=blog --confirm=blog",
        "deis builds -l 3",
        "deis builds:create deis/example-go -p 'web: run' -a blog",
        "deis pull deis/example-go:latest",
        "deis config:set A=1 B=2 -a blog",
        "deis config:set -a blog A=1",
        "deis config:unset A B --app blog",
        "deis config:pull -i -o -a blog",
        "deis config:push -p prod.env",
        "deis domains:add x.example.org -a blog",
        "deis domains:list -l 3 -a blog",
        "deis git:remote -a blog -r prod",
        "deis keys:add",
        "deis keys:list -l 3",
        "deis limits:set -c web=1024",
        "deis limits:set --memory web=1G -a blog",
        "deis limits:unset web worker --cpu",
        "deis perms:list -a blog",
        "deis perms:list --admin -l 3",
        "deis perms:create bob -a blog",
        "deis perms:delete bob --admin",
        "deis sharing:add bob --app=blog",
        "deis sharing:remove bob",
        "deis sharing:list",
        "deis ps:list -l 3",
        "deis ps:scale web=2 worker=5 -a blog",
        "deis ps:restart web.1 -a blog",
        "deis releases:info v3 -a blog",
        "deis releases:info 3",
        "deis releases:rollback -a blog",
        "deis rollback v3",
        "deis tags:set rack=1 -a blog",
        "deis tags:unset rack",
        "deis users:list --limit 3",
        "deis whoami",
        "deis info --ap blog",
    ] {
        let cli = Cli::try_parse_from(words(line));
        assert!(
            cli.is_ok(),
            "{line}: {}",
            cli.err().map(|e| e.to_string()).unwrap_or_default()
        );
    }
}

/// A line's words; single quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("a word").push(c),
        }
    }
    words
}
