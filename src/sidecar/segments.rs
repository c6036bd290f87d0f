//! What a spool holds, as a value: which segments, what may go, and when its bytes were seen. Pure.

use std::collections::VecDeque;

use super::wire::Position;

/// Bytes after which a new segment begins.
pub const SEGMENT_BYTES: u64 = 256 * 1024;
/// Bytes that a spool may hold; then the oldest segment goes.
pub const SPOOL_BYTES: u64 = 4 * 1024 * 1024;
/// Segments that a spool may hold; then the oldest goes.
pub const MAX_SEGMENTS: usize = 32;
/// Changes of time that one segment may note; then a new segment begins.
pub const MAX_TIMES: usize = 1024;

/// One file of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Position of its first byte in the stream.
    pub base: Position,
    /// Bytes in it.
    pub len: u64,
}

impl Segment {
    /// Offset after its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base.offset + self.len
    }
}

/// A reader's place in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// What it reads next.
    pub at: Position,
    /// The bytes before were dropped, so what is there until the next newline is half a line, and
    /// goes too.
    pub skipping: bool,
}

/// The segments, oldest first: never none, without a gap between them, the last one being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments(VecDeque<Segment>);

impl Segments {
    /// Makes sense of the files found: the newest run without a gap is the spool, the others are
    /// to be removed. A gap is left by a spool that found its file system full.
    #[must_use]
    pub fn recover(mut found: Vec<Segment>) -> (Self, Vec<Segment>) {
        found.sort_unstable();
        let mut kept = VecDeque::new();
        while let Some(segment) = found.last() {
            let joins = kept
                .front()
                .is_none_or(|next: &Segment| segment.end() == next.base.offset);
            if !joins {
                break;
            }
            kept.push_front(*segment);
            found.pop();
        }
        if kept.is_empty() {
            kept.push_back(Segment {
                base: Position::default(),
                len: 0,
            });
        }
        (Self(kept), found)
    }

    /// The segment being written.
    #[must_use]
    pub fn current(&self) -> &Segment {
        self.0
            .back()
            .expect("invariant: a spool has a segment being written")
    }

    /// The oldest segment.
    #[must_use]
    pub fn oldest(&self) -> &Segment {
        self.0
            .front()
            .expect("invariant: a spool has a segment being written")
    }

    /// Offset after the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.current().end()
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end() - self.oldest().base.offset
    }

    /// The segment that holds the byte at `offset`.
    #[must_use]
    pub fn holding(&self, offset: u64) -> Option<&Segment> {
        self.0
            .iter()
            .find(|s| s.base.offset <= offset && offset < s.end())
    }

    /// Bytes were added to the current segment.
    pub fn grew(&mut self, bytes: u64) {
        if let Some(current) = self.0.back_mut() {
            current.len += bytes;
        }
    }

    /// The current segment, which holds `newlines`, is done; an empty one follows it.
    pub fn rotate(&mut self, newlines: u64) -> Segment {
        let done = *self.current();
        let next = Segment {
            base: Position {
                offset: done.end(),
                lines: done.base.lines + newlines,
            },
            len: 0,
        };
        self.0.push_back(next);
        next
    }

    /// Bytes that could not be stored are lost, and with them all that is here: the stream goes on
    /// after them. Answers with the segments to remove.
    pub fn lose(&mut self, newlines_in_current: u64, lost: Position) -> Vec<Segment> {
        let next = Segment {
            base: Position {
                offset: self.end() + lost.offset,
                lines: self.current().base.lines + newlines_in_current + lost.lines,
            },
            len: 0,
        };
        let gone = self.0.drain(..).collect();
        self.0.push_back(next);
        gone
    }

    /// Takes out the oldest segment when there is too much here.
    pub fn drop_overflow(&mut self) -> Option<Segment> {
        let over = self.bytes() > SPOOL_BYTES || self.0.len() > MAX_SEGMENTS;
        if over { self.drop_oldest() } else { None }
    }

    /// Takes out the oldest segment, unless it is the one being written.
    pub fn drop_oldest(&mut self) -> Option<Segment> {
        if self.0.len() > 1 {
            self.0.pop_front()
        } else {
            None
        }
    }

    /// Takes out a segment all of which lies before `offset`.
    pub fn drop_before(&mut self, offset: u64) -> Option<Segment> {
        if self.oldest().end() <= offset {
            self.drop_oldest()
        } else {
            None
        }
    }

    /// A cursor at `at`, or, when that is no longer here, at the oldest whole line.
    #[must_use]
    pub fn cursor(&self, at: Position) -> Cursor {
        let oldest = self.oldest().base;
        if at.offset < oldest.offset {
            Cursor {
                at: oldest,
                skipping: true,
            }
        } else {
            Cursor {
                at,
                skipping: false,
            }
        }
    }

    /// A cursor that had been made before segments were dropped, on its feet again.
    #[must_use]
    pub fn follow(&self, cursor: Cursor) -> Cursor {
        if cursor.at.offset < self.oldest().base.offset {
            self.cursor(cursor.at)
        } else {
            cursor
        }
    }
}

/// When the bytes of a stream were first seen, to the second: from an offset on, a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times(VecDeque<(u64, u64)>);

impl Times {
    /// Takes in a note that was read from a file; a later note for an offset wins.
    pub fn recall(&mut self, offset: u64, time_ms: u64) {
        while self.0.back().is_some_and(|(last, _)| *last >= offset) {
            self.0.pop_back();
        }
        self.0.push_back((offset, time_ms));
    }

    /// Bytes from `offset` on are seen now; true when that is a new second, and to be noted.
    pub fn see(&mut self, offset: u64, now_ms: u64) -> bool {
        let same = self
            .0
            .back()
            .is_some_and(|(_, last)| last / 1000 == now_ms / 1000);
        if !same {
            self.recall(offset, now_ms);
        }
        !same
    }

    /// When the byte at `offset` was seen, and from which offset on there is another time.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<(u64, Option<u64>)> {
        let after = self.0.partition_point(|(from, _)| *from <= offset);
        let (_, time) = self.0.get(after.checked_sub(1)?)?;
        Some((*time, self.0.get(after).map(|(from, _)| *from)))
    }

    /// Nobody will ask for bytes before `offset` any more.
    pub fn forget_before(&mut self, offset: u64) {
        while self.0.get(1).is_some_and(|(from, _)| *from <= offset) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(offset: u64, lines: u64, len: u64) -> Segment {
        Segment {
            base: Position { offset, lines },
            len,
        }
    }

    #[test]
    fn recovery_keeps_the_newest_run() {
        let (segments, gone) = Segments::recover(vec![]);
        assert_eq!((segments.end(), gone.len()), (0, 0));

        let found = vec![
            segment(30, 3, 0),
            segment(10, 1, 10),
            segment(20, 2, 10),
            segment(0, 0, 5),
        ];
        let (segments, gone) = Segments::recover(found);
        assert_eq!(segments.oldest(), &segment(10, 1, 10));
        assert_eq!(segments.current(), &segment(30, 3, 0));
        assert_eq!(gone, [segment(0, 0, 5)]);
    }

    #[test]
    fn the_oldest_goes_first_and_a_reader_skips_half_a_line() {
        let (mut segments, _) = Segments::recover(vec![]);
        let reader = segments.cursor(Position::default());
        for _ in 0..16 {
            segments.grew(SEGMENT_BYTES);
            segments.rotate(10);
        }
        assert_eq!(segments.drop_overflow(), None);
        segments.grew(1);
        assert_eq!(segments.drop_overflow(), Some(segment(0, 0, SEGMENT_BYTES)));
        let reader = segments.follow(reader);
        assert!(reader.skipping);
        assert_eq!(
            reader.at,
            Position {
                offset: SEGMENT_BYTES,
                lines: 10
            }
        );
        assert_eq!(segments.follow(reader), reader);
    }

    #[test]
    fn what_is_being_written_never_goes() {
        let (mut segments, _) = Segments::recover(vec![segment(0, 0, 5)]);
        assert_eq!(segments.drop_before(5), None);
        segments.rotate(1);
        assert_eq!(segments.drop_before(4), None);
        assert_eq!(segments.drop_before(5), Some(segment(0, 0, 5)));
        assert_eq!(segments.drop_oldest(), None);
    }

    #[test]
    fn a_loss_moves_the_stream_on() {
        let (mut segments, _) = Segments::recover(vec![segment(0, 0, 100)]);
        let gone = segments.lose(
            7,
            Position {
                offset: 50,
                lines: 3,
            },
        );
        assert_eq!(gone, [segment(0, 0, 100)]);
        assert_eq!(segments.current(), &segment(150, 10, 0));
    }

    #[test]
    fn times_by_the_second() {
        let mut times = Times::default();
        assert_eq!(times.at(0), None);
        assert!(times.see(0, 1_000));
        assert!(!times.see(10, 1_999));
        assert!(times.see(20, 2_000));
        assert!(
            times.see(20, 3_000),
            "nothing came in that second: it is replaced"
        );
        assert_eq!(times.at(5), Some((1_000, Some(20))));
        assert_eq!(times.at(20), Some((3_000, None)));
        times.forget_before(20);
        assert_eq!(times.at(5), None);
        assert_eq!(times.at(99), Some((3_000, None)));
    }

    proptest! {
        /// Whatever happens, the bound holds and the segments join.
        #[test]
        fn bounded_and_joined(steps in proptest::collection::vec((0..=SEGMENT_BYTES, any::<bool>(), 0u64..6_000_000), 0..200)) {
            let (mut segments, _) = Segments::recover(vec![]);
            for (bytes, rotate, acked) in steps {
                let room = SEGMENT_BYTES - segments.current().len;
                segments.grew(bytes.min(room));
                if rotate && segments.current().len > 0 {
                    segments.rotate(1);
                }
                while segments.drop_overflow().is_some() {}
                while segments.drop_before(acked).is_some() {}
                prop_assert!(segments.bytes() <= SPOOL_BYTES);
                prop_assert!(segments.0.len() <= MAX_SEGMENTS);
                let files: Vec<_> = segments.0.iter().copied().collect();
                let (again, gone) = Segments::recover(files);
                prop_assert_eq!(&again, &segments);
                prop_assert!(gone.is_empty());
            }
        }
    }
}
