//! Settings of the machine that local clusters share: changed while one needs them, restored by
//! the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::state::{STATE_ROOT, write_atomically};

/// One changed setting.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Changed {
    original: String,
    users: BTreeSet<String>,
}

type Ledger = BTreeMap<String, Changed>;

fn ledger_path() -> PathBuf {
    Path::new(STATE_ROOT).join("sysctl.yaml")
}

fn path_of(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

fn read(key: &str) -> anyhow::Result<String> {
    let path = path_of(key);
    let value = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(value.trim().to_owned())
}

/// Sets a value in the current network namespace, without remembering the old one.
pub fn set(key: &str, value: &str) -> anyhow::Result<()> {
    if read(key)? == value {
        return Ok(());
    }
    let path = path_of(key);
    fs::write(&path, value).with_context(|| format!("write {}", path.display()))
}

fn with_ledger<T>(change: impl FnOnce(&mut Ledger) -> anyhow::Result<T>) -> anyhow::Result<T> {
    fs::create_dir_all(STATE_ROOT)?;
    let lock = fs::File::create(Path::new(STATE_ROOT).join("sysctl.lock"))?;
    lock.lock()?;
    let mut ledger: Ledger = match fs::read_to_string(ledger_path()) {
        Ok(text) => serde_yaml::from_str(&text).unwrap_or_default(),
        Err(_) => Ledger::new(),
    };
    let done = change(&mut ledger)?;
    if ledger.is_empty() {
        let _ = fs::remove_file(ledger_path());
    } else {
        write_atomically(
            &ledger_path(),
            serde_yaml::to_string(&ledger)?.as_bytes(),
            0o644,
        )?;
    }
    Ok(done)
}

/// Sets a value for a cluster; the original one is written down first.
pub fn hold(cluster: &str, key: &str, value: &str) -> anyhow::Result<()> {
    with_ledger(|ledger| {
        let original = read(key)?;
        let changed = ledger.entry(key.to_owned()).or_insert(Changed {
            original,
            users: BTreeSet::new(),
        });
        changed.users.insert(cluster.to_owned());
        write_atomically(
            &ledger_path(),
            serde_yaml::to_string(ledger)?.as_bytes(),
            0o644,
        )?;
        set(key, value)
    })
}

/// Like [`hold`], and leaves a value alone that is large enough.
pub fn hold_at_least(cluster: &str, key: &str, value: u64) -> anyhow::Result<()> {
    let enough = read(key)?.parse::<u64>().is_ok_and(|now| now >= value);
    let held = with_ledger(|ledger| Ok(ledger.contains_key(key)))?;
    if enough && !held {
        Ok(())
    } else {
        hold(cluster, key, &value.to_string())
    }
}

/// Ends a cluster's use: what nobody uses any more gets its old value.
pub fn release(cluster: &str) -> anyhow::Result<()> {
    if !ledger_path().exists() {
        return Ok(());
    }
    with_ledger(|ledger| {
        let mut unused = Vec::new();
        for (key, changed) in ledger.iter_mut() {
            changed.users.remove(cluster);
            if changed.users.is_empty() {
                set(key, &changed.original)?;
                unused.push(key.clone());
            }
        }
        for key in unused {
            ledger.remove(&key);
        }
        Ok(())
    })
}
