//! Logs of apps that are gone, also of those that went while this logger was away.
//!
//! A log lies under its app's name. Which app that was is remembered beside the logs, so that a new
//! one of the same name starts with an empty log.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{lines::blocking, shelf::Shelf};
use crate::{
    model::AppName,
    ops::gone::{Gone, living},
    store::Store,
    telemetry::chain,
};

/// Between two tries.
const RETRY: Duration = Duration::from_secs(30);
/// Which apps the logs are of.
const KNOWN: &str = ".apps.json";

type Apps = BTreeMap<AppName, Uuid>;

/// Removes logs until the logger stops.
pub(super) async fn run(store: Store, shelf: Arc<Shelf>, folder: PathBuf, stop: CancellationToken) {
    let mut gone = Gone::follow(&store);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = gone.next() => {}
        }
        // First what is there, then who lives.
        let (listed, from) = (Arc::clone(&shelf), folder.clone());
        let there = blocking(move || Ok((listed.apps(), known(&from)))).await;
        let done = match (there, living(&store).await) {
            (Ok((there, known)), Ok(living)) => {
                let over: Vec<AppName> = over(there, &known, &living);
                let (shelf, folder) = (Arc::clone(&shelf), folder.clone());
                blocking(move || {
                    for app in over {
                        info!(%app, "it is gone, and so is its log");
                        shelf.remove(&app)?;
                    }
                    remember(&folder, &living);
                    Ok(())
                })
                .await
                .map_err(|error| chain(&error).to_string())
            }
            (Err(error), _) => Err(chain(&error).to_string()),
            (_, Err(error)) => Err(chain(&error).to_string()),
        };
        if let Err(error) = done {
            warn!(
                error,
                "logs of destroyed apps are not removed, trying again"
            );
            gone.look_in(RETRY);
        }
    }
}

/// The logs whose app is not the one that wrote them.
fn over(there: Vec<AppName>, known: &Apps, living: &Apps) -> Vec<AppName> {
    let over = |app: &AppName| match (living.get(app), known.get(app)) {
        (None, _) => true,
        (Some(now), Some(then)) => now != then,
        (Some(_), None) => false,
    };
    there.into_iter().filter(over).collect()
}

fn known(folder: &Path) -> Apps {
    let text = fs::read(folder.join(KNOWN)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Written beside and renamed: a crash leaves the old one.
fn remember(folder: &Path, living: &Apps) {
    let fresh = folder.join(format!("{KNOWN}.new"));
    let written = || -> io::Result<()> {
        fs::write(&fresh, serde_json::to_vec(living)?)?;
        fs::rename(&fresh, folder.join(KNOWN))
    };
    if let Err(error) = written() {
        warn!(%error, "which apps the logs are of is not written down");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_log_it_is() {
        let name = |text: &str| text.parse::<AppName>().expect("a name");
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let apps =
            |all: &[(&str, Uuid)]| all.iter().map(|(n, id)| (name(n), *id)).collect::<Apps>();
        let living = apps(&[("same", one), ("anew", two), ("first", one)]);
        let known = apps(&[("same", one), ("anew", one), ("gone", one)]);
        let there = ["same", "anew", "gone", "first", "never"]
            .map(name)
            .to_vec();
        assert_eq!(
            over(there, &known, &living),
            ["anew", "gone", "never"].map(name)
        );
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(super::known(dir.path()), Apps::new());
        remember(dir.path(), &living);
        assert_eq!(super::known(dir.path()), living);
    }
}
