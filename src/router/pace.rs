//! Bounds how long a client may keep a connection waiting: for the rest of a request's head, and
//! between two requests (which is longer, because proxies in front of us keep connections).

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
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

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

const IDLE: u64 = 0;
const HEAD: u64 = 1;
const BUSY: u64 = 2;
/// The phase is in the lowest bits, the count above.
const PHASE: u64 = 3;

impl Phase {
    /// A head is complete: the client may take its time now.
    pub fn busy(&self) {
        self.set(BUSY);
    }

    /// The answer has been sent: the next head is waited for.
    pub fn idle(&self) {
        self.set(IDLE);
    }

    fn set(&self, phase: u64) {
        let count = (self.0.load(Ordering::Relaxed) | PHASE).wrapping_add(1);
        self.0.store(count | phase, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A client's connection whose reads fail when a bound is passed.
pub struct Paced<S> {
    stream: S,
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
            pace,
            phase,
            seen: (IDLE, Instant::now()),
            tick: Box::pin(sleep(pace.tick)),
        }
    }

    fn is_late(&mut self, now: Instant) -> bool {
        let phase = self.phase.get();
        if self.seen.0 != phase {
            self.seen = (phase, now);
        }
        let bound = match phase & PHASE {
            HEAD => self.pace.head,
            IDLE => self.pace.idle,
            _ => return false,
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
        if let Poll::Ready(done) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            if buf.filled().len() > before && this.phase.get() & PHASE == IDLE {
                this.phase.set(HEAD);
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

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
        phase.busy();
        let hour = Duration::from_secs(3600);
        let waited = tokio::time::timeout(hour, server.read_u8()).await;
        assert!(waited.is_err(), "still open after an hour");
        phase.idle();
        assert!((70..90).contains(&late(&mut server).await));
        let _ = client.shutdown().await;
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
            phase.busy();
            phase.idle();
        }
        let _client = requests.await.expect("requests");
        assert!((70..90).contains(&late(&mut server).await));
    }
}
