//! What a story begins with: users, apps, pushes, settings.
//!
//! - `@user ada [admin]`: `{client:ada}` and `{token:ada}` are hers;
//! - `@app blog ada [bob...]`: an app, its owner and its collaborators;
//! - `@push blog ada [web worker...]`: a pushed build with these process types;
//! - `@dockerfile blog ada [web...]`: the same from a Dockerfile;
//! - `@fail REASON`: why the changes that follow fail; `off` ends it;
//! - `@restarting blog bob`: a restart by bob that never ends (the app must be called `stuck`);
//! - `@logger TEXT...`: a logger that has these words, a line each, as every app's log;
//! - `@set KEY VALUE`: a setting of the platform;
//! - `@builder-key KEY`: what v1's builder proves itself by;
//! - `@image NAME`: an image that the registry has.

use axum::extract::Query;
use tokio::net::TcpListener;

use super::holes::Holes;
use crate::{
    controller::testing::Site,
    logger,
    model::{AppName, ImageKind, PartPresence, SCHEMA},
    ops,
    store::{Key, Txn, keys},
};

/// A controller with what is set up.
pub(in crate::controller::tests) struct Stage {
    site: Site,
}

impl Stage {
    pub(in crate::controller::tests) async fn empty() -> Self {
        Self {
            site: Site::start().await,
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
            ["set", key, value] => self.put(&keys::setting("controller", key), value).await?,
            ["fail", why] => self.put(&keys::platform("testFailure"), why).await?,
            ["builder-key", key] => {
                let at = keys::setting("controller", "builderKey");
                self.put(&at, key).await?;
            }
            ["logger", lines @ ..] => self.logger(lines).await?,
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

    /// A logger as the controller sees it; in place of the one before.
    async fn logger(&self, lines: &[&str]) -> Result<(), String> {
        let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
        let read = async move |Query(query): Query<std::collections::BTreeMap<String, String>>| {
            let most = query.get("lines").and_then(|n| n.parse().ok());
            let first = lines.len().saturating_sub(most.unwrap_or(usize::MAX));
            match lines[first..].concat() {
                text if text.is_empty() => (http::StatusCode::NO_CONTENT, text),
                text => (http::StatusCode::OK, text),
            }
        };
        let forget = async || http::StatusCode::NO_CONTENT;
        let route = axum::routing::get(read).post(forget).delete(forget);
        let router = axum::Router::new().route("/logs/{app}", route);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let presence = PartPresence {
            schema: SCHEMA,
            id: uuid::Uuid::new_v4(),
            address: listener.local_addr().expect("address").to_string(),
        };
        tokio::spawn(async move { axum::serve(listener, router).await });
        let at = keys::part(logger::PART, "127.0.0.1");
        let done = self.site.store.commit(Txn::new().put(&at, &presence)).await;
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
