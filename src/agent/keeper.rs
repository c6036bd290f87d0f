//! Brings what is kept of assignments to the disk, many at a time: a disk is asked once for all that
//! waits at that moment, not once for each of hundreds of starts.
//!
//! A disk that is full or can't be written keeps nothing from starting while etcd is there: what could
//! not be kept is remembered, told in the host's report, and tried again.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
};

use tokio::sync::{Semaphore, oneshot};
use tracing::{error, info};

use super::{
    cache::{self, Saved},
    paths::Paths,
};
use crate::outside;

/// A disk that has refused so many is not asked for the others.
const REFUSALS: usize = 3;
/// Assignments written at once.
const BATCH_MAX: usize = 256;

type Waiting = (String, Saved, oneshot::Sender<io::Result<()>>);

/// Who writes the cache.
#[derive(Debug)]
pub struct Keeper {
    waiting: Mutex<Vec<Waiting>>,
    disk: Semaphore,
    unkept: Mutex<BTreeMap<String, Unkept>>,
}

/// What the disk did not take.
#[derive(Debug, Clone)]
struct Unkept {
    saved: Saved,
    why: String,
}

impl Default for Keeper {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            disk: Semaphore::new(1),
            unkept: Mutex::default(),
        }
    }
}

impl Keeper {
    /// Returns once it is on the disk, or the disk has refused it: then it is remembered.
    pub async fn keep(&self, paths: &Paths, name: &str, saved: Saved) {
        let result = self.save(paths, name, saved.clone()).await;
        let Err(error) = result else {
            self.forget(name);
            return;
        };
        error!(
            name, %error,
            "an assignment can't be kept on this host's disk: without etcd it would not start again"
        );
        let why = error.to_string();
        self.unkept().insert(name.to_owned(), Unkept { saved, why });
    }

    /// Why a name is not on the disk; none when it is, or need not be.
    pub fn trouble(&self, name: &str) -> Option<String> {
        self.unkept().get(name).map(|unkept| unkept.why.clone())
    }

    /// All names that are not on the disk.
    pub fn troubled(&self) -> Vec<String> {
        self.unkept().keys().cloned().collect()
    }

    /// A name need not be kept any more.
    pub fn forget(&self, name: &str) {
        self.unkept().remove(name);
    }

    /// Tries again to keep what the disk did not take; says whether anything is left.
    pub async fn try_again(&self, paths: &Paths) -> bool {
        // Whoever saves something newer waits for the disk, too, and so writes after this.
        let Ok(_disk) = self.disk.acquire().await else {
            return false;
        };
        let all = self.unkept().clone();
        let mut refused = 0;
        for (name, Unkept { saved, .. }) in all {
            let uuid = saved.assignment.uuid;
            let (place, file) = (paths.clone(), name.clone());
            let write = move || cache::save_all(&place, &[(&file, &saved)]);
            let Ok(Ok(())) = outside::blocking(write).await else {
                refused += 1;
                if refused == REFUSALS {
                    break;
                }
                continue;
            };
            let mut unkept = self.unkept();
            if unkept
                .get(&name)
                .is_some_and(|unkept| unkept.saved.assignment.uuid == uuid)
            {
                unkept.remove(&name);
                info!(name, "an assignment is kept on this host's disk after all");
            } else if let Err(error) = cache::forget(paths, &name) {
                error!(name, %error, "what is no longer assigned stays in this host's cache");
            }
        }
        !self.unkept().is_empty()
    }

    fn unkept(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Unkept>> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once it is on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn save(&self, paths: &Paths, name: &str, saved: Saved) -> io::Result<()> {
        let (sender, mut done) = oneshot::channel();
        self.lock().push((name.to_owned(), saved, sender));
        // Whoever gets the disk next writes for all who wait by then, and maybe for us.
        let _disk = self.disk.acquire().await.map_err(io::Error::other)?;
        if let Ok(result) = done.try_recv() {
            return result;
        }
        loop {
            let batch: Vec<Waiting> = {
                let mut waiting = self.lock();
                let count = waiting.len().min(BATCH_MAX);
                waiting.drain(..count).collect()
            };
            let paths = paths.clone();
            let write = move || {
                let entries: Vec<_> = batch
                    .iter()
                    .map(|(name, saved, _)| (&**name, saved))
                    .collect();
                let result = cache::save_all(&paths, &entries);
                for (_, _, sender) in batch {
                    let copy = result.as_ref().copied().map_err(copy);
                    let _ = sender.send(copy);
                }
            };
            outside::blocking(write).await.map_err(io::Error::other)?;
            if let Ok(result) = done.try_recv() {
                return result;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error for one more who waits.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Assignment, Desired, SCHEMA, Work};

    #[tokio::test]
    async fn all_that_are_saved_at_once_are_there() {
        let dir = tempfile::tempdir().expect("dir");
        let paths = Paths::below(dir.path());
        paths.prepare().expect("folders");
        let keeper = Arc::new(Keeper::default());
        let saved = |n: u128| Saved {
            assignment: Assignment {
                schema: SCHEMA,
                uuid: uuid::Uuid::from_u128(n),
                desired: Desired::Run,
                work: Work::Unit { hash: "00".into() },
            },
            mod_revision: 1,
            port: None,
            records: None,
            unit: None,
        };
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..600_u128 {
            let (keeper, paths, saved) = (keeper.clone(), paths.clone(), saved(n));
            tasks.spawn(async move { keeper.save(&paths, &format!("u{n}.service"), saved).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("ended").expect("saved");
        }
        let all = cache::load(&paths);
        assert_eq!(all.len(), 600);
        assert_eq!(all["u599.service"], saved(599));
        std::fs::remove_dir_all(paths.cache()).expect("removed");
        let lost = keeper.save(&paths, "late.service", saved(1)).await;
        assert_eq!(lost.expect_err("no folder").kind(), io::ErrorKind::NotFound);
    }
}
