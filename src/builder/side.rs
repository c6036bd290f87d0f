//! The git side: what runs as the user `git`, between sshd and the builder daemon.
//!
//! It holds no secret and reads no etcd; what it may do, the daemon decides. Each of these is a
//! subcommand of `deisd`, started by sshd or by git.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{
    authorized::OfferedKey,
    command::{self, GitCommand},
    protocol::{Ask, Frames, KeyAnswer, OpenAnswer, Push, PushAnswer, read_line, write_line},
    refs::{self, Decision},
    repository,
};
use crate::{
    git::{Source, SourceError},
    model::{AppName, Fingerprint, Username},
};

/// Time for a short question to the daemon.
const SHORT: Duration = Duration::from_secs(10);

/// What sshd or git wants done.
#[derive(Debug, clap::Subcommand)]
pub enum GitSide {
    /// For sshd's AuthorizedKeysCommand: prints the line for an offered key
    #[command(hide = true)]
    AuthorizedKeys {
        /// Type of the key (%t)
        kind: String,
        /// The key in base64 (%k)
        blob: String,
        /// The builder's socket
        #[arg(long)]
        socket: PathBuf,
        /// The program that the line names
        #[arg(long)]
        program: String,
    },
    /// What a known key leads to: git push and git clone
    #[command(hide = true)]
    GitShell {
        /// Whose key it is
        #[arg(long)]
        user: Username,
        /// The key's fingerprint
        #[arg(long)]
        fingerprint: Fingerprint,
    },
    /// git's pre-receive hook: has the push built
    #[command(hide = true)]
    GitHook,
}

/// The variables by which sshd's environment reaches git-shell, and git-shell's reaches the hook.
pub mod variables {
    /// Path of the builder's socket.
    pub const SOCKET: &str = "DEIS_BUILDER_SOCKET";
    /// Directory of all repositories.
    pub const REPOSITORIES: &str = "DEIS_REPOSITORIES";
    /// Directory of git's hooks.
    pub const HOOKS: &str = "DEIS_HOOKS";
    /// Who pushes.
    pub const USER: &str = "DEIS_PUSH_USER";
    /// With which key.
    pub const FINGERPRINT: &str = "DEIS_PUSH_FINGERPRINT";
    /// To which app.
    pub const APP: &str = "DEIS_PUSH_APP";
    /// The repository's id.
    pub const REPOSITORY: &str = "DEIS_PUSH_REPOSITORY";
}

/// Why the git side can't go on; shown to the user.
#[derive(Debug, thiserror::Error)]
pub(super) enum SideError {
    /// The daemon is not there, or went away.
    #[error("the builder doesn't answer ({0}); try again in a moment")]
    Daemon(#[from] io::Error),
    /// A variable is missing: started by hand.
    #[error("{0} is not set: this is for sshd and git to start, not for people")]
    Started(&'static str),
    /// The request is refused.
    #[error("{0}")]
    Refused(String),
}

impl GitSide {
    /// Does it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self {
            Self::AuthorizedKeys {
                kind,
                blob,
                socket,
                program,
            } => {
                return authorized_keys(&kind, &blob, &socket, &program);
            }
            Self::GitShell { user, fingerprint } => git_shell(&user, &fingerprint),
            Self::GitHook => git_hook(),
        };
        result.unwrap_or_else(|error| {
            let mut stderr = io::stderr().lock();
            let _ = writeln!(stderr, " !     {error}");
            ExitCode::FAILURE
        })
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(SHORT))?;
    stream.set_read_timeout(Some(SHORT))?;
    Ok(stream)
}

/// One question, one answer.
fn ask<T: for<'de> serde::Deserialize<'de>>(socket: &Path, ask: &Ask) -> io::Result<T> {
    let mut stream = connect(socket)?;
    write_line(&mut stream, ask)?;
    let answer = read_line(&mut BufReader::new(stream))?;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn variable<T: std::str::FromStr>(name: &'static str) -> Result<T, SideError> {
    let value = std::env::var(name).ok().and_then(|text| text.parse().ok());
    value.ok_or(SideError::Started(name))
}

fn authorized_keys(kind: &str, blob: &str, socket: &Path, program: &str) -> ExitCode {
    // What sshd asks with can't be seen by the user; the journal of the builder gets it.
    let Ok(key) = OfferedKey::parse(kind, blob) else {
        return ExitCode::SUCCESS;
    };
    let question = Ask::Key {
        kind: kind.to_owned(),
        blob: blob.to_owned(),
    };
    match ask::<KeyAnswer>(socket, &question) {
        Ok(KeyAnswer::Known { user }) => {
            println!("{}", key.line(program, &user));
            ExitCode::SUCCESS
        }
        // No line: sshd refuses it, the client offers its next one, and when none is left, the
        // PAM service says what to do (see `sshd`).
        Ok(KeyAnswer::Unknown) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("authorized-keys: the builder doesn't answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn git_shell(user: &Username, fingerprint: &Fingerprint) -> Result<ExitCode, SideError> {
    let socket: PathBuf = variable(variables::SOCKET)?;
    let root: PathBuf = variable(variables::REPOSITORIES)?;
    let hooks: PathBuf = variable(variables::HOOKS)?;
    let original = std::env::var("SSH_ORIGINAL_COMMAND").ok();
    let (service, app) = match command::parse(original.as_deref()) {
        Ok(GitCommand::Git { service, app }) => (service, app),
        Ok(GitCommand::Ping) => {
            println!("pong");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            return Err(SideError::Refused(match error {
                command::CommandError::NoShell => format!("Hello, {user}! {error}"),
                other => other.to_string(),
            }));
        }
    };
    let question = Ask::Open {
        user: user.clone(),
        app: app.clone(),
    };
    let (id, follow) = match ask(&socket, &question)? {
        OpenAnswer::Granted {
            repository,
            deployed,
            pushing,
        } => (repository, (!pushing).then_some(deployed)),
        OpenAnswer::Denied { why } => return Err(SideError::Refused(why)),
    };
    let repository = repository::Repository::open(&root, id)?;
    if let Some(deployed) = follow {
        repository.follow(deployed.as_ref())?;
    }
    let id = id.to_string();
    let environment = [
        (variables::SOCKET, socket.as_os_str()),
        (variables::USER, user.as_str().as_ref()),
        (variables::FINGERPRINT, fingerprint.as_str().as_ref()),
        (variables::APP, app.as_str().as_ref()),
        (variables::REPOSITORY, id.as_ref()),
    ];
    Ok(repository.serve(service, &hooks, &environment)?)
}

fn git_hook() -> Result<ExitCode, SideError> {
    let mut input = String::new();
    io::stdin()
        .lock()
        .take(1 << 20)
        .read_to_string(&mut input)?;
    let refused = |error: &dyn std::fmt::Display| SideError::Refused(format!("{error}"));
    let updates = refs::parse(&input).map_err(|error| refused(&error))?;
    let app: AppName = variable(variables::APP)?;
    let (branch, sha, stored) = match refs::decide(&updates).map_err(|error| refused(&error))? {
        Decision::Build {
            branch,
            sha,
            stored,
        } => (branch, sha, stored),
        Decision::Store { stored } => {
            say(&format!(
                "-----> Stored {}; only main and master are deployed (git push deis HEAD:main)",
                stored.join(", ")
            ));
            return Ok(ExitCode::SUCCESS);
        }
    };
    if !stored.is_empty() {
        say(&format!(
            "-----> Deploying {branch}; {} only stored",
            stored.join(", ")
        ));
    }
    let source = Source::from_hook(&sha).map_err(|error| refused(&error))?;
    let facts = source.facts().map_err(|error| refused(&error))?;
    let push = Push {
        user: variable(variables::USER)?,
        fingerprint: variable(variables::FINGERPRINT)?,
        app,
        repository: variable(variables::REPOSITORY)?,
        sha,
        procfile: facts.procfile,
        dockerfile: facts.dockerfile,
    };
    build(&variable::<PathBuf>(variables::SOCKET)?, source, &push)
}

/// Hands the source to the daemon and shows what it answers.
fn build(socket: &Path, source: Source, push: &Push) -> Result<ExitCode, SideError> {
    let mut stream = connect(socket)?;
    write_line(&mut stream, &Ask::Push(push.clone()))?;
    // The build takes its time, and the daemon bounds it.
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    let sending = std::thread::spawn({
        let stream = stream.try_clone()?;
        move || send(&source, stream)
    });
    let mut lines = BufReader::new(stream);
    let accepted = loop {
        match read_line(&mut lines) {
            Ok(Some(PushAnswer::Out(text))) => {
                print!("{text}");
                io::stdout().flush()?;
            }
            Ok(Some(PushAnswer::End { accepted })) => break Some(accepted),
            Ok(None) | Err(_) => break None,
        }
    };
    // A commit that can't be read is why the daemon got nothing.
    if accepted != Some(true)
        && sending.is_finished()
        && let Ok(Err(error)) = sending.join()
        && !matches!(error, SourceError::Write(_))
    {
        return Err(SideError::Refused(error.to_string()));
    }
    if accepted.is_none() {
        return Err(SideError::Refused(
            "the builder went away in the middle of the push; push again. If it had come to \
             \"Launching\", look at `deis releases`"
                .to_owned(),
        ));
    }
    Ok(if accepted == Some(true) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sends the tar. When the commit can't be read, the connection ends without the end mark.
fn send(source: &Source, stream: UnixStream) -> Result<(), SourceError> {
    let mut frames = Frames::new(io::BufWriter::with_capacity(
        256 << 10,
        stream.try_clone().map_err(SourceError::Write)?,
    ));
    match source.write_tar(&mut frames) {
        Ok(submodules) => {
            for module in submodules {
                let name: String = module.display().to_string();
                let name: String = name.chars().filter(|c| !c.is_control()).collect();
                say(&format!(
                    " !     Submodules are not deployed: {name} is left out"
                ));
            }
            frames.finish().map_err(SourceError::Write)
        }
        Err(error) => {
            // The daemon takes the missing end mark for what it is, and still answers.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            Err(error)
        }
    }
}

/// A line for the user; git puts `remote: ` before it.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_away_is_an_error_and_not_a_wait() {
        let dir = tempfile::tempdir().expect("a directory");
        let question = Ask::Open {
            user: "ada".parse().expect("a user"),
            app: "hello".parse().expect("an app"),
        };
        assert!(ask::<OpenAnswer>(&dir.path().join("none"), &question).is_err());
    }
}
