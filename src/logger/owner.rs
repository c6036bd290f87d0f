//! Whose log a folder holds. A name may belong to one app today and to another tomorrow; the second
//! owner must never read the first one's lines.

use std::{fs, io, path::Path};

use tracing::warn;
use uuid::Uuid;

use super::app_log::{AppLogError, failed};

/// The file that says it.
const FILE: &str = "owner";

/// An app, apart from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Its identity.
    pub uuid: Uuid,
    /// When it was created, in milliseconds since 1970: of two, the later one has the name.
    pub created_ms: u64,
}

impl Owner {
    /// What the folder says.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>, AppLogError> {
        let path = dir.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let owner = Self::parse(&text);
                if owner.is_none() {
                    warn!(path = %path.display(), "whose log this is can't be read");
                }
                Ok(owner)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (uuid, created) = text.trim_end().split_once(' ')?;
        Some(Self {
            uuid: uuid.parse().ok()?,
            created_ms: created.parse().ok()?,
        })
    }

    /// Writes it down, whole or not at all.
    pub(super) fn save(&self, dir: &Path) -> Result<(), AppLogError> {
        let (path, new) = (dir.join(FILE), dir.join("owner.new"));
        let text = format!("{} {}\n", self.uuid, self.created_ms);
        fs::write(&new, text).map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("make", &path))
    }

    /// It is nobody's any more.
    pub(super) fn forget(dir: &Path) -> Result<(), AppLogError> {
        let path = dir.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}
