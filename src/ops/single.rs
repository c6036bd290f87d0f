//! Types of which there must never be two processes of one number at a time.

use std::collections::BTreeMap;

use super::{OpsError, app, audit::Actor, change::contents, release::is_type};
use crate::{model::*, store::Store};

/// Marks types as single (true) or as others (false). Nothing is restarted: the leader tells the hosts,
/// and what is replaced from now on is replaced stop-first.
///
/// # Errors
/// When the app has no build or no such type, or the store fails.
pub async fn mark(
    store: &Store,
    name: &AppName,
    by: impl Into<Actor>,
    marks: &BTreeMap<ProcessType, bool>,
) -> Result<App, OpsError> {
    let current = app::get(store, name).await?.value;
    let build = match contents(store, name, current.active).await? {
        Some((_, _, build)) => build,
        None => None,
    };
    for (kind, single) in marks {
        let is_known = match &build {
            Some(build) => is_type(build, kind),
            None => return Err(OpsError::NoBuild),
        };
        if *single && !is_known {
            return Err(OpsError::UnknownType(kind.clone()));
        }
    }
    let words = |(kind, single): (&ProcessType, &bool)| {
        format!("{kind} {}", if *single { "on" } else { "off" })
    };
    let what: Vec<String> = marks.iter().map(words).collect();
    let note = by.into().note(Action::Single, what.join(", "));
    app::update_with(store, name, |app| {
        if app.destroying {
            return Err(OpsError::Destroying(name.clone()));
        }
        for (kind, single) in marks {
            if *single {
                app.single.insert(kind.clone());
            } else {
                app.single.remove(kind);
            }
        }
        Ok(note.clone().of_app(name))
    })
    .await
}
