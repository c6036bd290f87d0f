//! Keeps the live table in step with etcd, and the books of what may be acknowledged.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{
    backend::{Backend, REAP_EVERY},
    ledger::{Acks, Ledger},
    live::{Live, PART},
};
use crate::store::{Feed, Store, keys};

/// A request may outlive the withdrawal of its backend by so long; then it is cut, so that no
/// client can hold up other people's deploys for ever.
const LONGEST_DRAIN: Duration = Duration::from_secs(20 * 60);

/// What the table is made of besides `/deis/services/`.
fn other_prefixes() -> [String; 8] {
    [
        keys::settings(PART).as_str().to_owned(),
        keys::routes().as_str().to_owned(),
        keys::domains().as_str().to_owned(),
        keys::certs().as_str().to_owned(),
        keys::acme_challenges().as_str().to_owned(),
        keys::platform("domain").as_str().to_owned(),
        keys::parts("controller").as_str().to_owned(),
        keys::parts("builder").as_str().to_owned(),
    ]
}

/// The tasks that follow etcd; they end when it is dropped.
#[derive(Debug)]
pub struct Following {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Feeds whose first update is in the table.
    filled: watch::Receiver<usize>,
    acks: watch::Receiver<Acks>,
    feeds: usize,
}

impl Drop for Following {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Following {
    /// Begins to follow: what is read is never older than this moment.
    #[must_use]
    pub fn start(store: &Store, live: &Arc<Live>) -> Self {
        let (filled_sender, filled) = watch::channel(0);
        let filled_sender = Arc::new(filled_sender);
        let (acks_sender, acks) = watch::channel(Acks::default());
        let prefix = keys::services().as_str().to_owned();
        let services = Services {
            live: Arc::clone(live),
            feed: store.follow(&prefix),
            prefix,
            ledger: Ledger::default(),
            held: Vec::new(),
            acks: acks_sender.clone(),
        };
        let mut tasks = vec![tokio::spawn(services.follow(Arc::clone(&filled_sender)))];
        for prefix in other_prefixes() {
            let (live, filled) = (Arc::clone(live), Arc::clone(&filled_sender));
            let acks = acks_sender.clone();
            let mut feed = store.follow(&prefix);
            tasks.push(tokio::spawn(async move {
                loop {
                    let update = feed.next().await;
                    live.update(&prefix, &update);
                    if prefix == keys::routes().as_str() {
                        acks.send_modify(|acks| acks.routes = update.revision);
                    }
                    if update.first {
                        filled.send_modify(|n| *n += 1);
                    }
                }
            }));
        }
        Self {
            feeds: tasks.len(),
            tasks,
            filled,
            acks,
        }
    }

    /// Waits until everything has been read once. Cancel safe.
    pub async fn filled(&self) {
        let mut filled = self.filled.clone();
        // The senders live in tasks that never end by themselves.
        let _ = filled.wait_for(|n| *n == self.feeds).await;
    }

    /// What may be acknowledged.
    #[must_use]
    pub fn acks(&self) -> watch::Receiver<Acks> {
        self.acks.clone()
    }
}

struct Services {
    live: Arc<Live>,
    feed: Feed,
    prefix: String,
    ledger: Ledger,
    /// Withdrawn backends that requests held at the last look, and since when they are withdrawn.
    held: Vec<(Arc<Backend>, Instant)>,
    acks: watch::Sender<Acks>,
}

impl Services {
    async fn follow(mut self, filled: Arc<watch::Sender<usize>>) {
        let mut tick = interval(REAP_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut first = false;
            tokio::select! {
                biased;
                update = self.feed.next() => {
                    first = update.first;
                    for backend in self.live.update(&self.prefix, &update) {
                        if backend.in_flight() > 0 {
                            self.ledger.withdrawn(backend.endpoint().clone());
                            self.held.push((backend, Instant::now()));
                        }
                    }
                    self.ledger.applied(update.revision);
                }
                () = self.live.released.notified() => {}
                _ = tick.tick() => {
                    self.live.reap();
                    self.cut_the_longest();
                }
            }
            self.look();
            if first {
                filled.send_modify(|n| *n += 1);
            }
        }
    }

    /// Strikes out backends that nobody holds any more, and says so.
    fn look(&mut self) {
        let ledger = &mut self.ledger;
        self.held.retain(|(backend, since)| {
            let held = backend.in_flight() > 0;
            if !held {
                ledger.released(backend.endpoint());
                let seconds = since.elapsed().as_secs();
                info!(backend = backend.name(), seconds, "backend drained");
            }
            held
        });
        let mut acks = self.ledger.acks();
        self.acks.send_if_modified(|last| {
            acks.routes = last.routes;
            (*last != acks).then(|| *last = acks).is_some()
        });
    }

    fn cut_the_longest(&self) {
        for (backend, since) in &self.held {
            if since.elapsed() > LONGEST_DRAIN && !backend.cut.is_cancelled() {
                let in_flight = backend.in_flight();
                warn!(
                    backend = backend.name(),
                    in_flight, "drain takes too long: requests cut"
                );
                backend.cut.cancel();
            }
        }
    }
}
