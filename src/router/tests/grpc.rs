//! gRPC: HTTP/2 from end to end.

use std::{
    convert::Infallible,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::*;

type Body = BoxBody<Bytes, Infallible>;

/// A body that goes on as long as its sender is there.
fn body() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, frames) = mpsc::channel(8);
    let frames = stream::unfold(frames, |mut frames| async {
        let frame: Frame<Bytes> = frames.recv().await?;
        Some((Ok(frame), frames))
    });
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

/// A whole body.
fn body_of<const N: usize>(frames: [Frame<Bytes>; N]) -> Body {
    BodyExt::boxed(StreamBody::new(stream::iter(frames.map(Ok))))
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

fn trailers(name: &'static str, value: &'static str) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert(name, HeaderValue::from_static(value));
    Frame::trailers(map)
}

fn call(body: Body) -> Request<Body> {
    Request::post("http://blog.localhost/greeter/hello")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body)
        .expect("request")
}

async fn client(cluster: &Cluster) -> SendRequest<Body> {
    let io = TokioIo::new(cluster.connect().await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (sender, connection) = handshake.await.expect("handshake");
    tokio::spawn(connection);
    sender
}

/// A server of HTTP/2 that counts its connections, and breaks them all off when it is stopped.
async fn server<F>(
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> (
    SocketAddr,
    mpsc::UnboundedReceiver<()>,
    tokio::task::JoinHandle<()>,
)
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let (listener, address) = listener().await;
    let (opened, connections) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let mut tasks = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = opened.send(());
            let answer = answer.clone();
            tasks.spawn(async move {
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let connection = http.serve_connection(TokioIo::new(stream), service_fn(answer));
                let _ = connection.await;
            });
        }
    });
    (address, connections, task)
}

/// Says back what it is told, as it comes.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let frames = stream::unfold(request.into_body(), |mut body| async {
        let frame = body.frame().await?.ok()?;
        Some((Ok(frame), body))
    });
    Ok(Response::new(BodyExt::boxed(StreamBody::new(frames))))
}

#[tokio::test]
async fn a_call_is_http2_from_end_to_end() {
    let cluster = Cluster::start().await;
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let answer = move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let asked = body.collect().await.expect("the whole request");
            let checksum = asked.trailers().expect("trailers")["x-checksum"].clone();
            assert_eq!(asked.to_bytes(), "hello");
            seen.lock().expect("heads").push(parts);
            let said = body_of([data("hi"), trailers("grpc-status", "7")]);
            let mut response = Response::new(said);
            response.headers_mut().insert("x-checksum", checksum);
            Ok(response)
        }
    };
    let (address, mut connections, _server) = server(answer).await;
    cluster.publish("blog_v1.web.1", address).await;
    let client = client(&cluster).await;
    let calls = (0..50).map(|_| async {
        let body = body_of([data("hello"), trailers("x-checksum", "5")]);
        let answer = client.clone().send_request(call(body)).await;
        let answer = answer.expect("answered");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-checksum"], "5");
        let body = answer.into_body().collect().await.expect("body");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], "7");
        assert_eq!(body.to_bytes(), "hi");
    });
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    calls.pop().expect("a first one").await;
    futures_util::future::join_all(calls).await;
    for parts in heads.lock().expect("heads").iter() {
        assert_eq!(parts.version, Version::HTTP_2);
        assert_eq!(parts.uri, "http://blog.localhost/greeter/hello");
        assert_eq!(parts.headers["te"], "trailers");
        assert_eq!(parts.headers["x-forwarded-for"], "127.0.0.1");
        assert!(!parts.headers.contains_key("host"));
    }
    connections.recv().await.expect("a connection");
    let another = connections.try_recv();
    assert!(another.is_err(), "all over the first one");
}

#[tokio::test]
async fn both_sides_talk_at_once() {
    let cluster = Cluster::start().await;
    let (address, ..) = server(echo).await;
    cluster.publish("blog_v1.web.1", address).await;
    // No body of a conversation is too large.
    cluster.set("bodySize", "1k").await;
    let mut client = client(&cluster).await;
    let (say, body) = body();
    let answer = client.send_request(call(body)).await.expect("answered");
    let mut answer = answer.into_body();
    for _ in 0..100 {
        say.send(data("0123456789012345678901234567890123456789"))
            .await
            .expect("said");
        let frame = timeout(PATIENCE, answer.frame()).await.expect("in time");
        let frame = frame.expect("a frame").expect("whole");
        assert_eq!(frame.into_data().expect("data").len(), 40);
    }
    say.send(trailers("x-end", "yes")).await.expect("said");
    drop(say);
    let end = timeout(PATIENCE, answer.frame()).await.expect("in time");
    let end = end.expect("a frame").expect("whole").into_trailers();
    assert_eq!(end.expect("trailers")["x-end"], "yes");
    cluster.counted("deis_router_requests_in_flight 0").await;
}

#[tokio::test]
async fn who_has_lost_its_process_is_told_and_the_next_goes_elsewhere() {
    let cluster = Cluster::start().await;
    let (first, _, dying) = server(echo).await;
    cluster.publish("blog_v1.web.1", first).await;
    let mut client = client(&cluster).await;
    let (say, body) = body();
    let answer = client.send_request(call(body)).await.expect("answered");
    let mut answer = answer.into_body();
    say.send(data("one")).await.expect("said");
    assert!(answer.frame().await.expect("a frame").is_ok());
    let (second, ..) = server(echo).await;
    cluster.publish("blog_v1.web.2", second).await;
    dying.abort();
    let broken = timeout(PATIENCE, answer.frame()).await.expect("in time");
    assert!(broken.expect("an error").is_err());
    for _ in 0..10 {
        let body = body_of([data("two")]);
        let answer = client.send_request(call(body)).await.expect("answered");
        assert_eq!(answer.status(), 200);
        let said = answer.into_body().collect().await.expect("whole");
        assert_eq!(said.to_bytes(), "two");
    }
    // A process that leaves the table is left as soon as its last call is over.
    let (say, body) = super::grpc::body();
    let answer = client.send_request(call(body)).await.expect("answered");
    cluster.withdraw("blog_v1.web.1").await;
    let gone = cluster.withdraw("blog_v1.web.2").await;
    cluster
        .acked(|p| p.applied >= gone && p.drained < gone)
        .await;
    drop(say);
    answer.into_body().collect().await.expect("to its end");
    cluster.acked(|p| p.drained >= gone).await;
}

/// A server that refuses every call, and counts them.
async fn refusing() -> (SocketAddr, Arc<AtomicU32>) {
    let (listener, address) = listener().await;
    let refused = Arc::<AtomicU32>::default();
    let count = Arc::clone(&refused);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("handshake");
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    (address, refused)
}

#[tokio::test]
async fn a_call_that_was_refused_is_made_elsewhere() {
    let cluster = Cluster::start().await;
    let (first, refused) = refusing().await;
    cluster.publish("blog_v1.web.1", first).await;
    let mut client = client(&cluster).await;
    let call = async |client: &mut SendRequest<Body>| {
        let (say, body) = body();
        say.send(data("once ")).await.expect("said");
        let answer = client.send_request(call(body));
        say.send(data("only")).await.expect("said");
        drop(say);
        answer.await.expect("answered")
    };
    assert_eq!(
        call(&mut client).await.status(),
        502,
        "nobody else is there"
    );
    assert!(refused.load(Ordering::Relaxed) > 0);
    let (second, ..) = server(echo).await;
    cluster.publish("blog_v1.web.2", second).await;
    for _ in 0..20 {
        let answer = call(&mut client).await;
        assert_eq!(answer.status(), 200);
        let said = answer.into_body().collect().await.expect("whole");
        assert_eq!(said.to_bytes(), "once only");
    }
}

#[tokio::test]
async fn an_app_that_speaks_http1_only_is_said_to_be_broken() {
    let cluster = Cluster::start().await;
    let (address, _) = backend(|_| ok("fine")).await;
    cluster.publish("blog_v1.web.1", address).await;
    let mut client = client(&cluster).await;
    let body = body_of([data("hello")]);
    let answer = client.send_request(call(body)).await.expect("answered");
    assert_eq!(answer.status(), 502);
}
