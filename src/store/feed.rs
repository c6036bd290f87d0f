//! Following a prefix for ever: the driver.
//!
//! Lists at one revision, watches from the next, pokes a silent stream and leaves it when it stays
//! silent, reconnects (to another member), resyncs after a compaction as one difference, and audits
//! now and then. What came is decided by the pure [`Mirror`].

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tracing::{debug, warn};

use super::{
    Update,
    backend::{Backend, Event, Watch},
    list_pages,
    mirror::Mirror,
};
use crate::{
    backoff::{Backoff, random},
    model::Revision,
};

/// A stream that said nothing for so long is asked for a sign of life.
const POKE_AFTER: Duration = Duration::from_secs(2);
/// A stream that said nothing for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(5);
/// Between two audits.
const AUDIT_EVERY: Duration = Duration::from_secs(300);
/// How long events under way may take to arrive before an audit is judged.
const AUDIT_PATIENCE: Duration = Duration::from_secs(2);
/// First pause between two tries to reach etcd.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest one, when etcd isn't there; see [`Backoff::next_after`].
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A watch that stood for so long was well. One that broke sooner has found an etcd that can't take it.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// Updates that may wait for a slow consumer; then the feed waits too, and etcd buffers.
const QUEUE: usize = 64;

/// How well a feed sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// When the store said something last.
    pub last_contact: Option<Instant>,
    /// Since when the view has been unbroken; none while it is broken.
    pub unbroken_since: Option<Instant>,
    /// How often it broke, or the store could not be read.
    pub breaks: u64,
    /// How often all was listed, the first time included.
    pub resyncs: u64,
}

/// An endless, gap-free series of updates of one prefix. Dropping it ends it.
#[derive(Debug)]
pub struct Feed {
    updates: mpsc::Receiver<Update>,
    health: watch::Receiver<Health>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feed {
    pub(super) fn start(backend: Arc<dyn Backend>, prefix: String) -> Self {
        let (sender, updates) = mpsc::channel(QUEUE);
        let (health_sender, health) = watch::channel(Health::default());
        let driver = Driver {
            backend,
            prefix,
            mirror: Mirror::default(),
            updates: sender,
            health: health_sender,
        };
        Self {
            updates,
            health,
            task: tokio::spawn(driver.run()),
        }
    }

    /// The next update; the first one holds the whole prefix (and may be empty). Waits as long as
    /// it takes: a store that is away shows in [`Feed::health`]. Cancel safe.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // The driver never ends before its feed; only a shutting down runtime gets here.
            None => std::future::pending().await,
        }
    }

    /// The next update if it is there already.
    pub fn try_next(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }

    /// How well the feed sees at this moment.
    #[must_use]
    pub fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// A handle on the health that can be kept apart from the feed.
    #[must_use]
    pub fn health_watch(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

/// The consumer has dropped the feed.
struct Gone;

struct Driver {
    backend: Arc<dyn Backend>,
    prefix: String,
    mirror: Mirror,
    updates: mpsc::Sender<Update>,
    health: watch::Sender<Health>,
}

impl Driver {
    async fn run(mut self) {
        // Ends only with the consumer.
        let _: Result<(), Gone> = self.follow().await;
    }

    async fn follow(&mut self) -> Result<(), Gone> {
        let mut listed = false;
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        loop {
            let begun = Instant::now();
            if !listed {
                match self.resync().await? {
                    true => listed = true,
                    false => {
                        time::sleep(backoff.next_after(begun.elapsed(), random())).await;
                        continue;
                    }
                }
            }
            let from = self.mirror.revision() + 1;
            let ended = match self.backend.watch(&self.prefix, from).await {
                Ok(mut watch) => {
                    let ended = self.pump(&mut *watch).await?;
                    if begun.elapsed() >= WELL_AFTER {
                        backoff.reset();
                    }
                    ended
                }
                Err(error) => Ended::Broken(error.to_string()),
            };
            match ended {
                Ended::Resync(why) => {
                    debug!(prefix = self.prefix, why, "resync");
                    listed = false;
                }
                Ended::Broken(reason) => {
                    self.broken();
                    warn!(prefix = self.prefix, reason, "watch broke, reconnecting");
                    time::sleep(backoff.next_after(begun.elapsed(), random())).await;
                }
            }
        }
    }

    /// Lists everything; `false` when the store is away.
    async fn resync(&mut self) -> Result<bool, Gone> {
        match list_pages(&*self.backend, &self.prefix, false).await {
            Ok((listing, revision)) => {
                self.contact();
                self.health.send_modify(|health| health.resyncs += 1);
                if let Some(update) = self.mirror.resync(listing, revision) {
                    self.deliver(update).await?;
                }
                Ok(true)
            }
            Err(error) => {
                self.broken();
                warn!(prefix = self.prefix, %error, "can't list, trying again");
                Ok(false)
            }
        }
    }

    /// Takes events until the watch ends.
    async fn pump(&mut self, watch: &mut dyn Watch) -> Result<Ended, Gone> {
        let mut heard = Instant::now();
        let mut poked = false;
        let mut audit_at = heard + AUDIT_EVERY;
        let mut audit: Option<(Vec<(String, super::Entry)>, Revision)> = None;
        loop {
            let patience = if poked { DEAD_AFTER } else { POKE_AFTER };
            let event = tokio::select! {
                biased;
                () = self.updates.closed() => return Err(Gone),
                event = watch.next() => event,
                () = time::sleep_until(heard + patience) => {
                    if poked {
                        return Ok(Ended::Broken("the stream is silent".into()));
                    }
                    watch.poke().await;
                    poked = true;
                    continue;
                }
                () = time::sleep_until(audit_at) => {
                    match audit.take() {
                        None => {
                            audit = list_pages(&*self.backend, &self.prefix, true).await.ok();
                            audit_at = Instant::now() + AUDIT_PATIENCE;
                        }
                        Some((listing, revision)) => {
                            if self.mirror.contradicts(&listing, revision) {
                                warn!(prefix = self.prefix, "an audit found what no event told");
                                return Ok(Ended::Resync("audit"));
                            }
                            audit_at = Instant::now() + AUDIT_EVERY;
                        }
                    }
                    continue;
                }
            };
            heard = Instant::now();
            poked = false;
            match event {
                Event::Changes(changes) => {
                    self.contact();
                    if let Some(update) = self.mirror.apply(changes) {
                        self.deliver(update).await?;
                    }
                }
                Event::Alive => self.contact(),
                Event::Compacted => return Ok(Ended::Resync("compacted")),
                Event::Closed(reason) => return Ok(Ended::Broken(reason)),
            }
        }
    }

    async fn deliver(&self, update: Update) -> Result<(), Gone> {
        self.updates.send(update).await.map_err(|_| Gone)
    }

    fn contact(&self) {
        let now = Instant::now();
        self.health.send_modify(|health| {
            health.last_contact = Some(now);
            health.unbroken_since.get_or_insert(now);
        });
    }

    fn broken(&self) {
        self.health.send_modify(|health| {
            health.unbroken_since = None;
            health.breaks += 1;
        });
    }
}

enum Ended {
    /// List anew.
    Resync(&'static str),
    /// Watch on from where it was.
    Broken(String),
}
