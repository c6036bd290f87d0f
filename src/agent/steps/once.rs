//! One-offs: started once, and their end is read.

use std::sync::Arc;

use tracing::info;

use super::{Edges, Job, Progress, StepError, process_name};
use crate::{
    agent::{files, oneoff, records::open_values, runtime::Runtime},
    model::SealedValue,
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
    /// What the sidecar of a one-off is told.
    pub(super) fn errand(
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

    pub(super) async fn start_run(
        &self,
        job: &Job,
        errand: &Errand,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<UnitStatus, StepError> {
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
        files::write_errand(&self.paths, &name, errand)?;
        files::write_process(&self.paths, &name, &units, &environment)?;
        // From here on it counts as started, whatever happens to this host.
        let unit = service(&name);
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
        Ok(oneoff::end_of(&self.paths, &process))
    }
}
