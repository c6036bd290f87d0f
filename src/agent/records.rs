//! Release, build and config of a release: immutable, so they are read once and shared.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::cache::Records;
use crate::{
    model::{AppName, ConfigName, ProcessName, ReleaseNumber},
    seal::{ClusterKey, SealError, config_context},
    store::{Store, StoreError, keys},
};

/// Releases kept in memory; a host rarely runs more at once, and one too many is read again.
const KEPT_MAX: usize = 256;

/// Why a release's records can't be used.
#[derive(Debug, thiserror::Error)]
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

/// Records by app and release, read at most once.
#[derive(Debug, Default)]
pub struct RecordCache {
    known: Mutex<BTreeMap<(AppName, ReleaseNumber), Arc<Records>>>,
}

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
        if let Some(known) = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
        {
            return Ok(known.clone());
        }
        let missing = |key: String| RecordsError::Missing { key };
        let (app, version) = &id;
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
        let records = Arc::new(Records {
            release,
            build: build.ok_or_else(|| missing(build_key.to_string()))?.value,
            config: config.ok_or_else(|| missing(config_key.to_string()))?.value,
        });
        self.put(process, records.clone());
        Ok(records)
    }

    /// Notes records that came from elsewhere (the host's own cache).
    pub fn put(&self, process: &ProcessName, records: Arc<Records>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT_MAX {
            known.pop_first();
        }
        known.insert((process.app.clone(), process.release), records);
    }
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
