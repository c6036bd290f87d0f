//! Brings what is kept of assignments to the disk, many at a time: a disk is asked once for all that
//! waits at that moment, not once for each of hundreds of starts.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use tokio::sync::{Semaphore, oneshot};

use super::{
    cache::{self, Saved},
    paths::Paths,
};
use crate::outside;

/// Assignments written at once.
const BATCH_MAX: usize = 256;

type Waiting = (String, Saved, oneshot::Sender<io::Result<()>>);

/// Who writes the cache.
#[derive(Debug)]
pub struct Keeper {
    waiting: Mutex<Vec<Waiting>>,
    disk: Semaphore,
}

impl Default for Keeper {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            disk: Semaphore::new(1),
        }
    }
}

impl Keeper {
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
                    let copy = result.as_ref().map(|()| ()).map_err(copy);
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
