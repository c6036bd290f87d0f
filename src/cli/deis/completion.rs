//! `deis completion`: completion in bash, zsh and fish.
//!
//! The shells' scripts know nothing of Deis: they hand the command line to `deis __complete` and show
//! what comes back, so that they never go stale and know your apps, releases and variables. What a
//! line wants ([`wanted`]) is decided without asking anybody.

use std::{collections::BTreeSet, time::Duration};

use clap::{Arg, Args, Command, ValueEnum, ValueHint};

use super::{Shell, client::of_app, git, help};
use crate::{api::wire, model::AppName};

/// Nobody waits longer for a completion.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many of a kind are proposed.
const PROPOSALS: u32 = 200;

/// `deis completion`
#[derive(Debug, Args)]
pub struct Completion {
    /// Your shell
    #[arg(value_enum)]
    pub shell: ShellName,
}

/// A shell that can complete.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ShellName {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// `deis __complete`
#[derive(Debug, Args)]
pub struct Complete {
    /// The command line up to the cursor; the last word is the one to complete
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// `completion`
pub fn script(shell: &mut Shell<'_>, args: &Completion) {
    let script = match args.shell {
        ShellName::Bash => include_str!("completion/deis.bash"),
        ShellName::Zsh => include_str!("completion/deis.zsh"),
        ShellName::Fish => include_str!("completion/deis.fish"),
    };
    shell.ui.data(script.as_bytes());
}

/// What could stand where the cursor is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// One of these words, each with what it means.
    Words(Vec<(String, String)>),
    /// A value that only the controller or git knows.
    Known {
        /// What kind of value.
        kind: Kind,
        /// What stands before it in the same word, `--app=`.
        prefix: String,
        /// The app that the line names.
        app: Option<String>,
    },
    /// The name of a file.
    File,
}

/// Values that can be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    App,
    Remote,
    Release,
    Variable,
    Domain,
    Key,
    Type,
    Process,
    Collaborator,
    Tag,
}

impl Kind {
    /// By command and argument.
    fn of(command: &str, argument: &str) -> Option<Self> {
        Some(match (command, argument) {
            (_, "app" | "confirm") => Self::App,
            (_, "remote") => Self::Remote,
            (_, "version") => Self::Release,
            ("config:unset", "names") => Self::Variable,
            ("domains:remove", "domain") => Self::Domain,
            ("keys:remove", "id") => Self::Key,
            ("ps:scale" | "limits:set", _) | ("limits:unset", "types") | ("ps:single", "kind") => {
                Self::Type
            }
            ("ps:restart", "target") => Self::Process,
            ("perms:delete", "user") => Self::Collaborator,
            ("tags:unset", "tags") => Self::Tag,
            _ => return None,
        })
    }
}

/// Reads a command line; the last of `words` is the one under the cursor. Pure.
fn wanted(cli: &Command, words: &[String]) -> Wanted {
    let Some((current, before)) = words.split_last() else {
        return Wanted::Words(Vec::new());
    };
    let mut before = before.iter().skip(1).map(String::as_str);
    let mut command = None;
    let mut pending: Option<&Arg> = None;
    let mut positional = 0;
    let mut app = None;
    let mut options_over = false;
    for word in before.by_ref() {
        let arguments = command.unwrap_or(cli);
        if let Some(option) = pending.take() {
            if option.get_id() == "app" {
                app = Some(word.to_owned());
            }
        } else if word == "--" {
            options_over = true;
        } else if let Some(value) = word.strip_prefix("--app=") {
            app = Some(value.to_owned());
        } else if word.starts_with('-') && !options_over {
            pending = option(arguments, word).filter(|arg| arg.get_action().takes_values());
        } else if command.is_none() {
            match cli.find_subcommand(word) {
                Some(found) => command = Some(found),
                None => return Wanted::Words(Vec::new()),
            }
        } else {
            positional += 1;
        }
    }
    let arguments = command.unwrap_or(cli);
    if let Some(option) = pending {
        return value(arguments, option, "", app);
    }
    if current.starts_with('-') && !options_over {
        return match current.split_once('=') {
            Some((name, _)) => match option(arguments, name) {
                Some(found) => value(arguments, found, &format!("{name}="), app),
                None => Wanted::Words(Vec::new()),
            },
            None => Wanted::Words(options(arguments)),
        };
    }
    if command.is_none() {
        return Wanted::Words(commands(cli, current));
    }
    if arguments.get_name() == "help" {
        return Wanted::Words(topics(cli));
    }
    // The last positional argument may take several values.
    let positionals: Vec<_> = arguments.get_positionals().collect();
    match positionals.get(positional).or(positionals.last()) {
        Some(argument) => value(arguments, argument, "", app),
        None => Wanted::Words(Vec::new()),
    }
}

fn option<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let mut options = command.get_opts();
    match word.strip_prefix("--") {
        Some(long) => options.find(|arg| arg.get_long() == Some(long)),
        None => options.find(|arg| arg.get_short() == word.chars().nth(1)),
    }
}

fn value(command: &Command, argument: &Arg, prefix: &str, app: Option<String>) -> Wanted {
    let possible = argument.get_possible_values();
    if !possible.is_empty() {
        let words = possible.iter().filter(|value| !value.is_hide_set());
        return Wanted::Words(
            words
                .map(|value| {
                    let help = value
                        .get_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    (format!("{prefix}{}", value.get_name()), help)
                })
                .collect(),
        );
    }
    if let Some(kind) = Kind::of(command.get_name(), argument.get_id().as_str()) {
        let prefix = prefix.to_owned();
        return Wanted::Known { kind, prefix, app };
    }
    match argument.get_value_hint() {
        ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath => Wanted::File,
        _ => Wanted::Words(Vec::new()),
    }
}

fn options(command: &Command) -> Vec<(String, String)> {
    let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
    visible
        .filter_map(|arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            Some((format!("--{}", arg.get_long()?), help))
        })
        .collect()
}

/// Commands and shortcuts; those with a colon only once one is typed, or there would be too many.
fn commands(cli: &Command, current: &str) -> Vec<(String, String)> {
    let group = current.split_once(':').map(|(group, _)| group);
    let visible = cli.get_subcommands().filter(|c| !c.is_hide_set());
    let mut found: Vec<_> = visible
        .flat_map(|c| {
            let about = c.get_about().map(ToString::to_string).unwrap_or_default();
            let names = std::iter::once(c.get_name()).chain(c.get_visible_aliases());
            let names: Vec<_> = names.map(|name| (name.to_owned(), about.clone())).collect();
            names
        })
        .filter(|(name, _)| match group {
            Some(group) => name.split_once(':').is_some_and(|(g, _)| g == group),
            None => !current.is_empty() || !name.contains(':'),
        })
        .collect();
    found.sort();
    found
}

fn topics(cli: &Command) -> Vec<(String, String)> {
    let groups = help::GROUPS
        .iter()
        .map(|(name, about)| ((*name).to_owned(), (*about).to_owned()));
    let visible = cli.get_subcommands().filter(|c| !c.is_hide_set());
    let commands = visible.map(|c| {
        let about = c.get_about().map(ToString::to_string).unwrap_or_default();
        (c.get_name().to_owned(), about)
    });
    groups.chain(commands).collect()
}

/// `__complete`: lines of a word, a tab and what it means; `:files` for the shell's own knowledge of
/// files. What can't be found out is not proposed: there is no place for errors here.
pub async fn complete(shell: &mut Shell<'_>, args: Complete) {
    let current = args.words.last().cloned().unwrap_or_default();
    let mut cli = help::command();
    cli.build();
    let found = match wanted(&cli, &args.words) {
        Wanted::File => {
            shell.ui.data(b":files\n");
            return;
        }
        Wanted::Words(words) => words,
        Wanted::Known { kind, prefix, app } => {
            let looked_up = tokio::time::timeout(PATIENCE, look_up(shell, kind, app.as_deref()));
            let found = looked_up
                .await
                .ok()
                .and_then(Result::ok)
                .unwrap_or_default();
            let found = found.into_iter();
            found
                .map(|(word, help)| (format!("{prefix}{word}"), help))
                .collect()
        }
    };
    for (word, help) in found {
        if word.starts_with(&current) && !word.contains(char::is_whitespace) {
            let help = help.lines().next().unwrap_or_default();
            shell.ui.data(format!("{word}\t{help}\n").as_bytes());
        }
    }
}

type Proposals = Vec<(String, String)>;

async fn look_up(
    shell: &mut Shell<'_>,
    kind: Kind,
    app: Option<&str>,
) -> anyhow::Result<Proposals> {
    let nameless = |words: Vec<String>| {
        words
            .into_iter()
            .map(|word| (word, String::new()))
            .collect()
    };
    match kind {
        Kind::Remote => return Ok(nameless(git::remote_names(&shell.env.cwd))),
        Kind::App => {
            let session = shell.session()?;
            let page: wire::Page<wire::App> = session.client.page(&["apps"], PROPOSALS).await?;
            return Ok(nameless(
                page.results.into_iter().map(|app| app.id).collect(),
            ));
        }
        Kind::Key => {
            let session = shell.session()?;
            let page: wire::Page<wire::Key> = session.client.page(&["keys"], PROPOSALS).await?;
            return Ok(nameless(
                page.results.into_iter().map(|key| key.id).collect(),
            ));
        }
        _ => {}
    }
    let (session, app): (_, AppName) = shell.app(app)?;
    let client = &session.client;
    Ok(match kind {
        Kind::Remote | Kind::App | Kind::Key => Vec::new(),
        Kind::Release => {
            let path = of_app(&app, &["releases"]);
            let page: wire::Page<wire::Release> = client.page(&path, PROPOSALS).await?;
            let releases = page.results.into_iter();
            releases
                .map(|r| (format!("v{}", r.version), r.summary))
                .collect()
        }
        Kind::Domain => {
            let path = of_app(&app, &["domains"]);
            let page: wire::Page<wire::Domain> = client.page(&path, PROPOSALS).await?;
            nameless(page.results.into_iter().map(|d| d.domain).collect())
        }
        Kind::Variable | Kind::Tag => {
            let config: wire::Config = client.get(&of_app(&app, &["config"])).await?;
            let names = if kind == Kind::Tag {
                config.tags
            } else {
                config.values
            };
            nameless(names.into_keys().collect())
        }
        Kind::Collaborator => {
            let perms: wire::Perms = client.get(&of_app(&app, &["perms"])).await?;
            nameless(perms.users)
        }
        Kind::Type | Kind::Process => {
            let path = of_app(&app, &["containers"]);
            let page: wire::Page<wire::Container> = client.page(&path, PROPOSALS).await?;
            let types: BTreeSet<_> = page.results.iter().map(|p| p.r#type.clone()).collect();
            let mut words: Vec<_> = types.into_iter().collect();
            if kind == Kind::Process {
                words.extend(
                    page.results
                        .iter()
                        .map(|p| format!("{}.{}", p.r#type, p.num)),
                );
            }
            nameless(words)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Wanted {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let mut cli = help::command();
        cli.build();
        wanted(&cli, &words)
    }

    fn words(line: &str) -> Vec<String> {
        match of(line) {
            Wanted::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn known(kind: Kind, prefix: &str, app: Option<&str>) -> Wanted {
        let (prefix, app) = (prefix.to_owned(), app.map(str::to_owned));
        Wanted::Known { kind, prefix, app }
    }

    #[test]
    fn what_a_line_wants() {
        assert!(words("deis ").contains(&"scale".to_owned()));
        assert!(!words("deis ").contains(&"ps:scale".to_owned()));
        assert!(!words("deis ").contains(&"__complete".to_owned()));
        assert!(
            words("deis config:")
                .iter()
                .all(|word| word.starts_with("config:"))
        );
        assert!(words("deis config:pull --").contains(&"--overwrite".to_owned()));
        assert!(words("deis help ").contains(&"config".to_owned()));
        assert_eq!(words("deis apps --output "), ["text", "json"]);
        assert_eq!(
            words("deis apps --output="),
            ["--output=text", "--output=json"]
        );
        assert_eq!(words("deis nothing "), Vec::<String>::new());
        let cases = [
            ("deis info -a ", known(Kind::App, "", None)),
            ("deis info --app=b", known(Kind::App, "--app=", None)),
            (
                "deis rollback -a blog ",
                known(Kind::Release, "", Some("blog")),
            ),
            (
                "deis config:unset --app=blog A ",
                known(Kind::Variable, "", Some("blog")),
            ),
            ("deis scale web=1 w", known(Kind::Type, "", None)),
            ("deis restart ", known(Kind::Process, "", None)),
            ("deis git:remote -r ", known(Kind::Remote, "", None)),
            ("deis keys:add ", Wanted::File),
            ("deis config:push --path=", Wanted::File),
        ];
        for (line, want) in cases {
            assert_eq!(of(line), want, "{line}");
        }
    }
}
