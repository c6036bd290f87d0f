//! How controllers, builders and agents reach the loggers.

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use reqwest::{Client, RequestBuilder, Response, StatusCode};

use super::{LINE_PORT, app_log::Event, owner::Owner};
use crate::{
    link::links,
    model::{App, AppName},
    store::{Store, StoreError, keys},
};

/// A logger must answer within this time.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// Why a log can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The store doesn't say where the loggers are.
    #[error("can't look up the loggers")]
    Store(#[from] StoreError),
    /// None is there.
    #[error("no logger is running; `deisctl start logger` starts one, and `deisctl list` shows it")]
    None,
    /// It doesn't answer.
    #[error("the logger at {address} doesn't answer")]
    Http {
        /// Which one.
        address: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It answers with something else.
    #[error("the logger at {address} answers {status}: {text}")]
    Status {
        /// Which one.
        address: String,
        /// With what.
        status: StatusCode,
        /// What it says.
        text: String,
    },
    /// Too many read at once.
    #[error("too many logs are being read at this moment; try again")]
    Busy,
    /// It began an answer and doesn't go on.
    #[error("the logger at {0} has stopped in the middle of an answer")]
    Silent(String),
    /// It is no logger, or one of another version.
    #[error("the logger at {0} answers with something that is no log")]
    Garbled(String),
}

/// Whose log is meant: an app, apart from others that had or will have its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// Its name.
    pub app: AppName,
    /// Which app of that name.
    pub owner: Owner,
}

impl Whose {
    /// The log of an app.
    #[must_use]
    pub fn of(name: &AppName, app: &App) -> Self {
        Self {
            app: name.clone(),
            owner: Owner {
                uuid: app.uuid,
                created_ms: u64::try_from(app.created.as_millisecond()).unwrap_or(0),
            },
        }
    }

    /// Its URL at a logger.
    pub(super) fn url(&self, address: &str) -> String {
        let (app, Owner { uuid, created_ms }) = (&self.app, self.owner);
        let scheme = links().scheme();
        format!("{scheme}://{address}/logs/{app}?of={uuid}&created={created_ms}")
    }
}

/// HTTP addresses (`ip:port`) of all loggers that are there.
///
/// # Errors
/// When the store can't be asked.
pub async fn loggers(store: &Store) -> Result<Vec<String>, StoreError> {
    let found = store.list_readable(&keys::parts(super::PART)).await?;
    Ok(found
        .entries
        .into_iter()
        .map(|(_, e)| e.value.address)
        .collect())
}

/// Where log sidecars' connections are to be relayed to: the line ports of all loggers.
///
/// # Errors
/// When the store can't be asked.
pub async fn line_addresses(store: &Store) -> Result<Vec<SocketAddr>, StoreError> {
    let found = loggers(store).await?;
    Ok(found
        .iter()
        .filter_map(|address| line_address(address))
        .collect())
}

/// The line port of a logger that registered with this address.
#[must_use]
pub fn line_address(http: &str) -> Option<SocketAddr> {
    let http: SocketAddr = http.parse().ok()?;
    Some(SocketAddr::new(http.ip(), LINE_PORT))
}

/// Deletes an app's log on all loggers that are there; one that is away forgets it when it is back.
///
/// # Errors
/// When one of them doesn't answer; the others have deleted it.
pub async fn delete(store: &Store, whose: &Whose) -> Result<(), ClientError> {
    let mut result = Ok(());
    for address in loggers(store).await? {
        let request = client().delete(whose.url(&address)).timeout(ANSWER);
        if let Err(error) = send(&address, request).await {
            result = Err(error);
        }
    }
    result
}

/// Adds the platform's words to an app's log: `alice created initial release`.
///
/// # Errors
/// When no logger takes it.
pub async fn event(store: &Store, whose: &Whose, event: &Event) -> Result<(), ClientError> {
    let Event {
        id, time_ms, about, ..
    } = event;
    let mut last = ClientError::None;
    for address in loggers(store).await? {
        let url = whose.url(&address);
        let request = client().post(format!("{url}&id={id}&time={time_ms}&about={about}"));
        let request = request.timeout(ANSWER).body(event.text.clone());
        match send(&address, request).await {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

pub(super) fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let build = || {
        let builder = Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .no_proxy();
        links().trusted_by(builder).build().unwrap_or_default()
    };
    CLIENT.get_or_init(build).clone()
}

pub(super) async fn send(address: &str, request: RequestBuilder) -> Result<Response, ClientError> {
    let address = address.to_owned();
    let response = match request.send().await {
        Ok(response) => response,
        Err(source) => return Err(ClientError::Http { address, source }),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let text = text.trim_end().to_owned();
    Err(ClientError::Status {
        address,
        status,
        text,
    })
}
