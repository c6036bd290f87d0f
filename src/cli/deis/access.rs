//! `domains:*`, `perms:*` and `users:list`

use serde_json::json;

use super::{
    Shell,
    apps::{broken_off, show_domains},
    args,
    client::of_app,
    ui::part_of,
};
use crate::api::wire;

/// `domains:list`
pub async fn domains(shell: &mut Shell<'_>, args: args::AppList) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    let limit = session.profile.limit(args.list.limit);
    show_domains(shell, &session, &app, limit).await
}

/// `domains:add`
pub async fn add_domain(shell: &mut Shell<'_>, args: args::DomainArg) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    shell
        .ui
        .print(&format!("Adding {} to {app}... ", args.domain));
    let body = json!({ "domain": args.domain });
    match session.client.post(&of_app(&app, &["domains"]), body).await {
        Ok(_) => shell.ui.line("done"),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}

/// `domains:remove`
pub async fn remove_domain(shell: &mut Shell<'_>, args: args::DomainArg) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.app.as_deref())?;
    shell
        .ui
        .print(&format!("Removing {} from {app}... ", args.domain));
    let path = of_app(&app, &["domains", &args.domain]);
    match session.client.delete(&path, None).await {
        Ok(_) => shell.ui.line("done"),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}

/// `perms:list`
pub async fn perms(shell: &mut Shell<'_>, args: args::PermsList) -> anyhow::Result<()> {
    if args.admin {
        let session = shell.session()?;
        let limit = session.profile.limit(args.list.limit);
        let path = ["admin", "perms"];
        let page: wire::Page<wire::Administrator> = session.client.page(&path, limit).await?;
        let part = part_of(page.results.len(), page.count);
        shell.ui.line(&format!("=== Administrators{part}"));
        for administrator in page.results {
            shell.ui.line(&administrator.username);
        }
        return Ok(());
    }
    let (session, app) = shell.app(args.app.as_deref())?;
    let perms: wire::Perms = session.client.get(&of_app(&app, &["perms"])).await?;
    shell.ui.line(&format!("=== {app}'s Users"));
    for user in perms.users {
        shell.ui.line(&user);
    }
    Ok(())
}

/// `perms:create`
pub async fn grant(shell: &mut Shell<'_>, args: args::PermsChange) -> anyhow::Result<()> {
    let user = args.user;
    let body = json!({ "username": user });
    let result = if args.admin {
        let session = shell.session()?;
        shell
            .ui
            .print(&format!("Adding {user} to system administrators... "));
        session.client.post(&["admin", "perms"], body).await
    } else {
        let (session, app) = shell.app(args.app.as_deref())?;
        shell
            .ui
            .print(&format!("Adding {user} to {app} collaborators... "));
        session.client.post(&of_app(&app, &["perms"]), body).await
    };
    match result {
        Ok(_) => shell.ui.line("done"),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}

/// `perms:delete`
pub async fn revoke(shell: &mut Shell<'_>, args: args::PermsChange) -> anyhow::Result<()> {
    let user = args.user;
    let result = if args.admin {
        let session = shell.session()?;
        shell
            .ui
            .print(&format!("Removing {user} from system administrators... "));
        session
            .client
            .delete(&["admin", "perms", &user], None)
            .await
    } else {
        let (session, app) = shell.app(args.app.as_deref())?;
        shell
            .ui
            .print(&format!("Removing {user} from {app} collaborators... "));
        session
            .client
            .delete(&of_app(&app, &["perms", &user]), None)
            .await
    };
    match result {
        Ok(_) => shell.ui.line("done"),
        Err(error) => return broken_off(shell, error),
    }
    Ok(())
}

/// `users:list`
pub async fn users(shell: &mut Shell<'_>, args: args::List) -> anyhow::Result<()> {
    let session = shell.session()?;
    let limit = session.profile.limit(args.limit);
    let page: wire::Page<wire::User> = session.client.page(&["users"], limit).await?;
    let part = part_of(page.results.len(), page.count);
    shell.ui.line(&format!("=== Users{part}"));
    for user in page.results {
        shell.ui.line(&user.username);
    }
    Ok(())
}
