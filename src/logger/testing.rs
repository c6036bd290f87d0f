//! For tests: a logger in process, on loopback, and somebody who speaks to it as sidecars do.

use std::{net::SocketAddr, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Place, app_log::Limits};
use crate::{
    model::{PartPresence, SCHEMA},
    sidecar::wire::{Data, Hello, Position, StreamId},
    store::{Store, Txn, keys},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A logger, until it is dropped.
pub(crate) struct Logger {
    lines: SocketAddr,
    http: SocketAddr,
    _stop: DropGuard,
}

impl Logger {
    pub(crate) async fn start(folder: &Path, lines: &str, http: &str) -> Self {
        let place = Place {
            lines: lines.parse().expect("address"),
            http: http.parse().expect("address"),
            folder: folder.to_owned(),
            limits: Limits::default(),
        };
        let deadline = Instant::now() + PATIENCE;
        let bound = loop {
            // A former life may still be closing.
            match super::bind(&place).await {
                Ok(bound) => break bound,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        };
        let (lines, http) = bound.addresses().expect("addresses");
        let stop = CancellationToken::new();
        tokio::spawn(super::serve(bound, place, stop.clone()));
        Self {
            lines,
            http,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn fresh(folder: &Path, ip: &str) -> Self {
        Self::start(folder, &format!("{ip}:0"), &format!("{ip}:0")).await
    }

    /// The same again, after its end.
    pub(crate) async fn again(self, folder: &Path) -> Self {
        let (lines, http) = (self.lines.to_string(), self.http.to_string());
        drop(self);
        Self::start(folder, &lines, &http).await
    }

    pub(crate) async fn register(&self, store: &Store) {
        let presence = PartPresence {
            schema: SCHEMA,
            id: uuid::Uuid::new_v4(),
            address: self.http.to_string(),
        };
        let key = keys::part(super::PART, &self.http.ip().to_string());
        let txn = Txn::new().put(&key, &presence);
        store.commit(txn).await.expect("registered");
    }

    /// Says lines as a process's sidecar does: from `at` on, up to `acked` elsewhere.
    pub(crate) async fn say(
        &self,
        source: &str,
        at: Position,
        second: u64,
        text: &str,
    ) -> Position {
        let hello = Hello {
            app: "blog".parse().expect("app"),
            source: source.parse().expect("source"),
            stream: StreamId::new("6f0e5a52-55c7-4b3a-8d55-0c1d55b8a111", source.len() as u64)
                .expect("stream"),
            acked: at,
        };
        let data = Data {
            at,
            time_ms: second * 1000,
            len: text.len(),
        };
        let mut socket = TcpStream::connect(self.lines).await.expect("connect");
        let words = format!("{}{}{text}", hello.encode(), data.encode());
        socket.write_all(words.as_bytes()).await.expect("said");
        let mut answers = BufReader::new(socket).lines();
        for word in ["have", "ack"] {
            let answer = timeout(PATIENCE, answers.next_line())
                .await
                .expect("in time");
            let answer = answer.expect("read").expect("an answer");
            assert!(answer.starts_with(word), "{answer}");
        }
        at.after(text.as_bytes())
    }
}
