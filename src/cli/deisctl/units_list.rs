//! `deisctl list-units`, `list-unit-files` and `list-machines`: fleetctl's tables, columns by choice.
//! Pure.

use super::{
    failure::{Failure, Kind},
    fleet::Fleet,
};
use crate::{
    api::fleet::{UnitState, hash, is_global, word},
    cli::table::Table,
    model::{Machine, MachineId, UnitFile, UnitFileName, unit_text},
};

/// How a list is shown.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Columns, by commas
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',')]
    pub fields: Vec<String>,
    /// Show machine ids and hashes in full
    #[arg(short = 'l', long)]
    pub full: bool,
    /// Leave the headings out
    #[arg(long)]
    pub no_legend: bool,
}

/// A column: its name, and what stands in it.
type Column<T> = (&'static str, fn(&Fleet, &T, bool) -> String);

/// A unit file with its name.
type File<'f> = (&'f UnitFileName, &'f UnitFile);

const UNITS: [Column<UnitState>; 6] = [
    ("unit", |_, state, _| state.name.clone()),
    ("machine", |fleet, state, full| {
        machine(fleet, &state.machine_id, full)
    }),
    ("active", |_, state, _| state.active.clone()),
    ("sub", |_, state, _| state.sub.clone()),
    ("load", |_, state, _| state.load.clone()),
    ("hash", |_, state, full| short(&state.hash, full)),
];

const MACHINES: [Column<Machine>; 3] = [
    ("machine", |_, machine, full| {
        let id = machine.id.as_str();
        if full {
            id.to_owned()
        } else {
            format!("{}...", &id[..8])
        }
    }),
    ("ip", |_, machine, _| machine.address.clone()),
    ("metadata", |fleet, machine, _| {
        let labels = fleet.hosts.get(&machine.id).map(|host| host.labels.clone());
        let mut all = machine.metadata.clone();
        all.extend(labels.unwrap_or_default());
        let all: Vec<String> = all
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        all.join(",")
    }),
];

fn files<'f>() -> [Column<File<'f>>; 8] {
    [
        ("unit", |_, (name, _), _| name.to_string()),
        ("hash", |_, (_, file), full| short(&hash(&file.text), full)),
        ("dstate", |_, (_, file), _| word(file.target).to_owned()),
        ("state", |fleet, (name, file), _| {
            if is_global(name, file) {
                String::new()
            } else {
                word(fleet.view().current(name).0).to_owned()
            }
        }),
        ("target", target),
        ("tmachine", target),
        ("global", |_, (name, file), _| {
            is_global(name, file).to_string()
        }),
        ("desc", |_, (_, file), _| {
            let options = unit_text::parse(&file.text).unwrap_or_default();
            let mut described = options
                .into_iter()
                .filter(|option| (&*option.section, &*option.name) == ("Unit", "Description"));
            described
                .next_back()
                .map(|option| option.value)
                .unwrap_or_default()
        }),
    ]
}

fn target(fleet: &Fleet, (name, file): &File<'_>, full: bool) -> String {
    if is_global(name, file) {
        return "global".to_owned();
    }
    let (_, machine) = fleet.view().current(name);
    machine
        .map(|id| fleet.machine_label(id, full))
        .unwrap_or_default()
}

fn machine(fleet: &Fleet, id: &str, full: bool) -> String {
    let id: Option<MachineId> = id.parse().ok();
    id.map(|id| fleet.machine_label(&id, full))
        .unwrap_or_default()
}

fn short(hash: &str, full: bool) -> String {
    let length = if full { hash.len() } else { hash.len().min(7) };
    hash[..length].to_owned()
}

/// The units that are on hosts.
///
/// # Errors
/// When a column is unknown.
pub fn units(fleet: &Fleet, args: &ListArgs) -> Result<String, Failure> {
    let states = fleet.view().unit_states();
    let rows: Vec<&UnitState> = states.iter().collect();
    render(
        fleet,
        &UNITS,
        &["unit", "machine", "active", "sub"],
        rows,
        args,
    )
}

/// The units that there are.
///
/// # Errors
/// When a column is unknown.
pub fn unit_files(fleet: &Fleet, args: &ListArgs) -> Result<String, Failure> {
    let all: Vec<File<'_>> = fleet
        .units
        .iter()
        .map(|(name, file)| (name, &file.value))
        .collect();
    let default = ["unit", "hash", "dstate", "state", "target"];
    render(fleet, &files(), &default, all.iter().collect(), args)
}

/// The hosts that are there.
///
/// # Errors
/// When a column is unknown.
pub fn machines(fleet: &Fleet, args: &ListArgs) -> Result<String, Failure> {
    let rows = fleet.machines.values().collect();
    render(fleet, &MACHINES, &["machine", "ip", "metadata"], rows, args)
}

fn render<T>(
    fleet: &Fleet,
    columns: &[Column<T>],
    default: &[&str],
    rows: Vec<&T>,
    args: &ListArgs,
) -> Result<String, Failure> {
    let chosen: Vec<&str> = if args.fields.is_empty() {
        default.to_vec()
    } else {
        args.fields.iter().map(String::as_str).collect()
    };
    let find = |field: &&str| {
        let known: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let found = columns.iter().find(|(name, _)| name == field);
        found.ok_or_else(|| {
            Failure::new(Kind::Usage, format!("there is no field {field:?}"))
                .hint(format!("fields are {}", known.join(", ")))
        })
    };
    let chosen = chosen.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let headings: Vec<String> = chosen.iter().map(|(name, _)| name.to_uppercase()).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = if args.no_legend {
        Table::plain()
    } else {
        Table::new(&headings)
    };
    for row in rows {
        table.row_of(chosen.iter().map(|(_, cell)| cell(fleet, row, args.full)));
    }
    Ok(table.render())
}
