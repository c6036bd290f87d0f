//! What wrappers of a stream do with writes: nothing, but for one that puts small ones together.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Up to here copying is cheaper than what the kernel does for a list of buffers.
const SMALL: usize = 1 << 10;

/// Passes writes on to the field `stream` of a wrapper of `S`.
macro_rules! pass_writes {
    ($wrapper:ty) => {
        impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for $wrapper {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.get_mut().stream).poll_flush(cx)
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
            }
        }
    };
}

pub(super) use pass_writes;

/// A stream that sends a small head and its body as one buffer, and one buffer as no list.
#[derive(Debug)]
pub struct Gathered<S> {
    stream: S,
}

impl<S> Gathered<S> {
    /// Everything else passes.
    pub const fn new(stream: S) -> Self {
        Self { stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
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
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.get_mut().stream);
        if let [only] = bufs {
            return stream.poll_write(cx, only);
        }
        let mut small = [0; SMALL];
        let mut end = 0;
        for part in bufs {
            let Some(room) = small.get_mut(end..end + part.len()) else {
                return stream.poll_write_vectored(cx, bufs);
            };
            room.copy_from_slice(part);
            end += part.len();
        }
        stream.poll_write(cx, &small[..end])
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
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn all_bytes_pass_in_their_order_however_they_are_cut() {
        for sizes in [
            &[3][..],
            &[3, 0, 5],
            &[0, 0],
            &[SMALL - 1, 1],
            &[SMALL, 1],
            &[1, 3 * SMALL, 7],
        ] {
            let (mut reader, writer) = tokio::io::duplex(64 << 10);
            let mut writer = Gathered::new(writer);
            let parts: Vec<Vec<u8>> = (b'a'..)
                .zip(sizes)
                .map(|(byte, size)| vec![byte; *size])
                .collect();
            let all = parts.concat();
            let mut sent = 0;
            while sent < all.len() {
                // As far as it has not been taken yet.
                let mut skip = sent;
                let bufs: Vec<IoSlice<'_>> = parts
                    .iter()
                    .map(|part| {
                        let skipped = skip.min(part.len());
                        skip -= skipped;
                        IoSlice::new(&part[skipped..])
                    })
                    .collect();
                let taken = poll_fn(|cx| Pin::new(&mut writer).poll_write_vectored(cx, &bufs));
                sent += taken.await.expect("taken");
            }
            drop(writer);
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.expect("read");
            assert_eq!(got, all, "{sizes:?}");
        }
    }
}
