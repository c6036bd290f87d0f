//! Images of apps that are gone, out of podman's storage.
//!
//! The agent watches its own assignments and nothing else, so it looks when a process has left this
//! host, a few times, and otherwise rarely.

use std::{collections::BTreeSet, time::Duration};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use uuid::Uuid;

use super::runtime::Runtime;
use crate::{
    model::{AppName, MachineState, ProcessName},
    ops::gone::is_gone,
    registry::replicas::owner_of,
    store::Store,
};

/// Looks after an app's last process has left: the others of it need their time elsewhere.
const LOOKS: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(25),
    Duration::from_secs(150),
];
/// Between two looks when nothing leaves.
const EVERY: Duration = Duration::from_secs(1800);

/// Removes images until the agent stops.
pub(super) async fn sweep_often<R: Runtime>(
    store: Store,
    runtime: R,
    mut states: watch::Receiver<Option<MachineState>>,
    stop: CancellationToken,
) {
    let mut here = apps(&states);
    let mut looks: &[Duration] = &LOOKS;
    loop {
        let wait = looks.first().copied().unwrap_or(EVERY);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = states.changed() => {
                if changed.is_err() {
                    return;
                }
                states.mark_unchanged();
                let now = apps(&states);
                if !here.is_subset(&now) {
                    looks = &LOOKS;
                }
                here = now;
            }
            () = sleep(wait) => {
                looks = looks.get(1..).unwrap_or_default();
                sweep(&store, &runtime, &here).await;
            }
        }
    }
}

/// The apps of which something runs here.
fn apps(states: &watch::Receiver<Option<MachineState>>) -> BTreeSet<AppName> {
    let state = states.borrow();
    let names = state.iter().flat_map(|state| state.processes.keys());
    names
        .filter_map(|name| name.parse::<ProcessName>().ok())
        .map(|name| name.app)
        .collect()
}

/// The app that an image on this host belongs to, by one of the image's names.
pub(super) fn owner(name: &str) -> Option<(AppName, Uuid)> {
    let (_, rest) = name.split_once('/')?;
    owner_of(rest.split(['@', ':']).next()?)
}

async fn sweep<R: Runtime>(store: &Store, runtime: &R, here: &BTreeSet<AppName>) {
    // First what is there, then who lives.
    let names = match runtime.images().await {
        Ok(names) => names,
        Err(error) => {
            debug!(%error, "images can't be listed");
            return;
        }
    };
    let owners: BTreeSet<(AppName, Uuid)> = names
        .iter()
        .filter_map(|name| owner(name))
        .filter(|(app, _)| !here.contains(app))
        .collect();
    for (app, id) in owners {
        // An app that can't be asked about is there.
        if !matches!(is_gone(store, &app, id).await, Ok(true)) {
            continue;
        }
        let theirs = (app, id);
        for name in names
            .iter()
            .filter(|name| owner(name).as_ref() == Some(&theirs))
        {
            match runtime.remove_image(name).await {
                Ok(()) => info!(image = name, "its app is gone, and so is this"),
                // One that is still used: the next look finds it.
                Err(error) => debug!(image = name, %error, "an image stays for now"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::runtime::FakeRuntime,
        ops::app,
        store::{Txn, keys},
    };

    #[tokio::test]
    async fn images_of_apps_that_are_gone() {
        let store = Store::memory();
        let owner = "ada".parse().expect("a name");
        let name: AppName = "blog".parse().expect("a name");
        let create = async || {
            let made = app::create(&store, &owner, Some(name.clone())).await;
            made.expect("made").1.uuid
        };
        let first = create().await;
        let delete = Txn::new().delete(&keys::app(&name));
        store.commit(delete).await.expect("deleted");
        let second = create().await;
        let (hex, none) = ("0".repeat(64), BTreeSet::new());
        let runtime = FakeRuntime::default();
        let kept = [
            format!("deis.local/blog/{second}:{hex}"),
            format!("10.0.0.1:5000/blog/{second}@sha256:{hex}"),
            "localhost/deis/stack:latest".to_owned(),
            "docker.io/library/debian:12".to_owned(),
        ];
        let old = [
            format!("deis.local/blog/{first}:{hex}"),
            format!("10.0.0.1:5000/blog/{first}@sha256:{hex}"),
        ];
        runtime.hold([kept.as_slice(), old.as_slice()].concat());
        // While something of that name runs here, nothing is touched.
        sweep(&store, &runtime, &BTreeSet::from([name.clone()])).await;
        assert_eq!(runtime.images().await.expect("listed").len(), 6);
        sweep(&store, &runtime, &none).await;
        assert_eq!(runtime.images().await.expect("listed"), kept);
    }
}
