//! Lists, page by page, as Django REST framework made them.

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};

use super::error::ApiError;
use crate::api::wire::Page;

/// Entries on a page unless the request says otherwise.
const PAGE_SIZE: usize = 100;

/// Which page of a list is asked for.
#[derive(Debug)]
pub(super) struct Paging {
    number: usize,
    size: usize,
    /// Scheme, host and path, for the links to other pages.
    url: String,
}

impl<S: Sync> FromRequestParts<S> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let number = |name: &str| -> Option<&str> {
            let query = parts.uri.query().unwrap_or_default();
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v)
        };
        let positive = |text: &str| text.parse::<usize>().ok().filter(|n| *n > 0);
        let page = match number("page") {
            None => 1,
            Some(text) => positive(text).ok_or(ApiError::NotFound)?,
        };
        // A size that is none means the usual one, as in v1.
        let size = number("page_size").and_then(positive).unwrap_or(PAGE_SIZE);
        Ok(Self {
            number: page,
            size,
            url: format!("{}{}", origin(&parts.headers), parts.uri.path()),
        })
    }
}

fn origin(headers: &HeaderMap) -> String {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(header::HOST).unwrap_or("localhost");
    let scheme = text(header::HeaderName::from_static("x-forwarded-proto"));
    let scheme = scheme.filter(|s| *s == "https").unwrap_or("http");
    format!("{scheme}://{host}")
}

impl Paging {
    /// Cuts the page out of a whole list.
    pub(super) fn cut<T>(&self, all: Vec<T>) -> Result<Page<T>, ApiError> {
        let count = all.len();
        let start = (self.number - 1).saturating_mul(self.size);
        if start >= count && self.number > 1 {
            return Err(ApiError::NotFound);
        }
        let link = |number: usize| format!("{}/?page={number}&page_size={}", self.url, self.size);
        let more = start.saturating_add(self.size) < count;
        Ok(Page {
            count: count as u64,
            next: more.then(|| link(self.number + 1)),
            previous: (self.number > 1).then(|| link(self.number - 1)),
            results: all.into_iter().skip(start).take(self.size).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn cut(uri: &str, count: usize) -> Result<Page<usize>, ApiError> {
        let request = http::Request::get(uri).header("host", "deis.x").body(());
        let (mut parts, ()) = request.expect("request").into_parts();
        let paging = Paging::from_request_parts(&mut parts, &()).await?;
        paging.cut((1..=count).collect())
    }

    #[tokio::test]
    async fn pages() {
        let page = cut("/v1/apps", 3).await.expect("page");
        assert_eq!((page.count, page.next, page.previous), (3, None, None));
        assert_eq!(page.results, [1, 2, 3]);
        let page = cut("/v1/apps?page=2&page_size=2", 5).await.expect("page");
        assert_eq!(page.results, [3, 4]);
        assert_eq!(
            page.next.as_deref(),
            Some("http://deis.x/v1/apps/?page=3&page_size=2")
        );
        assert_eq!(
            page.previous.as_deref(),
            Some("http://deis.x/v1/apps/?page=1&page_size=2")
        );
        assert_eq!(cut("/v1/apps", 150).await.expect("page").results.len(), 100);
        assert_eq!(
            cut("/v1/apps?page_size=x", 1)
                .await
                .expect("page")
                .results
                .len(),
            1
        );
        assert!(cut("/v1/apps", 0).await.expect("page").results.is_empty());
        for uri in ["/v1/apps?page=9", "/v1/apps?page=0", "/v1/apps?page=x"] {
            assert!(
                matches!(cut(uri, 3).await, Err(ApiError::NotFound)),
                "{uri}"
            );
        }
    }
}
