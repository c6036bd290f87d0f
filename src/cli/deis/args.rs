//! The command line as clap reads it: v1's commands with their shortcuts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Deploy and manage apps on a Deis platform
///
/// Most commands are about the app that the git remote of the current directory leads to; --app
/// names another one. `deis help <command>` tells more of each.
#[derive(Debug, Parser)]
#[command(
    name = "deis",
    bin_name = "deis",
    version = crate::api::PLATFORM_VERSION,
    arg_required_else_help = true,
    after_help = "First steps: deis register <controller> · deis keys:add · deis create · git push deis main"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a new account with a controller
    #[command(name = "auth:register", visible_alias = "register")]
    Register(Register),
    /// Log in to a controller
    #[command(name = "auth:login", visible_alias = "login")]
    Login(Login),
    /// Forget who is logged in
    #[command(name = "auth:logout", visible_alias = "logout")]
    Logout,
    /// Show who is logged in
    #[command(name = "auth:whoami", visible_alias = "whoami")]
    Whoami,
    /// Change a password
    #[command(name = "auth:passwd", visible_alias = "passwd")]
    Passwd(Passwd),
    /// Delete an account
    #[command(name = "auth:cancel")]
    Cancel(Cancel),
    /// End all logins of a user and start a new one
    #[command(name = "auth:regenerate")]
    Regenerate(Regenerate),

    /// Create an app, and a git remote that leads to it
    #[command(name = "apps:create", visible_alias = "create")]
    Create(Create),
    /// List apps
    #[command(name = "apps:list", visible_alias = "apps")]
    Apps(List),
    /// Show an app with its processes and domains
    #[command(name = "apps:info", visible_alias = "info")]
    Info(App),
    /// Destroy an app with all that belongs to it
    #[command(name = "apps:destroy", visible_alias = "destroy")]
    Destroy(Destroy),
    /// Give an app to another user
    #[command(name = "apps:transfer")]
    Transfer(AppUser),
    /// Show what an app has logged
    #[command(name = "apps:logs", visible_alias = "logs")]
    Logs(Logs),
    /// Run a command in a process of its own, with the app's code and config
    #[command(name = "apps:run", visible_alias = "run")]
    Run(Run),
    /// Add a git remote that leads to an app
    #[command(name = "git:remote")]
    GitRemote(GitRemote),

    /// List config variables
    #[command(name = "config:list", visible_alias = "config")]
    Config(ConfigList),
    /// Set config variables, and deploy the app with them
    #[command(name = "config:set")]
    ConfigSet(ConfigSet),
    /// Remove config variables, and deploy the app without them
    #[command(name = "config:unset")]
    ConfigUnset(ConfigUnset),
    /// Write config variables into the file .env
    #[command(name = "config:pull")]
    ConfigPull(ConfigPull),
    /// Set config variables from a file
    #[command(name = "config:push")]
    ConfigPush(ConfigPush),

    /// List processes
    #[command(name = "ps:list", visible_alias = "ps")]
    Ps(AppList),
    /// Run so many processes of a type
    #[command(name = "ps:scale", visible_alias = "scale")]
    Scale(Scale),
    /// Restart all processes, those of a type, or one
    #[command(name = "ps:restart", visible_alias = "restart")]
    Restart(Restart),

    /// List releases
    #[command(name = "releases:list", visible_alias = "releases")]
    Releases(AppList),
    /// Show a release
    #[command(name = "releases:info")]
    ReleaseInfo(ReleaseInfo),
    /// Go back to an earlier release, as a new one
    #[command(name = "releases:rollback", visible_alias = "rollback")]
    Rollback(Rollback),
    /// List builds
    #[command(name = "builds:list", visible_alias = "builds")]
    Builds(AppList),
    /// Deploy an image
    #[command(name = "builds:create", visible_alias = "pull")]
    Pull(Pull),

    /// List your SSH keys
    #[command(name = "keys:list", visible_alias = "keys")]
    Keys(List),
    /// Add an SSH key, so that you can push with it
    #[command(name = "keys:add")]
    KeysAdd(KeysAdd),
    /// Remove an SSH key
    #[command(name = "keys:remove")]
    KeysRemove(KeysRemove),

    /// List an app's domains
    #[command(name = "domains:list", visible_alias = "domains")]
    Domains(AppList),
    /// Add a domain to an app
    #[command(name = "domains:add")]
    DomainsAdd(DomainArg),
    /// Remove a domain from an app
    #[command(name = "domains:remove")]
    DomainsRemove(DomainArg),

    /// List who may use an app, or the platform's administrators
    #[command(name = "perms:list", visible_aliases = ["perms", "sharing", "sharing:list"])]
    Perms(PermsList),
    /// Let a user use an app, or administer the platform
    #[command(name = "perms:create", visible_alias = "sharing:add")]
    PermsCreate(PermsChange),
    /// Take that back
    #[command(name = "perms:delete", visible_alias = "sharing:remove")]
    PermsDelete(PermsChange),
    /// List the platform's users
    #[command(name = "users:list", visible_alias = "users")]
    Users(List),

    /// List limits of memory and CPU
    #[command(name = "limits:list", visible_alias = "limits")]
    Limits(App),
    /// Set limits of process types
    #[command(name = "limits:set")]
    LimitsSet(LimitsSet),
    /// Remove limits of process types
    #[command(name = "limits:unset")]
    LimitsUnset(LimitsUnset),
    /// List placement tags
    #[command(name = "tags:list", visible_alias = "tags")]
    Tags(App),
    /// Run the app's processes only on hosts with these tags
    #[command(name = "tags:set")]
    TagsSet(TagsSet),
    /// Remove placement tags
    #[command(name = "tags:unset")]
    TagsUnset(TagsUnset),

    /// Show this program's version
    #[command(name = "version")]
    Version,
}

/// Which app.
#[derive(Debug, Args)]
pub struct App {
    /// The app; else the one that the git remote of this directory leads to
    #[arg(short, long)]
    pub app: Option<String>,
}

/// How much of a list.
#[derive(Debug, Args)]
pub struct List {
    /// Show at most so many
    #[arg(short, long, value_name = "N")]
    pub limit: Option<u32>,
}

/// A list of something of an app.
#[derive(Debug, Args)]
pub struct AppList {
    #[command(flatten)]
    pub app: App,
    #[command(flatten)]
    pub list: List,
}

/// A user and an app.
#[derive(Debug, Args)]
pub struct AppUser {
    /// The user
    pub user: String,
    #[command(flatten)]
    pub app: App,
}

/// `deis register`
#[derive(Debug, Args)]
pub struct Register {
    /// URL of the controller, for example http://deis.example.com
    pub controller: String,
    /// Name for the account; asked for if not given
    #[arg(long)]
    pub username: Option<String>,
    /// Password for the account; asked for if not given
    #[arg(long)]
    pub password: Option<String>,
    /// Mail address; asked for if not given
    #[arg(long)]
    pub email: Option<String>,
    /// Whether to verify the controller's certificate
    #[arg(long, default_value = "true", action = clap::ArgAction::Set)]
    pub ssl_verify: bool,
}

/// `deis login`
#[derive(Debug, Args)]
pub struct Login {
    /// URL of the controller, for example http://deis.example.com
    pub controller: String,
    /// Name of the account; asked for if not given
    #[arg(long)]
    pub username: Option<String>,
    /// Password of the account; asked for if not given
    #[arg(long)]
    pub password: Option<String>,
    /// Whether to verify the controller's certificate
    #[arg(long, default_value = "true", action = clap::ArgAction::Set)]
    pub ssl_verify: bool,
}

/// `deis passwd`
#[derive(Debug, Args)]
pub struct Passwd {
    /// Another user (administrators only)
    #[arg(long)]
    pub username: Option<String>,
    /// The current password; asked for if not given
    #[arg(long)]
    pub password: Option<String>,
    /// The new password; asked for if not given
    #[arg(long)]
    pub new_password: Option<String>,
}

/// `deis auth:cancel`
#[derive(Debug, Args)]
pub struct Cancel {
    /// Another user (administrators only)
    #[arg(long)]
    pub username: Option<String>,
    /// Your password; asked for if not given
    #[arg(long)]
    pub password: Option<String>,
    /// Don't ask whether you are sure
    #[arg(long)]
    pub yes: bool,
}

/// `deis auth:regenerate`
#[derive(Debug, Args)]
pub struct Regenerate {
    /// Another user (administrators only)
    #[arg(short, long)]
    pub username: Option<String>,
    /// All users, you included (administrators only)
    #[arg(long, conflicts_with = "username")]
    pub all: bool,
}

/// `deis create`
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the app; made up if not given
    pub id: Option<String>,
    /// Don't add a git remote
    #[arg(long)]
    pub no_remote: bool,
    /// Build the app with this buildpack
    #[arg(short, long)]
    pub buildpack: Option<String>,
    /// Name of the git remote
    #[arg(short, long, default_value = "deis")]
    pub remote: String,
}

/// `deis destroy`
#[derive(Debug, Args)]
pub struct Destroy {
    #[command(flatten)]
    pub app: App,
    /// The app's name once more, instead of being asked for it
    #[arg(long, value_name = "APP")]
    pub confirm: Option<String>,
}

/// `deis logs`
#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    pub app: App,
    /// Show so many lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u32>,
}

/// `deis run`
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub app: App,
    /// Don't wait: what it prints goes to the app's log, see `deis logs`
    #[arg(short, long, conflicts_with_all = ["tty", "no_tty", "no_input"])]
    pub detach: bool,
    /// Give it a terminal, also where ours is none
    #[arg(short, long, conflicts_with = "no_tty")]
    pub tty: bool,
    /// Give it no terminal, also where ours is one
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Leave our input alone (in a loop that reads from it)
    #[arg(short, long, conflicts_with = "tty")]
    pub no_input: bool,
    /// The command: a single argument is a line for the shell; of several, each arrives as it is
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `deis git:remote`
#[derive(Debug, Args)]
pub struct GitRemote {
    #[command(flatten)]
    pub app: App,
    /// Name of the git remote
    #[arg(short, long, default_value = "deis")]
    pub remote: String,
}

/// `deis config:list`
#[derive(Debug, Args)]
pub struct ConfigList {
    #[command(flatten)]
    pub app: App,
    /// Print all on one line, as config:set takes them
    #[arg(long)]
    pub oneline: bool,
}

/// `deis config:set`
#[derive(Debug, Args)]
pub struct ConfigSet {
    #[command(flatten)]
    pub app: App,
    /// What to set
    #[arg(required = true, value_name = "NAME=VALUE")]
    pub values: Vec<String>,
}

/// `deis config:unset`
#[derive(Debug, Args)]
pub struct ConfigUnset {
    #[command(flatten)]
    pub app: App,
    /// What to remove
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `deis config:pull`
#[derive(Debug, Args)]
pub struct ConfigPull {
    #[command(flatten)]
    pub app: App,
    /// Ask about each variable that differs
    #[arg(short, long)]
    pub interactive: bool,
    /// Overwrite variables that the file has already
    #[arg(short, long)]
    pub overwrite: bool,
}

/// `deis config:push`
#[derive(Debug, Args)]
pub struct ConfigPush {
    #[command(flatten)]
    pub app: App,
    /// The file
    #[arg(short, long, default_value = ".env")]
    pub path: PathBuf,
}

/// `deis scale`
#[derive(Debug, Args)]
pub struct Scale {
    #[command(flatten)]
    pub app: App,
    /// How many of which type
    #[arg(required = true, value_name = "TYPE=N")]
    pub targets: Vec<String>,
}

/// `deis ps:restart`
#[derive(Debug, Args)]
pub struct Restart {
    #[command(flatten)]
    pub app: App,
    /// A type, or one process of it as web.1
    #[arg(value_name = "TYPE[.N]")]
    pub target: Option<String>,
}

/// `deis releases:info`
#[derive(Debug, Args)]
pub struct ReleaseInfo {
    #[command(flatten)]
    pub app: App,
    /// The release, as v2 or 2
    #[arg(value_parser = version)]
    pub version: u32,
}

/// `deis rollback`
#[derive(Debug, Args)]
pub struct Rollback {
    #[command(flatten)]
    pub app: App,
    /// The release, as v2 or 2; else the last one before the current that succeeded
    #[arg(value_parser = version)]
    pub version: Option<u32>,
}

/// `deis pull`
#[derive(Debug, Args)]
pub struct Pull {
    #[command(flatten)]
    pub app: App,
    /// The image, for example registry.example.com/app:v2
    pub image: String,
    /// Process types and their commands, as YAML; else the file Procfile
    #[arg(short, long)]
    pub procfile: Option<String>,
}

/// `deis keys:add`
#[derive(Debug, Args)]
pub struct KeysAdd {
    /// File of the public key; else you are asked which of ~/.ssh
    pub file: Option<PathBuf>,
}

/// `deis keys:remove`
#[derive(Debug, Args)]
pub struct KeysRemove {
    /// Name of the key, as keys:list shows it
    pub id: String,
}

/// A domain of an app.
#[derive(Debug, Args)]
pub struct DomainArg {
    #[command(flatten)]
    pub app: App,
    /// The domain
    pub domain: String,
}

/// `deis perms:list`
#[derive(Debug, Args)]
pub struct PermsList {
    /// The app; else the one that the git remote of this directory leads to
    #[arg(long, conflicts_with = "admin")]
    pub app: Option<String>,
    /// The platform's administrators instead
    #[arg(short, long)]
    pub admin: bool,
    #[command(flatten)]
    pub list: List,
}

/// `deis perms:create` and `perms:delete`
#[derive(Debug, Args)]
pub struct PermsChange {
    /// The user
    pub user: String,
    /// The app; else the one that the git remote of this directory leads to
    #[arg(long, conflicts_with = "admin")]
    pub app: Option<String>,
    /// Administrator of the platform instead
    #[arg(short, long)]
    pub admin: bool,
}

/// `deis limits:set`
#[derive(Debug, Args)]
pub struct LimitsSet {
    #[command(flatten)]
    pub app: App,
    /// Limit CPU shares, 0 to 1024
    #[arg(short, long, conflicts_with = "memory")]
    pub cpu: bool,
    /// Limit memory (this is what is limited unless you say otherwise)
    #[arg(short, long)]
    pub memory: bool,
    /// The limits, for example web=512M, or web=512 for CPU shares
    #[arg(required = true, value_name = "TYPE=LIMIT")]
    pub limits: Vec<String>,
}

/// `deis limits:unset`
#[derive(Debug, Args)]
pub struct LimitsUnset {
    #[command(flatten)]
    pub app: App,
    /// Of CPU shares
    #[arg(short, long, conflicts_with = "memory")]
    pub cpu: bool,
    /// Of memory (this is meant unless you say otherwise)
    #[arg(short, long)]
    pub memory: bool,
    /// The process types
    #[arg(required = true, value_name = "TYPE")]
    pub types: Vec<String>,
}

/// `deis tags:set`
#[derive(Debug, Args)]
pub struct TagsSet {
    #[command(flatten)]
    pub app: App,
    /// The tags
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub tags: Vec<String>,
}

/// `deis tags:unset`
#[derive(Debug, Args)]
pub struct TagsUnset {
    #[command(flatten)]
    pub app: App,
    /// The tags
    #[arg(required = true, value_name = "KEY")]
    pub tags: Vec<String>,
}

/// Reads a release number, with or without its v.
fn version(text: &str) -> Result<u32, String> {
    text.strip_prefix('v')
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("{text:?} is no release; write it as v2"))
}
