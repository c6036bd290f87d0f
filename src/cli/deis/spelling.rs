//! Ways to write a command line that clap doesn't know: v1's, and those that people try. Pure.

use std::ffi::OsString;

use clap::Command;

use crate::model::AppName;

/// What a command line turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Spelled {
    /// One of our own commands, as clap reads it.
    Ours(Vec<OsString>),
    /// Somebody else's: the program `deis-<name>` with arguments.
    Plugin(String, Vec<OsString>),
}

/// Reads a command line, the program's name included.
pub fn read(argv: &[OsString], cli: &Command) -> Spelled {
    let mut argv = argv.to_vec();
    let Some(at) = command_at(&argv) else {
        return Spelled::Ours(argv);
    };
    match argv[at].to_str() {
        Some("-v" | "-V" | "--version") => argv[at] = "version".into(),
        Some("-h" | "--help") => argv[at] = "help".into(),
        Some("shortcuts") if argv.len() == at + 1 => {
            argv.insert(at, "help".into());
        }
        _ => {}
    }
    let name = match argv[at].to_str() {
        Some(name) => name.to_owned(),
        None => return Spelled::Ours(argv),
    };
    let next = argv.get(at + 1).and_then(|word| word.to_str());
    if is_group(cli, &name) {
        match next {
            Some("-h" | "--help") => {
                argv[at] = "help".into();
                argv[at + 1] = name.into();
            }
            // `deis config set A=1` means config:set, and `deis config sett` a slip of that.
            Some(word) if !word.starts_with('-') && takes_no_word(cli, &name) => {
                argv[at] = format!("{name}:{word}").into();
                argv.remove(at + 1);
            }
            _ if cli.find_subcommand(&name).is_none() => argv.insert(at, "help".into()),
            _ => {}
        }
        return Spelled::Ours(argv);
    }
    if cli.find_subcommand(&name).is_none() && !name.starts_with('-') {
        let (group, rest) = name
            .split_once(':')
            .map_or((&*name, None), |(g, r)| (g, Some(r)));
        if !group.is_empty() && !is_group(cli, group) && group.chars().all(is_harmless) {
            let rest = rest.map(OsString::from).into_iter();
            let arguments = rest.chain(argv.drain(at + 1..)).collect();
            return Spelled::Plugin(group.to_owned(), arguments);
        }
    }
    if matches!(&*name, "run" | "apps:run") {
        app_first(&mut argv, at);
    }
    Spelled::Ours(argv)
}

/// Where the command stands: behind `--output`, the one option that may come before it.
fn command_at(argv: &[OsString]) -> Option<usize> {
    let mut at = 1;
    loop {
        let word = argv.get(at)?.to_string_lossy();
        at += match &*word {
            "--output" => 2,
            word if word.starts_with("--output=") => 1,
            _ => return Some(at),
        };
    }
}

/// Whether commands begin with this word and a colon.
fn is_group(cli: &Command, word: &str) -> bool {
    let mut names = cli.get_subcommands().map(Command::get_name);
    names.any(|name| name.split_once(':').is_some_and(|(group, _)| group == word))
}

/// Whether the group's name by itself is no command that could mean the next word.
fn takes_no_word(cli: &Command, group: &str) -> bool {
    let command = cli.find_subcommand(group);
    command.is_none_or(|command| command.get_positionals().next().is_none())
}

/// Of a plugin's name: it becomes that of a file.
fn is_harmless(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_".contains(c)
}

/// v1 read `deis run <command> --app=blog` as it is meant. Behind the command all else is the
/// command's own, and so is everything once there is a `--`.
fn app_first(argv: &mut Vec<OsString>, at: usize) {
    if argv.iter().any(|word| word == "--") {
        return;
    }
    let words: Vec<_> = argv[at + 1..].iter().map(|word| word.to_str()).collect();
    if words
        .first()
        .copied()
        .flatten()
        .is_none_or(|word| word.starts_with('-'))
    {
        return;
    }
    let option = match words[..] {
        [_, .., Some("-a" | "--app"), Some(app)] if is_app(app) => 2,
        [_, .., Some(last)] if last.strip_prefix("--app=").is_some_and(is_app) => 1,
        _ => return,
    };
    let option = argv.split_off(argv.len() - option);
    argv.splice(at + 1..at + 1, option);
}

fn is_app(word: &str) -> bool {
    word.parse::<AppName>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{super::help, *};

    fn spelled(line: &str) -> String {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let text = |words: Vec<OsString>| {
            let words: Vec<_> = words
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            words.join(" ")
        };
        match read(&argv, &help::command()) {
            Spelled::Ours(words) => text(words),
            Spelled::Plugin(name, words) => format!("({name}) {}", text(words)),
        }
    }

    #[test]
    fn spellings() {
        let cases = [
            ("deis apps", "deis apps"),
            ("deis --version", "deis version"),
            ("deis -v", "deis version"),
            ("deis -h", "deis help"),
            ("deis --help config", "deis help config"),
            ("deis shortcuts", "deis help shortcuts"),
            ("deis config", "deis config"),
            ("deis config --oneline", "deis config --oneline"),
            ("deis config --help", "deis help config"),
            ("deis config set A=1", "deis config:set A=1"),
            (
                "deis --output json ps scale web=2",
                "deis --output json ps:scale web=2",
            ),
            ("deis ps -a blog", "deis ps -a blog"),
            ("deis auth", "deis help auth"),
            ("deis git", "deis help git"),
            ("deis auth whoami", "deis auth:whoami"),
            ("deis config sett A=1", "deis config:sett A=1"),
            ("deis config:sett A=1", "deis config:sett A=1"),
            ("deis accounts", "(accounts) "),
            ("deis accounts x", "(accounts) x"),
            ("deis accounts:list --debug", "(accounts) list --debug"),
            ("deis --output=json accounts:list", "(accounts) list"),
            ("deis a/b", "deis a/b"),
            ("deis ../x:y", "deis ../x:y"),
            ("deis :x", "deis :x"),
            ("deis run ls -a blog", "deis run -a blog ls"),
            ("deis run ls --app blog", "deis run --app blog ls"),
            ("deis run ls --app=blog", "deis run --app=blog ls"),
            ("deis run ls -a /tmp", "deis run ls -a /tmp"),
            ("deis run ls -al", "deis run ls -al"),
            ("deis run -- ls -a blog", "deis run -- ls -a blog"),
            ("deis run -a blog ls -a src", "deis run -a blog ls -a src"),
            ("deis run -a blog", "deis run -a blog"),
            ("deis", "deis"),
        ];
        for (line, want) in cases {
            assert_eq!(spelled(line), want, "{line}");
        }
    }
}
