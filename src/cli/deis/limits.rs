//! `limits:*` and `tags:*`: the parts of a config that are no variables.

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{Session, Shell, Ui, args, client::of_app, ui::columns};
use crate::{api::wire, model::AppName};

/// `deis limits:set`
#[derive(Debug, Args)]
pub struct LimitsSet {
    #[command(flatten)]
    pub app: args::App,
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
    pub app: args::App,
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
    pub app: args::App,
    /// The tags
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub tags: Vec<String>,
}

/// `deis tags:unset`
#[derive(Debug, Args)]
pub struct TagsUnset {
    #[command(flatten)]
    pub app: args::App,
    /// The tags
    #[arg(required = true, value_name = "KEY")]
    pub tags: Vec<String>,
}

/// `limits:list`
pub async fn list(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.as_deref())?;
    let config = session.client.get(&of_app(&app, &["config"])).await?;
    show(shell.ui, &app, &config);
    Ok(())
}

fn show(ui: &mut Ui, app: &AppName, config: &wire::Config) {
    let (memory, cpu) = (&config.memory, &config.cpu);
    ui.show(&json!({ "memory": memory, "cpu": cpu }), |ui| {
        let memory = columns(memory.iter().map(|(k, v)| (k.as_str(), v.clone())), 5);
        let cpu = columns(cpu.iter().map(|(k, v)| (k.as_str(), v.to_string())), 5);
        let or_unlimited = |text: String| {
            if text.is_empty() {
                "Unlimited\n".to_owned()
            } else {
                text
            }
        };
        ui.print(&format!(
            "=== {app} Limits\n\n--- Memory\n{}\n--- CPU\n{}",
            or_unlimited(memory),
            or_unlimited(cpu)
        ));
    });
}

/// `limits:set`
pub async fn set(shell: &mut Shell<'_>, args: LimitsSet) -> anyhow::Result<()> {
    let mut limits = Map::new();
    for limit in &args.limits {
        let Some((kind, value)) = limit
            .split_once('=')
            .filter(|(k, v)| !k.is_empty() && !v.is_empty())
        else {
            bail!("'{limit}' does not match the pattern 'type=limit', ex: web=512M");
        };
        limits.insert(kind.to_owned(), value.into());
    }
    change_limits(shell, &args.app, args.cpu, limits).await
}

/// `limits:unset`
pub async fn unset(shell: &mut Shell<'_>, args: LimitsUnset) -> anyhow::Result<()> {
    let limits = args
        .types
        .into_iter()
        .map(|kind| (kind, Value::Null))
        .collect();
    change_limits(shell, &args.app, args.cpu, limits).await
}

async fn change_limits(
    shell: &mut Shell<'_>,
    app: &args::App,
    cpu: bool,
    limits: Map<String, Value>,
) -> anyhow::Result<()> {
    let (session, app) = shell.app(app.app.as_deref())?;
    let what = if cpu { "cpu" } else { "memory" };
    let body = json!({ what: limits });
    let config = apply(shell, &session, &app, "Applying limits... ", body).await?;
    show(shell.ui, &app, &config);
    Ok(())
}

/// `tags:list`
pub async fn tags(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.as_deref())?;
    let config = session.client.get(&of_app(&app, &["config"])).await?;
    show_tags(shell.ui, &app, &config);
    Ok(())
}

fn show_tags(ui: &mut Ui, app: &AppName, config: &wire::Config) {
    let tags = &config.tags;
    ui.show(&json!({ "tags": tags }), |ui| {
        ui.line(&format!("=== {app} Tags"));
        ui.print(&columns(
            tags.iter().map(|(k, v)| (k.as_str(), v.clone())),
            5,
        ));
    });
}

/// `tags:set`
pub async fn set_tags(shell: &mut Shell<'_>, args: TagsSet) -> anyhow::Result<()> {
    let mut tags = Map::new();
    for tag in &args.tags {
        let Some((key, value)) = tag
            .split_once('=')
            .filter(|(k, v)| !k.is_empty() && !v.is_empty())
        else {
            bail!("'{tag}' does not match the pattern 'key=value', ex: ssd=true");
        };
        tags.insert(key.to_owned(), value.into());
    }
    change_tags(shell, &args.app, tags).await
}

/// `tags:unset`
pub async fn unset_tags(shell: &mut Shell<'_>, args: TagsUnset) -> anyhow::Result<()> {
    let tags = args
        .tags
        .into_iter()
        .map(|key| (key, Value::Null))
        .collect();
    change_tags(shell, &args.app, tags).await
}

async fn change_tags(
    shell: &mut Shell<'_>,
    app: &args::App,
    tags: Map<String, Value>,
) -> anyhow::Result<()> {
    let (session, app) = shell.app(app.app.as_deref())?;
    let body = json!({ "tags": tags });
    let config = apply(shell, &session, &app, "Applying tags... ", body).await?;
    show_tags(shell.ui, &app, &config);
    Ok(())
}

/// Changes a config, and answers with the whole of it.
async fn apply(
    shell: &mut Shell<'_>,
    session: &Session,
    app: &AppName,
    doing: &str,
    body: Value,
) -> anyhow::Result<wire::Config> {
    let path = of_app(app, &["config"]);
    let work = session.client.post_and_wait(&path, body);
    let config = shell.ui.step(doing, work).await?.json()?;
    shell.ui.print("done\n\n");
    Ok(config)
}
