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
        self.seconds
            .extend(names.into_iter().map(|name| (name, now)));
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
        names
            .iter()
            .filter_map(|name| self.seconds.get(name))
            .max()
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use uuid::Uuid;

    use super::*;
    use crate::{
        agent::{
            runtime::{Podman, Runtime as _},
            tests::stable::Disk,
        },
        model::{
            Build, ImageKind, Outcome, OutcomeResult, Release, ReleaseNumber, SCHEMA, Username,
        },
        ops::app,
        plan::images,
        store::Txn,
    };

    const SIZE: usize = 6 << 20;

    /// A storage of podman's own, on a small disk of its own.
    struct Host {
        disk: Disk,
        paths: Paths,
        store: Store,
        podman: Podman,
        options: Vec<String>,
    }

    impl Host {
        fn new() -> Option<Self> {
            let disk = Disk::mount("40m")?;
            let at = |name: &str| disk.path().join(name).display().to_string();
            let options = [
                ["--root".to_owned(), at("graph")],
                ["--runroot".to_owned(), at("run")],
                ["--storage-driver".to_owned(), "vfs".to_owned()],
            ]
            .concat();
            let store = Store::memory();
            let paths = Paths::below(disk.path());
            paths.prepare().expect("folders");
            Some(Self {
                podman: Podman::new(store.clone()).with_options(&options),
                disk,
                paths,
                store,
                options,
            })
        }

        /// Puts an image there, of bytes that no other has.
        fn import(&self, name: &str) {
            let (tree, tar) = (
                tempfile::tempdir().expect("dir"),
                self.disk.path().join("tar"),
            );
            let mut bytes = vec![0; SIZE];
            getrandom::fill(&mut bytes).expect("bytes");
            std::fs::write(tree.path().join("blob"), bytes).expect("written");
            let mut tarring = Command::new("tar");
            tarring
                .arg("-cf")
                .arg(&tar)
                .arg("-C")
                .arg(tree.path())
                .arg(".");
            assert!(tarring.status().expect("tar").success());
            let imported = Command::new("podman")
                .args(&self.options)
                .args(["import", "--quiet"])
                .arg(&tar)
                .arg(name)
                .output()
                .expect("podman");
            assert!(imported.status.success(), "{imported:?}");
            std::fs::remove_file(tar).expect("removed");
        }

        fn names(&self) -> BTreeSet<String> {
            let listed = Command::new("podman")
                .args(&self.options)
                .args(["images", "--format", "{{.Repository}}:{{.Tag}}"])
                .output()
                .expect("podman");
            let text = String::from_utf8(listed.stdout).expect("text");
            text.lines().map(str::to_owned).collect()
        }

        fn room(&self) -> Room<Podman> {
            Room::new(self.store.clone(), self.podman.clone(), self.paths.clone())
        }

        async fn limits(&self, start: u32, stop: u32) {
            let set = |name, value: u32| (keys::platform(name), value.to_string());
            let (a, b) = (set(images::START, start), set(images::STOP, stop));
            let txn = Txn::new().put(&a.0, &a.1).put(&b.0, &b.1);
            self.store.commit(txn).await.expect("stored");
        }

        /// Makes an app with two releases that succeeded, of these images.
        async fn app(&self, name: &AppName, id: impl Fn(Uuid) -> [String; 2]) -> [String; 2] {
            let owner: Username = "ada".parse().expect("user");
            let made = app::create(&self.store, &owner, Some(name.clone())).await;
            let uuid = made.expect("made").1.uuid;
            let mut record = self
                .store
                .get(&keys::app(name))
                .await
                .expect("read")
                .expect("there")
                .value;
            record.active = ReleaseNumber(3);
            let mut txn = Txn::new().put(&keys::app(name), &record);
            let images = id(uuid);
            for (version, image) in (2..).map(ReleaseNumber).zip(&images) {
                let (build, config) = (Uuid::new_v4(), Uuid::new_v4());
                let created = jiff::Timestamp::UNIX_EPOCH;
                txn = txn
                    .put(
                        &keys::release(name, version),
                        &Release {
                            schema: SCHEMA,
                            uuid: Uuid::new_v4(),
                            app: name.clone(),
                            owner: owner.clone(),
                            version,
                            summary: String::new(),
                            config,
                            build: Some(build),
                            created,
                        },
                    )
                    .put(
                        &keys::outcome(name, version),
                        &Outcome {
                            schema: SCHEMA,
                            version,
                            result: OutcomeResult::Succeeded,
                            reason: None,
                            log: Vec::new(),
                            receipt: None,
                            finished: created,
                        },
                    )
                    .put(
                        &keys::build(name, build),
                        &Build {
                            source: None,
                            schema: SCHEMA,
                            uuid: build,
                            app: name.clone(),
                            owner: owner.clone(),
                            image: image.clone(),
                            kind: ImageKind::Slug,
                            port: 5000,
                            sha: String::new(),
                            procfile: BTreeMap::new(),
                            dockerfile: false,
                            created,
                        },
                    );
            }
            self.store.commit(txn).await.expect("stored");
            images
        }
    }

    #[tokio::test]
    async fn podmans_storage_stays_below_the_limit() {
        let Some(host) = Host::new() else { return };
        let blog: AppName = "blog".parse().expect("app");
        let digest = |n: u8| format!("sha256:{}", format!("{n:x}").repeat(64));
        let image = |app: &str, uuid: Uuid, n: u8| format!("{app}/{uuid}@{}", digest(n));
        let [rollback, active] = host
            .app(&blog, |uuid| {
                [image("blog", uuid, 1), image("blog", uuid, 2)]
            })
            .await;
        let (_, uuid) = owner(&local_image(&active)).expect("its owner");
        let (older, shop) = (image("blog", uuid, 3), image("shop", Uuid::new_v4(), 4));
        let stack = "localhost/deis/stack:latest".to_owned();
        for image in [&rollback, &active, &older, &shop] {
            host.import(&local_image(image));
        }
        host.import(&stack);
        // The active release runs; so did the older one before it, later than the rollback's.
        let unit = |image: &str| {
            let text = format!(
                "[X-Deis]\nX-Deis-Uuid={}\nX-Deis-Image={image}\n",
                Uuid::nil()
            );
            std::fs::write(host.paths.unit("blog_v3.web.1.service"), text).expect("written");
        };
        let mut room = host.room();
        unit(&older);
        room.note().await;
        unit(&active);
        room.note().await;
        let all = host.names();
        assert_eq!(all.len(), 5, "{all:?}");

        // There is room as long as nobody says otherwise, or is about to need them.
        host.limits(90, 80).await;
        room.note().await;
        room.look(true).await.expect("looked");
        assert_eq!(host.names(), all);
        host.limits(60, 57).await;
        room.note().await;
        for image in [&older, &shop] {
            host.podman.ensure_image(image).await.expect("it is there");
        }
        let stored = host.podman.stored().await.expect("listed");
        let of = |image: &str| {
            let name = local_image(image);
            stored
                .iter()
                .find(|stored| stored.names.contains(&name))
                .expect("stored")
        };
        assert!(!host.podman.discard(of(&older)).await.expect("asked"));
        assert_eq!(host.names(), all);

        // First what nobody needs: the one that never ran here before the one that did.
        host.podman.forget_who_asked().await;
        room.look(false).await.expect("looked");
        let kept = |images: &[&String]| {
            let names = images.iter().map(|image| local_image(image));
            names.chain([stack.clone()]).collect::<BTreeSet<_>>()
        };
        assert_eq!(host.names(), kept(&[&rollback, &active]));
        // Then what a rollback needs, and never what runs or is no app's.
        host.limits(20, 10).await;
        room.note().await;
        room.look(false).await.expect("looked");
        assert_eq!(host.names(), kept(&[&active]));
        assert!(room.said, "that nothing more can go");
        // What is gone is pulled again when it is needed: nobody believes that it is there.
        let missing = host.podman.ensure_image(&rollback).await.expect_err("gone");
        assert!(matches!(missing, ImageError::NoRegistry), "{missing}");
    }
}
