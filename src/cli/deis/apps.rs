//! `apps:*`, `logs` and `git:remote`.

use std::time::Instant;

use anyhow::bail;
use serde_json::json;

use super::{Session, Shell, args, client::of_app, git, ps, ui::part_of};
use crate::{api::wire, model::AppName};

/// `apps:create`
pub async fn create(shell: &mut Shell<'_>, args: args::Create) -> anyhow::Result<()> {
    let session = shell.session()?;
    let body = match &args.id {
        Some(id) => json!({ "id": id }),
        None => json!({}),
    };
    shell.ui.print("Creating Application... ");
    let answer = shell.ui.wait(session.client.post(&["apps"], body)).await;
    let app: wire::App = match answer.and_then(|answer| answer.json()) {
        Ok(app) => app,
        Err(error) => return broken_off(shell, error),
    };
    shell.ui.line(&format!("done, created {}", app.id));
    let name: AppName = app.id.parse()?;
    if let Some(buildpack) = &args.buildpack {
        let body = json!({ "values": { "BUILDPACK_URL": buildpack } });
        let config = of_app(&name, &["config"]);
        shell
            .ui
            .wait(session.client.post_and_wait(&config, body))
            .await?;
    }
    let host = session.client.host();
    if args.no_remote || !git::is_repository(&shell.env.cwd) {
        shell
            .ui
            .line(&format!("remote available at {}", git::url(host, &name)));
        return Ok(());
    }
    git::add(&shell.env.cwd, &args.remote, host, &name)?;
    shell.ui.line(&format!("Git remote {} added", args.remote));
    Ok(())
}

/// Ends a line of progress before an error is told.
pub fn broken_off<T>(shell: &mut Shell<'_>, error: anyhow::Error) -> anyhow::Result<T> {
    shell.ui.print("\n");
    Err(error)
}

/// `apps:list`
pub async fn list(shell: &mut Shell<'_>, args: args::List) -> anyhow::Result<()> {
    let session = shell.session()?;
    let limit = session.profile.limit(args.limit);
    let page: wire::Page<wire::App> = session.client.page(&["apps"], limit).await?;
    let part = part_of(page.results.len(), page.count);
    shell.ui.line(&format!("=== Apps{part}"));
    for app in page.results {
        shell.ui.line(&app.id);
    }
    Ok(())
}

/// `apps:info`
pub async fn info(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, name) = shell.app(args.app.as_deref())?;
    let app: wire::App = session.client.get(&of_app(&name, &[])).await?;
    shell.ui.print(&format!(
        "=== {} Application\nupdated:  {}\nuuid:     {}\ncreated:  {}\nurl:      {}\n\
         owner:    {}\nid:       {}\n\n",
        app.id, app.updated, app.uuid, app.created, app.url, app.owner, app.id
    ));
    let limit = session.profile.limit(None);
    ps::show(shell, &session, &name, limit).await?;
    shell.ui.print("\n");
    show_domains(shell, &session, &name, limit).await?;
    shell.ui.print("\n");
    Ok(())
}

/// Prints an app's domains.
pub async fn show_domains(
    shell: &mut Shell<'_>,
    session: &Session,
    app: &AppName,
    limit: u32,
) -> anyhow::Result<()> {
    let path = of_app(app, &["domains"]);
    let page: wire::Page<wire::Domain> = session.client.page(&path, limit).await?;
    let part = part_of(page.results.len(), page.count);
    shell.ui.line(&format!("=== {app} Domains{part}"));
    for domain in page.results {
        shell.ui.line(&domain.domain);
    }
    Ok(())
}

/// `apps:destroy`
pub async fn destroy(shell: &mut Shell<'_>, args: args::Destroy) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let confirm = match args.confirm {
        Some(confirm) => confirm,
        None => shell.ui.ask(&format!(
            " !    WARNING: Potentially Destructive Action\n \
             !    This command will destroy the application: {app}\n \
             !    To proceed, type \"{app}\" or re-run this command with --confirm={app}\n\n> "
        ))?,
    };
    if confirm != app.as_str() {
        bail!("App {app} does not match confirm {confirm}, aborting.");
    }
    let start = Instant::now();
    shell.ui.line(&format!("Destroying {app}..."));
    shell
        .ui
        .wait(session.client.delete(&of_app(&app, &[]), None))
        .await?;
    shell
        .ui
        .line(&format!("done in {}s", start.elapsed().as_secs()));
    for remote in git::remove(&shell.env.cwd, session.client.host(), &app) {
        shell.ui.line(&format!("Git remote {remote} removed"));
    }
    Ok(())
}

/// `apps:transfer`
pub async fn transfer(shell: &mut Shell<'_>, args: args::AppUser) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    shell
        .ui
        .print(&format!("Transferring {app} to {}... ", args.user));
    let body = json!({ "owner": args.user });
    match session.client.post(&of_app(&app, &[]), body).await {
        Ok(_) => shell.ui.line("done"),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}

/// `apps:logs`
pub async fn logs(shell: &mut Shell<'_>, args: args::Logs) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let query: Vec<_> = args
        .lines
        .map(|n| ("log_lines", n.to_string()))
        .into_iter()
        .collect();
    let answer = session
        .client
        .query(&of_app(&app, &["logs"]), &query)
        .await?;
    let text = String::from_utf8_lossy(&answer.body);
    for line in text.lines() {
        let line = if shell.ui.colour() {
            tint(line)
        } else {
            line.to_owned()
        };
        shell.ui.line(&line);
    }
    Ok(())
}

/// Colours a log line by who wrote it: the word before the first `: `.
fn tint(line: &str) -> String {
    let who = line
        .split_once(": ")
        .and_then(|(head, _)| head.split(' ').nth(1));
    match who {
        Some(who) => {
            let sum: u32 = who.bytes().map(u32::from).sum();
            format!("\u{1b}[{}m{line}\u{1b}[0m", 31 + sum % 6)
        }
        None => line.to_owned(),
    }
}

/// `git:remote`
pub fn git_remote(shell: &mut Shell<'_>, args: args::GitRemote) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    git::add(&shell.env.cwd, &args.remote, session.client.host(), &app)?;
    shell.ui.line(&format!("Git remote {} added", args.remote));
    Ok(())
}
