//! A store behind a network: what is asked of it, and what it tells, meets a weather that delays,
//! loses, repeats and breaks. For the simulation; the decisions are the weather's.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{
    MemoryStore, Store, StoreError, Txn,
    backend::{Backend, Event, Page, Span, Watch},
};
use crate::model::Revision;

/// A stream that hears nothing for so long while it is cut off is closed by its own keep-alive.
const STREAM_PATIENCE: Duration = Duration::from_secs(4);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives, and its answer comes back.
    Fine,
    /// It never arrives; the caller learns so much later that nobody answered.
    Lost(Duration),
    /// It is carried out, and the answer is lost.
    Unanswered(Duration),
    /// The caller is told that nobody answered; it is carried out so much later.
    Late(Duration),
    /// It is sent twice, because the first answer was lost: the second one's answer counts.
    Twice,
    /// The caller dies before it is sent.
    DiesBefore,
    /// The caller dies after it was carried out, before it hears so.
    DiesAfter,
}

/// What becomes of something that a stream tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It comes.
    Comes,
    /// It comes twice.
    Twice,
    /// The stream ends instead.
    Breaks,
    /// The stream never says anything again.
    Silence,
}

/// What a node meets on its way to the store.
pub(crate) trait Weather: Send + Sync + 'static {
    /// How long a way takes.
    fn latency(&self) -> Duration;
    /// What becomes of a call; `changes` whether it changes anything.
    fn fate(&self, changes: bool) -> Fate;
    /// What becomes of an event of a stream, and how long it takes.
    fn passage(&self) -> (Passage, Duration);
    /// Whether the node and the store reach each other now.
    fn reaches(&self) -> bool;
    /// Told when that changes.
    fn changes(&self) -> Arc<Notify>;
    /// A transaction of this node is about to be carried out (and then it has been).
    fn writes(&self, now: bool);
    /// The node dies here; what called never goes on.
    fn die(&self);
}

/// A node's handle on a store in memory.
pub(crate) fn store(memory: &MemoryStore, weather: Arc<dyn Weather>) -> Store {
    Store {
        backend: Arc::new(Faulty {
            memory: memory.clone(),
            weather,
        }),
    }
}

struct Faulty {
    memory: MemoryStore,
    weather: Arc<dyn Weather>,
}

fn unreachable(reason: &str) -> StoreError {
    StoreError::Unreachable {
        tried: "the simulation".into(),
        reason: reason.into(),
    }
}

impl Faulty {
    async fn call<T: Send>(
        &self,
        changes: bool,
        mut carry_out: impl FnMut() -> BoxFuture<'static, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let weather = &self.weather;
        let fate = weather.fate(changes);
        if fate == Fate::DiesBefore {
            weather.die();
            return std::future::pending().await;
        }
        sleep(weather.latency()).await;
        if let Fate::Lost(after) | Fate::Late(after) = fate {
            if let Fate::Late(_) = fate {
                let later = Arc::clone(weather);
                tokio::spawn(async move {
                    sleep(after).await;
                    if later.reaches() {
                        later.writes(true);
                        let _ = carry_out().await;
                        later.writes(false);
                    }
                });
                sleep(weather.latency()).await;
            } else {
                sleep(after).await;
            }
            return Err(unreachable("no answer"));
        }
        if !weather.reaches() {
            sleep(Duration::from_millis(500)).await;
            return Err(unreachable("cut off"));
        }
        weather.writes(true);
        let mut answer = carry_out().await;
        weather.writes(false);
        sleep(weather.latency()).await;
        match fate {
            Fate::Unanswered(after) => {
                sleep(after).await;
                return Err(unreachable("the answer was lost"));
            }
            Fate::Twice => {
                weather.writes(true);
                answer = carry_out().await;
                weather.writes(false);
                sleep(weather.latency()).await;
            }
            Fate::DiesAfter => {
                weather.die();
                return std::future::pending().await;
            }
            Fate::Fine | Fate::Lost(_) | Fate::Late(_) | Fate::DiesBefore => {}
        }
        if !weather.reaches() {
            sleep(Duration::from_secs(2)).await;
            return Err(unreachable("cut off before the answer came"));
        }
        answer
    }
}

impl Backend for Faulty {
    fn range(
        &self,
        span: Span,
        limit: i64,
        revision: Revision,
        keys_only: bool,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        let memory = self.memory.clone();
        Box::pin(self.call(false, move || {
            let (memory, span) = (memory.clone(), span.clone());
            Box::pin(async move { memory.range(span, limit, revision, keys_only).await })
        }))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<(bool, Revision), StoreError>> {
        let memory = self.memory.clone();
        Box::pin(self.call(true, move || {
            let (memory, txn) = (memory.clone(), txn.clone());
            Box::pin(async move { memory.txn(txn).await })
        }))
    }

    fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            sleep(self.weather.latency()).await;
            if !self.weather.reaches() {
                sleep(Duration::from_millis(500)).await;
                return Err(unreachable("cut off"));
            }
            let inner = self.memory.watch(&prefix, from).await?;
            Ok(Box::new(FaultyWatch {
                inner,
                changes: self.weather.changes(),
                weather: Arc::clone(&self.weather),
                coming: VecDeque::new(),
                silent: false,
                cut_since: None,
            }) as Box<dyn Watch>)
        })
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<i64, StoreError>> {
        let memory = self.memory.clone();
        Box::pin(self.call(false, move || {
            let memory = memory.clone();
            Box::pin(async move { memory.grant(ttl).await })
        }))
    }

    fn keep_alive(&self, lease: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        let memory = self.memory.clone();
        Box::pin(self.call(false, move || {
            let memory = memory.clone();
            Box::pin(async move { memory.keep_alive(lease).await })
        }))
    }

    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), StoreError>> {
        let memory = self.memory.clone();
        Box::pin(self.call(true, move || {
            let memory = memory.clone();
            Box::pin(async move { memory.revoke(lease).await })
        }))
    }
}

struct FaultyWatch {
    inner: Box<dyn Watch>,
    weather: Arc<dyn Weather>,
    changes: Arc<Notify>,
    /// What is on its way, in order, and when it arrives.
    coming: VecDeque<(Instant, Event)>,
    /// Nothing more comes from it.
    silent: bool,
    /// Since when the store is out of reach.
    cut_since: Option<Instant>,
}

impl FaultyWatch {
    fn sent(&mut self, event: Event) {
        let (passage, delay) = self.weather.passage();
        let earliest = self.coming.back().map_or_else(Instant::now, |(at, _)| *at);
        let at = earliest.max(Instant::now() + delay);
        match (passage, event) {
            (Passage::Twice, Event::Changes(changes)) => {
                self.coming.push_back((at, Event::Changes(changes.clone())));
                self.coming.push_back((at + delay, Event::Changes(changes)));
            }
            (Passage::Breaks, _) => {
                self.silent = true;
                self.coming.push_back((at, Event::Closed("broken".into())));
            }
            (_, event @ (Event::Compacted | Event::Closed(_))) => {
                self.silent = true;
                self.coming.push_back((at, event));
            }
            (Passage::Silence, _) => self.silent = true,
            (Passage::Comes | Passage::Twice, event) => self.coming.push_back((at, event)),
        }
    }
}

impl Watch for FaultyWatch {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async move {
            let changes = Arc::clone(&self.changes);
            loop {
                let changed = changes.notified();
                if self.weather.reaches() {
                    self.cut_since = None;
                } else {
                    let since = *self.cut_since.get_or_insert_with(Instant::now);
                    tokio::select! {
                        biased;
                        () = changed => continue,
                        () = sleep_until(since + STREAM_PATIENCE) => {
                            return Event::Closed("cut off".into());
                        }
                    }
                }
                let first = self.coming.front().map(|(at, _)| *at);
                let arrives = async {
                    match first {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = arrives => {
                        if let Some((_, event)) = self.coming.pop_front() {
                            return event;
                        }
                    }
                    event = self.inner.next(), if !self.silent => self.sent(event),
                    () = changed => {}
                }
            }
        })
    }

    fn poke(&mut self) -> BoxFuture<'_, ()> {
        self.inner.poke()
    }
}
