//! Points in time as v1 wrote them: `2014-01-01T00:00:00UTC`, to the second.

use std::{borrow::Cow, fmt};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// v1's `DEIS_DATETIME_FORMAT`, which v1's builder parses strictly.
const FORMAT: &str = "%Y-%m-%dT%H:%M:%SUTC";

/// A time in v1's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireTime(pub Timestamp);

impl fmt::Display for WireTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime(FORMAT))
    }
}

impl From<Timestamp> for WireTime {
    fn from(time: Timestamp) -> Self {
        Self(time)
    }
}

impl schemars::JsonSchema for WireTime {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "examples": ["2014-01-01T00:00:00UTC"],
        })
    }
}

impl Serialize for WireTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WireTime {
    /// Reads v1's format and, as users' times have it, RFC 3339.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Ok(time) = text.parse() {
            return Ok(Self(time));
        }
        DateTime::strptime(FORMAT, &text)
            .and_then(|civil| civil.to_zoned(TimeZone::UTC))
            .map(|zoned| Self(zoned.timestamp()))
            .map_err(|e| D::Error::custom(format!("{text:?} is no time: {e}")))
    }
}

/// A user's time: ISO 8601 with `Z`, as Django's own serializer wrote it (`last_login`, `date_joined`).
pub mod iso {
    use super::*;

    /// Writes `2014-10-19T22:01:00Z`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&time.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }

    /// Reads RFC 3339.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        WireTime::deserialize(deserializer).map(|time| time.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_s_format_and_back() {
        let time: Timestamp = "2014-01-01T00:00:00.25Z".parse().expect("time");
        assert_eq!(WireTime(time).to_string(), "2014-01-01T00:00:00UTC");
        let cases = [
            ("\"2014-01-01T00:00:00UTC\"", true),
            ("\"2014-01-01T00:00:00Z\"", true),
            ("\"yesterday\"", false),
            ("17", false),
        ];
        for (text, ok) in cases {
            let read = serde_json::from_str::<WireTime>(text);
            assert_eq!(read.is_ok(), ok, "{text}");
            if let Ok(read) = read {
                assert_eq!(read.to_string(), "2014-01-01T00:00:00UTC");
            }
        }
    }
}
