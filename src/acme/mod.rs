//! Automatic certificates for custom domains (ACME, RFC 8555), by the elected leader.
//!
//! On once an operator names an authority: `deisctl config platform set acme-directory=letsencrypt`.
//! What is due is `plan::acme`'s decision, one certificate is `order`'s work. Authorities prove a domain
//! by HTTP-01: the answer goes through etcd to every router, and the authority is asked to look only when
//! all routers that are there give it.
//!
//! Nothing depends on who leads: every write compares what it was based on, and two leaders at once
//! would only order twice.

mod http;
mod order;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    task::{self, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    order::{Clerk, Issued, OrderError},
    settings::Settings,
};
use crate::{
    logger::tell::Teller,
    model::{AppName, DomainName, Leader, Record, Revision},
    plan::acme::{self as plan, View},
    seal::ClusterKey,
    store::{CommitError, Feed, Prefix, Store, StoreError, Txn, Update, Versioned, keys},
    telemetry::chain,
};
pub use settings::SETTINGS;

/// Orders under way at once: authorities limit them, and they are nobody's hurry.
const CONCURRENT: usize = 4;
/// One order, from the account to the certificate.
const ORDER_LIMIT: Duration = Duration::from_secs(180);
/// Longest time without a look at what is due: wall time may have jumped.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Pause after the store failed.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Orders and renews certificates whenever this controller leads, until `stop`.
///
/// `address` is the one under which it runs for the leadership.
pub async fn run(
    store: Store,
    key: Arc<ClusterKey>,
    address: String,
    teller: Teller,
    stop: CancellationToken,
) {
    let mut manager = Manager {
        feeds: Feeds::start(&store),
        clerk: Arc::new(Clerk::new(store.clone(), key)),
        store,
        address,
        teller,
        view: View::default(),
        settings: BTreeMap::new(),
        said: None,
        leader: None,
        leads: false,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        wake: Instant::now() + LOOK_AGAIN,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = manager.work() => {}
    }
}

/// What a decision is based on, read now: for those who only ask.
///
/// # Errors
/// When the store can't be read.
pub async fn view(store: &Store) -> Result<View, StoreError> {
    Ok(View {
        domains: by_name(store, &keys::domains()).await?,
        certs: by_name(store, &keys::certs()).await?,
        orders: by_name(store, &keys::acme_orders()).await?,
    })
}

async fn by_name<T: Record>(
    store: &Store,
    prefix: &Prefix<T>,
) -> Result<BTreeMap<DomainName, Versioned<T>>, StoreError> {
    let named = |(key, record): (String, Versioned<T>)| {
        let name = keys::last_part(&key, prefix.as_str())?.parse().ok()?;
        Some((name, record))
    };
    let listing = store.list_readable(prefix).await?;
    Ok(listing.entries.into_iter().filter_map(named).collect())
}

/// Whether an authority is set.
///
/// # Errors
/// When the store can't be read.
pub async fn is_on(store: &Store) -> Result<bool, StoreError> {
    let directory = store.get(&keys::platform("acme-directory")).await?;
    Ok(directory.is_some_and(|directory| !directory.value.trim().is_empty()))
}

/// What everything depends on, each followed by itself: together they are a few small watches.
struct Feeds {
    domains: Feed,
    certs: Feed,
    orders: Feed,
    settings: Feed,
    leader: Feed,
    /// How many have not told of their beginnings yet.
    missing: usize,
}

enum News {
    Domains(Update),
    Certs(Update),
    Orders(Update),
    Settings(Update),
    Leader(Update),
}

impl Feeds {
    fn start(store: &Store) -> Self {
        Self {
            domains: store.follow(keys::domains().as_str()),
            certs: store.follow(keys::certs().as_str()),
            orders: store.follow(keys::acme_orders().as_str()),
            settings: store.follow(keys::platform(settings::PREFIX).as_str()),
            leader: store.follow(keys::leader().as_str()),
            missing: 5,
        }
    }

    /// What changed next. Cancel safe.
    async fn next(&mut self) -> News {
        let news = tokio::select! {
            update = self.domains.next() => News::Domains(update),
            update = self.certs.next() => News::Certs(update),
            update = self.orders.next() => News::Orders(update),
            update = self.settings.next() => News::Settings(update),
            update = self.leader.next() => News::Leader(update),
        };
        let (News::Domains(update)
        | News::Certs(update)
        | News::Orders(update)
        | News::Settings(update)
        | News::Leader(update)) = &news;
        self.missing -= usize::from(update.first);
        news
    }
}

/// How an order ended.
type Ended = Result<Issued, OrderError>;

struct Manager {
    store: Store,
    clerk: Arc<Clerk>,
    address: String,
    teller: Teller,
    feeds: Feeds,
    view: View,
    /// As operators wrote them.
    settings: BTreeMap<String, String>,
    /// The trouble with them that has been told of.
    said: Option<String>,
    leader: Option<String>,
    leads: bool,
    /// Under way, by the task that does it.
    running: HashMap<task::Id, DomainName>,
    tasks: JoinSet<Ended>,
    wake: Instant,
}

impl Manager {
    async fn work(&mut self) {
        loop {
            tokio::select! {
                news = self.feeds.next() => self.take_in(news),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await,
                () = sleep_until(self.wake) => {}
            }
            if self.feeds.missing == 0 {
                self.look().await;
            }
        }
    }

    fn take_in(&mut self, news: News) {
        match news {
            News::Domains(update) => keep(&mut self.view.domains, keys::domains().as_str(), update),
            News::Certs(update) => keep(&mut self.view.certs, keys::certs().as_str(), update),
            News::Orders(update) => {
                keep(&mut self.view.orders, keys::acme_orders().as_str(), update)
            }
            News::Settings(update) => {
                for change in update.changes {
                    let value = change
                        .entry
                        .and_then(|entry| String::decode(&entry.value).ok());
                    match value {
                        Some(value) => self.settings.insert(change.key, value),
                        None => self.settings.remove(&change.key),
                    };
                }
            }
            News::Leader(update) => {
                for change in update.changes {
                    let leader = change
                        .entry
                        .and_then(|entry| Leader::decode(&entry.value).ok());
                    self.leader = leader.map(|leader| leader.address);
                }
            }
        }
    }

    /// Begins what is due, if this is the leader's place.
    async fn look(&mut self) {
        let (led, leads) = (self.leads, self.leader.as_ref() == Some(&self.address));
        self.leads = leads;
        self.wake = Instant::now() + LOOK_AGAIN;
        if !leads {
            return;
        }
        let settings = match Settings::parse(&self.settings) {
            Ok(Some(settings)) => settings,
            Ok(None) => return,
            Err(error) => {
                let error = error.to_string();
                if self.said.as_ref() != Some(&error) {
                    warn!(error, "no automatic certificates");
                    self.said = Some(error);
                }
                return;
            }
        };
        self.said = None;
        let now = Timestamp::now();
        let due = plan::due(&self.view, now);
        let tidied = self.tidy(&due, !led).await;
        if let Err(error) = tidied {
            warn!(%error, "what is left of former certificates stays for now");
            self.wake = Instant::now() + STORE_PAUSE;
        }
        if let Some(next) = due.next {
            self.wake = self.wake.min(Instant::now() + plan::until(next, now));
        }
        for domain in due.order {
            if self.running.len() >= CONCURRENT {
                // The end of any of them comes back here.
                break;
            }
            let Some(record) = self.view.domains.get(&domain).cloned() else {
                continue;
            };
            if self.running.values().any(|running| *running == domain) {
                continue;
            }
            info!(%domain, directory = settings.directory, "ordering a certificate");
            let (clerk, settings) = (Arc::clone(&self.clerk), settings.clone());
            let old = self.view.certs.get(&domain).map(|cert| cert.mod_revision);
            let name = domain.clone();
            let task = self.tasks.spawn(async move {
                let order = clerk.order(&settings, &record, old);
                let result = match timeout(ORDER_LIMIT, order).await {
                    Ok(result) => result,
                    Err(_) => Err(OrderError::Slow(ORDER_LIMIT)),
                };
                clerk.forget(&name).await;
                result
            });
            self.running.insert(task.id(), domain);
        }
    }

    /// Removes what no domain needs any more; at the beginning of a term, answers of orders that a
    /// former leader did not finish, too.
    async fn tidy(&self, due: &plan::Due, first: bool) -> Result<(), StoreError> {
        let mut txns: Vec<Txn> = Vec::new();
        for name in &due.drop_certs {
            let key = keys::cert(name);
            if let Some(cert) = self.view.certs.get(name) {
                txns.push(Txn::new().unchanged(&key, cert.mod_revision).delete(&key));
            }
        }
        for name in &due.drop_orders {
            let key = keys::acme_order(name);
            if let Some(order) = self.view.orders.get(name) {
                txns.push(Txn::new().unchanged(&key, order.mod_revision).delete(&key));
            }
        }
        if first && self.running.is_empty() {
            txns.push(Txn::new().delete_prefix(&keys::acme_challenges()));
        }
        for txn in txns {
            match self.store.commit(txn).await {
                Ok(_) | Err(CommitError::Conflict) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn ended(&mut self, ended: Result<(task::Id, Ended), task::JoinError>) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let id = error.id();
                (id, Err(OrderError::Broken(error)))
            }
        };
        let Some(domain) = self.running.remove(&id) else {
            return;
        };
        let record = self.view.domains.get(&domain);
        let app: Option<AppName> = record.map(|record| record.value.app.clone());
        let say = |text: &str| {
            if let Some(app) = &app {
                self.teller.say(app, text);
            }
        };
        match result {
            Ok(issued) => {
                info!(%domain, expires = %issued.expires, "certificate issued");
                say(&format!(
                    "certificate for {domain} issued, valid until {}",
                    issued.expires.strftime("%F")
                ));
                // The table is told of it by its feed; until then nothing is ordered twice.
                self.view.certs.insert(domain.clone(), issued.record);
                self.view.orders.remove(&domain);
            }
            // Also what only met another change waits: orders are counted at the authority.
            Err(error) => {
                let error = chain(&error);
                warn!(%domain, error, "no certificate");
                let before = self.view.orders.get(&domain).map(|order| &order.value);
                let note = plan::failure(before, &error, Timestamp::now());
                say(&format!(
                    "no certificate for {domain}: {error}; next try at {}",
                    note.next.strftime("%F %H:%M UTC")
                ));
                let key = keys::acme_order(&domain);
                let written = self.store.commit(Txn::new().put(&key, &note)).await;
                let revision = written.unwrap_or_else(|error| {
                    warn!(%domain, %error, "the failure can't be noted in etcd");
                    Revision::default()
                });
                let note = Versioned {
                    value: note,
                    mod_revision: revision,
                    create_revision: revision,
                };
                self.view.orders.insert(domain, note);
            }
        }
    }
}

/// Keeps records by the last part of their keys; what can't be read is as good as absent.
fn keep<T: Record>(records: &mut BTreeMap<DomainName, Versioned<T>>, prefix: &str, update: Update) {
    for change in update.changes {
        let name = keys::last_part(&change.key, prefix).and_then(|name| name.parse().ok());
        let Some(name) = name else { continue };
        let record = change.entry.and_then(|entry| {
            Some(Versioned {
                value: T::decode(&entry.value).ok()?,
                mod_revision: change.mod_revision,
                create_revision: entry.create_revision,
            })
        });
        match record {
            Some(record) => records.insert(name, record),
            None => records.remove(&name),
        };
    }
}
