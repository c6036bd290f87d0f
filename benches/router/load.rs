//! The load: as cheap as it can be, because it shares a core with the backend and has to keep the
//! proxies' core busy.
//!
//! [`saturate`] has a fixed number of clients, each of which asks again when it is answered. [`steady`]
//! asks at a fixed rate, and counts from when a request was due, so that a proxy that stalls doesn't
//! hide it.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, yield_now},
    time::{sleep, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

use crate::backend::LARGE;

/// Clients that ask at once.
pub const CLIENTS: usize = 64;
/// Before anything counts.
const WARM: Duration = Duration::from_millis(500);
/// An answer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request is waited for by the clock's timer until so shortly before it is due, then by looking.
const LOOK: Duration = Duration::from_millis(3);
/// A websocket's message: 26 masked bytes.
const MESSAGE: &[u8; 32] = b"\x81\x9amask01234567890123456789ABCDEF";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A hundred bytes.
    Small,
    /// The same, on a connection of its own.
    Once,
    /// A megabyte to the client.
    Download,
    /// A megabyte to the app.
    Upload,
    /// A message in a websocket, and its echo.
    Message,
}

/// Whom to ask for what.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The proxy.
    pub address: SocketAddr,
    /// Over TLS 1.3.
    pub tls: bool,
    /// What.
    pub kind: Kind,
    /// The hosts asked for, in turns.
    pub hosts: Arc<[String]>,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Answered within the time that counts.
    pub done: u64,
    /// Refused, reset, late, or with another status than 200.
    pub failed: u64,
    /// The first failure's words.
    pub why: Option<String>,
    /// Of each answered one, in milliseconds.
    pub latencies: Vec<f64>,
    /// How long was counted.
    pub took: Duration,
}

/// A message's head.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Its bytes, the empty line included.
    pub length: usize,
    /// Bytes of its body.
    pub body: usize,
    /// Of an answer.
    pub status: u16,
}

/// Reads a head that is there as a whole.
pub fn head(bytes: &[u8]) -> Option<Head> {
    let length = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let lines = bytes[..length].split(|byte| *byte == b'\n');
    let body = lines.skip(1).find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:")
            .then(|| number(value))
    });
    Some(Head {
        length,
        body: body.unwrap_or(0),
        status: bytes.get(9..12).map_or(0, number) as u16,
    })
}

fn number(text: &[u8]) -> usize {
    let digits = text.trim_ascii().iter();
    digits.fold(0, |sum, digit| {
        sum * 10 + usize::from(digit.wrapping_sub(b'0'))
    })
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One client, with its connection if it has one.
pub struct Client {
    ask: Ask,
    tls: Option<TlsConnector>,
    stream: Option<Box<dyn Stream>>,
    buffer: Vec<u8>,
    turn: usize,
    requests: Vec<Vec<u8>>,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl Client {
    /// The client with this number: they begin at different hosts.
    pub fn new(ask: &Ask, number: usize) -> Self {
        let request = |host: &String| {
            let (line, rest) = match ask.kind {
                Kind::Small => ("GET /small?a=1", ""),
                Kind::Once => ("GET /small?a=1", "Connection: close\r\n"),
                Kind::Download => ("GET /large", ""),
                Kind::Upload => ("POST /upload", "Content-Length: 1000000\r\n"),
                Kind::Message => (
                    "GET /echo",
                    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                ),
            };
            let mut bytes = format!(
                "{line} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\
                 Accept-Language: en\r\n{rest}\r\n"
            )
            .into_bytes();
            if ask.kind == Kind::Upload {
                bytes.resize(bytes.len() + LARGE, b'x');
            }
            bytes
        };
        let tls = ask.tls.then(|| {
            let config = crate::tls::client();
            TlsConnector::from(config)
        });
        Self {
            ask: ask.clone(),
            tls,
            stream: None,
            buffer: Vec::with_capacity(4096),
            turn: number,
            requests: ask.hosts.iter().map(request).collect(),
        }
    }

    /// A connection, with its websocket if that is wanted.
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.ask.address).await?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from("app0.bench.test").expect("a name");
                Box::new(tls.connect(name, stream).await?)
            }
        };
        if self.ask.kind == Kind::Message {
            let request = &self.requests[self.turn % self.requests.len()];
            stream.write_all(request).await?;
            let mut seen = Vec::with_capacity(512);
            let head = loop {
                if let Some(head) = head(&seen) {
                    break head;
                }
                if stream.read_buf(&mut seen).await? == 0 {
                    return Err(invalid("no websocket, but an end"));
                }
            };
            if head.status != 101 {
                return Err(invalid(format!("no websocket, but {}", head.status)));
            }
        }
        Ok(stream)
    }

    /// Asks once. Gives back the head of the answer.
    ///
    /// # Errors
    /// When there is no answer, or another one than 200.
    pub async fn once(&mut self) -> io::Result<&[u8]> {
        let done = timeout(PATIENCE, self.asked()).await;
        let done = done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match done {
            Ok(length) => Ok(&self.buffer[..length]),
            Err(error) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    async fn asked(&mut self) -> io::Result<usize> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        self.turn += 1;
        self.buffer.clear();
        if self.ask.kind == Kind::Message {
            stream.write_all(MESSAGE).await?;
            while self.buffer.len() < MESSAGE.len() {
                if stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            self.stream = Some(stream);
            return Ok(0);
        }
        let request = &self.requests[self.turn % self.requests.len()];
        stream.write_all(request).await?;
        let Head {
            length,
            body,
            status,
        } = loop {
            if let Some(head) = head(&self.buffer) {
                break head;
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let mut left = (length + body).saturating_sub(self.buffer.len());
        if left > 0 {
            let mut rest = vec![0; left.min(128 << 10)];
            while left > 0 {
                let read = stream.read(&mut rest).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left = left.saturating_sub(read);
            }
        }
        if status != 200 {
            return Err(invalid(format!("status {status}")));
        }
        if self.ask.kind == Kind::Once {
            // Who closes last doesn't have to remember the connection.
            while stream.read(&mut [0; 256]).await.unwrap_or(0) > 0 {}
        } else {
            self.stream = Some(stream);
        }
        Ok(length)
    }
}

/// What clients count together; all of them run on one thread.
#[derive(Default)]
struct Counts {
    counting: Cell<bool>,
    over: Cell<bool>,
    done: Cell<u64>,
    failed: Cell<u64>,
    why: RefCell<Option<String>>,
    latencies: RefCell<Vec<f64>>,
}

impl Counts {
    fn note(&self, result: Result<f64, io::Error>) {
        if !self.counting.get() {
            return;
        }
        match result {
            Ok(milliseconds) => {
                self.done.set(self.done.get() + 1);
                self.latencies.borrow_mut().push(milliseconds);
            }
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                self.why
                    .borrow_mut()
                    .get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// Runs clients; `before` and `after` frame the time that counts.
async fn run(
    time: Duration,
    begin: impl FnOnce(),
    clients: impl FnOnce(&Rc<Counts>, &mut JoinSet<()>),
) -> Outcome {
    let counts = Rc::<Counts>::default();
    let mut tasks = JoinSet::new();
    clients(&counts, &mut tasks);
    sleep(WARM).await;
    let began = Instant::now();
    begin();
    counts.counting.set(true);
    sleep(time).await;
    counts.counting.set(false);
    let took = began.elapsed();
    counts.over.set(true);
    // Those that were due in time count, but nobody is waited for in vain.
    let _ = timeout(PATIENCE, async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    tasks.shutdown().await;
    Outcome {
        done: counts.done.get(),
        failed: counts.failed.get(),
        why: counts.why.take(),
        latencies: counts.latencies.take(),
        took,
    }
}

/// As many requests as the proxy takes. `begin` is called when counting begins.
pub async fn saturate(ask: &Ask, time: Duration, begin: impl FnOnce()) -> Outcome {
    run(time, begin, |counts, tasks| {
        for number in 0..CLIENTS {
            let (counts, mut client) = (Rc::clone(counts), Client::new(ask, number * 7));
            tasks.spawn_local(async move {
                while !counts.over.get() {
                    let began = Instant::now();
                    let done = client.once().await.map(|_| ());
                    let failed = done.is_err();
                    counts.note(done.map(|()| began.elapsed().as_secs_f64() * 1000.0));
                    if failed {
                        // A proxy that refuses is not asked as fast as it can refuse.
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            });
        }
    })
    .await
}

/// So many requests per second.
pub async fn steady(ask: &Ask, per_second: f64, time: Duration) -> Outcome {
    let next = Rc::new(Cell::new(0_u32));
    let start = Instant::now();
    run(
        time,
        || {},
        |counts, tasks| {
            for number in 0..CLIENTS {
                let (counts, next) = (Rc::clone(counts), Rc::clone(&next));
                let mut client = Client::new(ask, number * 7);
                tasks.spawn_local(async move {
                    loop {
                        let ticket = next.replace(next.get() + 1);
                        let due = start + Duration::from_secs_f64(f64::from(ticket) / per_second);
                        if due > Instant::now() + LOOK {
                            sleep_until((due - LOOK).into()).await;
                        }
                        while Instant::now() < due {
                            yield_now().await;
                        }
                        if counts.over.get() {
                            return;
                        }
                        let done = client.once().await.map(|_| ());
                        counts.note(done.map(|()| due.elapsed().as_secs_f64() * 1000.0));
                    }
                });
            }
        },
    )
    .await
}
