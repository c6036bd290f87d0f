//! Images by name: looked up where they are, copied into the platform's registries, deployed.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tracing::{info, warn};

use super::{Shared, error::ApiError};
use crate::{
    api::valid::{BuildRequest, Refusal},
    builder::procfile::{self, Procfile},
    image::{
        config::{self, Inspected},
        copy::{self, CopyError},
        manifest,
        name::ImageName,
        reach::Listed,
        source::{Credentials, Found, Net, Source, SourceError},
    },
    model::{App, AppName, ImageKind},
    ops::{
        audit::Actor,
        change::{self, Change, NewBuild},
    },
    registry::replicas::{Registries, RegistriesError, repository_of},
    seal::Secret,
    store::keys,
    telemetry::chain,
};

/// Images on their way at once; others wait.
const AT_ONCE: usize = 4;
/// How long an image waits for others.
const TURN_LIMIT: Duration = Duration::from_secs(300);
/// Where layers lie on their way: the unit's own, on disk.
const SPOOL: &str = "/var/tmp";

/// What images need.
pub(super) struct Images {
    registries: Registries,
    turns: Semaphore,
}

impl Images {
    pub(super) fn new(store: crate::store::Store) -> Self {
        Self {
            registries: Registries::new(store),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Waits for others to be done.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        match timeout(TURN_LIMIT, self.turns.acquire()).await {
            Ok(turn) => turn.map_err(ApiError::internal),
            Err(_) => Err(ApiError::Unavailable(
                "Too many images are being fetched at once; try again.".to_owned(),
            )),
        }
    }
}

impl From<RegistriesError> for ApiError {
    fn from(error: RegistriesError) -> Self {
        match error {
            RegistriesError::Store(error) => error.into(),
            RegistriesError::None | RegistriesError::Refused(_) => {
                Self::Unavailable(chain(&error).to_string())
            }
        }
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        let text = chain(&error).to_string();
        match error {
            SourceError::NotFound(_) | SourceError::Denied(_) | SourceError::Unusable(_) => {
                Self::detail(text)
            }
            SourceError::Unreachable(_) => Self::ForbiddenBecause(text),
            SourceError::Client(_)
            | SourceError::Http { .. }
            | SourceError::Slow { .. }
            | SourceError::Status { .. }
            | SourceError::Protocol { .. }
            | SourceError::File(_) => Self::Unavailable(text),
        }
    }
}

impl From<CopyError> for ApiError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) => error.into(),
            CopyError::TooLarge(_) => Self::detail(error.to_string()),
            CopyError::Push(_) | CopyError::Slow | CopyError::Files(_) | CopyError::NoTarget => {
                Self::Unavailable(chain(&error).to_string())
            }
        }
    }
}

/// The command per process type, under the rules for Procfiles. JSON is YAML.
fn procfile(request: &BuildRequest) -> Result<Procfile, ApiError> {
    let text = serde_json::Value::Object(request.procfile.clone()).to_string();
    procfile::parse(&text).map_err(|why| Refusal::field("procfile", why.to_string()).into())
}

impl Shared {
    /// Makes an image the app's next release, for `deis pull` and for the original builder.
    ///
    /// Nothing of the app changes before the image is in the registries: what goes wrong until then
    /// takes no release number.
    pub(super) async fn deploy_image(
        &self,
        name: &AppName,
        app: &App,
        by: Actor,
        request: &BuildRequest,
    ) -> Result<Change, ApiError> {
        let image: ImageName = request
            .image
            .parse()
            .map_err(|why| Refusal::field("image", format!("{why}")))?;
        if let Some(part) = image.part_of_the_platform() {
            return Err(ApiError::ForbiddenBecause(format!(
                "Repository name {part} is not allowed"
            )));
        }
        let procfile = procfile(request)?;
        let (digest, about) = {
            let _turn = self.images.turn().await?;
            if request.sha.is_empty() {
                self.fetch(name, app, &image).await?
            } else {
                self.adopt(name, app, &image, &request.sha).await?
            }
        };
        let by_name = request.sha.is_empty();
        let kind = match about.is_runner && !by_name && !request.dockerfile {
            true => ImageKind::Runner,
            false => ImageKind::Image,
        };
        if procfile.is_empty() && !about.has_command {
            return Err(ApiError::detail(format!(
                "The image {image} has neither CMD nor ENTRYPOINT, and there is no Procfile that says \
                 what to run."
            )));
        }
        let new = NewBuild {
            image: format!("{}@{digest}", repository_of(name, app.uuid)),
            source: Some(image.to_string()),
            kind,
            port: about.port,
            sha: request.sha.clone(),
            procfile,
            dockerfile: request.dockerfile,
        };
        let mut say = |waiting: &str| info!(app = %name, waiting, "an image waits");
        Ok(change::deploy(&self.store, name, by, &new, &mut say).await?)
    }

    /// Fetches an image from where its name says that it is.
    async fn fetch(
        &self,
        name: &AppName,
        app: &App,
        image: &ImageName,
    ) -> Result<(String, Inspected), ApiError> {
        let addresses = self.images.registries.addresses().await?;
        if addresses.iter().any(|ours| ours == image.registry()) {
            // All apps' images are there: its names are for the platform only.
            return Err(ApiError::ForbiddenBecause(format!(
                "{} is the platform's own registry; images of apps are not shared",
                image.registry()
            )));
        }
        let net = Net::world(self.listed().await?)?;
        let credentials = self.credentials(name, app).await?;
        let source = Source::of(&net, image, credentials)?;
        info!(app = %name, %image, "fetching an image");
        let found = source.find(image.wanted(), architecture()).await?;
        self.keep(name, app, &source, &found, None, &addresses)
            .await
    }

    /// Takes an image that the original builder pushed to one of our registries, as
    /// `<app>:git-<commit>`.
    async fn adopt(
        &self,
        name: &AppName,
        app: &App,
        image: &ImageName,
        sha: &str,
    ) -> Result<(String, Inspected), ApiError> {
        // Its own app's, and nobody else's.
        if image.to_string() != name.as_str() {
            let why = format!("With a commit, the image must be {name}: the one that was pushed.");
            return Err(Refusal::field("image", why).into());
        }
        let addresses = self.images.registries.addresses().await?;
        let net = Net::platform()?;
        let mut last = None;
        for address in &addresses {
            let source = Source::replica(&net, address, name.as_str())?;
            match source.find(&format!("git-{sha}"), architecture()).await {
                Ok(found) => {
                    let from = Some(name.as_str());
                    return self
                        .keep(name, app, &source, &found, from, &addresses)
                        .await;
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or(ApiError::NotFound, Into::into))
    }

    /// Copies what was found into all registries.
    async fn keep(
        &self,
        name: &AppName,
        app: &App,
        source: &Source<'_>,
        found: &Found,
        mount_from: Option<&str>,
        addresses: &[String],
    ) -> Result<(String, Inspected), ApiError> {
        let about = config::inspect(&found.config.bytes)
            .map_err(|why| ApiError::detail(format!("the image can't be used: {why}")))?;
        let to: Vec<_> = addresses
            .iter()
            .map(|address| self.images.registries.at(address))
            .collect();
        let (repository, spool) = (repository_of(name, app.uuid), Path::new(SPOOL));
        let copied = copy::copy(source, found, &to, &repository, mount_from, spool).await?;
        for warning in copied {
            warn!(app = %name, warning, "an image is not in all registries");
        }
        let digest = found.manifest.digest.clone();
        info!(app = %name, digest, bytes = found.size(), "the image is in the registries");
        Ok((digest, about))
    }

    /// The registries that operators vouch for.
    async fn listed(&self) -> Result<Listed, ApiError> {
        let (insecure, internal) = (
            keys::setting("registry", "insecure"),
            keys::setting("registry", "internal"),
        );
        let (insecure, internal) =
            tokio::try_join!(self.store.get(&insecure), self.store.get(&internal))?;
        let insecure = insecure.map(|found| found.value).unwrap_or_default();
        let internal = internal.map(|found| found.value).unwrap_or_default();
        Ok(Listed::parse(&insecure, &internal))
    }

    /// The app's own credentials for a private registry, from its config.
    async fn credentials(
        &self,
        name: &AppName,
        app: &App,
    ) -> Result<Option<Credentials>, ApiError> {
        let config = self.config(name, app.active).await?;
        let mut values: BTreeMap<String, String> = self.unseal(&config)?;
        let username = values.remove("REGISTRY_USERNAME");
        let password = values.remove("REGISTRY_PASSWORD");
        Ok(username
            .zip(password)
            .map(|(username, password)| Credentials {
                username,
                password: Secret::new(password),
            }))
    }
}

/// That of this cluster's hosts.
fn architecture() -> &'static str {
    manifest::architecture(std::env::consts::ARCH)
}
