//! Who may come in: the one place where tokens are looked at, for every route.
//!
//! The table of routes says what each needs; whoever comes through is in the request's extensions,
//! where `extract` finds him.

use axum::{
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header};
use jiff::Timestamp;

use super::{auth, auth::Identity, error::ApiError, extract::NOT_PROVIDED};
use crate::{
    api::grant::{Access, Grant},
    model::{AppName, Scope},
};

/// Lets a request through to its route, or says why not.
pub(super) async fn gate(
    State((ctl, access)): State<(super::State, Access)>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let scope = match access {
        Access::Open => return Ok(next.run(request).await),
        Access::Optional => Scope::All,
        Access::Token(scope) => scope,
    };
    // No UTF-8, so nothing of ours.
    let params = params.map_err(|_| ApiError::NotFound)?;
    let app = params.iter().find(|(name, _)| *name == "app");
    // What is no app's name is nobody's app: the route itself says that there is none.
    let app: Option<AppName> = app.and_then(|(_, name)| name.parse().ok());
    if let Some(identity) = admit(&ctl, request.headers(), scope, app.as_ref()).await? {
        request.extensions_mut().insert(identity);
    } else if access != Access::Optional {
        return Err(ApiError::Unauthorized(NOT_PROVIDED.to_owned()));
    }
    Ok(next.run(request).await)
}

/// Whom the request's token proves, if it may be used for that; none when there is no token. Answers
/// that go on for long ask again.
pub(super) async fn admit(
    ctl: &super::State,
    headers: &HeaderMap,
    scope: Scope,
    app: Option<&AppName>,
) -> Result<Option<Identity>, ApiError> {
    let identity = identify(ctl, headers).await?;
    if let Some(identity) = &identity {
        Grant::from(&identity.token).permits(scope, app, Timestamp::now())?;
    }
    Ok(identity)
}

/// Whom the request's token proves; none when it has none.
async fn identify(ctl: &super::State, headers: &HeaderMap) -> Result<Option<Identity>, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|text| text.split_once(' '));
    let token = match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("token") => token.trim(),
        // Another scheme: v1 took it for no credentials at all.
        _ => return Ok(None),
    };
    match auth::identify(&ctl.store, token).await? {
        Some(identity) => Ok(Some(identity)),
        None => Err(ApiError::Unauthorized("Invalid token".to_owned())),
    }
}
