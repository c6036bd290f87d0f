//! What a replica should hold: no image of an app that is gone, and every image of those that live.
//!
//! An app's images lie in a repository that has the app's uuid in its name, so that of a new app of
//! the same name is another. Upstream's API lists tags only, and deletes no repository: what is there
//! is read from the disk, which is ours, and removed by the API first, so that upstream's cache
//! forgets it too. Blobs that nothing refers to any more are collected at the next start
//! ([`collect`]), when nobody pushes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use reqwest::{Client, StatusCode};
use tokio::{process::Command, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Places, Probe, RegistryError, replicas};
use crate::{
    image::{
        copy::{self, CopyError},
        manifest,
        push::Registry,
        source::{Net, Source, SourceError},
    },
    model::{AppName, Build, Record as _},
    ops::gone::{Gone, is_gone},
    store::{Store, StoreError, keys},
    telemetry::chain,
};

/// Between two tries.
const RETRY: Duration = Duration::from_secs(5);
/// How long the collection may keep a registry from its start.
const COLLECT_LIMIT: Duration = Duration::from_secs(300);
/// Says that there is something to collect.
const GARBAGE: &str = "garbage";
/// Where layers lie on their way from another replica.
const SPOOL: &str = "/var/tmp";
/// What the stack image's repository begins with: no app can have this name.
const OURS: &str = "deis";

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("can't tidy up the images")]
    Files(#[from] io::Error),
    #[error("the registry does not answer")]
    Http(#[from] reqwest::Error),
    #[error("the registry answers {status} to the deletion of {what}")]
    Status { what: String, status: StatusCode },
    #[error("can't reach the other replicas")]
    Source(#[from] SourceError),
}

/// Keeps a replica as it should be, until it stops.
pub(super) async fn run(places: Places, store: Store, stop: CancellationToken) {
    let replica = match Replica::new(places, store.clone()) {
        Ok(replica) => replica,
        Err(error) => {
            let error = chain(&error).to_string();
            warn!(error, "images of destroyed apps will not be removed");
            return;
        }
    };
    let mut gone = Gone::follow(&store);
    let mut others = store.follow(keys::parts("registry").as_str());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = gone.next() => {}
            // One that has come has what we lack, maybe.
            _ = others.next() => {}
        }
        let look = async {
            replica.sweep().await?;
            replica.fill().await
        };
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = look => looked,
        };
        if let Err(error) = looked {
            let error = chain(&error).to_string();
            warn!(
                error,
                "the images are not all as they should be, trying again"
            );
            gone.look_in(RETRY);
        }
    }
}

/// This registry, from within.
struct Replica {
    places: Places,
    store: Store,
    client: Client,
    root: String,
}

impl Replica {
    fn new(places: Places, store: Store) -> Result<Self, RegistryError> {
        let Probe { client, url } = Probe::new(&places)?;
        Ok(Self {
            places,
            store,
            client,
            root: url,
        })
    }

    fn repositories(&self) -> PathBuf {
        self.places.storage.join("docker/registry/v2/repositories")
    }

    /// Removes what belongs to no app.
    async fn sweep(&self) -> Result<(), SweepError> {
        // First what is there, then who lives.
        let root = self.repositories();
        let listed = spawn_blocking(move || list(&root)).await;
        for repository in listed.map_err(io::Error::other)?? {
            if let Some((app, id)) = replicas::owner_of(&repository) {
                if is_gone(&self.store, &app, id).await? {
                    self.forget(&repository, None).await?;
                }
                continue;
            }
            // What the original builder has pushed: by the app's name.
            let Ok(app) = repository.parse::<AppName>() else {
                continue;
            };
            match self.store.get(&keys::app(&app)).await? {
                None => self.forget(&repository, None).await?,
                Some(app) => {
                    let created = SystemTime::from(app.value.created);
                    self.forget(&repository, Some(created)).await?;
                }
            }
        }
        Ok(())
    }

    /// Removes a repository, or what is in it from before a time.
    async fn forget(&self, repository: &str, before: Option<SystemTime>) -> Result<(), SweepError> {
        let dir = self.repositories().join(repository);
        let old = |digest: &&(String, SystemTime)| before.is_none_or(|before| digest.1 < before);
        let manifests = digests(&dir.join("_manifests/revisions/sha256"))?;
        let mut any = before.is_none();
        for (digest, _) in manifests.iter().filter(old) {
            any = true;
            self.delete(&format!("{repository}/manifests/{digest}"))
                .await?;
        }
        if !any {
            return Ok(());
        }
        for (digest, _) in digests(&dir.join("_layers/sha256"))?.iter().filter(old) {
            self.delete(&format!("{repository}/blobs/{digest}")).await?;
        }
        fs::write(self.places.storage.join(GARBAGE), "")?;
        if before.is_none() {
            info!(repository, "its app is gone, and so is this");
            spawn_blocking(move || remove(&dir))
                .await
                .map_err(io::Error::other)??;
        }
        Ok(())
    }

    async fn delete(&self, what: &str) -> Result<(), SweepError> {
        let url = format!("{}{what}", self.root);
        let status = self.client.delete(url).send().await?.status();
        if status.is_success() || status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        let what = what.to_owned();
        Err(SweepError::Status { what, status })
    }

    /// Gets the images that are missing here from other replicas: a replica that was away, or is new,
    /// is whole again.
    async fn fill(&self) -> Result<(), SweepError> {
        let missing = self.missing().await?;
        if missing.is_empty() {
            return Ok(());
        }
        let own = self.places.listen.to_string();
        let there = self.store.list_readable(&keys::parts("registry")).await?;
        let others: Vec<String> = there
            .entries
            .into_iter()
            .map(|(_, there)| there.value.address)
            .filter(|address| *address != own)
            .collect();
        let net = Net::platform()?;
        for (repository, digest) in missing {
            for other in &others {
                match self.take(&net, other, &repository, &digest).await {
                    Ok(()) => {
                        info!(
                            repository,
                            digest, other, "an image that was missing is here now"
                        );
                        break;
                    }
                    Err(error) => {
                        let error = chain(&error).to_string();
                        warn!(
                            repository,
                            digest, other, error, "a missing image did not come"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    async fn take(
        &self,
        net: &Net,
        other: &str,
        repository: &str,
        digest: &str,
    ) -> Result<(), CopyError> {
        let source = Source::replica(net, other, repository)?;
        let architecture = manifest::architecture(std::env::consts::ARCH);
        let found = source.find(digest, architecture).await?;
        let to = [Registry::new(&self.places.program_at().to_string())];
        let spool = Path::new(SPOOL);
        copy::copy(&source, &found, &to, repository, None, spool).await?;
        Ok(())
    }

    /// Repository and digest of the images that builds name and that are not here.
    async fn missing(&self) -> Result<Vec<(String, String)>, SweepError> {
        let (entries, _) = self.store.list_raw(keys::apps_tree().as_str()).await?;
        let builds = entries
            .iter()
            .filter(|(key, _)| key.contains("/builds/"))
            .filter_map(|(_, entry)| Build::decode(&entry.value).ok());
        let mut missing = Vec::new();
        for build in builds {
            let Some((repository, digest)) = build.image.split_once('@') else {
                continue;
            };
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            let link = format!("{repository}/_manifests/revisions/sha256/{hex}/link");
            let ours = replicas::owner_of(repository).is_some() && manifest::is_digest(digest);
            if ours && !self.repositories().join(link).exists() {
                missing.push((repository.to_owned(), digest.to_owned()));
            }
        }
        Ok(missing)
    }
}

/// Names of all repositories of apps.
fn list(root: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for app in names(root)?.into_iter().filter(|name| name != OURS) {
        for inner in names(&root.join(&app))? {
            match inner.as_str() {
                "_manifests" | "_layers" | "_uploads" => found.push(app.clone()),
                id => found.push(format!("{app}/{id}")),
            }
        }
    }
    found.dedup();
    found.sort();
    found.dedup();
    Ok(found)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// Digests in a directory of links, and since when they are there.
fn digests(dir: &Path) -> io::Result<Vec<(String, SystemTime)>> {
    let mut found = Vec::new();
    for hex in names(dir)? {
        let digest = format!("sha256:{hex}");
        // A deleted one leaves its directory.
        if let Ok(link) = fs::metadata(dir.join(&hex).join("link"))
            && manifest::is_digest(&digest)
        {
            found.push((digest, link.modified()?));
        }
    }
    Ok(found)
}

/// Removes a repository's own directories, and those above it that are empty then.
fn remove(dir: &Path) -> io::Result<()> {
    for part in ["_manifests", "_layers", "_uploads"] {
        match fs::remove_dir_all(dir.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Not empty: the repositories of other apps of that name lie below.
    let _ = fs::remove_dir(dir);
    if let Some(parent) = dir.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// Collects the blobs that nothing refers to, if there may be some. Only before the registry serves:
/// what is being pushed is referred to by nothing yet.
pub(super) async fn collect(places: &Places, config: &Path) {
    let mark = places.storage.join(GARBAGE);
    if !mark.exists() {
        return;
    }
    let begun = std::time::Instant::now();
    let mut collect = Command::new(&places.program);
    collect
        .env_remove("NOTIFY_SOCKET")
        .arg("garbage-collect")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    match timeout(COLLECT_LIMIT, collect.status()).await {
        Ok(Ok(status)) if status.success() => {
            let _ = fs::remove_file(mark);
            let millis = u64::try_from(begun.elapsed().as_millis()).ok();
            info!(millis, "blobs that nothing referred to are gone");
        }
        // It takes disk only, and is tried at the next start.
        failed => warn!(?failed, "blobs that nothing refers to are not collected"),
    }
}
