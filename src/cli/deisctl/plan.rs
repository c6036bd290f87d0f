//! `deisctl plan` and `deisctl explain`: what the leader would do now and why, computed here by the
//! leader's own functions on a picture of etcd at one revision. Nothing is changed.

use std::{collections::BTreeMap, io::Write};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::failure::{Failure, Kind};
use crate::{
    cli::table::Table,
    plan::{
        World,
        explain::{self, Explanation, Subject},
        preview::{self, Survival},
        round::Plan,
    },
    store::{Change, Store, StoreError, Update, keys},
};

/// For whom to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// People.
    #[default]
    Text,
    /// Programs.
    Json,
}

/// etcd at one revision.
async fn snapshot(store: &Store) -> Result<World, StoreError> {
    let (entries, revision) = store.list_raw(keys::ROOT).await?;
    let changes = entries.into_iter().map(|(key, entry)| Change {
        key,
        mod_revision: entry.mod_revision,
        entry: Some(entry),
    });
    let mut world = World::default();
    world.apply(&Update {
        revision,
        changes: changes.collect(),
        first: true,
    });
    Ok(world)
}

/// What waits now, and why.
pub(super) async fn reasons(store: &Store) -> Result<BTreeMap<String, String>, StoreError> {
    let plan = preview::next_round(&snapshot(store).await?, Timestamp::now());
    let waiting = plan.waiting.into_iter();
    Ok(waiting.map(|w| (w.what, w.why.to_string())).collect())
}

/// Shows what the leader would do now, and what the loss of a host would mean.
///
/// # Errors
/// When etcd can't be reached.
pub async fn plan(store: &Store, output: Output, out: &mut impl Write) -> anyhow::Result<()> {
    let world = snapshot(store).await?;
    let now = Timestamp::now();
    let plan = preview::next_round(&world, now);
    let survivals = preview::survivals(&world, now);
    match output {
        Output::Text => write!(out, "{}", plan_text(&plan, &survivals))?,
        Output::Json => writeln!(out, "{:#}", plan_json(&plan, &survivals))?,
    }
    Ok(())
}

/// Explains where a process or unit is.
///
/// # Errors
/// When there is no such thing, or etcd can't be reached.
pub async fn explain(
    store: &Store,
    word: &str,
    output: Output,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let world = snapshot(store).await?;
    let subject = Subject::parse(word, &world);
    let explained =
        subject.and_then(|subject| explain::explain(&world, &subject, Timestamp::now()));
    let Some(explanation) = explained else {
        return Err(Failure::new(
            Kind::NotFound,
            format!("there is no process or unit {word:?}"),
        )
        .hint("`deisctl list` shows what there is; a process is blog_v7.web.1 or blog.web.1")
        .into());
    };
    match output {
        Output::Text => write!(out, "{}", explanation_text(&explanation))?,
        Output::Json => writeln!(out, "{:#}", serde_json::to_value(&explanation)?)?,
    }
    Ok(())
}

fn plan_json(plan: &Plan, survivals: &[Survival]) -> serde_json::Value {
    #[derive(Serialize)]
    struct Step<'p> {
        about: &'p str,
        what: &'p str,
        operations: usize,
    }
    let steps: Vec<Step<'_>> = plan
        .acts
        .iter()
        .map(|act| Step {
            about: &act.about,
            what: &act.what,
            operations: act.txn.ops().len(),
        })
        .collect();
    let waiting = plan.waiting.iter();
    let waiting: Vec<_> = waiting
        .map(|w| json!({ "what": w.what, "why": w.why.to_string() }))
        .collect();
    json!({ "steps": steps, "waiting": waiting, "without": survivals })
}

fn plan_text(plan: &Plan, survivals: &[Survival]) -> String {
    let mut text = String::from("Now\n");
    if plan.acts.is_empty() {
        text.push_str("  nothing is to be done\n");
    }
    for act in &plan.acts {
        text.push_str(&format!("  {}: {}\n", act.about, act.what));
    }
    if !plan.waiting.is_empty() {
        text.push_str("\nWaiting\n");
    }
    for waiting in &plan.waiting {
        text.push_str(&format!("  {waiting}\n"));
    }
    text.push_str("\nWithout one of these\n");
    for survival in survivals {
        let Survival {
            without,
            moved,
            homeless,
        } = survival;
        let verdict = match homeless.len() {
            0 => format!("all {moved} find a place elsewhere"),
            none => format!("{none} of {moved} find no place"),
        };
        text.push_str(&format!("  {without}: {verdict}\n"));
        for homeless in homeless {
            text.push_str(&format!("    {}: {}\n", homeless.what, homeless.why));
        }
    }
    if survivals.is_empty() {
        text.push_str("  no host is there\n");
    }
    text
}

fn explanation_text(explanation: &Explanation) -> String {
    let mut text = format!("{}\n", explanation.what);
    for place in &explanation.places {
        let desired = format!("{:?}", place.desired).to_lowercase();
        let leaves = place
            .leaves
            .map(|why| format!("; {why}"))
            .unwrap_or_default();
        text.push_str(&format!(
            "  {} on {}: wanted is {desired}, it is {}{leaves}\n",
            place.name, place.host, place.state
        ));
    }
    if explanation.places.is_empty() {
        text.push_str("  is on no host\n");
    }
    if let Some(needs) = explanation.needs {
        let cpu = match needs.cpu_shares {
            0 => String::new(),
            shares => format!(", {shares} CPU shares"),
        };
        let tags = explanation.tags.iter().map(|(k, v)| format!(", {k}={v}"));
        let tags: String = tags.collect();
        text.push_str(&format!(
            "  needs {} MiB of memory{cpu}{tags}\n",
            needs.memory_bytes >> 20
        ));
    }
    for next in &explanation.next {
        text.push_str(&format!("  next: {next}\n"));
    }
    for why in &explanation.waiting {
        text.push_str(&format!("  waits: {why}\n"));
    }
    text.push_str("\nHosts as they would be taken now, the best first\n");
    let of_process = explanation.needs.is_some();
    let mut table = if of_process {
        Table::new(&[
            "HOST",
            "DOMAIN",
            "PEERS IN DOMAIN",
            "PEERS",
            "LOAD",
            "FREE",
            "VERDICT",
        ])
    } else {
        Table::new(&["HOST", "UNITS", "VERDICT"])
    };
    let mut rank = 0;
    for host in &explanation.hosts {
        let verdict = match &host.refusal {
            Some(why) => why.clone(),
            None => {
                rank += 1;
                format!("{rank}.")
            }
        };
        let here = if host.here { ", it is here" } else { "" };
        let verdict = format!("{verdict}{here}");
        if of_process {
            table.row([
                host.host.clone(),
                host.domain.clone().unwrap_or_default(),
                host.domain_peers.to_string(),
                host.peers.to_string(),
                format!("{} %", host.load_percent),
                format!(
                    "{} MiB, {} shares",
                    host.free.memory_bytes >> 20,
                    host.free.cpu_shares
                ),
                verdict,
            ]);
        } else {
            table.row([host.host.clone(), host.peers.to_string(), verdict]);
        }
    }
    text.push_str(&table.render());
    text
}
