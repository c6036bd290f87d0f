//! The last table on disk, for a start while etcd is away.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{info, warn};

use super::live::Live;
use crate::{model::SCHEMA, outside, plan::routes::SavedRecord};

/// The table's file in the router's state directory.
pub const FILE: &str = "table.json";
/// Writes are at least so far apart.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct SavedTable {
    schema: u16,
    records: Vec<SavedRecord>,
}

/// Reads the table back; none when there is none, or it can't be read (which is said).
#[must_use]
pub fn load(state: &Path) -> Option<Vec<SavedRecord>> {
    let path = state.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the saved table can't be read");
            return None;
        }
    };
    match serde_json::from_slice::<SavedTable>(&text) {
        Ok(table) => Some(table.records),
        Err(error) => {
            let aside = path.with_extension("corrupt");
            warn!(path = %path.display(), aside = %aside.display(), %error, "the saved table is corrupt and set aside");
            let _ = std::fs::rename(&path, &aside);
            None
        }
    }
}

/// Writes the table: all of it or nothing.
///
/// # Errors
/// When the disk says so.
pub fn store(state: &Path, records: Vec<SavedRecord>) -> io::Result<()> {
    let table = SavedTable {
        schema: SCHEMA,
        records,
    };
    let mut file = tempfile::NamedTempFile::new_in(state)?;
    serde_json::to_writer(io::BufWriter::new(&mut file), &table)?;
    file.flush()?;
    file.as_file().sync_all()?;
    file.persist(state.join(FILE))?;
    Ok(())
}

/// Writes the table after each change of it, the latest state only. Ends with its task.
pub async fn keep(live: Arc<Live>, state: Arc<Path>) {
    let mut versions = live.versions();
    versions.mark_changed();
    let mut works = true;
    while versions.changed().await.is_ok() {
        versions.mark_unchanged();
        let (live, state) = (Arc::clone(&live), Arc::clone(&state));
        let written = outside::blocking(move || store(&state, live.export())).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) if !works => {
                info!("the table is saved again");
                works = true;
            }
            Err(error) if works => {
                warn!(%error, "the table can't be saved: a start without etcd would serve an older one");
                works = false;
            }
            _ => {}
        }
        sleep(PAUSE).await;
    }
}
