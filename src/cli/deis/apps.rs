//! `apps:*` and `git:remote`.

use std::{
    ffi::OsString,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::{Shell, access, args, client::of_app, git, ps, ui::Format};
use crate::{api::wire, model::AppName};

/// `deis create`
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the app; made up if not given
    pub id: Option<String>,
    /// Don't add a git remote
    #[arg(long)]
    pub no_remote: bool,
    /// Build the app with this buildpack
    #[arg(short, long)]
    pub buildpack: Option<String>,
    /// Name of the git remote
    #[arg(short, long, default_value = "deis")]
    pub remote: String,
}

/// `deis destroy`
#[derive(Debug, Args)]
pub struct Destroy {
    #[command(flatten)]
    pub app: args::App,
    /// The app's name once more, instead of being asked for it
    #[arg(long, value_name = "APP")]
    pub confirm: Option<String>,
}

/// `deis git:remote`
#[derive(Debug, Args)]
pub struct GitRemote {
    #[command(flatten)]
    pub app: args::App,
    /// Name of the git remote
    #[arg(short, long, default_value = "deis")]
    pub remote: String,
}

/// `apps:create`
pub async fn create(shell: &mut Shell<'_>, args: Create) -> anyhow::Result<()> {
    let session = shell.session()?;
    let body = match &args.id {
        Some(id) => json!({ "id": id }),
        None => json!({}),
    };
    let work = session.client.post(&["apps"], body);
    let app: wire::App = shell
        .ui
        .step("Creating Application... ", work)
        .await?
        .json()?;
    shell
        .ui
        .show(&app, |ui| ui.line(&format!("done, created {}", app.id)));
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

/// `apps:list`
pub async fn list(shell: &mut Shell<'_>, args: args::List) -> anyhow::Result<()> {
    let session = shell.session()?;
    let limit = session.profile.limit(args.limit);
    let page: wire::Page<wire::App> = session.client.page(&["apps"], limit).await?;
    shell.ui.list("Apps", &page, |ui, apps| {
        for app in apps {
            ui.line(&app.id);
        }
    });
    Ok(())
}

/// `apps:info`
pub async fn info(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, name) = shell.app(args.app.as_deref())?;
    let limit = session.profile.limit(None);
    let app: wire::App = session.client.get(&of_app(&name, &[])).await?;
    let processes = ps::processes(&session, &name, limit).await?;
    let domains = access::domains_of(&session, &name, limit).await?;
    if shell.ui.format() == Format::Json {
        let mut all = serde_json::to_value(&app).context("can't write this as JSON")?;
        all["containers"] = json!(processes.results);
        all["domains"] = json!(domains.results);
        shell.ui.show(&all, |_| ());
        return Ok(());
    }
    shell.ui.print(&format!(
        "=== {} Application\nupdated:  {}\nuuid:     {}\ncreated:  {}\nurl:      {}\n\
         owner:    {}\nid:       {}\n\n",
        app.id, app.updated, app.uuid, app.created, app.url, app.owner, app.id
    ));
    ps::show(shell.ui, &name, &processes);
    shell.ui.print("\n");
    access::show_domains(shell.ui, &name, &domains);
    shell.ui.print("\n");
    Ok(())
}

/// `apps:open`
pub async fn open(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, name) = shell.app(args.app.as_deref())?;
    let app: wire::App = session.client.get(&of_app(&name, &[])).await?;
    let url = format!("http://{}", app.url);
    shell.ui.show(&json!({ "url": url }), |ui| ui.line(&url));
    if shell.ui.format() == Format::Json {
        return Ok(());
    }
    let Some(browser) = &shell.env.browser else {
        return Ok(());
    };
    // It goes on after us, and what it has to say is nobody's business.
    Command::new(browser)
        .arg(&url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("can't start {} to show it", browser.display()))?;
    Ok(())
}

/// The program that shows web pages, if this is a session with a screen.
pub fn browser(var: impl Fn(&str) -> Option<OsString>) -> Option<OsString> {
    if let Some(browser) = var("BROWSER") {
        return Some(browser);
    }
    if cfg!(target_os = "macos") {
        return Some("open".into());
    }
    let screen = var("DISPLAY").or_else(|| var("WAYLAND_DISPLAY"));
    screen.map(|_| "xdg-open".into())
}

/// `apps:destroy`
pub async fn destroy(shell: &mut Shell<'_>, args: Destroy) -> anyhow::Result<()> {
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
    let path = of_app(&app, &[]);
    let doing = format!("Destroying {app}...\n");
    shell
        .ui
        .step(&doing, session.client.delete(&path, None))
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
    let path = of_app(&app, &[]);
    let doing = format!("Transferring {app} to {}... ", args.user);
    let body = json!({ "owner": args.user });
    shell
        .ui
        .step(&doing, session.client.post(&path, body))
        .await?;
    shell.ui.line("done");
    Ok(())
}

/// `git:remote`
pub fn git_remote(shell: &mut Shell<'_>, args: GitRemote) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let host = session.client.host();
    git::add(&shell.env.cwd, &args.remote, host, &app)?;
    let remote = json!({ "remote": args.remote, "url": git::url(host, &app) });
    shell.ui.show(&remote, |ui| {
        ui.line(&format!("Git remote {} added", args.remote))
    });
    Ok(())
}
