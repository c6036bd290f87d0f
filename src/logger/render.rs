//! Records as people read them: `<timestamp> <app>[<source>]: <line>`. Pure.

use jiff::Timestamp;

use super::record::{Data, Missing};
use crate::{
    model::AppName,
    sidecar::wire::{MAX_FRAME, Source, StreamId},
};

/// Stands after a piece of a line that is too long for one frame.
const CUT: &str = " [the line goes on]";

/// How many lines a record is for people, read by itself.
#[must_use]
pub fn count(data: &Data<'_>) -> usize {
    let notices = usize::from(!data.dropped.is_none()) + usize::from(!data.elsewhere.is_none());
    notices + lines(data).count()
}

/// Whether its last line was too long for one frame, and goes on in the stream's next record.
///
/// A shorter piece without its newline is a process's last word, or a prompt.
#[must_use]
pub fn is_cut(data: &Data<'_>) -> bool {
    data.bytes.len() > MAX_FRAME - 4 && !data.bytes.ends_with(b"\n")
}

/// Turns records, in the order in which they are read, into lines.
#[derive(Debug)]
pub struct Renderer {
    app: AppName,
    /// Lines still to be left out.
    skip: usize,
    /// The stream whose last line was cut, and whether that line is left out.
    open: Option<(StreamId, bool)>,
}

impl Renderer {
    /// Of an app's records; the first `skip` lines are left out.
    #[must_use]
    pub fn new(app: &AppName, skip: usize) -> Self {
        Self {
            app: app.clone(),
            skip,
            open: None,
        }
    }

    /// Appends a record's lines to `out`. A line that was cut stays without its end, and goes on
    /// with the next record, if that is its own.
    pub fn add(&mut self, data: &Data<'_>, out: &mut String) {
        let stream = data.origin.as_ref().map(|(stream, _)| stream);
        let goes_on = match &self.open {
            Some((open, skipped)) if data.continues && stream == Some(open) => Some(*skipped),
            _ => None,
        };
        if goes_on.is_none() {
            self.finish(out);
        }
        self.open = None;
        let time = timestamp(data.time_ms);
        let (source, platform) = (&data.source, Source::platform());
        if let Some(counted) = words(data.elsewhere) {
            let text = format!("{counted} of {source} are not here: another logger took them");
            self.line(&time, &platform, &text, out);
        }
        if let Some(counted) = words(data.dropped) {
            let text = format!("{counted} of {source} were dropped: the logger was not reachable");
            self.line(&time, &platform, &text, out);
        }
        // The platform's own words, about whatever process, are in v1's one voice.
        let voice = match stream {
            Some(stream) if stream.is_event() => Source::controller(),
            _ => source.clone(),
        };
        let mut skipped = false;
        let mut first = goes_on;
        let ended = data.bytes.starts_with(b"\n") && goes_on.is_some();
        if ended {
            // The newline that the long line waited for.
            if goes_on == Some(false) {
                out.push('\n');
            }
            first = None;
        }
        for line in lines(data) {
            let text = String::from_utf8_lossy(line);
            skipped = match first.take() {
                Some(skipped) => {
                    if !skipped {
                        out.push_str(&text);
                        out.push('\n');
                    }
                    skipped
                }
                None => !self.line(&time, &voice, &text, out),
            };
        }
        if is_cut(data)
            && let Some(stream) = stream
        {
            if !skipped {
                out.pop();
            }
            self.open = Some((stream.clone(), skipped));
        }
    }

    /// Nothing follows that could end a line that was cut.
    pub fn finish(&mut self, out: &mut String) {
        if let Some((_, false)) = self.open.take() {
            out.push_str(CUT);
            out.push('\n');
        }
    }

    /// Appends a line; false when it is left out.
    fn line(&mut self, time: &str, from: &Source, text: &str, out: &mut String) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let app = self.app.as_str();
        for part in [time, " ", app, "[", from.as_str(), "]: ", text, "\n"] {
            out.push_str(part);
        }
        true
    }
}

/// A line of the platform's own, for what becomes of the log itself.
#[must_use]
pub fn notice(app: &AppName, time_ms: u64, text: &str) -> String {
    let (time, platform) = (timestamp(time_ms), Source::platform());
    format!("{time} {app}[{platform}]: {text}\n")
}

/// The record's lines. A newline that only ends what an earlier record showed is none.
pub(super) fn lines<'b>(data: &Data<'b>) -> impl Iterator<Item = &'b [u8]> {
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
    use crate::sidecar::wire::Position;

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
        let render = |skip| {
            let (mut renderer, mut out) = (Renderer::new(&app, skip), String::new());
            renderer.add(data, &mut out);
            renderer.finish(&mut out);
            out
        };
        let (all, last) = (render(0), render(count(data).saturating_sub(1)));
        assert_eq!(all.lines().count(), count(data), "{all}");
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

    /// Records of two streams; a long line of the first is cut by the frames' size.
    fn long(pieces: &[(u32, &[u8], bool)], skip: usize) -> String {
        let app = "blog".parse().expect("app");
        let (mut renderer, mut out) = (Renderer::new(&app, skip), String::new());
        for (stream, bytes, continues) in pieces {
            let stream = StreamId::new("6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111", (*stream).into());
            renderer.add(
                &Data {
                    origin: Some((stream.expect("stream"), Position::default())),
                    continues: *continues,
                    ..data(bytes)
                },
                &mut out,
            );
        }
        renderer.finish(&mut out);
        out.lines()
            .map(|line| line.strip_prefix("2015-01-01T00:00:00UTC blog[web.1]: "))
            .map(|line| line.expect("prefix"))
            .map(|line| line.replace(&"x".repeat(MAX_FRAME), "X") + "\n")
            .collect()
    }

    #[test]
    fn a_long_line_is_put_together_again() {
        let x: &[u8] = &vec![b'x'; MAX_FRAME];
        type Case<'b> = (&'b [(u32, &'b [u8], bool)], usize, &'b str);
        let cases: &[Case<'_>] = &[
            (&[(1, x, false), (1, b"end\nb\n", true)], 0, "Xend\nb\n"),
            (
                &[(1, x, false), (1, x, true), (1, b"\nb\n", true)],
                0,
                "XX\nb\n",
            ),
            (
                &[(1, x, false), (1, x, true), (1, b"\nb\n", true)],
                1,
                "b\n",
            ),
            (&[(1, x, false), (1, b"e\n", true)], 1, ""),
            // Somebody else speaks in between.
            (
                &[(1, x, false), (2, b"b\n", false), (1, b"end\n", true)],
                0,
                "X [the line goes on]\nb\nend\n",
            ),
            // It never ends.
            (&[(1, x, false)], 0, "X [the line goes on]\n"),
            // A prompt is no cut line.
            (&[(1, b"> ", false), (1, b"yes\n", true)], 0, "> \nyes\n"),
        ];
        for (pieces, skip, want) in cases {
            assert_eq!(long(pieces, *skip), *want);
        }
    }

    #[test]
    fn the_platform_speaks_in_v1s_voice() {
        let id = StreamId::event(uuid::Uuid::nil());
        let event = Data {
            origin: Some((id, Position::default())),
            ..data(b"web.1 crashed\n")
        };
        let want = "2015-01-01T00:00:00UTC blog[deis-controller]: web.1 crashed\n";
        assert_eq!(text(&event), want);
    }
}
