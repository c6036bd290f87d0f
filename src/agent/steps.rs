//! The tasks that carry out the plan's actions, one per name at a time. They decide nothing: each
//! does its work or says why not, and the plan is made anew.

mod address;
mod once;
mod raw;
mod single;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    cache::{self, Records, Saved},
    files,
    keeper::Keeper,
    lease,
    paths::Paths,
    records::{RecordCache, RecordsError, open_values},
    report::Confirmed,
    runtime::{ImageError, Runtime},
    spool,
    texts::Texts,
    world::mark_of,
};
use crate::{
    logger::tell::Teller,
    model::{Assignment, MachineId, ProcessName, Revision, UnitFile, Work},
    plan::units::Lease,
    render::{
        Environment, HostFacts, InvalidValue, ProcessSpec, RenderError, Templates,
        unit::{announcer, log, log_socket, service},
    },
    seal::{ClusterKey, SealError},
    store::{Store, StoreError},
    systemd::{Active, UnitError, UnitStatus, Units},
};

use raw::has_install_section;

/// Containers started at once: more than the processors can do in parallel only makes each of them
/// slower.
const CONTAINERS_MAX: usize = 8;
/// Raw units started at once: each is little work, and most of its time is systemd's answer.
const UNITS_MAX: usize = 64;

/// Between two tries to remove what is left of a container.
const REMOVE_AGAIN: Duration = Duration::from_millis(500);

/// How long a start waits until the host's report that names the process stands in etcd.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);

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
    pub starts: Starts,
    pub keeper: Keeper,
    pub teller: Teller,
    pub standing: Standing,
}

/// How this host stands with the rest of the cluster; the agent's life keeps it up to date.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Whether its lease is held.
    pub lease: watch::Sender<Lease>,
    /// Its report as it stands in etcd.
    pub confirmed: Confirmed,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            lease: watch::Sender::new(Lease::Expired),
            confirmed: Confirmed::default(),
        }
    }
}

/// How many may be started at once.
#[derive(Debug)]
pub struct Starts {
    containers: Semaphore,
    units: Semaphore,
}

impl Default for Starts {
    fn default() -> Self {
        Self {
            containers: Semaphore::new(CONTAINERS_MAX),
            units: Semaphore::new(UNITS_MAX),
        }
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
    #[error("its type is single, and this host's lease is not held")]
    Lease,
    #[error("its type is single, and the host's report that names it can't be written")]
    Unclaimed,
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
            Self::Outdated | Self::Lease | Self::Unclaimed => true,
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
    /// The files of the raw units that start in the same moment.
    pub texts: Arc<Texts>,
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
            match &job.assignment.work {
                Work::Process { .. } => self.start_process(&job, &progress).await,
                Work::Run {
                    order,
                    attach,
                    memory_bytes,
                    ..
                } => {
                    let name = process_name(&job.name)?;
                    let records = self.records(&name, &job).await?;
                    let order = match order {
                        Some(order) => self.open_order(&job, order)?,
                        None => once::order_of(&name, &records)?,
                    };
                    let errand = once::errand(&job, order, attach.as_deref(), *memory_bytes)?;
                    self.start_run(&job, &name, &records, &errand, &progress)
                        .await
                }
                Work::Unit { hash } => self.start_raw(&job, hash).await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(None),
            done = work => done.map(Some),
        }
    }

    async fn records(&self, name: &ProcessName, job: &Job) -> Result<Arc<Records>, StepError> {
        // A former app's process may have had the same name. Immutable, so what the cache has of this one
        // is as good as what etcd has.
        let own = |saved: &&Saved| saved.assignment.uuid == job.assignment.uuid;
        let saved = job.saved.as_ref().filter(own);
        if let Some(records) = saved.and_then(|saved| saved.records.clone()) {
            return Ok(Arc::new(records));
        }
        let rollout = match job.assignment.work {
            Work::Process { rollout, .. } => rollout,
            Work::Run { .. } | Work::Unit { .. } => None,
        };
        Ok(self.records.get(&self.store, name, rollout).await?)
    }

    async fn save(&self, job: &Job, records: Option<&Records>, unit: Option<UnitFile>) {
        let saved = Saved {
            assignment: job.assignment.clone(),
            mod_revision: job.mod_revision,
            port: job.port,
            records: records.cloned(),
            unit,
        };
        if job.saved.as_ref() != Some(&saved) {
            self.keeper.keep(&self.paths, &job.name, saved).await;
        }
    }

    async fn start_process(
        &self,
        job: &Job,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<UnitStatus, StepError> {
        let begun = Instant::now();
        let name = process_name(&job.name)?;
        let records = self.records(&name, job).await?;
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
        self.save(job, Some(&records), None).await;
        let _slot = self.starts.containers.acquire().await;
        files::write_process(&self.paths, &name, &units, &environment)?;
        let prepared = begun.elapsed();
        if mark_of(&job.assignment.work).is_some() {
            self.claim(job).await?;
        } else {
            lease::set_fenced(&self.paths, &job.name, None)?;
        }
        progress(Progress::Starting);
        let unit = service(&name);
        let status = match self.units.start(&unit).await {
            Ok(status) => status,
            Err(error) => {
                // A process that crashed at once is systemd's to restart, and the report's to tell.
                let status = self.units.status(&unit).await?;
                if !status.active.is_live() {
                    return Err(error.into());
                }
                status
            }
        };
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        info!(
            unit, uuid = %job.assignment.uuid, prepared_ms = millis(prepared),
            started_ms = millis(begun.elapsed()), "process started"
        );
        Ok(status)
    }

    /// Keeps what runs already and is not on the disk.
    pub async fn keep_adopted(&self, job: &Job) -> Result<(), StepError> {
        match &job.assignment.work {
            Work::Process { .. } => {
                let records = self.records(&process_name(&job.name)?, job).await?;
                self.save(job, Some(&records), None).await;
            }
            Work::Unit { hash } => {
                let unit = job.name.parse().map_err(|_| StepError::Name {
                    name: job.name.clone(),
                })?;
                let file = self.unit_file(job, &unit, hash).await?;
                self.save(job, None, Some(file)).await;
            }
            // One-offs never start from the cache.
            Work::Run { .. } => {}
        }
        Ok(())
    }

    async fn stop_units(&self, process: &ProcessName) -> Result<(), StepError> {
        let begun = Instant::now();
        let before = self.units.status(&service(process)).await?.active;
        self.units.stop(&service(process)).await?;
        // The log sidecar goes last: it still has what the process said in its last second.
        self.units.stop(&announcer(process)).await?;
        self.units.stop(&log_socket(process)).await?;
        self.units.stop(&log(process)).await?;
        let grace = Duration::from_secs(u64::from(crate::render::unit::STOP_GRACE_SECS));
        // Where podman had to be killed, with its process or in the middle of a start, nobody tidied up.
        let was_starting = matches!(before, Active::Activating | Active::AutoRestart);
        if was_starting || begun.elapsed() >= grace {
            self.remove_container(process).await;
        }
        Ok(())
    }

    /// Removes what is left of a container. What a start was doing when it was killed may keep it busy for
    /// a moment.
    async fn remove_container(&self, process: &ProcessName) {
        const TRIES: u32 = 3;
        let container = process.to_string();
        for left in (0..TRIES).rev() {
            match self.runtime.remove(&container).await {
                Ok(()) => return,
                Err(_) if left > 0 => tokio::time::sleep(REMOVE_AGAIN).await,
                Err(error) => warn!(container, %error, "a container was left behind"),
            }
        }
    }

    /// Removes a name from the cache: a start without etcd must not bring back what is on its way out. A
    /// disk that can't be written holds nothing up.
    pub fn forget(&self, name: &str) {
        self.keeper.forget(name);
        if let Err(error) = cache::forget(&self.paths, name) {
            warn!(name, %error, "the cache of an assignment can't be removed");
        }
    }

    /// Stops a name's units and removes everything of it. Idempotent.
    pub async fn stop(self: Arc<Self>, name: String, uuid: Uuid) -> Result<(), StepError> {
        let Ok(process) = name.parse::<ProcessName>() else {
            self.units.stop(&name).await?;
            self.units.reset_failed(&name).await?;
            let text = files::read_raw(&self.paths, &name)?;
            let enabled = text.is_some_and(|text| has_install_section(&text));
            let disabled = enabled && self.units.disable(&name).await?;
            files::remove_raw(&self.paths, &name)?;
            if disabled {
                self.units.reload().await?;
            }
            self.forget(&name);
            info!(unit = name, %uuid, "unit stopped");
            return Ok(());
        };
        self.stop_units(&process).await?;
        lease::set_fenced(&self.paths, &name, None)?;
        tokio::spawn(spool::clear(self.paths.clone(), process.clone(), uuid));
        files::remove_process(&self.paths, &process)?;
        self.forget(&name);
        let mark = self.paths.started_runs().join(uuid.to_string());
        if let Err(error) = super::paths::remove(&mark) {
            warn!(%uuid, %error, "the mark of a one-off that has ended can't be removed");
        }
        info!(unit = service(&process), %uuid, "process stopped");
        Ok(())
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
