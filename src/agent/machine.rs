//! What a host says of itself.

use std::{fs, path::Path};

use crate::{
    model::{HostRecord, Machine, MachineId, SCHEMA},
    settings::{HostSettings, SettingsError},
    store::{Along, CommitError, Store, StoreError, Txn, keys},
};

/// Share of the memory that processes may reserve, in percent; the rest is for the platform.
const MEMORY_PERCENT: u64 = 90;

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// This machine's id.
///
/// # Errors
/// When /etc/machine-id is missing or no id.
pub fn id() -> Result<MachineId, SettingsError> {
    line("/etc/machine-id")
        .and_then(|text| text.parse().ok())
        .ok_or(SettingsError::MachineId)
}

fn memory_total() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: u64 = total
        .and_then(|t| t.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    kib << 10
}

/// Number of processors.
#[must_use]
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// The presence record of this machine.
#[must_use]
pub fn describe(id: MachineId, settings: &HostSettings) -> Machine {
    Machine {
        schema: SCHEMA,
        id,
        hostname: line("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".into()),
        address: settings.address.to_string(),
        memory_bytes: memory_total() / 100 * MEMORY_PERCENT,
        cpus: cpus(),
        version: env!("CARGO_PKG_VERSION").into(),
        boot_id: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        metadata: settings.metadata.clone(),
    }
}

/// Whether podman finds its init here.
#[must_use]
pub fn has_init() -> bool {
    ["/usr/libexec/podman/catatonit", "/usr/bin/catatonit"]
        .iter()
        .any(|path| Path::new(path).exists())
}

/// A host that is there is not lost: the one can't be read without the other. Were it the leader's to say
/// so a moment later, the host might be away again by then, and would count as lost ever since the
/// first time.
#[derive(Debug)]
pub struct NotLost(pub MachineId);

impl Along for NotLost {
    async fn of(&self, store: &Store) -> Result<Txn, StoreError> {
        let key = keys::host(&self.0);
        Ok(match store.get(&key).await? {
            Some(old) if old.value.lost_since.is_some() => Txn::new()
                .unchanged(&key, old.mod_revision)
                .put(&key, &old.value.found()),
            Some(old) => Txn::new().unchanged(&key, old.mod_revision),
            None => Txn::new().absent(&key),
        })
    }
}

/// Writes or corrects the host's durable record; what operators and the leader keep in it stays.
///
/// # Errors
/// When etcd can't be reached.
pub async fn record(store: &Store, machine: &Machine) -> Result<(), StoreError> {
    let key = keys::host(&machine.id);
    loop {
        let txn = match store.get(&key).await? {
            Some(old)
                if old.value.hostname == machine.hostname
                    && old.value.address == machine.address =>
            {
                return Ok(());
            }
            Some(old) => {
                let new = HostRecord {
                    hostname: machine.hostname.clone(),
                    address: machine.address.clone(),
                    ..old.value
                };
                Txn::new().unchanged(&key, old.mod_revision).put(&key, &new)
            }
            None => {
                let new = HostRecord {
                    schema: SCHEMA,
                    hostname: machine.hostname.clone(),
                    address: machine.address.clone(),
                    labels: machine.metadata.clone(),
                    cordoned: false,
                    drain: None,
                    lost_since: None,
                    declared_lost: false,
                };
                Txn::new().absent(&key).put(&key, &new)
            }
        };
        match store.commit(txn).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::store::Presence;

    /// From a seed of the simulation: it was back for five seconds, nobody had written so by then, and the
    /// next leader moved what had just been assigned to it without any grace.
    #[tokio::test(start_paused = true)]
    async fn who_registers_is_not_lost_from_that_revision_on() {
        let id: MachineId = "0123456789abcdef0123456789abcdef".parse().expect("id");
        let machine = Machine {
            schema: SCHEMA,
            id: id.clone(),
            hostname: "deis-01".into(),
            address: "10.0.0.1".into(),
            memory_bytes: 1 << 30,
            cpus: 1,
            version: "2".into(),
            boot_id: "1".into(),
            metadata: BTreeMap::new(),
        };
        let lost = HostRecord {
            schema: SCHEMA,
            hostname: "deis-01".into(),
            address: "10.0.0.1".into(),
            labels: BTreeMap::from([("rack".into(), "a".into())]),
            cordoned: true,
            drain: None,
            lost_since: Some(jiff::Timestamp::UNIX_EPOCH),
            declared_lost: true,
        };
        for before in [Some(lost.clone()), Some(lost.clone().found()), None] {
            let store = Store::memory();
            let key = keys::host(&id);
            if let Some(before) = &before {
                let txn = Txn::new().put(&key, before);
                store.commit(txn).await.expect("written");
            }
            let presence = Presence::keep_along(
                &store,
                keys::machine(&id),
                machine.clone(),
                Duration::from_secs(6),
                |_| false,
                NotLost(id.clone()),
            );
            let presence = presence.await.expect("registered");
            let now = store.get(&key).await.expect("read");
            let value = now.as_ref().map(|now| now.value.clone());
            assert_eq!(value, before.clone().map(HostRecord::found));
            if before.is_some_and(|before| before.lost_since.is_some()) {
                let revision = now.map(|now| now.mod_revision);
                assert_eq!(revision, Some(presence.revision()), "one transaction");
            }
        }
    }
}
