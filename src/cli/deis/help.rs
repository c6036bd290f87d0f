//! `deis help`: an overview, a group of commands, one command.

use std::fmt::Write as _;

use anyhow::bail;
use clap::{Args, Command, CommandFactory as _};

use super::{Shell, Ui, args::Cli, examples::EXAMPLES, failure};

/// `deis help`
#[derive(Debug, Args)]
pub struct Help {
    /// A command as `config:set`, or a group as `config`
    pub topic: Vec<String>,
}

/// What stands before the colon of a command, and what such commands are about.
pub const GROUPS: &[(&str, &str)] = &[
    ("apps", "Create, inspect, run and destroy apps"),
    ("ps", "Scale and restart processes"),
    ("config", "Set environment variables of an app"),
    ("rollout", "Watch new releases before they replace old ones"),
    ("maintenance", "Show visitors a page instead of an app"),
    ("releases", "List releases and roll back"),
    ("builds", "List builds and deploy images"),
    ("domains", "Add domains to an app"),
    ("certs", "Add TLS certificates for domains"),
    ("limits", "Limit memory and CPU"),
    ("tags", "Choose the hosts that an app runs on"),
    ("perms", "Share apps and appoint administrators"),
    ("audit", "See who has changed what"),
    ("git", "Connect a repository with an app"),
    ("keys", "Manage the SSH keys that you push with"),
    ("auth", "Register, log in, change and delete accounts"),
    ("tokens", "Issue tokens for scripts"),
    ("users", "List the platform's users"),
];

/// The overview's first steps, and what one does every day.
const FIRST: &[&str] = &["register", "login", "keys:add", "create"];
const DAILY: &[&str] = &[
    "info", "open", "logs", "run", "scale", "restart", "rollback", "pull", "destroy",
];

/// The command line with its examples.
pub fn command() -> Command {
    let mut cli = Cli::command();
    for (name, examples) in EXAMPLES {
        if cli.find_subcommand(name).is_some() {
            cli = cli.mut_subcommand(name, |c| c.after_help(shown(examples)));
        }
    }
    cli
}

fn shown(examples: &[(&str, &str)]) -> String {
    let mut text = String::from("Examples:");
    for (line, what) in examples {
        let _ = write!(text, "\n  {line}\n      {what}");
    }
    text
}

/// `help`
pub fn show(shell: &mut Shell<'_>, args: Help) -> anyhow::Result<()> {
    let cli = command();
    let topic = args.topic.join(":");
    let text = match &*topic {
        "" => overview(&cli, shell.ui),
        "shortcuts" => shortcuts(&cli, shell.ui),
        topic => {
            let group = group(&cli, topic, shell.ui);
            match group.or_else(|| of_command(&cli, topic, shell.ui)) {
                Some(text) => text,
                None => bail!("{}", failure::no_command(cli, topic)),
            }
        }
    };
    shell.ui.data(text.as_bytes());
    Ok(())
}

/// One command's help: what `--help` shows.
fn of_command(cli: &Command, name: &str, ui: &Ui) -> Option<String> {
    cli.find_subcommand(name)?;
    let asked = cli.clone().try_get_matches_from(["deis", name, "--help"]);
    let text = asked.err()?.render();
    Some(if ui.colour() {
        text.ansi().to_string()
    } else {
        text.to_string()
    })
}

/// All there is at a glance.
pub fn overview(cli: &Command, ui: &Ui) -> String {
    let mut text = format!(
        "{}\n\n{} deis <command> [options]\n",
        cli.get_about().map(ToString::to_string).unwrap_or_default(),
        heading("Usage:", ui),
    );
    let picked = |names: &[&str]| -> Vec<(String, String)> {
        let found = names
            .iter()
            .filter_map(|name| Some((*name, cli.find_subcommand(name)?)));
        found.map(|(name, c)| (name.to_owned(), about(c))).collect()
    };
    section(&mut text, "First steps", &picked(FIRST), ui);
    text.push_str("  then        git push deis main\n");
    section(&mut text, "Every day", &picked(DAILY), ui);
    let groups: Vec<_> = GROUPS
        .iter()
        .filter(|(group, _)| members(cli, group).next().is_some())
        .map(|(group, about)| ((*group).to_owned(), (*about).to_owned()))
        .collect();
    section(
        &mut text,
        "All commands, by group: deis help <group>",
        &groups,
        ui,
    );
    let others: Vec<_> = cli
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && !c.get_name().contains(':'))
        .map(|c| (c.get_name().to_owned(), about(c)))
        .collect();
    section(&mut text, "This program", &others, ui);
    section(
        &mut text,
        "Options",
        &[
            (
                "-a, --app".to_owned(),
                "The app [default: the one of this directory's git remote]".to_owned(),
            ),
            (
                "--output json".to_owned(),
                "Print JSON, with the names of the API".to_owned(),
            ),
            (
                "-h, --help".to_owned(),
                "Explain a command, with examples".to_owned(),
            ),
        ],
        ui,
    );
    text
}

/// A group's commands; none if there is no such group.
fn group(cli: &Command, group: &str, ui: &Ui) -> Option<String> {
    let (_, what) = GROUPS.iter().find(|(name, _)| *name == group)?;
    let commands: Vec<_> = members(cli, group)
        .map(|c| (c.get_name().to_owned(), about(c)))
        .collect();
    if commands.is_empty() {
        return None;
    }
    let mut text = format!("{what}\n");
    section(&mut text, "Commands", &commands, ui);
    let shortcuts: Vec<_> = members(cli, group).flat_map(aliases).collect();
    if !shortcuts.is_empty() {
        section(&mut text, "Shortcuts", &shortcuts, ui);
    }
    let _ = writeln!(
        text,
        "\n`deis help {}` tells more of a command.",
        commands[0].0
    );
    Some(text)
}

/// All shortcuts with what they stand for.
fn shortcuts(cli: &Command, ui: &Ui) -> String {
    let mut rows: Vec<_> = cli.get_subcommands().flat_map(aliases).collect();
    rows.sort();
    let mut text = "Short names of commands\n".to_owned();
    section(&mut text, "Shortcuts", &rows, ui);
    text
}

fn aliases(command: &Command) -> impl Iterator<Item = (String, String)> {
    let name = command.get_name();
    command
        .get_visible_aliases()
        .map(|alias| (alias.to_owned(), name.to_owned()))
        .collect::<Vec<_>>()
        .into_iter()
}

fn members<'c>(cli: &'c Command, group: &str) -> impl Iterator<Item = &'c Command> {
    let prefix = format!("{group}:");
    cli.get_subcommands()
        .filter(move |c| !c.is_hide_set() && c.get_name().starts_with(&prefix))
}

fn about(command: &Command) -> String {
    command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// A heading and rows below it.
fn section(text: &mut String, title: &str, rows: &[(String, String)], ui: &Ui) {
    let width = rows
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(10);
    let _ = writeln!(text, "\n{}", heading(title, ui));
    for (name, about) in rows {
        let _ = writeln!(text, "  {name:width$}  {about}");
    }
}

/// Bold where that can be, as clap has it.
fn heading(title: &str, ui: &Ui) -> String {
    if ui.colour() {
        format!("\u{1b}[1m\u{1b}[4m{title}\u{1b}[0m")
    } else {
        title.to_owned()
    }
}
