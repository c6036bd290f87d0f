//! Release, build and config of a release: immutable, so they are read once and shared.
//!
//! Immutable as long as the app lives: a later app of its name has a release of the same number, with
//! other secrets. So what is known is used unasked only within the rollout for which it was read;
//! otherwise the release is read again, and its id tells.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;
use uuid::Uuid;

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

/// Records by app and release, read at most once in a rollout, also when many ask at the same time.
#[derive(Debug, Default)]
pub struct RecordCache {
    known: Mutex<BTreeMap<Id, Known>>,
}

type Id = (AppName, ReleaseNumber);
type Answer = Result<Arc<Records>, RecordsError>;

#[derive(Debug)]
struct Known {
    answer: Arc<OnceCell<Answer>>,
    /// The rollout that they were last read for.
    rollout: Option<Uuid>,
}

impl RecordCache {
    /// The records of a process's release: three reads for the first process of it, one for the first
    /// of a later rollout, none for the others of a rollout.
    ///
    /// # Errors
    /// When one is missing or etcd can't be reached.
    pub async fn get(
        &self,
        store: &Store,
        process: &ProcessName,
        rollout: Option<Uuid>,
    ) -> Result<Arc<Records>, RecordsError> {
        let id = (process.app.clone(), process.release);
        let (answer, former) = self.begin(&id, rollout);
        let read = || read(store, &id, former);
        let records = answer.get_or_init(read).await;
        if records.is_err() {
            // Those who asked meanwhile have their answer; whoever asks later asks again.
            let mut known = self.lock();
            let is_it = |known: &Known| Arc::ptr_eq(&known.answer, &answer);
            if known.get(&id).is_some_and(is_it) {
                known.remove(&id);
            }
        }
        records.clone()
    }

    /// Where the answer is to be found, and what was known before if it has to be looked at again.
    fn begin(
        &self,
        id: &Id,
        rollout: Option<Uuid>,
    ) -> (Arc<OnceCell<Answer>>, Option<Arc<Records>>) {
        let mut known = self.lock();
        let former = known.get(id);
        if let Some(former) = former.filter(|former| rollout.is_some() && former.rollout == rollout)
        {
            return (former.answer.clone(), None);
        }
        let former = former.and_then(|former| former.answer.get()?.clone().ok());
        if known.len() >= KEPT_MAX {
            known.pop_first();
        }
        let answer = Arc::new(OnceCell::new());
        let new = Known {
            answer: answer.clone(),
            rollout,
        };
        known.insert(id.clone(), new);
        (answer, former)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a release's records, or the release alone when it is the one that was known.
async fn read(store: &Store, (app, version): &Id, former: Option<Arc<Records>>) -> Answer {
    let missing = |key: String| RecordsError::Missing { key };
    let key = keys::release(app, *version);
    let release = store
        .get(&key)
        .await?
        .ok_or_else(|| missing(key.to_string()))?
        .value;
    if let Some(former) = former.filter(|former| former.release.uuid == release.uuid) {
        return Ok(former);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Build, Config, Record as _, Release},
        store::{MemoryStore, Txn},
    };

    /// Release v2 of app blog, of the app that has this number.
    async fn deploy(store: &Store, app: u128) {
        let id = Uuid::from_u128(app);
        let common =
            format!(r#""uuid":"{id}","app":"blog","owner":"ada","created":"2026-01-01T00:00:00Z""#);
        let decode = |rest: &str| format!("{{{common},{rest}}}").into_bytes();
        let release = decode(&format!(
            r#""version":2,"summary":"","config":"{id}","build":"{id}""#
        ));
        let build = decode(&format!(
            r#""image":"blog/{id}@sha256:0","kind":"slug","port":5000,"sha":"","procfile":{{}},"dockerfile":false"#
        ));
        let config = decode(r#""values":{},"memory":{},"cpu":{},"tags":{}"#);
        let name = || "blog".parse().expect("app");
        let txn = Txn::new()
            .put(
                &keys::release(&name(), ReleaseNumber(2)),
                &Release::decode(&release).expect("release"),
            )
            .put(
                &keys::build(&name(), id),
                &Build::decode(&build).expect("build"),
            )
            .put(
                &keys::config(&name(), id),
                &Config::decode(&config).expect("config"),
            );
        store.commit(txn).await.expect("stored");
    }

    #[tokio::test]
    async fn a_later_app_of_the_name_gets_its_own() {
        let store = Store::from_memory(&MemoryStore::default());
        let cache = RecordCache::default();
        let web = "blog_v2.web.1".parse().expect("name");
        let image = async |rollout: Option<u128>| {
            let rollout = rollout.map(Uuid::from_u128);
            let records = cache.get(&store, &web, rollout).await.expect("records");
            records.build.image.clone()
        };
        deploy(&store, 1).await;
        let first = image(Some(10)).await;
        assert_eq!(image(None).await, first);
        assert_eq!(image(Some(10)).await, first);
        // Destroyed, and made anew by somebody else.
        deploy(&store, 2).await;
        let second = image(Some(20)).await;
        assert_ne!(second, first);
        assert_eq!(image(None).await, second);
        deploy(&store, 3).await;
        assert_ne!(image(None).await, second, "a lost process that is replaced");
    }
}
