//! Asks a process whether it is there.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// A TCP connection must stand within this time.
const CONNECT: Duration = Duration::from_millis(500);
/// How long a connection is watched for being closed at once, as port forwarders in user space do
/// when nobody listens behind them.
const STAYS: Duration = Duration::from_millis(30);
/// Bytes of an HTTP answer that are looked at.
const HEAD: usize = 256;

/// What a probe found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words for people.
    pub reason: String,
    /// It said nothing at all in the time that it had, as a process does that hangs.
    pub silent: bool,
}

impl Failure {
    fn said(reason: String) -> Self {
        Self {
            reason,
            silent: false,
        }
    }

    fn of(what: &str, error: &io::Error) -> Self {
        Self {
            reason: format!("{what}: {}", words(error)),
            silent: is_timeout(error),
        }
    }
}

/// Whether something accepts connections at `address` and keeps them.
///
/// # Errors
/// Why not, for people.
pub fn tcp(address: SocketAddr) -> Result<(), Failure> {
    let explain = |error: io::Error| Failure::of(&format!("port {}", address.port()), &error);
    let mut stream = TcpStream::connect_timeout(&address, CONNECT).map_err(explain)?;
    stream.set_read_timeout(Some(STAYS)).map_err(explain)?;
    match stream.read(&mut [0; 1]) {
        Ok(0) => Err(Failure::said(format!(
            "port {}: closes each connection at once",
            address.port()
        ))),
        Ok(_) => Ok(()),
        Err(error) if is_timeout(&error) => Ok(()),
        Err(error) => Err(explain(error)),
    }
}

/// Whether a GET of `path` is answered with 200 within `timeout`.
///
/// # Errors
/// Why not, for people.
pub fn http(address: SocketAddr, path: &str, timeout: Duration) -> Result<(), Failure> {
    let explain = |error: io::Error| Failure::of(&format!("GET {path}"), &error);
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(explain)?;
    stream.set_write_timeout(Some(timeout)).map_err(explain)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: deis-announcer\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(explain)?;
    let mut head = Vec::new();
    while head.len() < HEAD && !head.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(explain(ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(left)).map_err(explain)?;
        let mut chunk = [0; HEAD];
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => head.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(explain(error)),
        }
    }
    match status(&head) {
        Some(200) => Ok(()),
        Some(other) => Err(Failure::said(format!(
            "GET {path}: answered {other}, not 200"
        ))),
        None => Err(Failure::said(format!("GET {path}: the answer is not HTTP"))),
    }
}

/// The status in the first line of an HTTP answer.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|word| word.starts_with("HTTP/1."))?;
    let code = words.next()?;
    (code.len() == 3).then(|| code.parse().ok()).flatten()
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// An IO error without numbers.
fn words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset => "connection reset".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    /// Answers one connection with `answer` after having read a request, then closes.
    fn serve_once(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
        });
        address
    }

    #[test]
    fn http_answers() {
        let cases: &[(&[u8], Result<(), &str>)] = &[
            (b"HTTP/1.1 200 OK\r\n\r\n", Ok(())),
            (b"HTTP/1.0 200\r\n\r\n", Ok(())),
            (
                b"HTTP/1.1 503 Busy\r\n\r\n",
                Err("GET /up: answered 503, not 200"),
            ),
            (
                b"HTTP/1.1 301 Moved\r\n\r\n",
                Err("GET /up: answered 301, not 200"),
            ),
            (b"SSH-2.0-x\r\n", Err("GET /up: the answer is not HTTP")),
            (b"", Err("GET /up: the answer is not HTTP")),
        ];
        for (answer, want) in cases {
            let got = http(serve_once(answer), "/up", Duration::from_secs(5));
            let want = want.map_err(|why| Failure::said(why.to_owned()));
            assert_eq!(got, want, "{answer:?}");
        }
    }

    #[test]
    fn http_silence_is_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let got = http(address, "/", Duration::from_millis(50));
        let want = Failure {
            reason: "GET /: no answer in time".to_owned(),
            silent: true,
        };
        assert_eq!(got, Err(want));
    }

    #[test]
    fn tcp_needs_a_listener_that_keeps_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        assert_eq!(tcp(address), Ok(()), "open, and silent");
        let (done, stop) = (listener.try_clone().expect("clone"), address);
        let closer = thread::spawn(move || {
            // The first connection is the one above.
            for _ in 0..2 {
                drop(done.accept());
            }
        });
        assert!(
            tcp(stop)
                .expect_err("closed at once")
                .reason
                .contains("closes each connection")
        );
        closer.join().expect("closer");
        drop(listener);
        assert!(
            tcp(address)
                .expect_err("closed")
                .reason
                .contains("connection refused")
        );
    }
}
