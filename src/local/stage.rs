//! The installed tree (/opt/deis) as the hosts see it: programs, units, templates, images.

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
