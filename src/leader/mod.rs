//! The leader: one of the controllers, elected, carries out what `plan` decides.
//!
//! Every controller follows `/deis/` into a [`World`], so that the next leader starts with a view that
//! is warm and known to be whole. The one that holds `/deis/leader` plans a round whenever something
//! changed or a wait is over, commits its transactions, and plans again only on a view that contains
//! them: two placements of one process can't come from not having seen the first. A write whose fate
//! is unknown ends the term: the next term's fence keeps it from arriving late.

mod election;
mod gather;
mod metrics;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    logger::tell::Teller,
    model::Revision,
    outside,
    plan::{
        World,
        round::{Act, Context, Memory, Policy, Saying, round},
        waiting::Waiting,
    },
    settings::HostSettings,
    store::{CommitError, Feed, Store, StoreError, keys},
};
use election::Term;
use gather::Gathering;
pub use metrics::Metrics;

/// Transactions under way at once.
const CONCURRENT: usize = 16;
/// Between two looks at everything, whatever changed.
const RESYNC: Duration = Duration::from_secs(60);
/// Between two tries to be elected while the store is away.
const CAMPAIGN_RETRY: Duration = Duration::from_millis(500);
/// Longest pause after rounds that met conflicts.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How long giving the leadership back may take when the process ends.
const RESIGN_LIMIT: Duration = Duration::from_secs(2);

/// Failure of the leader's loop.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Somebody else leads now.
    #[error("the leadership went to somebody else")]
    Deposed,
    /// The store failed.
    #[error("the leader can't reach the store")]
    Store(#[from] StoreError),
    /// What a bootstrap waited for didn't come.
    #[error("not done after {limit_secs} s; {waiting}")]
    Deadline {
        /// The limit.
        limit_secs: u64,
        /// What was waited for.
        waiting: String,
    },
}

impl From<CommitError> for LeaderError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Self::Deposed,
            CommitError::Store(error) => Self::Store(error),
        }
    }
}

/// Runs for the leadership and leads while elected, until `stop` is cancelled.
///
/// A transaction that has begun is finished; the leadership is then given back.
///
/// # Errors
/// None at present: trouble with the store is waited out. The type leaves room.
pub async fn run(
    settings: HostSettings,
    store: Store,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), LeaderError> {
    let teller = Teller::start(store.clone());
    let mut engine = Engine::new(store, settings.address.to_string());
    (engine.teller, engine.metrics) = (Some(teller), metrics);
    engine.gathering = Some(Gathering::default());
    engine.take_part(stop).await;
    Ok(())
}

/// Runs for the leadership and leads while elected; says in apps' logs what it did, if it can. Routers
/// aren't asked for what they count: deploys get no receipt.
pub async fn take_part(
    store: Store,
    address: String,
    teller: Option<Teller>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut engine = Engine::new(store, address);
    engine.teller = teller;
    engine.metrics = metrics;
    engine.take_part(stop).await;
}

/// Leads until `until` holds, then gives the leadership back: how `deisctl` starts a platform that has
/// no controller yet. When somebody else leads, it is left to them, and only waited for.
///
/// # Errors
/// When `until` doesn't hold within `deadline`; the error says what is waited for.
pub async fn bootstrap(
    store: Store,
    address: &str,
    until: impl Fn(&World) -> bool,
    deadline: Duration,
) -> Result<(), LeaderError> {
    let mut engine = Engine::new(store, address.to_owned());
    let work = async {
        while !(engine.seen_first && until(&engine.world)) {
            engine.wait().await;
            engine.turn().await;
        }
    };
    let done = timeout(deadline, work).await;
    let waiting = engine.describe_waiting();
    engine.resign().await;
    done.map_err(|_| LeaderError::Deadline {
        limit_secs: deadline.as_secs(),
        waiting,
    })
}

struct Engine {
    store: Store,
    /// Says in apps' logs what was done; none while a platform starts, that has no logger yet.
    teller: Option<Teller>,
    address: String,
    feed: Feed,
    world: World,
    seen_first: bool,
    /// The origin of the monotonic clock that planning is told.
    epoch: Instant,
    term: Option<Term>,
    memory: Memory,
    /// No round before the view has got so far.
    view_needed: Revision,
    /// No round and no candidacy before.
    not_before: Instant,
    wake: Option<Instant>,
    resync: Instant,
    conflicts_in_a_row: u32,
    said: BTreeSet<Waiting>,
    said_unreadable: BTreeSet<String>,
    metrics: Arc<Metrics>,
    /// What routers are asked and say; none where they can't be asked.
    gathering: Option<Gathering>,
}

impl Engine {
    fn new(store: Store, address: String) -> Self {
        let now = Instant::now();
        Self {
            feed: store.follow(keys::ROOT),
            store,
            teller: None,
            address,
            world: World::default(),
            seen_first: false,
            epoch: now,
            term: None,
            memory: Memory::default(),
            view_needed: 0,
            not_before: now,
            wake: None,
            resync: now + RESYNC,
            conflicts_in_a_row: 0,
            said: BTreeSet::new(),
            said_unreadable: BTreeSet::new(),
            metrics: Arc::default(),
            gathering: None,
        }
    }

    async fn take_part(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.wait() => {}
            }
            self.turn().await;
            self.metrics.led(self.term.is_some());
        }
        self.resign().await;
        self.metrics.led(false);
    }

    /// Waits for news, the end of a wait, or the end of the term. Cancel safe.
    async fn wait(&mut self) {
        let wake = self.wake.map_or(self.resync, |wake| wake.min(self.resync));
        let wake = if self.not_before > Instant::now() {
            wake.min(self.not_before)
        } else {
            wake
        };
        let term = &self.term;
        let gathering = &mut self.gathering;
        let update = tokio::select! {
            biased;
            update = self.feed.next() => Some(update),
            () = async {
                match gathering {
                    Some(gathering) => gathering.answered().await,
                    None => std::future::pending().await,
                }
            } => None,
            () = sleep_until(wake) => None,
            () = async {
                match term {
                    Some(term) => term.lost().await,
                    None => std::future::pending().await,
                }
            } => None,
        };
        if let Some(update) = update {
            self.world.apply(&update);
            self.seen_first = true;
        }
    }

    /// Takes in all that is known, then does what is to be done.
    async fn turn(&mut self) {
        while let Some(update) = self.feed.try_next() {
            self.world.apply(&update);
            self.seen_first = true;
        }
        let now = Instant::now();
        self.wake = self.wake.filter(|wake| *wake > now);
        if now >= self.resync {
            self.resync = now + RESYNC;
            self.memory.look_at_everything();
            debug!("resync");
        }
        if let Some(term) = &self.term {
            let leader = self.world.leader().map(|leader| leader.create_revision);
            let seen = self.world.revision() >= term.fence;
            if !term.held() || (seen && leader != Some(term.fence)) {
                info!(fence = term.fence, "no longer the leader");
                self.term = None;
            }
        }
        if self.seen_first && self.term.is_none() {
            let policy = Policy::of(&self.world);
            self.memory.follow(&self.world, now - self.epoch, &policy);
        }
        if !self.seen_first || now < self.not_before {
            return;
        }
        if self.term.is_none() && !self.campaign().await {
            return;
        }
        if self.world.revision() >= self.view_needed {
            self.lead().await;
        }
    }

    /// Tries to be elected if nobody leads.
    async fn campaign(&mut self) -> bool {
        self.wake = None;
        if self.world.leader().is_some() || self.feed.health().unbroken_since.is_none() {
            return false;
        }
        match Term::win(&self.store, &self.address).await {
            Ok(Some(term)) => {
                info!(
                    fence = term.fence,
                    address = self.address,
                    "elected as the leader"
                );
                self.metrics.terms.inc();
                self.view_needed = term.fence;
                self.memory.new_term();
                self.term = Some(term);
                true
            }
            Ok(None) => false,
            Err(error) => {
                warn!(%error, "can't run for the leadership, trying again");
                self.not_before = Instant::now() + CAMPAIGN_RETRY;
                false
            }
        }
    }

    /// One round: plan on what is known, commit, note how far the view has to get.
    async fn lead(&mut self) {
        let acts = self.plan();
        if !acts.is_empty() {
            self.commit(acts).await;
        }
    }

    fn plan(&mut self) -> Vec<Act> {
        let Some(term) = &self.term else {
            return Vec::new();
        };
        let now = Instant::now();
        let Some(unbroken) = self.feed.health().unbroken_since else {
            // Blind: nothing is decided on what may be out of date.
            self.wake = Some(now + CAMPAIGN_RETRY);
            return Vec::new();
        };
        let policy = Policy::of(&self.world);
        let context = Context {
            now: now - self.epoch,
            wall: outside::now(),
            view_since: unbroken.saturating_duration_since(self.epoch),
            fence: term.fence,
            policy: &policy,
            counts: self.gathering.as_ref().map(Gathering::known),
            new_id: &outside::uuid,
        };
        let changed = self.world.take_changed();
        let plan = round(&self.world, &changed, &mut self.memory, &context);
        self.metrics.rounds.observe(now.elapsed());
        self.metrics.planned(&self.world, &plan);
        self.wake = plan.wake.map(|wake| self.epoch + wake);
        self.speak(plan.waiting);
        if let Some(gathering) = &mut self.gathering {
            gathering.forget_all_but(|app| {
                let view = self.world.apps().get(app);
                view.is_some_and(|view| view.rollout.is_some())
            });
            let routers = self.world.routers();
            gathering.ask(plan.asks, routers, now - self.epoch);
        }
        plan.acts
    }

    async fn commit(&mut self, acts: Vec<Act>) {
        let store = &self.store;
        let results: Vec<(Act, Result<Revision, CommitError>)> = stream::iter(acts)
            .map(|act| async move {
                let result = store.commit(act.txn.clone()).await;
                (act, result)
            })
            .buffer_unordered(CONCURRENT)
            .collect()
            .await;
        let (mut conflicts, mut unknown) = (false, None);
        for (act, result) in results {
            match result {
                Ok(revision) => {
                    info!(about = act.about, what = act.what, revision, "done");
                    self.metrics.commits.inc();
                    self.view_needed = self.view_needed.max(revision);
                    self.tell(&act.tell);
                }
                Err(CommitError::Conflict) => {
                    debug!(
                        about = act.about,
                        what = act.what,
                        "conflict, planning anew"
                    );
                    self.metrics.conflicts.inc();
                    conflicts = true;
                }
                Err(CommitError::Store(error)) => {
                    warn!(about = act.about, what = act.what, %error, "fate unknown");
                    self.metrics.unknown.inc();
                    unknown = Some(error);
                }
            }
        }
        if unknown.is_some() {
            self.new_term().await;
        } else if conflicts {
            self.after_conflict().await;
        } else {
            self.conflicts_in_a_row = 0;
        }
    }

    fn tell(&self, sayings: &[Saying]) {
        let Some(teller) = &self.teller else { return };
        for Saying { app, process, text } in sayings {
            match process {
                Some(process) => teller.say_of(app, process, text),
                None => teller.say(app, text),
            }
        }
    }

    /// What was decided on was out of date: plan again on a view that has got past the conflict.
    async fn after_conflict(&mut self) {
        let pause =
            Duration::from_millis(10) * 2_u32.saturating_pow(self.conflicts_in_a_row.min(8));
        self.conflicts_in_a_row += 1;
        self.not_before = Instant::now() + pause.min(BACKOFF_MAX);
        let Some(term) = &self.term else { return };
        match term.touch(&self.store).await {
            Ok(revision) => self.view_needed = self.view_needed.max(revision),
            Err(LeaderError::Deposed) => self.term = None,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the term ends");
                self.new_term().await;
            }
        }
    }

    /// Ends the term: what may still be on its way fails on the next one's fence.
    async fn new_term(&mut self) {
        self.not_before = Instant::now() + CAMPAIGN_RETRY;
        self.resign().await;
    }

    async fn resign(&mut self) {
        let Some(term) = self.term.take() else { return };
        info!(fence = term.fence, "giving the leadership back");
        match timeout(RESIGN_LIMIT, term.resign(&self.store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "the leadership runs out with its lease");
            }
            Err(_) => warn!("no answer: the leadership runs out with its lease"),
        }
    }

    /// Says what waits, and what can't be read, when it is new.
    fn speak(&mut self, waiting: Vec<Waiting>) {
        let waiting: BTreeSet<Waiting> = waiting.into_iter().collect();
        for new in waiting.difference(&self.said) {
            info!(what = new.what, why = %new.why, "waiting");
        }
        self.said = waiting;
        let unreadable = self.world.unreadable();
        for (key, why) in unreadable
            .iter()
            .filter(|(key, _)| !self.said_unreadable.contains(*key))
        {
            warn!(
                key,
                why, "a record can't be read; what depends on it is left as it is"
            );
        }
        self.said_unreadable = unreadable.keys().cloned().collect();
    }

    fn describe_waiting(&self) -> String {
        if self.said.is_empty() {
            return match self.world.leader() {
                Some(leader) => format!("{} leads; see its journal", leader.value.address),
                None => "nobody leads".to_owned(),
            };
        }
        let all: Vec<String> = self.said.iter().map(ToString::to_string).collect();
        format!("waiting: {}", all.join("; "))
    }
}

#[cfg(test)]
mod tests;
