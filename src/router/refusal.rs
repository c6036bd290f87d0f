//! Why a request gets an answer of the router's own, and which.

use http::StatusCode;

/// An answer of the router's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No host, several, or none that is one.
    BadHost,
    /// A body that is coded in more ways than by chunks.
    BadFraming,
    /// More headers than anybody needs.
    TooManyHeaders,
    /// CONNECT.
    NoTunnel,
    /// Over TLS only: there.
    Elsewhere(String),
    /// The owner doesn't let this client in.
    Forbidden,
    /// Nobody answers to the name.
    Unknown,
    /// No process.
    NoProcess,
    /// It has waited for a process, or there was no room to wait.
    Held,
    /// Switched off, with what visitors are to read.
    Maintenance(Option<String>),
    /// The body is too large.
    TooLarge,
    /// The body comes too slowly.
    Slow,
    /// No process can be reached.
    Unreachable,
    /// The process broke off.
    Broken,
    /// The process says nothing.
    TimedOut,
}

impl Refusal {
    /// Its status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::BadHost | Self::BadFraming => StatusCode::BAD_REQUEST,
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoTunnel => StatusCode::METHOD_NOT_ALLOWED,
            Self::Elsewhere(_) => StatusCode::MOVED_PERMANENTLY,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::NoProcess | Self::Held | Self::Maintenance(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// When it makes sense to come again, in seconds.
    #[must_use]
    pub const fn retry_after(&self) -> Option<u16> {
        match self {
            Self::Held => Some(5),
            Self::Maintenance(_) => Some(60),
            _ => None,
        }
    }

    /// What it says to people.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        match self {
            Self::BadHost => "400 Bad Request\n\nThe request names no valid host.\n",
            Self::BadFraming => {
                "400 Bad Request\n\nThe request's body may be chunked, but not coded otherwise.\n"
            }
            Self::TooManyHeaders => {
                "431 Request Header Fields Too Large\n\nThe request has too many headers.\n"
            }
            Self::NoTunnel => "405 Method Not Allowed\n\nThis is no forward proxy.\n",
            Self::Elsewhere(_) => "301 Moved Permanently\n\nThis is served over HTTPS only.\n",
            Self::Forbidden => "403 Forbidden\n\nThis app lets nobody in from your address.\n",
            Self::Unknown => "404 Not Found\n\nNo app answers to this host name.\n",
            Self::NoProcess => {
                "503 Service Unavailable\n\nThis app has no process that serves requests.\n"
            }
            Self::Held => {
                "503 Service Unavailable\n\nThis app is being restarted. Please try again in a moment.\n"
            }
            Self::Maintenance(_) => {
                "503 Service Unavailable\n\nThis app is down for maintenance. Please come back later.\n"
            }
            Self::TooLarge => {
                "413 Payload Too Large\n\nThe request's body is larger than this platform takes.\n"
            }
            Self::Slow => "408 Request Timeout\n\nThe request's body came too slowly.\n",
            Self::Unreachable => "502 Bad Gateway\n\nNone of the app's processes can be reached.\n",
            Self::Broken => {
                "502 Bad Gateway\n\nThe app's process broke the connection before it answered.\n"
            }
            Self::TimedOut => "504 Gateway Timeout\n\nThe app's process gave no answer in time.\n",
        }
    }
}
