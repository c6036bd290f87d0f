//! The installed tree (/opt/deis) as the hosts see it: programs, units, templates, images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::report::Note;
use super::stack::Stack;

/// The programs, beside this one.
const PROGRAMS: [&str; 4] = ["deisd", "deisctl", "deis", "deis-sidecar"];
/// Folders of the checkout.
const FOLDERS: [&str; 3] = ["units", "templates", "buildpacks"];

/// The checkout (or installed tree) that has units/ and coreos/.
pub fn source_tree(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let whole = |dir: &Path| dir.join("units").is_dir() && dir.join("coreos/cloud-config").is_dir();
    if let Some(dir) = given {
        if !whole(dir) {
            bail!("{} has no units/ and coreos/cloud-config/", dir.display());
        }
        return Ok(fs::canonicalize(dir)?);
    }
    let exe = std::env::current_exe().context("where is this program?")?;
    let here = std::env::current_dir().unwrap_or_default();
    exe.ancestors()
        .chain(here.ancestors())
        .find(|dir| whole(dir))
        .map(Path::to_owned)
        .context("found no checkout of Deis around this program or this directory: give it with --source")
}

/// Brings the staged tree up to date and returns what changed; empty when nothing did.
pub fn refresh(
    opt: &Path,
    source: &Path,
    stack: Option<&Stack>,
    note: &mut Note,
) -> anyhow::Result<Vec<String>> {
    let mut changed = Vec::new();
    let programs = std::env::current_exe()?;
    let programs = programs
        .parent()
        .context("this program is in a directory")?;
    for program in PROGRAMS {
        let from = programs.join(program);
        if !from.is_file() {
            bail!("{} is missing: `make build` makes it", from.display());
        }
        copy_changed(&from, &opt.join("bin").join(program), &mut changed)?;
    }
    for folder in FOLDERS {
        let from = source.join(folder);
        if from.is_dir() {
            mirror(&from, &opt.join(folder), &mut changed)?;
        } else {
            fs::create_dir_all(opt.join(folder))?;
        }
    }
    mirror(&source.join("coreos"), &opt.join("coreos"), &mut changed)?;
    let mut images = Vec::new();
    if let Some(stack) = stack {
        mirror(&stack.layout, &opt.join("images/stack"), &mut images)?;
    }
    if !images.is_empty() {
        changed.push("images/stack".to_owned());
    }
    fs::create_dir_all(opt.join("images/store"))?;
    let changed: Vec<String> = changed
        .into_iter()
        .map(|path| {
            path.strip_prefix(&format!("{}/", opt.display()))
                .unwrap_or(&path)
                .to_owned()
        })
        .collect();
    note.set(match changed.len() {
        0 => "unchanged".to_owned(),
        1..=8 => format!("refreshed {}", changed.join(", ")),
        count => format!("refreshed {count} files"),
    });
    Ok(changed)
}

/// The digest of each staged file that a running agent or part of the platform has read.
pub fn digests(opt: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = vec![opt.join("bin/deisd")];
    for folder in ["units", "templates"] {
        for entry in fs::read_dir(opt.join(folder))? {
            let path = entry?.path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    let mut words = vec![PathBuf::from("sha256sum"), PathBuf::from("--")];
    words.extend(files);
    let said = super::command::run(&words)?;
    let digests = said.lines().filter_map(|line| line.split_once("  "));
    Ok(digests
        .filter_map(|(digest, path)| {
            let name = Path::new(path).strip_prefix(opt).ok()?;
            Some((name.display().to_string(), digest.to_owned()))
        })
        .collect())
}

/// Whom a changed file concerns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stale {
    /// The agents.
    pub agents: bool,
    /// The platform's own parts.
    pub platform: bool,
}

/// Whether agents and platform run something else than what is staged. Pure.
pub fn stale(runs: &BTreeMap<String, String>, staged: &BTreeMap<String, String>) -> Stale {
    let names: BTreeSet<&String> = runs.keys().chain(staged.keys()).collect();
    let mut stale = Stale::default();
    for name in names {
        if runs.get(name) == staged.get(name) {
            continue;
        }
        let part = name.starts_with("units/") && name.contains('@');
        stale.agents |= !part;
        stale.platform |= part || name == "bin/deisd";
    }
    stale
}

/// Makes `to` look like `from`, files that are gone included.
fn mirror(from: &Path, to: &Path, changed: &mut Vec<String>) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        names.push(entry.file_name());
        let target = to.join(entry.file_name());
        if fs::metadata(entry.path())?.is_dir() {
            mirror(&entry.path(), &target, changed)?;
        } else {
            copy_changed(&entry.path(), &target, changed)?;
        }
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) {
            let path = entry.path();
            if path.is_dir() {
                fs::remove_dir_all(&path)?
            } else {
                fs::remove_file(&path)?
            }
            changed.push(path.display().to_string());
        }
    }
    Ok(())
}

/// Copies a file whose size, mode or time of change differs; in place for a reader only by rename.
fn copy_changed(from: &Path, to: &Path, changed: &mut Vec<String>) -> anyhow::Result<()> {
    let new = fs::metadata(from).with_context(|| format!("read {}", from.display()))?;
    if let Ok(old) = fs::metadata(to) {
        if old.len() == new.len()
            && old.modified()? == new.modified()?
            && old.permissions() == new.permissions()
        {
            return Ok(());
        }
        if old.len() == new.len() && old.permissions() == new.permissions() && same(from, to)? {
            fs::File::open(to)?.set_modified(new.modified()?)?;
            return Ok(());
        }
    }
    let parent = to.parent().context("a file has a parent")?;
    fs::create_dir_all(parent)?;
    let tmp = parent.join(format!(
        ".{}.new",
        to.file_name()
            .context("a file has a name")?
            .to_string_lossy()
    ));
    fs::copy(from, &tmp)
        .with_context(|| format!("copy {} to {}", from.display(), tmp.display()))?;
    fs::File::open(&tmp)?.set_modified(new.modified()?)?;
    fs::rename(&tmp, to)?;
    changed.push(to.display().to_string());
    Ok(())
}

fn same(one: &Path, other: &Path) -> anyhow::Result<bool> {
    Ok(super::command::succeeds(&[
        Path::new("cmp"),
        Path::new("-s"),
        one,
        other,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_concerns_those_who_read_it() {
        let files = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = list.iter();
            pairs
                .map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned()))
                .collect()
        };
        let runs = [
            ("bin/deisd", "1"),
            ("units/deis-agent.service", "1"),
            ("units/deis-router@.service", "1"),
            ("templates/process.service.hbs", "1"),
        ];
        let of = |agents, platform| Stale { agents, platform };
        assert_eq!(stale(&files(&runs), &files(&runs)), of(false, false));
        assert_eq!(stale(&files(&[]), &files(&runs)), of(true, true));
        let wanted = [(true, true), (true, false), (false, true), (true, false)];
        for (index, (agents, platform)) in wanted.into_iter().enumerate() {
            let mut staged = runs;
            staged[index].1 = "2";
            let name = runs[index].0;
            assert_eq!(
                stale(&files(&runs), &files(&staged)),
                of(agents, platform),
                "{name}"
            );
        }
    }
}
