//! `apps/<app>/config/`

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};

use super::{Shared, created, with_release};
use crate::{
    api::{
        valid::{self, ConfigRequest, Refusal},
        wire,
    },
    controller::{
        self,
        access::Wish,
        error::ApiError,
        extract::{Body, By, Caller},
    },
    model::{AppName, Config, ConfigName, ReleaseNumber},
    ops::{
        self, OpsError,
        change::{self, ConfigChange},
    },
    render,
    seal::config_context,
};

type Ctl = State<controller::State>;

impl Shared {
    /// The config of a release.
    pub(in crate::controller) async fn config(
        &self,
        app: &AppName,
        version: ReleaseNumber,
    ) -> Result<Config, ApiError> {
        let found = change::contents(&self.store, app, version).await?;
        found.map(|(_, config, _)| config).ok_or(ApiError::NotFound)
    }

    /// A config's variables in clear, for whoever may see them.
    pub(in crate::controller) fn unseal(
        &self,
        config: &Config,
    ) -> Result<BTreeMap<String, String>, ApiError> {
        let values = self.open(config)?;
        let texts = values
            .into_iter()
            .map(|(name, text)| (name.to_string(), text));
        Ok(texts.collect())
    }

    fn open(&self, config: &Config) -> Result<BTreeMap<ConfigName, String>, ApiError> {
        let open = |(name, value): (&ConfigName, _)| {
            let context = config_context(&config.app, name);
            let text = self.key.open_text(&context, value)?;
            Ok((name.clone(), text.into_inner()))
        };
        config.values.iter().map(open).collect()
    }

    /// Refuses values that all together would not fit into a process's environment.
    async fn fits(
        &self,
        app: &AppName,
        active: ReleaseNumber,
        changes: &BTreeMap<ConfigName, Option<String>>,
    ) -> Result<(), ApiError> {
        let mut values = self.open(&self.config(app, active).await?)?;
        for (name, value) in changes {
            match value {
                Some(value) => values.insert(name.clone(), value.clone()),
                None => values.remove(name),
            };
        }
        render::env::check(values.iter().map(|(name, value)| (name, value.as_str())))
            .map_err(|error| Refusal::field("values", error.to_string()).into())
    }
}

pub(super) async fn get(
    State(ctl): Ctl,
    Caller(user): Caller,
    Path(app): Path<String>,
) -> Result<Json<wire::Config>, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    let config = ctl.config(&name, app.active).await?;
    let values = ctl.unseal(&config)?;
    Ok(Json(wire::Config::new(&config, values)))
}

/// Changes the config: a new release, also for an empty request. Answers when it is deployed.
pub(super) async fn set(
    State(ctl): Ctl,
    Caller(user): Caller,
    By(by): By,
    Path(app): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let (name, app) = ctl.app(&user, &app, Wish::Use).await?;
    let ConfigRequest {
        values,
        memory,
        cpu,
        tags,
    } = valid::config(&fields)?;
    ctl.fits(&name, app.active, &values).await?;
    let wanted = ConfigChange {
        values,
        memory,
        cpu,
        tags,
    };
    let change = ops::change::set_config(&ctl.store, &ctl.key, &name, by, &wanted).await;
    let change = change.map_err(|error| match error {
        busy @ OpsError::Busy { .. } => {
            ApiError::Busy(format!("Config changes already in progress.\n{busy}"))
        }
        other => other.into(),
    })?;
    ctl.tell_release(&name, &change);
    ctl.settle(&name, &change).await?;
    let config = ctl.config(&name, change.release).await?;
    let mut values = ctl.unseal(&config)?;
    // As v1 did: its client reads the release's number here.
    values.insert("DEIS_APP".to_owned(), name.to_string());
    values.insert("DEIS_RELEASE".to_owned(), change.release.to_string());
    let response = created(wire::Config::new(&config, values));
    Ok(with_release(response, change.release))
}
