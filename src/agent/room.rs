//! Keeps room on the disk that images are on. What goes is decided by [`crate::plan::images`]; here it is
//! found out what there is, who needs it, and when it was used last.
//!
//! As long as the disk has room, this looks at its figures and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    cache,
    files::{self, Found},
    images::owner,
    paths::{Durability, Paths, write_atomic},
    runtime::ImageError,
    storage::{Storage, Stored},
};
use crate::{
    model::{AppName, ProcessName},
    ops::needed,
    outside,
    plan::images::{Image, Limits, Need, Why, plan},
    render::unit::local_image,
    store::{Store, keys},
};

/// Between two looks at the disk.
const EVERY: Duration = Duration::from_secs(30);
/// Looks between two of what is in use, and of the settings.
const LONG: u32 = 20;
/// Plans in one go, before the disk is left alone for a while.
const ROUNDS: usize = 50;

/// Keeps room until the agent stops.
pub(super) async fn keep<S: Storage>(
    store: Store,
    storage: S,
    paths: Paths,
    stop: CancellationToken,
) {
    let mut room = Room::new(store, storage.clone(), paths);
    let mut looks = 0;
    loop {
        let full = tokio::select! {
            () = stop.cancelled() => return,
            () = storage.filled() => true,
            () = sleep(EVERY) => false,
        };
        if looks % LONG == 0 {
            room.note().await;
        }
        looks += 1;
        if let Err(error) = room.look(full).await {
            warn!(%error, "the disk of images can't be looked after");
        }
    }
}

pub(super) struct Room<S> {
    store: Store,
    storage: S,
    paths: Paths,
    limits: Limits,
    /// The disk was too full at the last look, and is not yet back at the lower limit.
    collecting: bool,
    /// It was said that nothing can be removed.
    said: bool,
    uses: Uses,
}

impl<S: Storage> Room<S> {
    pub(super) fn new(store: Store, storage: S, paths: Paths) -> Self {
        Self {
            uses: Uses::load(paths.image_uses()),
            store,
            storage,
            paths,
            limits: Limits::default(),
            collecting: false,
            said: false,
        }
    }

    /// Reads the settings, and notes which images are in use.
    pub(super) async fn note(&mut self) {
        let prefix = keys::platform_settings();
        if let Ok(listing) = self.store.list(&prefix).await {
            let settings = listing.entries.into_iter().filter_map(|(key, setting)| {
                let name = keys::last_part(&key, prefix.as_str())?;
                Some((name.to_owned(), setting.value))
            });
            self.limits = Limits::of(&settings.collect());
        }
        self.found().await;
    }

    /// Looks at the disk, and removes images if that must be. `full`: somebody has just met its end.
    pub(super) async fn look(&mut self, full: bool) -> Result<(), ImageError> {
        for _ in 0..ROUNDS {
            let disk = self.storage.disk().await?;
            let was = self.collecting || full;
            self.collecting = plan(&[], disk, self.limits, was).collecting;
            if !self.collecting {
                self.said = false;
                break;
            }
            let stored = self.storage.stored().await?;
            let Some(images) = self.images(&stored).await else {
                break;
            };
            let plan = plan(&images, disk, self.limits, was);
            if !self.remove(&stored, &plan.remove).await? {
                if !std::mem::replace(&mut self.said, true) {
                    warn!(
                        percent = disk.percent(),
                        images = stored.len(),
                        "the disk of images is nearly full, and all that are left are needed: make it \
                         larger, or remove what else is on it"
                    );
                }
                break;
            }
        }
        Ok(())
    }

    /// Removes images one by one until the disk has room; says whether anything has gone.
    async fn remove(
        &self,
        stored: &[Stored],
        doomed: &[(String, Why)],
    ) -> Result<bool, ImageError> {
        let mut any = false;
        for (id, why) in doomed {
            let Some(image) = stored.iter().find(|image| image.id == *id) else {
                continue;
            };
            match self.storage.discard(image).await {
                Ok(true) => {
                    any = true;
                    info!(
                        image = %image.names.iter().next().unwrap_or(id), bytes = image.size, ?why,
                        "an image was removed: its disk is nearly full"
                    );
                }
                Ok(false) => debug!(id, "an image stays: somebody has just asked for it"),
                Err(error) => debug!(id, %error, "an image stays"),
            }
            if self.storage.disk().await?.percent() <= self.limits.stop {
                break;
            }
        }
        Ok(any)
    }

    /// What the plan has to know of each image; none when it can't be found out who needs them.
    async fn images(&mut self, stored: &[Stored]) -> Option<Vec<Image>> {
        let found = self.found().await?;
        let paths = self.paths.clone();
        let assigned = reading(move || cache::images(&paths)).await?;
        let mut used = names_of(&found);
        used.extend(assigned.iter().map(|image| local_image(image)));
        self.uses.keep(stored.iter().flat_map(|image| &image.names));
        let here: BTreeSet<AppName> = found
            .iter()
            .filter_map(|found| found.name.parse::<ProcessName>().ok())
            .map(|name| name.app)
            .collect();
        let mut soon: BTreeMap<&AppName, Option<BTreeSet<String>>> = BTreeMap::new();
        for app in &here {
            // What can't be found out is needed.
            let needed = needed::images(&self.store, app).await.ok();
            let local = |images: BTreeSet<String>| images.iter().map(|i| local_image(i)).collect();
            soon.insert(app, needed.map(local));
        }
        let need = |image: &Stored| {
            let owners: Option<BTreeSet<_>> = image.names.iter().map(|name| owner(name)).collect();
            let Some(owners) = owners.filter(|owners| !owners.is_empty()) else {
                return Need::Now;
            };
            if image.containers > 0 || !image.names.is_disjoint(&used) {
                return Need::Now;
            }
            let wanted = owners.iter().any(|(app, _)| match soon.get(app) {
                Some(Some(needed)) => !image.names.is_disjoint(needed),
                Some(None) => true,
                None => false,
            });
            if wanted { Need::Soon } else { Need::Nobody }
        };
        let image = |image: &Stored| Image {
            id: image.id.clone(),
            bytes: image.size,
            last_use: self.uses.last(&image.names),
            need: need(image),
        };
        Some(stored.iter().map(image).collect())
    }

    /// The units of this host; notes that their images are in use.
    async fn found(&mut self) -> Option<Vec<Found>> {
        let paths = self.paths.clone();
        let found = reading(move || files::scan(&paths)).await?;
        self.uses.note(names_of(&found));
        Some(found)
    }
}

/// Reads files where it holds nobody else up.
async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Option<T> {
    match outside::blocking(read).await.ok()? {
        Ok(read) => Some(read),
        Err(error) => {
            warn!(%error, "it can't be told which images are needed: none is removed");
            None
        }
    }
}

/// The names by which podman knows the images of units.
fn names_of(found: &[Found]) -> BTreeSet<String> {
    let images = found.iter().filter_map(|found| found.image.as_deref());
    images.map(local_image).collect()
}

/// When images were last seen in use, in a file: a hint, which may be lost.
struct Uses {
    file: PathBuf,
    seconds: BTreeMap<String, u64>,
}

impl Uses {
    fn load(file: PathBuf) -> Self {
        let read = std::fs::read(&file).ok();
        let seconds = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            file,
            seconds: seconds.unwrap_or_default(),
        }
    }

    fn note(&mut self, names: BTreeSet<String>) {
        if names.is_empty() {
            return;
        }
        let now = u64::try_from(outside::now().as_second()).unwrap_or_default();
        self.seconds.extend(names.into_iter().map(|name| (name, now)));
        self.save();
    }

    /// Forgets the names that no image has any more.
    fn keep<'n>(&mut self, names: impl Iterator<Item = &'n String>) {
        let names: BTreeSet<&String> = names.collect();
        self.seconds.retain(|name, _| names.contains(name));
    }

    fn save(&self) {
        let bytes = serde_json::to_vec(&self.seconds).unwrap_or_default();
        if let Err(error) = write_atomic(&self.file, &bytes, 0o600, Durability::Runtime) {
            debug!(%error, "when images were used last is not kept");
        }
    }

    fn last(&self, names: &BTreeSet<String>) -> Option<u64> {
        names.iter().filter_map(|name| self.seconds.get(name)).max().copied()
    }
}
