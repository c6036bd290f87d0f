//! The command line as clap reads it: v1's commands with their shortcuts.
//!
//! A new command is a variant of [`Command`] (its arguments in the file that carries it out), a line
//! in `dispatch`, and a row of `examples`. Its group in `deis help` is what stands before the colon
//! (a new group gets a row in `help::GROUPS`); completion and manual page follow by themselves.
//! `--output json` works where it shows what it shows by `Ui::show` or `Ui::list`.

use clap::{Args, Parser, Subcommand};

use super::{
    access, apps, audit, auth, certs, completion, config, help, keys, limits, manual, ps, releases,
    rollout, tokens, ui,
};

/// Deploy and manage apps on a Deis platform
///
/// Most commands are about one app: the one that --app names, else the one that the git remote of
/// the current directory leads to.
#[derive(Debug, Parser)]
#[command(
    name = "deis",
    bin_name = "deis",
    version = crate::api::PLATFORM_VERSION,
    disable_version_flag = true,
    disable_help_subcommand = true,
    infer_long_args = true,
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to show things
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true,
        help = "Output format: text or json",
        display_order = 900
    )]
    pub output: ui::Format,
}

/// Everything that can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a new account with a controller
    #[command(name = "auth:register", visible_alias = "register")]
    Register(auth::Register),
    /// Log in to a controller
    #[command(name = "auth:login", visible_alias = "login")]
    Login(auth::Login),
    /// Forget the login on this computer
    #[command(name = "auth:logout", visible_alias = "logout")]
    Logout,
    /// Show who is logged in
    #[command(name = "auth:whoami", visible_alias = "whoami")]
    Whoami,
    /// Change a password
    #[command(name = "auth:passwd", visible_alias = "passwd")]
    Passwd(auth::Passwd),
    /// Delete an account
    #[command(name = "auth:cancel")]
    Cancel(auth::Cancel),
    /// End all logins of a user and start a new one
    #[command(name = "auth:regenerate")]
    Regenerate(auth::Regenerate),

    /// Create an app, and a git remote that leads to it
    #[command(name = "apps:create", visible_alias = "create")]
    Create(apps::Create),
    /// List apps
    #[command(name = "apps:list", visible_alias = "apps")]
    Apps(List),
    /// Show an app with its processes and domains
    #[command(name = "apps:info", visible_alias = "info")]
    Info(App),
    /// Destroy an app with all that belongs to it
    #[command(name = "apps:destroy", visible_alias = "destroy")]
    Destroy(apps::Destroy),
    /// Open an app in the browser
    #[command(name = "apps:open", visible_alias = "open")]
    Open(App),
    /// Give an app to another user
    #[command(name = "apps:transfer")]
    Transfer(AppUser),
    /// Show the log of an app
    #[command(name = "apps:logs", visible_alias = "logs")]
    Logs(Logs),
    /// Run a command in a fresh process with the app's config
    #[command(name = "apps:run", visible_alias = "run")]
    Run(Run),
    /// Add a git remote that leads to an app
    #[command(name = "git:remote")]
    GitRemote(apps::GitRemote),

    /// List config variables
    #[command(name = "config:list", visible_alias = "config")]
    Config(config::List),
    /// Set config variables, and deploy the app with them
    #[command(name = "config:set")]
    ConfigSet(config::Set),
    /// Remove config variables, and deploy the app without them
    #[command(name = "config:unset")]
    ConfigUnset(config::Unset),
    /// Write config variables into the file .env
    #[command(name = "config:pull")]
    ConfigPull(config::Pull),
    /// Set config variables from a file
    #[command(name = "config:push")]
    ConfigPush(config::Push),

    /// List processes
    #[command(name = "ps:list", visible_alias = "ps")]
    Ps(AppList),
    /// Set how many processes of each type run
    #[command(name = "ps:scale", visible_alias = "scale")]
    Scale(ps::Scale),
    /// List or mark types that never run twice at a time
    #[command(
        name = "ps:single",
        after_long_help = "The old process of a single type stops before the next one starts, also in a \
                           deploy. A host that\nloses etcd stops its processes of single types, and they \
                           start elsewhere after half a minute:\nan outage of etcd stops them, and \
                           nothing else."
    )]
    Single(ps::Single),
    /// Restart all processes, those of a type, or one
    #[command(name = "ps:restart", visible_alias = "restart")]
    Restart(ps::Restart),

    /// Show how new releases are watched
    #[command(name = "rollout:info", visible_alias = "rollout")]
    Policy(App),
    /// Have new releases watched before they replace the old one
    #[command(
        name = "rollout:set",
        after_long_help = "A share of each type's processes comes first. Errors of theirs, or requests \
                           that they don't answer,\nhave the old release serve on. By default 25 % are \
                           watched for 60 s, and 5 % errors are allowed, if\nthe old release had fewer. \
                           Rollbacks are not watched."
    )]
    PolicySet(rollout::Set),
    /// Have new releases replace old ones as soon as they are healthy
    #[command(name = "rollout:unset")]
    PolicyUnset(App),

    /// Tell whether an app is out of service
    #[command(name = "maintenance:info", visible_alias = "maintenance")]
    Maintenance(App),
    /// Take an app out of service: visitors get a page instead
    #[command(name = "maintenance:on")]
    MaintenanceOn(rollout::On),
    /// Take an app back into service
    #[command(name = "maintenance:off")]
    MaintenanceOff(App),

    /// List releases
    #[command(name = "releases:list", visible_alias = "releases")]
    Releases(AppList),
    /// Show a release
    #[command(name = "releases:info")]
    ReleaseInfo(releases::Info),
    /// Go back to an earlier release, as a new one
    #[command(name = "releases:rollback", visible_alias = "rollback")]
    Rollback(releases::Rollback),
    /// List builds
    #[command(name = "builds:list", visible_alias = "builds")]
    Builds(AppList),
    /// Deploy an image
    #[command(name = "builds:create", visible_alias = "pull")]
    Pull(Pull),

    /// Show who has changed what of an app, or of the platform's accounts
    #[command(name = "audit:list", visible_alias = "audit")]
    Audit(audit::List),

    /// List your tokens, logins included
    #[command(name = "tokens:list", visible_alias = "tokens")]
    Tokens(List),
    /// Make a token for a program, good for less than a login
    #[command(name = "tokens:create")]
    TokensCreate(tokens::Create),
    /// End a token, or a login on another computer
    #[command(name = "tokens:revoke")]
    TokensRevoke(tokens::Revoke),

    /// List your SSH keys
    #[command(name = "keys:list", visible_alias = "keys")]
    Keys(List),
    /// Add an SSH key, so that you can push with it
    #[command(name = "keys:add")]
    KeysAdd(keys::Add),
    /// Remove an SSH key
    #[command(name = "keys:remove")]
    KeysRemove(keys::Remove),

    /// List an app's domains
    #[command(name = "domains:list", visible_alias = "domains")]
    Domains(AppList),
    /// Add a domain to an app
    #[command(name = "domains:add")]
    DomainsAdd(access::DomainArg),
    /// Remove a domain from an app
    #[command(name = "domains:remove")]
    DomainsRemove(access::DomainArg),

    /// List your certificates
    #[command(name = "certs:list", visible_alias = "certs")]
    Certs(List),
    /// Add a certificate: HTTPS for your domains
    #[command(name = "certs:add")]
    CertsAdd(certs::Add),
    /// Remove a certificate
    #[command(name = "certs:remove")]
    CertsRemove(certs::Named),
    /// Show how an app's domains get their certificates
    #[command(name = "certs:auto")]
    CertsAuto(App),
    /// Show what stands in a certificate and its chain
    #[command(name = "certs:info")]
    CertsInfo(certs::Named),

    /// List who may use an app, or the platform's administrators
    #[command(name = "perms:list", visible_aliases = ["perms", "sharing", "sharing:list"])]
    Perms(access::PermsList),
    /// Let a user use an app, or administer the platform
    #[command(name = "perms:create", visible_alias = "sharing:add")]
    PermsCreate(access::PermsChange),
    /// Take a permission back
    #[command(name = "perms:delete", visible_alias = "sharing:remove")]
    PermsDelete(access::PermsChange),
    /// List the platform's users
    #[command(name = "users:list", visible_alias = "users")]
    Users(List),

    /// List limits of memory and CPU
    #[command(name = "limits:list", visible_alias = "limits")]
    Limits(App),
    /// Set limits of process types
    #[command(name = "limits:set")]
    LimitsSet(limits::LimitsSet),
    /// Remove limits of process types
    #[command(name = "limits:unset")]
    LimitsUnset(limits::LimitsUnset),
    /// List placement tags
    #[command(name = "tags:list", visible_alias = "tags")]
    Tags(App),
    /// Run the app's processes only on hosts with these tags
    #[command(name = "tags:set")]
    TagsSet(limits::TagsSet),
    /// Remove placement tags
    #[command(name = "tags:unset")]
    TagsUnset(limits::TagsUnset),

    /// Explain a command or a group of commands
    #[command(name = "help")]
    Help(help::Help),
    /// Print a script that completes commands in your shell
    #[command(name = "completion", alias = "completions")]
    Completion(completion::Completion),
    /// List what could complete a command line; for the scripts of `completion`
    #[command(name = "__complete", hide = true)]
    Complete(completion::Complete),
    /// Write the manual pages
    #[command(name = "man")]
    Man(manual::Man),
    /// Show this program's version
    #[command(name = "version")]
    Version,
}

/// Which app.
#[derive(Debug, Args)]
pub struct App {
    /// The app [default: the one of this directory's git remote]
    #[arg(short, long)]
    pub app: Option<String>,
}

/// How much of a list.
#[derive(Debug, Args)]
pub struct List {
    /// Show N at most
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

/// `deis logs`
#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    pub app: App,
    /// Show so many lines; 1000 unless said otherwise, or all since a time
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u32>,
    /// Show each new line as it comes, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Of a process (web.1), a type (web) or the platform (deis-controller) only
    #[arg(long, value_name = "PROCESS")]
    pub ps: Option<String>,
    /// Only what is not older: 90s, 10m, 2h, 1d, or a time as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
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
