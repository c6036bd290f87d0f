use super::*;
use crate::logger::{query::Query, reader::Reader, render::Renderer};
use proptest::prelude::*;

fn hello(uuid_end: u32, acked: Position) -> Hello {
    let uuid = format!("6f0e5a52-55c7-4b3a-8d55-0000{uuid_end:08}");
    Hello {
        app: "blog".parse().expect("app"),
        source: "web.1".parse().expect("source"),
        stream: StreamId::new(&uuid, 1).expect("stream"),
        acked,
    }
}

fn at(offset: u64, lines: u64) -> Position {
    Position { offset, lines }
}

fn query(lines: usize) -> Query {
    Query {
        lines,
        follow: false,
        of: None,
        since_ms: None,
    }
}

/// The last lines, without their times.
fn lines(log: &AppLog, last: usize) -> Vec<String> {
    found(log, query(last))
}

fn found(log: &AppLog, query: Query) -> Vec<String> {
    let found = Reader::find(log.dir(), log.files(), query).expect("find");
    let app = "blog".parse().expect("app");
    let (mut renderer, mut text) = (Renderer::new(&app, found.skip), String::new());
    let mut reader = found.reader;
    while let Some(piece) = reader.next(log.files()).expect("read") {
        let mut at = 0;
        while let Parsed::Record(record, taken) = parse(&piece[at..]) {
            if let Record::Data(data) = record {
                renderer.add(&data, &mut text);
            }
            at += taken;
        }
    }
    renderer.finish(&mut text);
    text.lines().map(|line| line[23..].to_owned()).collect()
}

const SMALL: Limits = Limits {
    file_bytes: 2_000,
    files: 3,
};

#[test]
fn lines_are_kept_once_across_restarts_and_resends() {
    let dir = tempfile::tempdir().expect("dir");
    let hello = hello(1, Position::default());
    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    assert_eq!(
        log.append(&hello, at(0, 0), 0, b"a\nb\n", 0)
            .expect("append"),
        at(4, 2)
    );
    drop(log);

    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    assert_eq!(log.have(&hello), at(4, 2));
    let again = log
        .append(&hello, at(0, 0), 0, b"a\nb\n", 0)
        .expect("known");
    assert_eq!(again, at(4, 2));
    let longer = log
        .append(&hello, at(2, 1), 0, b"b\nc\n", 0)
        .expect("overlap");
    assert_eq!(longer, at(6, 3));
    assert_eq!(
        lines(&log, 10),
        ["blog[web.1]: a", "blog[web.1]: b", "blog[web.1]: c"]
    );
    assert_eq!(lines(&log, 2), ["blog[web.1]: b", "blog[web.1]: c"]);
}

#[test]
fn a_gap_says_its_size_and_whose_it_is() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    log.append(&hello(1, at(0, 0)), at(0, 0), 0, b"a\n", 0)
        .expect("append");
    // Another logger acknowledged up to 10; then the host dropped up to 100.
    log.append(&hello(1, at(10, 5)), at(100, 25), 0, b"b\n", 0)
        .expect("append");
    assert_eq!(
        lines(&log, 10),
        [
            "blog[web.1]: a",
            "blog[deis]: 4 lines (8 bytes) of web.1 are not here: another logger took them",
            "blog[deis]: 20 lines (90 bytes) of web.1 were dropped: the logger was not reachable",
            "blog[web.1]: b",
        ]
    );
    // A logger that never saw the stream begins where the other one ended.
    let fresh = tempfile::tempdir().expect("dir");
    let mut log = AppLog::open(fresh.path(), Limits::default()).expect("open");
    log.append(&hello(1, at(10, 5)), at(10, 5), 0, b"x\n", 0)
        .expect("append");
    assert_eq!(lines(&log, 10), ["blog[web.1]: x"]);
}

#[test]
fn contradictions_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    let hello = hello(1, Position::default());
    log.append(&hello, at(0, 0), 0, b"a\nb\n", 0)
        .expect("append");
    for (position, bytes) in [
        (at(2, 2), &b"b\nc\n"[..]),
        (at(4, 1), b"c\n"),
        (at(9, 1), b"c\n"),
        (at(4, 3), b"c\n"),
    ] {
        assert!(
            log.append(&hello, position, 0, bytes, 0).is_err(),
            "{position}"
        );
    }
    assert_eq!(lines(&log, 10), ["blog[web.1]: a", "blog[web.1]: b"]);
    assert_eq!(log.have(&hello), at(4, 2));
}

#[test]
fn a_torn_record_is_cut_off_wherever_it_was_torn() {
    let dir = tempfile::tempdir().expect("dir");
    let hello = hello(1, Position::default());
    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    log.append(&hello, at(0, 0), 0, b"first\n", 0)
        .expect("append");
    let first = log.files()[0].len;
    log.append(&hello, at(6, 1), 0, b"second\n", 0)
        .expect("append");
    let whole = fs::read(path(dir.path(), 1)).expect("read");
    drop(log);
    for cut in usize::try_from(first).expect("size")..whole.len() {
        fs::write(path(dir.path(), 1), &whole[..cut]).expect("tear");
        let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
        assert_eq!(log.have(&hello), at(6, 1), "cut at {cut}");
        log.append(&hello, at(6, 1), 0, b"again\n", 0)
            .expect("append");
        assert_eq!(lines(&log, 9), ["blog[web.1]: first", "blog[web.1]: again"]);
    }
}

#[test]
fn a_damaged_file_is_left_alone_and_a_new_one_begun() {
    let dir = tempfile::tempdir().expect("dir");
    let mut damaged = vec![b'x'; MAX_RECORD + 1];
    damaged[100] = b'\n';
    fs::write(path(dir.path(), 4), &damaged).expect("write");
    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    log.append(&hello(1, at(0, 0)), at(0, 0), 0, b"a\n", 0)
        .expect("append");
    assert_eq!(lines(&log, 9), ["blog[web.1]: a"]);
    assert_eq!(fs::read(path(dir.path(), 4)).expect("read"), damaged);
}

#[test]
fn files_are_bounded_and_positions_outlive_them() {
    let dir = tempfile::tempdir().expect("dir");
    let mut log = AppLog::open(dir.path(), SMALL).expect("open");
    let quiet = hello(2, Position::default());
    log.append(&quiet, at(0, 0), 0, b"early\n", 0)
        .expect("append");
    let busy = hello(1, Position::default());
    let mut position = Position::default();
    for number in 0..200 {
        let line = format!("line {number}\n");
        position = log
            .append(&busy, position, 0, line.as_bytes(), 1)
            .expect("append");
    }
    assert_eq!(log.files().len(), SMALL.files);
    let on_disk = fs::read_dir(dir.path()).expect("list").flatten();
    let is_log = |file: &fs::DirEntry| file.path().extension().is_some_and(|end| end == "log");
    assert_eq!(on_disk.filter(is_log).count(), SMALL.files);
    let kept = lines(&log, 1000);
    assert_eq!(
        kept.last().map(String::as_str),
        Some("blog[web.1]: line 199")
    );
    assert!(!kept.iter().any(|line| line.ends_with("early")));
    drop(log);
    let log = AppLog::open(dir.path(), SMALL).expect("open");
    assert_eq!(log.have(&quiet), at(6, 1));
    assert_eq!(log.have(&busy), position);
    assert_eq!(lines(&log, 1000), kept);
}

#[test]
fn a_deleted_log_stays_empty_for_its_old_streams_only() {
    let dir = tempfile::tempdir().expect("dir");
    let old = hello(1, Position::default());
    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    log.append(&old, at(0, 0), 0, b"secret\n", 0)
        .expect("append");
    log.delete(0).expect("delete");
    assert_eq!(lines(&log, 9), [""; 0]);
    drop(log);
    let mut log = AppLog::open(dir.path(), Limits::default()).expect("open");
    let late = log.append(&old, at(7, 1), 0, b"late\n", 0).expect("taken");
    assert_eq!(late, at(12, 2), "acknowledged, so that its sidecar is done");
    let new = hello(2, Position::default());
    log.append(&new, at(0, 0), 0, b"new\n", 0).expect("append");
    assert_eq!(lines(&log, 9), ["blog[web.1]: new"]);
}

proptest! {
    /// Whatever is sent again, in whatever pieces, and whenever the logger restarts: each line is
    /// there once, in order.
    #[test]
    fn each_line_once(steps in proptest::collection::vec((0usize..40, 1usize..30, any::<bool>()), 1..60)) {
        let text: String = (0..200).map(|n| format!("{n}\n")).collect();
        let bytes = text.as_bytes();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1))
            .collect();
        let dir = tempfile::tempdir().expect("dir");
        let hello = hello(1, Position::default());
        let limits = Limits { file_bytes: 500, files: 1000 };
        let mut log = AppLog::open(dir.path(), limits).expect("open");
        let mut sent = 0;
        for (back, count, restart) in steps {
            let from = sent - back.min(sent);
            let to = (from + count).min(starts.len() - 1);
            let begin = Position::default().after(&bytes[..starts[from]]);
            log.append(&hello, begin, 0, &bytes[starts[from]..starts[to]], 0).expect("append");
            sent = sent.max(to);
            if restart {
                log = AppLog::open(dir.path(), limits).expect("open");
            }
            prop_assert_eq!(log.have(&hello), Position::default().after(&bytes[..starts[sent]]));
        }
        let want: Vec<String> = (0..sent).map(|n| format!("blog[web.1]: {n}")).collect();
        prop_assert_eq!(lines(&log, 1000), want);
    }
}

proptest! {
    /// What a query finds is what looking at every line finds, whatever the files' borders are, and
    /// whether or not the logger was restarted.
    #[test]
    fn queries(
        said in proptest::collection::vec((1u32..4, 0u64..30, 1usize..4), 0..40),
        number in proptest::option::of(1u32..5),
        since in proptest::option::of(0u64..32),
        last in 0usize..50,
        restart: bool,
    ) {
        let dir = tempfile::tempdir().expect("dir");
        let limits = Limits { file_bytes: 700, files: 1000 };
        let mut log = AppLog::open(dir.path(), limits).expect("open");
        let mut ends = [Position::default(); 4];
        let mut latest = [0; 4];
        let mut all: Vec<(u64, u64, u32, String)> = Vec::new();
        for (n, (process, second, lines)) in said.iter().enumerate() {
            let at = *process as usize;
            let hello = Hello {
                source: format!("web.{process}").parse().expect("source"),
                ..hello(*process, Position::default())
            };
            let text: String = (0..*lines).map(|line| format!("{n} {line}\n")).collect();
            ends[at] = log.append(&hello, ends[at], second * 1000 + 7, text.as_bytes(), 0).expect("append");
            all.extend(text.lines().map(|line| {
                (*second, 0, *process, format!("blog[web.{process}]: {line}"))
            }));
        }
        if restart {
            log = AppLog::open(dir.path(), limits).expect("open");
        }
        // Whether each process's clock went forward only.
        let mut clock = [0; 4];
        let is_steady = said.iter().all(|(process, second, _)| {
            let before = std::mem::replace(&mut clock[*process as usize], *second);
            before <= *second
        });
        // By hand: the wanted ones, by the second, no process's lines before its earlier ones.
        let mut want: Vec<_> = all
            .into_iter()
            .filter(|(second, _, process, _)| {
                number.is_none_or(|number| number == *process) && since.is_none_or(|since| *second >= since)
            })
            .map(|(second, _, process, line)| {
                let latest = &mut latest[process as usize];
                *latest = second.max(*latest);
                (*latest, line)
            })
            .collect();
        want.sort_by_key(|(second, _)| *second);
        let want: Vec<String> = want.into_iter().map(|(_, line)| line).collect();
        let query = Query {
            of: number.map(|number| format!("web.{number}").parse().expect("process")),
            since_ms: since.map(|since| since * 1000 + 500),
            ..query(last)
        };
        let found = found(&log, query);
        // So many of the last ones; which of those that came late are among the last is a matter of
        // where the files' borders are.
        prop_assert_eq!(found.len(), want.len().min(last));
        // In that order; a clock that went back is known of only where its earlier lines are read.
        let orders = if is_steady { vec![String::new()] } else {
            (1..4).map(|process| format!("web.{process}]")).collect()
        };
        for order in orders {
            let mut rest = want.iter();
            let mut some = found.iter().filter(|line| line.contains(&order));
            prop_assert!(some.all(|line| rest.any(|next| next == line)), "{:?} in {:?}", found, want);
        }
        if is_steady && last >= want.len() {
            prop_assert_eq!(found, want);
        }
    }
}
