//! The hosts' root file system, made once and cached.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::command::{bound, run, stream};
use super::report::{Note, detail};
use super::state::{CACHE_ROOT, Cluster, Paths};

const KEPT: std::time::Duration = std::time::Duration::from_secs(14 * 24 * 3600);
const RECIPE: &str = include_str!("recipes/rootfs.sh");

/// The cached root file system, made if there is none.
pub fn ensure(note: &mut Note) -> anyhow::Result<PathBuf> {
    let target = Path::new(CACHE_ROOT).join(format!("rootfs-{}", key(&[RECIPE])));
    if target.is_dir() {
        note.set(format!("cached: {}", target.display()));
        return Ok(target);
    }
    fresh(&target, |dir| {
        build(RECIPE, dir, &Sources::of_this_machine())
    })?;
    note.set(format!("made {}", target.display()));
    Ok(target)
}

/// A short hash over the inputs of a cached thing.
pub fn key(inputs: &[&str]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        hash.update(input.as_bytes());
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Makes `target` by way of a directory beside it: what is there is whole. What an earlier,
/// killed attempt left is removed first. One at a time on this machine.
pub fn fresh(target: &Path, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    fs::create_dir_all(CACHE_ROOT).with_context(|| format!("create {CACHE_ROOT}"))?;
    let lock = fs::File::create(lock_of(target))?;
    if lock.try_lock().is_err() {
        detail("another `cluster up` makes it right now: waiting for that");
        lock.lock().context("lock the cache")?;
    }
    if target.exists() {
        return Ok(()); // another `up` was quicker
    }
    let name = target
        .file_name()
        .context("a cache entry has a name")?
        .to_string_lossy();
    let making = target.with_file_name(format!("{name}.making"));
    remove_tree(&making)?;
    remove_tree(&beside(&making, "work"))?;
    make(&making)?;
    fs::rename(&making, target).with_context(|| format!("rename to {}", target.display()))
}

/// Removes cached trees that no cluster uses and nobody asked for in two weeks.
pub fn prune(current: &[&Path]) -> anyhow::Result<()> {
    let mut used: Vec<PathBuf> = current.iter().map(|path| path.to_path_buf()).collect();
    for path in current {
        fs::File::open(path)?.set_modified(std::time::SystemTime::now())?;
    }
    for name in super::up::names() {
        if let Ok(Some(cluster)) = Cluster::load(&Paths::new(&name)?) {
            used.extend([cluster.rootfs, cluster.image_store]);
        }
    }
    for entry in fs::read_dir(CACHE_ROOT)?.flatten() {
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = ["rootfs-", "stack-", "store-"]
            .iter()
            .any(|kind| name.starts_with(kind));
        if ours && age > KEPT && !used.contains(&entry.path()) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Held while a cached tree is made.
fn lock_of(target: &Path) -> PathBuf {
    beside(target, "lock")
}

/// A path beside another: its name and something more.
pub fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(more);
    PathBuf::from(name)
}

/// Removes what killed builds left, unless somebody builds right now.
pub fn clear_unfinished() -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(CACHE_ROOT) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((target, _)) = name.split_once(".making") else {
            continue;
        };
        let lock = fs::File::create(lock_of(&Path::new(CACHE_ROOT).join(target)))?;
        if lock.try_lock().is_ok() {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a tree of root's, with whatever is still mounted in it.
pub fn remove_tree(dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    super::procs::unmount_below(dir)?;
    run(&[
        Path::new("rm"),
        Path::new("-rf"),
        Path::new("--one-file-system"),
        dir,
    ])
    .map(|_| ())
}

/// Runs a recipe: TARGET SOURCES APTCONF.
pub fn build(recipe: &str, target: &Path, sources: &Sources) -> anyhow::Result<()> {
    anyhow::ensure!(
        !sources.list.trim().is_empty(),
        "apt has no source of a Debian here: add this machine's mirror to /etc/apt/sources.list"
    );
    let dir = beside(target, "work");
    fs::create_dir_all(&dir)?;
    let [script, list, conf] = ["recipe.sh", "sources.list", "apt.conf"].map(|file| dir.join(file));
    fs::write(&script, recipe)?;
    fs::write(&list, &sources.list)?;
    fs::write(&conf, &sources.conf)?;
    let words = [Path::new("sh"), &script, target, &list, &conf];
    stream(bound(&words).env("LC_ALL", "C.UTF-8").env("TMPDIR", &dir))
        .context("mmdebstrap could not make a Debian: is this machine's Debian mirror in reach?")?;
    remove_tree(&dir)
}

/// Where this machine gets Debian 12 from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// A sources.list.
    pub list: String,
    /// An apt.conf: proxies and the like.
    pub conf: String,
}

impl Sources {
    /// The machine's own mirror. Empty on a machine without any: then the recipe fails and says so.
    pub fn of_this_machine() -> Sources {
        let mut lines: Vec<String> = Vec::new();
        let format = "$(CREATED_BY) $(SITE) $(RELEASE) $(COMPONENT)";
        let targets = run(&["apt-get", "indextargets", "--format", format]).unwrap_or_default();
        for target in targets.lines() {
            let words: Vec<&str> = target.split_whitespace().collect();
            if let ["Packages", site, release, "main"] = words[..] {
                let line = format!("deb {site} {release} main");
                if release.starts_with("bookworm")
                    && !release.contains("backports")
                    && site.contains("debian")
                    && !lines.contains(&line)
                {
                    lines.push(line);
                }
            }
        }
        // Another Debian than 12: its mirror has 12 as well.
        if lines.is_empty() {
            let site = targets.lines().find_map(|target| {
                match target.split_whitespace().collect::<Vec<_>>()[..] {
                    ["Packages", site, _, "main"]
                        if site.contains("debian") && !site.contains("security") =>
                    {
                        Some(site)
                    }
                    _ => None,
                }
            });
            lines.extend(site.map(|site| format!("deb {site} bookworm main")));
        }
        let conf = run(&["apt-config", "dump"]).unwrap_or_default();
        let conf: Vec<&str> = conf.lines().filter(|line| reaches_mirror(line)).collect();
        Sources {
            list: lines.join("\n") + "\n",
            conf: conf.join("\n") + "\n",
        }
    }
}

/// Whether an apt option says how to reach a mirror.
pub fn reaches_mirror(option: &str) -> bool {
    let lower = option.to_ascii_lowercase();
    [
        "acquire::http",
        "acquire::check-",
        "acquire::retries",
        "acquire::forceipv",
    ]
    .iter()
    .any(|prefix| lower.starts_with(prefix))
        && !lower.ends_with(" \"\";")
}
