//! `deisctl list` and `deisctl machines`: the fleet as text. Pure.

use super::fleet::Fleet;
use crate::cli::{figures, table::Table};
use crate::model::MachineId;

/// The table of units and processes: fleet's columns first, in fleet's order.
#[must_use]
pub fn list(fleet: &Fleet) -> String {
    let [memory, cpu, uptime, restarts, exit] = figures::HEADINGS;
    let mut table = Table::new(&[
        "UNIT", "MACHINE", "LOAD", "ACTIVE", "SUB", "READY", memory, cpu, uptime, restarts, exit,
        "NOTE",
    ]);
    for row in fleet.rows() {
        let ready = match row.ready {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let [memory, cpu, uptime, restarts, exit] = match &row.figures {
            Some(known) => figures::columns(known),
            None => Default::default(),
        };
        table.row([
            row.unit,
            row.machine,
            row.load.into(),
            row.active.into(),
            row.sub.into(),
            ready.into(),
            memory,
            cpu,
            uptime,
            restarts,
            exit,
            row.note,
        ]);
    }
    table.render()
}

/// A machine id, whole or as the first digits.
fn id(id: &MachineId, full: bool) -> String {
    if full {
        id.to_string()
    } else {
        format!("{}...", &id.as_str()[..8])
    }
}

/// The table of hosts: those that are present and those that are known.
#[must_use]
pub fn machines(fleet: &Fleet, full: bool) -> String {
    let mut table = Table::new(&["MACHINE", "IP", "METADATA", "HOSTNAME", "VERSION", "STATE"]);
    let ids = fleet.machines.keys().chain(fleet.hosts.keys());
    let mut ids: Vec<&MachineId> = ids.collect();
    ids.sort_by_key(|id| (fleet.host_label(id), *id));
    ids.dedup();
    for machine in ids {
        let present = fleet.machines.get(machine);
        let known = fleet.hosts.get(machine);
        let mut state = Vec::new();
        match (present, known.and_then(|host| host.lost_since)) {
            (Some(_), _) => state.push("up".to_owned()),
            (None, Some(since)) => state.push(format!("lost since {since:.0}")),
            (None, None) => state.push("absent".to_owned()),
        }
        if known.is_some_and(|host| host.cordoned) {
            state.push("cordoned".to_owned());
        }
        if known.is_some_and(|host| host.drain.is_some()) {
            state.push(match fleet.assigned_to(machine) {
                0 => "drained".to_owned(),
                left => format!("draining: {left} left"),
            });
        }
        let mut labels = known.map(|host| host.labels.clone()).unwrap_or_default();
        if let Some(present) = present {
            labels.extend(present.metadata.clone());
        }
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let hostname = present
            .map(|machine| &machine.hostname)
            .or(known.map(|host| &host.hostname));
        table.row([
            id(machine, full),
            fleet.address(machine).unwrap_or_default().to_owned(),
            labels.join(","),
            hostname.cloned().unwrap_or_default(),
            present
                .map(|machine| machine.version.clone())
                .unwrap_or_default(),
            state.join(", "),
        ]);
    }
    table.render()
}
