//! `limits:*` and `tags:*`: the parts of a config that are no variables.

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::{Session, Shell, apps::broken_off, args, client::of_app, ui::columns};
use crate::{api::wire, model::AppName};

/// `limits:list`
pub async fn list(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.as_deref())?;
    show(shell, &session, &app).await
}

async fn show(shell: &mut Shell<'_>, session: &Session, app: &AppName) -> anyhow::Result<()> {
    let config: wire::Config = session.client.get(&of_app(app, &["config"])).await?;
    let memory = columns(
        config.memory.iter().map(|(k, v)| (k.as_str(), v.clone())),
        5,
    );
    let cpu = columns(
        config.cpu.iter().map(|(k, v)| (k.as_str(), v.to_string())),
        5,
    );
    let or_unlimited = |text: String| {
        if text.is_empty() {
            "Unlimited\n".to_owned()
        } else {
            text
        }
    };
    shell.ui.print(&format!(
        "=== {app} Limits\n\n--- Memory\n{}\n--- CPU\n{}",
        or_unlimited(memory),
        or_unlimited(cpu)
    ));
    Ok(())
}

/// `limits:set`
pub async fn set(shell: &mut Shell<'_>, args: args::LimitsSet) -> anyhow::Result<()> {
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
pub async fn unset(shell: &mut Shell<'_>, args: args::LimitsUnset) -> anyhow::Result<()> {
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
    apply(
        shell,
        &session,
        &app,
        "Applying limits... ",
        json!({ what: limits }),
    )
    .await?;
    show(shell, &session, &app).await
}

/// `tags:list`
pub async fn tags(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.as_deref())?;
    show_tags(shell, &session, &app).await
}

async fn show_tags(shell: &mut Shell<'_>, session: &Session, app: &AppName) -> anyhow::Result<()> {
    let config: wire::Config = session.client.get(&of_app(app, &["config"])).await?;
    shell.ui.line(&format!("=== {app} Tags"));
    let rows = config.tags.iter().map(|(k, v)| (k.as_str(), v.clone()));
    shell.ui.print(&columns(rows, 5));
    Ok(())
}

/// `tags:set`
pub async fn set_tags(shell: &mut Shell<'_>, args: args::TagsSet) -> anyhow::Result<()> {
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
pub async fn unset_tags(shell: &mut Shell<'_>, args: args::TagsUnset) -> anyhow::Result<()> {
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
    apply(
        shell,
        &session,
        &app,
        "Applying tags... ",
        json!({ "tags": tags }),
    )
    .await?;
    show_tags(shell, &session, &app).await
}

async fn apply(
    shell: &mut Shell<'_>,
    session: &Session,
    app: &AppName,
    doing: &str,
    body: Value,
) -> anyhow::Result<()> {
    shell.ui.print(doing);
    let path = of_app(app, &["config"]);
    let call = session.client.post_and_wait(&path, body);
    match shell.ui.wait(call).await {
        Ok(_) => shell.ui.print("done\n\n"),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}
