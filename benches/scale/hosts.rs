//! A thousand hosts in one process. Real: the agent's whole code (feed, lease, plan, unit files, cache,
//! reports, publishing), one gRPC connection to etcd for each. Not real: systemd and podman, which
//! start and stop at once, and announcers, which say "healthy" as soon as a process is up.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use deis::{
    agent::stand_in::{self, Asker, ImageError, Runtime, Word},
    model::{Machine, MachineId, SCHEMA},
    seal::ClusterKey,
    store::{EtcdOptions, Store},
    systemd::{FakeUnits, Inbox, UnitError, UnitStatus, Units},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The cluster key of a bench: nothing here is secret.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Memory of a host: room for 128 processes of the default size.
const MEMORY: u64 = 64 << 30;

/// What all hosts have done to units, and which may not be done any more.
#[derive(Debug, Default)]
pub struct Deeds {
    /// Processes that were started.
    pub starts: AtomicUsize,
    /// Processes that were stopped.
    pub stops: AtomicUsize,
}

impl Deeds {
    /// Starts and stops so far.
    pub fn all(&self) -> (usize, usize) {
        (
            self.starts.load(Ordering::Relaxed),
            self.stops.load(Ordering::Relaxed),
        )
    }
}

/// systemd, as far as a bench needs it, with the announcers of what it starts.
#[derive(Debug, Clone)]
struct Service {
    units: FakeUnits,
    root: PathBuf,
    words: Arc<Mutex<Option<mpsc::Sender<Word>>>>,
    deeds: Arc<Deeds>,
}

/// A process's unit, not one of its companions.
fn process(unit: &str) -> Option<&str> {
    let name = unit.strip_suffix(".service")?;
    (!name.ends_with("-announce") && !name.ends_with("-log")).then_some(name)
}

/// The uuid in a unit file: a real announcer gets it as an argument from there.
fn uuid_in(root: &Path, unit: &str) -> Option<uuid::Uuid> {
    let text = fs::read_to_string(root.join("run/systemd/system").join(unit)).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("X-Deis-Uuid="))?;
    line.parse().ok()
}

impl Units for Service {
    async fn start(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        let status = self.units.start(unit).await?;
        let Some(name) = process(unit) else {
            return Ok(status);
        };
        self.deeds.starts.fetch_add(1, Ordering::Relaxed);
        let uuid = uuid_in(&self.root, unit).expect("the agent writes a unit with its uuid");
        let word = Word {
            unit: name.to_owned(),
            uuid,
            healthy: true,
            reason: String::new(),
        };
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = words.clone() {
            tokio::spawn(async move {
                let _ = words.send(word).await;
            });
        }
        Ok(status)
    }

    async fn stop(&self, unit: &str) -> Result<(), UnitError> {
        if process(unit).is_some() {
            self.deeds.stops.fetch_add(1, Ordering::Relaxed);
        }
        self.units.stop(unit).await
    }

    async fn status(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        self.units.status(unit).await
    }

    async fn load(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        self.units.load(unit).await
    }

    async fn enable(&self, unit: &str) -> Result<bool, UnitError> {
        self.units.enable(unit).await
    }

    async fn disable(&self, unit: &str) -> Result<bool, UnitError> {
        self.units.disable(unit).await
    }

    async fn reload(&self) -> Result<(), UnitError> {
        self.units.reload().await
    }

    async fn reset_failed(&self, unit: &str) -> Result<(), UnitError> {
        self.units.reset_failed(unit).await
    }

    async fn last_lines(&self, process: &str) -> Vec<String> {
        self.units.last_lines(process).await
    }

    fn inbox(&self) -> &Inbox {
        self.units.inbox()
    }
}

/// podman that has every image.
#[derive(Debug, Clone)]
struct Images;

impl Runtime for Images {
    async fn ensure_image(&self, _: &str) -> Result<(), ImageError> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<(), ImageError> {
        Ok(())
    }

    async fn containers(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }

    async fn images(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }

    async fn remove_image(&self, _: &str) -> Result<(), ImageError> {
        Ok(())
    }
}

/// One host.
pub struct Host {
    machine: Machine,
    address: IpAddr,
    service: Service,
    store: Store,
    life: Option<JoinHandle<()>>,
    asker: Arc<Mutex<Option<Asker>>>,
}

impl Host {
    /// A host that is down.
    pub async fn new(number: usize, root: &Path, etcd: EtcdOptions, deeds: Arc<Deeds>) -> Self {
        let id: MachineId = format!("{:032x}", number + 1).parse().expect("an id");
        let [_, high, low, _] = u32::try_from(number << 8).expect("a host").to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(127, 1 + high, low, 1));
        let root = root.join(number.to_string());
        Self {
            machine: Machine {
                schema: SCHEMA,
                hostname: format!("host-{number}"),
                address: address.to_string(),
                memory_bytes: MEMORY,
                cpus: 16,
                version: "bench".into(),
                boot_id: id.to_string(),
                metadata: std::collections::BTreeMap::new(),
                id,
            },
            address,
            service: Service {
                units: FakeUnits::default(),
                root,
                words: Arc::default(),
                deeds,
            },
            store: Store::connect(etcd).await.expect("a connection"),
            life: None,
            asker: Arc::default(),
        }
    }

    /// The agent begins; what runs already is adopted.
    pub fn begin(&mut self) {
        let (sender, words) = mpsc::channel(256);
        *self
            .service
            .words
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let place = stand_in::Host {
            machine: self.machine.clone(),
            address: self.address,
            root: self.service.root.clone(),
            units: self.service.clone(),
            runtime: Images,
            key: ClusterKey::parse(KEY).expect("a key"),
            store: self.store.clone(),
        };
        let asker = self.asker.clone();
        let ready = move |ask| {
            *asker.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask);
        };
        let life = stand_in::run(place, words, ready, CancellationToken::new());
        self.life = Some(tokio::spawn(async move {
            if let Err(error) = life.await {
                panic!("an agent has ended: {error}");
            }
        }));
    }

    /// The agent is killed; its units run on, its lease runs out.
    pub async fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            life.abort();
            let _ = life.await;
        }
    }

    /// A figure of the agent's own metrics.
    pub fn figure(&self, name: &str) -> f64 {
        let asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asker) = asker.as_ref() else {
            return 0.0;
        };
        let page = asker.metrics().page();
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_default()
    }
}
