//! A connection's first bytes: a load balancer's PROXY header, and which HTTP the client speaks.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    time::timeout,
};

use super::writes::pass_writes;
use crate::plan::proxy_header::{self, ProxyHeader};

/// What HTTP/2 begins with when nobody has agreed on it before (h2c by prior knowledge).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for a first read: most heads fit.
const FIRST_READ: usize = 4096;

/// A stream of which a beginning has been read already.
#[derive(Debug)]
pub struct Opened<S> {
    stream: S,
    /// What has been read and not yet taken.
    read: BytesMut,
}

impl<S: AsyncRead + Unpin> Opened<S> {
    /// Nothing has been read yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
        }
    }

    /// Takes the PROXY header that the connection has to begin with, within so long.
    ///
    /// # Errors
    /// When there is none, or it takes too long.
    pub async fn proxy_header(&mut self, within: Duration) -> io::Result<Option<SocketAddr>> {
        let reading = async {
            loop {
                match proxy_header::read(&self.read).map_err(invalid)? {
                    Some(ProxyHeader { length, client }) => {
                        self.read.advance(length);
                        return Ok(client);
                    }
                    None if self.read.len() >= proxy_header::MOST => {
                        return Err(invalid(proxy_header::NoProxyHeader));
                    }
                    None => {}
                }
                if self.more().await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        timeout(within, reading)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether the client speaks HTTP/2, by its first bytes: these have to come within `idle`, the rest
    /// of what HTTP/2 begins with within `rest`.
    ///
    /// # Errors
    /// When the connection breaks, or it takes too long.
    pub async fn is_http2(&mut self, idle: Duration, rest: Duration) -> io::Result<bool> {
        loop {
            let length = self.read.len().min(PREFACE.len());
            if self.read[..length] != PREFACE[..length] {
                return Ok(false);
            }
            if length == PREFACE.len() {
                return Ok(true);
            }
            let within = if length == 0 { idle } else { rest };
            match timeout(within, self.more()).await {
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                // Whoever goes on from here sees the end, too.
                Ok(Ok(0)) => return Ok(false),
                Ok(more) => more?,
            };
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.read.reserve(FIRST_READ);
        self.stream.read_buf(&mut self.read).await
    }
}

fn invalid(error: proxy_header::NoProxyHeader) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let length = this.read.len().min(buf.remaining());
        buf.put_slice(&this.read.split_to(length));
        if this.read.is_empty() {
            // Connections live long: their room is given back.
            this.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

pass_writes!(Opened<S>);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(75);
    const SHORT: Duration = Duration::from_secs(10);

    /// Sends byte by byte, so that every place is where a read may end.
    async fn opened(bytes: &[u8]) -> Opened<tokio::io::DuplexStream> {
        let (mut client, server) = tokio::io::duplex(1);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            client.write_all(&bytes).await.expect("send");
        });
        Opened::new(server)
    }

    #[tokio::test]
    async fn nothing_that_was_looked_at_is_lost() {
        let preface = std::str::from_utf8(PREFACE).expect("text");
        for (text, http2) in [
            (preface.to_owned() + "rest", true),
            ("PRI * HTTP/2.1\r\n\r\n".to_owned(), false),
            ("PROPFIND / HTTP/1.1\r\n\r\n".to_owned(), false),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), false),
            ("PR".to_owned(), false),
            (String::new(), false),
        ] {
            let proxied = format!("PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n{text}");
            let mut stream = opened(proxied.as_bytes()).await;
            let client = stream.proxy_header(SHORT).await.expect("header");
            assert_eq!(client, Some("192.0.2.7:1234".parse().expect("address")));
            let is = stream.is_http2(LONG, SHORT).await.expect("read");
            assert_eq!(is, http2, "{text:?}");
            let mut all = String::new();
            stream.read_to_string(&mut all).await.expect("all");
            assert_eq!(all, text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_nonsense_end_it() {
        let mut stream = opened(b"GET / HTTP/1.1\r\n\r\n").await;
        let error = stream.proxy_header(SHORT).await.expect_err("no header");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        for (sent, bound) in [("", LONG), ("PRI *", SHORT)] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(sent.as_bytes()).await.expect("send");
            let mut stream = Opened::new(server);
            let began = tokio::time::Instant::now();
            let error = stream.is_http2(LONG, SHORT).await.expect_err("late");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed().as_secs(), bound.as_secs(), "{sent}");
        }
    }
}
