//! `releases:*` and `builds:*`

use std::{collections::BTreeMap, fs, io::ErrorKind};

use anyhow::Context as _;
use serde_json::json;

use super::{Shell, apps::broken_off, args, client::of_app, ui::part_of};
use crate::api::wire;

/// `releases:list`
pub async fn list(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    let path = of_app(&app, &["releases"]);
    let page: wire::Page<wire::Release> = session.client.page(&path, limit).await?;
    let part = part_of(page.results.len(), page.count);
    shell.ui.line(&format!("=== {app} Releases{part}"));
    for r in page.results {
        shell
            .ui
            .line(&format!("v{}\t{}\t{}", r.version, r.created, r.summary));
    }
    Ok(())
}

/// `releases:info`
pub async fn info(shell: &mut Shell<'_>, args: args::ReleaseInfo) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let version = format!("v{}", args.version);
    let path = of_app(&app, &["releases", &version]);
    let release: wire::Release = session.client.get(&path).await?;
    shell.ui.line(&format!("=== {app} Release {version}"));
    if let Some(build) = release.build {
        shell.ui.line(&format!("build:    {build}"));
    }
    shell.ui.print(&format!(
        "config:   {}\nowner:    {}\ncreated:  {}\nsummary:  {}\nupdated:  {}\nuuid:     {}\n",
        release.config,
        release.owner,
        release.created,
        release.summary,
        release.updated,
        release.uuid
    ));
    Ok(())
}

/// `releases:rollback`
pub async fn rollback(shell: &mut Shell<'_>, args: args::Rollback) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let body = match args.version {
        Some(version) => {
            shell.ui.print(&format!("Rolling back to v{version}... "));
            json!({ "version": version })
        }
        None => {
            shell.ui.print("Rolling back one release... ");
            json!({})
        }
    };
    let path = of_app(&app, &["releases", "rollback"]);
    let answer = shell
        .ui
        .wait(session.client.post_and_wait(&path, body))
        .await;
    match answer.and_then(|answer| answer.json()) {
        Ok(wire::RollbackReply { version }) => shell.ui.line(&format!("done, v{version}")),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}

/// `builds:list`
pub async fn builds(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    let path = of_app(&app, &["builds"]);
    let page: wire::Page<wire::Build> = session.client.page(&path, limit).await?;
    let part = part_of(page.results.len(), page.count);
    shell.ui.line(&format!("=== {app} Builds{part}"));
    for build in page.results {
        shell.ui.line(&format!("{} {}", build.uuid, build.created));
    }
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
    shell.ui.print("Creating build... ");
    let path = of_app(&app, &["builds"]);
    match shell
        .ui
        .wait(session.client.post_and_wait(&path, body))
        .await
    {
        Ok(_) => shell.ui.line("done"),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}
