//! Logs with real processes: nothing is lost or doubled, whoever is killed.

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::net::{UnixDatagram, UnixListener},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use support::{Bench, Process, ROLE, announcements, play, until};

/// Starts one of the processes that are killed.
type Start = fn(&Bench) -> Process;

/// Not a test: see [`support::play`].
#[test]
fn role() {
    if let Ok(role) = std::env::var(ROLE) {
        play(&role);
    }
}

fn number(line: &str) -> Option<usize> {
    line.strip_prefix("blog[web.1]: line ")?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

#[test]
fn a_hundred_thousand_lines_survive_every_kill() {
    const LINES: usize = 100_000;
    let bench = Bench::new();
    let mut roles: [(Process, Start); 3] = [
        (bench.logger(), Bench::logger),
        (bench.agent(), Bench::agent),
        (bench.sidecar(&[]), |bench| bench.sidecar(&[])),
    ];
    let done = AtomicBool::new(false);
    let mut kills = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut fifo = &bench.fifo;
            for batch in 0..LINES / 100 {
                let text: String = (0..100)
                    .map(|n| {
                        format!(
                            "line {} of many, with some more words in it\n",
                            batch * 100 + n
                        )
                    })
                    .collect();
                fifo.write_all(text.as_bytes())
                    .expect("the sidecar never stops reading");
                // An app that writes for as long as it takes to kill its neighbours many times.
                thread::sleep(Duration::from_millis(10));
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        while !done.load(Ordering::Relaxed) {
            // Any moment will do; the sequence is the same in each run.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            thread::sleep(Duration::from_millis((random >> 33) % 150));
            let (process, start) = &mut roles[usize::try_from((random >> 20) % 3).expect("index")];
            process.kill();
            *process = start(&bench);
            kills += 1;
        }
    });
    let last = format!("line {} of", LINES - 1);
    let lines = bench.log_until("the last line", |text| text.contains(&last));
    let numbers: Vec<usize> = lines.iter().filter_map(|line| number(line)).collect();
    assert_eq!(
        numbers.len(),
        lines.len(),
        "no line about a loss, no torn line"
    );
    let wrong = numbers.iter().enumerate().find(|(want, got)| want != *got);
    assert_eq!(wrong, None, "each line once, in order, after {kills} kills");
    assert_eq!(numbers.len(), LINES);
    assert!(kills > 20, "only {kills} kills");
}

#[test]
fn what_a_full_spool_drops_is_counted_to_the_line() {
    const LINES: usize = 120_000;
    let bench = Bench::new();
    let mut sidecar = bench.sidecar(&[]);
    let mut fifo = &bench.fifo;
    for n in 0..LINES {
        writeln!(fifo, "line {n} {}", "x".repeat(80)).expect("the sidecar never stops reading");
        if n % 30_000 == 15_000 {
            sidecar.kill();
            sidecar = bench.sidecar(&[]);
        }
    }
    // 4 MiB of lines, and their times.
    assert!(
        bench.spooled() < 5 * 1024 * 1024,
        "{} bytes",
        bench.spooled()
    );
    let (_agent, _logger) = (bench.agent(), bench.logger());
    let last = format!("line {} ", LINES - 1);
    let lines = bench.log_until("the last line", |text| text.contains(&last));
    let notice = lines[0]
        .strip_prefix("blog[deis]: ")
        .expect("the loss comes first");
    let dropped: usize = notice
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a count");
    assert!(
        notice.ends_with("of web.1 were dropped: the logger was not reachable"),
        "{notice}"
    );
    let numbers: Vec<usize> = lines[1..].iter().filter_map(|line| number(line)).collect();
    assert_eq!(numbers, (dropped..LINES).collect::<Vec<_>>());
    assert!(dropped > 0);
    drop(sidecar);
}

#[test]
fn a_logger_that_comes_back_with_less_is_told_what_it_missed() {
    let bench = Bench::new();
    let (_agent, mut logger) = (bench.agent(), bench.logger());
    let _sidecar = bench.sidecar(&[]);
    let mut fifo = &bench.fifo;
    writeln!(fifo, "one").expect("write");
    bench.log_until("the first line", |text| text.contains("one"));
    logger.kill();
    std::fs::remove_dir_all(bench.dir.path().join("logger")).expect("remove");
    let _logger = bench.logger();
    writeln!(fifo, "two").expect("write");
    let lines = bench.log_until("the second line", |text| text.contains("two"));
    assert_eq!(
        lines,
        ["blog[web.1]: two"],
        "another logger has the rest: that is no loss"
    );
}

#[test]
fn odd_bytes_long_lines_and_the_journal() {
    let bench = Bench::new();
    let journal = UnixDatagram::bind(bench.dir.path().join("journal")).expect("journal");
    journal
        .set_read_timeout(Some(support::PATIENCE))
        .expect("timeout");
    let (_agent, _logger) = (bench.agent(), bench.logger());
    let _sidecar = bench.sidecar(&[]);
    let mut fifo = &bench.fifo;
    fifo.write_all(b"nul \0 and \xff\n\n").expect("write");
    let mut entry = [0; 4096];
    let len = journal.recv(&mut entry).expect("entry");
    assert_eq!(
        &entry[..len],
        b"PRIORITY=6\nSYSLOG_IDENTIFIER=blog[web.1]\nDEIS_APP=blog\nDEIS_PROCESS=blog_v7.web.1\nMESSAGE=nul \0 and \xff\n"
    );
    drop(journal);
    let long = "é".repeat(50_000);
    writeln!(fifo, "{long}").expect("write");
    fifo.write_all(b"no newline").expect("write");
    let lines = bench.log_until("the rest", |text| text.contains("no newline"));
    assert_eq!(lines[0], "blog[web.1]: nul \0 and \u{fffd}");
    assert_eq!(lines[1], "blog[web.1]: ");
    assert_eq!(lines[2], format!("blog[web.1]: {long}"), "whole again");
    assert_eq!(lines[3], "blog[web.1]: no newline");
    fifo.write_all(b"\nend\n").expect("write");
    let lines = bench.log_until("the end", |text| text.contains("end"));
    assert_eq!(lines[4..], ["blog[web.1]: end"]);
}

#[test]
fn sigterm_flushes_and_what_cannot_go_stays_for_the_drain() {
    let bench = Bench::new();
    let mut fifo = &bench.fifo;
    let (agent, logger) = (bench.agent(), bench.logger());
    let mut sidecar = bench.sidecar(&[]);
    writeln!(fifo, "first").expect("write");
    bench.log_until("the first line", |text| text.contains("first"));
    fifo.write_all(b"last words").expect("write");
    let begin = Instant::now();
    assert!(sidecar.terminate().success());
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "nothing to wait for"
    );
    bench.log_until("the last words", |text| text.contains("last words"));

    drop((agent, logger));
    let mut sidecar = bench.sidecar(&[]);
    writeln!(fifo, "\nunheard").expect("write");
    until("the line in the spool", || {
        bench.spool_holds(b"unheard").then_some(())
    });
    let begin = Instant::now();
    assert!(sidecar.terminate().success());
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "two seconds, and then it ends"
    );

    let (_agent, _logger) = (bench.agent(), bench.logger());
    let status = bench.sidecar(&["--drain"]).wait();
    assert!(status.success());
    assert!(!bench.spool().join(support::UNIT).exists());
    let lines = bench.log_until("the unheard line", |text| text.contains("unheard"));
    assert_eq!(
        lines,
        [
            "blog[web.1]: first",
            "blog[web.1]: last words",
            "blog[web.1]: unheard"
        ]
    );
}

#[test]
fn http_reads_follows_writes_and_forgets() {
    let bench = Bench::new();
    let _logger = bench.logger();
    until("the logger", || bench.http("GET", "/healthz", ""))
        .0
        .to_string();
    let status = |method, path, body| bench.http(method, path, body).expect("answer").0;
    assert_eq!(status("GET", "/logs/blog?lines=5", ""), 204);
    assert_eq!(status("GET", "/logs/..%2f..%2fetc", ""), 404);
    assert_eq!(status("POST", "/logs/Not..AnApp", "x"), 404);
    assert_eq!(status("DELETE", "/logs/blog", ""), 204);

    let follower = bench
        .request("GET", "/logs/blog?lines=5&follow=1", "")
        .expect("follow");
    let mut follower = BufReader::new(follower)
        .lines()
        .map(|line| line.expect("line"));
    assert!(
        follower.by_ref().any(|line| line.is_empty()),
        "end of the head"
    );
    assert_eq!(
        status("POST", "/logs/blog", "ada created initial release"),
        204
    );
    let line = follower.next().expect("line");
    assert_eq!(
        &line[22..],
        " blog[deis-controller]: ada created initial release"
    );
    assert_eq!(&line[19..22], "UTC");
    assert_eq!(status("POST", "/logs/blog", "two\nthree"), 204);
    assert!(follower.next().expect("line").ends_with("]: two"));
    assert!(follower.next().expect("line").ends_with("]: three"));

    let (code, text) = bench.http("GET", "/logs/blog?lines=2", "").expect("answer");
    assert_eq!(code, 200);
    let ends: Vec<&str> = text
        .lines()
        .filter_map(|line| Some(line.split_once("]: ")?.1))
        .collect();
    assert_eq!(ends, ["two", "three"]);
    let (_, text) = bench
        .http("GET", "/logs/blog?lines=nonsense", "")
        .expect("answer");
    assert_eq!(text.lines().count(), 3);

    assert_eq!(status("DELETE", "/logs/blog", ""), 204);
    assert_eq!(follower.next(), None, "what is deleted can't be followed");
    assert_eq!(status("GET", "/logs/blog", ""), 204);
}

#[test]
fn the_past_is_read_in_the_order_of_its_times_and_by_process() {
    let bench = Bench::new();
    let _logger = bench.logger();
    until("the logger", || bench.http("GET", "/healthz", ""));
    let say = |about: &str, second: u64, text: &str| {
        let path = format!("/logs/blog?about={about}&time={}", second * 1000);
        assert_eq!(bench.http("POST", &path, text).expect("answer").0, 204);
    };
    // Two of them were cut off for a while, and come late.
    say("web.1", 100, "a");
    say("web.1", 160, "d");
    say("web.2", 120, "b");
    say("worker.1", 130, "c");
    say("deis-controller", 170, "e");
    let read = |query: &str| {
        let (code, text) = bench
            .http("GET", &format!("/logs/blog?lines=100{query}"), "")
            .expect("answer");
        let last_words = text.lines().filter_map(|line| line.rsplit(' ').next());
        (code, last_words.collect::<String>())
    };
    for (query, want) in [
        ("", (200, "abcde")),
        ("&ps=web", (200, "abd")),
        ("&ps=web.2", (200, "b")),
        ("&ps=worker", (200, "c")),
        ("&ps=deis-controller", (200, "e")),
        ("&ps=cron", (204, "")),
        ("&since=130000", (200, "cde")),
        ("&since=130999", (200, "cde")),
        ("&since=131000", (200, "de")),
        ("&since=131000&ps=web", (200, "d")),
        ("&since=999000", (204, "")),
    ] {
        let (code, text) = read(query);
        assert_eq!((code, text.as_str()), want, "{query}");
    }
    let path = "/logs/blog?lines=2&ps=web";
    let text = bench.http("GET", path, "").expect("answer").1;
    assert_eq!(text.lines().count(), 2);
    for bad in ["ps=web.x", "since=yesterday", "from=1:2", "of=me"] {
        let path = format!("/logs/blog?{bad}");
        assert_eq!(
            bench.http("GET", &path, "").expect("answer").0,
            400,
            "{bad}"
        );
    }
    // An event that is told twice stands there once.
    for _ in 0..2 {
        let path = format!("/logs/blog?id={}&time=180000", support::UUID);
        assert_eq!(bench.http("POST", &path, "once").expect("answer").0, 204);
    }
    assert_eq!(read("&since=180000").1, "once");
}

#[test]
fn the_next_owner_of_a_name_finds_nothing() {
    let bench = Bench::new();
    let mut logger = bench.logger();
    let _agent = bench.agent();
    let mut sidecar = bench.sidecar(&[]);
    until("the logger", || bench.http("GET", "/healthz", ""));
    let of = |n: u32, created: u32| {
        format!("of=00000000-0000-0000-0000-00000000000{n}&created={created}")
    };
    let read = |whose: &str| {
        let path = format!("/logs/blog?lines=9&{whose}");
        bench.http("GET", &path, "").expect("answer").0
    };
    writeln!(&bench.fifo, "secret").expect("write");
    bench.log_until("the line", |text| text.contains("secret"));
    assert_eq!(read(&of(1, 10)), 200);
    assert_eq!(read(&of(1, 10)), 200, "it is still there");
    assert_eq!(read(&of(2, 20)), 204, "another app");
    assert_eq!(read(&of(1, 10)), 204, "what is gone stays gone");
    // What the first one's process still says is for nobody.
    writeln!(&bench.fifo, "late").expect("write");
    let begin = Instant::now();
    assert!(sidecar.terminate().success());
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "the logger takes it"
    );
    logger.kill();
    let _logger = bench.logger();
    until("the logger", || bench.http("GET", "/healthz", ""));
    let late = format!("/logs/blog?{}", of(1, 10));
    bench.http("POST", &late, "a late event").expect("answer");
    let path = format!("/logs/blog?lines=99&{}", of(2, 20));
    assert_eq!(bench.http("POST", &path, "mine").expect("answer").0, 204);
    let text = bench.http("GET", &path, "").expect("answer").1;
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.ends_with("]: mine\n"), "{text}");
}

#[test]
fn a_follower_sees_each_line_once_while_the_logger_is_killed() {
    const LINES: usize = 20_000;
    let bench = Bench::new();
    let (_agent, mut logger) = (bench.agent(), bench.logger());
    let _sidecar = bench.sidecar(&[]);
    until("the logger", || bench.http("GET", "/healthz", ""));
    writeln!(&bench.fifo, "before").expect("write");
    bench.log_until("the first line", |text| text.contains("before"));
    let follower = bench.follow(1);
    let first = follower.recv_timeout(support::PATIENCE).expect("the past");
    assert!(first.contains("blog[web.1]: before"), "{first}");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut fifo = &bench.fifo;
            for batch in 0..LINES / 100 {
                let numbers = batch * 100..(batch + 1) * 100;
                let text: String = numbers.map(|n| format!("line {n} of many\n")).collect();
                fifo.write_all(text.as_bytes()).expect("write");
                // An app that writes for as long as it takes to kill the logger a few times.
                thread::sleep(Duration::from_millis(20));
            }
        });
        for pause in [150, 700, 40, 900, 300] {
            thread::sleep(Duration::from_millis(pause));
            logger.kill();
            logger = bench.logger();
        }
    });
    let last = format!("line {} of", LINES - 1);
    let mut seen = String::new();
    while !seen.contains(&last) {
        seen += &follower
            .recv_timeout(support::PATIENCE)
            .expect("the next lines");
    }
    let numbers: Vec<usize> = seen
        .lines()
        .filter_map(|line| number(&line[23..]))
        .collect();
    let wrong = numbers.iter().enumerate().find(|(want, got)| want != *got);
    assert_eq!(wrong, None, "each line once, in order");
    assert_eq!(numbers.len(), LINES);
    // And at once, when all is well.
    let begin = Instant::now();
    writeln!(&bench.fifo, "quick").expect("write");
    let quick = follower.recv_timeout(support::PATIENCE).expect("the line");
    assert!(quick.ends_with("blog[web.1]: quick\n"), "{quick}");
    let took = begin.elapsed();
    println!("a line reaches its follower in {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn nonsense_costs_its_own_connection_only() {
    let bench = Bench::new();
    let (_agent, _logger) = (bench.agent(), bench.logger());
    let hello = format!("deis-log 1 other web.1 {}.0 0 0\n", support::UUID);
    let mut talks: Vec<Vec<u8>> = [
        "",
        "\n",
        "GET / HTTP/1.1\r\n\r\n",
        "deis-log 1 ../x web.1 s.1 0 0\n",
    ]
    .iter()
    .map(|talk| talk.as_bytes().to_vec())
    .collect();
    talks.push(vec![0xff; 100_000]);
    for frame in [
        "data 0 0 0 99999999\n",
        "data 5 9 0 2\nx\n",
        "what\n",
        "data 0 0 0 10\nshort",
    ] {
        talks.push(format!("{hello}{frame}").into_bytes());
    }
    for talk in talks {
        let mut stream = bench.line_port();
        // It may be closed before all is said.
        let _ = stream.write_all(&talk);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 100);
    }
    let _sidecar = bench.sidecar(&[]);
    writeln!(&bench.fifo, "still here").expect("write");
    bench.log_until("the line", |text| text.contains("still here"));
}

#[test]
fn the_announcer_says_healthy_again_to_each_agent_and_notices_a_dead_port() {
    let bench = Bench::new();
    let socket = bench.agent_socket();
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("port");
    let announcer = bench.announcer(&["--address", &port.to_string()]);
    let listener = UnixListener::bind(&socket).expect("bind");
    let mut words = announcements(&listener);
    let hello = format!(
        r#"{{"hello":"announce","unit":"{}","uuid":"{}"}}"#,
        support::UNIT,
        support::UUID
    );
    assert_eq!(words.next(), Some(hello.clone()));
    let word = words.next().expect("why not");
    assert_eq!(
        word,
        format!(
            r#"{{"healthy":false,"reason":"port {}: connection refused"}}"#,
            port.port()
        )
    );
    let app = TcpListener::bind(port).expect("bind");
    let serve = thread::spawn(move || {
        while app
            .accept()
            .is_ok_and(|(mut c, _)| c.read(&mut [0; 9]).is_ok())
        {}
    });
    assert_eq!(words.next().as_deref(), Some(r#"{"healthy":true}"#));

    // The agent restarts.
    drop((words, listener));
    std::fs::remove_file(&socket).expect("remove");
    let listener = UnixListener::bind(&socket).expect("bind");
    let mut words = announcements(&listener);
    assert_eq!(words.next(), Some(hello));
    assert_eq!(words.next().as_deref(), Some(r#"{"healthy":true}"#));
    let private = announcer.private_kib();
    assert!(
        private < 2048,
        "the announcer has {private} KiB of private memory"
    );
    println!("announcer: {private} KiB of private memory");
    drop((announcer, serve));
}

#[test]
fn a_process_without_port_is_healthy_after_a_second() {
    let bench = Bench::new();
    let listener = UnixListener::bind(bench.agent_socket()).expect("bind");
    let begin = Instant::now();
    let mut announcer = bench.announcer(&["--no-port"]);
    let mut words = announcements(&listener).skip(1);
    assert_eq!(words.next().as_deref(), Some(r#"{"healthy":true}"#));
    assert!(begin.elapsed() >= Duration::from_secs(1));
    announcer.terminate();
}

#[test]
fn throughput_and_memory() {
    const LINES: usize = 100_000;
    let bench = Bench::new();
    let (_agent, _logger) = (bench.agent(), bench.logger());
    until("the logger", || bench.http("GET", "/healthz", ""));
    let sidecar = bench.sidecar(&[]);
    let mut fifo = &bench.fifo;
    let begin = Instant::now();
    let mut sent = 0;
    for portion in 0..LINES / 1_000 {
        let text: String = (0..1_000)
            .map(|n| format!("line {} {}\n", portion * 1_000 + n, "x".repeat(80)))
            .collect();
        fifo.write_all(text.as_bytes()).expect("write");
        sent += text.len();
        // As fast as lines are stored, and no faster: nothing is to be dropped here.
        until("room in the spool", || {
            (bench.spooled() < 2 << 20).then_some(())
        });
    }
    let last = format!("line {} ", LINES - 1);
    until("the last line", || {
        bench
            .http("GET", "/logs/blog?lines=1", "")?
            .1
            .contains(&last)
            .then_some(())
    });
    let took = begin.elapsed().as_secs_f64();
    let private = sidecar.private_kib();
    println!(
        "log sidecar: {:.0} lines/s, {:.1} MB/s, {private} KiB of private memory",
        LINES as f64 / took,
        sent as f64 / 1e6 / took
    );
    assert!(sent as f64 / took > 1e6, "1 MB/s at least");
    let lines = bench.log_until("all", |_| true);
    assert_eq!(lines.len(), LINES, "{}", lines[0]);
    assert!(
        private < 2048,
        "the log sidecar has {private} KiB of private memory"
    );
}
