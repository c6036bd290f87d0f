//! `rollout:*` and `maintenance:*`

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{Shell, args, client::of_app};
use crate::{api::wire, model::AppName};

/// `deis rollout:set`
#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    pub app: args::App,
    /// Share of each type's processes that come first, in percent
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub share: Option<u32>,
    /// How long they are watched: 90, 90s or 2m
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub watch: Option<u32>,
    /// Errors that are allowed, in percent of the answers
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub errors: Option<u32>,
    /// Requests that may get no answer
    #[arg(long, value_name = "N")]
    pub failed: Option<u32>,
}

/// `25` or `25%`
fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse();
    number.map_err(|_| "a number of percent, for example 25".to_owned())
}

/// `90`, `90s` or `2m`
fn seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number = number.parse().ok();
    number
        .and_then(|number: u32| number.checked_mul(unit))
        .ok_or_else(|| "a number of seconds, for example 90, 90s or 2m".to_owned())
}

/// `deis maintenance:on`
#[derive(Debug, Args)]
pub struct On {
    #[command(flatten)]
    pub app: args::App,
    /// What visitors read: a file with HTML
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
}

/// `rollout:info`
pub async fn info(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.as_deref())?;
    let policy: wire::Policy = session.client.get(&of_app(&app, &["rollout"])).await?;
    show(shell, &app, &policy);
    Ok(())
}

/// `rollout:set`
pub async fn set(shell: &mut Shell<'_>, args: Set) -> anyhow::Result<()> {
    let given = [
        ("share", args.share),
        ("watch", args.watch),
        ("errors", args.errors),
        ("failed", args.failed),
    ];
    let given = given
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    let body: Map<String, Value> = [("on".to_owned(), json!(true))]
        .into_iter()
        .chain(given)
        .collect();
    change(
        shell,
        &args.app,
        "Setting the rollout policy... ",
        Value::Object(body),
    )
    .await
}

/// `rollout:unset`
pub async fn unset(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let doing = "Removing the rollout policy... ";
    change(shell, &args, doing, json!({ "on": false })).await
}

async fn change(
    shell: &mut Shell<'_>,
    app: &args::App,
    doing: &str,
    body: Value,
) -> anyhow::Result<()> {
    let (session, app) = shell.app(app.app.as_deref())?;
    let path = of_app(&app, &["rollout"]);
    let work = session.client.post(&path, body);
    let policy: wire::Policy = shell.ui.step(doing, work).await?.json()?;
    shell.ui.print("done\n\n");
    show(shell, &app, &policy);
    Ok(())
}

fn show(shell: &mut Shell<'_>, app: &AppName, policy: &wire::Policy) {
    shell.ui.show(policy, |ui| {
        ui.line(&format!("=== {app} Rollout Policy"));
        let wire::Policy {
            share: Some(share),
            watch: Some(watch),
            errors: Some(errors),
            failed: Some(failed),
        } = policy
        else {
            ui.line("none: new processes replace the old ones as soon as they are healthy");
            return;
        };
        ui.line(&format!("share:    {share} % of the processes come first"));
        ui.line(&format!("watch:    for {watch} s"));
        ui.line(&format!("errors:   at most {errors} % of their answers"));
        ui.line(&format!("failed:   at most {failed} without an answer"));
    });
}

/// `maintenance:info`
pub async fn maintenance(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.as_deref())?;
    let path = of_app(&app, &["maintenance"]);
    let state: wire::Maintenance = session.client.get(&path).await?;
    shell.ui.show(&state, |ui| {
        ui.line(if state.on { "on" } else { "off" });
    });
    Ok(())
}

/// `maintenance:on`
pub async fn on(shell: &mut Shell<'_>, args: On) -> anyhow::Result<()> {
    let mut body = json!({ "on": true });
    if let Some(file) = &args.page {
        let path = shell.env.cwd.join(file);
        let page = fs::read_to_string(path);
        let page = page.with_context(|| format!("can't read the page {}", file.display()))?;
        body["page"] = json!(page);
    }
    switch(shell, &args.app, "Switching maintenance on... ", body).await
}

/// `maintenance:off`
pub async fn off(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let doing = "Switching maintenance off... ";
    switch(shell, &args, doing, json!({ "on": false })).await
}

async fn switch(
    shell: &mut Shell<'_>,
    app: &args::App,
    doing: &str,
    body: Value,
) -> anyhow::Result<()> {
    let (session, app) = shell.app(app.app.as_deref())?;
    let path = of_app(&app, &["maintenance"]);
    let work = session.client.post(&path, body);
    let state: wire::Maintenance = shell.ui.step(doing, work).await?.json()?;
    shell.ui.show(&state, |ui| ui.line("done"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_their_units() {
        assert_eq!(percent("25"), Ok(25));
        assert_eq!(percent("25%"), Ok(25));
        assert!(percent("a quarter").is_err());
        for (text, wanted) in [("90", 90), ("90s", 90), ("2m", 120)] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for text in ["", "m", "1.5m", "-1", "2h", "4294967295m"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
