//! The HTTP API v1.7 as data: what is on the wire between the controller and its clients.
//!
//! Pure, and shared by `controller` and `cli::deis`. The formats are those of Deis 1.13: old clients
//! and scripts depend on them to the letter.

pub mod ask;
pub mod containers;
pub mod fleet;
pub mod grant;
pub mod openapi;
#[cfg(test)]
mod properties;
pub mod ssh_key;
pub mod stats;
pub mod time;
pub mod valid;
#[cfg(test)]
mod valid_tests;
pub mod wire;

/// Version of the API: in the header `DEIS_API_VERSION` of every response.
pub const API_VERSION: &str = "1.7";

/// Version of the platform: in the header `DEIS_PLATFORM_VERSION` of every response.
pub const PLATFORM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The major version that a client which says so (`DEIS_VERSION`) must have.
pub const MAJOR_VERSION: &str = "1";

/// Reason phrase of a status as Django 1.6 wrote it: upper case. The v1 client prints the status line
/// verbatim, and scripts look for it.
#[must_use]
pub fn reason(status: http::StatusCode) -> String {
    match status {
        // The names of these changed in later RFCs.
        http::StatusCode::PAYLOAD_TOO_LARGE => "REQUEST ENTITY TOO LARGE".to_owned(),
        http::StatusCode::URI_TOO_LONG => "REQUEST-URI TOO LONG".to_owned(),
        other => other
            .canonical_reason()
            .unwrap_or("UNKNOWN STATUS CODE")
            .to_ascii_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    #[test]
    fn reasons_are_django_s() {
        for (code, want) in [
            (200, "OK"),
            (201, "CREATED"),
            (204, "NO CONTENT"),
            (400, "BAD REQUEST"),
            (401, "UNAUTHORIZED"),
            (403, "FORBIDDEN"),
            (404, "NOT FOUND"),
            (405, "METHOD NOT ALLOWED"),
            (409, "CONFLICT"),
            (413, "REQUEST ENTITY TOO LARGE"),
            (503, "SERVICE UNAVAILABLE"),
        ] {
            let status = StatusCode::from_u16(code).expect("status");
            assert_eq!(super::reason(status), want);
        }
    }
}
