//! What handlers take from a request: who asks, and the fields of the body.

use std::time::Duration;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Request},
};
use http::{header, request::Parts};
use serde_json::Value;

use super::{State, auth, error::ApiError};
use crate::{
    api::valid::{Fields, Refusal},
    model::User,
};

/// Largest body of a request, in bytes: etcd takes no more than 1.5 MiB at once.
const MAX_BODY: usize = 1 << 20;

/// How long a client may take to send a body.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// The user who asks, proven by a token.
pub(super) struct Caller(pub User);

impl FromRequestParts<State> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let caller = Option::<Self>::from_request_parts(parts, state).await?;
        caller.ok_or(ApiError::Unauthorized(
            "Authentication credentials were not provided.",
        ))
    }
}

impl axum::extract::OptionalFromRequestParts<State> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &State,
    ) -> Result<Option<Self>, ApiError> {
        let Some(value) = parts.headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        let invalid = ApiError::Unauthorized("Invalid token");
        let token = value.to_str().ok().and_then(|text| text.split_once(' '));
        let token = match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("token") => token.trim(),
            // Another scheme: v1 took it for no credentials at all.
            _ => return Ok(None),
        };
        match auth::user_of(&state.store, token).await? {
            Some(user) => Ok(Some(Self(user))),
            None => Err(invalid),
        }
    }
}

/// The fields of a JSON body; none when it is empty.
pub(super) struct Body(pub Fields);

impl FromRequest<State> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &State) -> Result<Self, ApiError> {
        let read = to_bytes(request.into_body(), MAX_BODY);
        let bytes = tokio::time::timeout(BODY_LIMIT, read)
            .await
            .map_err(|_| ApiError::detail("The request's body did not arrive in time."))?
            .map_err(|_| ApiError::TooLarge(MAX_BODY >> 10))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Fields::new()));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(Value::Null) => Ok(Self(Fields::new())),
            Ok(_) => Err(Refusal::field(
                "non_field_errors",
                "Invalid data. Expected a JSON object.",
            )
            .into()),
            Err(error) => Err(ApiError::detail(format!("JSON parse error - {error}"))),
        }
    }
}
