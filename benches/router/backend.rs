//! The app behind the proxies: it answers with bytes that lie ready, so that what it costs is small
//! and the same for all.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::load::{Head, head};

/// Bytes of a large body.
pub const LARGE: usize = 1_000_000;
/// What most answers say.
const SMALL: &[u8; 100] = &[b'x'; 100];

/// Starts it; answers say `name`.
pub async fn start(address: SocketAddr, name: &'static str) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("set");
    socket.bind(address).expect("the backend's address is free");
    let listener: TcpListener = socket.listen(8192).expect("listens");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream, name));
        }
    });
}

fn answer(name: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Backend: {name}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Whether there was another request, and it was answered.
async fn one(stream: &mut TcpStream, seen: &mut Vec<u8>, name: &str) -> std::io::Result<bool> {
    let Head { length, body, .. } = loop {
        if let Some(head) = head(seen) {
            break head;
        }
        if stream.read_buf(seen).await? == 0 {
            return Ok(false);
        }
    };
    if seen.starts_with(b"GET /echo") {
        seen.clear();
        // The load's key is RFC 6455's own, and HAProxy looks at what is made of it.
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(agreed).await?;
        let mut buffer = [0; 1024];
        loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(false);
            }
            stream.write_all(&buffer[..read]).await?;
        }
    }
    let large = seen.starts_with(b"GET /large");
    let mut left = (length + body).saturating_sub(seen.len());
    seen.drain(..(length + body).min(seen.len()));
    if left > 0 {
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let most = left.min(buffer.len());
            let read = stream.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Ok(false);
            }
            left -= read;
        }
    }
    if large {
        stream.write_all(&answer(name, &vec![b'x'; LARGE])).await?;
    } else {
        stream.write_all(&answer(name, SMALL)).await?;
    }
    Ok(true)
}

async fn serve(mut stream: TcpStream, name: &'static str) {
    // Small: ten thousand of them are idle in one trial.
    let mut seen = Vec::with_capacity(512);
    while let Ok(true) = one(&mut stream, &mut seen, name).await {}
}
