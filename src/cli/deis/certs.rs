//! `certs:*`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::{
    Session, Shell, Ui, args,
    client::of_app,
    ui::{columns, part_of},
};
use crate::{
    api::{time::WireTime, wire},
    cli::table::Table,
};

/// `deis certs:add`
#[derive(Debug, Args)]
pub struct Add {
    /// File of the certificate in PEM, followed by those that it is signed by
    pub certificate: PathBuf,
    /// File of its private key in PEM, without a passphrase
    pub key: PathBuf,
    /// Serve it for this name alone; else for all that it has
    #[arg(long, value_name = "NAME")]
    pub common_name: Option<String>,
    /// Serve it for each of these names, as certificates of their own
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        conflicts_with = "common_name"
    )]
    pub subject_alt_names: Vec<String>,
}

/// `deis certs:remove` and `certs:info`
#[derive(Debug, Args)]
pub struct Named {
    /// Its common name, as certs:list shows it
    #[arg(value_name = "COMMON NAME")]
    pub name: String,
}

/// How long ahead an expiry is warned of.
const WARN_DAYS: i64 = 30;

/// `certs:list`
pub async fn list(shell: &mut Shell<'_>, args: args::List) -> anyhow::Result<()> {
    let session = shell.session()?;
    let limit = session.profile.limit(args.limit);
    let page: wire::Page<wire::Cert> = session.client.page(&["certs"], limit).await?;
    shell.ui.show(&page.results, |ui| print(ui, &page));
    for cert in &page.results {
        warn(shell.ui, &cert.common_name, cert.expires);
    }
    Ok(())
}

/// As in v1: no heading, but columns with a line below their names.
fn print(ui: &mut Ui, page: &wire::Page<wire::Cert>) {
    if page.results.is_empty() {
        ui.line("No certs");
        return;
    }
    let rows = page
        .results
        .iter()
        .map(|cert| (cert.common_name.as_str(), cert.expires.to_string()));
    let all = || std::iter::once(("Common Name", "Expires".to_owned())).chain(rows.clone());
    let names = all().map(|(name, _)| name.len()).max().unwrap_or(0);
    let times = all().map(|(_, time)| time.len()).max().unwrap_or(0);
    let line = ("-".repeat(names), "-".repeat(times));
    let head = [
        ("Common Name", "Expires".to_owned()),
        (line.0.as_str(), line.1),
    ];
    ui.print(&columns(head.into_iter().chain(rows), 5));
    let part = part_of(page.results.len(), page.count);
    if !part.is_empty() {
        ui.line(part.trim());
    }
}

/// Says on stderr when a certificate has expired or soon will.
fn warn(ui: &mut Ui, name: &str, expires: WireTime) {
    let left = expires.0.duration_since(Timestamp::now()).as_secs();
    let days = left.div_euclid(24 * 60 * 60);
    if left <= 0 {
        ui.error(&format!("Warning: {name} has expired: clients refuse it"));
    } else if days < WARN_DAYS {
        let days = match days {
            0 => "within a day".to_owned(),
            1 => "in a day".to_owned(),
            days => format!("in {days} days"),
        };
        ui.error(&format!("Warning: {name} expires {days}"));
    }
}

/// `certs:add`: one certificate, or with several names as many as there are names.
pub async fn add(shell: &mut Shell<'_>, args: Add) -> anyhow::Result<()> {
    let session = shell.session()?;
    let read = |file: &Path| {
        let path = shell.env.cwd.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    };
    let (certificate, key) = (read(&args.certificate)?, read(&args.key)?);
    let names = match (args.subject_alt_names, args.common_name) {
        (names, None) if names.is_empty() => vec![None],
        (names, None) => names.into_iter().map(Some).collect(),
        (_, name) => vec![name],
    };
    let work = send(&session, &certificate, &key, &names);
    let added = shell.ui.step("Adding SSL endpoint... ", work).await?;
    shell.ui.show(&added, |ui| ui.line("done"));
    Ok(())
}

/// Adds a certificate once for each of the names; with none of its own it is for all that it has.
async fn send(
    session: &Session,
    certificate: &str,
    key: &str,
    names: &[Option<String>],
) -> anyhow::Result<Vec<wire::Cert>> {
    let mut added: Vec<wire::Cert> = Vec::new();
    for name in names {
        let mut body = json!({ "certificate": certificate, "key": key });
        if let Some(name) = name {
            body["common_name"] = name.as_str().into();
        }
        let sent = session.client.post(&["certs"], body).await;
        match sent.and_then(|answer| answer.json()) {
            Ok(cert) => added.push(cert),
            Err(error) if added.is_empty() => return Err(error),
            Err(error) => {
                let done: Vec<_> = added.iter().map(|cert| cert.common_name.as_str()).collect();
                return Err(error.context(format!("added for {} only", done.join(", "))));
            }
        }
    }
    Ok(added)
}

/// `certs:remove`
pub async fn remove(shell: &mut Shell<'_>, args: Named) -> anyhow::Result<()> {
    let session = shell.session()?;
    let path = ["certs", args.name.as_str()];
    let work = session.client.delete(&path, None);
    shell
        .ui
        .step(&format!("Removing {}... ", args.name), work)
        .await?;
    shell.ui.line("done");
    Ok(())
}

/// `certs:auto`
pub async fn auto(shell: &mut Shell<'_>, args: args::App) -> anyhow::Result<()> {
    let (session, app) = shell.app(args.app.as_deref())?;
    let domains: Vec<wire::DomainCert> = session.client.get(&of_app(&app, &["certs"])).await?;
    shell.ui.show(&domains, |ui| {
        if domains.is_empty() {
            ui.line("No domains. The platform's own certificate serves the app's usual name.");
        }
        let mut table = Table::plain();
        for cert in &domains {
            table.row([cert.domain.clone(), cert.state.clone(), cert.detail.clone()]);
        }
        ui.print(&table.render());
    });
    Ok(())
}

/// `certs:info`
pub async fn info(shell: &mut Shell<'_>, args: Named) -> anyhow::Result<()> {
    let session = shell.session()?;
    let cert: wire::Cert = session.client.get(&["certs", &args.name]).await?;
    let path = ["certs", cert.common_name.as_str(), "chain"];
    let details: wire::CertChain = session.client.get(&path).await?;
    let mut text = format!(
        "=== {} Certificate\nserved for:  {}\nexpires:     {}\nowner:       {}\nadded:       {}\n",
        cert.common_name,
        details.names.join(", "),
        cert.expires,
        cert.owner,
        cert.created,
    );
    for (at, one) in (1..).zip(&details.chain) {
        text.push_str(&format!(
            "\n--- {at}: {}\nissuer:      {}\n",
            one.subject, one.issuer
        ));
        // Those that sign have names for people.
        if at == 1 && !one.names.is_empty() {
            text.push_str(&format!("names:       {}\n", one.names.join(", ")));
        }
        text.push_str(&format!(
            "valid:       {} to {}\nfingerprint: {}\n",
            one.not_before, one.not_after, one.fingerprint
        ));
    }
    let both = json!({ "certificate": cert, "details": details });
    shell.ui.show(&both, |ui| ui.print(&text));
    warn(shell.ui, &cert.common_name, cert.expires);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, io::Write, rc::Rc};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Rc<RefCell<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_expiry_is_warned_of_a_month_ahead() {
        for (days, want) in [
            (-1, "Warning: a.x has expired: clients refuse it\n"),
            (0, "Warning: a.x expires within a day\n"),
            (1, "Warning: a.x expires in a day\n"),
            (29, "Warning: a.x expires in 29 days\n"),
            (30, ""),
        ] {
            let err = Sink::default();
            let input = std::io::Cursor::new(Vec::new());
            let mut ui = Ui::pipes(
                Box::new(std::io::sink()),
                Box::new(err.clone()),
                Box::new(input),
            );
            let expires = Timestamp::now() + jiff::SignedDuration::from_hours(days * 24 + 1);
            warn(&mut ui, "a.x", expires.into());
            drop(ui);
            assert_eq!(
                String::from_utf8(err.0.take()).expect("text"),
                want,
                "{days}"
            );
        }
    }
}
