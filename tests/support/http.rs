//! HTTP as a plain client speaks it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub status: u16,
    pub body: String,
}

/// One request on a new connection.
pub fn get(address: &str, host: &str, path: &str) -> Result<Answer, String> {
    let mut connection = Connection::open(address)?;
    connection.get(host, path)
}

/// A connection that may be kept alive.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: &str) -> Result<Self, String> {
        let address: std::net::SocketAddr =
            address.parse().map_err(|e| format!("{address}: {e}"))?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .map_err(|error| format!("connect {address}: {error}"))?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn get(&mut self, host: &str, path: &str) -> Result<Answer, String> {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Sends text on an upgraded connection and reads as many bytes back.
    pub fn exchange(&mut self, text: &str) -> Result<String, String> {
        self.0
            .get_mut()
            .write_all(text.as_bytes())
            .map_err(|e| format!("send: {e}"))?;
        let mut back = vec![0; text.len()];
        self.0
            .read_exact(&mut back)
            .map_err(|e| format!("read: {e}"))?;
        Ok(String::from_utf8_lossy(&back).into_owned())
    }

    /// Sends text as it is and reads one answer.
    pub fn request(&mut self, text: &str) -> Result<Answer, String> {
        let fail = |what: &str, error: std::io::Error| format!("{what}: {error}");
        self.0
            .get_mut()
            .write_all(text.as_bytes())
            .map_err(|e| fail("send", e))?;
        let mut head = String::new();
        loop {
            let before = head.len();
            let read = self
                .0
                .read_line(&mut head)
                .map_err(|e| fail("read the head", e))?;
            if read == 0 {
                return Err(format!("the connection was closed after {head:?}"));
            }
            if &head[before..] == "\r\n" {
                break;
            }
        }
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or("no status")?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found
                    .eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let mut body = Vec::new();
        if let Some(length) = header("content-length") {
            body.resize(length.parse().map_err(|_| "content-length")?, 0);
            self.0
                .read_exact(&mut body)
                .map_err(|e| fail("read the body", e))?;
        } else if header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                self.0
                    .read_line(&mut size)
                    .map_err(|e| fail("read a chunk", e))?;
                let size = usize::from_str_radix(size.trim(), 16).map_err(|_| "chunk size")?;
                let mut chunk = vec![0; size + 2];
                self.0
                    .read_exact(&mut chunk)
                    .map_err(|e| fail("read a chunk", e))?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        }
        Ok(Answer {
            head,
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}
