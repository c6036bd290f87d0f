//! `tokens:*`: tokens for programs that act in one's name.

use clap::Args;
use serde_json::json;

use super::{Shell, args};
use crate::{api::wire, cli::table::Table};

/// `deis tokens:create`
#[derive(Debug, Args)]
pub struct Create {
    /// What to call it, for example `ci`
    pub name: String,
    /// What it is good for: `read` looks at apps; `deploy` besides deploys, configures, scales, restarts
    /// and runs them; `all` is as good as a login
    #[arg(long, value_parser = ["all", "deploy", "read"])]
    pub scope: String,
    /// Only for this app; may be given more than once
    #[arg(short, long = "app", value_name = "APP")]
    pub apps: Vec<String>,
    /// When it ends: from now on as 90d, 12h or 30m, or as 2027-01-31T00:00:00Z; never if not given
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
}

/// `deis tokens:revoke`
#[derive(Debug, Args)]
pub struct Revoke {
    /// Its name or id, as tokens:list shows them
    pub token: String,
}

/// `tokens:list`
pub async fn list(shell: &mut Shell<'_>, args: args::List) -> anyhow::Result<()> {
    let session = shell.session()?;
    let limit = session.profile.limit(args.limit);
    let page: wire::Page<wire::Token> = session.client.page(&["tokens"], limit).await?;
    let heading = format!("{} Tokens", session.profile.username);
    shell.ui.list(&heading, &page, |ui, tokens| {
        let mut table = Table::new(&["ID", "NAME", "SCOPE", "APPS", "CREATED", "EXPIRES"]);
        for token in tokens {
            let name = match (&token.name, token.current) {
                (Some(name), _) => name.clone(),
                (None, true) => "(this login)".to_owned(),
                (None, false) => "(login)".to_owned(),
            };
            table.row([
                token.id.clone(),
                name,
                token.scope.clone(),
                token
                    .apps
                    .as_ref()
                    .map_or("all".to_owned(), |a| a.join(",")),
                token.created.to_string(),
                token
                    .expires
                    .map_or("never".to_owned(), |end| end.to_string()),
            ]);
        }
        ui.table(&table);
    });
    Ok(())
}

/// `tokens:create`
pub async fn create(shell: &mut Shell<'_>, args: Create) -> anyhow::Result<()> {
    let session = shell.session()?;
    let mut body = json!({ "name": args.name, "scope": args.scope });
    if !args.apps.is_empty() {
        body["apps"] = args.apps.into();
    }
    if let Some(end) = args.expires {
        body["expires"] = end.into();
    }
    let made: wire::NewToken = session.client.post(&["tokens"], body).await?.json()?;
    shell.ui.show(&made, |ui| {
        // The secret alone on stdout, so that it can be piped where it belongs.
        ui.line(&made.token);
    });
    shell
        .ui
        .error("This is the only time that it is shown. Send it as 'Authorization: token <it>'.");
    Ok(())
}

/// `tokens:revoke`
pub async fn revoke(shell: &mut Shell<'_>, args: Revoke) -> anyhow::Result<()> {
    let session = shell.session()?;
    let path = ["tokens", args.token.as_str()];
    let doing = format!("Revoking {}... ", args.token);
    let work = session.client.delete(&path, None);
    shell.ui.step(&doing, work).await?;
    shell.ui.line("done");
    Ok(())
}
