//! In which order lines are read. Pure.
//!
//! A log holds records as they arrived: a host that could not reach its logger for a while brings
//! its lines late. Readers of the past get them in the order of their times, by the second, and
//! within a second as they arrived. Lines of one process are never in another order than it said
//! them, whatever a clock does. A follower gets new lines as they arrive.

use std::collections::HashMap;

use super::{record::Data, render};
use crate::sidecar::wire::StreamId;

/// What the order of a record depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    stream: Option<StreamId>,
    offset: u64,
    second: u64,
    lines: usize,
    /// It goes on with a line of the record before it, if that one was cut.
    joins: bool,
    cut: bool,
}

impl Meta {
    /// Of a record.
    #[must_use]
    pub fn of(data: &Data<'_>) -> Self {
        let (stream, offset) = match &data.origin {
            Some((stream, at)) => (Some(stream.clone()), at.offset),
            None => (None, 0),
        };
        Self {
            stream,
            offset,
            second: data.time_ms / 1000,
            lines: render::count(data),
            joins: data.continues && !data.bytes.starts_with(b"\n"),
            cut: render::is_cut(data),
        }
    }

    /// Lines that begin in it at least.
    #[must_use]
    pub fn least_lines(&self) -> usize {
        self.lines - usize::from(self.joins && self.lines > 0)
    }
}

/// The order: indices into `metas`, which are as they arrived; and how many lines all of it is.
#[must_use]
pub fn order(metas: &[Meta]) -> (Vec<usize>, usize) {
    // One process's records come by their place in its stream, however they arrived.
    let mut streams: HashMap<&StreamId, Vec<usize>> = HashMap::new();
    for (at, meta) in metas.iter().enumerate() {
        if let Some(stream) = &meta.stream {
            streams.entry(stream).or_default().push(at);
        }
    }
    // The second as which a record counts, and the record with which it began.
    let mut place: Vec<(u64, usize)> = metas
        .iter()
        .enumerate()
        .map(|(at, meta)| (meta.second, at))
        .collect();
    let mut lines: usize = metas.iter().map(|meta| meta.lines).sum();
    for records in streams.values_mut() {
        records.sort_by_key(|at| metas[*at].offset);
        let mut before: Option<usize> = None;
        for at in &*records {
            if let Some(before) = before {
                if metas[before].cut && metas[*at].joins {
                    place[*at] = place[before];
                    lines -= 1;
                } else {
                    // Never before what it said before.
                    place[*at] = place[*at].max(place[before]);
                }
            }
            before = Some(*at);
        }
    }
    let mut order: Vec<usize> = (0..metas.len()).collect();
    order.sort_by_key(|at| {
        let (second, arrived) = place[*at];
        (second, arrived, metas[*at].offset, *at)
    });
    (order, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta(stream: &str, offset: u64, second: u64) -> Meta {
        Meta {
            stream: Some(stream.parse().expect("stream")),
            offset,
            second,
            lines: 1,
            joins: false,
            cut: false,
        }
    }

    #[test]
    fn by_time_within_a_second_by_arrival() {
        // b was cut off for a while, and brings its lines late.
        let metas = [
            meta("a", 0, 10),
            meta("a", 1, 11),
            meta("a", 2, 12),
            meta("b", 0, 10),
            meta("b", 1, 11),
            meta("a", 3, 12),
        ];
        assert_eq!(order(&metas), (vec![0, 3, 1, 4, 2, 5], 6));
    }

    #[test]
    fn a_clock_that_steps_back_reorders_no_process() {
        let metas = [
            meta("a", 0, 20),
            meta("a", 1, 10),
            meta("b", 0, 15),
            meta("a", 2, 11),
        ];
        assert_eq!(order(&metas).0, [2, 0, 1, 3]);
    }

    #[test]
    fn a_long_line_is_one_line() {
        let cut = |offset, joins| Meta {
            cut: true,
            joins,
            ..meta("a", offset, 10)
        };
        let metas = [
            cut(0, false),
            meta("b", 0, 10),
            cut(1, true),
            Meta {
                joins: true,
                ..meta("a", 2, 11)
            },
        ];
        assert_eq!(order(&metas), (vec![0, 2, 3, 1], 2));
    }

    proptest! {
        /// Each record once; each stream in its own order; seconds never go back but for a stream
        /// whose own clock did.
        #[test]
        fn complete_and_true_to_each_stream(said in proptest::collection::vec((0u8..4, 0u64..20), 0..60)) {
            let mut next = [0; 4];
            let metas: Vec<Meta> = said.iter().map(|(stream, second)| {
                let at = &mut next[usize::from(*stream)];
                *at += 1;
                meta(&format!("s{stream}"), *at, *second)
            }).collect();
            let (order, lines) = order(&metas);
            prop_assert_eq!(lines, metas.len());
            let mut all = order.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..metas.len()).collect::<Vec<_>>());
            let mut last: HashMap<&StreamId, (u64, u64)> = HashMap::new();
            let mut before = 0;
            for at in order {
                let stream = metas[at].stream.as_ref().expect("stream");
                let (offset, most) = last.entry(stream).or_default();
                prop_assert!(metas[at].offset > *offset);
                let counts_as = metas[at].second.max(*most);
                (*offset, *most) = (metas[at].offset, counts_as);
                prop_assert!(counts_as >= before);
                before = counts_as;
            }
        }
    }
}
