//! What a story begins with: users, apps, pushes, settings.
//!
//! - `@user ada [admin]`: `{client:ada}` and `{token:ada}` are hers;
//! - `@app blog ada [bob...]`: an app, its owner and its collaborators;
//! - `@push blog ada [web worker...]`: a pushed build with these process types;
//! - `@dockerfile blog ada [web...]`: the same from a Dockerfile;
//! - `@fail create|start|health|off`: how the changes that follow fail;
//! - `@restarting blog bob`: a restart by bob that never ends (the app must be called `stuck`);
//! - `@run NAME`: what the next one-off process does;
//! - `@logger blog TEXT...`: a logger that has these words as the log of blog; `@logger` one without;
//! - `@set key value`: a setting of the platform; `@builder-key KEY`: what v1's builder proves itself by.

use crate::{
    controller::testing::Site,
    model::{AppName, ImageKind},
    ops,
    store::{Key, Txn, keys},
};

use super::holes::Holes;

/// A controller with what is set up.
pub(super) struct Stage {
    site: Site,
}

impl Stage {
    pub(super) async fn empty() -> Self {
        Self {
            site: Site::start().await,
        }
    }

    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    pub(super) async fn set_up(&mut self, words: &[&str], holes: &mut Holes) -> Result<(), String> {
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
            ["fail", how] => self.put(&keys::platform("testFailure"), how).await?,
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
