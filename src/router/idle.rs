//! Bytes both ways between two streams, for as long as any come.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::sleep,
};

use super::{called::Called, writes::pass_writes};

/// A stream of which is counted what comes from it.
struct Counted<'s, S> {
    stream: &'s mut S,
    bytes: Arc<AtomicU64>,
}

/// Passes bytes on until both sides have ended, one breaks off, or nothing comes from either for so long,
/// by a buffer of so many bytes per direction, which is there as long as the tunnel. Gives back how many went from `a` to `b`, and from `b` to `a`.
///
/// # Errors
/// When a side breaks off; `TimedOut` when both are silent.
pub async fn copy<A, B>(
    a: &mut A,
    b: &mut B,
    silence: Duration,
    buffer: usize,
) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let seen = Arc::<AtomicU64>::default();
    let bytes = Arc::clone(&seen);
    let mut a = Counted { stream: a, bytes };
    let bytes = Arc::clone(&seen);
    let mut b = Counted { stream: b, bytes };
    let silent = pin!(async {
        // Looked at now and then: nothing has to be armed for each byte.
        let mut last = 0;
        loop {
            sleep(silence).await;
            let now = seen.load(Ordering::Relaxed);
            if std::mem::replace(&mut last, now) == now {
                return;
            }
        }
    });
    tokio::select! {
        biased;
        ended = copy_bidirectional_with_sizes(&mut a, &mut b, buffer, buffer) => ended,
        () = Called::new(silent) => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut *this.stream).poll_read(cx, buf);
        let bytes = (buf.filled().len() - before) as u64;
        this.bytes.fetch_add(bytes, Ordering::Relaxed);
        read
    }
}

pass_writes!(Counted<'_, S>);

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_lasts_while_one_side_says_something() {
        let ((mut client, mut a), (mut b, mut server)) =
            (tokio::io::duplex(64), tokio::io::duplex(64));
        let began = Instant::now();
        let copying = tokio::spawn(async move {
            let ended = copy(&mut a, &mut b, Duration::from_secs(60), 64).await;
            (ended.expect_err("silent").kind(), began.elapsed().as_secs())
        });
        for _ in 0..10 {
            sleep(Duration::from_secs(50)).await;
            server.write_all(b"x").await.expect("send");
            assert_eq!(client.read_u8().await.expect("read"), b'x');
        }
        let (kind, seconds) = copying.await.expect("copied");
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!((560..=620).contains(&seconds), "{seconds}");
    }
}
