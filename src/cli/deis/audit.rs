//! `audit`: who has changed what.

use clap::Args;

use super::{Shell, args, client::of_app};
use crate::{api::wire, cli::table::Table};

/// `deis audit`
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub app: args::App,
    /// Accounts and destroyed apps instead (administrators only)
    #[arg(long, conflicts_with = "app")]
    pub platform: bool,
    /// Show at most so many, the newest
    #[arg(short = 'n', long, short_alias = 'l', value_name = "N")]
    pub limit: Option<u32>,
}

/// `audit:list`
pub async fn list(shell: &mut Shell<'_>, args: List) -> anyhow::Result<()> {
    let (heading, page): (String, wire::Page<wire::Audit>) = if args.platform {
        let session = shell.session()?;
        let limit = session.profile.limit(args.limit);
        let page = session.client.page(&["audit"], limit).await?;
        ("Platform Audit".to_owned(), page)
    } else {
        let (session, app) = shell.app(args.app.app.as_deref())?;
        let limit = session.profile.limit(args.limit);
        let path = of_app(&app, &["audit"]);
        let page = session.client.page(&path, limit).await?;
        (format!("{app} Audit"), page)
    };
    shell.ui.list(&heading, &page, |ui, entries| {
        let mut table = Table::new(&["WHEN", "WHO", "BY", "ACTION", "RELEASE", "WHAT"]);
        for entry in entries {
            let app = entry.app.as_deref().filter(|_| args.platform);
            let what: Vec<&str> = app.into_iter().chain([entry.detail.as_str()]).collect();
            table.row([
                entry.at.to_string(),
                entry.user.clone(),
                entry.token.clone().unwrap_or_default(),
                entry.action.clone(),
                entry.release.clone().unwrap_or_default(),
                what.join(" ").trim().to_owned(),
            ]);
        }
        ui.table(&table);
    });
    Ok(())
}
