//! The line protocol between log sidecar and logger, as values and bytes.
//!
//! ```text
//! sidecar                                         logger
//! deis-log 1 blog web.1 <stream> 1000 20    -->
//!                                           <--   have 1500 31
//! data 1500 31 1430000000000 12\n + 12 bytes -->
//!                                           <--   ack 1512 32
//! ```
//!
//! A position counts the bytes of the stream before it and the newlines among them. Because both
//! sides name positions, a gap tells by itself how many lines and bytes are missing, whoever
//! dropped them and whoever was killed meanwhile: no separate counter can disagree with it.

use std::{fmt, str::FromStr};

use crate::model::AppName;

/// First word of the sidecar's greeting, with the protocol's version.
const GREETING: &str = "deis-log 1";
/// Most bytes in one data frame.
pub const MAX_FRAME: usize = 64 * 1024;
/// Most bytes in one header line.
pub const MAX_HEADER: usize = 256;

/// A place in a stream of log bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Bytes before it.
    pub offset: u64,
    /// Newlines among those bytes.
    pub lines: u64,
}

impl Position {
    /// The position after `bytes`.
    #[must_use]
    pub fn after(self, bytes: &[u8]) -> Self {
        Self {
            offset: self.offset + bytes.len() as u64,
            lines: self.lines + newlines(bytes),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.offset, self.lines)
    }
}

/// How many newlines there are in `bytes`.
#[must_use]
pub fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

/// Identity of a stream: the process's uuid and an epoch that is new with each new spool.
///
/// At most 80 of `0-9 a-z . -`: safe in a header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(String);

impl StreamId {
    /// Longest text.
    const MAX: usize = 80;

    /// The stream of a process whose spool was made with this epoch.
    ///
    /// # Errors
    /// When the uuid's text is not one.
    pub fn new(uuid: &str, epoch: u64) -> Result<Self, WireError> {
        format!("{uuid}.{epoch:016x}").parse()
    }

    /// What stands for a stream where the platform itself speaks: the event's id.
    #[must_use]
    pub fn event(id: uuid::Uuid) -> Self {
        Self(format!("event.{id}"))
    }

    /// Whether the platform itself spoke.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.0.starts_with("event.")
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamId {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, WireError> {
        let good = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || ".-".contains(c);
        if text.is_empty() || text.len() > Self::MAX || !text.chars().all(good) {
            return Err(WireError::Stream);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands in the brackets of a log line's tag: `web.1`, `deis-controller`.
///
/// 1 to 63 of `a-z 0-9 . - _`: safe in a header and in a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(String);

impl Source {
    /// Longest text.
    const MAX: usize = 63;

    /// The platform's own voice in an app's log, for what became of the log itself.
    #[must_use]
    pub fn platform() -> Self {
        Self("deis".to_owned())
    }

    /// The controller's voice in an app's log.
    #[must_use]
    pub fn controller() -> Self {
        Self("deis-controller".to_owned())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Source {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, WireError> {
        let good = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || ".-_".contains(c);
        if text.is_empty() || text.len() > Self::MAX || !text.chars().all(good) {
            return Err(WireError::Source);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why bytes are not of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A header that is too long or no text.
    #[error("a header line of more than {MAX_HEADER} bytes, or not UTF-8")]
    Header,
    /// A header of another form.
    #[error("expected {expected}, got {got:?}")]
    Form {
        /// The form expected.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A frame that is too big.
    #[error("a frame of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooBig(usize),
    /// No stream id.
    #[error("a stream id that is not a uuid, a dot and hexadecimal digits")]
    Stream,
    /// No source.
    #[error("a source that is not of the form web.1")]
    Source,
}

/// The sidecar's greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Whose log it is.
    pub app: AppName,
    /// Which process writes.
    pub source: Source,
    /// Which stream.
    pub stream: StreamId,
    /// Up to where some logger has acknowledged it.
    pub acked: Position,
}

impl Hello {
    /// The greeting as a line.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self {
            app,
            source,
            stream,
            acked,
        } = self;
        format!("{GREETING} {app} {source} {stream} {acked}\n")
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// When it is no greeting.
    pub fn parse(line: &str) -> Result<Self, WireError> {
        let form = || WireError::Form {
            expected: "deis-log 1 <app> <source> <stream> <offset> <lines>",
            got: line.to_owned(),
        };
        let rest = line.strip_prefix(GREETING).ok_or_else(form)?;
        let [app, source, stream, offset, lines] = words(rest).ok_or_else(form)?;
        Ok(Self {
            app: app.parse().map_err(|_| form())?,
            source: source.parse()?,
            stream: stream.parse()?,
            acked: position(offset, lines).ok_or_else(form)?,
        })
    }
}

/// What the logger says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Answer to the greeting: send from here.
    Have(Position),
    /// Everything before it is kept.
    Ack(Position),
}

impl Reply {
    /// The reply as a line.
    #[must_use]
    pub fn encode(&self) -> String {
        match self {
            Self::Have(position) => format!("have {position}\n"),
            Self::Ack(position) => format!("ack {position}\n"),
        }
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// When it is no reply.
    pub fn parse(line: &str) -> Result<Self, WireError> {
        let form = || WireError::Form {
            expected: "have|ack <offset> <lines>",
            got: line.to_owned(),
        };
        let [word, offset, lines] = words(line).ok_or_else(form)?;
        let position = position(offset, lines).ok_or_else(form)?;
        match word {
            "have" => Ok(Self::Have(position)),
            "ack" => Ok(Self::Ack(position)),
            _ => Err(form()),
        }
    }
}

/// The header of a data frame; `len` bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// Where in the stream the bytes begin.
    pub at: Position,
    /// When the sidecar first saw them, in milliseconds since 1970.
    pub time_ms: u64,
    /// How many bytes follow.
    pub len: usize,
}

impl Data {
    /// The header as a line.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("data {} {} {}\n", self.at, self.time_ms, self.len)
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// When it is no data header, or the frame would be too big.
    pub fn parse(line: &str) -> Result<Self, WireError> {
        let form = || WireError::Form {
            expected: "data <offset> <lines> <time> <length>",
            got: line.to_owned(),
        };
        let [word, offset, lines, time, len] = words(line).ok_or_else(form)?;
        if word != "data" {
            return Err(form());
        }
        let len: usize = len.parse().map_err(|_| form())?;
        if len > MAX_FRAME {
            return Err(WireError::TooBig(len));
        }
        Ok(Self {
            at: position(offset, lines).ok_or_else(form)?,
            time_ms: time.parse().map_err(|_| form())?,
            len,
        })
    }
}

/// Takes one line from the front of `buffer`, when it is whole: the line and how much it took.
///
/// # Errors
/// When it is longer than a header may be, or no text.
pub fn take_line(buffer: &[u8]) -> Result<Option<(&str, usize)>, WireError> {
    let head = &buffer[..buffer.len().min(MAX_HEADER)];
    match head.iter().position(|b| *b == b'\n') {
        Some(end) => {
            let line = std::str::from_utf8(&head[..end]).map_err(|_| WireError::Header)?;
            Ok(Some((line, end + 1)))
        }
        None if buffer.len() >= MAX_HEADER => Err(WireError::Header),
        None => Ok(None),
    }
}

/// Exactly `N` words.
fn words<const N: usize>(text: &str) -> Option<[&str; N]> {
    let mut parts = text.split_ascii_whitespace();
    let mut found = [""; N];
    for slot in &mut found {
        *slot = parts.next()?;
    }
    parts.next().is_none().then_some(found)
}

/// A position that arithmetic on it can't overflow.
fn position(offset: &str, lines: &str) -> Option<Position> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n < 1 << 62);
    let (offset, lines) = (number(offset)?, number(lines)?);
    (lines <= offset).then_some(Position { offset, lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refused() {
        for line in [
            "",
            "deis-log 1",
            "deis-log 2 blog web.1 s.1 0 0",
            "deis-log 1 Blog web.1 s.1 0 0",
            "deis-log 1 ../etc web.1 s.1 0 0",
            "deis-log 1 blog web/1 s.1 0 0",
            "deis-log 1 blog web.1 s.1 0 0 0",
            "deis-log 1 blog web.1 s.1 -1 0",
            "deis-log 1 blog web.1 s.1 1 2",
            "deis-log 1 blog web.1 s.1 18446744073709551615 0",
        ] {
            assert!(Hello::parse(line).is_err(), "{line:?} must be refused");
        }
        assert_eq!(
            Data::parse("data 0 0 0 65537"),
            Err(WireError::TooBig(65537))
        );
        assert!(Reply::parse("have 1").is_err());
        assert!(Reply::parse("nack 1 1").is_err());
    }

    #[test]
    fn lines_are_bounded() {
        assert_eq!(take_line(b"abc"), Ok(None));
        assert_eq!(take_line(b"abc\ndef"), Ok(Some(("abc", 4))));
        assert_eq!(take_line(&[b'x'; MAX_HEADER]), Err(WireError::Header));
        assert_eq!(take_line(b"\xff\n"), Err(WireError::Header));
    }

    fn positions() -> impl Strategy<Value = Position> {
        (0u64..1 << 62)
            .prop_flat_map(|offset| (Just(offset), 0..=offset))
            .prop_map(|(offset, lines)| Position { offset, lines })
    }

    proptest! {
        #[test]
        fn round_trip(at in positions(), time_ms: u64, len in 0..=MAX_FRAME, epoch: u64) {
            let data = Data { at, time_ms, len };
            prop_assert_eq!(Data::parse(data.encode().trim_end()), Ok(data));
            for reply in [Reply::Have(at), Reply::Ack(at)] {
                prop_assert_eq!(Reply::parse(reply.encode().trim_end()), Ok(reply));
            }
            let hello = Hello {
                app: "blog".parse().expect("app"),
                source: "web.1".parse().expect("source"),
                stream: StreamId::new("6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111", epoch).expect("id"),
                acked: at,
            };
            let line = hello.encode();
            prop_assert!(line.len() <= MAX_HEADER);
            prop_assert_eq!(Hello::parse(line.trim_end()), Ok(hello));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(Some((line, taken))) = take_line(&bytes) {
                prop_assert_eq!(taken, line.len() + 1);
                let _ = (Hello::parse(line), Reply::parse(line), Data::parse(line));
            }
        }
    }
}
