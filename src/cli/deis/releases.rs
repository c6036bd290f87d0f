//! `releases:*` and `builds:*`

use std::{collections::BTreeMap, fs, io::ErrorKind};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{Shell, Ui, args, client::of_app};
use crate::api::wire;

/// `deis releases:info`
#[derive(Debug, Args)]
pub struct Info {
    #[command(flatten)]
    pub app: args::App,
    /// The release, as v2 or 2
    #[arg(value_parser = version)]
    pub version: u32,
}

/// `deis rollback`
#[derive(Debug, Args)]
pub struct Rollback {
    #[command(flatten)]
    pub app: args::App,
    /// The release, as v2 or 2; else the last one before the current that succeeded
    #[arg(value_parser = version)]
    pub version: Option<u32>,
}

/// Reads a release number, with or without its v.
fn version(text: &str) -> Result<u32, String> {
    text.strip_prefix('v')
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("{text:?} is no release; write it as v2"))
}

/// `releases:list`
pub async fn list(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    let path = of_app(&app, &["releases"]);
    let page: wire::Page<wire::Release> = session.client.page(&path, limit).await?;
    shell
        .ui
        .list(&format!("{app} Releases"), &page, |ui, releases| {
            ui.rows(releases.iter().map(|r| {
                let version = format!("v{}", r.version);
                [version, r.created.to_string(), r.summary.clone()]
            }));
        });
    Ok(())
}

/// `releases:info`
pub async fn info(shell: &mut Shell<'_>, args: Info) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let version = format!("v{}", args.version);
    let path = of_app(&app, &["releases", &version]);
    let release: wire::Release = session.client.get(&path).await?;
    shell.ui.show(&release, |ui| {
        ui.line(&format!("=== {app} Release {version}"));
        if let Some(build) = release.build {
            ui.line(&format!("build:    {build}"));
        }
        ui.print(&format!(
            "config:   {}\nowner:    {}\ncreated:  {}\nsummary:  {}\nupdated:  {}\nuuid:     {}\n",
            release.config,
            release.owner,
            release.created,
            release.summary,
            release.updated,
            release.uuid
        ));
        if let Some(failure) = &release.failure {
            let word = if failure.superseded {
                "superseded"
            } else {
                "failed"
            };
            let reason = failure.reason.as_deref().unwrap_or("no reason given");
            ui.line(&format!("{:10}{reason}", format!("{word}:")));
            for line in &failure.log {
                ui.line(&format!("          {line}"));
            }
        }
        if let Some(receipt) = &release.receipt {
            show_receipt(ui, receipt);
        }
    });
    Ok(())
}

/// What the routers counted, release by release.
fn show_receipt(ui: &mut Ui, receipt: &wire::Receipt) {
    let (seconds, millis) = (receipt.millis / 1000, receipt.millis % 1000);
    ui.line(&format!(
        "\nReceipt of the switch, {seconds}.{millis:03} s, by {} routers",
        receipt.routers
    ));
    if !receipt.silent.is_empty() {
        ui.line(&format!("without router {}", receipt.silent.join(", ")));
    }
    let time = |micros: Option<u64>| match micros {
        None => "-".to_owned(),
        Some(micros) => format!("{}.{} ms", micros / 1000, micros / 100 % 10),
    };
    let head = [
        "", "served", "errors", "held", "retried", "failed", "p50", "p99",
    ];
    let row = |name: &str, tally: &wire::Tally| {
        [
            name.to_owned(),
            tally.served.to_string(),
            tally.errors.to_string(),
            tally.held.to_string(),
            tally.retried.to_string(),
            tally.failed.to_string(),
            time(tally.p50_us),
            time(tally.p99_us),
        ]
    };
    let releases = receipt.releases.iter();
    let rows = releases.map(|(version, tally)| row(version, tally));
    let unserved = row("no release", &receipt.unserved);
    ui.rows(
        [head.map(str::to_owned)]
            .into_iter()
            .chain(rows)
            .chain([unserved]),
    );
}

/// `releases:rollback`
pub async fn rollback(shell: &mut Shell<'_>, args: Rollback) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let (doing, body) = match args.version {
        Some(version) => (
            format!("Rolling back to v{version}... "),
            json!({ "version": version }),
        ),
        None => ("Rolling back one release... ".to_owned(), json!({})),
    };
    let path = of_app(&app, &["releases", "rollback"]);
    let work = session.client.post_and_wait(&path, body);
    let reply: wire::RollbackReply = shell.ui.step(&doing, work).await?.json()?;
    shell
        .ui
        .show(&reply, |ui| ui.line(&format!("done, v{}", reply.version)));
    Ok(())
}

/// `builds:list`
pub async fn builds(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    let path = of_app(&app, &["builds"]);
    let page: wire::Page<wire::Build> = session.client.page(&path, limit).await?;
    shell
        .ui
        .list(&format!("{app} Builds"), &page, |ui, builds| {
            for build in builds {
                ui.line(&format!("{} {}", build.uuid, build.created));
            }
        });
    Ok(())
}

/// `builds:create`
pub async fn create_build(shell: &mut Shell<'_>, args: args::Pull) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let text = match args.procfile {
        Some(text) => Some(text),
        None => match fs::read_to_string(shell.env.cwd.join("Procfile")) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e).context("can't read ./Procfile"),
        },
    };
    let mut body = json!({ "image": args.image });
    if let Some(text) = text {
        let procfile: BTreeMap<String, String> =
            serde_yaml::from_str(&text).context("the Procfile is no list of `type: command`")?;
        body["procfile"] = json!(procfile);
    }
    let path = of_app(&app, &["builds"]);
    let work = session.client.post_and_wait(&path, body);
    let build: wire::Build = shell.ui.step("Creating build... ", work).await?.json()?;
    shell.ui.show(&build, |ui| ui.line("done"));
    Ok(())
}
