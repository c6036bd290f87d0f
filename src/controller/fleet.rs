//! Reads what hosts have to run and what they report.

use std::collections::BTreeMap;

use super::error::ApiError;
use crate::{
    agent::stats,
    api::containers::Fleet,
    model::{AppName, MachineId, ProcessName, Work},
    plan::settings::Placing,
    store::{Store, keys},
};

/// Reads the whole fleet: a handful of ranges, whatever the number of processes.
pub(super) async fn read(store: &Store) -> Result<Fleet, ApiError> {
    let (schedule, states) = (keys::schedule(), keys::states());
    let (machines, hosts) = (keys::machines(), keys::hosts());
    let (schedule, states, machines, hosts) = tokio::try_join!(
        store.list_readable(&schedule),
        store.list_readable(&states),
        store.list_readable(&machines),
        store.list_readable(&hosts),
    )?;
    let assigned = schedule
        .entries
        .into_iter()
        .filter_map(|(key, assignment)| {
            let (machine, name) = keys::parse_assignment(&key)?;
            let name: ProcessName = name.parse().ok()?;
            let is_unit = matches!(assignment.value.work, Work::Unit { .. });
            (!is_unit).then_some((machine, name, assignment.value))
        })
        .collect();
    Ok(Fleet {
        assigned,
        states: by_machine(states, keys::states().as_str()),
        machines: by_machine(machines, keys::machines().as_str()),
        hosts: by_machine(hosts, keys::hosts().as_str()),
        figures: None,
    })
}

/// The operator's settings of placement; what makes no sense, the leader says.
pub(super) async fn placing(store: &Store) -> Result<Placing, ApiError> {
    let prefix = keys::settings("platform");
    let settings = store.list_readable(&prefix).await?.entries.into_iter();
    let settings = settings.filter_map(|(key, value)| {
        let name = keys::last_part(&key, prefix.as_str())?;
        Some((name.to_owned(), value.value))
    });
    Ok(Placing::of(&settings.collect()).0)
}

/// Asks the hosts of an app's processes how these are, all at once. A host that is silent costs a
/// second, and its processes are shown without figures.
pub(super) async fn ask(fleet: &mut Fleet, app: &AppName) {
    let hosts = fleet.hosts_of(app).into_iter();
    let hosts = hosts.filter_map(|(id, address)| Some((id, stats::Way::straight(&address)?)));
    fleet.figures = Some(stats::ask_all(hosts, stats::LIMIT).await);
}

fn by_machine<T>(listing: crate::store::Listing<T>, prefix: &str) -> BTreeMap<MachineId, T> {
    listing
        .entries
        .into_iter()
        .filter_map(|(key, record)| {
            let id = keys::last_part(&key, prefix)?.parse().ok()?;
            Some((id, record.value))
        })
        .collect()
}
