//! An app that its owner takes out of service: routers answer with a page, and its processes run on.

use super::{
    OpsError, TRIES, app,
    audit::{self, Actor},
};
use crate::{
    model::*,
    store::{CommitError, Store, Txn, keys},
};

/// Longest page, in bytes: every router holds it in memory.
pub const PAGE_MAX: usize = 16 << 10;

/// What routers are told of an app now.
///
/// # Errors
/// When the store fails.
pub async fn get(store: &Store, name: &AppName) -> Result<Route, OpsError> {
    let route = store.get(&keys::route(name)).await?;
    Ok(route.map_or_else(Route::new, |route| route.value))
}

/// Takes an app out of service, with a page of its owner's or the platform's words, or back into it.
///
/// # Errors
/// When there is no such app, the page is too long, or the store fails.
pub async fn set(
    store: &Store,
    name: &AppName,
    by: impl Into<Actor>,
    on: bool,
    page: Option<String>,
) -> Result<Route, OpsError> {
    if let Some(page) = page.as_ref().filter(|page| page.len() > PAGE_MAX) {
        let (has, most) = (page.len(), PAGE_MAX);
        let why =
            format!("the page has {has} bytes, more than {most}; lead to a larger one from it");
        return Err(OpsError::Invalid(why));
    }
    let by = by.into();
    let key = keys::route(name);
    for _ in 0..TRIES {
        let app = app::get(store, name).await?;
        if app.value.destroying {
            return Err(OpsError::Destroying(name.clone()));
        }
        let there = store.get(&key).await?;
        let base = Txn::new().present(&keys::app(name));
        let (base, route) = match there {
            Some(there) => (base.unchanged(&key, there.mod_revision), there.value),
            None => (base.absent(&key), Route::new()),
        };
        let next = Route {
            maintenance: on,
            page: page.clone().filter(|_| on),
            ..route.clone()
        };
        if next == route {
            return Ok(next);
        }
        let what = match (on, &page) {
            (false, _) => "off",
            (true, None) => "on",
            (true, Some(_)) => "on, with a page",
        };
        let note = by.note(Action::Maintenance, what);
        match audit::commit(store, name, base.put(&key, &next), note).await {
            Ok(_) => return Ok(next),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(OpsError::Contended(format!("the route of {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn maintenance_is_on_until_it_is_off_and_touches_nothing_else() {
        let store = Store::memory();
        let (name, user): (AppName, Username) =
            ("blog".parse().expect("app"), "ada".parse().expect("user"));
        let set = async |on, page: Option<&str>| {
            let page = page.map(str::to_owned);
            set(&store, &name, &user, on, page).await
        };
        assert!(matches!(set(true, None).await, Err(OpsError::NotFound(_))));
        app::create(&store, &user, Some(name.clone()))
            .await
            .expect("created");
        let whitelist: Whitelist = "192.0.2.7:office".parse().expect("list");
        let route = Route {
            whitelist: whitelist.clone(),
            ..Route::new()
        };
        let put = Txn::new().put(&keys::route(&name), &route);
        store.commit(put).await.expect("committed");

        let on = set(true, Some("<h1>Back soon</h1>")).await.expect("on");
        assert_eq!(
            (on.maintenance, on.page.as_deref()),
            (true, Some("<h1>Back soon</h1>"))
        );
        assert_eq!(on.whitelist, whitelist);
        assert_eq!(get(&store, &name).await.expect("read"), on);
        let bare = set(true, None).await.expect("on");
        assert_eq!((bare.maintenance, bare.page), (true, None));
        let off = set(false, Some("x")).await.expect("off");
        assert_eq!(off, route);
        let long = "x".repeat(PAGE_MAX + 1);
        assert!(matches!(
            set(true, Some(&long)).await,
            Err(OpsError::Invalid(_))
        ));
    }
}
