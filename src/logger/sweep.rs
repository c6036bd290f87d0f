//! Forgets the logs of apps that are no more, also of those that went while the logger was away.
//!
//! Nobody has to tell: the logs on disk are held against the apps in the store, at the start, when an
//! app comes or goes, when a log begins, and now and then. A name that belongs to another app by now
//! is told by the app's uuid.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    client::Whose,
    lines::blocking,
    shelf::{Book, Shelf},
};
use crate::{
    model::AppName,
    store::{Store, keys},
    telemetry::chain,
};

/// Between two looks at everything.
const EVERY: Duration = Duration::from_secs(600);

/// Looks at everything once, before the first line is taken: a log that has another owner by now is
/// cleared while none of that one's lines are in it.
pub async fn first(store: &Store, shelf: &Arc<Shelf>) {
    all(store, shelf).await;
    shelf.opened();
}

/// Keeps looking until `stop`.
pub async fn run(store: Store, shelf: Arc<Shelf>, stop: CancellationToken) {
    // A small record of each app that comes and goes with it.
    let routes = keys::routes();
    let mut feed = store.follow(routes.as_str());
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let names: Option<Vec<AppName>> = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => None,
            name = shelf.begun() => Some(vec![name]),
            update = feed.next() => Some(
                update
                    .changes
                    .iter()
                    .filter_map(|change| keys::last_part(&change.key, routes.as_str())?.parse().ok())
                    .collect(),
            ),
        };
        match names {
            Some(names) => {
                for name in names {
                    one(&store, &shelf, &name).await;
                }
            }
            None => all(&store, &shelf).await,
        }
    }
}

async fn all(store: &Store, shelf: &Arc<Shelf>) {
    let listed = {
        let shelf = Arc::clone(shelf);
        blocking(move || shelf.names()).await
    };
    match listed {
        Ok(names) => {
            for name in names {
                one(store, shelf, &name).await;
            }
        }
        Err(error) => warn!(error = chain(&error), "the logs on disk can't be listed"),
    }
}

/// Holds one log against its app.
async fn one(store: &Store, shelf: &Arc<Shelf>, name: &AppName) {
    let found = {
        let (shelf, name) = (Arc::clone(shelf), name.clone());
        blocking(move || shelf.existing(&name)).await
    };
    let book: Arc<Book> = match found {
        Ok(Some(book)) => book,
        Ok(None) => return,
        Err(error) => {
            warn!(app = %name, error = chain(&error), "a log can't be opened");
            return;
        }
    };
    // Before the store is asked: an app that is created meanwhile keeps what it has said.
    let owner = book.owner();
    let app = match store.get(&keys::app(name)).await {
        Ok(app) => app,
        Err(error) => {
            // The next look will tell.
            debug!(app = %name, error = chain(&error), "whose log this is can't be asked");
            return;
        }
    };
    let shelf = Arc::clone(shelf);
    let whose = app.map(|app| Whose::of(name, &app.value));
    let swept = blocking(move || match whose {
        Some(whose) => shelf.claim(&book, whose.owner).map(|_| false),
        None => shelf.bury(&book, owner),
    });
    match swept.await {
        Ok(true) => info!(app = %name, "the log of an app that is no more was deleted"),
        Ok(false) => {}
        Err(error) => warn!(app = %name, error = chain(&error), "a log can't be cleared"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        logger::{
            app_log::{Event, Limits},
            query::Query,
        },
        model::Username,
        ops,
        store::Txn,
    };

    struct Bench {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().expect("dir"),
                store: Store::memory(),
            }
        }

        fn shelf(&self) -> Arc<Shelf> {
            let shelf = Shelf::open(self.dir.path().join("logs"), Limits::default());
            Arc::new(shelf.expect("shelf"))
        }

        async fn create(&self) {
            let owner: Username = "ada".parse().expect("user");
            let name = Some("blog".parse().expect("name"));
            ops::app::create(&self.store, &owner, name)
                .await
                .expect("created");
        }

        async fn destroy(&self) {
            let name = "blog".parse().expect("name");
            let txn = Txn::new()
                .delete_prefix(&keys::app_tree(&name))
                .delete(&keys::route(&name))
                .delete(&keys::app(&name));
            self.store.commit(txn).await.expect("destroyed");
        }
    }

    fn say(shelf: &Shelf, text: &str) {
        let book = shelf.book(&"blog".parse().expect("name")).expect("book");
        let event = Event {
            id: uuid::Uuid::new_v4(),
            time_ms: 0,
            about: "web.1".parse().expect("source"),
            text: text.into(),
        };
        shelf.event(&book, &event).expect("kept");
    }

    fn is_empty(shelf: &Shelf) -> bool {
        let query = Query {
            lines: 10,
            follow: false,
            of: None,
            since_ms: None,
        };
        let book = shelf
            .existing(&"blog".parse().expect("name"))
            .expect("files");
        book.is_none_or(|book| !book.read(query, None).expect("read").any)
    }

    #[tokio::test]
    async fn a_log_goes_with_its_app_also_while_the_logger_was_away() {
        let bench = Bench::new();
        bench.create().await;
        let shelf = bench.shelf();
        say(&shelf, "one\n");
        first(&bench.store, &shelf).await;
        assert!(!is_empty(&shelf), "its app is there");
        drop(shelf);

        // The app goes, and another one gets its name.
        bench.destroy().await;
        bench.create().await;
        let shelf = bench.shelf();
        first(&bench.store, &shelf).await;
        assert!(is_empty(&shelf), "the next owner finds nothing");
        say(&shelf, "two\n");
        first(&bench.store, &shelf).await;
        assert!(!is_empty(&shelf), "and keeps what is its own");
        drop(shelf);

        bench.destroy().await;
        let shelf = bench.shelf();
        first(&bench.store, &shelf).await;
        assert!(is_empty(&shelf), "nobody's any more");
    }

    #[tokio::test]
    async fn an_app_that_goes_takes_its_log_along() {
        let bench = Bench::new();
        bench.create().await;
        let shelf = bench.shelf();
        let stop = CancellationToken::new();
        first(&bench.store, &shelf).await;
        let task = tokio::spawn(run(bench.store.clone(), shelf.clone(), stop.clone()));
        say(&shelf, "one\n");
        bench.destroy().await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !is_empty(&shelf) {
            assert!(tokio::time::Instant::now() < deadline, "the log stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A late line of a process that is no more begins a log that is nobody's.
        say(&shelf, "late\n");
        while !is_empty(&shelf) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the late line stays"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        task.await.expect("ended");
    }
}
