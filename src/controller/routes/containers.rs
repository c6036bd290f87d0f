//! `apps/<app>/containers/` and `scale/`: processes.

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
};
use http::{StatusCode, request::Parts};
use jiff::Timestamp;

use super::Shared;
use crate::{
    api::{containers::Filter, valid, wire},
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, By, Caller},
        fleet,
        page::Paging,
    },
    model::{ProcessType, User},
    ops::{self, audit::Actor},
};

type Ctl = State<controller::State>;

impl Shared {
    async fn containers(
        &self,
        user: &User,
        app: &str,
        filter: Filter<'_>,
    ) -> Result<Vec<wire::Container>, ApiError> {
        self.containers_with(user, app, filter, Figures(false))
            .await
    }

    async fn containers_with(
        &self,
        user: &User,
        app: &str,
        filter: Filter<'_>,
        Figures(wanted): Figures,
    ) -> Result<Vec<wire::Container>, ApiError> {
        let (name, app) = self.app(user, app, Wish::Use).await?;
        let mut fleet = fleet::read(&self.store).await?;
        if wanted {
            fleet::ask(&mut fleet, &name).await;
        }
        Ok(fleet.containers(&name, &app.owner, filter, Timestamp::now()))
    }

    /// Replaces processes, and answers with them when the new ones serve.
    async fn restart(
        &self,
        user: &User,
        by: Actor,
        app: &str,
        filter: Filter<'_>,
    ) -> Result<Vec<wire::Container>, ApiError> {
        let before = self.containers(user, app, filter).await?;
        if before.is_empty() {
            return match filter.kind {
                Some(_) => Err(ApiError::NotFound),
                None => Ok(before),
            };
        }
        let (name, _) = self.app(user, app, Wish::Use).await?;
        let change =
            ops::change::restart(&self.store, &name, by, filter.kind, filter.number).await?;
        let which = match (filter.kind, filter.number) {
            (Some(kind), Some(number)) => format!("{kind}.{number}"),
            (Some(kind), None) => format!("all of {kind}"),
            (None, _) => "all processes".to_owned(),
        };
        self.tell(&name, &format!("{} restarted {which}", user.username));
        self.settle(&name, &change).await?;
        self.containers(user, app, filter).await
    }
}

/// Whether a request asks for figures, by `stats=1`. Anything else means no, as every unknown word in
/// a query does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures(bool);

impl<S: Sync> FromRequestParts<S> for Figures {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let wanted = |pair: &str| matches!(pair, "stats=1" | "stats=true");
        Ok(Self(query.split('&').any(wanted)))
    }
}

/// A process type and number in a path.
fn slot(kind: &str, number: &str) -> Result<(ProcessType, u32), ApiError> {
    let kind = kind.parse().map_err(|_| ApiError::NotFound)?;
    let number = number.parse().map_err(|_| ApiError::NotFound)?;
    Ok((kind, number))
}

pub(super) async fn list(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
    figures: Figures,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Container>>, ApiError> {
    let all = ctl.containers_with(&user, &app, Filter::default(), figures);
    let all = all.await?;
    Ok(Json(paging.cut(all)?))
}

pub(super) async fn list_type(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path((app, kind)): Path<(String, String)>,
    figures: Figures,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Container>>, ApiError> {
    let kind = kind.parse().map_err(|_| ApiError::NotFound)?;
    let filter = Filter {
        kind: Some(&kind),
        number: None,
    };
    let all = ctl.containers_with(&user, &app, filter, figures).await?;
    Ok(Json(paging.cut(all)?))
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path((app, kind, number)): Path<(String, String, String)>,
    figures: Figures,
) -> Result<Json<wire::Container>, ApiError> {
    let (kind, number) = slot(&kind, &number)?;
    let filter = Filter {
        kind: Some(&kind),
        number: Some(number),
    };
    let mut found = ctl.containers_with(&user, &app, filter, figures).await?;
    // The newest of them, while a rollout replaces it.
    found.pop().map(Json).ok_or(ApiError::NotFound)
}

pub(super) async fn restart(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
) -> Result<Json<Vec<wire::Container>>, ApiError> {
    Ok(Json(ctl.restart(&user, by, &app, Filter::default()).await?))
}

pub(super) async fn restart_type(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path((app, kind)): Path<(String, String)>,
) -> Result<Json<Vec<wire::Container>>, ApiError> {
    let kind = kind.parse().map_err(|_| ApiError::NotFound)?;
    let filter = Filter {
        kind: Some(&kind),
        number: None,
    };
    Ok(Json(ctl.restart(&user, by, &app, filter).await?))
}

pub(super) async fn restart_one(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path((app, kind, number)): Path<(String, String, String)>,
) -> Result<Json<Vec<wire::Container>>, ApiError> {
    let (kind, number) = slot(&kind, &number)?;
    let filter = Filter {
        kind: Some(&kind),
        number: Some(number),
    };
    Ok(Json(ctl.restart(&user, by, &app, filter).await?))
}

/// Changes the wanted numbers. Answers when they run.
pub(super) async fn scale(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let wanted = valid::scale(&fields)?;
    let change = ops::change::scale(&ctl.store, &name, by, &wanted).await?;
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(kind, count)| format!("{kind}={count}"))
        .collect();
    let what = format!("{} scaled {}", user.username, wanted.join(" "));
    ctl.tell(&name, &what);
    ctl.settle(&name, &change).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn single(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
) -> Result<Json<wire::Single>, ApiError> {
    let (_, app) = ctl.app(&user, &app, Wish::Use).await?;
    Ok(Json(wire::Single::of(&app)))
}

/// Marks types as single, or as others.
pub(super) async fn mark_single(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Json<wire::Single>, ApiError> {
    let (name, _) = ctl.app(&user, &app, Wish::Use).await?;
    let marks = valid::single(&fields)?;
    let app = ops::single::mark(&ctl.store, &name, by, &marks).await?;
    for (kind, single) in &marks {
        let what = if *single {
            "single"
        } else {
            "no longer single"
        };
        ctl.tell(&name, &format!("{} made {kind} {what}", user.username));
    }
    Ok(Json(wire::Single::of(&app)))
}
