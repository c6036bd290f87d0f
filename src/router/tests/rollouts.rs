//! Over time: drains, outages, deploys under load.

use super::*;

#[tokio::test]
async fn drained_waits_for_the_slow_request_and_idle_connections_close_at_once() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    let (idle, mut events) = backend(|_| ok("fast")).await;
    cluster.publish("fast_v1.web.1", idle).await;
    assert!(cluster.get("fast.localhost").await.ends_with("fast"));
    assert_eq!(events.recv().await, Some("open"));
    let gone = cluster.withdraw("fast_v1.web.1").await;
    cluster
        .acked(|p| p.applied >= gone && p.drained >= gone)
        .await;
    let closed = timeout(Duration::from_secs(2), events.recv()).await;
    assert_eq!(closed, Ok(Some("closed")), "its idle connection");

    cluster.publish("slow_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    client
        .write_all(get("slow.localhost").as_bytes())
        .await
        .expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        .await
        .expect("half");
    read_until(&mut client, "half").await;

    let gone = cluster.withdraw("slow_v1.web.1").await;
    let presence = cluster.acked(|p| p.applied >= gone).await;
    assert!(presence.drained < gone, "a request holds it: {presence:?}");
    // Others go on; a later withdrawal that nobody holds doesn't move it either.
    let (other, _) = backend(|_| ok("other")).await;
    cluster.publish("other_v1.web.1", other).await;
    assert!(cluster.get("other.localhost").await.ends_with("other"));
    assert!(
        cluster
            .get("slow.localhost")
            .await
            .contains("404 Not Found"),
        "no new request"
    );
    assert!(cluster.presence().await.drained < gone);

    stream.write_all(b"half").await.expect("rest");
    read_until(&mut client, "half").await;
    cluster.acked(|p| p.drained >= gone).await;
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_backend() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("slow_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    client
        .write_all(get("slow.localhost").as_bytes())
        .await
        .expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    let gone = cluster.withdraw("slow_v1.web.1").await;
    assert!(cluster.acked(|p| p.applied >= gone).await.drained < gone);
    drop(client);
    cluster.acked(|p| p.drained >= gone).await;
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("told");
    assert_eq!(read.ok(), Some(0), "the backend is told too");
}

#[tokio::test]
async fn a_websocket_passes_and_counts_as_in_flight() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    cluster.publish("chat_v1.web.1", address).await;
    let mut client = cluster.connect().await;
    let request = "GET /ws HTTP/1.1\r\nHost: chat.localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    let head = read_until(&mut stream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(
        head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
        "{head}"
    );
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    stream.write_all(answer).await.expect("answer");
    let head = read_until(&mut client, "\r\n\r\nhello").await;
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("Upgrade: websocket"),
        "{head}"
    );
    client.write_all(b"ping").await.expect("send");
    read_until(&mut stream, "ping").await;
    stream.write_all(b"pong").await.expect("send");
    read_until(&mut client, "pong").await;

    let gone = cluster.withdraw("chat_v1.web.1").await;
    assert!(cluster.acked(|p| p.applied >= gone).await.drained < gone);
    client.write_all(b"still").await.expect("send");
    read_until(&mut stream, "still").await;
    drop(client);
    drop(stream);
    cluster.acked(|p| p.drained >= gone).await;
}

#[tokio::test]
async fn an_outage_of_etcd_is_not_noticed_and_a_start_in_it_serves_the_saved_table() {
    let mut cluster = Cluster::start().await;
    let (blog, _) = backend(|_| ok("blog")).await;
    cluster.publish("blog_v1.web.1", blog).await;
    let saved = async {
        loop {
            let records = saved::load(cluster.state.path()).unwrap_or_default();
            if records.iter().any(|r| r.value == blog.to_string()) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, saved).await.expect("saved");
    cluster.memory.set_faults(Faults {
        unreachable: true,
        ..Faults::default()
    });
    cluster.memory.break_watches();
    assert!(
        cluster.get("blog.localhost").await.ends_with("blog"),
        "etcd is away"
    );

    let former = cluster.router;
    cluster.router = start(options(cluster.state.path()), cluster.store.clone(), key())
        .await
        .expect("start");
    assert!(
        cluster.get("blog.localhost").await.ends_with("blog"),
        "from the saved table"
    );
    assert!(
        cluster.health().await.starts_with("HTTP/1.1 503"),
        "not registered"
    );
    former.stop().await;

    cluster.memory.set_faults(Faults::default());
    let (more, _) = backend(|_| ok("more")).await;
    cluster.publish("more_v1.web.1", more).await;
    assert!(cluster.get("more.localhost").await.ends_with("more"));
    assert!(cluster.get("blog.localhost").await.ends_with("blog"));
    let gone = cluster.withdraw("blog_v1.web.1").await;
    cluster.acked(|p| p.drained >= gone).await;
    assert!(
        cluster.health().await.starts_with("HTTP/1.1 200"),
        "registered again"
    );
}

/// A deploy after the other under load: the protocol as the leader runs it. Each process refuses
/// everything once it is stopped; nobody may notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_processes_are_replaced() {
    const DEPLOYS: usize = 25;
    let cluster = Arc::new(Cluster::start().await);
    let over = CancellationToken::new();
    let mut clients = tokio::task::JoinSet::new();
    let mut release = Process::start("web").await;
    cluster.publish("blog_v1.web.1", release.address).await;
    for n in 0..6 {
        let (cluster, over) = (Arc::clone(&cluster), over.clone());
        clients.spawn(async move {
            let mut sent = 0;
            let mut kept = cluster.connect().await;
            while !over.is_cancelled() {
                // Kept and new connections, with and without a body.
                let answer = if n % 2 == 0 {
                    let body =
                        "POST / HTTP/1.1\r\nHost: blog.localhost\r\nContent-Length: 4\r\n\r\nbody";
                    kept.write_all(body.as_bytes()).await.expect("send");
                    read_until(&mut kept, "web").await
                } else {
                    cluster.get("blog.localhost").await
                };
                assert!(
                    answer.starts_with("HTTP/1.1 200 OK"),
                    "request {sent}: {answer}"
                );
                sent += 1;
            }
            sent
        });
    }
    for n in 2..DEPLOYS + 2 {
        let next = Process::start("web").await;
        cluster
            .publish(&format!("blog_v{n}.web.1"), next.address)
            .await;
        let gone = cluster.withdraw(&format!("blog_v{}.web.1", n - 1)).await;
        cluster
            .acked(|p| p.applied >= gone && p.drained >= gone)
            .await;
        std::mem::replace(&mut release, next).stop();
    }
    over.cancel();
    let sent: usize = clients.join_all().await.into_iter().sum();
    assert!(sent > DEPLOYS, "there was load: {sent}");
}

/// Two releases are served for a moment: who has seen the new one doesn't get the old one again.
#[tokio::test]
async fn a_connection_sees_releases_only_go_forward() {
    let cluster = Cluster::start().await;
    let (old, _) = backend(|_| ok("release 1")).await;
    let (new, _) = backend(|_| ok("release 2")).await;
    cluster.publish("blog_v1.web.1", old).await;
    cluster.publish("blog_v1.web.2", old).await;
    let published = cluster.publish("blog_v2.web.1", new).await;
    cluster.acked(|p| p.applied >= published).await;
    let request = "GET / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n";
    let mut kept = cluster.connect().await;
    let mut seen = Vec::new();
    while seen.iter().filter(|release| **release == 2).count() < 30 {
        assert!(seen.len() < 1000, "the new one is chosen now and then");
        kept.write_all(request.as_bytes()).await.expect("send");
        let answer = read_until(&mut kept, "release ").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        seen.push(kept.read_u8().await.expect("a number") - b'0');
    }
    assert!(seen.is_sorted(), "{seen:?}");
    // It is a preference: an older one is better than none.
    cluster.withdraw("blog_v2.web.1").await;
    let gone = cluster.withdraw("blog_v1.web.2").await;
    cluster.acked(|p| p.applied >= gone).await;
    kept.write_all(request.as_bytes()).await.expect("send");
    read_until(&mut kept, "release 1").await;
}
