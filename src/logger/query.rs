//! Which lines somebody wants to read: parsed, and decided on. Pure.

use std::{fmt, str::FromStr};

use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::{model::ProcessType, sidecar::wire::Source};

/// Most lines of the past in one answer.
pub const MAX_LINES: usize = 100_000;
/// Longest text of a `since` that is read at all.
const MAX_SINCE: usize = 64;

/// What a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// So many of the last lines.
    pub lines: usize,
    /// And each new one as it comes.
    pub follow: bool,
    /// Of these processes only.
    pub of: Option<Of>,
    /// None that is older, in milliseconds since 1970.
    pub since_ms: Option<u64>,
}

/// Some of an app's voices: `web`, `web.1`, or the platform's own, `deis-controller`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of {
    kind: String,
    number: Option<u32>,
}

/// Why a text names no processes, or no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// No processes.
    #[error("{0:?} names no process; write a type (web) or one process (web.1)")]
    Of(String),
    /// No time.
    #[error(
        "{0:?} is no time; write how long ago (90s, 10m, 2h, 1d) or when (2026-01-31T12:00:00Z)"
    )]
    Since(String),
}

impl FromStr for Of {
    type Err = InvalidQuery;

    fn from_str(text: &str) -> Result<Self, InvalidQuery> {
        let refuse = || InvalidQuery::Of(text.chars().take(MAX_SINCE).collect());
        if text == Source::platform().as_str() {
            return Ok(Self {
                kind: text.to_owned(),
                number: None,
            });
        }
        let (kind, number) = match text.split_once('.') {
            Some((kind, number)) => {
                let plain = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
                let number: Option<u32> = number.parse().ok().filter(|_| plain);
                (kind, Some(number.ok_or_else(refuse)?))
            }
            None => (text, None),
        };
        let kind: ProcessType = kind.parse().map_err(|_| refuse())?;
        Ok(Self {
            kind: kind.as_str().to_owned(),
            number,
        })
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}.{number}", self.kind),
            None => f.write_str(&self.kind),
        }
    }
}

impl Of {
    /// Whether lines of this source are wanted.
    #[must_use]
    pub fn has(&self, source: &Source) -> bool {
        let source = source.as_str();
        match (source.split_once('.'), self.number) {
            (Some((kind, number)), Some(wanted)) => {
                kind == self.kind && number.parse() == Ok(wanted)
            }
            (Some((kind, _)), None) => kind == self.kind,
            (None, None) => source == self.kind,
            (None, Some(_)) => false,
        }
    }
}

impl Query {
    /// Whether a record of the past or the future is wanted, but for its time.
    #[must_use]
    pub fn has(&self, source: &Source) -> bool {
        self.of.as_ref().is_none_or(|of| of.has(source))
    }

    /// Whether something of this time is recent enough. Times are kept to the second.
    #[must_use]
    pub fn is_recent(&self, time_ms: u64) -> bool {
        self.since_ms
            .is_none_or(|since| time_ms / 1000 >= since / 1000)
    }
}

/// The time that a text means: how long ago (`10m`, `1h30m`), or when (RFC 3339).
///
/// # Errors
/// When it is neither.
pub fn since(text: &str, now: Timestamp) -> Result<u64, InvalidQuery> {
    let refuse = || InvalidQuery::Since(text.chars().take(MAX_SINCE).collect());
    if text.is_empty() || text.len() > MAX_SINCE {
        return Err(refuse());
    }
    let at = match text.parse::<Timestamp>() {
        Ok(at) => at,
        Err(_) => ago(text, now).ok_or_else(refuse)?,
    };
    // What lies before 1970 is all there is.
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    // jiff's own words for durations, but none with a sign: nobody means the future.
    if !text.bytes().all(plain) || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let span: Span = text.parse().ok()?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    now.checked_sub(length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn processes() {
        let source = |text: &str| text.parse::<Source>().expect("source");
        let cases = [
            ("web", "web.1", true),
            ("web", "web.12", true),
            ("web", "worker.1", false),
            ("web", "webber.1", false),
            ("web", "deis-controller", false),
            ("web.1", "web.1", true),
            ("web.1", "web.12", false),
            ("web.1", "worker.1", false),
            ("deis-controller", "deis-controller", true),
            ("deis-controller", "web.1", false),
            ("deis", "deis", true),
        ];
        for (of, of_line, want) in cases {
            let of: Of = of.parse().expect(of);
            assert_eq!(of.has(&source(of_line)), want, "{of} {of_line}");
        }
        for bad in [
            "",
            ".",
            "web.",
            "web.x",
            "web.0",
            "web.-1",
            "web.+1",
            "web.1.2",
            "Web",
            "we b",
            "../web",
            "web\n",
            "web.99999999999",
        ] {
            assert!(bad.parse::<Of>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn times() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().expect("time");
        let ms = |text: &str| {
            let at: Timestamp = text.parse().expect("time");
            u64::try_from(at.as_millisecond()).expect("after 1970")
        };
        for (text, want) in [
            ("0s", "2026-01-02T00:00:00Z"),
            ("90s", "2026-01-01T23:58:30Z"),
            ("10m", "2026-01-01T23:50:00Z"),
            ("1h30m", "2026-01-01T22:30:00Z"),
            ("1d", "2026-01-01T00:00:00Z"),
            ("1w", "2025-12-26T00:00:00Z"),
            ("2026-01-01T12:00:00Z", "2026-01-01T12:00:00Z"),
            ("2026-01-01T12:00:00+02:00", "2026-01-01T10:00:00Z"),
            ("2026-01-01T12:00:00.5Z", "2026-01-01T12:00:00.5Z"),
        ] {
            assert_eq!(since(text, now), Ok(ms(want)), "{text}");
        }
        for bad in [
            "",
            "10",
            "m",
            "-10m",
            "10m ago",
            "yesterday",
            "1mo",
            "1y",
            "12:00",
            "99999999999999999999s",
        ] {
            assert!(since(bad, now).is_err(), "{bad:?} must be refused");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = since(&text, Timestamp::UNIX_EPOCH);
            if let Ok(of) = text.parse::<Of>() {
                prop_assert_eq!(of.to_string().parse::<Of>(), Ok(of));
            }
        }
    }
}
