//! What handlers take from a request: who asks, and the fields of the body.

use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Request};
use http::request::Parts;
use serde_json::Value;

use super::{
    State,
    auth::{Identity, token_id},
    body,
    error::{ApiError, request_id},
};
use crate::{
    api::valid::{Fields, Refusal},
    model::User,
    ops::audit::Actor,
};

/// The user who asks, proven by a token (`gate`).
pub(super) struct Caller(pub User);

/// The same with the token, for what depends on it.
pub(super) struct Proven(pub Identity);

/// The same as the audit trail has it.
pub(super) struct By(pub Actor);

/// What `gate` has found out.
fn identity(parts: &Parts) -> Result<&Identity, ApiError> {
    parts
        .extensions
        .get()
        .ok_or(ApiError::Unauthorized(NOT_PROVIDED.to_owned()))
}

/// v1's words for a request without a token.
pub(super) const NOT_PROVIDED: &str = "Authentication credentials were not provided.";

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        identity(parts).map(|who| Self(who.user.clone()))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Proven {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, ApiError> {
        Ok(parts.extensions.get().cloned().map(Self))
    }
}

impl<S: Sync> FromRequestParts<S> for Proven {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        identity(parts).cloned().map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        identity(parts).map(|who| Self(who.actor()))
    }
}

impl Identity {
    /// Who asks, as the audit trail has it.
    pub(super) fn actor(&self) -> Actor {
        let name = self.token.name.as_ref().map(ToString::to_string);
        Actor {
            user: self.user.username.clone(),
            token: Some(name.unwrap_or_else(|| token_id(&self.hash).to_owned())),
            request: request_id(),
        }
    }
}

/// The fields of a JSON body; none when it is empty.
pub(super) struct Body(pub Fields);

impl FromRequest<State> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &State) -> Result<Self, ApiError> {
        let bytes = body::read(request.into_body()).await?;
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
