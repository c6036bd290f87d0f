//! HTTPS to the authority: bounded in time and size, by the roots that the operators trust.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use super::settings::Settings;

/// One request, to its answer's last byte.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Largest answer: a chain of certificates has some kilobytes.
const ANSWER_MAX: usize = 1 << 20;

/// A client for one authority.
pub(super) struct Https(reqwest::Client);

impl Https {
    /// With the root of the settings in place of the public ones, if there is one.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let builder = reqwest::Client::builder()
            .https_only(true)
            .timeout(REQUEST_LIMIT);
        let builder = match &settings.ca {
            None => builder,
            Some(pem) => {
                let root = reqwest::Certificate::from_pem(pem.as_bytes()).map_err(other)?;
                builder.tls_certs_only([root])
            }
        };
        Ok(Self(builder.build().map_err(other)?))
    }
}

fn other(error: reqwest::Error) -> Error {
    Error::Other(Box::new(error))
}

impl HttpClient for Https {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let request = http::Request::from_parts(parts, body);
            let request = reqwest::Request::try_from(request).map_err(other)?;
            let mut response = client.execute(request).await.map_err(other)?;
            let mut answer = http::Response::new(());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = response.headers().clone();
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(other)? {
                if bytes.len() + chunk.len() > ANSWER_MAX {
                    return Err(Error::Str("an answer of less than a megabyte"));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(answer.map(|()| Full::new(Bytes::from(bytes))).into())
        })
    }
}
