//! Records as people read them: `<timestamp> <app>[<source>]: <line>`. Pure.

use jiff::Timestamp;

use super::record::{Data, Missing};
use crate::{
    model::AppName,
    sidecar::wire::{MAX_FRAME, Source},
};

/// Stands after a piece of a line that is too long for one frame.
const CUT: &str = " [the line goes on]";

/// How many lines a record is for people.
#[must_use]
pub fn count(data: &Data<'_>) -> usize {
    let notices = usize::from(!data.dropped.is_none()) + usize::from(!data.elsewhere.is_none());
    notices + lines(data).count()
}

/// Appends a record's lines to `out`, all but the first `skip`.
pub fn render(app: &AppName, data: &Data<'_>, skip: usize, out: &mut String) {
    let time = timestamp(data.time_ms);
    let (source, platform) = (&data.source, Source::platform());
    let mut left = skip;
    let mut put = |from: &Source, text: &str| {
        if left > 0 {
            left -= 1;
            return;
        }
        for part in [
            &time,
            " ",
            app.as_str(),
            "[",
            from.as_str(),
            "]: ",
            text,
            "\n",
        ] {
            out.push_str(part);
        }
    };
    if let Some(counted) = words(data.elsewhere) {
        let text = format!("{counted} of {source} are not here: another logger took them");
        put(&platform, &text);
    }
    if let Some(counted) = words(data.dropped) {
        let text = format!("{counted} of {source} were dropped: the logger was not reachable");
        put(&platform, &text);
    }
    // A piece of this length was cut; a shorter one without its newline is a process's last word,
    // or a prompt.
    let cut = data.bytes.len() > MAX_FRAME - 4 && !data.bytes.ends_with(b"\n");
    let mut lines = lines(data).peekable();
    while let Some(line) = lines.next() {
        let text = String::from_utf8_lossy(line);
        if cut && lines.peek().is_none() {
            put(source, &format!("{text}{CUT}"));
        } else {
            put(source, &text);
        }
    }
}

/// The record's lines. A newline that only ends what an earlier record showed is none.
fn lines<'b>(data: &Data<'b>) -> impl Iterator<Item = &'b [u8]> {
    let bytes = match data.bytes {
        [b'\n', rest @ ..] if data.continues => rest,
        bytes => bytes,
    };
    let ended = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let none = bytes.is_empty();
    ended.split(|b| *b == b'\n').filter(move |_| !none)
}

fn words(missing: Missing) -> Option<String> {
    let Missing { bytes, lines } = missing;
    let plural = if lines == 1 { "" } else { "s" };
    (!missing.is_none()).then(|| format!("{lines} line{plural} ({bytes} bytes)"))
}

/// Deis v1's form of a time: `2015-01-01T00:00:00UTC`.
fn timestamp(time_ms: u64) -> String {
    i64::try_from(time_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default()
        .strftime("%Y-%m-%dT%H:%M:%SUTC")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: &[u8]) -> Data<'_> {
        Data {
            time_ms: 1_420_070_400_999,
            source: "web.1".parse().expect("source"),
            origin: None,
            continues: false,
            dropped: Missing::default(),
            elsewhere: Missing::default(),
            bytes,
        }
    }

    fn text(data: &Data<'_>) -> String {
        let app = "blog".parse().expect("app");
        let (mut all, mut last) = (String::new(), String::new());
        render(&app, data, 0, &mut all);
        assert_eq!(all.lines().count(), count(data), "{all}");
        render(&app, data, count(data).saturating_sub(1), &mut last);
        assert_eq!(all.lines().last(), last.lines().last());
        all
    }

    #[test]
    fn lines_for_people() {
        let prefix = "2015-01-01T00:00:00UTC blog[web.1]: ";
        let cases: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"a\n", &["a"]),
            (b"a\n\nb\n", &["a", "", "b"]),
            (b"prompt> ", &["prompt> "]),
            (b"\n", &[""]),
            (b"nul \0 and \xff\n", &["nul \0 and \u{fffd}"]),
        ];
        for (bytes, want) in cases {
            let want: String = want.iter().map(|l| format!("{prefix}{l}\n")).collect();
            assert_eq!(text(&data(bytes)), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_newline_that_ends_a_shown_line_is_no_line() {
        let rest = Data {
            continues: true,
            ..data(b"\nb\n")
        };
        assert_eq!(text(&rest), "2015-01-01T00:00:00UTC blog[web.1]: b\n");
        assert_eq!(
            text(&Data {
                continues: true,
                ..data(b"\n")
            }),
            ""
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        let dropped = Missing {
            bytes: 100,
            lines: 7,
        };
        let elsewhere = Missing { bytes: 9, lines: 1 };
        let text = text(&Data {
            dropped,
            elsewhere,
            ..data(b"a\n")
        });
        let lines: Vec<&str> = text.lines().map(|l| &l[23..]).collect();
        assert_eq!(
            lines,
            [
                "blog[deis]: 1 line (9 bytes) of web.1 are not here: another logger took them",
                "blog[deis]: 7 lines (100 bytes) of web.1 were dropped: the logger was not reachable",
                "blog[web.1]: a",
            ]
        );
    }

    #[test]
    fn a_cut_line_says_so() {
        let long = vec![b'x'; MAX_FRAME];
        assert!(text(&data(&long)).ends_with("x [the line goes on]\n"));
    }
}
