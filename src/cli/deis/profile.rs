//! Who is logged in where: `~/.deis/<profile>.json`, as v1 wrote it.

use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Env, files};

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
    Ok(env
        .home()?
        .join(".deis")
        .join(format!("{}.json", env.profile)))
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
            let folder = env.home()?.join(".deis");
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
            // v1's client left its file open to all.
            if let Err(e) = fs::set_permissions(&path, Permissions::from_mode(0o600))
                && e.kind() != ErrorKind::NotFound
            {
                return Err(e.into());
            }
            Ok(files::replace(&path, &serde_json::to_vec(self)?)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Profile {
        serde_json::from_str(text).expect("profile")
    }

    #[test]
    fn what_other_clients_have_written_is_read() {
        let profile = read(
            r#"{"username":"ada","ssl_verify":false,"controller":"http://deis.local/","token":"t","response_limit":100}"#,
        );
        assert!(!profile.ssl_verify);
        assert_eq!(profile.limit(None), 100);
        let profile = read(
            r#"{"username":"ada","controller":"http://d","token":"t","response_limit":-1,"hooks":["x"]}"#,
        );
        assert!(profile.ssl_verify);
        assert_eq!(profile.limit(None), 100);
        assert_eq!(profile.limit(Some(7)), 7);
        let again = serde_json::to_value(&profile).expect("json");
        assert_eq!(again["hooks"][0], "x");
        assert_eq!(
            read(r#"{"username":"a","controller":"h","token":"t","response_limit":3}"#).limit(None),
            3
        );
    }
}
