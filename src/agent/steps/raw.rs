//! Raw units: operators' and the platform's own.

use std::sync::Arc;

use tracing::{info, warn};
use uuid::Uuid;

use super::{Edges, Job, StepError, sha256};
use crate::{
    agent::{files, runtime::Runtime},
    model::{Desired, UnitFile, UnitFileName},
    systemd::{UnitError, UnitStatus, Units},
};

impl<U: Units, R: Runtime> Edges<U, R> {
    /// A raw unit's file: the host's own, or etcd's.
    pub(super) async fn unit_file(
        &self,
        job: &Job,
        unit: &UnitFileName,
        hash: &str,
    ) -> Result<UnitFile, StepError> {
        let saved = job.saved.as_ref().and_then(|saved| saved.unit.clone());
        if let Some(file) = saved.filter(|file| sha256(&file.text) == hash) {
            return Ok(file);
        }
        match job.texts.get(&self.store, unit).await? {
            None => Err(StepError::NoUnitFile {
                unit: job.name.clone(),
            }),
            Some(file) if sha256(&file.text) != hash => Err(StepError::OtherHash {
                unit: job.name.clone(),
            }),
            Some(file) => Ok(file),
        }
    }

    pub(super) async fn start_raw(&self, job: &Job, hash: &str) -> Result<UnitStatus, StepError> {
        let unit: UnitFileName = job.name.parse().map_err(|_| StepError::Name {
            name: job.name.clone(),
        })?;
        if files::is_hosts_own(&self.paths, &unit) {
            return Err(StepError::HostsOwn {
                unit: job.name.clone(),
            });
        }
        let file = self.unit_file(job, &unit, hash).await?;
        // The disk is slow, and nothing of the start needs what is kept there: both at once.
        let keep = self.save(job, None, Some(file.clone()));
        let ((), status) = tokio::join!(keep, self.start_file(job, &unit, &file));
        status
    }

    /// Writes a raw unit's file, and has systemd load or start it.
    async fn start_file(
        &self,
        job: &Job,
        unit: &UnitFileName,
        file: &UnitFile,
    ) -> Result<UnitStatus, StepError> {
        let _slot = self.starts.units.acquire().await;
        let owned = files::Owned {
            uuid: job.assignment.uuid,
            loaded: job.assignment.desired == Desired::Load,
        };
        files::write_raw(&self.paths, unit, owned, &file.text)?;
        let name = unit.as_str();
        if has_install_section(&file.text) && self.units.enable(name).await? {
            info!(unit = name, "a raw unit is enabled: systemd reloads");
            self.units.reload().await?;
        }
        if owned.loaded {
            let mut status = self.units.load(name).await?;
            if status.needs_reload {
                self.reload_for(name).await?;
                status = self.units.load(name).await?;
            }
            info!(unit = name, uuid = %owned.uuid, "unit loaded");
            return Ok(status);
        }
        let started = match self.units.start(name).await {
            Err(UnitError::OtherText { .. }) => {
                self.reload_for(name).await?;
                self.units.start(name).await
            }
            result => result,
        };
        match started {
            Ok(status) => {
                info!(unit = name, uuid = %owned.uuid, "unit started");
                Ok(status)
            }
            // It was started, as was wanted, and has failed: systemd's words tell, and what is to
            // follow is up to its Restart=.
            Err(UnitError::Job { result, .. }) if result == "failed" || result == "timeout" => {
                warn!(unit = name, uuid = %owned.uuid, result, "unit started, and has failed");
                Ok(self.units.load(name).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn reload_for(&self, unit: &str) -> Result<(), StepError> {
        info!(unit, "a raw unit's text has changed: systemd reloads");
        Ok(self.units.reload().await?)
    }

    /// Stops a raw unit that systemd is to know on.
    pub async fn halt(self: Arc<Self>, name: String, uuid: Uuid) -> Result<UnitStatus, StepError> {
        let unit: UnitFileName = name
            .parse()
            .map_err(|_| StepError::Name { name: name.clone() })?;
        self.units.stop(&name).await?;
        self.units.reset_failed(&name).await?;
        files::write_owned(&self.paths, &unit, files::Owned { uuid, loaded: true })?;
        info!(unit = name, %uuid, "unit stopped, and known on");
        Ok(self.units.load(&name).await?)
    }
}

/// Whether a unit's text asks to be enabled.
pub(super) fn has_install_section(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "[Install]")
}
