//! What a git client asks for over SSH, parsed strictly: nothing of it ever reaches a shell.

use crate::model::{AppName, InvalidName};

/// The two programs that git runs at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// `git push`.
    Receive,
    /// `git clone` and `git fetch`.
    Upload,
}

impl Service {
    /// The subcommand of git that serves it.
    #[must_use]
    pub const fn subcommand(self) -> &'static str {
        match self {
            Self::Receive => "receive-pack",
            Self::Upload => "upload-pack",
        }
    }
}

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitCommand {
    /// Serve the repository of an app.
    Git {
        /// Push or fetch.
        service: Service,
        /// Whose repository.
        app: AppName,
    },
    /// `ssh git@host ping`: are you there? As in Deis v1.
    Ping,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// `ssh git@host` without a command.
    #[error(
        "Deis gives no shell. To deploy an app: git push deis main (`deis git:remote` sets that up)"
    )]
    NoShell,
    /// Not git's.
    #[error("only git push and git clone work here, not {0:?}")]
    Unknown(String),
    /// The path after the command is not one quoted word.
    #[error("{0:?} is no repository: expected <app>.git")]
    Repository(String),
    /// The repository's name is no app's.
    #[error("{name:?} can't be an app: {source}")]
    App {
        /// What was asked for.
        name: String,
        /// The rule that it breaks.
        #[source]
        source: InvalidName,
    },
}

/// Longest command that is looked at.
const MAX_LENGTH: usize = 512;

/// Cuts what is echoed to the client.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Parses `SSH_ORIGINAL_COMMAND`.
///
/// git quotes the path with `'`; we accept the quoted and the bare form, an optional leading `/`
/// and an optional `.git`, and nothing else.
///
/// # Errors
/// For everything but a push, a fetch or a ping.
pub fn parse(command: Option<&str>) -> Result<GitCommand, CommandError> {
    let command = command.map(str::trim).filter(|text| !text.is_empty());
    let command = command.ok_or(CommandError::NoShell)?;
    if command.len() > MAX_LENGTH {
        return Err(CommandError::Unknown(shown(command)));
    }
    if command == "ping" {
        return Ok(GitCommand::Ping);
    }
    let unknown = || CommandError::Unknown(shown(command));
    let (program, path) = command.split_once(' ').ok_or_else(unknown)?;
    let service = match program {
        "git-receive-pack" => Service::Receive,
        "git-upload-pack" => Service::Upload,
        "git" => {
            let (program, path) = path.split_once(' ').ok_or_else(unknown)?;
            return match program {
                "receive-pack" => repository(path, Service::Receive),
                "upload-pack" => repository(path, Service::Upload),
                _ => Err(unknown()),
            };
        }
        _ => return Err(unknown()),
    };
    repository(path, service)
}

fn repository(path: &str, service: Service) -> Result<GitCommand, CommandError> {
    let no_repository = || CommandError::Repository(shown(path));
    let word = match path.strip_prefix('\'') {
        Some(rest) => rest.strip_suffix('\'').ok_or_else(no_repository)?,
        None => path,
    };
    let word = word.strip_prefix('/').unwrap_or(word);
    let name = word.strip_suffix(".git").unwrap_or(word);
    if name.is_empty() {
        return Err(no_repository());
    }
    let app = name.parse().map_err(|source| CommandError::App {
        name: shown(name),
        source,
    })?;
    Ok(GitCommand::Git { service, app })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn git(service: Service, app: &str) -> GitCommand {
        GitCommand::Git {
            service,
            app: app.parse().expect("an app's name"),
        }
    }

    #[test]
    fn what_git_clients_send() {
        let cases = [
            (
                "git-receive-pack 'hello.git'",
                git(Service::Receive, "hello"),
            ),
            (
                "git-receive-pack '/hello.git'",
                git(Service::Receive, "hello"),
            ),
            (
                "git receive-pack 'hello.git'",
                git(Service::Receive, "hello"),
            ),
            ("git-upload-pack 'hello.git'", git(Service::Upload, "hello")),
            ("git-upload-pack hello", git(Service::Upload, "hello")),
            ("ping", GitCommand::Ping),
        ];
        for (text, want) in cases {
            assert_eq!(parse(Some(text)), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_nobody_should_send() {
        let cases = [
            "git-receive-pack",
            "git-receive-pack ''",
            "git-receive-pack '../hello.git'",
            "git-receive-pack '/var/lib/deis/git/x.git'",
            "git-receive-pack 'hello.git' ; id",
            "git-receive-pack 'hello.git'; id",
            "git-receive-pack 'hel'lo.git'",
            "git-receive-pack '$(id).git'",
            "git-receive-pack '`id`.git'",
            "git-receive-pack --help 'hello.git'",
            "git-receive-pack 'hello.git",
            "git-receive-pack 'hello%n.git'",
            "git-receive-pack 'hello\nx.git'",
            "git-receive-pack 'Hello.git'",
            "git-upload-archive 'hello.git'",
            "git-shell",
            "bash",
            "scp -t /",
            "git-receive-pack '🦀.git'",
        ];
        for text in cases {
            let error = parse(Some(text)).expect_err(text);
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert_eq!(parse(None), Err(CommandError::NoShell));
        assert_eq!(parse(Some("  ")), Err(CommandError::NoShell));
        assert!(parse(Some(&"x".repeat(10_000))).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_a_name(text in "\\PC{0,60}") {
            if let Ok(GitCommand::Git { app, .. }) = parse(Some(&format!("git-receive-pack {text}"))) {
                prop_assert!(text.contains(app.as_str()));
            }
        }
    }
}
