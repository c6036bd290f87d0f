//! What the controller counts, as Prometheus reads it, and where.

use std::{collections::BTreeMap, sync::Arc};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    controller::{metrics, testing::Site},
    leader,
    metrics::strict::{self, Family},
};

fn read(site: &Site) -> BTreeMap<String, Family> {
    let page = metrics::page(&site.state, &leader::Metrics::default());
    strict::read(&page).unwrap_or_else(|why| panic!("{why} in:\n{page}"))
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let site = Site::start().await;
    let ada = site.user("ada", false).await;
    for name in ["blog", "shop"] {
        let made = site
            .call(&ada, "POST", "/v1/apps/", json!({ "id": name }))
            .await;
        assert_eq!(made.status(), 201);
        let path = format!("/v1/apps/{name}/");
        assert_eq!(
            site.call(&ada, "GET", &path, Value::Null).await.status(),
            200
        );
    }
    site.call("nonsense", "GET", "/v1/apps/blog", Value::Null)
        .await;
    site.call("", "GET", "/v1/no\"such\\route/", Value::Null)
        .await;
    site.call(&ada, "BREW", "/v1/apps/", Value::Null).await;
    let families = read(&site);
    let requests = &families["deis_controller_requests_total"];
    let count = |method: &str, route: &str, status: &str| {
        requests.value(&[("method", method), ("route", route), ("status", status)])
    };
    assert_eq!(count("POST", "/v1/apps", "201"), Some(2.0));
    // The app's name is no label: two apps are one route.
    assert_eq!(count("GET", "/v1/apps/{app}", "200"), Some(2.0));
    assert_eq!(
        count("GET", "/v1/apps/{app}", "401"),
        Some(1.0),
        "the gate's refusals, too"
    );
    assert_eq!(count("GET", "other", "404"), Some(1.0));
    assert_eq!(count("other", "other", "405"), Some(1.0));
    let took = &families["deis_controller_request_duration_seconds"];
    let labels = [("method", "POST"), ("route", "/v1/apps")];
    assert_eq!(took.part("_count", &labels), Some(2.0));
}

#[tokio::test]
async fn refused_logins_are_counted() {
    let site = Site::start().await;
    site.user("ada", false).await;
    for password in ["guess", "guess"] {
        let ask = json!({ "username": "ada", "password": password });
        let reply = site.call("", "POST", "/v1/auth/login/", ask).await;
        assert_eq!(reply.status(), 400);
    }
    let families = read(&site);
    let refused = &families["deis_controller_logins_refused_total"];
    assert_eq!(refused.value(&[("reason", "credentials")]), Some(2.0));
    assert_eq!(refused.value(&[("reason", "too_many")]), Some(0.0));
    assert_eq!(families["deis_scheduler_leader"].value(&[]), Some(0.0));
}

/// The API's port has no metrics, and theirs has nothing else.
#[tokio::test]
async fn they_are_on_a_port_of_their_own() {
    let site = Site::start().await;
    let api = site.call("", "GET", "/metrics", Value::Null).await;
    assert_eq!(api.status(), 404);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    let serving = metrics::serve(listener, site.state.clone(), Arc::default());
    let serving = tokio::spawn(serving);
    let ask = async |line: &str| {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    };
    for (line, status) in [
        ("GET /v1/apps", StatusCode::NOT_FOUND),
        ("POST /metrics", StatusCode::METHOD_NOT_ALLOWED),
        ("GET /metrics", StatusCode::OK),
    ] {
        let answer = ask(line).await;
        let first = format!("HTTP/1.1 {}", status.as_u16());
        assert!(answer.starts_with(&first), "{line}: {answer}");
    }
    let answer = ask("GET /metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        strict::read(body)
            .expect("readable")
            .contains_key("process_cpu_seconds_total")
    );
    serving.abort();
}
