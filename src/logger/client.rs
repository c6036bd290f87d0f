//! How controller and agents reach the loggers.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use reqwest::{Client, Response, StatusCode};

use super::LINE_PORT;
use crate::{
    model::AppName,
    store::{Store, StoreError, keys},
};

/// A logger must answer within this time.
const ANSWER: Duration = Duration::from_secs(10);

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
}

/// HTTP addresses (`ip:port`) of all loggers that are there.
///
/// # Errors
/// When the store can't be asked.
pub async fn loggers(store: &Store) -> Result<Vec<String>, StoreError> {
    let found = store.list(&keys::parts(super::PART)).await?;
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

/// The last lines of an app's log as text; none when there are none.
///
/// # Errors
/// When no logger answers.
pub async fn tail(
    store: &Store,
    app: &AppName,
    lines: usize,
) -> Result<Option<String>, ClientError> {
    let mut last = ClientError::None;
    for address in loggers(store).await? {
        match get(&address, app, lines, false).await {
            Ok(None) => return Ok(None),
            Ok(Some(response)) => match response.text().await {
                Ok(text) => return Ok(Some(text)),
                Err(source) => last = ClientError::Http { address, source },
            },
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The last lines, and then each new one as it comes, until the app's log is deleted.
///
/// # Errors
/// When no logger answers.
pub async fn follow(
    store: &Store,
    app: &AppName,
    lines: usize,
) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
    let mut last = ClientError::None;
    for address in loggers(store).await? {
        match get(&address, app, lines, true).await {
            Ok(Some(response)) => {
                return Ok(response
                    .bytes_stream()
                    .map_err(move |source| ClientError::Http {
                        address: address.clone(),
                        source,
                    }));
            }
            Ok(None) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Deletes an app's log on all loggers.
///
/// # Errors
/// When one of them doesn't answer.
pub async fn delete(store: &Store, app: &AppName) -> Result<(), ClientError> {
    for address in loggers(store).await? {
        let request = client().delete(url(&address, app)).timeout(ANSWER);
        send(&address, request).await?;
    }
    Ok(())
}

/// Adds the controller's words to an app's log: `alice created initial release`.
///
/// # Errors
/// When no logger takes it.
pub async fn event(store: &Store, app: &AppName, text: &str) -> Result<(), ClientError> {
    let mut last = ClientError::None;
    for address in loggers(store).await? {
        let request = client().post(url(&address, app)).timeout(ANSWER);
        match send(&address, request.body(text.to_owned())).await {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn client() -> Client {
    static CLIENT: std::sync::OnceLock<Client> = std::sync::OnceLock::new();
    let build = || {
        Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .no_proxy()
            .build()
            .unwrap_or_default()
    };
    CLIENT.get_or_init(build).clone()
}

fn url(address: &str, app: &AppName) -> String {
    format!("http://{address}/logs/{app}")
}

async fn get(
    address: &str,
    app: &AppName,
    lines: usize,
    follow: bool,
) -> Result<Option<Response>, ClientError> {
    let url = url(address, app);
    let mut request = client().get(format!("{url}?lines={lines}&follow={}", u8::from(follow)));
    if !follow {
        request = request.timeout(ANSWER);
    }
    let response = send(address, request).await?;
    Ok((response.status() != StatusCode::NO_CONTENT).then_some(response))
}

async fn send(address: &str, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
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
