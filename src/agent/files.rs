//! Unit and environment files of this host, and what they say about themselves: how a new agent
//! finds out what its former self has started.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::paths::{Durability, Paths, remove, write_atomic};
use crate::{
    model::{ProcessName, UnitFileName},
    render::{
        Environment, RenderedUnit, RunFiles,
        unit::{announcer, env_file, env_list, log, log_socket, service},
    },
    sidecar::run::Errand,
};

/// Something of ours that was found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The assignment's name.
    pub name: String,
    /// The assignment's uuid.
    pub uuid: Uuid,
    /// The port that it is published on.
    pub port: Option<u16>,
    /// The digest of the templates that it was made from; none for a raw unit.
    pub template: Option<String>,
    /// A raw unit, not a process, and what was done with it.
    pub raw: Option<Owned>,
    /// The image that it runs, by repository and digest.
    pub image: Option<String>,
}

/// What is remembered of a raw unit: its text has no place for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// The assignment's uuid.
    pub uuid: Uuid,
    /// It has been loaded, and not started since.
    #[serde(default)]
    pub loaded: bool,
}

/// Writes a process's files: environment first, the unit that needs the others last.
///
/// # Errors
/// When one can't be written.
pub fn write_process(
    paths: &Paths,
    name: &ProcessName,
    units: &[RenderedUnit],
    environment: &Environment,
) -> io::Result<()> {
    for (file, text) in [
        (env_list(name), &environment.list),
        (env_file(name), &environment.quoted),
    ] {
        if text.is_empty() {
            remove(&paths.at(&file))?;
        } else {
            write_atomic(
                &paths.at(&file),
                text.as_bytes(),
                0o600,
                Durability::Runtime,
            )?;
        }
    }
    for unit in units {
        write_atomic(
            &paths.unit(&unit.name),
            unit.text.as_bytes(),
            0o644,
            Durability::Runtime,
        )?;
    }
    Ok(())
}

/// Writes what the sidecar of a one-off is told, readable for root only.
///
/// # Errors
/// When it can't be written.
pub fn write_errand(paths: &Paths, name: &ProcessName, errand: &Errand) -> io::Result<()> {
    write_atomic(
        &paths.at(&RunFiles::of(name).errand),
        &serde_json::to_vec(errand)?,
        0o600,
        Durability::Runtime,
    )
}

/// Removes all of a process's files.
///
/// # Errors
/// When one can't be removed.
pub fn remove_process(paths: &Paths, name: &ProcessName) -> io::Result<()> {
    // The unit with the uuid goes last: an agent that is interrupted here finds it and goes on.
    let run = RunFiles::of(name);
    for file in [env_list(name), env_file(name), run.errand, run.exit] {
        remove(&paths.at(&file))?;
    }
    for unit in [announcer(name), log(name), log_socket(name), service(name)] {
        remove(&paths.unit(&unit))?;
    }
    Ok(())
}

/// Whether a unit of that name belongs to the host itself.
#[must_use]
pub fn is_hosts_own(paths: &Paths, unit: &UnitFileName) -> bool {
    let dirs = [
        "/etc/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
        "/usr/local/lib/systemd/system",
    ];
    dirs.iter()
        .any(|dir| paths.at(dir).join(unit.as_str()).exists())
        || (paths.unit(unit.as_str()).exists() && !paths.owned(unit.as_str()).exists())
}

/// Writes a raw unit's file.
///
/// # Errors
/// When it can't be written.
pub fn write_raw(paths: &Paths, unit: &UnitFileName, owned: Owned, text: &str) -> io::Result<()> {
    write_owned(paths, unit, owned)?;
    // systemd takes a file that was written again for another text.
    if read_raw(paths, unit.as_str())?.as_deref() == Some(text) {
        return Ok(());
    }
    write_atomic(
        &paths.unit(unit.as_str()),
        text.as_bytes(),
        0o644,
        Durability::Runtime,
    )
}

/// Writes down what has been done with a raw unit.
///
/// # Errors
/// When it can't be written.
pub fn write_owned(paths: &Paths, unit: &UnitFileName, owned: Owned) -> io::Result<()> {
    let owned = serde_json::to_vec(&owned).map_err(io::Error::other)?;
    write_atomic(
        &paths.owned(unit.as_str()),
        &owned,
        0o600,
        Durability::Runtime,
    )
}

/// A raw unit's text, if it is there.
///
/// # Errors
/// When it can't be read.
pub fn read_raw(paths: &Paths, unit: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(paths.unit(unit)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a raw unit's file.
///
/// # Errors
/// When it can't be removed.
pub fn remove_raw(paths: &Paths, unit: &str) -> io::Result<()> {
    remove(&paths.unit(unit))?;
    remove(&paths.owned(unit))
}

/// Finds everything of ours on the host.
///
/// # Errors
/// When the folder of unit files can't be read.
pub fn scan(paths: &Paths) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(paths.at("/run/systemd/system"))? {
        let path = entry?.path();
        let Some(file) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let Some(name) = file
            .strip_suffix(".service")
            .filter(|stem| stem.parse::<ProcessName>().is_ok())
        else {
            continue;
        };
        // One that can't be read is nobody's but its own trouble.
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                warn!(unit = file, %error, "a unit with a process's name can't be read: left alone");
                continue;
            }
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
        };
        let Some(uuid) = field("X-Deis-Uuid").and_then(|uuid| uuid.parse().ok()) else {
            warn!(
                unit = file,
                "a unit with a process's name and no uuid: not ours, left alone"
            );
            continue;
        };
        found.push(Found {
            name: name.to_owned(),
            uuid,
            port: field("X-Deis-Port").and_then(|port| port.parse().ok()),
            template: field("X-Deis-Template").map(str::to_owned),
            image: field("X-Deis-Image").map(str::to_owned),
            raw: None,
        });
    }
    for entry in fs::read_dir(paths.at("/run/deis/units"))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if let Some(owned) = read_owned(&path) {
            found.push(Found {
                name: name.to_owned(),
                uuid: owned.uuid,
                port: None,
                template: None,
                image: None,
                raw: Some(owned),
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// What has been done with a raw unit, as it was written down.
pub fn read_owned(path: &Path) -> Option<Owned> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_again_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let paths = Paths::below(dir.path());
        paths.prepare().expect("folders");
        let name: ProcessName = "blog_v7.web.1".parse().expect("name");
        let text = "[X-Deis]\nX-Deis-Template=abc\nX-Deis-Uuid=00000000-0000-0000-0000-00000000000d\nX-Deis-Port=20001\n";
        let unit = |name: String| RenderedUnit {
            name,
            text: text.into(),
        };
        let units = [unit(log(&name)), unit(service(&name))];
        write_process(&paths, &name, &units, &Environment::default()).expect("written");
        fs::write(paths.unit("ssh.service"), "[Unit]").expect("written");
        fs::write(paths.unit("x_v1.web.1.service"), "[Unit]").expect("written");
        let raw: UnitFileName = "deis-router@1.service".parse().expect("name");
        let owned = Owned {
            uuid: Uuid::from_u128(2),
            loaded: true,
        };
        write_raw(&paths, &raw, owned, "[Service]").expect("written");
        let found = scan(&paths).expect("scanned");
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].name.as_str(), found[0].port, found[0].uuid),
            ("blog_v7.web.1", Some(20001), Uuid::from_u128(13))
        );
        assert_eq!(found[1].raw, Some(owned));
        assert!(!is_hosts_own(&paths, &raw));
        assert!(is_hosts_own(&paths, &"ssh.service".parse().expect("name")));
        remove_process(&paths, &name).expect("removed");
        remove_raw(&paths, raw.as_str()).expect("removed");
        assert!(scan(&paths).expect("scanned").is_empty());
    }
}
