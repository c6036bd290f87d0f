//! What the platform says in apps' logs: releases, scaling, crashes, lost hosts.
//!
//! Whoever tells something never waits for it: it goes into a bounded queue, and a task of its own
//! brings it to a logger, in order, and tries again while none is there. What doesn't fit, or can't
//! be brought in time, is dropped and counted. An event has an id, so that one whose answer got lost
//! on the way is not written twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    app_log::Event,
    client::{self, ClientError, Whose},
    shelf::now_ms,
};
use crate::{
    backoff::{Backoff, random},
    model::{AppName, ReleaseNumber},
    sidecar::wire::Source,
    store::{Store, StoreError, keys},
    telemetry::chain,
};

/// Events that may wait for a logger.
const QUEUE: usize = 512;
/// How long an event is worth trying.
const WORTH: Duration = Duration::from_secs(120);
/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// Longest text, in characters.
const MAX_TEXT: usize = 1000;

/// Tells events. Cheap to clone; its task ends with the last clone, after what is in its queue.
#[derive(Debug, Clone)]
pub struct Teller {
    queue: mpsc::Sender<Told>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Told {
    app: AppName,
    about: Source,
    what: What,
    id: Uuid,
    time_ms: u64,
}

#[derive(Debug)]
enum What {
    Text(String),
    /// A release's own summary says who made it, and what it is.
    Release(ReleaseNumber),
}

impl Teller {
    /// Begins.
    #[must_use]
    pub fn start(store: Store) -> Self {
        let (queue, told) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(bring(store, told, Arc::clone(&dropped)));
        Self { queue, dropped }
    }

    /// One that nobody hears.
    #[cfg(test)]
    #[must_use]
    pub fn mute() -> Self {
        Self {
            queue: mpsc::channel(1).0,
            dropped: Arc::default(),
        }
    }

    /// Says something of an app.
    pub fn say(&self, app: &AppName, text: &str) {
        self.send(app, Source::controller(), What::Text(plain(text)));
    }

    /// Says something of one of its processes, by its name for people (`web.1`).
    pub fn say_of(&self, app: &AppName, process: &str, text: &str) {
        match process.parse() {
            Ok(about) => self.send(app, about, What::Text(plain(&format!("{process} {text}")))),
            Err(_) => self.say(app, &format!("{process} {text}")),
        }
    }

    /// Says who made a release, and what it is.
    pub fn say_release(&self, app: &AppName, version: ReleaseNumber) {
        self.send(app, Source::controller(), What::Release(version));
    }

    fn send(&self, app: &AppName, about: Source, what: What) {
        let told = Told {
            app: app.clone(),
            about,
            what,
            id: Uuid::new_v4(),
            time_ms: now_ms(),
        };
        if self.queue.try_send(told).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            warn!(%app, dropped, "an event is not in the app's log: too many wait for a logger");
        }
    }
}

/// One line, of bounded length.
fn plain(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let printable = one_line.chars().filter(|c| !c.is_control());
    printable.take(MAX_TEXT).collect()
}

async fn bring(store: Store, mut told: mpsc::Receiver<Told>, dropped: Arc<AtomicU64>) {
    while let Some(told) = told.recv().await {
        let (deadline, mut backoff) = (Instant::now() + WORTH, Backoff::new(BACKOFF.0, BACKOFF.1));
        loop {
            let error = match deliver(&store, &told).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                let dropped = dropped.fetch_add(1, Ordering::Relaxed) + 1;
                let (app, error) = (&told.app, chain(&error));
                warn!(%app, what = ?told.what, error, dropped, "an event is not in the app's log");
                break;
            }
            debug!(app = %told.app, error = chain(&error), "event not told yet");
            sleep(backoff.next(random())).await;
        }
    }
}

async fn deliver(store: &Store, told: &Told) -> Result<(), ClientError> {
    let found = store.get(&keys::app(&told.app)).await;
    let Some(app) = found.map_err(ClientError::from)? else {
        // There is no log to tell it in any more.
        return Ok(());
    };
    let text = match &told.what {
        What::Text(text) => text.clone(),
        What::Release(version) => summary(store, &told.app, *version).await?,
    };
    let event = Event {
        id: told.id,
        time_ms: told.time_ms,
        about: told.about.clone(),
        text: (text + "\n").into_bytes(),
    };
    client::event(store, &Whose::of(&told.app, &app.value), &event).await
}

async fn summary(
    store: &Store,
    app: &AppName,
    version: ReleaseNumber,
) -> Result<String, StoreError> {
    let release = store.get(&keys::release(app, version)).await?;
    Ok(match release {
        Some(release) => plain(&format!("{}: {version}", release.value.summary)),
        None => format!("release {version}"),
    })
}

/// Keeps a loop from flooding a log: what happens again soon is told less and less often, and how
/// often it happened untold is told with the next. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damper {
    /// Nothing is told before.
    quiet_until: Duration,
    pause: Duration,
    last: Option<Duration>,
    untold: u32,
}

impl Damper {
    const FIRST: Duration = Duration::from_secs(2);
    const LONGEST: Duration = Duration::from_secs(600);

    /// Something has happened: none when it is not to be told, else how many were not told before.
    pub fn ask(&mut self, now: Duration) -> Option<u32> {
        let is_new = self
            .last
            .is_none_or(|last| now.saturating_sub(last) >= Self::LONGEST);
        self.last = Some(now);
        if is_new {
            (self.pause, self.quiet_until) = (Duration::ZERO, Duration::ZERO);
        }
        if now < self.quiet_until {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.pause = (self.pause * 2).clamp(Self::FIRST, Self::LONGEST);
        self.quiet_until = now + self.pause;
        Some(std::mem::take(&mut self.untold))
    }
}

/// ` (and 3 times more since the last word of it)`, or nothing.
#[must_use]
pub fn untold(times: u32) -> String {
    match times {
        0 => String::new(),
        1 => "; it did so once more before".to_owned(),
        more => format!("; it did so {more} times more before"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_line_of_bounded_length() {
        assert_eq!(plain("a\nb\t\u{1b}[31mc \r\n"), "a b [31mc");
        assert_eq!(plain(&"x".repeat(5000)).len(), MAX_TEXT);
    }

    #[test]
    fn a_crash_loop_is_told_less_and_less_often() {
        let mut damper = Damper::default();
        let told: Vec<(u64, u32)> = (0..7200)
            .step_by(3)
            .filter_map(|s| Some((s, damper.ask(Duration::from_secs(s))?)))
            .collect();
        assert_eq!(told[..4], [(0, 0), (3, 0), (9, 1), (18, 2)]);
        assert!(told.len() < 25, "{told:?}");
        let all: u32 = told.iter().map(|(_, untold)| untold + 1).sum();
        assert!(all > 2200, "what is not told is counted: {all}");
        // After a quiet time it is news again.
        assert!(damper.ask(Duration::from_secs(7300)).is_none());
        assert!(damper.ask(Duration::from_secs(8000)).is_some());
    }

    proptest! {
        #[test]
        fn nothing_is_forgotten(gaps in proptest::collection::vec(0u64..700_000, 1..100)) {
            let (mut damper, mut now, mut told) = (Damper::default(), 0, 0);
            for (count, gap) in gaps.iter().enumerate() {
                now += gap;
                told += damper.ask(Duration::from_millis(now)).map_or(0, |untold| untold + 1);
                prop_assert_eq!(told + damper.untold, u32::try_from(count).expect("few") + 1);
            }
        }
    }
}
