//! Puts together what several loggers, or one that was asked twice, say of the same streams. Pure.

use std::collections::HashMap;

use super::record::{Data, Missing};
use crate::sidecar::wire::StreamId;

/// Streams that are remembered; then those that said nothing for longest are forgotten.
const STREAMS: usize = 8192;
/// Parts of one stream that are remembered apart.
const PARTS: usize = 64;

/// Which bytes of which streams have been shown.
#[derive(Debug, Default)]
pub struct Seen {
    streams: HashMap<StreamId, Shown>,
    /// Counts records, as a clock for what to forget.
    clock: u64,
}

#[derive(Debug, Default)]
struct Shown {
    /// From where to where: apart from each other, in order.
    parts: Vec<(u64, u64)>,
    used: u64,
}

impl Seen {
    /// What of a record is new; it counts as shown from then on.
    pub fn take<'b>(&mut self, data: Data<'b>) -> Vec<Data<'b>> {
        let Some((stream, begin)) = data.origin.clone() else {
            return vec![data];
        };
        self.clock += 1;
        self.forget();
        let shown = self.streams.entry(stream.clone()).or_default();
        shown.used = self.clock;
        let end = begin.offset + data.bytes.len() as u64;
        let mut new = Vec::new();
        for (from, to) in shown.new_parts(begin.offset, end) {
            let skip = usize::try_from(from - begin.offset).expect("invariant: within a record");
            let stop = usize::try_from(to - begin.offset).expect("invariant: within a record");
            let (before, rest) = data.bytes.split_at(skip);
            let first = skip == 0;
            let missing = |missing| if first { missing } else { Missing::default() };
            new.push(Data {
                origin: Some((stream.clone(), begin.after(before))),
                continues: if first {
                    data.continues
                } else {
                    !before.ends_with(b"\n")
                },
                dropped: missing(data.dropped),
                elsewhere: missing(data.elsewhere),
                bytes: &rest[..stop - skip],
                ..data.clone()
            });
        }
        shown.add(begin.offset, end);
        new
    }

    /// A record that was taken, without the word that another logger took what was before it, if
    /// that one has shown it.
    #[must_use]
    pub fn settle<'b>(&self, data: Data<'b>) -> Data<'b> {
        let Some((stream, begin)) = &data.origin else {
            return data;
        };
        let to = begin.offset.saturating_sub(data.dropped.bytes);
        let from = to.saturating_sub(data.elsewhere.bytes);
        let shown = self.streams.get(stream);
        if shown.is_some_and(|shown| shown.new_parts(from, to).is_empty()) {
            return Data {
                elsewhere: Missing::default(),
                ..data
            };
        }
        data
    }

    fn forget(&mut self) {
        if self.streams.len() < STREAMS {
            return;
        }
        let mut used: Vec<u64> = self.streams.values().map(|shown| shown.used).collect();
        used.sort_unstable();
        let median = used[used.len() / 2];
        self.streams.retain(|_, shown| shown.used > median);
    }
}

impl Shown {
    /// The parts between two places that were not shown.
    fn new_parts(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let (mut at, mut new) = (from, Vec::new());
        for (begin, end) in &self.parts {
            if *end <= at {
                continue;
            }
            if *begin >= to {
                break;
            }
            if *begin > at {
                new.push((at, *begin));
            }
            at = *end;
        }
        if at < to {
            new.push((at, to));
        }
        new
    }

    fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.parts.partition_point(|(_, end)| *end < from);
        let last = self.parts.partition_point(|(begin, _)| *begin <= to);
        let (mut begin, mut end) = (from, to);
        for part in &self.parts[first..last] {
            (begin, end) = (begin.min(part.0), end.max(part.1));
        }
        self.parts.splice(first..last, [(begin, end)]);
        if self.parts.len() > PARTS {
            self.parts.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::wire::Position;
    use proptest::prelude::*;

    fn data(bytes: &[u8], offset: u64) -> Data<'_> {
        let stream: StreamId = "s.1".parse().expect("stream");
        Data {
            time_ms: 0,
            source: "web.1".parse().expect("source"),
            origin: Some((stream, Position { offset, lines: 0 })),
            continues: false,
            dropped: Missing::default(),
            elsewhere: Missing::default(),
            bytes,
        }
    }

    fn texts(new: &[Data<'_>]) -> Vec<String> {
        new.iter()
            .map(|data| String::from_utf8_lossy(data.bytes).into_owned())
            .collect()
    }

    #[test]
    fn what_was_shown_is_left_out() {
        let mut seen = Seen::default();
        assert_eq!(texts(&seen.take(data(b"a\nb\n", 0))), ["a\nb\n"]);
        assert_eq!(texts(&seen.take(data(b"a\nb\n", 0))), [""; 0]);
        let longer = seen.take(data(b"b\nc\n", 2));
        assert_eq!(texts(&longer), ["c\n"]);
        assert!(!longer[0].continues);
        assert_eq!(texts(&seen.take(data(b"x\n", 10))), ["x\n"]);
        // From both sides of what was shown.
        assert_eq!(
            texts(&seen.take(data(b"c\n....x\ny\n", 4))),
            ["....", "y\n"]
        );
        // The platform's own lines without an id can't be told apart.
        let old = Data {
            origin: None,
            ..data(b"old\n", 0)
        };
        assert_eq!(texts(&seen.take(old)), ["old\n"]);
    }

    #[test]
    fn what_another_logger_took_is_missing_only_if_it_does_not_show_it() {
        let elsewhere = Missing { bytes: 4, lines: 2 };
        let with_gap = || Data {
            elsewhere,
            ..data(b"c\n", 4)
        };
        let mut seen = Seen::default();
        let new = seen.take(with_gap());
        assert_eq!(seen.settle(new[0].clone()).elsewhere, elsewhere);
        // It may come afterwards.
        seen.take(data(b"a\nb\n", 0));
        assert!(seen.settle(new[0].clone()).elsewhere.is_none());
    }

    proptest! {
        /// Whoever says what how often: each byte is shown once.
        #[test]
        fn each_byte_once(said in proptest::collection::vec((0usize..200, 0usize..60), 0..60)) {
            let all: Vec<u8> = (0..=255).collect();
            let mut seen = Seen::default();
            let mut shown = vec![0; 256];
            let mut want = vec![0; 256];
            for (from, len) in said {
                let to = (from + len).min(256);
                want[from..to].fill(1);
                for new in seen.take(data(&all[from..to], from as u64)) {
                    let at = usize::try_from(new.origin.expect("origin").1.offset).expect("small");
                    prop_assert_eq!(new.bytes, &all[at..at + new.bytes.len()]);
                    for count in &mut shown[at..at + new.bytes.len()] {
                        *count += 1;
                    }
                }
            }
            prop_assert_eq!(shown, want);
        }
    }
}
