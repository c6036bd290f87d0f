//! `config:*`

use std::{collections::BTreeMap, fs, io::ErrorKind, path::PathBuf};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::{Map, Value, json};

use super::{Session, Shell, Ui, args, client::of_app, dotenv, files, ui::columns};
use crate::{
    api::wire,
    model::{AppName, ConfigName},
};

/// `deis config:list`
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub app: args::App,
    /// Print all on one line, as config:set takes them
    #[arg(long)]
    pub oneline: bool,
}

/// `deis config:set`
#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    pub app: args::App,
    /// What to set
    #[arg(required = true, value_name = "NAME=VALUE")]
    pub values: Vec<String>,
}

/// `deis config:unset`
#[derive(Debug, Args)]
pub struct Unset {
    #[command(flatten)]
    pub app: args::App,
    /// What to remove
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `deis config:pull`
#[derive(Debug, Args)]
pub struct Pull {
    #[command(flatten)]
    pub app: args::App,
    /// Ask about each variable that differs
    #[arg(short, long)]
    pub interactive: bool,
    /// Overwrite variables that the file has already
    #[arg(short, long)]
    pub overwrite: bool,
}

/// `deis config:push`
#[derive(Debug, Args)]
pub struct Push {
    #[command(flatten)]
    pub app: args::App,
    /// The file
    #[arg(short, long, default_value = ".env")]
    pub path: PathBuf,
}

/// `config:list`
pub async fn list(shell: &mut Shell<'_>, args: List) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let config = session.client.get(&of_app(&app, &["config"])).await?;
    show(shell.ui, &app, &config, args.oneline);
    Ok(())
}

fn show(ui: &mut Ui, app: &AppName, config: &wire::Config, oneline: bool) {
    let values = &config.values;
    ui.show(config, |ui| {
        if oneline {
            let pairs: Vec<_> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
            ui.line(&pairs.join(" "));
        } else {
            ui.line(&format!("=== {app} Config"));
            ui.print(&columns(
                values.iter().map(|(k, v)| (k.as_str(), v.clone())),
                6,
            ));
        }
    });
}

/// `config:set`
pub async fn set(shell: &mut Shell<'_>, args: Set) -> anyhow::Result<()> {
    let mut values = Map::new();
    for pair in &args.values {
        let parsed = pair
            .split_once('=')
            .and_then(|(name, value)| Some((name.parse::<ConfigName>().ok()?, value)));
        let Some((name, value)) = parsed else {
            bail!("'{pair}' does not match the pattern 'key=var', ex: MODE=test");
        };
        let value = if name.as_str() == "SSH_KEY" {
            ssh_key(value)?
        } else {
            value.to_owned()
        };
        values.insert(name.into(), value.into());
    }
    let (session, app) = shell.app(args.app.app.as_deref())?;
    change(shell, &session, &app, values, "Creating config... ").await
}

/// The value of SSH_KEY: a private key in base64; the name of its file stands for it.
fn ssh_key(value: &str) -> anyhow::Result<String> {
    match fs::read(value) {
        Ok(text) if text.starts_with(b"-----BEGIN ") => Ok(STANDARD.encode(text)),
        Ok(_) => bail!("{value} holds no private key"),
        Err(_) if value.starts_with("-----BEGIN ") => Ok(STANDARD.encode(value)),
        Err(_) => Ok(value.to_owned()),
    }
}

/// `config:unset`
pub async fn unset(shell: &mut Shell<'_>, args: Unset) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let values = args
        .names
        .into_iter()
        .map(|name| (name, Value::Null))
        .collect();
    change(shell, &session, &app, values, "Removing config... ").await
}

async fn change(
    shell: &mut Shell<'_>,
    session: &Session,
    app: &AppName,
    values: Map<String, Value>,
    doing: &str,
) -> anyhow::Result<()> {
    let path = of_app(app, &["config"]);
    let body = json!({ "values": values });
    let work = session.client.post_and_wait(&path, body);
    let changed: wire::Config = shell.ui.step(doing, work).await?.json()?;
    match changed.values.get("DEIS_RELEASE") {
        Some(release) => shell.ui.print(&format!("done, {release}\n\n")),
        None => shell.ui.print("done\n\n"),
    }
    // The answer to a change has the platform's own variables, too; the list has the user's.
    let config = session.client.get(&path).await?;
    show(shell.ui, app, &config, false);
    Ok(())
}

/// `config:pull`
pub async fn pull(shell: &mut Shell<'_>, args: Pull) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let config: wire::Config = session.client.get(&of_app(&app, &["config"])).await?;
    let file = shell.env.cwd.join(".env");
    let mut values = match fs::read_to_string(&file) {
        Ok(text) => {
            dotenv::read(&text).with_context(|| format!("can't read {}", file.display()))?
        }
        Err(e) if e.kind() == ErrorKind::NotFound => BTreeMap::new(),
        Err(e) => return Err(e).with_context(|| format!("can't read {}", file.display())),
    };
    for (name, value) in config.values {
        let differs = values.get(&name).is_some_and(|there| *there != value);
        let take = if !differs || args.overwrite {
            true
        } else if args.interactive {
            let answer = shell
                .ui
                .ask(&format!("overwrite {name} with {value}? (y/N) "))?;
            answer.eq_ignore_ascii_case("y")
        } else {
            false
        };
        if take {
            values.insert(name, value);
        }
    }
    files::replace(&file, dotenv::write(&values).as_bytes())
        .with_context(|| format!("can't write {}", file.display()))
}

/// `config:push`
pub async fn push(shell: &mut Shell<'_>, args: Push) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let file = shell.env.cwd.join(&args.path);
    let text =
        fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let values = dotenv::read(&text)
        .with_context(|| format!("can't read {}", file.display()))?
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    change(shell, &session, &app, values, "Creating config... ").await
}
