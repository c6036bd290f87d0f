//! The real service manager: one connection, signals, jobs that end or time out.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ordered_stream::{OrderedStream, OrderedStreamExt as _};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time,
};
use tracing::{info, warn};
use zbus::{Connection, MatchRule, Message, MessageStream, message};

use super::{
    Active, Inbox, UnitChange, UnitError, UnitStatus, Units, Words, journal,
    proxies::{self, ManagerProxy},
    signals::{self, Ear, Heard, Properties},
};

/// How long a method call may take: PID 1 answers in milliseconds, or is reloading.
const CALL_LIMIT: Duration = Duration::from_secs(25);
/// How long a start may take: the units' own TimeoutStartSec= is 90 s.
const START_LIMIT: Duration = Duration::from_secs(100);
/// How long a stop may take: an operator's unit has systemd's default of 90 s.
const STOP_LIMIT: Duration = Duration::from_secs(100);
/// Jobs in flight at once.
const JOBS_MAX: usize = 128;
/// Signals that may wait for us; more hold systemd's answers back.
const SIGNALS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not 0");
/// Properties asked for at once.
const QUESTIONS_MAX: usize = 32;
/// Calls whose answers are awaited at once: the bus allows a connection 128, and refuses one more.
const CALLS_MAX: usize = 96;
/// Results of jobs kept for a caller that asks a moment later.
const RESULTS_KEPT: usize = 256;
/// Longest pause between two tries to reach the bus.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// systemd over D-Bus; clones share the one connection.
#[derive(Debug, Clone)]
pub struct Systemd {
    shared: Arc<Shared>,
    connection: watch::Receiver<Option<Connection>>,
}

#[derive(Debug)]
struct Shared {
    inbox: Inbox,
    jobs: Mutex<Jobs>,
    /// What signals have told of units since their start was asked for.
    starting: Mutex<HashMap<String, Told>>,
    slots: Semaphore,
}

/// What signals have told of a unit.
#[derive(Debug, Default)]
struct Told {
    status: UnitStatus,
    /// Its activity was among it.
    active: bool,
}

impl Shared {
    /// From now on, what signals tell of a unit is remembered until the guard is gone.
    fn listen_to<'s>(&'s self, unit: &'s str) -> Listening<'s> {
        self.starting().insert(unit.to_owned(), Told::default());
        Listening { shared: self, unit }
    }

    fn starting(&self) -> MutexGuard<'_, HashMap<String, Told>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, unit: &str, change: UnitChange) {
        if let Some(told) = self.starting().get_mut(unit) {
            told.active |= change.active.is_some();
            change.clone().apply(&mut told.status);
            // Only what is loaded has signals.
            told.status.load = "loaded".to_owned();
        }
        self.inbox.change(unit, change);
    }
}

struct Listening<'s> {
    shared: &'s Shared,
    unit: &'s str,
}

impl Listening<'_> {
    /// What the unit is by now, if signals have told.
    fn told(&self) -> Option<UnitStatus> {
        let starting = self.shared.starting();
        let told = starting.get(self.unit).filter(|told| told.active);
        told.map(|told| told.status.clone())
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.shared.starting().remove(self.unit);
    }
}

/// Who waits for which job. A result may come before its caller has learnt the job's path, so the
/// last ones are kept.
#[derive(Debug, Default)]
struct Jobs {
    waiting: HashMap<String, oneshot::Sender<String>>,
    done: VecDeque<(String, String)>,
}

impl Jobs {
    fn wait(&mut self, path: &str) -> oneshot::Receiver<String> {
        let (sender, receiver) = oneshot::channel();
        if let Some((_, result)) = self.done.iter().find(|(done, _)| done == path) {
            let _ = sender.send(result.clone());
        } else {
            self.waiting.insert(path.to_owned(), sender);
        }
        receiver
    }

    fn finish(&mut self, path: String, result: String) {
        if let Some(waiter) = self.waiting.remove(&path) {
            let _ = waiter.send(result);
            return;
        }
        if self.done.len() == RESULTS_KEPT {
            self.done.pop_front();
        }
        self.done.push_back((path, result));
    }
}

impl Systemd {
    /// Connects, and keeps connected for as long as the value lives.
    ///
    /// # Errors
    /// When the bus can't be reached at the start.
    pub async fn connect() -> Result<Self, zbus::Error> {
        let (connection, streams) = open().await?;
        let shared = Arc::new(Shared {
            inbox: Inbox::default(),
            jobs: Mutex::default(),
            starting: Mutex::default(),
            slots: Semaphore::new(JOBS_MAX),
        });
        let (sender, receiver) = watch::channel(Some(connection));
        tokio::spawn(listen(shared.clone(), sender, streams));
        Ok(Self {
            shared,
            connection: receiver,
        })
    }

    async fn manager(&self) -> Result<(Connection, ManagerProxy<'static>), UnitError> {
        let connection = self.connection.borrow().clone().ok_or(UnitError::NoBus)?;
        let proxy = ManagerProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(|_| UnitError::NoBus)?;
        Ok((connection, proxy))
    }

    /// Waits for the end of a job; a job whose end was missed is judged by `is_there`, which reads the
    /// unit's state.
    async fn job(
        &self,
        call: &'static str,
        unit: &str,
        path: &str,
        limit: Duration,
        up: bool,
    ) -> Result<(), UnitError> {
        let waiter = self
            .shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wait(path);
        let result = time::timeout(limit, waiter).await;
        match result {
            Ok(Ok(result)) if result == "done" || (up && result == "skipped") => Ok(()),
            Ok(Ok(result)) => Err(UnitError::Job {
                call,
                unit: unit.to_owned(),
                result,
            }),
            Ok(Err(_)) | Err(_) => {
                self.shared
                    .jobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .waiting
                    .remove(path);
                let status = self.status(unit).await?;
                if (status.active == super::Active::Active) == up {
                    return Ok(());
                }
                Err(UnitError::Timeout {
                    call,
                    unit: unit.to_owned(),
                    limit,
                })
            }
        }
    }

    /// What systemd says of a unit that it has loaded.
    async fn read_status(
        &self,
        connection: &Connection,
        unit: &str,
    ) -> Result<UnitStatus, UnitError> {
        let of_unit = self.properties(connection, unit, proxies::UNIT).await?;
        let mut status = UnitStatus {
            active: signals::activity(&of_unit).unwrap_or_default(),
            load: signals::text(&of_unit, "LoadState").unwrap_or_default(),
            words: signals::words(&of_unit).unwrap_or_default(),
            up_since: signals::up_since(&of_unit).unwrap_or_default(),
            needs_reload: of_unit
                .get("NeedDaemonReload")
                .is_some_and(|v| bool::try_from(&**v) == Ok(true)),
            ..UnitStatus::default()
        };
        if unit.ends_with(".service") {
            let of_service = self
                .properties(connection, unit, proxies::SERVICE_UNIT)
                .await?;
            let (exit, restarts) = signals::service(&of_service);
            status.exit = exit.unwrap_or_default();
            status.restarts = restarts.unwrap_or_default();
        }
        Ok(status)
    }

    async fn properties(
        &self,
        connection: &Connection,
        unit: &str,
        interface: &str,
    ) -> Result<Properties, UnitError> {
        let path = proxies::unit_path(unit);
        let body = (interface,);
        let call = connection.call_method(
            Some(proxies::SERVICE),
            path.as_str(),
            Some(proxies::PROPERTIES),
            "GetAll",
            &body,
        );
        let reply = bounded("GetAll", unit, call).await?;
        reply
            .body()
            .deserialize()
            .map_err(|error| UnitError::Refused {
                call: "GetAll",
                unit: unit.to_owned(),
                reason: error.to_string(),
            })
    }
}

/// Reads one property of a unit that is loaded; systemd computes no other.
async fn property<T: TryFrom<zbus::OwnedVariant>>(
    connection: &Connection,
    unit: &str,
    interface: &str,
    name: &str,
) -> Result<Option<T>, UnitError> {
    let path = proxies::unit_path(unit);
    let read = proxies::property(connection, &path, interface, name);
    bounded("Get", unit, read).await
}

/// The one connection's calls.
static CALLS: Semaphore = Semaphore::const_new(CALLS_MAX);

/// Puts a bound on a method call and words its error.
async fn bounded<T>(
    call: &'static str,
    unit: &str,
    work: impl Future<Output = zbus::Result<T>>,
) -> Result<T, UnitError> {
    let work = async {
        let _slot = CALLS.acquire().await;
        work.await
    };
    match time::timeout(CALL_LIMIT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(zbus::Error::InputOutput(_))) => Err(UnitError::NoBus),
        Ok(Err(error)) => Err(UnitError::Refused {
            call,
            unit: unit.to_owned(),
            reason: error.to_string(),
        }),
        Err(_) => Err(UnitError::Timeout {
            call,
            unit: unit.to_owned(),
            limit: CALL_LIMIT,
        }),
    }
}

/// Whether systemd says that it knows no such unit.
fn is_unknown(error: &UnitError) -> bool {
    matches!(error, UnitError::Refused { reason, .. } if reason.contains("NoSuchUnit") || reason.contains("UnknownObject"))
}

impl Units for Systemd {
    async fn start(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        let _slot = self.shared.slots.acquire().await;
        let (connection, manager) = self.manager().await?;
        // What is not loaded has no other text. Asked for a property, systemd would load it first.
        let is_loaded = match bounded("GetUnit", unit, manager.get_unit(unit)).await {
            Ok(_) => true,
            Err(error) if is_unknown(&error) => false,
            Err(error) => return Err(error),
        };
        if is_loaded
            && property(&connection, unit, proxies::UNIT, "NeedDaemonReload").await? == Some(true)
        {
            return Err(UnitError::OtherText {
                unit: unit.to_owned(),
            });
        }
        let listening = self.shared.listen_to(unit);
        let path = bounded("start", unit, manager.start_unit(unit, "replace")).await?;
        self.job("start", unit, path.as_str(), START_LIMIT, true)
            .await?;
        // Signals come in order, and that of the unit before that of its job. Of one that was up before
        // they have nothing to tell.
        match listening.told() {
            Some(status) => Ok(status),
            None => self.status(unit).await,
        }
    }

    async fn stop(&self, unit: &str) -> Result<(), UnitError> {
        // Stops wait for nobody: a host full of slow starts must still be able to stop something.
        let (_, manager) = self.manager().await?;
        match bounded("stop", unit, manager.stop_unit(unit, "replace")).await {
            Ok(path) => {
                self.job("stop", unit, path.as_str(), STOP_LIMIT, false)
                    .await
            }
            Err(error) if is_unknown(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn status(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        let (connection, manager) = self.manager().await?;
        // GetUnit first: asking an unknown path for its properties would load the unit.
        match bounded("GetUnit", unit, manager.get_unit(unit)).await {
            Ok(_) => {}
            Err(error) if is_unknown(&error) => return Ok(UnitStatus::default()),
            Err(error) => return Err(error),
        }
        self.read_status(&connection, unit).await
    }

    async fn load(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        let (connection, manager) = self.manager().await?;
        bounded("load", unit, manager.load_unit(unit)).await?;
        self.read_status(&connection, unit).await
    }

    async fn enable(&self, unit: &str) -> Result<bool, UnitError> {
        let (_, manager) = self.manager().await?;
        let files = [unit];
        let call = manager.enable_unit_files(&files, true, true);
        let (_, changes) = bounded("enable", unit, call).await?;
        Ok(!changes.is_empty())
    }

    async fn disable(&self, unit: &str) -> Result<bool, UnitError> {
        let (_, manager) = self.manager().await?;
        let files = [unit];
        let call = manager.disable_unit_files(&files, true);
        Ok(!bounded("disable", unit, call).await?.is_empty())
    }

    async fn statuses(&self, units: &[String]) -> Result<Vec<UnitStatus>, UnitError> {
        let (connection, manager) = self.manager().await?;
        let names: Vec<&str> = units.iter().map(String::as_str).collect();
        let call = manager.list_units_by_names(&names);
        let listed: HashMap<String, UnitStatus> = bounded("ListUnitsByNames", "all units", call)
            .await?
            .into_iter()
            .map(|(name, _, load, active, sub, ..)| {
                let status = UnitStatus {
                    active: Active::parse(&active, &sub),
                    load,
                    words: Words { active, sub },
                    ..UnitStatus::default()
                };
                (name, status)
            })
            .collect();
        let one = |unit: &String| {
            let status = listed.get(unit).cloned().unwrap_or_default();
            let (unit, connection) = (unit.clone(), &connection);
            async move {
                match status.active {
                    Active::Inactive => Ok(status),
                    // How it ended last matters only of what does not run.
                    Active::Active if unit.ends_with(".service") => {
                        let restarts =
                            property(connection, &unit, proxies::SERVICE_UNIT, "NRestarts");
                        let up_since =
                            property(connection, &unit, proxies::UNIT, signals::UP_SINCE);
                        let (restarts, up_since) = tokio::try_join!(restarts, up_since)?;
                        Ok(UnitStatus {
                            restarts: restarts.unwrap_or_default(),
                            up_since: up_since.unwrap_or_default(),
                            ..status
                        })
                    }
                    _ => self.status(&unit).await,
                }
            }
        };
        stream::iter(units.iter().map(one))
            .buffered(QUESTIONS_MAX)
            .try_collect()
            .await
    }

    async fn reload(&self) -> Result<(), UnitError> {
        let (_, manager) = self.manager().await?;
        bounded("reload", "systemd", manager.reload()).await
    }

    async fn reset_failed(&self, unit: &str) -> Result<(), UnitError> {
        let (_, manager) = self.manager().await?;
        match bounded("reset-failed", unit, manager.reset_failed_unit(unit)).await {
            Err(error) if is_unknown(&error) => Ok(()),
            result => result,
        }
    }

    async fn last_lines(&self, process: &str) -> Vec<String> {
        journal::last_lines(process).await
    }

    fn inbox(&self) -> &Inbox {
        &self.shared.inbox
    }
}

/// The signals that we listen to, in the order in which systemd has sent them.
type Signals =
    Pin<Box<dyn OrderedStream<Data = zbus::Result<Message>, Ordering = message::Sequence> + Send>>;

async fn open() -> Result<(Connection, Signals), zbus::Error> {
    let connection = Connection::system().await?;
    let manager_signal = |member: &'static str| -> Result<MatchRule<'static>, zbus::Error> {
        MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(proxies::SERVICE)
            .path(proxies::MANAGER_PATH)
            .interface(proxies::MANAGER)
            .member(member)
            .build()
    };
    let properties = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender(proxies::SERVICE)
        .path_namespace(proxies::UNIT_PATH)
        .interface(proxies::PROPERTIES)
        .member("PropertiesChanged")
        .build()?;
    let stream = |rule| MessageStream::for_match_rule(rule, &connection, Some(SIGNALS_MAX));
    let jobs = stream(manager_signal("JobRemoved")?).await?;
    let removed = stream(manager_signal("UnitRemoved")?).await?;
    let reloading = stream(manager_signal("Reloading")?).await?;
    let properties = stream(properties).await?;
    ManagerProxy::new(&connection).await?.subscribe().await?;
    let signals = ordered_stream::join(
        ordered_stream::join(jobs, properties),
        ordered_stream::join(removed, reloading),
    );
    Ok((connection, Box::pin(signals)))
}

/// Distributes signals until every handle is gone; connects again when the bus goes.
async fn listen(
    shared: Arc<Shared>,
    connection: watch::Sender<Option<Connection>>,
    mut signals: Signals,
) {
    loop {
        tokio::select! {
            () = connection.closed() => return,
            () = pump(&shared, &mut signals) => {}
        }
        connection.send_replace(None);
        // Whoever waits for a job reads the unit's state instead.
        shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .clear();
        warn!("the system bus is gone, connecting again");
        let mut pause = Duration::from_millis(50);
        let opened = loop {
            match open().await {
                Ok((new, new_signals)) => {
                    signals = new_signals;
                    break new;
                }
                Err(_) if connection.is_closed() => return,
                Err(_) => time::sleep(pause).await,
            }
            pause = (pause * 2).min(BACKOFF_MAX);
        };
        info!("connected to the system bus again");
        connection.send_replace(Some(opened));
        shared.inbox.resync();
    }
}

/// Passes signals on until the connection ends. Never calls a method: a full queue of signals would
/// then hold back its own answer.
async fn pump(shared: &Shared, signals: &mut Signals) {
    let mut ear = Ear::default();
    while let Some(Ok(message)) = signals.next().await {
        match signals::read(&message).and_then(|signal| ear.hear(signal)) {
            Some(Heard::Job { path, result }) => {
                shared
                    .jobs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .finish(path, result);
            }
            Some(Heard::Unit { name, change }) => shared.changed(&name, change),
            Some(Heard::Resync) => shared.inbox.resync(),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn hundreds_of_calls_are_never_more_than_the_bus_allows() {
        let (now, most) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
        let call = async || {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        };
        let calls = (0..500).map(|_| bounded("stop", "a.service", call()));
        for done in futures_util::future::join_all(calls).await {
            done.expect("done");
        }
        assert_eq!(most.load(Ordering::Relaxed), CALLS_MAX);
    }
}
