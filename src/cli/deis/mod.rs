//! `deis`, the developers' command line: HTTP to the controller, as Deis 1.13's client did it.
//!
//! What it prints on success is v1's to the letter, for scripts read it. Where v1's client was wrong
//! (swallowed errors, a config pushed without its last line) it is not followed.

mod access;
mod apps;
mod args;
mod audit;
mod auth;
mod certs;
mod client;
mod completion;
mod config;
mod dotenv;
mod examples;
mod failure;
mod files;
mod git;
mod help;
mod keys;
mod limits;
mod logs;
mod manual;
mod plugin;
mod profile;
mod ps;
mod quote;
mod releases;
mod rollout;
mod run;
mod spelling;
#[cfg(test)]
mod tests;
mod tokens;
mod ui;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow};
use clap::FromArgMatches as _;
use serde_json::json;

pub use self::ui::Ui;
use self::{
    args::{Cli, Command},
    client::{Client, ServerVersion},
    profile::Profile,
    spelling::Spelled,
    ui::Format,
};
use crate::{
    api::{API_VERSION, PLATFORM_VERSION},
    model::AppName,
};

/// What the command line takes from its surroundings, read once.
#[derive(Debug, Clone)]
pub struct Env {
    /// The user's home directory, if he has one.
    pub home: Option<PathBuf>,
    /// The current directory.
    pub cwd: PathBuf,
    /// Name of the profile: `$DEIS_PROFILE`, else `client`.
    pub profile: String,
    /// `$DEIS_DRINK_OF_CHOICE`, else `coffee`.
    pub drink: String,
    /// The program that shows a web page, if there is a screen to show it on.
    pub browser: Option<OsString>,
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
                .map(PathBuf::from),
            cwd: std::env::current_dir().context("can't tell the current directory")?,
            profile: var("DEIS_PROFILE", "client"),
            drink: var("DEIS_DRINK_OF_CHOICE", "coffee"),
            browser: apps::browser(|name| std::env::var_os(name).filter(|value| !value.is_empty())),
        })
    }

    /// The home directory, where logins and keys are.
    fn home(&self) -> anyhow::Result<&Path> {
        self.home
            .as_deref()
            .context("$HOME is not set, so there is no place for your login; set it")
    }
}

/// What every command has at hand.
struct Shell<'a> {
    env: &'a Env,
    ui: &'a mut Ui,
    /// Why the app in question may not be the one that is meant.
    guess: Option<String>,
    /// What the controller speaks.
    server: ServerVersion,
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
        let token = Some(profile.token.as_str());
        let client = self.client(&profile.controller, profile.ssl_verify, token)?;
        Ok(Session { profile, client })
    }

    /// A client for a controller.
    fn client(
        &self,
        controller: &str,
        ssl_verify: bool,
        token: Option<&str>,
    ) -> anyhow::Result<Client> {
        Ok(Client::new(controller, ssl_verify, token)?.telling(&self.server))
    }

    /// A session, and the app that was named or that the git remote of the directory leads to.
    fn app(&mut self, named: Option<&str>) -> anyhow::Result<(Session, AppName)> {
        let session = self.session()?;
        let app = match named {
            Some(name) => name
                .parse()
                .map_err(|e| anyhow!("{name:?} is no app: {e}"))?,
            None => {
                let found = git::app(&self.env.cwd, session.client.host())?;
                self.guess = found.guess;
                found.app
            }
        };
        Ok((session, app))
    }
}

/// Runs one command; its result is the exit code.
pub async fn run(argv: &[OsString], env: &Env, ui: &mut Ui) -> u8 {
    ui.set_format(format_of(argv));
    let cli = help::command();
    let argv = match spelling::read(argv, &cli) {
        Spelled::Ours(argv) => argv,
        Spelled::Plugin(name, arguments) => match plugin::find(&name) {
            Some(program) => {
                let error = plugin::become_it(program, arguments, env);
                ui.error(&format!("Error: can't run the plugin deis-{name}: {error}"));
                return failure::FAILED;
            }
            None => argv.to_vec(),
        },
    };
    if argv.len() < 2 {
        let text = help::overview(&cli, ui);
        ui.error(text.trim_end());
        return failure::FAILED;
    }
    let parsed = cli.try_get_matches_from(&argv);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return failure::tell_usage(&error, ui),
    };
    ui.set_format(cli.output);
    let mut shell = Shell {
        env,
        ui,
        guess: None,
        server: ServerVersion::default(),
    };
    let code = match dispatch(cli.command, &mut shell).await {
        Ok(code) => code,
        Err(error) => failure::tell(&error, shell.guess.as_deref(), shell.ui),
    };
    if let Some(version) = shell.server.get().filter(|version| *version != API_VERSION) {
        shell.ui.error(&format!(
            "Warning: the controller speaks version {version} of the API and this program {API_VERSION}; \
             install the one that fits"
        ));
    }
    match ui.take_failure() {
        Some(error) => {
            ui.error(&format!("Error: can't write the output: {error}"));
            failure::FAILED
        }
        None => code,
    }
}

/// The format that a command line asks for, even if it can't be read otherwise.
fn format_of(argv: &[OsString]) -> Format {
    let words = argv.iter().take_while(|word| *word != "--");
    let asked: Vec<_> = words.filter_map(|word| word.to_str()).collect();
    let json = asked.contains(&"--output=json")
        || asked.windows(2).any(|pair| pair == ["--output", "json"]);
    if json { Format::Json } else { Format::Text }
}

async fn dispatch(command: Command, shell: &mut Shell<'_>) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => return run::run(shell, args).await,
        Command::Logs(args) => return logs::logs(shell, args).await,
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
        Command::Open(args) => apps::open(shell, args).await,
        Command::Transfer(args) => apps::transfer(shell, args).await,
        Command::GitRemote(args) => apps::git_remote(shell, args),
        Command::Config(args) => config::list(shell, args).await,
        Command::ConfigSet(args) => config::set(shell, args).await,
        Command::ConfigUnset(args) => config::unset(shell, args).await,
        Command::ConfigPull(args) => config::pull(shell, args).await,
        Command::ConfigPush(args) => config::push(shell, args).await,
        Command::Ps(args) => ps::list(shell, args).await,
        Command::Scale(args) => ps::scale(shell, args).await,
        Command::Restart(args) => ps::restart(shell, args).await,
        Command::Single(args) => ps::single(shell, args).await,
        Command::Policy(args) => rollout::info(shell, args).await,
        Command::PolicySet(args) => rollout::set(shell, args).await,
        Command::PolicyUnset(args) => rollout::unset(shell, args).await,
        Command::Maintenance(args) => rollout::maintenance(shell, args).await,
        Command::MaintenanceOn(args) => rollout::on(shell, args).await,
        Command::MaintenanceOff(args) => rollout::off(shell, args).await,
        Command::Releases(args) => releases::list(shell, args).await,
        Command::ReleaseInfo(args) => releases::info(shell, args).await,
        Command::Rollback(args) => releases::rollback(shell, args).await,
        Command::Builds(args) => releases::builds(shell, args).await,
        Command::Pull(args) => releases::create_build(shell, args).await,
        Command::Audit(args) => audit::list(shell, args).await,
        Command::Tokens(args) => tokens::list(shell, args).await,
        Command::TokensCreate(args) => tokens::create(shell, args).await,
        Command::TokensRevoke(args) => tokens::revoke(shell, args).await,
        Command::Keys(args) => keys::list(shell, args).await,
        Command::KeysAdd(args) => keys::add(shell, args).await,
        Command::KeysRemove(args) => keys::remove(shell, args).await,
        Command::Domains(args) => access::domains(shell, args).await,
        Command::DomainsAdd(args) => access::add_domain(shell, args).await,
        Command::DomainsRemove(args) => access::remove_domain(shell, args).await,
        Command::Certs(args) => certs::list(shell, args).await,
        Command::CertsAdd(args) => certs::add(shell, args).await,
        Command::CertsRemove(args) => certs::remove(shell, args).await,
        Command::CertsAuto(args) => certs::auto(shell, args).await,
        Command::CertsInfo(args) => certs::info(shell, args).await,
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
        Command::Help(args) => help::show(shell, args),
        Command::Completion(args) => {
            completion::script(shell, &args);
            Ok(())
        }
        Command::Complete(args) => {
            completion::complete(shell, args).await;
            Ok(())
        }
        Command::Man(args) => manual::write(shell, args),
        Command::Version => {
            version(shell.ui);
            Ok(())
        }
    }
    .map(|()| 0)
}

/// `version`
fn version(ui: &mut Ui) {
    let version = PLATFORM_VERSION;
    let both = json!({ "version": version, "api_version": API_VERSION });
    ui.show(&both, |ui| ui.line(version));
}

/// The program `deis`.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let mut ui = Ui::terminal();
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
