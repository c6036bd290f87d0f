//! Who is logged in where: `~/.deis/<profile>.json`, as v1 wrote it.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Env;

/// v1's default for how much of a list is shown.
const RESPONSE_LIMIT: u32 = 100;

/// A login.
#[derive(Serialize, Deserialize)]
pub struct Profile {
    /// Who.
    pub username: String,
    /// Whether to verify the controller's certificate.
    #[serde(default = "yes")]
    pub ssl_verify: bool,
    /// URL of the controller.
    pub controller: String,
    /// What proves it.
    pub token: String,
    /// How much of a list is shown; v1 takes nothing, or too little, for its default.
    #[serde(default)]
    pub response_limit: i64,
    /// What other programs keep here; it stays.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

const fn yes() -> bool {
    true
}

fn path(env: &Env) -> anyhow::Result<PathBuf> {
    if env.profile.contains('/') || env.profile.starts_with('.') {
        bail!(
            "$DEIS_PROFILE is {:?}: a profile's name can't hold a / or begin with a dot",
            env.profile
        );
    }
    Ok(env.home.join(".deis").join(format!("{}.json", env.profile)))
}

impl Profile {
    /// Reads the profile.
    pub fn load(env: &Env) -> anyhow::Result<Self> {
        let path = path(env)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                bail!("Not logged in. Use 'deis login' or 'deis register' to get started.")
            }
            Err(e) => return Err(e).with_context(|| format!("can't read {}", path.display())),
        };
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged; log in again with 'deis login'",
                path.display()
            )
        })
    }

    /// Writes the profile, for its owner's eyes only: whole or not at all.
    pub fn save(&self, env: &Env) -> anyhow::Result<()> {
        let path = path(env)?;
        let write = || -> anyhow::Result<()> {
            let folder = env.home.join(".deis");
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
            let text = serde_json::to_vec(self)?;
            let new = path.with_extension(format!("json.{}", std::process::id()));
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            Ok(fs::rename(&new, &path)?)
        };
        write().with_context(|| format!("can't save your login in {}", path.display()))
    }

    /// Removes the profile; it may be gone already.
    pub fn remove(env: &Env) -> anyhow::Result<()> {
        let path = path(env)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("can't remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// How much of a list to ask for.
    pub fn limit(&self, asked: Option<u32>) -> u32 {
        let saved = u32::try_from(self.response_limit)
            .ok()
            .filter(|limit| *limit > 0);
        asked.or(saved).unwrap_or(RESPONSE_LIMIT)
    }
}
