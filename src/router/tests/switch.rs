//! The switch between releases: each app's drain by itself, requests that wait, and what is counted.

use super::*;
use crate::{
    inner_http,
    model::{ReleaseNumber, Route},
    plan::receipt::AppCounts,
};

async fn counted(cluster: &Cluster, name: &str) -> AppCounts {
    let address = cluster.router.health;
    let stream = TcpStream::connect(address).await.expect("connect");
    let path = format!("/receipts/{name}");
    let body = inner_http::get(stream, address, &path, 1 << 20).await;
    serde_json::from_slice(&body.expect("an answer")).expect("counts")
}

/// What is counted is counted when the exchange is over, which the client may see a moment before.
async fn counted_until(
    cluster: &Cluster,
    name: &str,
    is_there: impl Fn(&AppCounts) -> bool,
) -> AppCounts {
    let counting = async {
        loop {
            let counts = counted(cluster, name).await;
            if is_there(&counts) {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counting).await.expect("counted in time")
}

#[tokio::test]
async fn one_apps_slow_request_is_no_other_apps_business() {
    let cluster = Cluster::start().await;
    let (listener, address) = listener().await;
    let (quick, _) = backend(|_| ok("quick")).await;
    cluster.publish("slow_v1.web.1", address).await;
    cluster.publish("quick_v1.web.1", quick).await;
    let mut client = cluster.connect().await;
    let request = get("slow.localhost");
    client.write_all(request.as_bytes()).await.expect("send");
    let (mut stream, _) = listener.accept().await.expect("accept");
    read_until(&mut stream, "\r\n\r\n").await;
    let held = cluster.withdraw("slow_v1.web.1").await;
    let gone = cluster.withdraw("quick_v1.web.1").await;
    let (slow, quick) = (app("slow"), app("quick"));
    let presence = cluster
        .acked(|p| p.applied >= gone && p.drained_of(&quick) >= gone)
        .await;
    assert!(presence.drained_of(&slow) < held, "{presence:?}");
    assert!(
        presence.drained < held,
        "for readers that know one number only"
    );
    stream
        .write_all(ok("at last").as_bytes())
        .await
        .expect("answer");
    read_until(&mut client, "at last").await;
    let presence = cluster.acked(|p| p.drained >= gone).await;
    assert_eq!(
        presence.drained_by_app, None,
        "nothing lags, nothing is listed"
    );
}

#[tokio::test]
async fn requests_wait_while_a_process_is_replaced() {
    let cluster = Cluster::start().await;
    let route = |hold| Route {
        hold,
        ..Route::new()
    };
    let (first, _) = backend(|_| ok("first")).await;
    cluster.publish("alone_v1.web.1", first).await;
    assert!(cluster.get("alone.localhost").await.ends_with("first"));
    let key = keys::route(&app("alone"));
    let told = cluster.put(&key, &route(true)).await;
    let presence = cluster.acked(|p| p.routes >= Some(told)).await;
    assert!(
        presence.routes >= Some(told),
        "the leader knows that it holds"
    );
    let gone = cluster.withdraw("alone_v1.web.1").await;
    cluster.acked(|p| p.drained >= gone).await;

    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut client = cluster.connect().await;
        let request = get("alone.localhost");
        client.write_all(request.as_bytes()).await.expect("send");
        waiting.push(client);
    }
    let mut byte = [0];
    let early = timeout(Duration::from_millis(100), waiting[0].peek(&mut byte)).await;
    assert!(early.is_err(), "no answer yet");
    let (second, _) = backend(|_| ok("second")).await;
    cluster.publish("alone_v2.web.1", second).await;
    for client in &mut waiting {
        let answer = read_until(client, "second").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let v2 = ReleaseNumber(2);
    let counts = counted_until(&cluster, "alone", |counts| {
        counts.releases.get(&v2).is_some_and(|of| of.served() == 5)
    })
    .await;
    assert_eq!(
        (counts.releases[&v2].held, counts.releases[&v2].failed),
        (5, 0)
    );
    assert_eq!(counts.unserved.failed, 0);
    // Without the word of its route nobody waits.
    cluster.put(&key, &route(false)).await;
    cluster.withdraw("alone_v2.web.1").await;
    let told = cluster.put(&key, &route(false)).await;
    cluster.acked(|p| p.routes >= Some(told)).await;
    let answer = cluster.get("alone.localhost").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    counted_until(&cluster, "alone", |counts| counts.unserved.failed == 1).await;
}

#[tokio::test]
async fn each_release_is_counted_by_itself() {
    let cluster = Cluster::start().await;
    let (old, _) = backend(|_| ok("old")).await;
    cluster.publish("blog_v1.web.1", old).await;
    for _ in 0..3 {
        cluster.get("blog.localhost").await;
    }
    let v1 = ReleaseNumber(1);
    counted_until(&cluster, "blog", |counts| {
        counts.releases.get(&v1).is_some_and(|of| of.served() == 3)
    })
    .await;
    // A release that answers with errors, and one that breaks off: only the router's word is a failure.
    let (bad, _) = backend(|_| {
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad".to_owned()
    })
    .await;
    cluster.publish("blog_v2.web.1", bad).await;
    cluster.withdraw("blog_v1.web.1").await;
    let v2 = ReleaseNumber(2);
    let asked = async {
        loop {
            if cluster.get("blog.localhost").await.ends_with("bad") {
                break;
            }
        }
    };
    timeout(PATIENCE, asked).await.expect("the new release");
    let counts = counted_until(&cluster, "blog", |counts| {
        counts.releases.get(&v2).is_some_and(|of| of.served() > 0)
    })
    .await;
    let of = |release| &counts.releases[&release];
    assert!(of(v1).served() < 3, "counted since v2 is there");
    assert_eq!((of(v2).errors, of(v2).failed), (of(v2).served(), 0));

    let (listener, address) = listener().await;
    cluster.publish("shop_v1.web.1", address).await;
    let breaks_off = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        read_until(&mut stream, "\r\n\r\n").await;
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
        stream.write_all(half).await.expect("half");
    };
    tokio::join!(breaks_off, cluster.get("shop.localhost"));
    counted_until(&cluster, "shop", |counts| {
        counts.releases.get(&v1).is_some_and(|of| of.failed == 1)
    })
    .await;
    cluster.publish("gone_v1.web.1", dead().await).await;
    let refused = async {
        loop {
            let answer = cluster.get("gone.localhost").await;
            if answer.starts_with("HTTP/1.1 502") {
                break;
            }
        }
    };
    timeout(PATIENCE, refused).await.expect("refused");
    counted_until(&cluster, "gone", |counts| {
        let of = counts.releases.get(&v1);
        of.is_some_and(|of| of.failed > 0 && of.served() == 0 && of.retried > 0)
    })
    .await;
}

#[tokio::test]
async fn a_maintenance_page_of_ones_own() {
    let cluster = Cluster::start().await;
    let (blog, _) = backend(|_| ok("blog")).await;
    cluster.publish("blog_v1.web.1", blog).await;
    let key = keys::route(&app("blog"));
    let route = |page: Option<&str>| Route {
        maintenance: true,
        page: page.map(str::to_owned),
        ..Route::new()
    };
    for (page, kind, text) in [
        (None, "text/plain", "down for maintenance"),
        (Some("<h1>Noon</h1>"), "text/html", "<h1>Noon</h1>"),
    ] {
        let told = cluster.put(&key, &route(page)).await;
        cluster.acked(|p| p.routes >= Some(told)).await;
        let answer = cluster.get("blog.localhost").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("Retry-After: 60"), "{answer}");
        assert!(answer.contains(kind) && answer.contains(text), "{answer}");
    }
    let told = cluster.put(&key, &Route::new()).await;
    cluster.acked(|p| p.routes >= Some(told)).await;
    assert!(cluster.get("blog.localhost").await.ends_with("blog"));
    assert_eq!(
        counted(&cluster, "blog").await.unserved.failed,
        0,
        "what an operator wants is no failure"
    );
}
