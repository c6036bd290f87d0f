//! Creating, finding and destroying apps.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    OpsError, TRIES,
    audit::{self, Actor},
    names,
};
use crate::{
    model::*,
    outside,
    store::{CommitError, Store, Txn, Versioned, keys},
};

/// How long a destruction may take: each process gets its time to drain and stop.
const DESTROY_LIMIT: Duration = Duration::from_secs(120);

/// Creates an app with its release v1 (no build, empty config).
///
/// # Errors
/// When the name is taken, or the store fails.
pub async fn create(
    store: &Store,
    owner: impl Into<Actor>,
    name: Option<AppName>,
) -> Result<(AppName, App), OpsError> {
    let by = owner.into();
    for _ in 0..TRIES {
        let chosen = name.clone().unwrap_or_else(|| {
            let random = outside::uuid().as_u64_pair();
            names::app_name(random.0 ^ random.1.rotate_left(17))
        });
        let (app, txn) = plan_create(&by.user, &chosen, outside::now());
        let note = by.note(Action::Create, "").release(app.latest);
        match store.commit(txn.and(note.of_app(&chosen))).await {
            Ok(_) => return Ok((chosen, app)),
            Err(CommitError::Conflict) if name.is_some() => return Err(OpsError::Taken(chosen)),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(OpsError::Contended("the choice of a random name".into()))
}

fn plan_create(owner: &Username, name: &AppName, now: Timestamp) -> (App, Txn) {
    let version = ReleaseNumber(1);
    let config = Config {
        schema: SCHEMA,
        uuid: outside::uuid(),
        app: name.clone(),
        owner: owner.clone(),
        values: BTreeMap::new(),
        memory: BTreeMap::new(),
        cpu: BTreeMap::new(),
        tags: BTreeMap::new(),
        whitelist: Whitelist::default(),
        created: now,
    };
    let release = Release {
        schema: SCHEMA,
        uuid: outside::uuid(),
        app: name.clone(),
        owner: owner.clone(),
        version,
        summary: format!("{owner} created initial release"),
        config: config.uuid,
        build: None,
        created: now,
    };
    let app = App {
        schema: SCHEMA,
        uuid: outside::uuid(),
        owner: owner.clone(),
        created: now,
        updated: now,
        latest: version,
        active: version,
        structure: Structure::new(),
        collaborators: Default::default(),
        single: Default::default(),
        last_rollout: None,
        policy: None,
        destroying: false,
    };
    let txn = Txn::new()
        .absent(&keys::app(name))
        .put(&keys::app(name), &app)
        .put(&keys::config(name, config.uuid), &config)
        .put(&keys::release(name, version), &release)
        .put(
            &keys::outcome(name, version),
            &super::release::succeeded(version, now),
        )
        .put(
            &keys::route(name),
            &Route {
                schema: SCHEMA,
                ..Route::default()
            },
        );
    (app, txn)
}

/// Reads an app.
///
/// # Errors
/// When there is no such app, or the store fails.
pub async fn get(store: &Store, name: &AppName) -> Result<Versioned<App>, OpsError> {
    let found = store.get(&keys::app(name)).await?;
    found.ok_or_else(|| OpsError::NotFound(format!("the app {name}")))
}

/// Reads all apps, in the order of their names.
///
/// # Errors
/// When the store fails.
pub async fn list(store: &Store) -> Result<Vec<(AppName, App)>, OpsError> {
    let prefix = keys::apps_tree();
    let (entries, _) = store.list_raw(prefix.as_str()).await?;
    Ok(entries
        .into_iter()
        .filter_map(|(key, entry)| {
            let name: AppName = keys::last_part(&key, prefix.as_str())?.parse().ok()?;
            Some((name, entry.decode().ok()?))
        })
        .collect())
}

/// Changes the app's record by `change`, which may refuse.
///
/// # Errors
/// What `change` says; when there is no such app, or the store fails.
pub async fn update(
    store: &Store,
    name: &AppName,
    change: impl Fn(&mut App) -> Result<(), OpsError>,
) -> Result<App, OpsError> {
    update_with(store, name, |app| change(app).map(|()| Txn::new())).await
}

/// Changes the app's record by `change`, which may refuse, and says what else is changed in the same
/// transaction: an entry of the audit trail, mostly.
///
/// # Errors
/// What `change` says; when there is no such app, or the store fails.
pub async fn update_with(
    store: &Store,
    name: &AppName,
    change: impl Fn(&mut App) -> Result<Txn, OpsError>,
) -> Result<App, OpsError> {
    let key = keys::app(name);
    for _ in 0..TRIES {
        let found = get(store, name).await?;
        let mut app = found.value;
        let more = change(&mut app)?;
        let noted = !more.is_empty();
        app.updated = outside::now();
        let txn = Txn::new()
            .unchanged(&key, found.mod_revision)
            .put(&key, &app)
            .and(more);
        match store.commit(txn).await {
            Ok(_) => {
                if noted {
                    audit::prune_app(store, name).await;
                }
                return Ok(app);
            }
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(OpsError::Contended(format!("the app {name}")))
}

/// Destroys an app: the leader drains and stops its processes and removes all that belongs to it;
/// this waits until its record is gone.
///
/// # Errors
/// When there is no such app, the store fails, or it takes too long.
pub async fn destroy(store: &Store, name: &AppName, by: impl Into<Actor>) -> Result<(), OpsError> {
    let by = by.into();
    let key = keys::app(name);
    let mut feed = store.follow(key.as_str());
    // In the platform's trail: the app's own goes with it.
    let note = by.note(Action::Destroy, "");
    update_with(store, name, |app| {
        let first = !std::mem::replace(&mut app.destroying, true);
        let note = note
            .clone()
            .detail(format!("owner {}, {}", app.owner, app.latest));
        Ok(if first {
            note.of_platform(Some(name))
        } else {
            Txn::new()
        })
    })
    .await?;
    audit::prune_platform(store).await;
    let gone = async {
        loop {
            let update = feed.next().await;
            let touched = update
                .changes
                .iter()
                .any(|c| c.key == key.as_str() && c.entry.is_none());
            if touched && store.get(&key).await?.is_none() {
                return Ok::<(), OpsError>(());
            }
        }
    };
    match tokio::time::timeout(DESTROY_LIMIT, gone).await {
        Ok(result) => result,
        Err(_) => Err(OpsError::Timeout {
            what: format!("destroying {name}"),
            limit_secs: DESTROY_LIMIT.as_secs(),
        }),
    }
}
