//! When apps may have gone, for whoever keeps something of theirs: repositories, images, logs.
//!
//! Nobody tells them to remove it. Each looks by itself: at its start, whenever an app goes, and now
//! and then; so it does not matter who was away when the app was destroyed. What is there is listed
//! first and the apps after it: what no app owns then has been an app's that is gone, for an app is
//! in etcd before it has anything.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep, sleep};
use uuid::Uuid;

use crate::{
    model::{App, AppName, Record as _},
    store::{Feed, Store, StoreError, keys},
};

/// Between two looks when nothing goes.
const EVERY: Duration = Duration::from_secs(600);
/// What a process still writes, or a push that is cut off, comes within this time.
const LATE: Duration = Duration::from_secs(15);

/// Tells when to look.
#[derive(Debug)]
pub struct Gone {
    feed: Feed,
    next: Pin<Box<Sleep>>,
}

impl Gone {
    /// Tells once at first.
    #[must_use]
    pub fn follow(store: &Store) -> Self {
        Self {
            // One small record of each app, deleted with it.
            feed: store.follow(keys::routes().as_str()),
            next: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// Returns when it is time to look. Cancel safe.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                () = self.next.as_mut() => {
                    self.look_in(EVERY);
                    return;
                }
                update = self.feed.next() => {
                    if update.changes.iter().any(|change| change.entry.is_none()) {
                        self.look_in(LATE);
                        return;
                    }
                }
            }
        }
    }

    /// Tells again after a while: for a look that failed.
    pub fn look_in(&mut self, wait: Duration) {
        self.next.as_mut().reset(Instant::now() + wait);
    }
}

/// Whether an app is gone; a new one of the same name is another.
///
/// # Errors
/// When the store can't be asked, or its record can't be read: then it is not gone.
pub async fn is_gone(store: &Store, name: &AppName, id: Uuid) -> Result<bool, StoreError> {
    let found = store.get(&keys::app(name)).await?;
    Ok(found.is_none_or(|app| app.value.uuid != id))
}

/// All apps that are there.
///
/// # Errors
/// When the store can't be asked, or one of their records can't be read.
pub async fn living(store: &Store) -> Result<BTreeMap<AppName, Uuid>, StoreError> {
    let prefix = keys::apps_tree();
    let (entries, _) = store.list_raw(prefix.as_str()).await?;
    let mut apps = BTreeMap::new();
    for (key, entry) in entries {
        let Some(name) = keys::last_part(&key, prefix.as_str()).filter(|rest| !rest.contains('/'))
        else {
            continue;
        };
        let unreadable = |reason: String| StoreError::Record {
            key: key.clone(),
            reason,
        };
        let name: AppName = name.parse().map_err(|e| unreadable(format!("{e}")))?;
        let app = App::decode(&entry.value).map_err(|e| unreadable(e.to_string()))?;
        apps.insert(name, app.uuid);
    }
    Ok(apps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ops::app,
        store::{Key, Txn},
    };

    #[tokio::test]
    async fn an_app_of_the_same_name_is_another() {
        let store = Store::memory();
        let name: AppName = "blog".parse().expect("a name");
        let owner = "ada".parse().expect("a name");
        let (_, first) = app::create(&store, &owner, Some(name.clone()))
            .await
            .expect("made");
        assert_eq!(
            is_gone(&store, &name, first.uuid).await.expect("asked"),
            false
        );
        let txn = Txn::new()
            .delete(&keys::app(&name))
            .delete(&keys::route(&name));
        store.commit(txn).await.expect("deleted");
        assert_eq!(
            is_gone(&store, &name, first.uuid).await.expect("asked"),
            true
        );
        let (_, second) = app::create(&store, &owner, Some(name.clone()))
            .await
            .expect("made");
        assert_eq!(
            is_gone(&store, &name, first.uuid).await.expect("asked"),
            true
        );
        assert_eq!(
            is_gone(&store, &name, second.uuid).await.expect("asked"),
            false
        );
        let want = BTreeMap::from([(name.clone(), second.uuid)]);
        assert_eq!(living(&store).await.expect("listed"), want);

        // What can't be read is not gone.
        let key: Key<String> = keys::setting("apps", "blog");
        let txn = Txn::new().put(&key, &"{}".to_owned());
        store.commit(txn).await.expect("broken");
        assert!(is_gone(&store, &name, first.uuid).await.is_err());
        assert!(living(&store).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn it_tells_at_first_and_of_each_that_goes() {
        let store = Store::memory();
        let name: AppName = "blog".parse().expect("a name");
        let owner = "ada".parse().expect("a name");
        let mut gone = Gone::follow(&store);
        gone.next().await;
        let begun = Instant::now();
        app::create(&store, &owner, Some(name.clone()))
            .await
            .expect("made");
        let delete = async {
            sleep(Duration::from_secs(60)).await;
            let txn = Txn::new()
                .delete(&keys::app(&name))
                .delete(&keys::route(&name));
            store.commit(txn).await.expect("deleted");
        };
        tokio::join!(gone.next(), delete);
        assert!(begun.elapsed() < EVERY, "{:?}", begun.elapsed());
        let begun = Instant::now();
        gone.next().await;
        assert_eq!(
            begun.elapsed().as_secs(),
            LATE.as_secs(),
            "for what comes late"
        );
        gone.next().await;
        assert!(begun.elapsed() >= EVERY);
    }
}
