//! Everything that is parsed from the network or a stranger's repository: one function for each, which
//! takes any bytes, and panics when something doesn't hold that has to.
//!
//! `tests/fuzz.rs` runs them on what is in `fuzz/corpus`, and on what it makes of that.

use deis::{
    builder::{command, procfile, refs},
    logger::record::{self, Parsed},
    plan::{
        fleet::XFleet,
        front::{self, RouterSettings},
        host::parse_host,
        proxy_header::{self, MOST},
        routes::{RecordChange, RouteTable},
        screen::Screen,
    },
    sidecar::{
        frame,
        wire::{Data, Hello, Reply, take_line},
    },
};

/// A target's name, which is its corpus's, and the target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("proxy_header", proxy_header),
    ("screen", screen),
    ("host", host),
    ("settings", settings),
    ("git", git),
    ("log_wire", log_wire),
    ("log_record", log_record),
    ("unit", unit),
    ("procfile", procfile),
];

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// What a load balancer says first: read as often as bytes come, and no otherwise however they come.
pub fn proxy_header(bytes: &[u8]) {
    match proxy_header::read(bytes) {
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len() && header.length <= MOST);
            for length in 0..header.length {
                let early = proxy_header::read(&bytes[..length]);
                assert_eq!(early, Ok(None), "a header's beginning is awaited");
            }
        }
        Ok(None) => assert!(bytes.len() < MOST, "nobody is waited for in vain"),
        Err(_) => {
            let longer = [bytes, b"\r\n"].concat();
            assert!(proxy_header::read(&longer).is_err(), "refused for good");
        }
    }
}

/// The screen against smuggling: what it says doesn't depend on how the bytes arrive.
pub fn screen(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = Screen::default().look(bytes);
    if let Err(refused) = whole {
        assert!(refused.at <= bytes.len());
    }
    let mut screen = Screen::default();
    let mut pieces = bytes.chunks(usize::from(*step).max(1));
    let split = pieces.try_for_each(|piece| screen.look(piece));
    assert_eq!(
        whole.map_err(|refused| refused.why),
        split.map_err(|refused| refused.why)
    );
}

/// A `Host` header, and whose it is.
pub fn host(bytes: &[u8]) {
    let text = text(bytes);
    let Ok(host) = parse_host(&text) else {
        return;
    };
    assert!(host.len() <= text.len());
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric() && !byte.is_ascii_uppercase() || b"-_.:".contains(&byte)
    };
    assert!(host.bytes().all(plain), "{host:?}");
    if !host.contains(':') {
        assert_eq!(parse_host(&host).as_deref(), Ok(&*host), "the same again");
    }
    let mut table = RouteTable::default();
    let changes = [
        ("/deis/platform/domain", "example.com"),
        ("/deis/services/blog/blog_v1.web.1", "10.0.0.1:20000"),
    ];
    let changes = changes.map(|(key, value)| RecordChange {
        key,
        revision: 1,
        value: Some(value.as_bytes()),
    });
    table.apply(changes, &mut |endpoint| endpoint.clone());
    let _ = table.lookup(&host);
}

/// The router's settings, a `name=value` a line.
pub fn settings(bytes: &[u8]) {
    let text = text(bytes);
    let pairs = || text.lines().filter_map(|line| line.split_once('='));
    let (_, faults) = RouterSettings::of(pairs());
    let wrong = pairs().filter(|(name, value)| front::check(name, value).is_err());
    assert_eq!(faults.len(), wrong.count(), "each is judged by itself");
}

/// What git's clients ask for over SSH, and what they push.
pub fn git(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(asked) = command::parse(Some(&text)) {
        // A name that came through leads nowhere else.
        let words = format!("{asked:?}");
        assert!(!words.contains("..") && !words.contains('/'), "{words}");
    }
    if let Ok(updates) = refs::parse(&text) {
        let _ = refs::decide(&updates);
    }
}

/// The lines between log sidecar and logger.
pub fn log_wire(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((line, taken))) = take_line(rest) {
        assert!(taken > 0 && taken <= rest.len());
        rest = &rest[taken..];
        if let Ok(hello) = Hello::parse(line) {
            assert_eq!(Hello::parse(hello.encode().trim_end()).as_ref(), Ok(&hello));
        }
        if let Ok(reply) = Reply::parse(line) {
            assert_eq!(Reply::parse(reply.encode().trim_end()).as_ref(), Ok(&reply));
        }
        if let Ok(data) = Data::parse(line) {
            assert_eq!(Data::parse(data.encode().trim_end()).as_ref(), Ok(&data));
        }
    }
    let seconds = bytes.first().map(|byte| usize::from(*byte));
    for (changes, flush) in [(None, false), (None, true), (seconds, true)] {
        if let Some(length) = frame::next(bytes, changes, flush) {
            assert!((1..=bytes.len()).contains(&length));
        }
    }
    assert!(frame::skip(bytes).0 <= bytes.len());
}

/// What the logger keeps, as a crash may have left it.
pub fn log_record(bytes: &[u8]) {
    let mut rest = bytes;
    while let Parsed::Record(record, taken) = record::parse(rest) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(record::parse(&again), Parsed::Record(record, again.len()));
        rest = &rest[taken..];
    }
}

/// A unit file of the fleet.
pub fn unit(bytes: &[u8]) {
    let name = "part@1.service".parse().expect("a name");
    let text = text(bytes);
    let read = XFleet::parse(&name, &text);
    assert!(
        read.is_ok() || XFleet::check(&name, &text).is_err(),
        "what is wrong in an old unit is so in a new one"
    );
}

/// A Procfile.
pub fn procfile(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(types) = procfile::parse(&text) {
        let harmless = |command: &String| !command.trim().is_empty() && !command.contains('\0');
        assert!(types.values().all(harmless));
    }
    let _ = procfile::parse_release(&text);
}
