//! Why a request is refused, and how v1 said that.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tracing::error;

use crate::{
    api::{
        containers::NoPlace,
        grant::Denied,
        valid::{BELOW_FIRST_RELEASE, Refusal},
    },
    ops::OpsError,
    seal::SealError,
    store::{CommitError, StoreError},
    telemetry::chain,
};

tokio::task_local! {
    /// The id of the request that is being answered.
    pub(super) static REQUEST_ID: String;
}

/// The id of the request that is being answered.
pub(super) fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Nobody has said who asks, or with a token that is none.
    #[error("{0}")]
    Unauthorized(String),
    /// Whoever asks may not do that.
    #[error("You do not have permission to perform this action.")]
    Forbidden,
    /// The same, with words of its own.
    #[error("{0}")]
    ForbiddenBecause(String),
    /// No such thing.
    #[error("Not found")]
    NotFound,
    /// The method does not exist there.
    #[error("Method '{0}' not allowed.")]
    Method(String),
    /// The request says something that can't be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something is in the way.
    #[error("{0}")]
    Conflict(String),
    /// Another change is in progress.
    #[error("{0}")]
    Busy(String),
    /// The request is too large.
    #[error("The request is larger than {0} KiB.")]
    TooLarge(usize),
    /// It was tried too often.
    #[error("Too many {what}; try again in {} s.", seconds(.wait))]
    TooMany {
        /// What was tried, by whom.
        what: String,
        /// How long to wait.
        wait: Duration,
    },
    /// The client speaks another major version.
    #[error(
        "Client and server versions do not match. Client version: {0} Server version: {server}",
        server = crate::api::MAJOR_VERSION
    )]
    Version(String),
    /// It was tried, and the app itself is why it failed.
    #[error("{0}")]
    Failed(String),
    /// The platform can't do it at the moment.
    #[error("{0}")]
    Unavailable(String),
    /// It was tried and failed, where v1 said 500.
    #[error("{0}")]
    Broken(String),
    /// The store failed; the details are for the operators.
    #[error("The platform's store gives no answer at the moment; try again.")]
    Store(#[source] StoreError),
    /// Something that can't be is so; the details are for the operators.
    #[error("Something went wrong on the platform; tell its operators the request id.")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    pub(super) fn detail(why: impl Into<String>) -> Self {
        Self::Refused(Refusal::Detail(why.into()))
    }

    pub(super) fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Internal(Box::new(error))
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::ForbiddenBecause(_) => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method(_) | Self::Version(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Refused(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) | Self::Busy(_) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed(_) | Self::Unavailable(_) | Self::Store(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Broken(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn body(&self) -> Value {
        match self {
            Self::Refused(refusal) => refusal.body(),
            Self::Busy(_) | Self::Version(_) => json!({ "error": self.to_string() }),
            _ => json!({ "detail": self.to_string() }),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = self.body();
        if let Self::Store(_) | Self::Internal(_) | Self::Unavailable(_) | Self::Broken(_) = &self {
            let id = request_id().unwrap_or_default();
            error!(request.id = %id, error = chain(&self), "request failed");
            body["request_id"] = id.into();
        }
        let mut response = (self.status(), Json(body)).into_response();
        if self.status() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Token");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Self::TooMany { wait, .. } = &self {
            let wait = HeaderValue::from(seconds(wait));
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        response
    }
}

/// Whole seconds, rounded up: whoever waits that long has waited long enough.
fn seconds(wait: &Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Expired(_) => Self::Unauthorized(denied.to_string()),
            Denied::Scope { .. } | Denied::Apps(_) => Self::ForbiddenBecause(denied.to_string()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            Self::Store(error)
        } else {
            Self::internal(error)
        }
    }
}

impl From<SealError> for ApiError {
    fn from(error: SealError) -> Self {
        Self::internal(error)
    }
}

impl From<NoPlace> for ApiError {
    fn from(error: NoPlace) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// For transactions whose conflict means that somebody else was quicker, and that are not retried.
impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => {
                Self::Conflict("Somebody else has changed this at the same time; try again.".into())
            }
            CommitError::Store(error) => error.into(),
        }
    }
}

impl From<OpsError> for ApiError {
    fn from(error: OpsError) -> Self {
        match error {
            OpsError::NotFound(_) => Self::NotFound,
            OpsError::Taken(_) => Self::Refused(Refusal::not_unique("id")),
            // v1's plain rollback counted down from the latest release.
            OpsError::NothingToRollBackTo(_) => Self::detail(BELOW_FIRST_RELEASE),
            OpsError::Busy { .. } => Self::Busy(error.to_string()),
            OpsError::Contended(_) | OpsError::Destroying(_) => Self::Conflict(error.to_string()),
            OpsError::NoBuild
            | OpsError::UnknownType(_)
            | OpsError::Invalid(_)
            | OpsError::Name(_) => Self::detail(error.to_string()),
            OpsError::Timeout { .. } => Self::Unavailable(error.to_string()),
            OpsError::Store(error) => error.into(),
            OpsError::Seal(error) => error.into(),
        }
    }
}
