//! What a story begins with: users, apps, pushes, settings.
//!
//! - `@user ada [admin]`: `{client:ada}` and `{token:ada}` are hers;
//! - `@app blog ada [bob...]`: an app, its owner and its collaborators;
//! - `@push blog ada [web worker...]`: a pushed build with these process types;
//! - `@dockerfile blog ada [web...]`: the same from a Dockerfile;
//! - `@fail REASON`: why the changes that follow fail; `off` ends it;
//! - `@restarting blog bob`: a restart by bob that never ends (the app must be called `stuck`);
//! - `@logger TEXT...`: a real one that has these words, a line each, of the app `blog`;
//! - `@registries`: two of the platform's, and one of somebody's, which is `{text:registry}`;
//! - `@image REPOSITORY TAG`: an image in the latter; `@pushed` in one of the former;
//! - `@setting TARGET KEY VALUE`: an operator's setting;
//! - `@builder-key KEY`: what v1's builder proves itself by.

use serde_json::json;
use tempfile::TempDir;

use super::holes::Holes;
use crate::{
    controller::testing::Site,
    logger::testing::Logger,
    model::{AppName, ImageKind},
    ops,
    registry::testing::{Registry, config},
    sidecar::wire::Position,
    store::{Key, Store, Txn, keys},
};

/// A controller with what is set up.
pub(in crate::controller::tests) struct Stage {
    site: Site,
    /// Two of the platform's, and one of somebody's.
    registries: Vec<Registry>,
    dir: TempDir,
}

impl Stage {
    pub(in crate::controller::tests) async fn empty() -> Self {
        Self {
            site: Site::start().await,
            registries: Vec::new(),
            dir: tempfile::tempdir().expect("a directory"),
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
            ["setting", target, key, value] => {
                self.put(&keys::setting(target, key), value).await?;
            }
            ["fail", why] => self.put(&keys::platform("testFailure"), why).await?,
            ["builder-key", key] => {
                let at = keys::setting("controller", "builderKey");
                self.put(&at, key).await?;
            }
            ["logger", lines @ ..] => self.logger(lines).await?,
            ["registries"] => {
                let place = |name: &str| self.dir.path().join(name);
                let (store, elsewhere) = (&self.site.store, Store::memory());
                let (one, two, world) = tokio::join!(
                    Registry::start(store, "127.0.0.1", place("one")),
                    Registry::start(store, "127.0.0.2", place("two")),
                    Registry::start(&elsewhere, "127.0.0.3", place("world")),
                );
                let address = world.address.to_string();
                self.registries = vec![one, two, world];
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
        let config = config(json!({ "Cmd": ["serve"] }));
        registry.put(repository, Some(tag), &config).await;
        Ok(())
    }

    /// A logger that has kept these lines of the app `blog`; in place of the one before.
    async fn logger(&self, lines: &[&str]) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let logger = Logger::fresh(folder.path(), "127.0.0.1").await;
        if !lines.is_empty() {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let first = Position::default();
            logger.say("web.1", first, 1_420_070_400, &text).await;
        }
        logger.register(&self.site.store).await;
        // For as long as the story is told.
        tokio::spawn(async move {
            let _kept = (folder, logger);
            std::future::pending::<()>().await;
        });
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
