//! Where to cut a stream of bytes into frames of whole lines. Pure.

use super::wire::MAX_FRAME;

/// How many of `bytes`, which begin where the reader stands, make the next frame.
///
/// A frame is whole lines that were seen in the same second: `time_changes` says after how many
/// bytes another second begins. A line that is longer than a frame is cut; one that still waits
/// for its newline is sent only with `flush`. A cut never divides a UTF-8 character.
#[must_use]
pub fn next(bytes: &[u8], time_changes: Option<usize>, flush: bool) -> Option<usize> {
    let window = &bytes[..bytes.len().min(MAX_FRAME)];
    // A line belongs to the second in which it began: the last line of this second is the one that
    // ends at the first newline at or after the byte before the change.
    let last_of_second = time_changes
        .and_then(|at| at.checked_sub(1))
        .filter(|from| *from < window.len())
        .and_then(|from| {
            let rest = window[from..].iter().position(|b| *b == b'\n')?;
            Some(from + rest + 1)
        });
    let window = &window[..last_of_second.unwrap_or(window.len())];
    if let Some(last) = window.iter().rposition(|b| *b == b'\n') {
        return Some(last + 1);
    }
    let full = window.len() == MAX_FRAME;
    (!window.is_empty() && (full || flush)).then(|| whole_characters(window))
}

/// How many of these bytes are half a line whose begin was dropped, and whether it ends there.
#[must_use]
pub fn skip(bytes: &[u8]) -> (usize, bool) {
    match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => (end + 1, true),
        None => (bytes.len(), false),
    }
}

/// The length of `bytes` without a UTF-8 character that has only begun at their end; all of them
/// when they are no UTF-8 there.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes[at] {
            0b1100_0000..=0b1101_1111 => 2,
            0b1110_0000..=0b1110_1111 => 3,
            0b1111_0000..=0b1111_0111 => 4,
            0b1000_0000..=0b1011_1111 => continue,
            _ => 1,
        };
        return if needs > back && at > 0 {
            at
        } else {
            bytes.len()
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cuts() {
        type Case<'b> = (&'b [u8], Option<usize>, bool, Option<usize>);
        let cases: &[Case<'_>] = &[
            (b"", None, false, None),
            (b"", None, true, None),
            (b"abc", None, false, None),
            (b"abc", None, true, Some(3)),
            (b"a\nb", None, false, Some(2)),
            (b"a\nb", None, true, Some(2)),
            (b"a\nb\nc\n", None, false, Some(6)),
            // The second changes after "a\n", within "b\n", after "b\n".
            (b"a\nb\nc\n", Some(2), false, Some(2)),
            (b"a\nb\nc\n", Some(3), false, Some(4)),
            (b"a\nb\nc\n", Some(4), false, Some(4)),
            (b"a\nb\nc\n", Some(99), false, Some(6)),
            (b"a\xc3", None, true, Some(1)),
            (b"a\xf0\x9f\x98", None, true, Some(1)),
            (b"\xf0\x9f\x98\x80", None, true, Some(4)),
            (b"\x80\x80\x80\x80", None, true, Some(4)),
            (b"\xc3", None, true, Some(1)),
            (b"\0\n", None, false, Some(2)),
        ];
        for (bytes, change, flush, want) in cases {
            assert_eq!(
                next(bytes, *change, *flush),
                *want,
                "{bytes:?} {change:?} {flush}"
            );
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let mut long = vec![b'x'; 2 * MAX_FRAME];
        assert_eq!(next(&long, None, false), Some(MAX_FRAME));
        long[MAX_FRAME - 1] = 0xc3;
        assert_eq!(next(&long, None, false), Some(MAX_FRAME - 1));
    }

    proptest! {
        /// Frame by frame, nothing is lost, nothing stalls, and only the rest waits.
        #[test]
        fn frames_add_up(lines in proptest::collection::vec("[a-zé\u{1F600}]{0,30}", 0..50), change in 1usize..200, rest in "[a-z]{0,9}") {
            let mut text = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
            text.push_str(&rest);
            let bytes = text.as_bytes();
            let mut at = 0;
            while let Some(len) = next(&bytes[at..], change.checked_sub(at).filter(|c| *c > 0), false) {
                prop_assert!(len > 0);
                prop_assert!(bytes[..at + len].ends_with(b"\n"));
                at += len;
            }
            prop_assert_eq!(&bytes[at..], rest.as_bytes());
        }
    }
}
