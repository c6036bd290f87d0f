//! Repositories and caches of apps that are gone.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    ops::gone::{Gone, living},
    store::{Store, StoreError},
};

/// Between two tries.
const RETRY: Duration = Duration::from_secs(30);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("can't tidy up the repositories")]
    Files(#[from] io::Error),
}

/// Removes what no app owns any more, until the builder stops. Both kinds of directories have the
/// app's uuid as their name: a new app of the same name has others.
pub(super) async fn run(
    store: Store,
    repositories: PathBuf,
    caches: PathBuf,
    stop: CancellationToken,
) {
    let mut gone = Gone::follow(&store);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = gone.next() => {}
        }
        if let Err(error) = sweep(&store, &repositories, &caches).await {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                "repositories of destroyed apps are not removed, trying again"
            );
            gone.look_in(RETRY);
        }
    }
}

async fn sweep(store: &Store, repositories: &Path, caches: &Path) -> Result<(), SweepError> {
    // First what is there, then who lives.
    let there = [found(repositories, ".git")?, found(caches, "")?].concat();
    if there.is_empty() {
        return Ok(());
    }
    let living: BTreeSet<Uuid> = living(store).await?.into_values().collect();
    for (id, path) in there {
        if !living.contains(&id) {
            info!(path = %path.display(), "its app is gone, and so is this");
            tokio::task::spawn_blocking(move || remove(&path))
                .await
                .map_err(io::Error::other)??;
        }
    }
    Ok(())
}

/// Directories that are named by a uuid.
fn found(root: &Path, suffix: &str) -> io::Result<Vec<(Uuid, PathBuf)>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.strip_suffix(suffix)?.parse().ok());
        if let Some(id) = id {
            found.push((id, entry.path()));
        }
    }
    Ok(found)
}

/// Renamed first: nobody finds half a repository.
fn remove(path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".gone-{}", Uuid::new_v4()));
    let aside = path.with_file_name(name);
    fs::rename(path, &aside)?;
    fs::remove_dir_all(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::AppName,
        ops::app,
        store::{Txn, keys},
    };

    #[tokio::test]
    async fn what_no_app_owns_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (git, cache) = (dir.path().join("git"), dir.path().join("cache"));
        let store = Store::memory();
        let name: AppName = "blog".parse().expect("a name");
        let owner = "ada".parse().expect("a name");
        let create = async || {
            let made = app::create(&store, &owner, Some(name.clone())).await;
            let id = made.expect("made").1.uuid;
            fs::create_dir_all(git.join(format!("{id}.git/refs"))).expect("made");
            fs::create_dir_all(cache.join(id.to_string())).expect("made");
            id
        };
        fs::create_dir_all(git.join(".ssh")).expect("made");
        let first = create().await;
        sweep(&store, &git, &cache).await.expect("swept");
        assert!(git.join(format!("{first}.git/refs")).exists());
        // Destroyed and made anew while nobody looked.
        let txn = Txn::new().delete(&keys::app(&name));
        store.commit(txn).await.expect("deleted");
        let second = create().await;
        sweep(&store, &git, &cache).await.expect("swept");
        let left = |dir: &Path| {
            let names = fs::read_dir(dir).expect("read");
            let names = names.map(|e| e.expect("entry").file_name().into_string().expect("text"));
            names.collect::<BTreeSet<String>>()
        };
        assert_eq!(
            left(&git),
            BTreeSet::from([".ssh".into(), format!("{second}.git")])
        );
        assert_eq!(left(&cache), BTreeSet::from([second.to_string()]));
    }
}
