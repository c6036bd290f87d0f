//! `domains:*`, `perms:*` and `users:list`

use clap::Args;
use serde_json::json;

use super::{Session, Shell, Ui, args, client::of_app};
use crate::{api::wire, model::AppName};

/// A domain of an app.
#[derive(Debug, Args)]
pub struct DomainArg {
    #[command(flatten)]
    pub app: args::App,
    /// The domain
    pub domain: String,
}

/// `deis perms:list`
#[derive(Debug, Args)]
pub struct PermsList {
    /// The app [default: the one of this directory's git remote]
    #[arg(short, long, conflicts_with = "admin")]
    pub app: Option<String>,
    /// The platform's administrators instead
    #[arg(long)]
    pub admin: bool,
    #[command(flatten)]
    pub list: args::List,
}

/// `deis perms:create` and `perms:delete`
#[derive(Debug, Args)]
pub struct PermsChange {
    /// The user
    pub user: String,
    /// The app [default: the one of this directory's git remote]
    #[arg(short, long, conflicts_with = "admin")]
    pub app: Option<String>,
    /// Administrator of the platform instead
    #[arg(long)]
    pub admin: bool,
}

/// `domains:list`
pub async fn domains(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    let page = domains_of(&session, &app, limit).await?;
    show_domains(shell.ui, &app, &page);
    Ok(())
}

/// An app's domains.
pub async fn domains_of(
    session: &Session,
    app: &AppName,
    limit: u32,
) -> anyhow::Result<wire::Page<wire::Domain>> {
    session.client.page(&of_app(app, &["domains"]), limit).await
}

/// Shows an app's domains.
pub fn show_domains(ui: &mut Ui, app: &AppName, page: &wire::Page<wire::Domain>) {
    ui.list(&format!("{app} Domains"), page, |ui, domains| {
        for domain in domains {
            ui.line(&domain.domain);
        }
    });
}

/// `domains:add`
pub async fn add_domain(shell: &mut Shell<'_>, args: DomainArg) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let body = json!({ "domain": args.domain });
    let path = of_app(&app, &["domains"]);
    let doing = format!("Adding {} to {app}... ", args.domain);
    let work = session.client.post(&path, body);
    let domain: wire::Domain = shell.ui.step(&doing, work).await?.json()?;
    shell.ui.show(&domain, |ui| ui.line("done"));
    Ok(())
}

/// `domains:remove`
pub async fn remove_domain(shell: &mut Shell<'_>, args: DomainArg) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let path = of_app(&app, &["domains", &args.domain]);
    let doing = format!("Removing {} from {app}... ", args.domain);
    shell
        .ui
        .step(&doing, session.client.delete(&path, None))
        .await?;
    shell.ui.line("done");
    Ok(())
}

/// `perms:list`
pub async fn perms(shell: &mut Shell<'_>, args: PermsList) -> anyhow::Result<()> {
    if args.admin {
        let session = shell.session()?;
        let limit = session.profile.limit(args.list.limit);
        let path = ["admin", "perms"];
        let page: wire::Page<wire::Administrator> = session.client.page(&path, limit).await?;
        shell
            .ui
            .list("Administrators", &page, |ui, administrators| {
                for administrator in administrators {
                    ui.line(&administrator.username);
                }
            });
        return Ok(());
    }
    let (session, app) = shell.app(args.app.as_deref())?;
    let perms: wire::Perms = session.client.get(&of_app(&app, &["perms"])).await?;
    shell.ui.show(&perms, |ui| {
        ui.line(&format!("=== {app}'s Users"));
        for user in &perms.users {
            ui.line(user);
        }
    });
    Ok(())
}

/// `perms:create`
pub async fn grant(shell: &mut Shell<'_>, args: PermsChange) -> anyhow::Result<()> {
    let user = args.user;
    let body = json!({ "username": user });
    if args.admin {
        let session = shell.session()?;
        let doing = format!("Adding {user} to system administrators... ");
        let work = session.client.post(&["admin", "perms"], body);
        shell.ui.step(&doing, work).await?;
    } else {
        let (session, app) = shell.app(args.app.as_deref())?;
        let path = of_app(&app, &["perms"]);
        let doing = format!("Adding {user} to {app} collaborators... ");
        shell
            .ui
            .step(&doing, session.client.post(&path, body))
            .await?;
    }
    shell.ui.line("done");
    Ok(())
}

/// `perms:delete`
pub async fn revoke(shell: &mut Shell<'_>, args: PermsChange) -> anyhow::Result<()> {
    let user = args.user;
    if args.admin {
        let session = shell.session()?;
        let path = ["admin", "perms", &user];
        let doing = format!("Removing {user} from system administrators... ");
        shell
            .ui
            .step(&doing, session.client.delete(&path, None))
            .await?;
    } else {
        let (session, app) = shell.app(args.app.as_deref())?;
        let path = of_app(&app, &["perms", &user]);
        let doing = format!("Removing {user} from {app} collaborators... ");
        shell
            .ui
            .step(&doing, session.client.delete(&path, None))
            .await?;
    }
    shell.ui.line("done");
    Ok(())
}

/// `users:list`
pub async fn users(shell: &mut Shell<'_>, args: args::List) -> anyhow::Result<()> {
    let session = shell.session()?;
    let limit = session.profile.limit(args.limit);
    let page: wire::Page<wire::User> = session.client.page(&["users"], limit).await?;
    shell.ui.list("Users", &page, |ui, users| {
        for user in users {
            ui.line(&user.username);
        }
    });
    Ok(())
}
