//! A registry that is read from: somebody else's, or a replica of ours.
//!
//! Every URL is judged before it is asked ([`reach`](super::reach)), redirects and token servers
//! included: where a registry says that something is elsewhere, it decides for itself only.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use reqwest::{Client, Response, Url, redirect};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, sync::Mutex};

use super::{
    Blob,
    config::Document,
    digest_of,
    manifest::{self, Descriptor, Manifest, Unusable},
    name::ImageName,
    named,
    reach::{AnyAddress, Listed, PublicOnly, Unreachable},
};
use crate::{link::in_clear, seal::Secret};

/// Largest manifest or configuration.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Largest answer of a token server.
const MAX_TOKEN: u64 = 64 << 10;
/// Redirects in a row.
const MAX_REDIRECTS: usize = 5;
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence.
const SILENCE: Duration = Duration::from_secs(30);
/// Time for a request without a layer.
const REQUEST: Duration = Duration::from_secs(60);

/// Why an image can't be read from where it is.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The HTTP client can't be made.
    #[error("can't set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// No such thing, or not for us.
    #[error("image not found: {0}")]
    NotFound(String),
    /// The credentials are wrong, or there are none.
    #[error(
        "image not found: {0} says that it needs other credentials; set REGISTRY_USERNAME and REGISTRY_PASSWORD with deis config:set"
    )]
    Denied(String),
    /// Not to be asked.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// No answer.
    #[error("the registry {host} does not answer")]
    Http {
        /// Which.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Too slow.
    #[error("the registry {host} did not answer within {} s", REQUEST.as_secs())]
    Slow {
        /// Which.
        host: String,
    },
    /// An answer that is none.
    #[error("the registry {host} answers {status} for {what}")]
    Status {
        /// Which.
        host: String,
        /// With what.
        status: StatusCode,
        /// What was asked for.
        what: String,
    },
    /// An answer that breaks the protocol.
    #[error("the registry {host} {why}")]
    Protocol {
        /// Which.
        host: String,
        /// What it does.
        why: String,
    },
    /// An image that can't run here.
    #[error("the image can't be used: {0}")]
    Unusable(#[from] Unusable),
    /// A file of ours.
    #[error("can't keep a layer; is the disk full?")]
    File(#[source] std::io::Error),
}

/// Asks registries, within bounds of reach.
#[derive(Debug)]
pub struct Net {
    /// For any address.
    open: Client,
    /// For public addresses.
    guarded: Client,
    /// None: the platform's own registries, wherever they are.
    listed: Option<Listed>,
}

fn client(public_only: bool) -> Result<Client, SourceError> {
    let builder = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .user_agent(concat!("deis/", env!("CARGO_PKG_VERSION")));
    let builder = if public_only {
        builder.dns_resolver(PublicOnly::shared())
    } else {
        builder
    };
    builder.build().map_err(SourceError::Client)
}

impl Net {
    /// For registries of others, named by users.
    ///
    /// # Errors
    /// When there is no HTTP client.
    pub fn world(listed: Listed) -> Result<Self, SourceError> {
        Ok(Self {
            open: client(false)?,
            guarded: client(true)?,
            listed: Some(listed),
        })
    }

    /// For the platform's own registries.
    ///
    /// # Errors
    /// When there is no HTTP client.
    pub fn platform() -> Result<Self, SourceError> {
        Ok(Self {
            open: client(false)?,
            guarded: client(true)?,
            listed: None,
        })
    }

    /// One request; redirects are followed, and judged, one by one.
    async fn get(
        &self,
        mut url: Url,
        accept: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, SourceError> {
        let origin = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let any = match &self.listed {
                None => AnyAddress(true),
                Some(listed) => listed.permit(&url)?,
            };
            let client = if any.0 { &self.open } else { &self.guarded };
            let mut request = client.get(url.clone()).header(header::ACCEPT, accept);
            // Whoever is led to does not learn what is meant for the registry.
            if let Some(value) = authorization.filter(|_| url.origin() == origin) {
                request = request.header(header::AUTHORIZATION, value);
            }
            let answer = tokio::time::timeout(REQUEST, request.send()).await;
            let answer = answer.map_err(|_| SourceError::Slow { host: host(&url) })?;
            let answer = answer.map_err(|error| failed(&url, error))?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let to = answer.headers().get(header::LOCATION);
            let to = to.and_then(|to| to.to_str().ok()).map(|to| url.join(to));
            url = match to {
                Some(Ok(to)) => to,
                _ => return Err(protocol(&url, "leads nowhere")),
            };
        }
        Err(protocol(&url, "leads in a circle"))
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn protocol(url: &Url, why: impl Into<String>) -> SourceError {
    let (host, why) = (host(url), why.into());
    SourceError::Protocol { host, why }
}

/// What went wrong with a request; a name that leads to no public address says so.
fn failed(url: &Url, error: reqwest::Error) -> SourceError {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(why) = cause {
        if let Some(Unreachable::Private(_)) = why.downcast_ref() {
            return Unreachable::Private(host(url)).into();
        }
        cause = why.source();
    }
    SourceError::Http {
        host: host(url),
        source: error.without_url(),
    }
}

/// Name and password for a registry.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Name.
    pub username: String,
    /// Password.
    pub password: Secret<String>,
}

impl Credentials {
    fn basic(&self) -> Option<HeaderValue> {
        let text = format!("{}:{}", self.username, self.password.expose());
        secret(&format!("Basic {}", STANDARD.encode(text)))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One repository of a registry.
#[derive(Debug)]
pub struct Source<'n> {
    net: &'n Net,
    root: Url,
    repository: String,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// An image that was found, for the hosts of this platform.
#[derive(Debug)]
pub struct Found {
    /// Its manifest.
    pub manifest: Document,
    /// The manifest's type.
    pub media_type: String,
    /// Its configuration.
    pub config: Document,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Found {
    /// Bytes of all layers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

impl<'n> Source<'n> {
    /// Where a named image is.
    ///
    /// # Errors
    /// When its registry is none.
    pub fn of(
        net: &'n Net,
        image: &ImageName,
        credentials: Option<Credentials>,
    ) -> Result<Self, SourceError> {
        let root = match &net.listed {
            Some(listed) => listed.root(image.registry())?,
            None => return Err(Unreachable::Url.into()),
        };
        Ok(Self {
            net,
            root,
            repository: image.repository().to_owned(),
            credentials,
            authorization: Mutex::default(),
        })
    }

    /// A repository of a replica of ours, at `ip:port`.
    ///
    /// # Errors
    /// When the address is none.
    pub fn replica(net: &'n Net, address: &str, repository: &str) -> Result<Self, SourceError> {
        let root = format!("http://{}/v2/", in_clear(address));
        Ok(Self {
            net,
            root: Url::parse(&root).map_err(|_| Unreachable::Url)?,
            repository: repository.to_owned(),
            credentials: None,
            authorization: Mutex::default(),
        })
    }

    /// Looks an image up by tag or digest, for linux hosts of an architecture.
    ///
    /// # Errors
    /// When there is none, or it can't run here.
    pub async fn find(&self, wanted: &str, architecture: &str) -> Result<Found, SourceError> {
        let (mut media_type, mut document, mut manifest) = self.manifest(wanted).await?;
        if let Manifest::List(list) = &manifest {
            let chosen = manifest::choose(list, architecture)?.digest.clone();
            (media_type, document, manifest) = self.manifest(&chosen).await?;
        }
        let Manifest::Image { config, layers } = manifest else {
            return Err(protocol(
                &self.root,
                "has a list of images in a list of images",
            ));
        };
        let config = self.document(&config).await?;
        manifest::fits(&config.bytes, architecture)?;
        Ok(Found {
            manifest: document,
            media_type,
            config,
            layers,
        })
    }

    async fn manifest(&self, wanted: &str) -> Result<(String, Document, Manifest), SourceError> {
        let answer = self
            .ask(&format!("manifests/{wanted}"), manifest::ACCEPT)
            .await?;
        let kind = answer.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.to_owned();
        let bytes = small(&self.root, answer, MAX_DOCUMENT).await?;
        let digest = digest_of(&bytes);
        if manifest::is_digest(wanted) && digest != wanted {
            return Err(protocol(
                &self.root,
                format!("sent {digest} when asked for {wanted}"),
            ));
        }
        let (media_type, parsed) = Manifest::parse(&kind, &bytes)?;
        Ok((media_type, Document { bytes, digest }, parsed))
    }

    /// A small blob, in memory.
    async fn document(&self, descriptor: &Descriptor) -> Result<Document, SourceError> {
        let path = format!("blobs/{}", descriptor.digest);
        let answer = self.ask(&path, "*/*").await?;
        let bytes = small(&self.root, answer, MAX_DOCUMENT).await?;
        let digest = digest_of(&bytes);
        if digest != descriptor.digest {
            let why = format!("sent {digest} when asked for {}", descriptor.digest);
            return Err(protocol(&self.root, why));
        }
        Ok(Document { bytes, digest })
    }

    /// A layer, into a file; its length and digest are what the manifest says, or it is none.
    ///
    /// # Errors
    /// When it does not come, or as something else.
    pub async fn layer(&self, layer: &Descriptor, dir: &Path) -> Result<Blob, SourceError> {
        let blob = layer.blob(dir);
        let answer = self.ask(&format!("blobs/{}", layer.digest), "*/*").await?;
        let mut stream = answer.bytes_stream();
        let file = tokio::fs::File::create(&blob.path).await;
        let file = file.map_err(SourceError::File)?;
        let mut file = tokio::io::BufWriter::with_capacity(256 << 10, file);
        let (mut hash, mut size) = (Sha256::new(), 0u64);
        while let Some(chunk) = stream.next().await {
            let chunk: Bytes = chunk.map_err(|error| failed(&self.root, error))?;
            size += chunk.len() as u64;
            if size > layer.size {
                break;
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(SourceError::File)?;
        }
        file.flush().await.map_err(SourceError::File)?;
        if size != layer.size || named(hash.finalize().as_slice()) != layer.digest {
            let why = format!("sent something else than the layer {}", layer.digest);
            return Err(protocol(&self.root, why));
        }
        Ok(blob)
    }

    /// Asks below the repository; logs in when the registry wants that.
    async fn ask(&self, path: &str, accept: &str) -> Result<Response, SourceError> {
        let url = format!("{}/{path}", self.repository);
        let url = self.root.join(&url).map_err(|_| Unreachable::Url)?;
        let known = self.authorization.lock().await.clone();
        let mut answer = self.net.get(url.clone(), accept, known.as_ref()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let wanted = answer.headers().get(header::WWW_AUTHENTICATE);
            let wanted = wanted.and_then(|text| text.to_str().ok());
            let authorization = self.log_in(wanted.unwrap_or_default()).await?;
            answer = self.net.get(url, accept, Some(&authorization)).await?;
            *self.authorization.lock().await = Some(authorization);
        }
        let what = format!("{}/{}", host(&self.root), self.repository);
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => Err(SourceError::NotFound(format!(
                "{what} has no {}",
                path.split_once('/').map_or(path, |(_, wanted)| wanted)
            ))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied()),
            status => Err(SourceError::Status {
                host: host(&self.root),
                status,
                what: format!("{}/{path}", self.repository),
            }),
        }
    }

    /// Public registries answer so for what does not exist, too.
    fn denied(&self) -> SourceError {
        let what = format!("{}/{}", host(&self.root), self.repository);
        match self.credentials {
            Some(_) => SourceError::Denied(what),
            None => SourceError::NotFound(format!(
                "{what} does not exist, or is private; for a private image, set REGISTRY_USERNAME \
                 and REGISTRY_PASSWORD with deis config:set"
            )),
        }
    }

    /// What proves to the registry that we may read, as it asks for it.
    async fn log_in(&self, challenge: &str) -> Result<HeaderValue, SourceError> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(alias = "access_token")]
            token: String,
        }
        let basic = self.credentials.as_ref().and_then(Credentials::basic);
        let challenge = Challenge::parse(challenge);
        let Some(realm) = challenge.realm else {
            return basic.ok_or_else(|| self.denied());
        };
        let mut url = Url::parse(&realm).map_err(|_| Unreachable::Url)?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &challenge.service {
                query.append_pair("service", service);
            }
            let scope = format!("repository:{}:pull", self.repository);
            query.append_pair("scope", &scope);
        }
        let answer = self
            .net
            .get(url.clone(), "application/json", basic.as_ref())
            .await?;
        if !answer.status().is_success() {
            return Err(self.denied());
        }
        let bytes = small(&url, answer, MAX_TOKEN).await?;
        let token = serde_json::from_slice::<Token>(&bytes).ok();
        token
            .and_then(|token| secret(&format!("Bearer {}", token.token)))
            .ok_or_else(|| protocol(&url, "gives no token"))
    }
}

/// What a registry wants, as in `Bearer realm="https://…",service="…",scope="…"`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    /// Where tokens are; none when it wants name and password.
    realm: Option<String>,
    service: Option<String>,
}

impl Challenge {
    fn parse(text: &str) -> Self {
        let Some((scheme, rest)) = text.trim().split_once(' ') else {
            return Self::default();
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Self::default();
        }
        let mut challenge = Self::default();
        let mut rest = rest.trim();
        while let Some((name, value)) = rest.split_once("=\"") {
            let Some((value, after)) = value.split_once('"') else {
                break;
            };
            match name.trim_start_matches([',', ' ']) {
                "realm" => challenge.realm = Some(value.to_owned()),
                "service" => challenge.service = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        challenge
    }
}

/// Reads an answer that must not be large.
async fn small(url: &Url, answer: Response, limit: u64) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| failed(url, error))?;
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(protocol(url, format!("sends more than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let hub = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let want = Challenge {
            realm: Some("https://auth.example/token".into()),
            service: Some("registry.example".into()),
        };
        assert_eq!(Challenge::parse(hub), want);
        for text in [
            "",
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer realm=",
            "Bearer realm=\"x",
        ] {
            assert_eq!(Challenge::parse(text), Challenge::default(), "{text}");
        }
    }
}
