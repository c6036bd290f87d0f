//! Bounds how long a client may keep a connection waiting: for the rest of a request's head, and
//! between two requests (which is longer, because proxies in front of us keep connections). HTTP/2
//! has its own way: many requests at once, and frames that are about no request.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tracing::debug;

use super::writes::pass_writes;
use crate::plan::screen::{Refused, Screen};

/// What no parser takes, wherever it stands in a message: the client is answered with 400 in its turn,
/// after the requests before it.
const NONSENSE: &[u8] = b"\0\r\n\r\n";

/// The bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// From a head's first byte to its last.
    pub head: Duration,
    /// From an answer's end to the next head's first byte.
    pub idle: Duration,
    /// How often the clock is looked at: no bound is exact to more than this. So nothing has to be
    /// armed per request.
    pub tick: Duration,
}

/// What is being waited for on a connection; shared with whoever answers its requests.
///
/// Counts how often that has changed: the clock is looked at only now and then, and a connection
/// that is found idle at each look may have been busy in between.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<AtomicU64>);

/// A head has begun and is not complete.
const HEAD: u64 = 1;
/// The connection has become a tunnel.
const TUNNEL: u64 = 1 << 63;
/// Requests that are being answered are counted from this bit on, changes from the other.
const OPEN_SHIFT: u32 = 1;
const COUNT_SHIFT: u32 = 20;
const OPEN_MASK: u64 = (1 << (COUNT_SHIFT - OPEN_SHIFT)) - 1;

/// What a connection does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Idle,
    Head,
    Busy,
}

impl Phase {
    /// A head is complete: the client may take its time until this is dropped.
    #[must_use]
    pub fn busy(&self) -> Busy {
        self.step(|open| open + 1, 0);
        Busy(self.clone())
    }

    /// A connection lives on one thread, so that nothing comes between load and store.
    fn step(&self, open: impl FnOnce(u64) -> u64, head: u64) {
        let before = self.get();
        let open = open((before >> OPEN_SHIFT) & OPEN_MASK) & OPEN_MASK;
        let count = (before >> COUNT_SHIFT).wrapping_add(1);
        let tunnel = before & TUNNEL;
        let after = (count << COUNT_SHIFT & !TUNNEL) | tunnel | open << OPEN_SHIFT | head;
        self.0.store(after, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn doing(seen: u64) -> Doing {
        if (seen >> OPEN_SHIFT) & OPEN_MASK > 0 {
            Doing::Busy
        } else if seen & HEAD == HEAD {
            Doing::Head
        } else {
            Doing::Idle
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Busy(Phase);

impl Busy {
    /// Part of a body has passed.
    pub fn moved(&self) {
        self.0.step(|open| open, 0);
    }

    /// What comes from now on is no HTTP.
    pub fn is_tunnel(&self) {
        let before = self.0.get();
        self.0.0.store(before | TUNNEL, Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.step(|open| open.saturating_sub(1), 0);
    }
}

/// Ends when an HTTP/2 connection has been idle for too long, or has moved nothing although requests
/// are open: its client's windows are full, or it only talks about the connection itself.
pub async fn has_lingered(phase: Phase, pace: Pace, stalled: Duration) {
    let mut seen = (phase.get(), Instant::now());
    loop {
        sleep(pace.tick).await;
        let now = phase.get();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        let bound = match Phase::doing(now) {
            Doing::Busy => stalled,
            Doing::Idle | Doing::Head => pace.idle,
        };
        if seen.1.elapsed() >= bound {
            return;
        }
    }
}

/// A client's HTTP/1 connection: reads fail when a bound is passed, and bytes that could be read in two
/// ways never get as far as the parser.
pub struct Paced<S> {
    stream: S,
    screen: Screen,
    /// Set when a message was refused: what is read in its place, and then the end.
    instead: Option<&'static [u8]>,
    pace: Pace,
    phase: Phase,
    /// Phase and count at the last look, and when that was seen first.
    seen: (u64, Instant),
    tick: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    /// Bounds a connection.
    pub fn new(stream: S, pace: Pace, phase: Phase) -> Self {
        Self {
            stream,
            screen: Screen::default(),
            instead: None,
            pace,
            phase,
            seen: (0, Instant::now()),
            tick: Box::pin(sleep(pace.tick)),
        }
    }

    /// Looks at what has been read, and takes out what is refused.
    fn screen(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        if self.phase.get() & TUNNEL != 0 {
            return;
        }
        if let Err(Refused { at, why }) = self.screen.look(&buf.filled()[before..]) {
            debug!(why, "request refused before it was parsed");
            buf.set_filled(before + at);
            self.instead = Some(NONSENSE);
            self.read_instead(buf);
        }
    }

    fn read_instead(&mut self, buf: &mut ReadBuf<'_>) {
        if let Some(rest) = &mut self.instead {
            let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
            buf.put_slice(now);
            *rest = later;
        }
    }

    fn is_late(&mut self, now: Instant) -> bool {
        let phase = self.phase.get();
        if self.seen.0 != phase {
            self.seen = (phase, now);
        }
        let bound = match Phase::doing(phase) {
            Doing::Head => self.pace.head,
            Doing::Idle => self.pace.idle,
            Doing::Busy => return false,
        };
        now.duration_since(self.seen.1) >= bound
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.instead.is_some() {
            this.read_instead(buf);
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(done) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            this.screen(buf, before);
            let begins = buf.filled().len() > before;
            if begins && Phase::doing(this.phase.get()) == Doing::Idle {
                this.phase.step(|open| open, HEAD);
            }
            return Poll::Ready(done);
        }
        while this.tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if this.is_late(now) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.tick.as_mut().reset(now + this.pace.tick);
        }
        Poll::Pending
    }
}

pass_writes!(Paced<S>);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PACE: Pace = Pace {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        tick: Duration::from_secs(5),
    };

    /// Seconds until the next read fails.
    async fn late(connection: &mut Paced<tokio::io::DuplexStream>) -> u64 {
        let began = Instant::now();
        let error = connection.read_u8().await.expect_err("late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_cut_and_an_idle_connection_lives_longer() {
        let (mut client, server) = tokio::io::duplex(64);
        let phase = Phase::default();
        let mut server = Paced::new(server, PACE, phase.clone());
        // Idle before the first byte.
        assert!((75..85).contains(&late(&mut server).await));

        let (mut other, server) = tokio::io::duplex(64);
        let mut server = Paced::new(server, PACE, phase.clone());
        other.write_all(b"G").await.expect("send");
        assert_eq!(server.read_u8().await.expect("read"), b'G');
        // Its first byte has come and no more: bounded, however often a byte is added.
        let began = Instant::now();
        let dripping = tokio::spawn(async move {
            while other.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        while server.read_u8().await.is_ok() {}
        assert!(
            (10..20).contains(&began.elapsed().as_secs()),
            "{:?}",
            began.elapsed()
        );
        dripping.abort();

        // While a request is answered there is no bound.
        let (mut client2, server) = tokio::io::duplex(64);
        let mut server = Paced::new(server, PACE, phase.clone());
        client2.write_all(b"G").await.expect("send");
        server.read_u8().await.expect("read");
        let busy = phase.busy();
        let hour = Duration::from_secs(3600);
        let waited = tokio::time::timeout(hour, server.read_u8()).await;
        assert!(waited.is_err(), "still open after an hour");
        drop(busy);
        assert!((70..90).contains(&late(&mut server).await));
        let _ = client.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_once_keep_a_connection_until_nothing_moves() {
        let phase = Phase::default();
        let stalled = Duration::from_secs(600);
        let began = Instant::now();
        let lingering = tokio::spawn(has_lingered(phase.clone(), PACE, stalled));
        let (first, second) = (phase.busy(), phase.busy());
        sleep(Duration::from_secs(300)).await;
        drop(first);
        for _ in 0..10 {
            sleep(Duration::from_secs(300)).await;
            second.moved();
        }
        assert!(!lingering.is_finished(), "something moves");
        lingering.await.expect("stalled");
        let seconds = began.elapsed().as_secs();
        assert!((3900..3920).contains(&seconds), "{seconds}");
        drop(second);
        let began = Instant::now();
        has_lingered(phase, PACE, stalled).await;
        assert!((75..85).contains(&began.elapsed().as_secs()), "idle");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_used_between_two_looks_at_the_clock_is_not_idle() {
        let (mut client, server) = tokio::io::duplex(64);
        let phase = Phase::default();
        let mut server = Paced::new(server, PACE, phase.clone());
        let requests = tokio::spawn(async move {
            // Each is over long before the clock is looked at.
            for _ in 0..300 {
                client.write_all(b"G").await.expect("send");
                sleep(Duration::from_secs(1)).await;
            }
            client
        });
        for _ in 0..300 {
            server.read_u8().await.expect("not late");
            drop(phase.busy());
        }
        let _client = requests.await.expect("requests");
        assert!((70..90).contains(&late(&mut server).await));
    }
}
