//! `ps:*`: processes.

use std::{collections::BTreeMap, time::Instant};

use anyhow::bail;
use serde_json::{Map, json};

use super::{Session, Shell, args, client::of_app, ui::part_of};
use crate::{
    api::wire,
    model::{AppName, ProcessType},
};

/// `ps:list`
pub async fn list(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    show(shell, &session, &app, limit).await
}

/// Prints an app's processes.
pub async fn show(
    shell: &mut Shell<'_>,
    session: &Session,
    app: &AppName,
    limit: u32,
) -> anyhow::Result<()> {
    let path = of_app(app, &["containers"]);
    let page: wire::Page<wire::Container> = session.client.page(&path, limit).await?;
    print(shell, app, &page.results, page.count);
    Ok(())
}

fn print(shell: &mut Shell<'_>, app: &AppName, processes: &[wire::Container], count: u64) {
    let part = part_of(processes.len(), count);
    shell.ui.line(&format!("=== {app} Processes{part}"));
    let mut by_type: BTreeMap<&str, Vec<&wire::Container>> = BTreeMap::new();
    for process in processes {
        by_type.entry(&process.r#type).or_default().push(process);
    }
    for (kind, processes) in by_type {
        shell.ui.line(&format!("--- {kind}:"));
        for p in processes {
            shell
                .ui
                .line(&format!("{kind}.{} {} ({})", p.num, p.state, p.release));
        }
    }
}

/// `ps:scale`
pub async fn scale(shell: &mut Shell<'_>, args: args::Scale) -> anyhow::Result<()> {
    let mut targets = Map::new();
    for target in &args.targets {
        let parsed = target.split_once('=').and_then(|(kind, count)| {
            Some((
                kind.parse::<ProcessType>().ok()?,
                count.parse::<u32>().ok()?,
            ))
        });
        let Some((kind, count)) = parsed else {
            bail!("'{target}' does not match the pattern 'type=num', ex: web=2");
        };
        targets.insert(kind.into(), count.into());
    }
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let start = Instant::now();
    let drink = &shell.env.drink;
    shell
        .ui
        .line(&format!("Scaling processes... but first, {drink}!"));
    let path = of_app(&app, &["scale"]);
    shell
        .ui
        .wait(session.client.post_and_wait(&path, targets.into()))
        .await?;
    shell
        .ui
        .line(&format!("done in {}s", start.elapsed().as_secs()));
    let limit = session.profile.limit(None);
    show(shell, &session, &app, limit).await
}

/// `ps:restart`
pub async fn restart(shell: &mut Shell<'_>, args: args::Restart) -> anyhow::Result<()> {
    let mut which = Vec::new();
    if let Some(target) = &args.target {
        let (kind, number) = match target.split_once('.') {
            Some((kind, number)) => (kind, Some(number)),
            None => (target.as_str(), None),
        };
        let number_ok = number.is_none_or(|number| number.parse::<u32>().is_ok());
        if kind.parse::<ProcessType>().is_err() || !number_ok {
            bail!("'{target}' is no process; write web for a type, or web.1 for one process");
        }
        which.push(kind);
        which.extend(number);
    }
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let start = Instant::now();
    let drink = &shell.env.drink;
    shell
        .ui
        .line(&format!("Restarting processes... but first, {drink}!"));
    which.insert(0, "containers");
    which.push("restart");
    let path = of_app(&app, &which);
    let answer = shell
        .ui
        .wait(session.client.post_and_wait(&path, json!({})))
        .await?;
    let processes: Vec<wire::Container> = answer.json()?;
    shell
        .ui
        .line(&format!("done in {}s", start.elapsed().as_secs()));
    print(shell, &app, &processes, processes.len() as u64);
    Ok(())
}
