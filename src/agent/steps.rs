//! The tasks that carry out the plan's actions, one per name at a time. They decide nothing: each
//! does its work or says why not, and the plan is made anew.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    cache::{self, Records, Saved},
    files, oneoff,
    paths::Paths,
    records::{RecordCache, RecordsError, open_values},
    runtime::{ImageError, Runtime},
    spool,
};
use crate::{
    logger::tell::Teller,
    model::{
        Assignment, MachineId, ProcessName, Revision, SealedValue, UnitFile, UnitFileName, Work,
    },
    outside,
    render::{
        Environment, HostFacts, InvalidValue, ProcessSpec, RenderError, Templates,
        unit::{Manner, announcer, log, log_socket, service},
    },
    seal::{ClusterKey, SealError, order_context},
    session::Order,
    sidecar::run::Errand,
    store::{CommitError, Store, StoreError, Txn, keys},
    systemd::{UnitError, UnitStatus, Units},
};

/// Starts at once: more than the processors can do in parallel only makes each of them slower.
const STARTS_MAX: usize = 8;

/// All edges that tasks need.
pub struct Edges<U, R> {
    pub units: U,
    pub runtime: R,
    pub store: Store,
    pub key: ClusterKey,
    pub templates: Templates,
    pub host: HostFacts,
    pub paths: Paths,
    pub machine: MachineId,
    pub records: RecordCache,
    pub starts: Semaphore,
    pub teller: Teller,
}

impl<U: Units, R: Runtime> Edges<U, R> {
    pub fn starts() -> Semaphore {
        Semaphore::new(STARTS_MAX)
    }
}

/// Why something could not be done for a name.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Value(#[from] InvalidValue),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a file of it can't be written: {0}")]
    File(#[from] io::Error),
    #[error("{name:?} is no name for such an assignment")]
    Name { name: String },
    #[error("every port from 20000 to 29999 is taken on this host")]
    NoPort,
    #[error("{unit} is not in etcd under /deis/units: submit it again")]
    NoUnitFile { unit: String },
    #[error(
        "the text of {unit} in etcd is another than the one assigned; waiting for the scheduler to see that"
    )]
    OtherHash { unit: String },
    #[error("{unit} is a unit of the host itself: choose another name")]
    HostsOwn { unit: String },
    #[error("the assignment has changed meanwhile")]
    Outdated,
    #[error("the agent broke off: a bug, see its log")]
    Broken,
    #[error("the order of {name} makes no sense: {what}")]
    Order { name: String, what: String },
}

impl StepError {
    /// Whether it is about etcd or the bus, and not about what was to be done.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) | Self::Records(RecordsError::Store(error)) => error.is_transient(),
            Self::Unit(error) => matches!(error, UnitError::NoBus),
            Self::Outdated => true,
            Self::Records(_)
            | Self::Seal(_)
            | Self::Value(_)
            | Self::Render(_)
            | Self::Image(_)
            | Self::File(_)
            | Self::Name { .. }
            | Self::NoPort
            | Self::NoUnitFile { .. }
            | Self::OtherHash { .. }
            | Self::HostsOwn { .. }
            | Self::Broken
            | Self::Order { .. } => false,
        }
    }
}

/// How far a start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Records, image and files.
    Preparing,
    /// systemd has it.
    Starting,
}

/// What an assignment needs to be started.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    pub assignment: Assignment,
    pub mod_revision: Revision,
    pub port: Option<u16>,
    /// What the cache holds, for a start without etcd.
    pub saved: Option<Saved>,
}

fn process_name(name: &str) -> Result<ProcessName, StepError> {
    name.parse().map_err(|_| StepError::Name {
        name: name.to_owned(),
    })
}

impl<U: Units, R: Runtime> Edges<U, R> {
    /// Prepares and starts; says what systemd then knows of the unit. `progress` hears how far it is;
    /// `cancel` ends it at the next pause (`None`), and whatever it has left is then stopped and
    /// removed by a stop.
    pub async fn start(
        self: Arc<Self>,
        job: Job,
        cancel: CancellationToken,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Option<UnitStatus>, StepError> {
        let work = async {
            let _slot = self.starts.acquire().await;
            progress(Progress::Preparing);
            match &job.assignment.work {
                Work::Process { .. } => self.start_process(&job, &progress).await?,
                Work::Run {
                    order,
                    attach,
                    memory_bytes,
                    ..
                } => {
                    let errand = self.errand(&job, order, attach.as_deref(), *memory_bytes)?;
                    self.start_run(&job, &errand, &progress).await?
                }
                Work::Unit { hash } => self.start_raw(&job, hash, &progress).await?,
            }
            // The end of the start's job may be known before the signals that tell what it made of the
            // unit: so it is read once.
            Ok(self.units.status(&unit_of(&job.name)).await?)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(None),
            done = work => done.map(Some),
        }
    }

    async fn records(
        &self,
        name: &ProcessName,
        saved: Option<&Saved>,
    ) -> Result<Arc<Records>, StepError> {
        match self.records.get(&self.store, name).await {
            Ok(records) => Ok(records),
            Err(error) => match saved.and_then(|s| s.records.clone()) {
                // Immutable, so what the cache has is as good as what etcd has.
                Some(records) => {
                    let records = Arc::new(records);
                    self.records.put(name, records.clone());
                    Ok(records)
                }
                None => Err(error.into()),
            },
        }
    }

    async fn save(
        &self,
        job: &Job,
        records: Option<&Records>,
        unit: Option<UnitFile>,
    ) -> io::Result<()> {
        let saved = Saved {
            assignment: job.assignment.clone(),
            mod_revision: job.mod_revision,
            port: job.port,
            records: records.cloned(),
            unit,
        };
        if job.saved.as_ref() == Some(&saved) {
            return Ok(());
        }
        let (paths, name) = (self.paths.clone(), job.name.clone());
        // It waits for the disk.
        outside::blocking(move || cache::save(&paths, &name, &saved))
            .await
            .map_err(io::Error::other)?
    }

    async fn start_process(
        &self,
        job: &Job,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<(), StepError> {
        let begun = Instant::now();
        let name = process_name(&job.name)?;
        let records = self.records(&name, job.saved.as_ref()).await?;
        let values = open_values(&self.key, &records)?;
        let environment = Environment::new(&values)?;
        let spec = ProcessSpec {
            name: &name,
            uuid: job.assignment.uuid,
            release: &records.release,
            build: &records.build,
            config: &records.config,
            values: &values,
            environment: &environment,
            port: job.port,
        };
        let units = self.templates.process(&spec, &self.host)?;
        self.runtime.ensure_image(&records.build.image).await?;
        self.save(job, Some(&records), None).await?;
        files::write_process(&self.paths, &name, &units, &environment)?;
        let prepared = begun.elapsed();
        progress(Progress::Starting);
        let unit = service(&name);
        if let Err(error) = self.units.start(&unit).await {
            // A process that crashed at once is systemd's to restart, and the report's to tell.
            if !self.units.status(&unit).await?.active.is_live() {
                return Err(error.into());
            }
        }
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        info!(
            unit, uuid = %job.assignment.uuid, prepared_ms = millis(prepared),
            started_ms = millis(begun.elapsed()), "process started"
        );
        Ok(())
    }

    /// What the sidecar of a one-off is told.
    fn errand(
        &self,
        job: &Job,
        order: &SealedValue,
        attach: Option<&str>,
        memory_bytes: u64,
    ) -> Result<Errand, StepError> {
        let opened = self.key.open(&order_context(job.assignment.uuid), order)?;
        let broken = |what: String| StepError::Order {
            name: job.name.clone(),
            what,
        };
        let order: Order =
            serde_json::from_slice(opened.expose()).map_err(|e| broken(e.to_string()))?;
        let attach = match attach {
            Some(text) => Some(
                text.parse()
                    .map_err(|_| broken(format!("{text:?} is no address")))?,
            ),
            None => None,
        };
        Ok(Errand {
            order,
            attach,
            memory_bytes,
        })
    }

    async fn start_run(
        &self,
        job: &Job,
        errand: &Errand,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<(), StepError> {
        let name = process_name(&job.name)?;
        let records = self.records(&name, None).await?;
        let values = open_values(&self.key, &records)?;
        let environment = Environment::new(&values)?;
        let spec = ProcessSpec {
            name: &name,
            uuid: job.assignment.uuid,
            release: &records.release,
            build: &records.build,
            config: &records.config,
            values: &values,
            environment: &environment,
            port: None,
        };
        let manner = match (&errand.attach, &errand.order.terminal) {
            (None, _) => Manner::Detached,
            (Some(_), Some(terminal)) => Manner::Terminal(terminal.term.clone()),
            (Some(_), None) => Manner::Pipes,
        };
        let units = self
            .templates
            .run(&spec, &self.host, errand.memory_bytes, &manner)?;
        self.runtime.ensure_image(&records.build.image).await?;
        files::write_errand(&self.paths, &name, errand)?;
        files::write_process(&self.paths, &name, &units, &environment)?;
        // From here on it counts as started, whatever happens to this host.
        if !oneoff::mark_started(&self.paths, job.assignment.uuid)? {
            return Ok(());
        }
        progress(Progress::Starting);
        self.units.start(&service(&name)).await?;
        info!(unit = service(&name), uuid = %job.assignment.uuid, "one-off started");
        Ok(())
    }

    async fn start_raw(
        &self,
        job: &Job,
        hash: &str,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<(), StepError> {
        let unit: UnitFileName = job.name.parse().map_err(|_| StepError::Name {
            name: job.name.clone(),
        })?;
        if files::is_hosts_own(&self.paths, &unit) {
            return Err(StepError::HostsOwn {
                unit: job.name.clone(),
            });
        }
        let file = match self.store.get(&keys::unit(&unit)).await {
            Ok(Some(file)) => file.value,
            Ok(None) => {
                return Err(StepError::NoUnitFile {
                    unit: job.name.clone(),
                });
            }
            Err(error) => match job.saved.as_ref().and_then(|s| s.unit.clone()) {
                Some(file) => file,
                None => return Err(error.into()),
            },
        };
        if sha256(&file.text) != hash {
            return Err(StepError::OtherHash {
                unit: job.name.clone(),
            });
        }
        self.save(job, None, Some(file.clone())).await?;
        files::write_raw(&self.paths, &unit, job.assignment.uuid, &file.text)?;
        progress(Progress::Starting);
        if self.units.status(unit.as_str()).await?.needs_reload {
            info!(
                unit = unit.as_str(),
                "a raw unit's text has changed: systemd reloads"
            );
            self.units.reload().await?;
        }
        self.units.start(unit.as_str()).await?;
        info!(unit = unit.as_str(), uuid = %job.assignment.uuid, "unit started");
        Ok(())
    }

    /// Stops a name's units and removes everything of it. Idempotent.
    pub async fn stop(self: Arc<Self>, name: String, uuid: Uuid) -> Result<(), StepError> {
        let Ok(process) = name.parse::<ProcessName>() else {
            self.units.stop(&name).await?;
            self.units.reset_failed(&name).await?;
            files::remove_raw(&self.paths, &name)?;
            cache::forget(&self.paths, &name)?;
            info!(unit = name, %uuid, "unit stopped");
            return Ok(());
        };
        let begun = Instant::now();
        self.units.stop(&service(&process)).await?;
        // The log sidecar goes last: it still has what the process said in its last second.
        self.units.stop(&announcer(&process)).await?;
        self.units.stop(&log_socket(&process)).await?;
        self.units.stop(&log(&process)).await?;
        if begun.elapsed() >= Duration::from_secs(u64::from(crate::render::unit::STOP_GRACE_SECS))
            && let Err(error) = self.runtime.remove(&name).await
        {
            // It had to be killed, and podman's own tidying with it.
            warn!(container = name, %error, "a container was left behind");
        }
        tokio::spawn(spool::clear(self.paths.clone(), process.clone(), uuid));
        files::remove_process(&self.paths, &process)?;
        cache::forget(&self.paths, &name)?;
        super::paths::remove(&self.paths.started_runs().join(uuid.to_string()))?;
        info!(unit = service(&process), %uuid, "process stopped");
        Ok(())
    }

    /// Publishes a process's address, as long as its assignment is the one that we know.
    pub async fn publish(
        self: Arc<Self>,
        name: String,
        mod_revision: Revision,
        port: u16,
    ) -> Result<(), StepError> {
        let process = process_name(&name)?;
        let key = keys::service(&process.app, &process);
        let address = std::net::SocketAddr::new(self.host.address, port).to_string();
        let assignment = keys::assignment(&self.machine, &name);
        let txn = match self.store.get(&key).await? {
            Some(old) if old.value == address => return Ok(()),
            Some(old) => Txn::new().unchanged(&key, old.mod_revision),
            None => Txn::new().absent(&key),
        };
        match self
            .store
            .commit(txn.unchanged(&assignment, mod_revision).put(&key, &address))
            .await
        {
            Ok(revision) => {
                info!(process = name, address, revision, "published");
                Ok(())
            }
            Err(CommitError::Conflict) => Err(StepError::Outdated),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Withdraws a process's address if it is ours; says at which revision it was gone.
    pub async fn withdraw(
        self: Arc<Self>,
        name: String,
        port: Option<u16>,
    ) -> Result<Revision, StepError> {
        let process = process_name(&name)?;
        let key = keys::service(&process.app, &process);
        let ours = |address: &str| {
            let address = address.parse::<std::net::SocketAddr>();
            address.is_ok_and(|a| {
                a.ip() == self.host.address && port.is_none_or(|port| a.port() == port)
            })
        };
        loop {
            let old = self.store.get(&key).await?;
            let address = match old {
                Some(old) if ours(&old.value) => old.value,
                // Gone already, or another host's by now: a revision at which it was not ours.
                _ => {
                    return Ok(self
                        .store
                        .list(&keys::services_of(&process.app))
                        .await?
                        .revision);
                }
            };
            match self
                .store
                .commit(Txn::new().value_is(&key, &address).delete(&key))
                .await
            {
                Ok(revision) => {
                    info!(process = name, address, revision, "withdrawn");
                    return Ok(revision);
                }
                Err(CommitError::Conflict) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Reads how a one-off ended.
    pub async fn report(self: Arc<Self>, name: String) -> Result<oneoff::End, StepError> {
        let process = process_name(&name)?;
        Ok(oneoff::end_of(&self.paths, &process))
    }
}

/// The unit that stands for a name: a process's own, or the raw unit itself.
pub fn unit_of(name: &str) -> String {
    name.parse::<ProcessName>()
        .map_or_else(|_| name.to_owned(), |process| service(&process))
}

/// SHA-256 of a text in hexadecimal digits.
pub fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
