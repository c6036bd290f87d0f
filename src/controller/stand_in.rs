//! For tests: the sidecar of a one-off process, without a process. It plays its end of a session.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::session::{Channel, Frame, Link, Order, Part, Status};

/// The sidecar's end.
pub(crate) struct StandIn {
    attach: String,
    token: String,
    link: Link,
    wire: TcpStream,
    input: Vec<u8>,
    /// Nobody waits.
    pub(crate) gone: bool,
}

impl StandIn {
    pub(crate) async fn connect(attach: &str, token: &str) -> Self {
        let mut link = Link::opening();
        link.connected();
        Self {
            attach: attach.to_owned(),
            token: token.to_owned(),
            link,
            wire: wire(attach, token).await,
            input: Vec::new(),
            gone: false,
        }
    }

    /// As when the agent was restarted.
    pub(crate) async fn reconnect(&mut self) {
        self.wire = wire(&self.attach, &self.token).await;
        self.input.clear();
        self.link.connected();
    }

    /// Sends all that may be sent.
    async fn send(&mut self) {
        let mut bytes = Vec::new();
        while let Some(frame) = self.link.next_frame() {
            frame.write(&mut bytes);
        }
        // A connection that is closed is seen when it is read.
        let _ = self.wire.write_all(&bytes).await;
    }

    /// The next part; none when the connection has ended, or (`until_settled`) when all was taken.
    async fn step(&mut self, until_settled: bool) -> Option<Part> {
        loop {
            self.send().await;
            while let Some((frame, taken)) = Frame::read(&self.input).expect("frames") {
                self.input.drain(..taken);
                if frame == Frame::Gone {
                    self.gone = true;
                }
                if let Some(part) = self.link.hear(frame).expect("rules") {
                    self.link.take();
                    return Some(part);
                }
                self.send().await;
            }
            if until_settled && self.link.is_settled() {
                return None;
            }
            let mut chunk = [0; 4096];
            match self.wire.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            }
        }
    }

    pub(crate) async fn hear(&mut self) -> Option<Part> {
        self.step(false).await
    }

    /// Sends a part as soon as there is room for it.
    pub(crate) async fn say(&mut self, channel: Channel, bytes: impl Into<Vec<u8>>) {
        while self.link.room() == 0 {
            self.step(true).await;
        }
        self.link.push(Part::new(channel, bytes));
        self.send().await;
    }

    /// Says how the process ended, and waits until that was taken.
    pub(crate) async fn end(&mut self, code: i32) {
        let remark = None;
        let status = serde_json::to_vec(&Status::Ended { code, remark }).expect("status");
        self.link.push(Part::new(Channel::Status, status));
        while self.step(true).await.is_some() {}
    }

    /// Does what the command says: `exit N` ends with N; `cat` prints its input; `sizes` prints the
    /// sizes of its terminal until it gets input; `hold` waits for a signal; `broken` loses its
    /// connection in the middle; `big N` prints N bytes; all else prints itself,
    /// and `both` something on stderr besides.
    pub(crate) async fn play(&mut self, order: &Order) {
        let command = order.command.as_str();
        let mut code = 0;
        match command {
            "cat" | "sizes" => {
                if let Some(terminal) = &order.terminal {
                    let size = terminal.size;
                    let text = format!("{} {} {}\n", terminal.term, size.rows, size.cols);
                    self.say(Channel::Output, text).await;
                }
                while let Some(part) = self.hear().await {
                    match part.channel {
                        Channel::Input if part.bytes.is_empty() || command == "sizes" => break,
                        _ => self.say(Channel::Output, part.bytes).await,
                    }
                }
            }
            "hold" => {
                self.say(Channel::Output, "begun\n").await;
                code = 143;
                while let Some(part) = self.hear().await {
                    if part.channel == Channel::Signal {
                        code = 130;
                        break;
                    }
                }
            }
            "broken" => {
                for n in 0..100 {
                    self.say(Channel::Output, format!("{n}\n")).await;
                    if n % 10 == 5 {
                        self.reconnect().await;
                    }
                }
            }
            other => {
                if let Some(n) = other.strip_prefix("exit ") {
                    code = n.parse().expect("code");
                }
                if let Some(n) = other.strip_prefix("big ") {
                    let mut left: usize = n.parse().expect("size");
                    while left > 0 {
                        let some = left.min(20_000);
                        self.say(Channel::Output, vec![b'x'; some]).await;
                        left -= some;
                    }
                } else {
                    self.say(Channel::Output, format!("{other}\n")).await;
                }
                if other == "both" {
                    self.say(Channel::Errors, "to stderr\n").await;
                }
            }
        }
        self.end(code).await;
    }
}

async fn wire(attach: &str, token: &str) -> TcpStream {
    let mut wire = TcpStream::connect(attach).await.expect("connect");
    let hello = format!("{{\"token\":\"{token}\"}}\n");
    wire.write_all(hello.as_bytes()).await.expect("hello");
    wire
}
