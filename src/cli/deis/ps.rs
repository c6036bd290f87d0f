//! `ps:*`: processes.

use std::{collections::BTreeMap, time::Instant};

use anyhow::bail;
use clap::Args;
use serde_json::{Map, json};

use super::{Session, Shell, Ui, args, client::of_app};
use crate::{
    api::wire,
    cli::{figures, table::Table},
    model::{AppName, ProcessType},
};

/// `deis scale`
#[derive(Debug, Args)]
pub struct Scale {
    #[command(flatten)]
    pub app: args::App,
    /// How many of which type
    #[arg(required = true, value_name = "TYPE=N")]
    pub targets: Vec<String>,
}

/// `deis ps:restart`
#[derive(Debug, Args)]
pub struct Restart {
    #[command(flatten)]
    pub app: args::App,
    /// A type, or one process of it as web.1
    #[arg(value_name = "TYPE[.N]")]
    pub target: Option<String>,
}

/// `deis ps:single`
#[derive(Debug, Args)]
pub struct Single {
    #[command(flatten)]
    pub app: args::App,
    /// A type
    #[arg(value_name = "TYPE", requires = "mark")]
    pub kind: Option<ProcessType>,
    /// Whether it is single
    #[arg(value_name = "on|off")]
    pub mark: Option<Mark>,
}

/// A mark that is set or taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mark {
    /// Set.
    On,
    /// Taken.
    Off,
}

/// `ps:list`
pub async fn list(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    let path = of_app(&app, &["containers"]);
    let query = [("page_size", limit.to_string()), ("stats", "1".to_owned())];
    let page = session.client.query(&path, &query).await?.json()?;
    show(shell.ui, &app, &page);
    Ok(())
}

/// An app's processes, without figures.
pub async fn processes(
    session: &Session,
    app: &AppName,
    limit: u32,
) -> anyhow::Result<wire::Page<wire::Container>> {
    let path = of_app(app, &["containers"]);
    session.client.page(&path, limit).await
}

/// Shows an app's processes, type by type; figures beside them where the controller gave some.
pub fn show(ui: &mut Ui, app: &AppName, page: &wire::Page<wire::Container>) {
    ui.list(&format!("{app} Processes"), page, |ui, processes| {
        let mut by_type: BTreeMap<&str, Vec<&wire::Container>> = BTreeMap::new();
        for process in processes {
            by_type.entry(&process.r#type).or_default().push(process);
        }
        for (kind, processes) in by_type {
            let heading = format!("--- {kind}:");
            let line =
                |p: &wire::Container| format!("{kind}.{} {} ({})", p.num, p.state, p.release);
            if processes.iter().all(|p| p.stats.is_none()) {
                ui.line(&heading);
                processes.iter().for_each(|p| ui.line(&line(p)));
                continue;
            }
            let [memory, cpu, uptime, restarts, exit] = figures::HEADINGS;
            let mut table = Table::new(&[&heading, memory, cpu, uptime, restarts, exit]);
            for p in processes {
                let known = p.stats.clone().unwrap_or_default();
                let [memory, cpu, uptime, restarts, exit] = figures::columns(&known.into());
                table.row([line(p), memory, cpu, uptime, restarts, exit]);
            }
            ui.table(&table);
        }
    });
}

/// `ps:scale`
pub async fn scale(shell: &mut Shell<'_>, args: Scale) -> anyhow::Result<()> {
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
    let path = of_app(&app, &["scale"]);
    let doing = format!("Scaling processes... but first, {}!\n", shell.env.drink);
    let work = session.client.post_and_wait(&path, targets.into());
    shell.ui.step(&doing, work).await?;
    shell
        .ui
        .line(&format!("done in {}s", start.elapsed().as_secs()));
    let page = processes(&session, &app, session.profile.limit(None)).await?;
    show(shell.ui, &app, &page);
    Ok(())
}

/// `ps:restart`
pub async fn restart(shell: &mut Shell<'_>, args: Restart) -> anyhow::Result<()> {
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
    which.insert(0, "containers");
    which.push("restart");
    let path = of_app(&app, &which);
    let doing = format!("Restarting processes... but first, {}!\n", shell.env.drink);
    let work = session.client.post_and_wait(&path, json!({}));
    let restarted: Vec<wire::Container> = shell.ui.step(&doing, work).await?.json()?;
    shell
        .ui
        .line(&format!("done in {}s", start.elapsed().as_secs()));
    show(shell.ui, &app, &whole(restarted));
    Ok(())
}

/// `ps:single`
pub async fn single(shell: &mut Shell<'_>, args: Single) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let path = of_app(&app, &["single"]);
    let single: wire::Single = match (&args.kind, args.mark) {
        (Some(kind), Some(mark)) => {
            let what = match mark {
                Mark::On => "single",
                Mark::Off => "no longer single",
            };
            let body = json!({ kind.as_str(): mark == Mark::On });
            let work = session.client.post(&path, body);
            let doing = format!("Making {kind} {what}... ");
            let answer = shell.ui.step(&doing, work).await?.json()?;
            shell.ui.print("done\n\n");
            answer
        }
        _ => session.client.get(&path).await?,
    };
    shell.ui.show(&single, |ui| {
        ui.line(&format!("=== {app} Single Types"));
        for kind in &single.types {
            ui.line(kind);
        }
    });
    Ok(())
}

/// A list that comes bare, without pages.
fn whole<T>(results: Vec<T>) -> wire::Page<T> {
    wire::Page {
        count: results.len() as u64,
        next: None,
        previous: None,
        results,
    }
}
