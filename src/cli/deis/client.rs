//! HTTP to the controller.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Upgraded, Url};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{api, model::AppName};

/// Bound of a call that only reads or writes a record.
const QUICK: Duration = Duration::from_secs(60);

/// Bound of a call that waits for a rollout or a command: more than the controller's own bound.
const SLOW: Duration = Duration::from_secs(25 * 60);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// What the controller answers when it says no.
#[derive(Debug, thiserror::Error)]
#[error("{status}{text}")]
pub struct Refused {
    /// The status code.
    pub code: u16,
    /// The status line's end, `404 NOT FOUND`.
    pub status: String,
    /// What it says besides, each line after a line break.
    pub text: String,
    /// The same as it came, if that was JSON.
    pub body: Value,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Speaks to one controller, for one user or nobody.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// The answer to a call, read whole.
pub struct Answer {
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as a shape of the API.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).context(
            "the controller's answer is not what this client expects; is it a Deis controller?",
        )
    }
}

impl Client {
    /// A client for a controller; a URL without a scheme means http, as in v1.
    pub fn new(controller: &str, ssl_verify: bool, token: Option<&str>) -> anyhow::Result<Self> {
        let url = if controller.contains("://") {
            controller.to_owned()
        } else {
            format!("http://{controller}")
        };
        let base: Url = url
            .parse()
            .map_err(|e| anyhow!("{controller:?} is no URL of a controller: {e}"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            bail!("{controller:?} is no URL of a controller; write it as http://deis.example.com");
        }
        let http = reqwest::Client::builder()
            .user_agent(format!("Deis Client v{}", api::PLATFORM_VERSION))
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Sessions of `deis run` are websockets.
            .http1_only()
            .tls_danger_accept_invalid_certs(!ssl_verify)
            .build()
            .context("can't set up HTTP")?;
        Ok(Self {
            http,
            base,
            token: token.map(str::to_owned),
        })
    }

    /// The controller's host name, without a port.
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// The controller's URL.
    pub fn controller(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// Makes sure that a controller answers there: it wants to know who asks.
    pub async fn check(&self) -> anyhow::Result<()> {
        let answer = self
            .send(Method::GET, &["v1", ""], &[], None, QUICK)
            .await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        bail!(
            "{} does not appear to be a valid Deis controller.\n\
             Make sure that the Controller URI is correct and the server is running.",
            self.controller()
        )
    }

    /// Reads something.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<T> {
        self.call(Method::GET, path, &[], None, QUICK).await?.json()
    }

    /// Reads a list, `limit` entries at most.
    pub async fn page<T: DeserializeOwned>(
        &self,
        path: &[&str],
        limit: u32,
    ) -> anyhow::Result<api::wire::Page<T>> {
        let query = [("page_size", limit.to_string())];
        self.call(Method::GET, path, &query, None, QUICK)
            .await?
            .json()
    }

    /// Reads something with a query.
    pub async fn query(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<Answer> {
        self.call(Method::GET, path, query, None, QUICK).await
    }

    /// Changes something at once.
    pub async fn post(&self, path: &[&str], body: Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, &[], Some(body), QUICK).await
    }

    /// Changes something and waits until it has come about.
    pub async fn post_and_wait(&self, path: &[&str], body: Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, &[], Some(body), SLOW).await
    }

    /// Removes something.
    pub async fn delete(&self, path: &[&str], body: Option<Value>) -> anyhow::Result<Answer> {
        self.call(Method::DELETE, path, &[], body, SLOW).await
    }

    /// Opens a websocket.
    pub async fn websocket(
        &self,
        path: &[&str],
        protocol: &str,
    ) -> anyhow::Result<WebSocketStream<Upgraded>> {
        let key = generate_key();
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", protocol),
            ("sec-websocket-key", &key),
        ];
        let path = [&["v1"], path, &[""]].concat();
        let mut request = self.request(Method::GET, &path)?;
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = tokio::time::timeout(QUICK, request.send())
            .await
            .map_err(|_| {
                anyhow!(
                    "{} gives no answer within {} s",
                    self.controller(),
                    QUICK.as_secs()
                )
            })?
            .map_err(|error| self.unreachable(&error, QUICK))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = response.status();
            let status = status_line(&response);
            return Err(self.refused(code, status, &read(response).await?).into());
        }
        let accepted = response.headers().get("sec-websocket-accept");
        if accepted
            .is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
        {
            bail!(
                "{} answers a websocket with something else; is a proxy in between that can't pass them on?",
                self.controller()
            );
        }
        let upgraded = response
            .upgrade()
            .await
            .context("the connection broke off")?;
        Ok(WebSocketStream::from_raw_socket(
            upgraded,
            Role::Client,
            Some(WebSocketConfig::default().write_buffer_size(0)),
        )
        .await)
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<Value>,
        limit: Duration,
    ) -> anyhow::Result<Answer> {
        let mut path = path.to_vec();
        path.insert(0, "v1");
        path.push("");
        let response = self.send(method, &path, query, body, limit).await?;
        let code = response.status();
        let status = status_line(&response);
        let body = read(response).await?;
        if code.is_success() {
            return Ok(Answer { body });
        }
        Err(self.refused(code, status, &body).into())
    }

    fn refused(&self, code: StatusCode, status: String, body: &[u8]) -> Refused {
        let stale = code == StatusCode::UNAUTHORIZED && self.token.is_some();
        let controller = self.controller();
        Refused {
            code: code.as_u16(),
            status,
            text: explanation(body),
            body: serde_json::from_slice(body).unwrap_or_default(),
            hint: stale
                .then(|| format!("your login has ended; log in again: deis login {controller}")),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<Value>,
        limit: Duration,
    ) -> anyhow::Result<Response> {
        let mut request = self.request(method, path)?.query(query).timeout(limit);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request
            .send()
            .await
            .map_err(|error| self.unreachable(&error, limit))
    }

    fn request(&self, method: Method, path: &[&str]) -> anyhow::Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| anyhow!("{} is no URL of a controller", self.base))?
            .pop_if_empty()
            .extend(path);
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.header("Authorization", format!("token {token}")),
            None => request,
        })
    }

    fn unreachable(&self, error: &reqwest::Error, limit: Duration) -> anyhow::Error {
        // The innermost cause says it best (connection refused, no such host).
        let mut cause: &(dyn std::error::Error + 'static) = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let controller = self.controller();
        let timeout = error.is_timeout() && !error.is_connect();
        if timeout {
            anyhow!("{controller} gives no answer within {} s", limit.as_secs())
        } else if is_certificate(cause) {
            anyhow!(
                "the certificate of {controller} is not to be trusted: {cause}. If it is one that \
                 its operators made themselves: deis login {controller} --ssl-verify=false"
            )
        } else {
            anyhow!(
                "can't reach the controller at {controller}: {cause}. Is the address right and the platform up?"
            )
        }
    }
}

/// Whether rustls has refused the controller's certificate.
fn is_certificate(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        cause.downcast_ref(),
        Some(rustls::Error::InvalidCertificate(_))
    )
}

async fn read(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .context("the controller's answer breaks off")?
    {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            bail!(
                "the controller's answer is longer than {} MiB",
                MAX_ANSWER >> 20
            );
        }
    }
    Ok(body)
}

/// `404 NOT FOUND`, in the server's own words.
fn status_line(response: &Response) -> String {
    let code = response.status();
    let reason = response
        .extensions()
        .get::<hyper::ext::ReasonPhrase>()
        .map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned())
        .unwrap_or_else(|| api::reason(code));
    format!("{} {reason}", code.as_u16())
}

/// What a refusal's body says, line by line; as it is when it isn't JSON.
fn explanation(body: &[u8]) -> String {
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(body) else {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        return if text.is_empty() {
            String::new()
        } else {
            format!("\n{text}")
        };
    };
    let mut lines = String::new();
    for (field, value) in &fields {
        let whys = match value {
            Value::Array(whys) => whys.as_slice(),
            other => std::slice::from_ref(other),
        };
        for why in whys {
            let why = why.as_str().map_or_else(|| why.to_string(), str::to_owned);
            lines.push_str(&format!("\n{field}: {why}"));
        }
    }
    lines
}

/// The path of something of an app.
pub fn of_app<'p>(app: &'p AppName, rest: &[&'p str]) -> Vec<&'p str> {
    [&["apps", app.as_str()], rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_shown_in_full() {
        let cases = [
            (r#"{"detail":"Not found"}"#, "\ndetail: Not found"),
            (r#"{"id":["a","b"]}"#, "\nid: a\nid: b"),
            ("", ""),
            ("<html>", "\n<html>"),
        ];
        for (body, want) in cases {
            assert_eq!(explanation(body.as_bytes()), want, "{body}");
        }
    }

    #[test]
    fn controllers() {
        let url = |text| Client::new(text, true, None).map(|c| c.controller()).ok();
        assert_eq!(url("deis.localhost"), Some("http://deis.localhost".into()));
        assert_eq!(
            url("deis.localhost:8000"),
            Some("http://deis.localhost:8000".into())
        );
        assert_eq!(url("https://deis.x/"), Some("https://deis.x".into()));
        assert_eq!(url("ftp://deis.x"), None);
        assert_eq!(url(""), None);
    }
}
