//! The access log: a line per request, on stderr, which systemd hands to the journal.
//!
//! Whoever answers requests never waits for it: lines gather in bounded memory, a thread writes them,
//! many at once when there are many, and what doesn't fit is dropped and counted.

use std::{
    cell::RefCell,
    io::{self, Write},
    net::IpAddr,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use http::Version;

use super::exchange::Asked;
use crate::metrics::Counter;

/// Lines that wait to be written, in bytes.
const WAITING_MAX: usize = 1 << 20;
/// The first line of a batch waits so long for others, or until there are so many bytes: a thread that
/// is woken for each line costs more than the request.
const GATHER: Duration = Duration::from_millis(10);
const ENOUGH: usize = 256 << 10;
/// Longest value of a field.
const VALUE_MAX: usize = 1024;

/// One request, when it is over.
#[derive(Debug)]
pub struct Line<'l> {
    /// Its head.
    pub asked: &'l Asked,
    /// The answer's status.
    pub status: u16,
    /// From the head's end to the last byte.
    pub took: Duration,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// The process that was asked last.
    pub backend: Option<&'l str>,
    /// How often another connection was tried.
    pub retries: u32,
    /// The answer was not read to its end.
    pub broken: bool,
    /// What went wrong last.
    pub error: Option<&'l str>,
}

impl Line<'_> {
    /// `name=value` with spaces between, in the order in which people ask.
    fn put(&self, out: &mut Vec<u8>) {
        let asked = self.asked;
        out.extend_from_slice(b"access method=");
        value(out, asked.method.as_str().as_bytes());
        out.extend_from_slice(b" host=");
        value(
            out,
            asked.host.as_ref().map_or(b"-", |host| host.as_bytes()),
        );
        out.extend_from_slice(b" path=");
        // The query stays out: people put secrets there.
        value(out, asked.uri.path().as_bytes());
        out.extend_from_slice(b" backend=");
        value(out, self.backend.unwrap_or("-").as_bytes());
        out.extend_from_slice(b" id=");
        value(out, asked.id.as_bytes());
        let version = match asked.version {
            Version::HTTP_2 => b"2".as_slice(),
            Version::HTTP_10 => b"1.0",
            _ => b"1.1",
        };
        let took = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        out.extend_from_slice(b" status=");
        number(out, self.status.into(), 1);
        out.extend_from_slice(b" ms=");
        number(out, took / 1000, 1);
        out.push(b'.');
        number(out, took % 1000, 3);
        out.extend_from_slice(b" bytes=");
        number(out, self.bytes, 1);
        out.extend_from_slice(b" retries=");
        number(out, self.retries.into(), 1);
        out.extend_from_slice(b" client=");
        address(out, asked.client);
        out.extend_from_slice(b" http=");
        out.extend_from_slice(version);
        out.extend_from_slice(b" tls=");
        out.extend_from_slice(if asked.secure { b"yes" } else { b"no" });
        if self.broken {
            out.extend_from_slice(b" broken=true");
        }
        if let Some(error) = self.error {
            out.extend_from_slice(b" error=");
            value(out, error.as_bytes());
        }
        out.push(b'\n');
    }
}

/// A number of so many digits at least. `write!` takes several times as long, and each line has six.
fn number(out: &mut Vec<u8>, number: u64, digits: usize) {
    let (mut text, mut at, mut rest) = ([b'0'; 20], 20, number);
    while rest > 0 {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text[at.min(text.len() - digits)..]);
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            number(out, first.into(), 1);
            for octet in rest {
                out.push(b'.');
                number(out, octet.into(), 1);
            }
        }
        IpAddr::V6(address) => {
            // Writing to memory can't fail.
            let _ = write!(out, "{address}");
        }
    }
}

/// A value that can't end its field or its line.
fn value(out: &mut Vec<u8>, text: &[u8]) {
    let plain = |b: &u8| b.is_ascii_graphic() && !b"\"\\=".contains(b);
    if !text.is_empty() && text.len() <= VALUE_MAX && text.iter().all(plain) {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for byte in &text[..text.len().min(VALUE_MAX)] {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    if text.len() > VALUE_MAX {
        out.extend_from_slice(b"...");
    }
    out.push(b'"');
}

/// Where lines go.
#[derive(Debug, Default)]
pub struct AccessLog {
    state: Mutex<State>,
    /// There is something to write, or an end to it.
    changed: Condvar,
    /// Lines that didn't fit.
    pub dropped: Counter,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    ended: bool,
}

thread_local!(static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

impl AccessLog {
    /// A log that a thread of its own writes into `sink`.
    ///
    /// # Errors
    /// When the thread can't be had.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let log = Arc::<Self>::default();
        let own = Arc::clone(&log);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || own.keep_writing(sink))?;
        Ok(log)
    }

    /// Takes a line.
    pub fn write(&self, line: &Line<'_>) {
        LINE.with_borrow_mut(|text| {
            text.clear();
            line.put(text);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.waiting.len() + text.len() > WAITING_MAX {
                drop(state);
                return self.dropped.inc();
            }
            let before = state.waiting.len();
            state.waiting.extend_from_slice(text);
            let full = before < ENOUGH && state.waiting.len() >= ENOUGH;
            drop(state);
            if before == 0 || full {
                self.changed.notify_one();
            }
        });
    }

    /// No more lines: the thread writes what there is and ends.
    pub fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended = true;
        drop(state);
        self.changed.notify_one();
    }

    fn keep_writing(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.waiting.is_empty() && !state.ended {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let more = |state: &mut State| state.waiting.len() < ENOUGH && !state.ended;
            let (mut state, _) = self
                .changed
                .wait_timeout_while(state, GATHER, more)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut state.waiting, &mut batch);
            drop(state);
            if batch.is_empty() {
                return;
            }
            // Nobody could be told but by the same way.
            let _ = sink.write_all(&batch).and_then(|()| sink.flush());
            batch.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};
    use proptest::prelude::*;

    use super::*;

    fn asked(path: &str) -> Asked {
        Asked {
            method: Method::GET,
            uri: path.parse().expect("path"),
            host: Some(HeaderValue::from_bytes(b"blog.example.com\xff").expect("host")),
            version: Version::HTTP_2,
            client: "192.0.2.7".parse().expect("address"),
            secure: true,
            id: HeaderValue::from_static("id-1"),
        }
    }

    fn line(asked: &Asked) -> Line<'_> {
        Line {
            asked,
            status: 200,
            took: Duration::from_micros(1_002_003),
            bytes: 7,
            backend: Some("blog_v1.web.1"),
            retries: 1,
            broken: true,
            error: Some("no \"luck\"\n"),
        }
    }

    #[test]
    fn a_line_is_one_line() {
        let (asked, mut out) = (asked("/a%20b?token=secret"), Vec::new());
        line(&asked).put(&mut out);
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "access method=GET host=\"blog.example.com\\xff\" path=/a%20b backend=blog_v1.web.1 id=id-1 \
             status=200 ms=1002.003 bytes=7 retries=1 client=192.0.2.7 http=2 tls=yes broken=true \
             error=\"no \\\"luck\\\"\\x0a\"\n"
        );
    }

    #[test]
    fn numbers_and_addresses_are_as_everybody_writes_them() {
        let text = |put: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            put(&mut out);
            String::from_utf8(out).expect("text")
        };
        for (n, digits, want) in [
            (0, 1, "0"),
            (7, 3, "007"),
            (999, 3, "999"),
            (u64::MAX, 1, "18446744073709551615"),
        ] {
            assert_eq!(text(&|out| number(out, n, digits)), want);
        }
        for want in ["0.0.0.0", "192.0.2.107", "255.255.255.255", "2001:db8::1"] {
            assert_eq!(
                text(&|out| address(out, want.parse().expect("address"))),
                want
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_breaks_out(text in prop::collection::vec(any::<u8>(), 0..1500)) {
            let mut out = Vec::new();
            value(&mut out, &text);
            prop_assert!(out.iter().all(|b| (b' '..=b'~').contains(b)));
            prop_assert!(out.len() <= 4 * VALUE_MAX + 5);
            if out[0] != b'"' {
                prop_assert!(!out.contains(&b' ') && !out.contains(&b'='));
            } else {
                let inner = &out[1..out.len() - 1];
                let mut escaped = false;
                for byte in inner {
                    prop_assert!(*byte != b'"' || escaped, "a quote inside is escaped");
                    escaped = *byte == b'\\' && !escaped;
                }
                prop_assert!(!escaped, "the last quote ends it");
            }
        }
    }

    /// A sink that takes a line when it is allowed to.
    struct Slow(
        std::sync::mpsc::Receiver<()>,
        std::sync::mpsc::Sender<Vec<u8>>,
    );

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_hangs_costs_lines_and_no_time() {
        let (allow, allowed) = std::sync::mpsc::channel();
        let (sender, written) = std::sync::mpsc::channel();
        let log = AccessLog::start(Slow(allowed, sender)).expect("thread");
        let asked = asked("/");
        let mut sent = 0;
        while log.dropped.get() == 0 {
            log.write(&line(&asked));
            sent += 1;
            assert!(sent < 100_000, "bounded");
        }
        log.end();
        drop(allow);
        let all: Vec<u8> = written.iter().flatten().collect();
        let lines = all.iter().filter(|b| **b == b'\n').count();
        assert_eq!(lines, sent - 1, "but for what was dropped, all of it");
    }
}
