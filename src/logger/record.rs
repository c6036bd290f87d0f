//! One record of a log file: bytes of a stream, or a mark of where a stream stands. Pure.
//!
//! ```text
//! @data <time> <source> <stream> <offset> <lines> <cont> <dropped b l> <elsewhere b l> <len> <crc>\n + bytes + \n
//! @mark <seen> <stream> <offset> <lines> <cont> <live|dead> <crc>\n
//! ```
//!
//! Lines and the position that they bring a stream to are one record, and a record is one write:
//! whatever is killed, both are there or neither.

use std::fmt;

use crate::sidecar::wire::{MAX_FRAME, Position, Source, StreamId};

/// Most bytes that a record takes in a file.
pub const MAX_RECORD: usize = MAX_FRAME + MAX_HEAD + 1;
/// Most bytes of a record's first line.
const MAX_HEAD: usize = 512;

/// Lines and bytes that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missing {
    /// How many bytes.
    pub bytes: u64,
    /// How many lines.
    pub lines: u64,
}

impl Missing {
    /// What lies between two positions.
    #[must_use]
    pub fn between(from: Position, to: Position) -> Self {
        Self {
            bytes: to.offset.saturating_sub(from.offset),
            lines: to.lines.saturating_sub(from.lines),
        }
    }

    /// Nothing is missing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.bytes == 0
    }
}

/// Bytes that a process, or the platform, said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data<'b> {
    /// When they were first seen, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who said it.
    pub source: Source,
    /// Which stream, and where in it the bytes begin; none for the platform's own lines.
    pub origin: Option<(StreamId, Position)>,
    /// The bytes continue a line that was begun in an earlier record.
    pub continues: bool,
    /// What its host dropped before, because no logger could be reached.
    pub dropped: Missing,
    /// What another logger acknowledged before.
    pub elsewhere: Missing,
    /// What was said.
    pub bytes: &'b [u8],
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Which stream.
    pub stream: StreamId,
    /// Its state.
    pub state: StreamState,
}

/// What the logger knows of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamState {
    /// Everything before it is kept.
    pub at: Position,
    /// The last byte was no newline.
    pub mid_line: bool,
    /// When something last came, in milliseconds since 1970.
    pub seen_ms: u64,
    /// Its app's log was deleted: what still comes is thrown away.
    pub dead: bool,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'b> {
    /// Lines.
    Data(Data<'b>),
    /// A stream's position, at the begin of a file.
    Mark(Mark),
}

/// What stands at some place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<'b> {
    /// A record, and how many bytes it takes.
    Record(Record<'b>, usize),
    /// The begin of one, perhaps: there are too few bytes to tell.
    Short,
    /// No record.
    Broken,
}

impl Record<'_> {
    /// Appends the stored form to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (head, bytes): (String, Option<&[u8]>) = match self {
            Self::Data(data) => (data.head(), Some(data.bytes)),
            Self::Mark(mark) => (mark.head(), None),
        };
        let sum = checksum(head.as_bytes(), bytes.unwrap_or_default());
        out.extend_from_slice(format!("{head} {sum:08x}\n").as_bytes());
        if let Some(bytes) = bytes {
            out.extend_from_slice(bytes);
            out.push(b'\n');
        }
    }
}

impl Data<'_> {
    fn head(&self) -> String {
        let Self {
            time_ms,
            source,
            continues,
            dropped,
            elsewhere,
            ..
        } = self;
        let none: &dyn fmt::Display = &"-";
        let (stream, at) = match &self.origin {
            Some((stream, at)) => (stream as &dyn fmt::Display, *at),
            None => (none, Position::default()),
        };
        format!(
            "@data {time_ms} {source} {stream} {at} {} {} {} {} {} {}",
            u8::from(*continues),
            dropped.bytes,
            dropped.lines,
            elsewhere.bytes,
            elsewhere.lines,
            self.bytes.len(),
        )
    }
}

impl Mark {
    fn head(&self) -> String {
        let StreamState {
            at,
            mid_line,
            seen_ms,
            dead,
        } = self.state;
        let state = if dead { "dead" } else { "live" };
        let (stream, mid_line) = (&self.stream, u8::from(mid_line));
        format!("@mark {seen_ms} {stream} {at} {mid_line} {state}")
    }
}

fn checksum(head: &[u8], bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(head);
    sum.update(bytes);
    sum.sum()
}

/// Reads the record at the begin of `bytes`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let window = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some(end) = window.iter().position(|b| *b == b'\n') else {
        return if bytes.len() < MAX_HEAD {
            Parsed::Short
        } else {
            Parsed::Broken
        };
    };
    let parts = std::str::from_utf8(&window[..end])
        .ok()
        .and_then(|line| line.rsplit_once(' '));
    let Some((head, sum)) = parts else {
        return Parsed::Broken;
    };
    let rest = &bytes[end + 1..];
    let (record, taken) = match parse_head(head, rest) {
        Head::Whole(record, taken) => (record, taken),
        Head::Short => return Parsed::Short,
        Head::Broken => return Parsed::Broken,
    };
    let body = match &record {
        Record::Data(data) => data.bytes,
        Record::Mark(_) => &[],
    };
    if u32::from_str_radix(sum, 16) != Ok(checksum(head.as_bytes(), body)) {
        return Parsed::Broken;
    }
    Parsed::Record(record, end + 1 + taken)
}

enum Head<'b> {
    Whole(Record<'b>, usize),
    Short,
    Broken,
}

fn parse_head<'b>(head: &str, rest: &'b [u8]) -> Head<'b> {
    let words: Vec<&str> = head.split(' ').collect();
    match words[..] {
        [
            "@data",
            time,
            source,
            stream,
            o,
            l,
            cont,
            db,
            dl,
            eb,
            el,
            len,
        ] => {
            let Some(len) = len.parse().ok().filter(|len| *len <= MAX_FRAME) else {
                return Head::Broken;
            };
            let Some(body) = rest.get(..=len) else {
                return Head::Short;
            };
            if body[len] != b'\n' {
                return Head::Broken;
            }
            let data = || {
                let at = position(o, l)?;
                let origin = match stream {
                    "-" => None,
                    stream => Some((stream.parse().ok()?, at)),
                };
                Some(Data {
                    time_ms: time.parse().ok()?,
                    source: source.parse().ok()?,
                    origin,
                    continues: flag(cont)?,
                    dropped: missing(db, dl)?,
                    elsewhere: missing(eb, el)?,
                    bytes: &body[..len],
                })
            };
            data().map_or(Head::Broken, |d| Head::Whole(Record::Data(d), len + 1))
        }
        ["@mark", seen, stream, o, l, mid, state] => {
            let mark = || {
                Some(Mark {
                    stream: stream.parse().ok()?,
                    state: StreamState {
                        at: position(o, l)?,
                        mid_line: flag(mid)?,
                        seen_ms: seen.parse().ok()?,
                        dead: state == "dead",
                    },
                })
            };
            mark().map_or(Head::Broken, |m| Head::Whole(Record::Mark(m), 0))
        }
        _ => Head::Broken,
    }
}

fn position(offset: &str, lines: &str) -> Option<Position> {
    Some(Position {
        offset: offset.parse().ok()?,
        lines: lines.parse().ok()?,
    })
}

fn missing(bytes: &str, lines: &str) -> Option<Missing> {
    Some(Missing {
        bytes: bytes.parse().ok()?,
        lines: lines.parse().ok()?,
    })
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(bytes: &[u8], at: u64) -> Data<'_> {
        let stream = StreamId::new("6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111", 7).expect("id");
        Data {
            time_ms: 1_430_000_000_123,
            source: "web.1".parse().expect("source"),
            origin: Some((
                stream,
                Position {
                    offset: at,
                    lines: at / 2,
                },
            )),
            continues: at % 2 == 1,
            dropped: Missing {
                bytes: at,
                lines: 1,
            },
            elsewhere: Missing::default(),
            bytes,
        }
    }

    proptest! {
        #[test]
        fn round_trip_and_every_tear_is_seen(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0u64..1 << 60, cut: proptest::sample::Index, flip: proptest::sample::Index,
        ) {
            let record = Record::Data(sample(&bytes, at));
            let mut stored = Vec::new();
            record.encode(&mut stored);
            prop_assert!(stored.len() <= MAX_RECORD);
            let whole = Parsed::Record(record, stored.len());
            prop_assert_eq!(parse(&stored), whole.clone());

            let torn = &stored[..cut.index(stored.len())];
            prop_assert_eq!(parse(torn), Parsed::Short);

            let mut flipped = stored.clone();
            flipped[flip.index(stored.len())] ^= 1;
            prop_assert_ne!(parse(&flipped), whole);
        }

        #[test]
        fn any_bytes_are_no_trouble(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn marks() {
        let (stream, at) = sample(b"", 6).origin.expect("origin");
        for dead in [false, true] {
            let state = StreamState {
                at,
                mid_line: true,
                seen_ms: 5,
                dead,
            };
            let record = Record::Mark(Mark {
                stream: stream.clone(),
                state,
            });
            let mut stored = Vec::new();
            record.encode(&mut stored);
            assert_eq!(parse(&stored), Parsed::Record(record, stored.len()));
        }
    }

    #[test]
    fn the_platforms_own_lines() {
        let data = Data {
            origin: None,
            continues: false,
            ..sample(b"hi\n", 0)
        };
        let record = Record::Data(data);
        let mut stored = Vec::new();
        record.encode(&mut stored);
        assert_eq!(parse(&stored), Parsed::Record(record, stored.len()));
        assert_eq!(parse(b"@data x\n"), Parsed::Broken);
        assert_eq!(parse(b"\n"), Parsed::Broken);
    }
}
