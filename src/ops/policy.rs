//! How an app's new releases are watched before they replace the old one.

use super::{OpsError, app, audit::Actor};
use crate::{model::*, store::Store};

/// Sets an app's policy, or takes it away. What is being rolled out goes on as it began.
///
/// # Errors
/// When a value makes no sense, there is no such app, or the store fails.
pub async fn set(
    store: &Store,
    name: &AppName,
    by: impl Into<Actor>,
    change: Option<PolicyChange>,
) -> Result<App, OpsError> {
    let by = by.into();
    app::update_with(store, name, |app| {
        if app.destroying {
            return Err(OpsError::Destroying(name.clone()));
        }
        app.policy = match change {
            Some(change) => {
                let changed = app.policy.unwrap_or_default().changed(&change);
                Some(changed.map_err(|error| OpsError::Invalid(error.to_string()))?)
            }
            None => None,
        };
        let what = app.policy.map_or_else(
            || "none".to_owned(),
            |policy| {
                let RolloutPolicy {
                    share_percent,
                    watch_secs,
                    errors_percent,
                    failed,
                } = policy;
                format!(
                    "{share_percent} % for {watch_secs} s, at most {errors_percent} % errors, \
                     {failed} without an answer"
                )
            },
        );
        Ok(by.note(Action::Policy, what).of_app(name))
    })
    .await
}
