//! What users do, by the calls that the controller makes for them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use deis::{
    model::{AppName, ImageKind, OutcomeResult, ProcessType, Username},
    ops::{self, change::Change, release::NewBuild},
    store::Store,
};
use tokio::time::sleep;

/// How long a change may take before the bench gives up.
const LIMIT: Duration = Duration::from_secs(600);

fn user() -> Username {
    "bench".parse().expect("a user")
}

fn web() -> ProcessType {
    "web".parse().expect("a type")
}

/// The bench's app of this number.
pub fn name(number: usize) -> AppName {
    format!("app{number}").parse().expect("a name")
}

async fn ended(store: &Store, app: &AppName, change: Change) {
    let Some(rollout) = change.rollout else {
        return;
    };
    let ended = ops::follow::wait(store, app, rollout, LIMIT, &mut |_| {})
        .await
        .expect("the change ends");
    assert_eq!(
        ended.result,
        OutcomeResult::Succeeded,
        "{app}: {:?}",
        ended.reason
    );
}

/// A push, as far as etcd sees it; ends when it is rolled out.
pub async fn deploy(store: &Store, app: &AppName) -> Duration {
    let begun = Instant::now();
    let new = NewBuild {
        image: format!("{app}/bench@sha256:{:064x}", 7),
        source: None,
        kind: ImageKind::Slug,
        port: 5000,
        sha: "0123456789abcdef".into(),
        procfile: BTreeMap::from([(web(), "serve".to_owned())]),
        dockerfile: false,
    };
    let change = ops::change::deploy(store, app, &user(), &new, &mut |_| {})
        .await
        .expect("deployed");
    ended(store, app, change).await;
    begun.elapsed()
}

/// A new app with one process.
pub async fn create(store: &Store, app: &AppName) {
    ops::app::create(store, &user(), Some(app.clone()))
        .await
        .expect("created");
    deploy(store, app).await;
}

/// Scales it, and waits until that has come about.
pub async fn scale(store: &Store, app: &AppName, number: u32) -> Duration {
    let begun = Instant::now();
    let wanted = BTreeMap::from([(web(), number)]);
    let change = loop {
        // The controller would answer 503, and the user asks again.
        match ops::change::scale(store, app, &user(), &wanted).await {
            Ok(change) => break change,
            Err(error) => assert!(begun.elapsed() < LIMIT, "{app}: scaled: {error}"),
        }
        sleep(Duration::from_millis(200)).await;
    };
    ended(store, app, change).await;
    begun.elapsed()
}
