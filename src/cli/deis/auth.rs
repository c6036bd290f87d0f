//! `auth:*`: accounts and logins.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{Shell, client::Refused, profile::Profile};
use crate::api::wire::TokenReply;

/// `deis register`
#[derive(Debug, Args)]
pub struct Register {
    /// URL of the controller, for example http://deis.example.com
    pub controller: String,
    /// Name for the account; asked for if not given
    #[arg(long)]
    pub username: Option<String>,
    /// Password for the account; asked for if not given
    #[arg(long, allow_hyphen_values = true)]
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
    #[arg(long, allow_hyphen_values = true)]
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
    #[arg(long, allow_hyphen_values = true)]
    pub password: Option<String>,
    /// The new password; asked for if not given
    #[arg(long, allow_hyphen_values = true)]
    pub new_password: Option<String>,
}

/// `deis auth:cancel`
#[derive(Debug, Args)]
pub struct Cancel {
    /// Another user (administrators only)
    #[arg(long)]
    pub username: Option<String>,
    /// Your password; asked for if not given
    #[arg(long, allow_hyphen_values = true)]
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

/// `auth:register`: a new account, and a login with it.
pub async fn register(shell: &mut Shell<'_>, args: Register) -> anyhow::Result<()> {
    let client = shell.client(&args.controller, args.ssl_verify, None)?;
    client.check().await?;
    let username = given(shell, args.username, "username: ")?;
    let password = new_password(shell, args.password, "password: ")?;
    let email = given(shell, args.email, "email: ")?;
    // Where only administrators may register others, the profile says who asks.
    let client = match Profile::load(shell.env) {
        Ok(profile) if profile.controller == client.controller() => {
            shell.client(&args.controller, args.ssl_verify, Some(&profile.token))?
        }
        _ => client,
    };
    let body = json!({ "username": username, "password": password, "email": email });
    let mut done = client.post(&["auth", "register"], body.clone()).await;
    if done.as_ref().is_err_and(is_unauthorized) {
        // The login that is remembered here has ended, or is from a cluster before this one.
        let client = shell.client(&args.controller, args.ssl_verify, None)?;
        done = client.post(&["auth", "register"], body).await;
    }
    done.context("Registration failed")?;
    shell.ui.line(&format!("Registered {username}"));
    start(shell, &args.controller, args.ssl_verify, username, password).await
}

fn is_unauthorized(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|refused| refused.code == 401)
}

/// `auth:login`
pub async fn login(shell: &mut Shell<'_>, args: Login) -> anyhow::Result<()> {
    shell
        .client(&args.controller, args.ssl_verify, None)?
        .check()
        .await?;
    let username = given(shell, args.username, "username: ")?;
    let password = match args.password {
        Some(password) => password,
        None => shell.ui.ask_secret("password: ")?,
    };
    start(shell, &args.controller, args.ssl_verify, username, password).await
}

/// Logs in and remembers it.
async fn start(
    shell: &mut Shell<'_>,
    controller: &str,
    ssl_verify: bool,
    username: String,
    password: String,
) -> anyhow::Result<()> {
    let client = shell.client(controller, ssl_verify, None)?;
    let body = json!({ "username": username, "password": password });
    let reply: TokenReply = client.post(&["auth", "login"], body).await?.json()?;
    let before = Profile::load(shell.env).ok();
    let profile = Profile {
        username,
        ssl_verify,
        controller: client.controller(),
        token: reply.token,
        response_limit: before.as_ref().map_or(0, |before| before.response_limit),
        rest: before.map(|before| before.rest).unwrap_or_default(),
    };
    profile.save(shell.env)?;
    shell.ui.show(&identity(&profile), |ui| {
        ui.line(&format!("Logged in as {}", profile.username));
    });
    Ok(())
}

/// `auth:logout`
pub fn logout(shell: &mut Shell<'_>) -> anyhow::Result<()> {
    Profile::remove(shell.env)?;
    shell.ui.line("Logged out");
    Ok(())
}

/// `auth:whoami`
pub fn whoami(shell: &mut Shell<'_>) -> anyhow::Result<()> {
    let profile = Profile::load(shell.env)?;
    shell.ui.show(&identity(&profile), |ui| {
        let Profile {
            username,
            controller,
            ..
        } = &profile;
        ui.line(&format!("You are {username} at {controller}"));
    });
    Ok(())
}

/// Who is logged in where, without what proves it.
fn identity(profile: &Profile) -> Value {
    json!({ "username": profile.username, "controller": profile.controller })
}

/// `auth:passwd`
pub async fn passwd(shell: &mut Shell<'_>, args: Passwd) -> anyhow::Result<()> {
    let session = shell.session()?;
    let mut body = json!({});
    match (args.username, args.password) {
        (Some(username), None) => body["username"] = username.into(),
        (username, password) => {
            let password = match password {
                Some(password) => password,
                None => shell.ui.ask_secret("current password: ")?,
            };
            body["password"] = password.into();
            if let Some(username) = username {
                body["username"] = username.into();
            }
        }
    }
    body["new_password"] = new_password(shell, args.new_password, "new password: ")?.into();
    session
        .client
        .post(&["auth", "passwd"], body)
        .await
        .context("Password change failed")?;
    shell.ui.line("Password change succeeded.");
    Ok(())
}

/// `auth:cancel`
pub async fn cancel(shell: &mut Shell<'_>, args: Cancel) -> anyhow::Result<()> {
    let session = shell.session()?;
    let own = args
        .username
        .as_ref()
        .is_none_or(|name| *name == session.profile.username);
    let username = args
        .username
        .unwrap_or_else(|| session.profile.username.clone());
    if own {
        // Whoever sits at an unlocked screen can't cancel the account.
        let password = match args.password {
            Some(password) => password,
            None => {
                shell
                    .ui
                    .line("Please log in again in order to cancel this account");
                shell.ui.ask_secret("password: ")?
            }
        };
        let body = json!({ "username": username, "password": password });
        let reply: TokenReply = session
            .client
            .post(&["auth", "login"], body)
            .await?
            .json()?;
        let profile = Profile {
            token: reply.token,
            ..session.profile
        };
        profile.save(shell.env)?;
    }
    let session = shell.session()?;
    if !args.yes {
        let at = session.client.controller();
        let answer = shell
            .ui
            .ask(&format!("cancel account {username} at {at}? (y/N): "))?;
        if !matches!(answer.to_lowercase().as_str(), "y" | "yes") {
            shell.ui.line("Account not changed");
            return Ok(());
        }
    }
    let body = if own {
        json!({})
    } else {
        json!({ "username": username })
    };
    session
        .client
        .delete(&["auth", "cancel"], Some(body))
        .await?;
    if own {
        Profile::remove(shell.env)?;
    }
    shell.ui.line("Account cancelled");
    Ok(())
}

/// `auth:regenerate`
pub async fn regenerate(shell: &mut Shell<'_>, args: Regenerate) -> anyhow::Result<()> {
    let session = shell.session()?;
    let own = args.username.is_none() && !args.all;
    let body = match (args.username, args.all) {
        (_, true) => json!({ "all": true }),
        (Some(username), false) => json!({ "username": username }),
        (None, false) => json!({}),
    };
    let reply: TokenReply = session
        .client
        .post(&["auth", "tokens"], body)
        .await?
        .json()?;
    if own {
        let profile = Profile {
            token: reply.token,
            ..session.profile
        };
        profile.save(shell.env)?;
    } else if args.all {
        Profile::remove(shell.env)?;
    }
    shell.ui.line("Token Regenerated");
    Ok(())
}

fn given(shell: &mut Shell<'_>, value: Option<String>, prompt: &str) -> anyhow::Result<String> {
    value.map_or_else(|| shell.ui.ask(prompt), Ok)
}

fn new_password(
    shell: &mut Shell<'_>,
    value: Option<String>,
    prompt: &str,
) -> anyhow::Result<String> {
    if let Some(password) = value {
        return Ok(password);
    }
    let password = shell.ui.ask_secret(prompt)?;
    let again = shell.ui.ask_secret(&prompt.replace(": ", " (confirm): "))?;
    if password != again {
        bail!("Password mismatch, aborting.");
    }
    Ok(password)
}
