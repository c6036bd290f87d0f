//! Processes that misbehave, and what becomes of requests then.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const FORM: &str = "GET / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n";

/// A process that takes connections and closes each when a request has come, unanswered.
async fn breaker() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (listener, address) = listener().await;
    let (sender, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_until(&mut stream, "\r\n\r\n").await;
            let _ = sender.send(head);
        }
    });
    (address, heads)
}

#[tokio::test]
async fn a_break_before_the_answer_is_tried_once_more_if_that_does_no_harm() {
    let cluster = Cluster::start().await;
    let ((one, mut at_one), (two, mut at_two)) = (breaker().await, breaker().await);
    cluster.publish("blog_v1.web.1", one).await;
    cluster.publish("blog_v1.web.2", two).await;
    // A request that breaks every process reaches two of them, never all.
    for n in 3..=6 {
        let (address, _) = breaker().await;
        cluster.publish(&format!("blog_v1.web.{n}"), address).await;
    }
    let answer = cluster.get("blog.localhost").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    cluster
        .counted("deis_router_app_retries_total{app=\"blog\"} 2")
        .await;
    while at_one.try_recv().is_ok() || at_two.try_recv().is_ok() {}

    // With one that works, nobody notices.
    let (works, _) = backend(|_| ok("fine")).await;
    cluster.publish("shop_v1.web.1", one).await;
    cluster.publish("shop_v1.web.2", works).await;
    for _ in 0..20 {
        let answer = cluster.get("shop.localhost").await;
        assert!(answer.ends_with("fine"), "{answer}");
    }
    assert!(at_one.try_recv().is_ok(), "it was tried");
    while at_one.try_recv().is_ok() {}
    // What may have been done is not done twice.
    cluster.publish("till_v1.web.1", one).await;
    let post = "POST / HTTP/1.1\r\nHost: till.localhost\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
    let answer = cluster.raw(post).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(at_one.recv().await.is_some());
    assert!(at_one.try_recv().is_err(), "once");
}

#[tokio::test]
async fn silence_ends() {
    let cluster = Cluster::start().await;
    cluster.set("defaultTimeout", "1").await;
    let (listener, address) = listener().await;
    cluster.publish("blog_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    client.write_all(FORM.as_bytes()).await.expect("send");
    let (mut mute, _) = listener.accept().await.expect("accept");
    let answer = read_until(&mut client, "in time.\n").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    read_until(&mut mute, "\r\n\r\n").await;
    // What was begun breaks off: nothing else would tell the client that there is more.
    client.write_all(FORM.as_bytes()).await.expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    stream.write_all(head).await.expect("answer");
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, client.read_to_end(&mut rest))
        .await
        .expect("ended");
    assert!(rest.ends_with(b"half"));
    // Events that come in time go on for as long as they do.
    let mut client = cluster.connect().await;
    client.write_all(FORM.as_bytes()).await.expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await.expect("answer");
    for n in 0..5 {
        sleep(Duration::from_millis(400)).await;
        let event = format!("data: {n}\n\n");
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await.expect("event");
        read_until(&mut client, &format!("{event}\r\n")).await;
    }
}

/// A process that changes to another protocol and then gives back what it is sent.
async fn echo() -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_until(&mut stream, "\r\n\r\n").await;
                let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
                stream.write_all(agreed).await.expect("agree");
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

impl Cluster {
    async fn tunnel(&self) -> TcpStream {
        let mut client = self.connect().await;
        let request = "GET / HTTP/1.1\r\nHost: blog.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        client.write_all(request.as_bytes()).await.expect("send");
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        client
    }
}

#[tokio::test]
async fn tunnels_pass_anything_and_end_after_silence() {
    let cluster = Cluster::start().await;
    cluster.publish("blog_v1.web.1", echo().await).await;
    let mut client = cluster.tunnel().await;
    // Nothing of it is HTTP, though it may look so.
    let bytes = b"GET / HTTP/1.1\nHost: a\n b\r\n\r\n\0\xff\r\r\n";
    client.write_all(bytes).await.expect("send");
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).await.expect("echo");
    assert_eq!(back, bytes);
    drop(client);
    cluster.counted("deis_router_requests_in_flight 0").await;
    cluster.set("defaultTimeout", "1").await;
    let mut client = cluster.tunnel().await;
    let ended = timeout(PATIENCE, client.read_u8()).await.expect("ended");
    assert!(ended.is_err());
}

/// Many websockets that say nothing; `make bench-router` opens ten thousand of them, and weighs them.
#[tokio::test]
async fn idle_tunnels() {
    // Four descriptors each, and this process may have few unless it asks.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("as many as it may have");
    let room = maximum.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX)
    });
    let number = (room / 5).min(1000);
    let cluster = Cluster::start().await;
    for n in 1..=4 {
        cluster
            .publish(&format!("blog_v1.web.{n}"), echo().await)
            .await;
    }
    let mut all = Vec::with_capacity(number);
    while all.len() < number {
        let some = (0..100.min(number - all.len())).map(|_| cluster.tunnel());
        all.extend(futures_util::future::join_all(some).await);
    }
    let line = format!("deis_router_app_requests_in_flight{{app=\"blog\"}} {number}");
    cluster.counted(&line).await;
    for client in all.iter_mut().step_by(97) {
        client.write_all(b"ping").await.expect("send");
        read_until(client, "ping").await;
    }
    drop(all);
    cluster.counted("deis_router_requests_in_flight 0").await;
}

#[tokio::test]
async fn apps_are_counted_for_themselves() {
    let cluster = Cluster::start().await;
    let (address, _) = backend(|_| ok("fine")).await;
    cluster.publish("blog_v1.web.1", address).await;
    cluster.publish("dead_v1.web.1", dead().await).await;
    cluster.get("blog.localhost").await;
    cluster.get("dead.localhost").await;
    cluster.get("nobody.localhost").await;
    for line in [
        "deis_router_app_requests_total{app=\"blog\",status=\"2xx\"} 1",
        "deis_router_app_requests_total{app=\"dead\",status=\"5xx\"} 1",
        "deis_router_app_ejections_total{app=\"dead\"} 1",
        "deis_router_app_request_seconds_count{app=\"blog\"} 1",
        "deis_router_app_requests_in_flight{app=\"blog\"} 0",
        "deis_router_requests_total{status=\"4xx\"} 1",
    ] {
        cluster.counted(line).await;
    }
    assert!(!cluster.metrics().await.contains("nobody"));
}

/// The next router serves while the last one answers what it has begun, and rollouts wait for both.
#[tokio::test]
async fn a_router_steps_aside_for_the_next_one() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    let published = cluster.publish("blog_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    client.write_all(FORM.as_bytes()).await.expect("send");
    let (mut process, _) = listener.accept().await.expect("accept");
    read_until(&mut process, "\r\n\r\n").await;
    let first = cluster.presence().await;
    let Cluster {
        router,
        state,
        memory,
        store,
    } = cluster;
    let port = router.http;
    let aside = router.step_aside().await;
    let next = RouterOptions {
        http: port,
        ..options(state.path())
    };
    let router = start(next, store.clone(), key())
        .await
        .expect("the next one");
    let cluster = Cluster {
        router,
        state,
        memory,
        store,
    };
    let there = async || {
        let routers = cluster.store.list(&keys::routers()).await.expect("list");
        let all = routers.entries.into_iter();
        all.map(|(key, entry)| (key, entry.value))
            .collect::<Vec<_>>()
    };
    let both = there().await;
    assert_eq!(both.len(), 2, "{both:?}");
    assert_ne!(cluster.presence().await.id, first.id);
    let (key, _) = both
        .iter()
        .find(|(key, _)| key.contains("-draining-"))
        .expect("aside");
    let draining = async || {
        let all = there().await;
        all.into_iter()
            .find(|(there, _)| there == key)
            .map(|(_, said)| said)
    };
    // Its request holds the process: both know of the withdrawal, one has not let go.
    let gone = cluster.withdraw("blog_v1.web.1").await;
    assert!(gone > published);
    cluster
        .acked(|p| p.id != first.id && p.drained >= gone)
        .await;
    let stopping = tokio::spawn(aside.stop());
    let said = async {
        loop {
            let said = draining().await.expect("still there");
            if said.applied >= gone {
                return said;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let said = timeout(PATIENCE, said).await.expect("acknowledged");
    assert!(said.drained < gone, "{said:?}");
    process
        .write_all(ok("late").as_bytes())
        .await
        .expect("answer");
    let answer = read_until(&mut client, "late").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    timeout(PATIENCE, stopping)
        .await
        .expect("in time")
        .expect("stopped");
    assert!(draining().await.is_none(), "a clean goodbye");
}
