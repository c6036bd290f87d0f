//! `deis`, the developers' command line: HTTP to the controller, as Deis 1.13's client did it.
//!
//! What it prints on success is v1's to the letter, for scripts read it. Where v1's client was wrong
//! (swallowed errors, a config pushed without its last line) it is not followed.

mod access;
mod apps;
mod args;
mod auth;
mod client;
mod config;
mod dotenv;
mod git;
mod keys;
mod limits;
mod profile;
mod ps;
mod quote;
mod releases;
mod run;
#[cfg(test)]
mod tests;
mod ui;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, anyhow};
use clap::{CommandFactory as _, Parser as _};

pub use self::ui::Ui;
use self::{
    args::{Cli, Command},
    client::Client,
    profile::Profile,
};
use crate::model::AppName;

/// What the command line takes from its surroundings, read once.
#[derive(Debug, Clone)]
pub struct Env {
    /// The user's home directory.
    pub home: PathBuf,
    /// The current directory.
    pub cwd: PathBuf,
    /// Name of the profile: `$DEIS_PROFILE`, else `client`.
    pub profile: String,
    /// `$DEIS_DRINK_OF_CHOICE`, else `coffee`.
    pub drink: String,
}

impl Env {
    /// Reads the process's own environment.
    fn of_process() -> anyhow::Result<Self> {
        let var = |name: &str, default: &str| {
            std::env::var(name)
                .ok()
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| default.to_owned())
        };
        Ok(Self {
            home: std::env::var_os("HOME")
                .filter(|home| !home.is_empty())
                .context("$HOME is not set, so there is no place for your profile; set it")?
                .into(),
            cwd: std::env::current_dir().context("can't tell the current directory")?,
            profile: var("DEIS_PROFILE", "client"),
            drink: var("DEIS_DRINK_OF_CHOICE", "coffee"),
        })
    }
}

/// What every command has at hand.
struct Shell<'a> {
    env: &'a Env,
    ui: &'a mut Ui,
}

/// Somebody who is logged in.
struct Session {
    profile: Profile,
    client: Client,
}

impl Shell<'_> {
    /// The profile and a client that speaks for it.
    fn session(&self) -> anyhow::Result<Session> {
        let profile = Profile::load(self.env)?;
        let client = Client::new(
            &profile.controller,
            profile.ssl_verify,
            Some(&profile.token),
        )?;
        Ok(Session { profile, client })
    }

    /// A session, and the app that was named or that the git remote of the directory leads to.
    fn app(&self, named: Option<&str>) -> anyhow::Result<(Session, AppName)> {
        let session = self.session()?;
        let app = match named {
            Some(name) => name
                .parse()
                .map_err(|e| anyhow!("{name:?} is no app: {e}"))?,
            None => git::app(&self.env.cwd, session.client.host())?,
        };
        Ok((session, app))
    }
}

/// Runs one command; its result is the exit code.
pub async fn run(argv: &[OsString], env: &Env, ui: &mut Ui) -> u8 {
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => return show_usage(&error, ui),
    };
    match dispatch(cli.command, &mut Shell { env, ui }).await {
        Ok(code) => code,
        Err(error) => {
            ui.error(&format!("Error: {error:#}"));
            1
        }
    }
}

/// Help goes to stdout; a wrong command line to stderr, in our own form.
fn show_usage(error: &clap::Error, ui: &mut Ui) -> u8 {
    let text = if ui.colour() {
        error.render().ansi().to_string()
    } else {
        error.render().to_string()
    };
    if error.use_stderr() {
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        ui.error(&format!("Error: {}", text.trim_end()));
        1
    } else {
        ui.print(&text);
        0
    }
}

async fn dispatch(command: Command, shell: &mut Shell<'_>) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => return run::run(shell, args).await,
        Command::Register(args) => auth::register(shell, args).await,
        Command::Login(args) => auth::login(shell, args).await,
        Command::Logout => auth::logout(shell),
        Command::Whoami => auth::whoami(shell),
        Command::Passwd(args) => auth::passwd(shell, args).await,
        Command::Cancel(args) => auth::cancel(shell, args).await,
        Command::Regenerate(args) => auth::regenerate(shell, args).await,
        Command::Create(args) => apps::create(shell, args).await,
        Command::Apps(args) => apps::list(shell, args).await,
        Command::Info(args) => apps::info(shell, args).await,
        Command::Destroy(args) => apps::destroy(shell, args).await,
        Command::Transfer(args) => apps::transfer(shell, args).await,
        Command::Logs(args) => apps::logs(shell, args).await,
        Command::GitRemote(args) => apps::git_remote(shell, args),
        Command::Config(args) => config::list(shell, args).await,
        Command::ConfigSet(args) => config::set(shell, args).await,
        Command::ConfigUnset(args) => config::unset(shell, args).await,
        Command::ConfigPull(args) => config::pull(shell, args).await,
        Command::ConfigPush(args) => config::push(shell, args).await,
        Command::Ps(args) => ps::list(shell, args).await,
        Command::Scale(args) => ps::scale(shell, args).await,
        Command::Restart(args) => ps::restart(shell, args).await,
        Command::Releases(args) => releases::list(shell, args).await,
        Command::ReleaseInfo(args) => releases::info(shell, args).await,
        Command::Rollback(args) => releases::rollback(shell, args).await,
        Command::Builds(args) => releases::builds(shell, args).await,
        Command::Pull(args) => releases::create_build(shell, args).await,
        Command::Keys(args) => keys::list(shell, args).await,
        Command::KeysAdd(args) => keys::add(shell, args).await,
        Command::KeysRemove(args) => keys::remove(shell, args).await,
        Command::Domains(args) => access::domains(shell, args).await,
        Command::DomainsAdd(args) => access::add_domain(shell, args).await,
        Command::DomainsRemove(args) => access::remove_domain(shell, args).await,
        Command::Perms(args) => access::perms(shell, args).await,
        Command::PermsCreate(args) => access::grant(shell, args).await,
        Command::PermsDelete(args) => access::revoke(shell, args).await,
        Command::Users(args) => access::users(shell, args).await,
        Command::Limits(args) => limits::list(shell, args).await,
        Command::LimitsSet(args) => limits::set(shell, args).await,
        Command::LimitsUnset(args) => limits::unset(shell, args).await,
        Command::Tags(args) => limits::tags(shell, args).await,
        Command::TagsSet(args) => limits::set_tags(shell, args).await,
        Command::TagsUnset(args) => limits::unset_tags(shell, args).await,
        Command::Version => {
            shell.ui.line(crate::api::PLATFORM_VERSION);
            Ok(())
        }
    }
    .map(|()| 0)
}

/// A program `deis-<name>` on the PATH that stands in for a command that we don't have.
fn plugin(argv: &[OsString]) -> Option<std::process::Command> {
    let name = argv.get(1)?.to_str()?;
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_:".contains(c);
    let known = Cli::command()
        .get_subcommands()
        .any(|c| c.get_name() == name || c.get_all_aliases().any(|alias| alias == name));
    if known || name == "help" || name.starts_with('-') || !name.chars().all(harmless) {
        return None;
    }
    let program = format!("deis-{name}");
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(&program))
        .find(|file| file.is_file())?;
    let mut command = std::process::Command::new(found);
    command.args(&argv[2..]);
    Some(command)
}

/// The program `deis`.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let mut ui = Ui::terminal(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    if let Some(mut command) = plugin(&argv) {
        use std::os::unix::process::CommandExt as _;
        let error = command.exec();
        ui.error(&format!(
            "Error: can't run {:?}: {error}",
            command.get_program()
        ));
        return ExitCode::FAILURE;
    }
    let env = match Env::of_process() {
        Ok(env) => env,
        Err(error) => {
            ui.error(&format!("Error: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(run(&argv, &env, &mut ui))),
        Err(error) => {
            ui.error(&format!("Error: can't start: {error}"));
            ExitCode::FAILURE
        }
    }
}
