//! HTTP to the controller.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use http::HeaderMap;
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

/// Bound of an answer that goes on for as long as it is read.
const ENDLESS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

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
    server: ServerVersion,
}

/// What the controller says that it speaks, once it has answered.
pub type ServerVersion = Arc<OnceLock<String>>;

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
            server: ServerVersion::default(),
        })
    }

    /// The same, leaving the server's version where others find it.
    pub fn telling(mut self, server: &ServerVersion) -> Self {
        self.server = Arc::clone(server);
        self
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

    /// Begins to read something that has no end.
    pub async fn stream(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> anyhow::Result<Response> {
        let path = [&["v1"], path, &[""]].concat();
        let sent = self.send(Method::GET, &path, query, None, ENDLESS);
        let response = tokio::time::timeout(QUICK, sent).await;
        let response = response.map_err(|_| {
            let (controller, limit) = (self.controller(), QUICK.as_secs());
            anyhow!("{controller} gives no answer within {limit} s")
        })??;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(response).await)
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
            return Err(self.refused(response).await);
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
        if response.status().is_success() {
            let body = read(response).await?;
            return Ok(Answer { body });
        }
        Err(self.refused(response).await)
    }

    /// What an answer that is a refusal says.
    async fn refused(&self, response: Response) -> anyhow::Error {
        let code = response.status();
        let status = status_line(&response);
        let headers = response.headers().clone();
        let body = match read(response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let stale = code == StatusCode::UNAUTHORIZED && self.token.is_some();
        let controller = self.controller();
        Refused {
            code: code.as_u16(),
            status,
            text: explanation(&body) + &id_line(&headers, code, &body).unwrap_or_default(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            hint: stale
                .then(|| format!("your login has ended; log in again: deis login {controller}")),
        }
        .into()
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
        let sent = request.send().await;
        let response = sent.map_err(|error| self.unreachable(&error, limit))?;
        let version = response.headers().get("DEIS_API_VERSION");
        if let Some(version) = version.and_then(|version| version.to_str().ok()) {
            // The first answer tells; the others tell the same.
            let _ = self.server.set(version.to_owned());
        }
        Ok(response)
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
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let controller = self.controller();
        let timeout = error.is_timeout() && !error.is_connect();
        if timeout {
            anyhow!("{controller} gives no answer within {} s", limit.as_secs())
        } else if is_certificate(error) {
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

/// Whether it is the controller's certificate that was refused. rustls says so inside of IO errors.
fn is_certificate(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return matches!(tls, rustls::Error::InvalidCertificate(_));
        }
        next = match cause
            .downcast_ref::<std::io::Error>()
            .and_then(|e| e.get_ref())
        {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
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

/// The id of a request that failed before a controller could say so itself: a router's error page, say.
fn id_line(headers: &HeaderMap, code: StatusCode, body: &[u8]) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    let explained = serde_json::from_slice::<Map<String, Value>>(body).is_ok();
    let told = explained && code != StatusCode::INTERNAL_SERVER_ERROR;
    let said = String::from_utf8_lossy(body).contains(id);
    (code.is_server_error() && !told && !said).then(|| format!("\nrequest_id: {id}"))
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
    fn a_failure_without_an_id_gets_it_from_the_header() {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-request-id"),
            http::HeaderValue::from_static("abc"),
        )]);
        let line = Some("\nrequest_id: abc".to_owned());
        for (code, body, want) in [
            (502, "502 Bad Gateway", &line),
            (500, r#"{"detail":"x"}"#, &line),
            (500, r#"{"detail":"x","request_id":"abc"}"#, &None),
            // The app's own failure is none of the platform's.
            (503, r#"{"detail":"web.1 exits with 1"}"#, &None),
            (404, "<html>", &None),
        ] {
            let code = StatusCode::from_u16(code).expect("status");
            assert_eq!(
                id_line(&headers, code, body.as_bytes()),
                *want,
                "{code} {body}"
            );
        }
        assert_eq!(
            id_line(&HeaderMap::new(), StatusCode::BAD_GATEWAY, b""),
            None
        );
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
