//! Release, build and config of a release: immutable, so they are read once and shared.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use super::cache::Records;
use crate::{
    model::{AppName, ConfigName, ProcessName, ReleaseNumber},
    seal::{ClusterKey, SealError, config_context},
    store::{Store, StoreError, keys},
};

/// Releases kept in memory; a host rarely runs more at once, and one too many is read again.
const KEPT_MAX: usize = 256;

/// Why a release's records can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// etcd failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One is not there.
    #[error("{key} is not in etcd: the release is incomplete, deploy again")]
    Missing {
        /// Its key.
        key: String,
    },
    /// The release has no build.
    #[error("release {release} of {app} has no build yet: push code first")]
    NoBuild {
        /// The app.
        app: AppName,
        /// The release.
        release: ReleaseNumber,
    },
}

/// Records by app and release, read at most once, also when many ask at the same time.
#[derive(Debug, Default)]
pub struct RecordCache {
    known: Mutex<BTreeMap<Id, Arc<OnceCell<Answer>>>>,
}

type Id = (AppName, ReleaseNumber);
type Answer = Result<Arc<Records>, RecordsError>;

impl RecordCache {
    /// The records of a process's release: three reads for the first process of it, none for others.
    ///
    /// # Errors
    /// When one is missing or etcd can't be reached.
    pub async fn get(
        &self,
        store: &Store,
        process: &ProcessName,
    ) -> Result<Arc<Records>, RecordsError> {
        let id = (process.app.clone(), process.release);
        let cell = {
            let mut known = self.lock();
            if known.len() >= KEPT_MAX && !known.contains_key(&id) {
                known.pop_first();
            }
            known.entry(id.clone()).or_default().clone()
        };
        let answer = cell.get_or_init(|| read(store, &id)).await;
        if answer.is_err() {
            // Those who asked meanwhile have their answer; whoever asks later asks again.
            let mut known = self.lock();
            if known
                .get(&id)
                .is_some_and(|other| Arc::ptr_eq(other, &cell))
            {
                known.remove(&id);
            }
        }
        answer.clone()
    }

    /// Notes records that came from elsewhere (the host's own cache).
    pub fn put(&self, process: &ProcessName, records: Arc<Records>) {
        let id = (process.app.clone(), process.release);
        let cell = Arc::new(OnceCell::new_with(Some(Ok(records))));
        self.lock().entry(id).or_insert(cell);
    }

    /// Forgets a process's release: an app of the same name that comes later has others of that number.
    pub fn forget(&self, process: &ProcessName) {
        self.lock().remove(&(process.app.clone(), process.release));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Arc<OnceCell<Answer>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(store: &Store, (app, version): &Id) -> Answer {
    let missing = |key: String| RecordsError::Missing { key };
    let key = keys::release(app, *version);
    let release = store
        .get(&key)
        .await?
        .ok_or_else(|| missing(key.to_string()))?
        .value;
    let build = release.build.ok_or_else(|| RecordsError::NoBuild {
        app: app.clone(),
        release: *version,
    })?;
    let (build_key, config_key) = (keys::build(app, build), keys::config(app, release.config));
    let (build, config) = tokio::try_join!(store.get(&build_key), store.get(&config_key))?;
    Ok(Arc::new(Records {
        release,
        build: build.ok_or_else(|| missing(build_key.to_string()))?.value,
        config: config.ok_or_else(|| missing(config_key.to_string()))?.value,
    }))
}

/// Opens a config's values.
///
/// # Errors
/// When one does not open: another cluster's key, or tampered with.
pub fn open_values(
    key: &ClusterKey,
    records: &Records,
) -> Result<BTreeMap<ConfigName, String>, SealError> {
    let config = &records.config;
    let open = |(name, sealed): (&ConfigName, _)| {
        let opened = key.open_text(&config_context(&config.app, name), sealed)?;
        Ok((name.clone(), opened.into_inner()))
    };
    config.values.iter().map(open).collect()
}
