//! Who may push to which app.

use crate::{
    model::{App, AppName, User, Username},
    store::{Store, StoreError, Versioned, keys},
};

/// Whether a user may push to and clone an app: its owner, its collaborators, superusers.
#[must_use]
pub fn allowed(app: &App, user: &User) -> bool {
    app.owner == user.username || app.collaborators.contains(&user.username) || user.is_superuser
}

/// The app, if the user may use it. Whoever may not learns as little as if there were none.
///
/// # Errors
/// When the store fails.
pub async fn app_for(
    store: &Store,
    user: &Username,
    app: &AppName,
) -> Result<Option<Versioned<App>>, StoreError> {
    let there = store.get(&keys::app(app)).await?;
    let user = store.get(&keys::user(user)).await?;
    Ok(match (there, user) {
        (Some(app), Some(user)) if allowed(&app.value, &user.value) && !app.value.destroying => {
            Some(app)
        }
        _ => None,
    })
}

/// What is said to whoever may not.
#[must_use]
pub fn denied(user: &Username, app: &AppName) -> String {
    format!(
        "push denied: there is no app {app} that {user} may use.\n\
         `deis apps` lists yours, `deis create {app}` makes one, and its owner can add you with \
         `deis perms:create`."
    )
}
