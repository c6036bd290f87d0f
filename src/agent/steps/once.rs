//! One-offs: started once, and their end is read.

use std::{net::SocketAddr, sync::Arc};

use tracing::info;

use super::{Edges, Job, Progress, StepError, process_name};
use crate::{
    agent::{cache::Records, files, oneoff, records::open_values, runtime::Runtime},
    model::{ProcessName, ProcessType, SealedValue},
    render::{
        Environment, ProcessSpec,
        unit::{Manner, service},
    },
    seal::order_context,
    session::Order,
    sidecar::run::Errand,
    systemd::{UnitStatus, Units},
};

impl<U: Units, R: Runtime> Edges<U, R> {
    /// What a one-off is told to do by whoever asked for it.
    pub(super) fn open_order(&self, job: &Job, order: &SealedValue) -> Result<Order, StepError> {
        let opened = self.key.open(&order_context(job.assignment.uuid), order)?;
        serde_json::from_slice(opened.expose()).map_err(|error| broken(job, error.to_string()))
    }

    pub(super) async fn start_run(
        &self,
        job: &Job,
        name: &ProcessName,
        records: &Records,
        errand: &Errand,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<UnitStatus, StepError> {
        let values = open_values(&self.key, records)?;
        let environment = Environment::new(&values)?;
        let spec = ProcessSpec {
            name,
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
        let _slot = self.starts.containers.acquire().await;
        files::write_errand(&self.paths, name, errand)?;
        files::write_process(&self.paths, name, &units, &environment)?;
        // From here on it counts as started, whatever happens to this host.
        let unit = service(name);
        if !oneoff::mark_started(&self.paths, job.assignment.uuid)? {
            return Ok(self.units.status(&unit).await?);
        }
        progress(Progress::Starting);
        let status = self.units.start(&unit).await?;
        info!(unit, uuid = %job.assignment.uuid, "one-off started");
        Ok(status)
    }

    /// Reads how a one-off ended.
    pub async fn report(self: Arc<Self>, name: String) -> Result<oneoff::End, StepError> {
        let process = process_name(&name)?;
        let mut end = oneoff::end_of(&self.paths, &process);
        if end.exit_code != 0 && process.kind == ProcessType::release() {
            end.log = self.units.last_lines(&name).await;
        }
        Ok(end)
    }
}

fn broken(job: &Job, what: String) -> StepError {
    StepError::Order {
        name: job.name.clone(),
        what,
    }
}

/// What the Procfile says that processes of this type do.
pub(super) fn order_of(name: &ProcessName, records: &Records) -> Result<Order, StepError> {
    let command = records.build.procfile.get(&name.kind);
    let command = command.ok_or_else(|| StepError::Order {
        name: name.to_string(),
        what: format!("its Procfile has no {}", name.kind),
    })?;
    Ok(Order {
        command: command.clone(),
        terminal: None,
        input: false,
        token: None,
    })
}

/// What the sidecar of a one-off is told.
pub(super) fn errand(
    job: &Job,
    order: Order,
    attach: Option<&str>,
    memory_bytes: u64,
) -> Result<Errand, StepError> {
    let parse = |text: &str| {
        let address = text.parse::<SocketAddr>();
        address.map_err(|_| broken(job, format!("{text:?} is no address")))
    };
    Ok(Errand {
        order,
        attach: attach.map(parse).transpose()?,
        memory_bytes,
    })
}
