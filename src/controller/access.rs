//! Who may do what with an app. The rule is a pure function; the rest reads the records it needs.

use super::{Shared, error::ApiError};
use crate::{
    model::{App, AppName, User},
    ops::{self, OpsError},
};

/// What somebody wants to do with an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Anything but taking something away: owner, collaborators, administrators.
    Use,
    /// Take something away, give it away or let others in: owner and administrators.
    Own,
}

/// Whether a user may.
pub(super) fn allowed(user: &User, app: &App, wish: Wish) -> bool {
    let owner = user.is_superuser || app.owner == user.username;
    match wish {
        Wish::Own => owner,
        Wish::Use => owner || app.collaborators.contains(&user.username),
    }
}

impl Shared {
    /// Reads an app for somebody who may use it so. Others get 403, as in v1: names are no secret.
    pub(super) async fn app(
        &self,
        user: &User,
        name: &str,
        wish: Wish,
    ) -> Result<(AppName, App), ApiError> {
        let name: AppName = name.parse().map_err(|_| ApiError::NotFound)?;
        let app = ops::app::get(&self.store, &name).await?.value;
        if allowed(user, &app, wish) {
            Ok((name, app))
        } else {
            Err(ApiError::Forbidden)
        }
    }

    /// Whether a user may use an app; one that is gone is nobody's.
    pub(super) async fn may_use(&self, user: &User, app: &AppName) -> Result<bool, ApiError> {
        match ops::app::get(&self.store, app).await {
            Ok(app) => Ok(allowed(user, &app.value, Wish::Use)),
            Err(OpsError::NotFound(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Administrators only.
pub(super) const fn administrator(user: &User) -> Result<(), ApiError> {
    if user.is_superuser {
        Ok(())
    } else {
        Err(ApiError::Forbidden)
    }
}
