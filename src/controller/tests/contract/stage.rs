//! What a story begins with: users, apps, pushes, settings.
//!
//! - `@user ada [admin]`: `{client:ada}` and `{token:ada}` are hers;
//! - `@app blog ada [bob...]`: an app, its owner and its collaborators;
//! - `@push blog ada [web worker...]`: a pushed build with these process types;
//! - `@dockerfile blog ada [web...]`: the same from a Dockerfile;
//! - `@fail REASON`: why the changes that follow fail; `off` ends it;
//! - `@restarting blog bob`: a restart by bob that never ends (the app must be called `stuck`);
//! - `@logger`: a real one; `@log blog WORD...`: the platform says these words, a line each;
//! - `@registries`: two of the platform's, and one of somebody's, which is `{text:registry}`;
//! - `@image REPOSITORY TAG`: an image in the latter; `@pushed` in one of the former;
//! - `@set KEY VALUE`: a setting of the platform;
//! - `@builder-key KEY`: what v1's builder proves itself by.

use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::holes::Holes;
use crate::{
    controller::{
        testing::Site,
        tests::images::{self, Registry},
    },
    logger::{
        self,
        app_log::{Event, Limits},
        client::Whose,
    },
    model::{AppName, ImageKind, PartPresence, SCHEMA},
    ops,
    sidecar::wire::Source,
    store::{Key, Txn, keys},
};

/// A controller with what is set up.
pub(in crate::controller::tests) struct Stage {
    site: Site,
    /// Two of the platform's, and one of somebody's.
    registries: Vec<Registry>,
    logger: Option<(TempDir, DropGuard)>,
}

impl Stage {
    pub(in crate::controller::tests) async fn empty() -> Self {
        Self {
            site: Site::start().await,
            registries: Vec::new(),
            logger: None,
        }
    }

    pub(in crate::controller::tests) fn site(&self) -> &Site {
        &self.site
    }

    pub(in crate::controller::tests) async fn set_up(
        &mut self,
        words: &[&str],
        holes: &mut Holes,
    ) -> Result<(), String> {
        match words {
            ["user", name, rest @ ..] => {
                let token = self.site.user(name, rest.contains(&"admin")).await;
                holes.set(&format!("token:{name}"), &token);
            }
            ["app", name, owner, collaborators @ ..] => {
                self.app(name, owner, collaborators).await?;
            }
            ["push", app, by, types @ ..] => {
                self.site.push_types(app, by, ImageKind::Slug, types).await;
            }
            ["dockerfile", app, by, types @ ..] => {
                self.site.push_types(app, by, ImageKind::Image, types).await;
            }
            ["set", key, value] => self.put(&keys::platform(key), value).await?,
            ["fail", why] => self.put(&keys::platform("testFailure"), why).await?,
            ["builder-key", key] => {
                let at = keys::setting("controller", "builderKey");
                self.put(&at, key).await?;
            }
            ["logger"] => self.logger().await?,
            ["log", app, lines @ ..] => self.log(&parse(app)?, lines).await?,
            ["registries"] => {
                self.registries = images::replicas(&self.site.store).await.into();
                let world = Registry::start().await;
                let address = world.address.to_string();
                self.registries.push(world);
                holes.set("text:registry", &address);
                self.put(&keys::setting("registry", "insecure"), &address)
                    .await?;
            }
            ["image", repository, tag] => self.image(2, repository, tag).await?,
            ["pushed", repository, tag] => self.image(1, repository, tag).await?,
            ["restarting", app, by] => {
                let app: AppName = parse(app)?;
                ops::change::restart(&self.site.store, &app, &parse(by)?, None, None)
                    .await
                    .map_err(|e| e.to_string())?;
            }
            _ => return Err("no such set-up".to_owned()),
        }
        Ok(())
    }

    async fn put(&self, key: &Key<String>, value: &str) -> Result<(), String> {
        let txn = Txn::new().put(key, &value.to_owned());
        let done = self.site.store.commit(txn).await;
        done.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn image(&self, at: usize, repository: &str, tag: &str) -> Result<(), String> {
        let registry = self.registries.get(at).ok_or("no @registries")?;
        let config = images::config(json!({ "Cmd": ["serve"] }));
        registry.put(repository, tag, &config).await;
        Ok(())
    }

    async fn logger(&mut self) -> Result<(), String> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let (folder, stop) = (
            tempfile::tempdir().expect("folder"),
            CancellationToken::new(),
        );
        let place = logger::Place {
            lines: "127.0.0.1:0".parse().expect("address"),
            http: free.local_addr().expect("its address"),
            folder: folder.path().to_owned(),
            limits: Limits::default(),
        };
        drop(free);
        let presence = PartPresence {
            schema: SCHEMA,
            id: uuid::Uuid::new_v4(),
            address: place.http.to_string(),
        };
        let bound = logger::bind(&place).await.map_err(|e| e.to_string())?;
        tokio::spawn(logger::serve(bound, place, stop.clone()));
        self.logger = Some((folder, stop.drop_guard()));
        let at = keys::part(logger::PART, "127.0.0.1");
        let done = self.site.store.commit(Txn::new().put(&at, &presence)).await;
        done.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn log(&self, app: &AppName, lines: &[&str]) -> Result<(), String> {
        let store = &self.site.store;
        let record = ops::app::get(store, app).await.map_err(|e| e.to_string())?;
        let whose = Whose::of(app, &record.value);
        for line in lines {
            let event = Event {
                id: uuid::Uuid::new_v4(),
                time_ms: u64::try_from(Timestamp::now().as_millisecond()).expect("after 1970"),
                about: Source::controller(),
                text: format!("{line}\n").into_bytes(),
            };
            let told = logger::client::event(store, &whose, &event);
            told.await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    async fn app(&self, name: &str, owner: &str, collaborators: &[&str]) -> Result<(), String> {
        let (store, name): (_, AppName) = (&self.site.store, parse(name)?);
        ops::app::create(store, &parse(owner)?, Some(name.clone()))
            .await
            .map_err(|e| e.to_string())?;
        for collaborator in collaborators {
            let who: crate::model::Username = parse(collaborator)?;
            ops::app::update(store, &name, |app| {
                app.collaborators.insert(who.clone());
                Ok(())
            })
            .await
            .map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| e.to_string())
}
